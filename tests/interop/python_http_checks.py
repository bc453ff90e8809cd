"""What the official Python client does over Streamable HTTP, beyond what it does everywhere."""

from __future__ import annotations

import contextlib
import signal
from functools import partial

import anyio
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ClientMessageMetadata

from tests.interop.losing_proxy import open_proxy
from tests.interop.python_bench import Checks, HttpBench, HttpConnection, text_of, until

EXIT_LIMIT = 1.0
FEW_RETRIES = 0.3
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

HTTP = Checks()


class Counting:
    """A call of `count`, and the steps that came of it."""

    def __init__(self, parts: int, size: int) -> None:
        self.arguments = {"parts": parts, "size": size}
        self.steps: list[float] = []
        self.answer: str | None = None
        self.wanted = [*range(1, parts * size + 1)]

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.steps.append(progress)

    async def run(self, connection: HttpConnection) -> None:
        call = connection.client.call_tool
        result = await call("count", self.arguments, progress_callback=self.on_progress)
        self.answer = text_of(result)

    async def reaches(self, number: int) -> None:
        await until(lambda: len(self.steps) >= number)

    async def is_answered(self) -> None:
        await until(lambda: self.answer is not None)

    def is_right(self) -> bool:
        # Each notification has a task of its own in this client: their order is its own affair.
        return sorted(self.steps) == self.wanted and self.answer == f"counted to {self.wanted[-1]}"


async def streams_are_open(connection: HttpConnection) -> None:
    """Wait until a call and GET are answered by streams."""
    streams = connection.proxy.streams
    await until(lambda: bool(streams(listening=False) and streams(listening=True)))


@HTTP.check
async def check_two_clients(bench: HttpBench) -> None:
    async with (
        bench.serve() as server,
        open_proxy(server.port) as proxy,
        bench.join(server, proxy) as one,
        bench.join(server, proxy) as two,
    ):
        assert one.session_id != two.session_id
        told: dict[str, str] = {}

        async def wait(connection: HttpConnection, turn: str) -> None:
            told[turn] = await connection.call("wait_turn", turn=turn)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(wait, one, f"one {number}")
                group.start_soon(wait, two, f"two {number}")
            for number in range(10):
                await one.call("give_turn", turn=f"two {number}")
                await two.call("give_turn", turn=f"one {number}")
        assert len(told) == 20
        assert all(turn == text for turn, text in told.items())


@HTTP.check
async def check_get_stream(bench: HttpBench) -> None:
    async with bench.connect() as connection:
        for first in (1, 11):
            assert await connection.call("announce", first=first, last=first + 9)
        await until(lambda: len(connection.inbox.changes) >= 20)
        # Once more, so that a message that came twice would have been seen.
        assert await connection.call("announce", first=21, last=21)
        await until(lambda: 21 in connection.inbox.changes)
        assert sorted(connection.inbox.changes) == [*range(1, 22)]
        assert [one.status for one in connection.wire if one.method == "GET"] == [200]


@HTTP.check
async def check_long_call(bench: HttpBench) -> None:
    async with bench.connect("--stream-after", "0.05", "--keep-alive", "0.05") as connection:
        told: list[str] = []

        async def wait() -> None:
            told.append(await connection.call("wait_turn", turn="now"))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: bool(connection.proxy.streams(listening=False)))
            before = connection.proxy.seen.count(b"\n:")
            await until(lambda: connection.proxy.seen.count(b"\n:") >= before + 3)
            await connection.call("give_turn", turn="now")
        assert told == ["now"]


@HTTP.check
async def check_polling(bench: HttpBench) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with bench.connect() as connection:
        results: list[types.CallToolResult] = []

        async def poll() -> None:
            call = connection.client.call_tool
            results.append(await call("poll", {}, progress_callback=on_progress))

        async with anyio.create_task_group() as group:
            group.start_soon(poll)
            await until(lambda: len(steps) >= 2)
            await connection.call("give_turn", turn="answer")
        assert [text_of(result) for result in results] == ["let go"]
        assert sorted(steps) == [1, 2, 3]
        assert [one.status for one in connection.comebacks()] == [200]


@HTTP.check
async def check_resume_call(bench: HttpBench) -> None:
    # A call each: cut off a second time, this client comes back to where it was the first time.
    for after, reset in ((0, False), (40, True), (1000, False)):
        async with bench.connect() as connection, anyio.create_task_group() as group:
            counting = Counting(parts=3, size=10)
            group.start_soon(counting.run, connection)
            await counting.reaches(10)
            (link,) = connection.proxy.lose(after=after)
            await connection.call("give_turn", turn="part 1")
            await connection.call("wait_ended", key="part 1")
            assert len(counting.steps) < 20
            await link.close(reset=reset)
            await connection.call("give_turn", turn="part 2")
            await connection.call("give_turn", turn="answer")
            await counting.is_answered()
        assert counting.is_right(), counting.steps
        assert [one.status for one in connection.comebacks()] == [200]


