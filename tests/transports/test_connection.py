"""One channel, one session: how a connection begins, works, and ends in every way."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Literal

import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    Peer,
    at_every_step,
    brief,
    cancelled_at_step,
    connect,
    error,
    initialize,
    leftovers,
    notification,
    request,
    result,
    serving,
)
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    MemoryChannel,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    Transport,
    serve_channel,
)
from trio_mcp_session.core.errors import SessionRejected
from trio_mcp_session.transports.connection import FAIR_SHARE, serve_client
from trio_mcp_session.transports.memory import memory_channel_pair


class Server:
    def __init__(self, lifespan: Callable[[Session], Any] | None = None) -> None:
        self.router = Router("server", lifespan=lifespan)
        self.cancelled: list[object] = []
        self.router.request("sleep")(self.sleep)
        self.router.request("flood")(self.flood)

    async def sleep(self, ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        try:
            await trio.sleep(params["s"])
        except trio.Cancelled:
            self.cancelled.append(ctx.request_id)
            raise
        return {}

    async def flood(self, ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        for number in range(params["n"]):
            await ctx.notify("notifications/flood", {"n": number})
        return {}


@pytest.fixture
def server() -> Server:
    return Server()


class Served:
    """A connection that is served in a task of the test's."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.reason: TerminationReason | None = None
        self.error: Exception | None = None
        self.cancelled = False

    async def run(
        self, manager: SessionManager, channel: trio.abc.Channel[bytes], **options: Any
    ) -> None:
        try:
            with self.scope:
                self.reason = await serve_channel(manager, channel, **options)
            self.cancelled = self.scope.cancelled_caught
        except Exception as error:
            self.error = error
        finally:
            self.done.set()


@asynccontextmanager
async def served(
    manager: SessionManager,
    *,
    wrap: Callable[[MemoryChannel], trio.abc.Channel[bytes]] = lambda channel: channel,
    **options: Any,
) -> AsyncIterator[tuple[Peer, Served]]:
    """A client whose connection the test has in its hands."""
    ours, theirs = memory_channel_pair()
    async with trio.open_nursery() as nursery:
        connection = Served()
        nursery.start_soon(lambda: connection.run(manager, wrap(theirs), **options))
        await wait_all_tasks_blocked()
        yield Peer(ours, manager.sessions()[-1]), connection
        ours.close()
        await connection.done.wait()


# The end of what the client says.


