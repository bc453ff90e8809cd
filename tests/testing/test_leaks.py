from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import OpenOutlet, admit_stateless, modern
from tests.transports.http.asgi_client import Client
from trio_mcp_session import (
    AdmissionPolicy,
    Handle,
    HandleKind,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    cleanup_session,
    connect_memory,
    http_app,
    open_session_manager,
)
from trio_mcp_session.core.byte_budget import ByteBudget
from trio_mcp_session.protocol.envelope import Envelope, read_envelope
from trio_mcp_session.protocol.eras import BOTH
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.client_connection import ClientConnection, client_of
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.parked import _HANDLER
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.sessions.admission import Quota, Reservation
from trio_mcp_session.sessions.current import running_in
from trio_mcp_session.testing import (
    FaultyContext,
    LeakError,
    assert_no_leaks,
    check_leaks,
    connect_client,
    find_leaks,
    hang,
    refuse_cancellation,
)
from trio_mcp_session.testing.leaks import handler_of
from trio_mcp_session.transports.http.request_stream import RequestStream
from trio_mcp_session.transports.http.session_streams import SessionStreams
from trio_mcp_session.transports.http.stateless_stream import StatelessStream

ANN = Principal("ann")
router = Router("r")


@router.tool()
async def wait(ctx: RequestContext) -> str:
    await trio.sleep(1)
    return "waited"


@router.tool()
async def ask(ctx: RequestContext) -> str:
    return (await ctx.elicit("?", {})).action


async def test_a_clean_manager_has_no_leaks(autojump_clock: MockClock) -> None:
    async with check_leaks():
        async with open_session_manager(router) as manager:
            session = await manager.create_session(principal=ANN)
            session.start_soon(hang)
            await session.enter_async_context(FaultyContext())
            async with connect_client(manager) as client:
                await client.call_tool("wait")
                with assert_no_checkpoints():
                    assert not find_leaks(manager)
                    assert_no_leaks(manager, live=[session, client.session])
            with manager.subscribe(), session.subscribe():
                session.terminate()
                await session.wait_terminated()
            assert_no_leaks(manager, live=())
            assert_no_leaks(manager, among=[session])


async def test_assert_no_leaks_allows_live_sessions_unless_told_otherwise() -> None:
    async with open_session_manager() as manager:
        session = await manager.create_session()
        assert_no_leaks(manager)
        with pytest.raises(LeakError, match="is still there") as caught:
            assert_no_leaks(manager, live=())
        assert len(caught.value.leaks) == 1
        assert repr(session) in caught.value.leaks[0]
        session.terminate()
        await session.wait_terminated()


# What could be left, put there by hand.


def forget_index(manager: SessionManager, session: Session) -> None:
    manager.store._principals[ANN] = {session: None}


def leave_empty_index(manager: SessionManager, session: Session) -> None:
    manager.store._principals[ANN] = {}


def leave_in_table(manager: SessionManager, session: Session) -> None:
    manager.store._tables[session.kind][session.session_id] = session


def leave_in_wrong_table(manager: SessionManager, session: Session) -> None:
    manager.store._tables[SessionKind.TASK][session.session_id] = session


def leave_in_heap(manager: SessionManager, session: Session) -> None:
    manager.store._watcher._heap.append((1, session, session.kind))  # type: ignore[arg-type]  # a leak


def leave_reserved(manager: SessionManager, session: Session) -> None:
    manager._admission._reservations.add(Reservation((), None, None))


def leave_counted(manager: SessionManager, session: Session) -> None:
    manager._admission._reserved[Quota(SessionKind.HANDLE, ANN, None, 1)] += 1


def leave_claim(manager: SessionManager, session: Session) -> None:
    manager._admission._claimed[session] = None  # type: ignore[assignment]  # not looked at


def leave_work(manager: SessionManager, session: Session) -> None:
    session._busy += 1


def leave_body(manager: SessionManager, session: Session) -> None:
    session._body = trio.CancelScope()


def leave_early(manager: SessionManager, session: Session) -> None:
    session._early_tasks = [lambda: None]


def leave_children(manager: SessionManager, session: Session) -> None:
    session._children = 1


def leave_hook_call(manager: SessionManager, session: Session) -> None:
    session._post_hook("on_error", hang)


def leave_task(manager: SessionManager, session: Session) -> None:
    manager._context.copy().run(begin, manager, session)


