"""What the drivers in Python share: the checks, and one line of JSON for each.

    python DRIVER '{"url": ...}' CHECK ...
    python DRIVER '{"command": [...]}' CHECK ...

Only the standard library, as each driver runs in the environment of its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 30.0
"""Seconds for one check."""
PATIENCE_WITH_MANY = 150.0
"""Seconds for the check with many clients: a proxy for each takes its time to start."""
LINGERING = 2.0
"""Seconds for notifications that come beside an answer, and for leaving a client."""
MANY = 50
TOOLS = {
    *("announce", "ask", "climb", "crash", "echo", "fail"),
    *("log", "refuse", "revision", "sessions", "wait"),
}


@dataclass
class Seen:
    """What a client has shown beside the answers."""

    steps: list[float] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    able: bool = True
    """Whether it is to answer questions."""


@dataclass
class Client:
    """What a client can do, in one form for all of them."""

    names: Callable[[], Awaitable[list[str]]]
    call: Callable[..., Awaitable[tuple[str, bool]]]
    """Calls a tool with arguments by name: the text of the result, and whether it is an error."""


Open = Callable[[dict[str, Any], Seen], Any]
"""Makes a context manager that connects a client."""


class Driver:
    """Runs checks with the client of one library."""

    def __init__(self, open_client: Open) -> None:
        self.open_client = open_client
        self.where: dict[str, Any] = {}
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # Libraries print.

    def tell(self, **members: Any) -> None:
        print(json.dumps(members), file=self.out, flush=True)

    @asynccontextmanager
    async def connected(self, seen: Seen | None = None) -> AsyncIterator[Client]:
        async with self.open_client(self.where, seen or Seen()) as client:
            yield client

    async def check_list(self) -> Any:
        async with self.connected() as client:
            names = await client.names()
            assert set(names) == TOOLS, names
            return await client.call("revision")

    async def check_call(self) -> Any:
        async with self.connected() as client:
            for text in ("one", "é\u2028 \U0001f600\nline", "x" * 100_000):
                assert await client.call("echo", text=text) == (text, False)
            answers = await asyncio.gather(
                *(client.call("echo", text=f"text {number}") for number in range(20))
            )
            assert answers == [(f"text {number}", False) for number in range(20)]

    async def check_error(self) -> Any:
        told = {}
        async with self.connected() as client:
            for tool in ("fail", "crash", "refuse", "no_such_tool"):
                text, is_error = await self.failing(client, tool)
                assert is_error, text
                told[tool] = text[:200]
                assert await client.call("echo", text=tool) == (tool, False)
        assert "this tool always fails" in told["fail"], told
        return told

    async def failing(self, client: Client, tool: str) -> tuple[str, bool]:
        """Call a tool; an exception is an error, too."""
        try:
            return await client.call(tool)
        except Exception as error:  # each client has its own
            return f"{type(error).__name__}: {error}", True

    async def check_progress(self) -> Any:
        seen = Seen()
        async with self.connected(seen) as client:
            assert await client.call("climb", steps=5) == ("climbed 5", False)
            await self.until(lambda: len(seen.steps) >= 5)
            return seen.steps

    async def check_log(self) -> Any:
        seen = Seen()
        async with self.connected(seen) as client:
            assert await client.call("log") == ("logged", False)
            await self.until(lambda: len(seen.levels) >= 3)
            return seen.levels

    async def until(self, condition: Callable[[], bool]) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(LINGERING):  # noqa: ASYNC912  # it may be there
                while not condition():  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.01)

    async def check_question(self) -> Any:
        async with self.connected() as client:
            return await self.failing(client, "ask")

    async def check_refused_question(self) -> Any:
        async with self.connected(Seen(able=False)) as client:
            answer = await self.failing(client, "ask")
            assert await client.call("echo", text="after") == ("after", False)
            return answer

    async def check_sessions(self) -> None:
        """Open many sessions, and vanish without a word."""
        few = asyncio.Semaphore(8)
        opened: list[Client] = []
        everything = asyncio.Event()

        async def hold(number: int) -> None:
            async with few:
                context = self.connected()
                client = await context.__aenter__()
                text = f"text {number}"
                assert await client.call("echo", text=text) == (text, False)
            opened.append(client)
            if len(opened) == MANY:
                everything.set()
            await asyncio.Event().wait()

        held = [asyncio.create_task(hold(number)) for number in range(MANY)]
        waiting = asyncio.create_task(everything.wait())
        await asyncio.wait([*held, waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in held:
            if task.done():
                task.result()
        text, is_error = await opened[-1].call("sessions")
        assert not is_error, text
        self.tell(check="sessions", ok=True, told=text)
        os._exit(0)

    async def check_restart(self) -> Any:
        """Call while the server is ended and started again; nothing hangs."""
        told: dict[str, Any] = {}
        stack = AsyncExitStack()
        client = await stack.enter_async_context(self.connected())
        assert await client.call("echo", text="before") == ("before", False)
        waiting = asyncio.create_task(self.failing(client, "wait"))
        await asyncio.sleep(0.2)
        self.tell(stage="connected")
        await asyncio.to_thread(sys.stdin.readline)
        told["in flight"] = await waiting
        for attempt in ("first", "second"):
            try:
                async with asyncio.timeout(PATIENCE / 3):
                    told[f"{attempt} call after"] = await client.call("echo", text="after")
            except Exception as error:
                told[f"{attempt} call after"] = f"{type(error).__name__}: {error}"[:200], True
        try:
            async with asyncio.timeout(LINGERING):
                await stack.aclose()
        except (Exception, asyncio.CancelledError) as error:  # noqa: ASYNC103  # told
            told["leaving"] = f"{type(error).__name__}: {error}"[:200]
        async with self.connected() as another:
            assert await another.call("echo", text="again") == ("again", False)
        return told

    async def run(self, checks: list[str]) -> None:
        for check in checks:
            try:
                patience = PATIENCE_WITH_MANY if check == "sessions" else PATIENCE
                async with asyncio.timeout(patience):
                    told = await getattr(self, f"check_{check}")()
            except BaseException as error:  # noqa: ASYNC103  # told, and the next check follows
                text = "".join(traceback.format_exception(error))
                self.tell(check=check, ok=False, error=text[-4000:])
            else:
                self.tell(check=check, ok=True, told=told)
        # Clients that are left over are not waited for.
        os._exit(0)

    def main(self) -> None:
        where, *checks = sys.argv[1:]
        self.where = json.loads(where)
        asyncio.run(self.run(checks))


def text_of(content: Any) -> str:
    """The text of a result's contents."""
    return "".join(one.text for one in content)
