"""What the official Python client does with a server of ours: calls, and the ends of a pipe."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from tests.interop.python_bench import Bench, Checks, Connection, text_of, until

EXIT_LIMIT = 2.0
"""Seconds: the official clients send SIGTERM then. The grace for running calls is 1.5."""

PAGE = 10

CALLS = Checks()
STDIO = Checks()


@CALLS.check
async def check_connect(bench: Bench) -> None:
    async with bench.connect() as connection:
        client = connection.client
        assert client.protocol_version == ("2026-07-28" if connection.is_modern else "2025-11-25")
        if bench.mode not in ("legacy", "auto"):
            # It has not asked the server anything yet.
            assert client.server_info is None
            discovered = await client.session.send_discover(bench.mode)
            client.session.adopt(types.DiscoverResult.model_validate(discovered))
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("interop", "1.0")
        assert client.server_info.title == "Interoperability server"
        assert client.instructions == "Call anything."
        tools, resources = client.server_capabilities.tools, client.server_capabilities.resources
        assert tools is not None
        assert tools.list_changed
        assert resources is not None
        assert (resources.list_changed, resources.subscribe) == (True, True)
        assert client.server_capabilities.logging is not None
        assert client.server_capabilities.prompts is None


@CALLS.check
async def check_list(bench: Bench) -> None:
    async with bench.connect() as connection:
        tools = await connection.tools()
        assert len(tools) > PAGE
        assert {"echo", "add", "fail", "crash", "hang", "sample", "elicit", "roots"} <= set(tools)
        assert tools["echo"].description == "Return the text as it came."
        assert list(tools) == list(await connection.tools())
        schema = tools["add"].input_schema
        assert schema["type"] == "object"
        assert set(schema["properties"]) == {"a", "b"}
        assert schema["required"] == ["a"]
        with pytest.raises(MCPError) as unknown_page:
            await connection.client.list_tools(cursor="no such page")
        assert unknown_page.value.code == types.INVALID_PARAMS


@CALLS.check
async def check_call(bench: Bench) -> None:
    async with bench.connect() as connection:
        for text in ("plain", "", "two\nlines\r\n", '\u2028\u0085 ☃ 🎺 \x00 "\\', "x" * 1_000_000):
            assert await connection.call("echo", text=text) == text
        assert await connection.structured("add", a=2, b=3) == {"sum": 5}
        assert await connection.structured("add", a=2) == {"sum": 2}


@CALLS.check
async def check_tool_error(bench: Bench) -> None:
    async with bench.connect() as connection:
        result = await connection.client.call_tool("fail", {})
        assert result.is_error
        assert text_of(result) == "this tool always fails"
        result = await connection.client.call_tool("add", {"a": "two"})
        assert result.is_error
        # What the model reads says that it has failed, and hides the reason.
        crashed = await connection.error("crash")
        assert crashed == "The tool 'crash' failed with an internal error"
        assert await connection.call("echo", text="next") == "next"


@CALLS.check
async def check_protocol_error(bench: Bench) -> None:
    async with bench.connect() as connection:
        with pytest.raises(MCPError) as late:
            await connection.client.call_tool("fail_late", {})
        assert late.value.code == 1
        with pytest.raises(MCPError) as unknown_tool:
            await connection.client.call_tool("no_such_tool", {})
        assert unknown_tool.value.code == types.INVALID_PARAMS
        request = types.Request[Any, str](method="no/such/method", params=None)
        with pytest.raises(MCPError) as unknown_method:
            await connection.client.session.send_request(request, types.EmptyResult)
        assert unknown_method.value.code == types.METHOD_NOT_FOUND
        assert await connection.call("echo", text="next") == "next"


@CALLS.check
async def check_resources(bench: Bench) -> None:
    async with bench.connect() as connection:
        listed = await connection.client.list_resources()
        assert [str(resource.uri) for resource in listed.resources] == ["memo://one"]
        (content,) = (await connection.client.read_resource("memo://one")).contents
        assert isinstance(content, types.TextResourceContents)
        assert content.text == "the first memo"
        with pytest.raises(MCPError) as unknown:
            await connection.client.read_resource("memo://two")
        assert unknown.value.code == (types.INVALID_PARAMS if connection.is_modern else -32002)


@CALLS.check
async def check_progress(bench: Bench) -> None:
    steps: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async with bench.connect() as connection, anyio.create_task_group() as group:
        arguments = {"steps": 5, "turn": "end"}
        call = partial(connection.client.call_tool, progress_callback=on_progress)
        group.start_soon(call, "progress", arguments)
        await until(lambda: len(steps) == 5)
        # Each notification has a task of its own in this client: their order is its own affair.
        assert sorted(steps) == [(step, 5, f"step {step}") for step in range(1, 6)]
        await connection.call("give_turn", turn="end")


@CALLS.check
async def check_concurrent(bench: Bench) -> None:
    answered: list[int] = []

    async def wait_turn(connection: Connection, number: int) -> None:
        assert await connection.call("wait_turn", turn=str(number)) == str(number)
        answered.append(number)

    async with bench.connect() as connection, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(wait_turn, connection, number)
        for number in reversed(range(20)):
            await connection.call("give_turn", turn=str(number))
            await until(partial(answered.__contains__, number))
    assert answered == list(reversed(range(20)))


@CALLS.check
async def check_cancel(bench: Bench) -> None:
    async with bench.connect() as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(connection.call, "hang", key="one"))
            await connection.call("wait_started", key="one")
            group.cancel_scope.cancel()
        assert await connection.call("outcome", key="one") == "cancelled"


@CALLS.check
async def check_timeout(bench: Bench) -> None:
    async with bench.connect() as connection:
        # Once it is up.
        await connection.call("echo", text="here")
        with pytest.raises(MCPError) as error:
            await connection.client.call_tool("hang", {"key": "one"}, read_timeout_seconds=0.4)
        assert error.value.code == types.REQUEST_TIMEOUT
        assert await connection.call("outcome", key="one") == "cancelled"


@CALLS.check
async def check_ping(bench: Bench) -> None:
    async with bench.connect() as connection:
        await connection.client.send_ping()  # type: ignore[deprecated]
        async with anyio.create_task_group() as group:
            group.start_soon(partial(connection.call, "hang", key="one"))
            await connection.call("wait_started", key="one")
            await connection.client.send_ping()  # type: ignore[deprecated]
            group.cancel_scope.cancel()
        assert await connection.call("outcome", key="one") == "cancelled"


@CALLS.check
async def check_keep_alive(bench: Bench) -> None:
    async with bench.connect("--ping-interval", "0.05") as connection:
        first = int(await connection.call("received"))
        calls = 0
        while True:
            # The client answers pings by itself, without a report: the server's count has them.
            await anyio.sleep(0.2)
            calls += 1
            if int(await connection.call("received")) - first - calls >= 3:
                break


@CALLS.check
async def check_logging(bench: Bench) -> None:
    async with bench.connect() as connection:
        logs = connection.inbox.logs
        await connection.call_logged("warning", "log", text="one")
        await until(lambda: len(logs) >= 2)
        assert {log.level for log in logs} == {"warning", "error"}
        assert {log.logger for log in logs} == {"interop"}
        assert {log.level: log.data for log in logs}["warning"] == {"text": "one"}
        logs.clear()
        await connection.call_logged("debug", "log", text="two")
        await until(lambda: len(logs) >= 4)
        assert {log.level for log in logs} == {"debug", "info", "warning", "error"}


@STDIO.check
async def check_stray_print(bench: Bench) -> None:
    async with bench.connect() as connection:
        assert await connection.call("stray_print") == "printed"
        assert await connection.call("echo", text="next") == "next"


@STDIO.check
async def check_eof(bench: Bench) -> None:
    errors: list[MCPError] = []

    async def hang(connection: Connection) -> None:
        with pytest.raises(MCPError) as error:
            await connection.call("hang", key="one")
        errors.append(error.value)

    async with bench.connect() as connection, anyio.create_task_group() as group:
        group.start_soon(hang, connection)
        await connection.call("wait_started", key="one")
        process = connection.process
        assert process.stdin is not None
        start = anyio.current_time()
        await process.stdin.aclose()
        status = await process.wait()
        took = anyio.current_time() - start
        await until(lambda: bool(errors))
    bench.figure(f"EOF with a call in flight: exit status {status} after {took * 1000:.0f} ms")
    assert status == 0
    assert took < EXIT_LIMIT


@STDIO.check
async def check_handle_list(bench: Bench) -> None:
    async with bench.connect() as connection, bench.connect() as another:
        titles = {}
        for title in ("one", "two"):
            opened = await connection.structured("open_notes", title=title)
            titles[opened["notes_id"]] = title
        assert await connection.structured("list_notes") == {"titles": titles}
        assert await another.structured("list_notes") == {"titles": {}}