@HTTP.check
async def check_resume_answer(bench: HttpBench) -> None:
    async with bench.connect() as connection, anyio.create_task_group() as group:
        counting = Counting(parts=1, size=3)
        group.start_soon(counting.run, connection)
        await counting.reaches(3)
        (link,) = connection.proxy.lose(after=10)
        await connection.call("give_turn", turn="answer")
        await connection.call("wait_ended", key="answer")
        assert counting.answer is None
        await link.close()
        await counting.is_answered()
    assert counting.is_right(), counting.steps
    assert len(connection.comebacks()) == 1


@HTTP.check
async def check_resume_get(bench: HttpBench) -> None:
    async with bench.connect() as connection:
        changes = connection.inbox.changes
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
        await until(lambda: 31 in changes)
        assert sorted(changes) == [*range(1, 32)]
        assert [one.status for one in connection.comebacks()] == [200]


@HTTP.check
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
        await connection.call("wait_ended", key="part 1")
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


@HTTP.check
async def check_no_comeback(bench: HttpBench) -> None:
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        pass

    async with bench.connect() as connection:
        call = partial(connection.client.call_tool, progress_callback=on_progress)
        with pytest.raises(MCPError) as failed:
            await call("fail_late", {})
        assert failed.value.code == 1
        async with anyio.create_task_group() as group:
            group.start_soon(call, "hang", {"key": "one"})
            await connection.call("wait_started", key="one")
            await until(lambda: bool(connection.proxy.streams(listening=False)))
            group.cancel_scope.cancel()
        assert await connection.call("outcome", key="one") == "cancelled"
        # A few attempts may be what it takes.
        await anyio.sleep(FEW_RETRIES)
        before = len(connection.comebacks())
        await anyio.sleep(FEW_RETRIES)
        assert len(connection.comebacks()) == before


@HTTP.check
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


@HTTP.check
async def check_delete_in_use(bench: HttpBench) -> None:
    errors: list[MCPError] = []

    async def hang(connection: HttpConnection) -> None:
        with pytest.raises(MCPError) as error:
            await connection.call("hang", key="one")
        errors.append(error.value)

    async with bench.connect("--stream-after", "0.05") as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, connection)
            await streams_are_open(connection)
            await connection.call("wait_started", key="one")
            assert (await connection.request("DELETE")).status_code == 204
        with pytest.raises(MCPError) as gone:
            await connection.call("echo", text="anybody?")
        assert gone.value.code == types.INVALID_REQUEST
        # The client comes back to the stream of GET, which ended in order, until it is told.
        await until(lambda: any(one.status == 404 for one in connection.comebacks()))


@HTTP.check
async def check_restart(bench: HttpBench) -> None:
    errors: list[MCPError] = []

    async def count(connection: HttpConnection) -> None:
        with pytest.raises(MCPError) as error:
            await Counting(parts=2, size=10).run(connection)
        errors.append(error.value)

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(bench.serve())
        proxy = await stack.enter_async_context(open_proxy(server.port))
        connection = await stack.enter_async_context(bench.join(server, proxy))
        async with anyio.create_task_group() as group:
            group.start_soon(count, connection)
            await connection.call("wait_ended", key="part 0")
            server.process.send_signal(signal.SIGKILL)
            await server.process.wait()
        # It has looked for the server meanwhile, and given up.
        assert len(errors) == 1
        restarted = await stack.enter_async_context(bench.serve())
        proxy.server_port = restarted.port
        with pytest.raises(MCPError) as gone:
            await connection.call("echo", text="anybody?")
        assert gone.value.code == types.INVALID_REQUEST
        async with bench.join(restarted, proxy) as again:
            assert await again.call("echo", text="again") == "again"
            await again.call("announce", first=1, last=3)
            await until(lambda: len(again.inbox.changes) == 3)
    bench.exit_statuses.remove(-signal.SIGKILL)


@HTTP.check
async def check_shutdown(bench: HttpBench) -> None:
    errors: list[MCPError] = []

    async def hang(connection: HttpConnection) -> None:
        with pytest.raises(MCPError) as error:
            await connection.call("hang", key="one")
        errors.append(error.value)

    async with bench.connect("--drain-grace", "0.1", "--stream-after", "0.05") as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, connection)
            await streams_are_open(connection)
            await connection.call("wait_started", key="one")
            start = anyio.current_time()
            connection.process.terminate()
            status = await connection.process.wait()
            took = anyio.current_time() - start
        assert len(errors) == 1
    bench.figure(f"SIGTERM with a call and GET open: exit status {status} after {took:.3f} s")
    assert status == 0
    assert took < EXIT_LIMIT
