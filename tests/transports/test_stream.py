"""Clients over byte streams: in memory byte by byte, and over real TCP and Unix sockets.

The tests with real sockets have no autojumping clock, and wait for nothing but what must come.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import brief, error, initialize, notification, request, result, serving
from trio_mcp_session import (
    CleanupConfig,
    Principal,
    RequestContext,
    Router,
    SessionLimits,
    SessionManager,
    SessionRejected,
    TerminationReason,
    Transport,
    serve_listeners,
    serve_stream,
    serve_tcp,
    serve_unix,
)
from trio_mcp_session.transports import stream as stream_module


def make_router() -> Router:
    router = Router("r")

    @router.request("echo")
    async def echo(ctx: RequestContext) -> dict[str, Any]:
        return ctx.params

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    return router


@final
class Client:
    """A client at the other end of a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, *messages: object) -> None:
        await self.stream.send_all(lines(*messages))

    async def receive(self) -> Any:
        while b"\n" not in self.buffer:
            more = await self.stream.receive_some()
            if not more:
                assert self.buffer == b""
                raise EOFError
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return msgspec.json.decode(line)

    async def establish(self) -> None:
        await self.send(initialize("hello"), notification("notifications/initialized"))
        assert (await self.receive())["id"] == "hello"


def lines(*messages: object) -> bytes:
    return b"".join(
        (one if isinstance(one, bytes) else msgspec.json.encode(one)) + b"\n" for one in messages
    )


class Serving:
    """How a served stream ended."""

    reason: TerminationReason | None = None

    async def run(self, manager: SessionManager, stream: trio.abc.Stream, **options: Any) -> None:
        self.reason = await serve_stream(manager, stream, **options)


# Over any stream.


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
async def test_messages_split_at_any_byte_are_answered(
    size: int, autojump_clock: MockClock
) -> None:
    async with serving(make_router()) as manager, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        serving_stream = Serving()
        nursery.start_soon(serving_stream.run, manager, theirs)
        client = Client(ours)
        conversation = lines(
            initialize("hello"),
            notification("notifications/initialized"),
            request(1, "echo", {"text": "é\u2028\n"}),
            b"",
            b"\r",
            msgspec.json.encode(request(2, "ping")) + b"\r",
            b"noise",
            request(3, "ping"),
        )
        for start in range(0, len(conversation), size):
            await ours.send_all(conversation[start : start + size])
            await wait_all_tasks_blocked()
        answers = [brief(await client.receive()) for _ in range(5)]
        assert {str(one.get("id")) for one in answers} == {"hello", "1", "2", "3", "None"}
        assert result(1, {"text": "é\u2028\n"}) in answers
        assert error(None, -32700) in answers
        (session,) = manager.sessions()
        assert session.metrics.messages_received == 6
        assert session.transport == Transport("stream")
        await ours.send_eof()
        with pytest.raises(EOFError):
            await client.receive()
        await session.wait_terminated()
    assert serving_stream.reason is TerminationReason.CLIENT_CLOSED


async def test_a_line_that_is_cut_short(autojump_clock: MockClock) -> None:
    async with serving(make_router()) as manager, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        serving_stream = Serving()
        nursery.start_soon(serving_stream.run, manager, theirs)
        client = Client(ours)
        await client.establish()
        (session,) = manager.sessions()
        await ours.send_all(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        await ours.send_eof()
        refusal = await client.receive()
        assert refusal == error(1, -32700, "the stream ended in the middle of a message")
        with pytest.raises(EOFError):
            await client.receive()
        assert session.metrics.bad_input == 1
    assert serving_stream.reason is TerminationReason.CLIENT_CLOSED


async def test_a_line_above_max_message_size_is_refused(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_message_size=300)
    async with serving(make_router(), limits=limits) as manager, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve_stream, manager, theirs)
        client = Client(ours)
        await client.establish()
        for number in (300, 301):
            padding = number - len(msgspec.json.encode(request(1, "echo", {"x": ""})))
            await client.send(request(1, "echo", {"x": "y" * padding}))
            answer = await client.receive()
            if number == 300:
                assert len(answer["result"]["x"]) == padding
            else:
                assert answer == error(1, -32700, "message is larger than 300 bytes")
        await client.send(request(2, "ping"))
        assert await client.receive() == result(2)
        await ours.aclose()


