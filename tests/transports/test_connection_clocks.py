"""Clocks of connections: off where the client holds the connection, unless they are turned on.

The tests with real sockets have a clock that they turn by hand, and wait for nothing but what must
come.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import initialize, notification, request, result, serving
from tests.transports.http.site import site
from trio_mcp_session import (
    CleanupConfig,
    MemoryChannel,
    Router,
    Session,
    SessionConfig,
    SessionKind,
    SessionManager,
    TerminationReason,
    connect_memory,
    open_session_manager,
    serve_channel,
    serve_stream,
    serve_tcp,
    serve_unix,
    validate_sessions,
)
from trio_mcp_session.transports.memory import memory_channel_pair

TWO_DAYS = 2 * 86_400.0
KINDS = ("memory", "channel", "stream", "unix", "tcp")
LOCAL = tuple(kind for kind in KINDS if kind != "tcp")
EXACT = CleanupConfig(cleanup_interval=0)
"""The defaults, and a watcher that is never late."""


@final
@attrs.define
class Client:
    """A client, by whatever it is connected."""

    session: Session
    connection: Any

    async def send(self, *messages: object) -> None:
        frames = [msgspec.json.encode(one) for one in messages]
        if isinstance(self.connection, MemoryChannel):
            await self.connection.send_batch(frames)
        else:
            await self.connection.send_all(b"".join(frame + b"\n" for frame in frames))

    async def receive(self) -> Any:
        if isinstance(self.connection, MemoryChannel):
            return msgspec.json.decode(await self.connection.receive())
        return msgspec.json.decode(await self.connection.receive_some())

    async def establish(self) -> None:
        await self.send(initialize("hello"), notification("notifications/initialized"))
        assert (await self.receive())["id"] == "hello"
        await wait_all_tasks_blocked()

    async def ping(self) -> None:
        await self.send(request(1, "ping"))
        assert await self.receive() == result(1)


@asynccontextmanager
async def managing(cleanup: CleanupConfig) -> AsyncIterator[SessionManager]:
    """A manager; the guard of `serving` is too short for days."""
    config = SessionConfig(cleanup=cleanup)
    async with open_session_manager(Router("r"), config=config) as manager:
        yield manager
        assert validate_sessions(manager.store) == []


@asynccontextmanager
async def connected(
    kind: str, folder: Path, cleanup: CleanupConfig = EXACT, **options: Any
) -> AsyncIterator[Client]:
    """A client that has not said anything yet, connected in one of several ways."""
    async with managing(cleanup) as manager, trio.open_nursery() as nursery:
        connection = await _connect(kind, folder, manager, nursery, options)
        await _until(lambda: len(manager.sessions()) == 1)
        (session,) = manager.sessions()
        yield Client(session, connection)
        await connection.aclose()
        await session.wait_terminated()
        nursery.cancel_scope.cancel()


async def _connect(
    kind: str,
    folder: Path,
    manager: SessionManager,
    nursery: trio.Nursery,
    options: dict[str, Any],
) -> Any:
    match kind:
        case "memory":
            return await connect_memory(manager, **options)
        case "channel":
            ours, theirs = memory_channel_pair()
            nursery.start_soon(partial(serve_channel, manager, theirs, **options))
            return ours
        case "stream":
            stream, peer = memory_stream_pair()
            nursery.start_soon(partial(serve_stream, manager, peer, **options))
            return stream
        case "unix":
            path = folder / "s"
            await nursery.start(partial(serve_unix, manager, path, **options))
            return await trio.open_unix_socket(path)
        case _:
            assert kind == "tcp"
            listeners = await nursery.start(partial(serve_tcp, manager, 0, **options))
            return await trio.open_tcp_stream(*listeners[0].socket.getsockname()[:2])


async def _until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something is so; real sockets take their time."""
    while not condition():  # noqa: ASYNC110  # nothing tells
        await trio.lowlevel.checkpoint()


def ends(session: Session) -> bool:
    return session.termination_reason is not None


async def lives_until(clock: MockClock, session: Session, when: float) -> None:
    """Turn the clock until shortly before a moment, then to it: then the session ends."""
    clock.jump(when - 0.001 - trio.current_time())
    await wait_all_tasks_blocked()
    assert not ends(session)
    clock.jump(when - trio.current_time())
    await wait_all_tasks_blocked()
    assert ends(session)  # It would be waited for in vain.
    await session.wait_terminated()
    assert trio.current_time() == when


# Off, unless they are turned on.


