"""One participant misbehaves: how much does it slow down the others?

    python benchmarks/isolation.py

Several clients call a tool in a loop over sockets, while the application opens and ends sessions
of its own. Then the same is measured with a subscriber that does not read, with a hook that sleeps,
with a peer that stops reading, and with a handler that ignores its cancellation. README.md explains
the table.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any, Final

import attrs
import trio
from client import Client, Lines, socket_pair
from report import percentile, ratio, table

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionManager,
    TerminationReason,
    open_session_manager,
    serve_stream,
)

BYSTANDERS: Final = 8
PAUSE: Final = (
    0.001  # between two calls of a client, so that the loop is not saturated and a stall shows
)
CHURN: Final = 0.005  # between two sessions that the application opens
SLOW: Final = 0.5  # how long the slow hook and the stubborn handler sleep

router = Router(name="isolation", version="1.0")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    """Return the text."""
    return text


@router.tool()
async def stubborn(ctx: RequestContext) -> str:
    """Ignore every cancellation for a while."""
    with trio.CancelScope(shield=True):
        await trio.sleep(SLOW)
    return "late"


@attrs.define(eq=False)
class World:
    """A manager, and the tasks that serve its connections."""

    nursery: trio.Nursery
    manager: SessionManager = attrs.field(init=False)
    hook_seconds: float = 0
    slept: int = 0
    evidence: str = ""
    """What shows that the trouble was really there."""

    async def hook(self, session: Session, *_: object) -> None:
        """Sleep for the sessions that the application opens."""
        if self.hook_seconds and session.kind is SessionKind.HANDLE:
            self.slept += 1
            await trio.sleep(self.hook_seconds)

    async def connect(self) -> Client:
        near, far = socket_pair()
        self.nursery.start_soon(serve_stream, self.manager, far)
        client = Client(Lines(near))
        await client.handshake()
        return client


Trouble = Callable[[World], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def nothing(world: World) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def slow_subscriber(world: World) -> AsyncIterator[None]:
    with world.manager.subscribe(max_buffer=1):
        yield
        missed = world.manager.statistics().events_missed
        world.evidence = f"{missed:,} events missed"


@asynccontextmanager
async def slow_hook(world: World) -> AsyncIterator[None]:
    world.hook_seconds = SLOW
    yield
    world.hook_seconds = 0
    world.evidence = f"{world.slept:,} hooks slept {SLOW} s each"


@asynccontextmanager
async def silent_peer(world: World) -> AsyncIterator[None]:
    client = await world.connect()
    sent = 0

    async def call_without_reading() -> None:
        nonlocal sent
        text = "x" * 10_000
        while True:
            await client.start_request("tools/call", {"name": "echo", "arguments": {"text": text}})
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_without_reading)
        yield
        world.evidence = f"{sent:,} calls of 10 kB sent, no answer read"
        nursery.cancel_scope.cancel()
    await client.channel.aclose()


@asynccontextmanager
async def stubborn_handler(world: World) -> AsyncIterator[None]:
    cancelled = 0

    async def call_and_cancel() -> None:
        nonlocal cancelled
        while True:
            client = await world.connect()
            number = await client.start_request("tools/call", {"name": "stubborn", "arguments": {}})
            await trio.sleep(0.05)
            params = {"requestId": number}
            message: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
            await client.send(message | {"params": params})
            cancelled += 1
            await trio.sleep(0.05)
            await client.channel.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_and_cancel)
        yield
        world.evidence = f"{cancelled:,} handlers stayed for {SLOW} s"
        nursery.cancel_scope.cancel()


async def churn(manager: SessionManager) -> None:
    """Open a session every few milliseconds, and end it at once."""

    async def open_and_end() -> None:
        session = await manager.create_session()
        session.terminate(TerminationReason.REQUESTED)

    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(open_and_end)
            await trio.sleep(CHURN)


async def stand_by(client: Client, times: list[float]) -> None:
    while True:
        times.append(await client.call("x" * 64))
        await trio.sleep(PAUSE)


async def measure(trouble: Trouble, seconds: float) -> tuple[list[float], str]:
    """Run the calls of the eight clients for that long.

    Returns:
        the duration of each call, and the evidence of the disturbance.
    """
    times: list[float] = []
    config = SessionConfig(cleanup=CleanupConfig(drain_grace=0, eof_grace=0))
    async with AsyncExitStack() as stack:
        world = World(await stack.enter_async_context(trio.open_nursery()))
        hooks = SessionHooks(on_session_created=world.hook, on_session_terminated=world.hook)
        manager = open_session_manager(router, config=config, hooks=hooks)
        world.manager = await stack.enter_async_context(manager)
        clients = [await world.connect() for _ in range(BYSTANDERS)]
        async with trouble(world), trio.open_nursery() as callers:
            callers.start_soon(churn, world.manager)
            for client in clients:
                callers.start_soon(stand_by, client, times)
            await trio.sleep(0.3)
            times.clear()
            await trio.sleep(seconds)
            callers.cancel_scope.cancel()
        for client in clients:
            await client.channel.aclose()
    return times, world.evidence


CALM: Final = "nobody misbehaves"
TROUBLES: Final[dict[str, Trouble]] = {
    CALM: nothing,
    "a subscriber that does not read": slow_subscriber,
    "a slow hook": slow_hook,
    "a peer that stops reading": silent_peer,
    "a handler that ignores cancellation": stubborn_handler,
}


async def compare(rounds: int, seconds: float) -> None:
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in TROUBLES}
    evidence = dict.fromkeys(TROUBLES, "")
    for _ in range(rounds):
        for name, trouble in TROUBLES.items():
            times, evidence[name] = await measure(trouble, seconds)
            found[name].append((percentile(times, 50), percentile(times, 99), max(times)))

    rows = []
    calm = list(zip(*found[CALM], strict=True))
    for name, figures in found.items():
        columns = list(zip(*figures, strict=True))
        cells = [f"{median(column) * 1e6:.0f}" for column in columns]
        ratios = [f"{ratio(columns[i], calm[i]):.2f}×" for i in (0, 1)]
        rows.append((name, *cells, *ratios, evidence[name]))
    header = ("everyone else's calls", "p50 µs", "p99 µs", "max µs", "p50", "p99", "evidence")
    print(table(header, rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    trio.run(compare, options.rounds, options.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
