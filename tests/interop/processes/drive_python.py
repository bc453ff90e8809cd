"""The official Python client under random load: ``drive_python.py URL ERA SECONDS SEED``.

It writes a line of JSON for each thing that it has used: what it is, its name, when it was made
and last used, and how it ended. See `test_processes.py`.
"""

from __future__ import annotations

import json
import random
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

URL, ERA, SECONDS, SEED = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
PREFIX = "io.modelcontextprotocol/"
ABLE: dict[str, Any] = {"elicitation": {}, "extensions": {f"{PREFIX}tasks": {}}}
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing is encrypted, and reading certificates takes time."""
END = time.time() + SECONDS
RANDOM = random.Random(SEED)  # noqa: S311  # the same load each time


def report(kind: str, name: str | None, began: float, uses: int, error: str | None) -> None:
    line = {"kind": kind, "name": name, "began": began, "ended": time.time(), "uses": uses}
    print(json.dumps({**line, "error": error}), flush=True)


def told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):  # noqa: ASYNC912  # it may be so already
        while not condition():  # noqa: ASYNC110  # of another program
            await anyio.sleep(0.01)


async def pause() -> None:
    await anyio.sleep(RANDOM.uniform(0.02, 0.3))


async def on_elicitation(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    await pause()
    return types.ElicitResult(action="accept", content={"name": params.message})


class Used:
    """One thing, from its making to its end."""

    def __init__(self, kind: str) -> None:
        self.kind, self.began, self.uses = kind, time.time(), 0
        self.name: str | None = None
        self.pid: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        failed = isinstance(error, Exception)
        text = None if error is None else told(error)
        report(self.kind, self.name, self.began, self.uses, text)
        return failed

    def same(self, result: Any) -> dict[str, Any]:
        """Check that an answer comes from the process that has the thing."""
        if result.is_error:
            raise ValueError(result.content[0].text)
        found: dict[str, Any] = result.structured_content
        assert self.pid in (None, found["pid"]), f"another process: {found} after {self.pid}"
        self.pid = found["pid"]
        self.uses += 1
        return found


class Load:
    def __init__(self, client: Client, http: httpx2.AsyncClient, session_ids: list[str]) -> None:
        self.client, self.http, self.session_ids = client, http, session_ids

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.client.call_tool(tool, arguments, read_timeout_seconds=30)

    # A session.

    async def session(self, heard: list[str]) -> None:
        with Used("session") as it:
            it.name = self.session_ids[-1]
            await self.client.subscribe_resource("memo://one")  # type: ignore[deprecated]
            for number in range(1, RANDOM.randint(5, 40)):
                if time.time() > END:
                    break
                match RANDOM.randint(0, 5):
                    case 0:
                        heard.clear()
                        it.same(await self.call("change"))
                        await until(lambda: "memo://one" in heard)
                    case 1:
                        it.same(await self.call("steps"))
                    case 2:
                        names = it.same(await self.call("ask"))["names"]
                        assert names == ["Who?", "And?"], names
                    case _:
                        pass
                found = it.same(await self.call("count"))
                assert found["count"] == number, found
                await pause()

    # Without sessions.

    async def cart(self) -> None:
        with Used("handle") as it:
            it.name = it.same(await self.call("open_it"))["cart"]
            for number in range(1, RANDOM.randint(5, 40)):
                if time.time() > END:
                    break
                found = it.same(await self.call("add", cart=it.name))
                assert found["count"] == number, found
                await pause()

    async def question(self) -> None:
        with Used("question") as it:
            names = it.same(await self.call("ask"))["names"]
            assert names == ["Who?", "And?"], names

    async def plain(self) -> None:
        with Used("plain") as it:
            it.same(await self.call("echo", text="x"))

    async def task(self) -> None:
        with Used("task") as it:
            result = await self.raw("tools/call", {"name": "work", "arguments": {}}, "work")
            it.name = task = result["taskId"]
            async with anyio.create_task_group() as group:
                heard: list[str] = []
                group.start_soon(self.listen, task, heard)
                while result["status"] == "working":
                    await pause()
                    result = await self.raw("tasks/get", {"taskId": task}, task)
                    it.uses += 1
                assert result["status"] == "completed", result
                await until(lambda: "completed" in heard)
                group.cancel_scope.cancel()

    def message(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {
            f"{PREFIX}protocolVersion": "2026-07-28",
            f"{PREFIX}clientCapabilities": ABLE,
            f"{PREFIX}clientInfo": {"name": "raw", "version": "1"},
        }
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}

    def headers(self, method: str, name: str | None) -> dict[str, str]:
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
        }
        return headers if name is None else {**headers, "mcp-name": name}

    async def raw(self, method: str, params: dict[str, Any], name: str) -> dict[str, Any]:
        """Requests of the tasks extension, which this client does not have."""
        response = await self.http.post(
            URL, json=self.message(method, params), headers=self.headers(method, name)
        )
        answer = response.json()
        if "error" in answer:
            raise MCPError(answer["error"]["code"], answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    async def listen(self, task: str, heard: list[str]) -> None:
        method = "subscriptions/listen"
        message = self.message(method, {"notifications": {"taskIds": [task]}})
        headers = self.headers(method, None)
        async with self.http.stream("POST", URL, json=message, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:") and "notifications/tasks" in line:
                    status = json.loads(line[5:])["params"].get("status")
                    heard.append(status)


async def one_client() -> None:
    ids: list[str] = []
    heard: list[str] = []

    async def answered(response: httpx2.Response) -> None:
        if name := response.headers.get("mcp-session-id"):
            ids.append(name)

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            heard.append(str(message.params.uri))

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx2.AsyncClient(timeout=30, verify=PLAIN, event_hooks={"response": [answered]})
        )
        client = Client(
            streamable_http_client(URL, http_client=http),
            mode=ERA,
            elicitation_callback=on_elicitation,
            message_handler=on_message,
        )
        await stack.enter_async_context(client)
        # It repeats arguments in headers for tools that it has listed.
        await client.list_tools()
        load = Load(client, http, ids)
        if ERA == "legacy":
            await load.session(heard)
            return
        while time.time() < END:
            kinds = [load.cart, load.question, load.plain, load.task]
            await RANDOM.choice(kinds)()
            await pause()


async def keep_going() -> None:
    while time.time() < END:
        began = time.time()
        try:
            await one_client()
        except Exception as error:
            report("client", None, began, 0, told(error))
            await pause()


async def main() -> None:
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(keep_going)


anyio.run(main)