@pytest.mark.parametrize("how", ["end of file", "session ends"])
async def test_what_owns_the_connection_is_called_before_the_last_work(
    how: str, autojump_clock: MockClock
) -> None:
    """So that a process can bound what comes now."""
    called: list[float] = []
    router = Router("r")

    @router.request("work")
    async def work(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async with serving(router, cleanup=CleanupConfig(eof_grace=3)) as manager:
        ours, theirs = memory_channel_pair()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                reason = await serve_client(
                    manager,
                    theirs,
                    principal=None,
                    transport=Transport("test"),
                    on_ending=lambda: called.append(trio.current_time()),
                )
                assert reason is TerminationReason.CLIENT_CLOSED
                assert trio.current_time() == 5

            await wait_all_tasks_blocked()
            peer = Peer(ours, manager.sessions()[0])
            await peer.establish()
            await peer.send(request(1, "work"))
            await trio.sleep(1)
            if how == "end of file":
                await ours.send_eof()
            else:
                peer.session.terminate(TerminationReason.CLIENT_CLOSED)
        assert called == ([1, 4] if how == "end of file" else [1])
        await ours.aclose()


async def test_requests_in_flight_at_eof_are_answered_within_the_eof_grace(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router, cleanup=CleanupConfig(eof_grace=0.25)) as manager:
        async with served(manager) as (peer, connection):
            await peer.establish()
            await peer.send(
                request(1, "sleep", {"s": 0}),
                request(2, "sleep", {"s": 0.2}),
                request(3, "sleep", {"s": 0.3}),
            )
            start = trio.current_time()
            await peer.channel.send_eof()
            answers = [await peer.receive() for _ in range(3)]
            assert answers == [
                result(1),
                result(2),
                error(3, -32603, "Session has ended: client closed"),
            ]
            assert trio.current_time() == start + 0.25
            await connection.done.wait()
            assert connection.reason is TerminationReason.CLIENT_CLOSED
            assert server.cancelled == [3]
            with pytest.raises(trio.EndOfChannel):
                await peer.channel.receive()


@pytest.mark.parametrize("said", ["nothing", "initialize", "everything"])
async def test_a_connection_without_requests_ends_at_eof_at_once(
    said: str, server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        async with served(manager) as (peer, connection):
            if said == "initialize":
                await peer.send(initialize())
                await peer.receive()
            elif said == "everything":
                await peer.establish()
                await peer.ask(1, "sleep", {"s": 0})
            start = trio.current_time()
            await peer.channel.send_eof()
            await connection.done.wait()
            assert trio.current_time() == start
            assert connection.reason is TerminationReason.CLIENT_CLOSED


async def test_without_an_eof_grace_requests_are_cancelled_at_eof(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router, cleanup=CleanupConfig(eof_grace=0)) as manager:
        async with served(manager) as (peer, connection):
            await peer.establish()
            await peer.send(request(1, "sleep", {"s": 1}))
            await wait_all_tasks_blocked()
            await peer.channel.send_eof()
            assert brief(await peer.receive()) == error(1, -32603)
            await connection.done.wait()


async def test_the_client_is_gone_in_both_directions(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        async with served(manager) as (peer, connection):
            await peer.establish()
            await peer.send(request(1, "sleep", {"s": 0.2}))
            await wait_all_tasks_blocked()
            await peer.channel.aclose()
            await connection.done.wait()
            # Its answer found out; or, without one, its silence did.
            assert connection.reason in {
                TerminationReason.CLIENT_CLOSED,
                TerminationReason.TRANSPORT_FAILED,
            }


# The end of the session.


@pytest.mark.parametrize("reason", [TerminationReason.REQUESTED, TerminationReason.IDLE])
async def test_the_end_of_the_session_ends_the_connection(
    reason: TerminationReason, server: Server, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(connection_idle_time=100)
    async with serving(server.router, cleanup=cleanup) as manager:
        async with served(manager) as (peer, connection):
            await peer.establish()
            if reason is TerminationReason.REQUESTED:
                await peer.send(request(1, "sleep", {"s": 1}))
                await wait_all_tasks_blocked()
                peer.session.terminate()
                # Its last words, then the end.
                assert brief(await peer.receive()) == error(1, -32603)
            with pytest.raises(trio.EndOfChannel):
                await peer.channel.receive()
            await connection.done.wait()
            assert connection.reason is reason
            assert not connection.cancelled


async def test_a_connection_without_a_handshake_ends_at_the_handshake_timeout(
    server: Server, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(connection_handshake_timeout=20)
    async with serving(server.router, cleanup=cleanup) as manager:
        async with served(manager) as (_, connection):
            start = trio.current_time()
            await connection.done.wait()
            assert 20 <= trio.current_time() - start <= 25
            assert connection.reason is TerminationReason.HANDSHAKE_TIMEOUT


# A client that does not read.


async def test_the_reader_pauses_while_the_output_is_full(
    server: Server, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_output=1)
    async with serving(server.router, limits=limits) as manager:
        peer = await connect(manager, capacity=4)
        await peer.establish()
        received = peer.session.metrics.messages_received
        async with trio.open_nursery() as nursery:
            # It asks and asks, and reads nothing.
            for number in range(100):
                nursery.start_soon(peer.send, request(number, "ping"))
            await wait_all_tasks_blocked()
            taken = peer.session.metrics.messages_received - received
            # Four on the wire one way, four the other, and what was read before it was known.
            assert taken < 20
            # As soon as it reads, all of them are answered, each once.
            answers = [(await peer.receive())["id"] for _ in range(100)]
        assert sorted(answers) == list(range(100))


async def test_the_reader_pauses_between_requests_that_came_together(
    server: Server, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_output=1)
    async with serving(server.router, limits=limits) as manager:
        peer = await connect(manager, capacity=50)
        await peer.establish()
        received = peer.session.metrics.messages_received
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(peer.send, request(number, "ping"))
            await wait_all_tasks_blocked()
            # Fifty answers on the wire, and two that wait: not those to all that was read.
            assert peer.session.metrics.messages_received - received < 55
            answers = [(await peer.receive())["id"] for _ in range(200)]
        assert sorted(answers) == list(range(200))


async def test_a_handler_waits_while_the_output_of_its_connection_is_at_its_limit(
    server: Server, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_output=10)
    async with serving(server.router, limits=limits) as manager:
        peer, other = await connect(manager, capacity=2), await connect(manager)
        for one in (peer, other):
            await one.establish()
        await peer.send(request(1, "flood", {"n": 50}))
        await wait_all_tasks_blocked()
        assert peer.session.metrics.messages_sent < 10
        # It is the slow one's own affair.
        assert await other.ask(1, "sleep", {"s": 0}) == result(1)
        numbers = []
        while "params" in (message := await peer.receive()):
            numbers.append(message["params"]["n"])
        assert numbers == list(range(50))
        assert message == result(1)


async def test_a_peer_that_never_reads_again(server: Server, autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(send_timeout=30)
    async with serving(server.router, limits=SessionLimits(max_output=10), cleanup=cleanup) as m:
        peer = await connect(m, capacity=2)
        await peer.establish()
        start = trio.current_time()
        await peer.send(request(1, "flood", {"n": 50}))
        assert await peer.session.wait_terminated() is TerminationReason.UNRESPONSIVE
        assert trio.current_time() == start + 30


async def test_last_words_have_a_budget(server: Server, autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(flush_budget=2)
    async with serving(server.router, limits=SessionLimits(max_output=10), cleanup=cleanup) as m:
        peer = await connect(m, capacity=2)
        await peer.establish()
        await peer.send(request(1, "flood", {"n": 50}))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        peer.session.terminate()
        assert await peer.session.wait_terminated() is TerminationReason.REQUESTED
        assert trio.current_time() == start + 2


# No place.


def no_place(policy: AdmissionPolicy = AdmissionPolicy.REJECT) -> SessionLimits:
    return SessionLimits(max_sessions=1, admission=policy)


@pytest.mark.parametrize(
    "first, answered_id",
    [
        (initialize(5), 5),
        (initialize("five"), "five"),
        (request(0, "ping"), 0),
        (notification("notifications/initialized"), None),
        ([request(5, "ping")], None),
        (b"noise", None),
        (b'{"id":5,"method":"ping",}', 5),
        (request(5, "ping", {"x": "y" * 2000}), 5),
        (b"x" * 2000, None),
    ],
    ids=[
        *("initialize", "id that is text", "ping", "notification", "batch", "noise"),
        *("not JSON", "too long", "too long noise"),
    ],
)
async def test_a_connection_above_the_session_limit_is_answered_and_closed(
    first: object, answered_id: object, server: Server, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_sessions=1, max_message_size=1000)
    async with serving(server.router, limits=limits) as manager, served(manager) as (peer, _):
        ours, theirs = memory_channel_pair(max_size=1000)
        newcomer = Peer(ours, peer.session)
        connection = Served()
        await newcomer.send(first, request(9, "ping"))
        await connection.run(manager, theirs)
        assert isinstance(connection.error, SessionLimitReached)
        (told,) = await newcomer.waiting()
        assert told == error(answered_id, -32603, str(connection.error))
        with pytest.raises(trio.EndOfChannel):
            await ours.receive()
        assert manager.statistics().refused == {"SessionLimitReached": 1}
        # The one that was there first is unharmed.
        assert (await peer.establish())["protocolVersion"]


@pytest.mark.parametrize("way", ["silent", "gone", "closed", "deaf"])
async def test_a_refused_connection_that_sent_nothing_is_closed(
    way: str, server: Server, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(flush_budget=3)
    async with serving(server.router, limits=no_place(), cleanup=cleanup) as manager:
        async with served(manager):
            ours, theirs = memory_channel_pair(1)
            connection = Served()
            start = trio.current_time()
            if way == "gone":
                await ours.aclose()
            elif way == "closed":
                await theirs.aclose()
            elif way == "deaf":
                # It speaks, and its end does not read.
                assert theirs.send_nowait(b"full")
                assert ours.send_nowait(msgspec.json.encode(request(1, "ping")))
            await connection.run(manager, theirs)
            assert isinstance(connection.error, SessionLimitReached)
            budget = 3 if way in {"silent", "deaf"} else 0
            assert trio.current_time() == start + budget
            with pytest.raises(trio.ClosedResourceError):
                await theirs.receive()


async def test_a_connection_during_a_drain_is_refused(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        await manager.drain()
        ours, theirs = memory_channel_pair()
        await ours.send(msgspec.json.encode(initialize(5)))
        with pytest.raises(SessionRejected), assert_checkpoints():
            await serve_channel(manager, theirs)
        frame = await ours.receive()
        assert msgspec.json.decode(frame) == error(5, -32603, "server is shutting down")


async def test_an_idle_connection_is_evicted_for_a_new_one(
    server: Server, autojump_clock: MockClock
) -> None:
    limits = no_place(AdmissionPolicy.EVICT_IDLE)
    async with serving(server.router, limits=limits) as manager:
        async with served(manager) as (old, old_connection):
            await old.establish()
            ours, theirs = memory_channel_pair()
            async with trio.open_nursery() as nursery:
                connection = Served()
                nursery.start_soon(connection.run, manager, theirs)
                await old_connection.done.wait()
                assert old_connection.reason is TerminationReason.EVICTED
                await wait_all_tasks_blocked()
                newcomer = Peer(ours, manager.sessions()[0])
                assert (await newcomer.establish())["protocolVersion"]
                await ours.aclose()


# Cancelled, wherever it waits.


async def assert_over(manager: SessionManager, session: Session, connection: Served) -> None:
    await connection.done.wait()
    assert connection.cancelled
    assert session.state is SessionState.TERMINATED
    assert session not in manager.sessions()


@pytest.mark.parametrize("moment", ["fresh", "opening", "reading", "busy", "at EOF"])
async def test_a_cancelled_connection_is_cleaned_up_and_answered_at_any_moment(
    moment: str, autojump_clock: MockClock
) -> None:
    left = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        try:
            if moment == "opening":
                await trio.sleep_forever()
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            left.append(session.termination_reason)

    server = Server(lifespan)
    async with serving(server.router, cleanup=CleanupConfig(eof_grace=100)) as manager:
        async with served(manager) as (peer, connection):
            if moment == "opening":
                await peer.send(initialize())
                await wait_all_tasks_blocked()
            elif moment != "fresh":
                await peer.establish()
            if moment in {"busy", "at EOF"}:
                await peer.send(request(1, "sleep", {"s": 500}))
            if moment == "at EOF":
                await peer.channel.send_eof()
                await trio.sleep(1)
            await wait_all_tasks_blocked()
            start = trio.current_time()
            connection.scope.cancel()
            await assert_over(manager, peer.session, connection)
            assert peer.session.termination_reason is TerminationReason.CANCELLED
            if moment == "fresh":
                assert left == []
            else:
                # All of its clean-up came first.
                assert left == [TerminationReason.CANCELLED]
                assert trio.current_time() == start + 3
            if moment in {"busy", "at EOF"}:
                # And its last words were written.
                assert brief(await peer.receive()) == error(1, -32603)
                assert server.cancelled == [1]
            if moment == "opening":
                assert brief(await peer.receive()) == error(0, -32603)
            with pytest.raises(trio.EndOfChannel):
                await peer.channel.receive()


async def test_cancelled_while_the_output_is_full(
    server: Server, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(flush_budget=2)
    async with serving(server.router, limits=SessionLimits(max_output=1), cleanup=cleanup) as m:
        ours, theirs = memory_channel_pair(2)
        async with trio.open_nursery() as nursery:
            connection = Served()
            nursery.start_soon(connection.run, m, theirs)
            await wait_all_tasks_blocked()
            peer = Peer(ours, m.sessions()[0])
            await peer.establish()
            for number in range(5):
                nursery.start_soon(peer.send, request(number, "ping"))
                await wait_all_tasks_blocked()
            start = trio.current_time()
            connection.scope.cancel()
            await assert_over(m, peer.session, connection)
            assert peer.session.termination_reason is TerminationReason.CANCELLED
            assert trio.current_time() == start + 2
            nursery.cancel_scope.cancel()


async def test_a_connection_cancelled_while_another_is_evicted_for_it_leaves_nothing(
    server: Server, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def slow(session: Session) -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(2)

    limits = no_place(AdmissionPolicy.EVICT_IDLE)
    async with serving(Server(slow).router, limits=limits) as manager:
        async with served(manager) as (old, _):
            await old.establish()
            ours, theirs = memory_channel_pair()
            with trio.move_on_after(1) as scope:
                await serve_channel(manager, theirs)
            assert scope.cancelled_caught
            assert manager.sessions() == [old.session]
            with pytest.raises(trio.EndOfChannel):
                await ours.receive()


async def test_a_connection_cancelled_while_it_is_refused_leaves_nothing(
    server: Server, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(flush_budget=10)
    async with serving(server.router, limits=no_place(), cleanup=cleanup) as manager:
        async with served(manager):
            ours, theirs = memory_channel_pair()
            with trio.move_on_after(1) as scope:
                await serve_channel(manager, theirs)
            assert scope.cancelled_caught
            with pytest.raises(trio.EndOfChannel):
                await ours.receive()


async def test_cancelled_before_it_begins(server: Server, autojump_clock: MockClock) -> None:
    async with serving(server.router) as manager:
        ours, theirs = memory_channel_pair()
        with trio.CancelScope() as scope:
            scope.cancel()
            await serve_channel(manager, theirs)
        assert scope.cancelled_caught
        with pytest.raises(trio.EndOfChannel):
            await ours.receive()


async def test_cancelled_at_every_step(autojump_clock: MockClock) -> None:
    """A whole conversation, with a lifespan, cut off wherever anything waits."""
    sessions: list[Session] = []
    cancelled_before_the_end = 0

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        sessions.append(session)
        await trio.sleep(0.1)
        try:
            yield
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.lowlevel.checkpoint()

    async def attempt(step: int) -> bool:
        nonlocal cancelled_before_the_end
        server = Server(lifespan)
        async with serving(server.router) as manager:
            ours, theirs = memory_channel_pair()
            peer_frames = (
                initialize(0),
                notification("notifications/initialized"),
                request(1, "sleep", {"s": 0.1}),
                request(2, "sleep", {"s": 500}),
                b"noise",
            )
            await Peer(ours, None).send(*peer_frames)  # type: ignore[arg-type]  # it has none yet
            await ours.send_eof()
            with cancelled_at_step(step) as scope:
                reason = await serve_channel(manager, theirs)
                assert reason is TerminationReason.CLIENT_CLOSED
            assert leftovers(manager, *sessions) == []
            with pytest.raises(trio.ClosedResourceError):
                await theirs.receive()
        cancelled_before_the_end += scope.cancelled_caught
        return not scope.cancel_called

    steps = await at_every_step(attempt)
    assert steps >= cancelled_before_the_end > 10
    assert len(sessions) > 10


# Channels of others.


class Foreign(trio.abc.Channel[bytes]):
    """A plain channel: one frame at a time, and faults where the test wants them."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel
        self.receive_error: Exception | None = None
        self.send_error: Exception | None = None
        self.slow_close: float = 0
        self.closed = 0
        self.closed_in_peace = False

    async def send(self, value: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.send_error is not None:
            raise self.send_error
        await self.channel.send_batch([value])

    async def receive(self) -> bytes:
        frame = await self.channel.receive()
        if self.receive_error is not None:
            raise self.receive_error
        return frame

    async def aclose(self) -> None:
        self.closed += 1
        try:
            await trio.sleep(self.slow_close)
            self.closed_in_peace = True
        finally:
            await self.channel.aclose()


@asynccontextmanager
async def foreign(server: Server, **clocks: float) -> AsyncIterator[tuple[Peer, Served, Foreign]]:
    channels: list[Foreign] = []

    def wrap(channel: MemoryChannel) -> Foreign:
        channels.append(Foreign(channel))
        return channels[0]

    async with serving(server.router, cleanup=CleanupConfig(**clocks)) as manager:  # type: ignore[arg-type]  # clocks only
        async with served(manager, wrap=wrap, transport=Transport("pigeon")) as (peer, connection):
            await peer.establish()
            yield peer, connection, channels[0]
        assert channels[0].closed == 1


async def test_a_session_is_served_on_a_foreign_channel(
    server: Server, autojump_clock: MockClock
) -> None:
    async with foreign(server) as (peer, connection, _channel):
        assert peer.session.transport == Transport("pigeon")
        await peer.send(*(request(number, "sleep", {"s": 5 - number}) for number in range(5)))
        assert [(await peer.receive())["id"] for _ in range(5)] == [4, 3, 2, 1, 0]
        await peer.send(request(1, "sleep", {"s": 0.1}))
        await wait_all_tasks_blocked()
        await peer.channel.send_eof()
        assert await peer.receive() == result(1)
        await connection.done.wait()
        assert connection.reason is TerminationReason.CLIENT_CLOSED


async def test_a_foreign_channel_ends_with_its_session(
    server: Server, autojump_clock: MockClock
) -> None:
    async with foreign(server) as (peer, connection, _channel):
        peer.session.terminate()
        await connection.done.wait()
        assert connection.reason is TerminationReason.REQUESTED


@pytest.mark.parametrize("direction", ["receive", "send"])
@pytest.mark.parametrize("fault", [trio.BrokenResourceError, trio.ClosedResourceError])
async def test_a_foreign_channel_that_breaks(
    direction: Literal["receive", "send"],
    fault: type[Exception],
    server: Server,
    autojump_clock: MockClock,
) -> None:
    async with foreign(server) as (peer, connection, channel):
        setattr(channel, f"{direction}_error", fault())
        await peer.send(request(1, "ping"))
        await connection.done.wait()
        assert connection.reason is TerminationReason.TRANSPORT_FAILED


@pytest.mark.parametrize("direction", ["receive", "send"])
async def test_a_foreign_channel_with_a_bug(
    direction: str, server: Server, autojump_clock: MockClock
) -> None:
    async with foreign(server) as (peer, connection, channel):
        setattr(channel, f"{direction}_error", ValueError("bug"))
        start = trio.current_time()
        await peer.send(request(1, "ping"), request(2, "sleep", {"s": 5}))
        await connection.done.wait()
        # The code that made the channel gets the error, and the session ends at once all the same.
        assert trio.current_time() == start
        assert pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="bug")).matches(
            connection.error
        )
        assert peer.session.termination_reason is TerminationReason.TRANSPORT_FAILED
        assert peer.session.state is SessionState.TERMINATED


async def test_closing_has_a_budget(server: Server, autojump_clock: MockClock) -> None:
    async with foreign(server, flush_budget=2) as (peer, connection, channel):
        channel.slow_close = inf
        start = trio.current_time()
        peer.session.terminate()
        await connection.done.wait()
        assert trio.current_time() == start + 2
        assert connection.reason is TerminationReason.REQUESTED
        assert not channel.closed_in_peace


async def test_a_cancelled_connection_is_closed_in_peace(
    server: Server, autojump_clock: MockClock
) -> None:
    async with foreign(server, flush_budget=2) as (_, connection, channel):
        channel.slow_close = 1
        connection.scope.cancel()
        await connection.done.wait()
        assert connection.cancelled
        assert channel.closed_in_peace


# Its owner, and turns of other tasks.


async def test_a_connection_has_the_given_principal_and_transport(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        async with served(manager) as (peer, _):
            assert peer.session.transport == Transport("channel")
            assert peer.session.principal is None
        owner = Principal("me")
        async with served(manager, principal=owner, transport=Transport("t", "there")) as (peer, c):
            assert peer.session.principal == owner
            assert peer.session.transport == Transport("t", "there")
            assert manager.revoke(owner) == 1
            await c.done.wait()
            assert c.reason is TerminationReason.REVOKED


async def test_a_connection_with_many_messages_yields_to_other_tasks(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        async with served(manager) as (greedy, _):
            await greedy.establish()
            start = greedy.session.metrics.messages_received
            turns = [0]
            # All of them in one batch.
            await greedy.send(*(request(number, "ping") for number in range(1000)))
            while turns[-1] < 1000:
                turns.append(greedy.session.metrics.messages_received - start)
                await trio.lowlevel.checkpoint()
            steps = [after - before for before, after in itertools.pairwise(turns)]
            # A task with a turn in each round sees one share, or two between two of its turns.
            assert FAIR_SHARE <= max(steps) <= 2 * FAIR_SHARE
            assert len(await greedy.waiting()) == 1000


async def test_lines_that_are_too_long_or_no_request_are_answered_with_errors(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router, limits=SessionLimits(max_message_size=1000)) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.send(b"x" * 1001, b"[" + b"1," * 498 + b"1]", request(1, "ping"))
        too_long, batch, pong = await peer.waiting()
        assert too_long == error(None, -32700, "message is larger than 1000 bytes")
        assert brief(batch) == error(None, -32600)
        assert pong == result(1)
        assert peer.session.metrics.bad_input == 2
