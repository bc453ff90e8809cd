"""What the official Python client does with what only sessions over HTTP have."""

from __future__ import annotations

from functools import partial

import anyio
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ClientMessageMetadata

from tests.interop.losing_proxy import open_proxy
from tests.interop.python_bench import Checks, text_of, until
from tests.interop.python_http_bench import HttpBench
from tests.interop.python_http_checks import Counting, hang, streams_are_open

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

SESSIONS = Checks()


def memos(last: int) -> list[str]:
    return sorted(f"memo://{number}" for number in range(1, last + 1))


@SESSIONS.check
async def check_get_stream(bench: HttpBench) -> None:
    async with bench.connect() as connection:
        for first in (1, 11):
            assert await connection.call("announce", first=first, last=first + 9)
        await until(lambda: len(connection.inbox.changed) >= 20)
        # Once more, so that a message that came twice would have been seen.
        assert await connection.call("announce", first=21, last=21)
        await until(lambda: "memo://21" in connection.inbox.changed)
        assert sorted(connection.inbox.changed) == memos(21)
        assert [one.status for one in connection.wire if one.method == "GET"] == [200]


@SESSIONS.check
async def check_resume_call(bench: HttpBench) -> None:
    # A call each: cut off a second time, this client resumes from where it was the first time.
    for after, reset in ((0, False), (40, True), (1000, False)):
        async with bench.connect() as connection, anyio.create_task_group() as group:
            counting = Counting(parts=3, size=10)
            group.start_soon(counting.run, connection)
            await counting.reaches(10)
            (link,) = connection.proxy.lose(after=after)
            await connection.call("give_turn", turn="part 1")
            await connection.call("outcome", key="part 1")
            assert len(counting.steps) < 20
            await link.close(reset=reset)
            await connection.call("give_turn", turn="part 2")
            await connection.call("give_turn", turn="answer")
            await counting.is_answered()
        assert counting.is_right(), counting.steps
        assert [one.status for one in connection.comebacks()] == [200]


@SESSIONS.check
async def check_resume_answer(bench: HttpBench) -> None:
    async with bench.connect() as connection, anyio.create_task_group() as group:
        counting = Counting(parts=1, size=3)
        group.start_soon(counting.run, connection)
        await counting.reaches(3)
        (link,) = connection.proxy.lose(after=10)
        await connection.call("give_turn", turn="answer")
        await connection.call("outcome", key="answer")
        assert counting.answer is None
        await link.close()
        await counting.is_answered()
    assert counting.is_right(), counting.steps
    assert len(connection.comebacks()) == 1


@SESSIONS.check
async def check_resume_get(bench: HttpBench) -> None:
    async with bench.connect() as connection:
        changes = connection.inbox.changed
        await connection.call("announce", first=1, last=10)
        await until(lambda: len(changes) == 10)
        # Once only: for this client the second time that it is cut off is the last.
        (link,) = connection.proxy.lose(after=40, listening=True)
        await connection.call("announce", first=11, last=20)
        assert len(changes) == 10
        await link.close(reset=True)
        await connection.call("announce", first=21, last=30)
        await until(lambda: len(changes) >= 30)
        await connection.call("announce", first=31, last=31)
        await until(lambda: "memo://31" in changes)
        assert sorted(changes) == memos(31)
        assert [one.status for one in connection.comebacks()] == [200]


@SESSIONS.check
async def check_resume_token(bench: HttpBench) -> None:
    tokens: list[str] = []
    steps: list[float] = []

    async def on_token(token: str) -> None:
        tokens.append(token)

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with bench.connect() as connection:
        params = types.CallToolRequestParams(name="count", arguments={"parts": 2, "size": 5})
        request = types.CallToolRequest(params=params)
        send = partial(connection.client.session.send_request, request, types.CallToolResult)
        async with anyio.create_task_group() as group:
            metadata = ClientMessageMetadata(on_resumption_token_update=on_token)
            group.start_soon(partial(send, metadata=metadata, progress_callback=on_progress))
            await until(lambda: len(steps) == 5)
            # The client gives up the call, but neither tells the server nor closes the connection.
            connection.proxy.lose(after=0)
            group.cancel_scope.cancel()
        await connection.call("give_turn", turn="part 1")
        await connection.call("outcome", key="part 1")
        resumed: list[str] = []

        async def on_resumed(token: str) -> None:
            resumed.append(token)

        async with anyio.create_task_group() as group:
            results: list[types.CallToolResult] = []
            metadata = ClientMessageMetadata(
                resumption_token=tokens[-1], on_resumption_token_update=on_resumed
            )

            async def resume() -> None:
                results.append(await send(metadata=metadata))

            group.start_soon(resume)
            # Where it begins, and the steps that are left.
            await until(lambda: len(resumed) == 6)
            await connection.call("give_turn", turn="answer")
        assert [text_of(result) for result in results] == ["counted to 10"]
        assert resumed[0] == tokens[-1]
        assert len({*resumed}) == len(resumed) == 7
        assert [one.status for one in connection.comebacks()] == [200]


@SESSIONS.check
async def check_delete(bench: HttpBench) -> None:
    async with bench.serve() as server, open_proxy(server.port) as proxy:
        async with bench.join(server, proxy) as connection:
            assert await connection.call("echo", text="here") == "here"
            assert (await connection.request("POST", PING)).status_code == 200
        assert [one.status for one in connection.wire if one.method == "DELETE"] == [204]
        for method, message in (("POST", PING), ("GET", None), ("DELETE", None)):
            assert (await connection.request(method, message)).status_code == 404
        async with bench.join(server, proxy) as another:
            assert await another.call("echo", text="again") == "again"


@SESSIONS.check
async def check_delete_in_use(bench: HttpBench) -> None:
    errors: list[MCPError] = []
    async with bench.connect("--stream-after", "0.05") as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, connection, errors)
            await streams_are_open(connection)
            await connection.call("wait_started", key="one")
            assert (await connection.request("DELETE")).status_code == 204
        with pytest.raises(MCPError) as gone:
            await connection.call("echo", text="anybody?")
        assert gone.value.code == types.INVALID_REQUEST
        # The client resumes the stream of GET, which ended in order, until it is told.
        await until(lambda: any(one.status == 404 for one in connection.comebacks()))