async def test_serve_stream_gives_its_session_principal_and_transport(
    autojump_clock: MockClock,
) -> None:
    async with serving(make_router()) as manager, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        me = Principal("me")
        nursery.start_soon(
            partial(serve_stream, manager, theirs, principal=me, transport=Transport("tin can"))
        )
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        assert session.principal == me
        assert session.transport == Transport("tin can")
        await ours.aclose()


async def test_a_cancelled_serve_stream_ends_its_session_with_an_answer(
    autojump_clock: MockClock,
) -> None:
    async with serving(make_router()) as manager:
        ours, theirs = memory_stream_pair()
        client = Client(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_stream, manager, theirs)
            await client.establish()
            (session,) = manager.sessions()
            await client.send(request(1, "wait"))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert session.termination_reason is TerminationReason.CANCELLED
        assert brief(await client.receive()) == error(1, -32603)
        with pytest.raises(EOFError):
            await client.receive()


async def test_a_refused_stream_is_closed_with_an_answer(autojump_clock: MockClock) -> None:
    async with serving(make_router()) as manager:
        await manager.drain()
        ours, theirs = memory_stream_pair()
        client = Client(ours)
        await client.send(initialize(5))
        with pytest.raises(SessionRejected):
            await serve_stream(manager, theirs)
        assert brief(await client.receive()) == error(5, -32603)
        with pytest.raises(EOFError):
            await client.receive()


# Real sockets.


@asynccontextmanager
async def hung_up_after(seconds: float = 30) -> AsyncIterator[None]:
    """A guard against hangs in real time."""
    with trio.fail_after(seconds):  # noqa: ASYNC100  # what it guards is in the block
        yield