@pytest.mark.parametrize("says", ["nothing", "pings"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_quiet_session_lives_for_as_long_as_its_connection(
    kind: str, says: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with connected(kind, tmp_path) as client:
        await client.establish()
        for _ in range(4):
            mock_clock.jump(TWO_DAYS / 4)
            await wait_all_tasks_blocked()
            if says == "pings":
                await client.ping()
        assert trio.current_time() == TWO_DAYS
        assert client.session.termination_reason is None
        await client.ping()


@pytest.mark.parametrize("kind", LOCAL)
async def test_a_local_client_may_take_its_time_for_the_handshake(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with connected(kind, tmp_path) as client:
        mock_clock.jump(TWO_DAYS)
        await wait_all_tasks_blocked()
        assert client.session.termination_reason is None
        await client.establish()
        assert client.session.protocol_version is not None


async def test_a_client_over_tcp_has_a_minute_for_the_handshake(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with connected("tcp", tmp_path) as client:
        await lives_until(mock_clock, client.session, 60)
        assert client.session.termination_reason is TerminationReason.HANDSHAKE_TIMEOUT
        assert await client.connection.receive_some() == b""


async def test_a_handshake_over_tcp_stops_its_clock(tmp_path: Path, mock_clock: MockClock) -> None:
    async with connected("tcp", tmp_path) as client:
        mock_clock.jump(59.9)
        await client.establish()
        mock_clock.jump(TWO_DAYS)
        await wait_all_tasks_blocked()
        await client.ping()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_clocks_of_header_sessions_end_no_connection(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, handshake_timeout=5, max_idle_time=5)
    async with connected(kind, tmp_path, cleanup) as client:
        mock_clock.jump(59)
        await wait_all_tasks_blocked()
        await client.establish()
        mock_clock.jump(TWO_DAYS)
        await wait_all_tasks_blocked()
        await client.ping()


# Turned on.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [20, 1_000])
async def test_a_number_of_seconds_for_the_handshake_holds_for_all(
    kind: str, seconds: int, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_handshake_timeout=seconds)
    async with connected(kind, tmp_path, cleanup) as client:
        await lives_until(mock_clock, client.session, seconds)
        assert client.session.termination_reason is TerminationReason.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handshake_clock_that_is_off_is_off_for_all(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_handshake_timeout=inf)
    async with connected(kind, tmp_path, cleanup) as client:
        mock_clock.jump(TWO_DAYS)
        await wait_all_tasks_blocked()
        await client.ping()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("says", ["nothing", "pings"])
async def test_the_idle_clock_ends_quiet_connections(
    kind: str, says: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_idle_time=100)
    async with connected(kind, tmp_path, cleanup) as client:
        mock_clock.jump(40)
        await client.establish()
        mock_clock.jump(50)
        if says == "pings":
            await client.ping()
        await lives_until(mock_clock, client.session, 140)
        assert client.session.termination_reason is TerminationReason.IDLE


@pytest.mark.parametrize("kind", LOCAL)
async def test_the_idle_clock_counts_from_the_beginning_where_no_handshake_is_waited_for(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_idle_time=100, idle_after=10, ping_interval=10)
    async with connected(kind, tmp_path, cleanup) as client:
        await lives_until(mock_clock, client.session, 100)
        assert client.session.termination_reason is TerminationReason.IDLE
        assert client.session.metrics.messages_sent == 0


async def test_an_unfinished_handshake_is_not_pinged(tmp_path: Path, mock_clock: MockClock) -> None:
    """Nor where another clock has the watcher look at it."""
    cleanup = attrs.evolve(EXACT, max_session_time=200, lifetime_notice=150, ping_interval=10)
    async with connected("memory", tmp_path, cleanup) as client:
        await client.send(initialize("hello"))
        assert (await client.receive())["id"] == "hello"
        mock_clock.jump(50)
        await wait_all_tasks_blocked()
        assert client.session._expiry_announced
        assert client.session.metrics.messages_sent == 1


async def test_an_opening_that_takes_long_is_not_quiet(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        await trio.sleep(500)
        yield

    cleanup = attrs.evolve(EXACT, connection_idle_time=100)
    async with serving(Router("r", lifespan=lifespan), cleanup=cleanup) as manager:
        channel = await connect_memory(manager)
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        client = Client(session, channel)
        await client.establish()
        assert trio.current_time() == 500
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 600


# What the transport decides, the caller of the transport may decide.


@pytest.mark.parametrize("kind", ["channel", "stream"])
async def test_the_caller_knows_what_is_behind_a_stream(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with connected(kind, tmp_path, handshake_timeout=30) as client:
        await lives_until(mock_clock, client.session, 30)
        assert client.session.termination_reason is TerminationReason.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize("kind", ["channel", "stream"])
async def test_the_settings_decide_above_the_caller(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_handshake_timeout=200)
    async with connected(kind, tmp_path, cleanup, handshake_timeout=30) as client:
        await lives_until(mock_clock, client.session, 200)


@pytest.mark.parametrize("kind", ["channel", "stream"])
async def test_a_handshake_in_no_time_makes_no_sense(kind: str, autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        with pytest.raises(ValueError, match="handshake_timeout must be more than 0 seconds"):
            if kind == "channel":
                await serve_channel(manager, memory_channel_pair()[0], handshake_timeout=0)
            else:
                await serve_stream(manager, memory_stream_pair()[0], handshake_timeout=0)
        assert manager.sessions() == []


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "options, seconds", [({}, 60), ({"handshake_timeout": 30}, 30), ({"handshake_timeout": inf}, 0)]
)
async def test_a_stream_over_tcp_is_known_as_such(
    tls: bool, options: dict[str, Any], seconds: float, mock_clock: MockClock
) -> None:
    async with managing(EXACT) as manager, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        stream: trio.abc.Stream = await listener.accept()
        if tls:
            # Nothing is encrypted before the client says something.
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            stream = trio.SSLStream(stream, context, server_side=True)
        nursery.start_soon(partial(serve_stream, manager, stream, **options))
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        if seconds:
            await lives_until(mock_clock, session, seconds)
        else:
            mock_clock.jump(TWO_DAYS)
            await wait_all_tasks_blocked()
            assert session.termination_reason is None
        await client.aclose()
        await listener.aclose()


# Beside connections.


async def test_the_clocks_of_connections_end_no_header_session(autojump_clock: MockClock) -> None:
    cleanup = attrs.evolve(EXACT, connection_handshake_timeout=1, connection_idle_time=1)
    async with site(cleanup=cleanup) as place:
        _, quiet = await place.open()
        response = await place.client().request(json=initialize())
        unfinished = place.manager.get_session(response.headers["mcp-session-id"])
        assert unfinished is not None
        assert await unfinished.wait_terminated() is TerminationReason.HANDSHAKE_TIMEOUT
        assert trio.current_time() == 60
        assert await quiet.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 1800


async def test_a_header_session_without_a_handshake_clock_is_quiet_from_the_beginning(
    autojump_clock: MockClock,
) -> None:
    async with site(cleanup=attrs.evolve(EXACT, handshake_timeout=inf, max_idle_time=90)) as place:
        response = await place.client().request(json=initialize())
        session = place.manager.get_session(response.headers["mcp-session-id"])
        assert session is not None
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 90


@pytest.mark.parametrize("kind", SessionKind)
async def test_the_clocks_of_connections_end_nothing_that_the_application_opened(
    kind: SessionKind, autojump_clock: MockClock
) -> None:
    cleanup = attrs.evolve(EXACT, connection_handshake_timeout=1, connection_idle_time=1)
    async with serving(Router("r"), cleanup=cleanup) as manager:
        session = await manager.create_session(kind=kind)
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 1800


async def test_all_connections_of_a_manager_share_their_clocks(autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        for _ in range(3):
            await connect_memory(manager)
        await wait_all_tasks_blocked()
        assert len({id(session._clocks) for session in manager.sessions()}) == 1


# Keep-alive probes.


@pytest.mark.parametrize("seconds, milliseconds", [(2.5, 2500), (1e-5, 1), (inf, 0)])
async def test_the_system_looks_for_clients_that_have_vanished(
    seconds: float, milliseconds: int, tmp_path: Path, mock_clock: MockClock
) -> None:
    accepted: list[trio.SocketStream] = []
    cleanup = attrs.evolve(EXACT, send_timeout=seconds)
    async with connected("tcp", tmp_path, cleanup, principal_of=accepted.append):
        (stream,) = accepted
        assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        expected = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_USER_TIMEOUT": milliseconds}
        # Not every system has them all.
        known = [name for name in expected if hasattr(socket, name)]
        chosen = [
            stream.socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in known
        ]
        assert chosen == [expected[name] for name in known]


async def test_a_unix_socket_needs_no_probes(tmp_path: Path, mock_clock: MockClock) -> None:
    accepted: list[trio.SocketStream] = []
    async with connected("unix", tmp_path, principal_of=accepted.append):
        (stream,) = accepted
        assert not stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