def begin(manager: SessionManager, session: Session) -> None:
    running_in.set(session)
    manager._sessions_nursery.start_soon(hang)


def leave_task_deep_down(manager: SessionManager, session: Session) -> None:
    async def hold() -> None:
        async with trio.open_nursery() as nursery:
            begin_in(nursery)

    def begin_in(nursery: trio.Nursery) -> None:
        running_in.set(session)
        nursery.start_soon(hang)

    manager._start_connection_task(hold)


def leave_connection(manager: SessionManager, session: Session) -> None:
    async def serve(session: Session) -> None:
        await hang()

    manager._start_connection_task(serve, session)


def leave_guest(manager: SessionManager, session: Session) -> None:
    session._add_borrower(trio.CancelScope(), trio.lowlevel.current_task())


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield  # pragma: no cover  # it is not opened


def leave_value(manager: SessionManager, session: Session) -> None:
    handle = cast("Handle[None]", Handle._create(session, HandleKind[None]("h", nothing)))
    handle._value = None
    session._handle = handle


def leave_stateless(manager: SessionManager, session: Session) -> None:
    message, envelope = standing_alone("wait")
    sink = cast("Any", Deaf())
    session._connection = client = ClientConnection(session, server_of(manager), sink, BOTH)
    session._bytes = ByteBudget("session", 2**20)  # Its own is closed.
    client.stateless_queue().admit(message, sink, envelope)


def leave_count(manager: SessionManager, session: Session) -> None:
    server_of(manager).stateless._busy += 1


def leave_foreign_task(manager: SessionManager, session: Session) -> None:
    manager._start_connection_task(hang)


@pytest.mark.parametrize(
    "leave, what",
    [
        (forget_index, "indexed, but not in the table"),
        (leave_empty_index, "without sessions is in the index"),
        (leave_in_table, "still in the table"),
        (leave_in_wrong_table, "wrong place"),
        (leave_in_heap, "heap holds sessions"),
        (leave_reserved, "places are still reserved for new sessions: 1"),
        (leave_counted, "still counted as reserved"),
        (leave_claim, "still claimed"),
        (leave_work, "work that is counted"),
        (leave_body, "connection or block"),
        (leave_early, "tasks that never began"),
        (leave_children, "tasks that are counted"),
        (leave_hook_call, "hook calls"),
        (leave_task, "runs for <Session"),
        (leave_task_deep_down, "runs for <Session"),
        (leave_connection, "runs for <Session"),
        (leave_guest, "borrowers"),
        (leave_value, "the value of its handle"),
        (leave_stateless, "runs for <Session"),
        (leave_stateless, "has ended and still has requests in flight"),
        (leave_stateless, "has ended and still has workers"),
        (leave_count, "1 requests without a session are counted, and 0 are there"),
        (leave_foreign_task, "belongs to no session"),
    ],
)
async def test_each_leak_is_found(
    leave: Callable[[SessionManager, Session], None], what: str
) -> None:
    async with open_session_manager(router) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
        assert_no_leaks(manager)
        leave(manager, session)
        await wait_all_tasks_blocked()
        with pytest.raises(LeakError, match=what):
            assert_no_leaks(manager)
        # So that it can be left.
        for table in manager.store._tables.values():
            table.clear()
        manager.store._watcher._heap.clear()
        server_of(manager).stateless._busy = 0


def post(manager: SessionManager, tool: str) -> InFlightRequest:
    """Let a request run that belongs to no session."""
    message, envelope = standing_alone(tool)
    return admit_stateless(manager, message, cast("Any", Deaf()), envelope, None)


def standing_alone(tool: str) -> tuple[Request, Envelope]:
    params = modern(1, "tools/call", {"name": tool})["params"]
    return Request(1, "tools/call", params), read_envelope(params)


class Deaf(OpenOutlet):
    def send_result(self, frame: bytes) -> None: ...


async def test_requests_without_a_session_are_not_leaks(autojump_clock: MockClock) -> None:
    async with check_leaks():
        async with open_session_manager(router) as manager:
            channel = await connect_memory(manager)
            message = modern(1, "tools/call", {"name": "wait"})
            await channel.send(msgspec.json.encode(message))
            post(manager, "wait")
            for _ in range(3):  # As they begin, while they run, when their workers are parked.
                assert find_leaks(manager) == []
                await trio.sleep(0.9)
            await channel.aclose()
        assert find_leaks(manager) == []