@asynccontextmanager
async def listening(
    kind: str, path: Path, manager: SessionManager, **options: Any
) -> AsyncIterator[tuple[Callable[[], Any], trio.CancelScope]]:
    """A server on a real socket, and how to connect to it."""
    async with trio.open_nursery() as nursery:
        if kind == "tcp":
            listeners = await nursery.start(partial(serve_tcp, manager, 0, **options))
            port = listeners[0].socket.getsockname()[1]
            assert port != 0
            yield partial(trio.open_tcp_stream, "127.0.0.1", port), nursery.cancel_scope
        else:
            await nursery.start(partial(serve_unix, manager, path, **options))
            yield partial(trio.open_unix_socket, path), nursery.cancel_scope
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_tcp_and_unix_sockets_serve_several_clients(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with hung_up_after(), serving(make_router()) as manager:
        async with listening(kind, path, manager) as (connect, _):
            clients = [Client(await connect()) for _ in range(3)]
            for client in clients:
                await client.establish()
            sessions = manager.sessions()
            assert {session.transport.name for session in sessions} == {kind}
            if kind == "tcp":
                names = {
                    "{}:{}".format(*client.stream.socket.getsockname()[:2])  # type: ignore[attr-defined]  # a socket stream
                    for client in clients
                }
                assert {session.transport.peer for session in sessions} == names
            # One id for all, answered to each.
            for number, client in enumerate(clients):
                await client.send(request(1, "echo", {"n": number}))
            for number, client in enumerate(clients):
                assert await client.receive() == result(1, {"n": number})
            # A big one, in both directions.
            await clients[0].send(request(2, "echo", {"x": "y" * 2_000_000}))
            assert len((await clients[0].receive())["result"]["x"]) == 2_000_000
            # One leaves in order, one in a hurry, one is sent away.
            await clients[0].stream.send_eof()  # type: ignore[attr-defined]  # a socket stream
            with pytest.raises(EOFError):
                await clients[0].receive()
            await clients[1].stream.aclose()
            for session in sessions[:2]:
                assert await session.wait_terminated() is TerminationReason.CLIENT_CLOSED
            sessions[2].terminate()
            with pytest.raises(EOFError):
                await clients[2].receive()
            assert manager.sessions() == []
            for client in clients:
                await client.stream.aclose()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_that_resets_the_connection(kind: str, tmp_path: Path) -> None:
    async with hung_up_after(), serving(make_router()) as manager:
        async with listening(kind, tmp_path / "s", manager) as (connect, _):
            client = Client(await connect())
            await client.establish()
            (session,) = manager.sessions()
            await client.send(request(1, "wait"))
            stream = client.stream
            assert isinstance(stream, trio.SocketStream)
            if kind == "tcp":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
            assert await session.wait_terminated() in {
                TerminationReason.CLIENT_CLOSED,
                TerminationReason.TRANSPORT_FAILED,
            }


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_that_does_not_read(kind: str, tmp_path: Path) -> None:
    limits, cleanup = SessionLimits(max_output=1), CleanupConfig(send_timeout=0.05)
    async with hung_up_after(), serving(make_router(), limits=limits, cleanup=cleanup) as manager:
        async with listening(kind, tmp_path / "s", manager) as (connect, _):
            greedy, modest = Client(await connect()), Client(await connect())
            await greedy.establish()
            (session,) = [one for one in manager.sessions() if one.client is not None]
            await modest.establish()
            text = "y" * 3_000_000
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _ask() -> None:
                    with pytest.raises(trio.BrokenResourceError):
                        while True:
                            await greedy.send(request(1, "echo", {"x": text}))

                assert await session.wait_terminated() is TerminationReason.UNRESPONSIVE
            # It was the other's affair only.
            await modest.send(request(1, "ping"))
            assert await modest.receive() == result(1)
            await greedy.stream.aclose()
            await modest.stream.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("own", [True, False])
async def test_a_cancelled_socket_server_ends_only_its_own_connections(
    kind: str, own: bool, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    async with hung_up_after(), serving(make_router()) as manager:
        async with trio.open_nursery() as handlers:
            options = {} if own else {"handler_nursery": handlers}
            async with listening(kind, path, manager, **options) as (connect, scope):
                client = Client(await connect())
                await client.establish()
                (session,) = manager.sessions()
                scope.cancel()
                await trio.lowlevel.checkpoint()
            # No client can connect now.
            with pytest.raises(OSError, match=r"."):
                await connect()
            assert not path.exists()
            if own:
                assert session.termination_reason is TerminationReason.CANCELLED
            else:
                # The connections are the nursery's.
                await client.send(request(1, "ping"))
                assert await client.receive() == result(1)
                handlers.cancel_scope.cancel()
        with pytest.raises(EOFError):
            await client.receive()
        await session.wait_terminated()
        await client.stream.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_principal_of_gives_each_connection_its_principal(kind: str, tmp_path: Path) -> None:
    seen: list[trio.SocketStream] = []

    def principal_of(stream: trio.SocketStream) -> Principal | None:
        seen.append(stream)
        return Principal("me") if len(seen) == 1 else None

    async with hung_up_after(), serving(make_router()) as manager:
        async with listening(kind, tmp_path / "s", manager, principal_of=principal_of) as (
            connect,
            _,
        ):
            clients = []
            for _ in range(2):
                clients.append(Client(await connect()))
                await clients[-1].establish()
            owners = {session.principal for session in manager.sessions()}
            assert owners == {Principal("me"), None}
            assert manager.revoke(Principal("me")) == 1
            with pytest.raises(EOFError):
                await clients[0].receive()
            for client in clients:
                await client.stream.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_above_the_session_limit_is_refused_and_others_are_served(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hung_up_after(), serving(make_router(), limits=SessionLimits(max_sessions=1)) as m:
        async with listening(kind, tmp_path / "s", m) as (connect, _):
            first, second = Client(await connect()), Client(await connect())
            await first.establish()
            await second.send(initialize(5))
            assert brief(await second.receive()) == error(5, -32603)
            with pytest.raises(EOFError):
                await second.receive()
            # The server continues, and so does its client.
            await first.send(request(1, "ping"))
            assert await first.receive() == result(1)
            await first.stream.aclose()
            await second.stream.aclose()
    (record,) = [one.getMessage() for one in caplog.records if "no session" in one.getMessage()]
    client = "tcp 127.0.0.1:" if kind == "tcp" else "unix: "
    assert record.startswith(f"no session for a client over {client}")
    assert record.endswith("(limit: 1)")


async def test_serve_listeners_serves_several_listeners_and_closes_them(tmp_path: Path) -> None:
    async with hung_up_after(), serving(make_router()) as manager:
        listeners = [
            *await trio.open_tcp_listeners(0, host="127.0.0.1"),
            *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        ]
        async with trio.open_nursery() as nursery:
            started = await nursery.start(serve_listeners, manager, listeners)
            assert started == listeners
            for listener in listeners:
                port = listener.socket.getsockname()[1]
                client = Client(await trio.open_tcp_stream("127.0.0.1", port))
                await client.establish()
                await client.stream.aclose()
            nursery.cancel_scope.cancel()
        for listener in listeners:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()


async def test_serve_tcp_on_a_taken_port_raises() -> None:
    async with hung_up_after(), serving(make_router()) as manager:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(OSError, match=r"."):
                await serve_tcp(manager, taken.getsockname()[1])


# Unix sockets have a place in the file system.


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def serve_for_a_moment(manager: SessionManager, path: Path, **options: Any) -> int:
    """Serve, connect once; returns the mode that the socket had."""
    async with listening("unix", path, manager, **options) as (connect, _):
        client = Client(await connect())
        await client.establish()
        await client.stream.aclose()
        return mode_of(path)


async def test_the_unix_socket_has_the_given_permissions(tmp_path: Path) -> None:
    async with hung_up_after(), serving(make_router()) as manager:
        assert await serve_for_a_moment(manager, tmp_path / "s") == 0o600
        assert await serve_for_a_moment(manager, tmp_path / "s", mode=0o666) == 0o666


async def test_the_unix_socket_accepts_no_client_before_its_permissions_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    attempts = []
    chmod = os.chmod

    def try_first(target: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early:
            attempts.append(early.connect_ex(target))
        chmod(target, mode)

    async with hung_up_after(), serving(make_router()) as manager:
        monkeypatch.setattr(os, "chmod", try_first)
        await serve_for_a_moment(manager, path)
    assert attempts
    assert 0 not in attempts


async def test_a_stale_socket_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    assert path.exists()
    async with hung_up_after(), serving(make_router()) as manager:
        await serve_for_a_moment(manager, path)
    assert not path.exists()


async def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        async with hung_up_after(), serving(make_router()) as manager:
            with pytest.raises(FileExistsError, match="listens"):
                await serve_unix(manager, path)
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_serve_unix_refuses_a_path_that_is_not_a_socket(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    async with hung_up_after(), serving(make_router()) as manager:
        with pytest.raises(FileExistsError, match="is not a socket"):
            await serve_unix(manager, path)
    assert path.exists()


@pytest.mark.parametrize("name", ["missing/s", "x" * 200])
async def test_a_path_where_no_socket_can_be(name: str, tmp_path: Path) -> None:
    async with hung_up_after(), serving(make_router()) as manager:
        with pytest.raises(OSError, match=r"."):
            await serve_unix(manager, tmp_path / name)
    assert os.listdir(tmp_path) == []


async def test_a_failure_half_way_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    path = tmp_path / "s"
    async with hung_up_after(), serving(make_router()) as manager:
        monkeypatch.setattr(os, "chmod", refuse)
        # A socket that is not closed is a ResourceWarning, which is an error here.
        with pytest.raises(PermissionError):
            await serve_unix(manager, path)
        monkeypatch.undo()
        await serve_for_a_moment(manager, path)


async def test_a_socket_file_removed_by_other_code_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with hung_up_after(), serving(make_router()) as manager:
        async with listening("unix", path, manager):
            path.unlink()


# What a connection is called.


class Named:
    def __init__(self, name: tuple[object, ...] | None) -> None:
        self.family = socket.AF_INET
        self.name = name

    def getpeername(self) -> tuple[object, ...]:
        if self.name is None:
            raise OSError
        return self.name


@pytest.mark.parametrize(
    "name, peer",
    [
        (("127.0.0.1", 5), "127.0.0.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        (None, ""),
    ],
)
def test_the_transport_describes_the_peer_address(
    name: tuple[object, ...] | None, peer: str
) -> None:
    assert stream_module._describe(Named(name)) == Transport("tcp", peer)  # type: ignore[arg-type]  # all that is asked of a socket
