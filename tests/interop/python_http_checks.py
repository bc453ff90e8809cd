"""What the official Python client does over Streamable HTTP, beyond what it does everywhere."""

from __future__ import annotations

import contextlib
import signal
from functools import partial

import anyio
import mcp_types as types
import pytest
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError

from tests.interop.losing_proxy import open_proxy
from tests.interop.python_bench import Checks, text_of, until
from tests.interop.python_change_checks import open_notes
from tests.interop.python_http_bench import HttpBench, HttpConnection

EXIT_LIMIT = 1.0
FEW_RETRIES = 0.3
PARAM_HEADER = "mcp-param-region"
STREAMING = ("--stream-after", "0.05", "--keep-alive", "0.05")
"""That a call which takes longer is answered by a stream. (A modern one has to be kept alive.)"""

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
    """Wait until a call and what is listened to are answered by streams."""
    streams = connection.proxy.streams
    await until(lambda: bool(streams(listening=False) and streams(listening=True)))


async def hang(connection: HttpConnection, errors: list[MCPError]) -> None:
    """Make a call that another task has to end, by an error."""
    with pytest.raises(MCPError) as error:
        await connection.call("hang", key="one")
    errors.append(error.value)


@HTTP.check
async def check_long_call(bench: HttpBench) -> None:
    async with bench.connect(*STREAMING) as connection:
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
        assert sorted(steps) == [1, 2, 3]
        statuses = [one.status for one in connection.comebacks()]
        told = [text_of(result) for result in results]
        assert (told, statuses) == ((["held"], []) if connection.is_modern else (["let go"], [200]))


@HTTP.check
async def check_param_header(bench: HttpBench) -> None:
    async with (
        bench.serve() as server,
        open_proxy(server.port) as proxy,
        bench.join(server, proxy) as connection,
        bench.join(server, proxy) as hasty,
    ):
        # Only the list of tools says that a header is wanted.
        await connection.tools()
        for one in (connection, hasty):
            for region in ("eu-west", "Ελλάδα"):
                assert await one.call("route", region=region) == region
        sent = [
            [(one.status, one.sent[PARAM_HEADER]) for one in wire if PARAM_HEADER in one.sent]
            for wire in (connection.wire, hasty.wire)
        ]
        greece = "=?base64?zpXOu867zqzOtM6x?="
        wanted = [(200, "eu-west"), (200, greece)] if connection.is_modern else []
        assert sent == [wanted, wanted]
        refused = [one.status for one in hasty.wire if one.status >= 400]
        assert refused == ([400] if connection.is_modern else [])


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
        await nobody_comes_back(connection)


async def nobody_comes_back(connection: HttpConnection) -> None:
    # A few attempts may be what it takes.
    await anyio.sleep(FEW_RETRIES)
    before = len(connection.comebacks())
    await anyio.sleep(FEW_RETRIES)
    assert len(connection.comebacks()) == before


@HTTP.check
async def check_lost_call(bench: HttpBench) -> None:
    errors: list[MCPError] = []
    async with bench.connect(*STREAMING) as connection:
        async with anyio.create_task_group() as group:
            group.start_soon(hang, connection, errors)
            await connection.call("wait_started", key="one")
            await until(lambda: bool(connection.proxy.streams(listening=False)))
            (link,) = connection.proxy.lose(after=0)
            await link.close(reset=True)
        assert [error.code for error in errors] == [types.CONNECTION_CLOSED]
        assert await connection.call("outcome", key="one") == "cancelled"
        assert connection.comebacks() == []


@HTTP.check
async def check_lost_listen(bench: HttpBench) -> None:
    async with bench.connect() as connection:
        listen = partial(connection.client.listen, resource_subscriptions=["memo://one"])
        async with listen() as subscription:
            (link,) = connection.proxy.lose(after=0, listening=True)
            await link.close(reset=True)
            with pytest.raises(SubscriptionLost):
                await anext(subscription)
        async with connection.hearing("memo://one") as heard:
            await connection.call("change", uri="memo://one")
            await until(lambda: bool(heard))
        assert heard == ["memo://one"]
        assert connection.comebacks() == []


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
        handle = await open_notes(connection, "one")
        async with anyio.create_task_group() as group:
            group.start_soon(count, connection)
            await connection.call("outcome", key="part 0")
            server.process.send_signal(signal.SIGKILL)
            await server.process.wait()
        # It has looked for the server meanwhile, and given up.
        assert len(errors) == 1
        restarted = await stack.enter_async_context(bench.serve())
        proxy.server_port = restarted.port
        if connection.is_modern:
            assert await connection.call("echo", text="again") == "again"
            assert handle in await connection.error("note", notes_id=handle, line="a")
        else:
            with pytest.raises(MCPError) as gone:
                await connection.call("echo", text="anybody?")
            assert gone.value.code == types.INVALID_REQUEST
        async with (
            bench.join(restarted, proxy) as again,
            again.hearing("memo://one") as heard,
        ):
            assert await again.call("echo", text="again") == "again"
            await again.call("change", uri="memo://one")
            await until(lambda: heard == ["memo://one"])
    bench.exit_statuses.remove(-signal.SIGKILL)


@HTTP.check
async def check_shutdown(bench: HttpBench) -> None:
    errors: list[MCPError] = []
    async with (
        bench.connect("--drain-grace", "0.1", *STREAMING) as connection,
        connection.hearing() as heard,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(hang, connection, errors)
            await streams_are_open(connection)
            await connection.call("wait_started", key="one")
            start = anyio.current_time()
            connection.process.terminate()
            status = await connection.process.wait()
            took = anyio.current_time() - start
        assert len(errors) == 1
        if connection.is_modern:
            await until(lambda: heard == ["the end"])
    bench.figure(f"SIGTERM with a call and a stream open: exit status {status} after {took:.3f} s")
    assert status == 0
    assert took < EXIT_LIMIT