async def test_an_unknown_worker_is_found_as_a_leak(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        post(manager, "wait")
        await wait_all_tasks_blocked()
        gate = server_of(manager).stateless.queue
        assert gate is not None
        kept = set(gate._workers)
        gate._workers.clear()
        with pytest.raises(LeakError, match="'tools/call' belongs to no session"):
            assert_no_leaks(manager)
        gate._workers |= kept


async def test_a_worker_of_another_manager_is_found(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager, open_session_manager(router) as other:
        server_of(other).stateless._manager = manager
        post(other, "wait")
        await wait_all_tasks_blocked()
        with pytest.raises(LeakError, match="'tools/call' belongs to no session"):
            assert_no_leaks(manager)


@pytest.mark.parametrize("over", [False, True])
async def test_a_watcher_of_a_disconnect_after_its_request_is_a_leak(
    over: bool, autojump_clock: MockClock
) -> None:
    leaving = trio.Event()

    async def receive() -> dict[str, Any]:
        with trio.CancelScope(shield=True):
            await leaving.wait()
        return {"type": "http.disconnect"}

    async with open_session_manager(router) as manager:
        scope = trio.CancelScope()
        stream = StatelessStream(cast("Any", None), receive, ByteBudget("address", 0))
        manager._start_connection_task(stream._watch, scope)
        await wait_all_tasks_blocked()
        if over:
            scope.cancel()
        assert bool(find_leaks(manager)) is over
        leaving.set()


async def test_a_request_that_outlives_its_connection_fails_the_block() -> None:
    async with open_session_manager(router) as manager:
        with pytest.raises(LeakError, match="runs in <Session"):
            async with check_leaks():
                session = await manager.create_session()
                session.terminate()
                await session.wait_terminated()
                leave_stateless(manager, session)


ASKS = modern(1, "tools/call", {"name": "ask"}, capabilities={"elicitation": {}})


@asynccontextmanager
async def waiting_for_its_client() -> AsyncIterator[tuple[SessionManager, Session]]:
    """A handler that has asked its client, and the session that is kept for it."""
    async with open_session_manager(router) as manager:
        params = ASKS["params"]
        message = Request(1, "tools/call", params)
        admit_stateless(manager, message, cast("Any", Deaf()), read_envelope(params), None)
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        assert_no_leaks(manager, live=[session])
        yield manager, session


async def test_a_handler_that_waits_belongs_to_its_session() -> None:
    async with waiting_for_its_client() as (manager, session):
        manager.store._tables[session.kind].clear()
        with pytest.raises(LeakError, match="'tools/call' runs for <Session"):
            assert_no_leaks(manager)
        manager.store._tables[session.kind][session.session_id] = session


async def test_a_session_that_is_kept_for_no_handler_is_found() -> None:
    async with waiting_for_its_client() as (manager, session):
        guests, session._borrowers = session._borrowers, None
        assert "is kept for a handler that has ended" in "".join(find_leaks(manager))
        handler = handler_of(session)
        assert handler is not None
        handler.outcome = InFlightRequest.fail_busy  # It has gone, and it has left something.
        assert "is kept" not in "".join(find_leaks(manager))
        session._borrowers = guests


async def test_questions_left_by_an_ended_handler_are_leaks() -> None:
    async with waiting_for_its_client() as (manager, session):
        handler = handler_of(session)
        assert handler is not None
        asked = dict(handler._open)
        session.terminate()
        await session.wait_terminated()
        assert_no_leaks(manager, live=())
        session.set_state(_HANDLER, handler)
        handler._open.update(asked)
        handler._collected["a"] = {}
        leaks = "".join(find_leaks(manager))
        assert "still has questions of its handler" in leaks
        assert "still has answers to those" in leaks


async def test_an_ended_session_that_is_still_to_be_woken_or_looked_at_is_found() -> None:
    async with open_session_manager(router) as manager:
        await Client(http_app(manager)).initialize()
        (session,) = manager.sessions()
        queue = client_of(session).request_queue()
        await cleanup_session(session)
        resting = server_of(manager).resting
        resting._seen[queue] = 0
        manager._endings._woken[session] = None
        found = "".join(find_leaks(manager))
        resting._seen.clear()
        manager._endings._woken.clear()
    assert "queues of sessions that have ended are looked at" in found
    assert "sessions that have ended are to be woken for their end" in found


async def test_a_session_without_a_watcher_is_found_as_a_leak() -> None:
    async with open_session_manager() as manager:
        await manager.create_session()
        manager.store._watcher._heap.clear()
        assert "is not watched" in find_leaks(manager)[0]


async def test_pending_things_are_found(autojump_clock: MockClock) -> None:
    async def never(_: dict[str, Any]) -> None:
        await hang()

    config = SessionConfig(limits=SessionLimits(max_in_flight=1))
    async with open_session_manager(router, config=config) as manager:
        async with connect_client(manager, answerers={"q": never}) as client:
            session = client.session
            await session.enter_async_context(FaultyContext())
            session.start_soon(session.ask, "q")
            for _ in range(2):
                await client.start_request("tools/call", {"name": "wait"})
            await client.ping()
            with session.subscribe():
                found = dict.fromkeys(("_connection", "_held", "_event_streams", "_nursery"))
                for name in found:
                    found[name] = getattr(session, name)
                other = await manager.create_session()
                other.terminate()
                await other.wait_terminated()
                kept = {name: getattr(other, name) for name in found}
                for name, value in found.items():
                    setattr(other, name, value)
                text = "\n".join(find_leaks(manager))
                for name, value in kept.items():
                    setattr(other, name, value)
    for what in (
        "requests in flight",
        "requests in the queue",
        "requests to its client",
        "held contexts",
        "event streams",
        "has tasks",
    ):
        assert what in text


async def test_streams_that_outlive_their_session_are_found() -> None:
    async with open_session_manager(router) as manager:
        await Client(http_app(manager)).initialize()
        (session,) = manager.sessions()
        connection = client_of(session)
        await cleanup_session(session)
        streams = connection.sink
        assert isinstance(streams, SessionStreams)
        session._connection = connection
        before, streams._unfinished = streams._unfinished, {1: RequestStream(streams, request_id=1)}
        (found,) = find_leaks(manager)
        streams._unfinished = before
        session._connection = None
    assert found.endswith("has ended and still has streams that a client could resume")


async def test_a_victim_and_its_new_session_are_found_while_they_wait(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    async with open_session_manager(config=SessionConfig(limits=limits)) as manager:
        slow = FaultyContext(leave=lambda: refuse_cancellation(1))
        await manager.create_session(lifespan=lambda _: slow, principal=ANN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.create_session)
            await wait_all_tasks_blocked()
            assert find_leaks(manager)[0].startswith("places are still reserved")
        assert_no_leaks(manager)


async def test_a_session_that_outlives_the_block_fails_it(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        old = await manager.create_session()
        old.start_soon(hang)
        with pytest.raises(LeakError, match="has not ended") as caught:
            async with check_leaks():
                session = await manager.create_session()
                session.start_soon(hang)
                await wait_all_tasks_blocked()
        assert len(caught.value.leaks) == 3  # the session, its own task, and the one that it runs
        assert any("task" in leak and "hang" in leak for leak in caught.value.leaks)
        assert not any(repr(old) in leak for leak in caught.value.leaks)


@pytest.mark.parametrize("within, leaks", [(0, 2), (2, 0)])
async def test_what_is_ending_may_get_time_for_it(
    within: float, leaks: int, autojump_clock: MockClock
) -> None:
    slow = FaultyContext(leave=lambda: refuse_cancellation(1))
    found: tuple[str, ...] = ()
    async with open_session_manager() as manager:
        try:
            async with check_leaks(within=within):
                session = await manager.create_session(lifespan=lambda _: slow)
                session.terminate()
        except LeakError as error:
            found = error.leaks
    assert len(found) == leaks


async def test_references_count_when_asked_for() -> None:
    async with open_session_manager() as manager:
        async with check_leaks(references=True):
            session = await manager.create_session()
            session.terminate()
            await session.wait_terminated()
            del session
        with pytest.raises(LeakError, match="something refers to it"):
            async with check_leaks(references=True):
                session = await manager.create_session()
                session.terminate()
                await session.wait_terminated()


async def test_a_failing_body_is_not_checked(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        with pytest.raises(ValueError, match="mine"):
            async with check_leaks():
                await manager.create_session()
                raise ValueError("mine")
        with trio.move_on_after(1) as scope:
            async with check_leaks():
                await manager.create_session()
                await hang()
        assert scope.cancelled_caught


async def test_leaving_is_a_checkpoint() -> None:
    checking = check_leaks()
    with assert_no_checkpoints():
        await checking.__aenter__()
    with assert_checkpoints():
        await checking.__aexit__(None, None, None)
