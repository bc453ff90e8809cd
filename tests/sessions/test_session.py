"""The face of a session: ending it from anywhere, waiting for it, leases, clocks, messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    OpenOutlet,
    connect,
    leftovers,
    manager_of,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    CleanupConfig,
    ClientInfo,
    Disconnected,
    DrainReport,
    McpError,
    NoChannel,
    PeerViolation,
    Principal,
    QuestionTimeout,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionManager,
    SessionState,
    SessionTerminated,
    StateChanged,
    TerminationReason,
    Transport,
    current_session,
    open_session_manager,
)
from trio_mcp_session.server.accept import accept


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[SessionManager, Session]]:
    async with serving(Router("test"), **settings) as manager:
        session = await manager.create_session()
        yield manager, session
        for one in manager.sessions():
            one.terminate()
            await one.wait_terminated()
        assert leftovers(manager, session) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.start(trio.sleep_forever),
        lambda session: session.enter_async_context(nullcontext()),
        lambda session: session.notify("notifications/x"),
        lambda session: session.ask("ping"),
    ],
    ids=["start", "enter_async_context", "notify", "ask"],
)
async def test_a_waiter_cancelled_with_the_manager_is_cancelled(
    use: Callable[[Session], Awaitable[object]],
) -> None:
    """Not of the session's end, which follows from it and would hide it."""
    with trio.CancelScope() as scope:
        async with open_session_manager() as manager:
            session = await manager.create_session()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await session.wait_terminated()
            await use(session)
    assert scope.cancelled_caught


async def test_it_knows_its_manager() -> None:
    async with open_session_manager() as manager, manager.open_session() as session:
        assert session._manager is manager


async def test_a_crash_leaves_one_record_and_bad_input_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crash() -> None:
        raise OSError("details for the log")

    async with open_session_manager() as manager:
        session = await manager.create_session()
        session._report(PeerViolation("something forbidden"))
        session.start_soon(crash)
        await session.wait_terminated()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "trio_mcp_session"
    assert "crashed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)
    assert session.session_id not in record.getMessage()


def test_the_session_has_no_public_constructor() -> None:
    with pytest.raises(TypeError, match="no public constructor"):
        Session()  # type: ignore[call-arg]  # that's the mistake


async def test_the_attributes_and_the_repr_describe_the_session(autojump_clock: MockClock) -> None:
    client = ClientInfo(client_id="me")
    owner = Principal("somebody")
    cleanup = CleanupConfig(idle_after=10, max_session_time=100, cleanup_interval=0)
    async with opened(cleanup=cleanup) as (manager, _):
        session = await manager.create_session(
            client, kind=SessionKind.TASK, transport=Transport("test", "here"), principal=owner
        )
        assert session.client is client
        assert session.kind is SessionKind.TASK
        assert session.transport == Transport("test", "here")
        assert session.principal is owner
        assert session.state.value == "active"
        assert session.termination_reason is None
        assert session.error is None
        assert session.protocol_version is None
        assert session.subscribed_resources == frozenset()
        assert session._busy == 0
        assert len(session.session_id) >= 22
        assert repr(session) == f"<Session {session.session_id[:6]}… task active>"
        await trio.sleep(30)
        assert session.state is SessionState.IDLE
        assert (session.idle_time, session.age, session.time_left) == (30, 30, 70)
        with session.lease():
            assert session.busy
            assert session.idle_time == 0
        session.terminate(TerminationReason.REPLACED)
        assert repr(session) == f"<Session {session.session_id[:6]}… task terminating (replaced)>"


async def test_ids_are_all_different() -> None:
    async with opened() as (manager, _):
        sessions = [await manager.create_session() for _ in range(50)]
        assert len({session.session_id for session in sessions}) == 50


async def test_metrics_use_the_wall_clock_of_the_configuration(autojump_clock: MockClock) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    config = SessionConfig(wall_clock=lambda: start + timedelta(seconds=trio.current_time()))
    async with open_session_manager(config=config) as manager:
        await trio.sleep(10)
        session = await manager.create_session()
        await trio.sleep(5)
        session.touch()
        await trio.sleep(5)
        assert session.metrics.created == start + timedelta(seconds=10)
        assert session.metrics.last_active == start + timedelta(seconds=15)
        assert (session.metrics.in_flight, session.metrics.queued) == (0, 0)


async def test_metrics_of_a_connection() -> None:
    router = Router("test")

    @router.request("hang")
    async def hang(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    async with talking(router) as peer:
        before = peer.session.metrics
        await peer.send(request(1, "hang"))
        await wait_all_tasks_blocked()
        after = peer.session.metrics
        assert after.in_flight == 1
        assert after.requests == before.requests + 1
        assert after.messages_received == before.messages_received + 1
        assert after.bytes_received > before.bytes_received
        assert peer.session.protocol_version == "2025-11-25"


# terminate


async def test_terminate_any_number_of_times() -> None:
    async with opened() as (_, session):
        with assert_no_checkpoints():
            session.terminate(TerminationReason.EVICTED)
            for reason in TerminationReason:
                session.terminate(reason)
        assert session.termination_reason is TerminationReason.EVICTED
        assert session.state.value == "terminating"
        assert await session.wait_terminated() is TerminationReason.EVICTED
        session.terminate()
        assert session.state is SessionState.TERMINATED
        assert await session.wait_terminated() is TerminationReason.EVICTED


async def test_sessions_end_in_any_order(autojump_clock: MockClock) -> None:
    async with opened() as (manager, _):
        sessions = [
            await manager.create_session(lifespan=lambda session: nothing()) for _ in range(6)
        ]
        for index in (3, 0, 5, 1, 4, 2):
            sessions[index].terminate()
            await sessions[index].wait_terminated()
            assert sessions[index] not in manager.sessions()
        assert all(session.error is None for session in sessions)


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    async with trio.open_nursery():
        yield


# Waiting


async def test_waiting_is_a_checkpoint_and_changes_nothing_when_cancelled() -> None:
    async with opened() as (_, session):
        with trio.CancelScope() as scope:
            scope.cancel()
            with assert_checkpoints():
                await session.wait_terminated()
        assert scope.cancelled_caught
        assert session.state is SessionState.ACTIVE
        session.terminate()
        with assert_checkpoints():
            await session.wait_terminated()
        with assert_checkpoints():
            await session.wait_terminated()
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.wait_terminated()
        assert scope.cancelled_caught


async def test_all_tasks_that_wait_for_the_end_are_woken() -> None:
    woken: list[TerminationReason] = []

    async def wait(session: Session) -> None:
        woken.append(await session.wait_terminated())

    async with opened() as (_, session):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, session)
            await wait_all_tasks_blocked()
            session.terminate()
        assert woken == [TerminationReason.REQUESTED] * 3


# Waiting for oneself


async def wait_for(session: Session) -> object:
    return await session.wait_terminated()


async def drain_it(session: Session) -> object:
    return await session.drain()


async def drain_manager(session: Session) -> object:
    return await manager_of(session).drain()


SelfWait = Callable[[Session], Awaitable[object]]
every_self_wait = pytest.mark.parametrize("wait", [wait_for, drain_it, drain_manager])


@final
@attrs.define
class Refused:
    """Tries to wait, and counts how often that was refused."""

    wait: SelfWait
    count: int = 0

    async def attempt(self, session: Session | None = None, *_: object) -> None:
        session = session or current_session()
        with pytest.raises(RuntimeError, match=r"cannot wait"):
            await self.wait(session)
        assert not manager_of(session).statistics().draining
        assert session._drain_reason is None
        self.count += 1

    async def attempt_nested(self, session: Session | None = None, *_: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.attempt_once_more_nested, session)
            nursery.start_soon(trio.lowlevel.checkpoint)

    async def attempt_once_more_nested(self, session: Session | None) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.attempt, session)
            nursery.start_soon(trio.lowlevel.checkpoint)

    @asynccontextmanager
    async def context(self, session: Session) -> AsyncIterator[None]:
        await self.attempt(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.attempt_nested, session)
            yield
            await self.attempt(session)


@every_self_wait
async def test_self_wait_in_tasks(wait: SelfWait) -> None:
    refused = Refused(wait)

    async def started(session: Session, *, task_status: trio.TaskStatus[None]) -> None:
        await refused.attempt(session)
        task_status.started()

    async with opened() as (_, session):
        for service in (False, True):
            session.start_soon(refused.attempt, session, service=service)
            session.start_soon(refused.attempt_nested, session, service=service)
        await session.start(started, session)
        await wait_all_tasks_blocked()
        assert session.state is SessionState.ACTIVE
        assert refused.count == 5


@every_self_wait
async def test_self_wait_in_a_handler(wait: SelfWait) -> None:
    refused = Refused(wait)
    router = Router("test")

    @router.request("wait")
    async def wait_in_handler(ctx: RequestContext) -> None:
        await refused.attempt(ctx.session)
        await refused.attempt_nested(ctx.session)

    @router.notification("notifications/wait")
    async def wait_in_notification(ctx: RequestContext) -> None:
        await refused.attempt(ctx.session)

    async with talking(router) as peer:
        assert await peer.ask(1, "wait") == result(1)
        await peer.send(notification("notifications/wait"))
        await wait_all_tasks_blocked()
        assert refused.count == 3


@every_self_wait
async def test_self_wait_in_lifespan_and_held_contexts(wait: SelfWait) -> None:
    refused = Refused(wait)
    async with opened() as (manager, _):
        session = await manager.create_session(lifespan=refused.context)
        await session.enter_async_context(refused.context(session))
        session.terminate()
        await session.wait_terminated()
        assert session.error is None
        assert refused.count == 6


@pytest.mark.parametrize("wait", [wait_for, drain_it])
async def test_self_wait_in_hooks(wait: SelfWait) -> None:
    refused = Refused(wait)

    async def crash() -> None:
        raise ValueError

    hooks = SessionHooks(
        on_session_created=refused.attempt,
        on_session_terminated=refused.attempt_nested,
        on_state_changed=refused.attempt,
        on_error=refused.attempt_nested,
    )
    async with serving(Router("test"), hooks=hooks) as manager:
        session = await manager.create_session()
        await wait_all_tasks_blocked()
        session.start_soon(crash)
        await session.wait_terminated()
        assert manager.statistics().hook_failures == 0
        # created, active, terminating, on_error, terminated, and the end
        assert refused.count == 6


async def test_manager_drained_in_hooks(autojump_clock: MockClock) -> None:
    """That waits for the session too, until it has left the table."""
    refused = Refused(drain_manager)
    reports: list[object] = []

    async def on_terminated(session: Session, reason: TerminationReason) -> None:
        reports.append(await manager_of(session).drain())

    hooks = SessionHooks(on_session_created=refused.attempt, on_session_terminated=on_terminated)
    async with serving(Router("test"), hooks=hooks) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
        assert refused.count == 1
        assert reports == [DrainReport()]


@every_self_wait
async def test_self_wait_through_a_manager_of_its_own(wait: SelfWait) -> None:
    """A session of a manager that runs in a session has to be over before that one is."""
    refused = Refused(wait)

    async def nest(session: Session) -> None:
        async with open_session_manager() as inner:
            async with inner.open_session() as inner_session:
                inner_session.start_soon(refused.attempt, session)
                await wait_all_tasks_blocked()

    async with opened() as (_, session):
        session.start_soon(nest, session)
        await wait_all_tasks_blocked()
        assert refused.count == 1


async def test_no_false_alarm_for_tasks_that_only_come_from_a_session(
    autojump_clock: MockClock,
) -> None:
    """Their context variables say that they belong to it; their nurseries say the truth."""
    waited: list[TerminationReason] = []

    async def wait(session: Session) -> None:
        assert current_session() is session
        waited.append(await session.wait_terminated())

    async def delegate(session: Session, nursery: trio.Nursery) -> None:
        nursery.start_soon(wait, session)
        await trio.sleep_forever()

    async with opened() as (_, session):
        async with trio.open_nursery() as nursery:
            session.start_soon(delegate, session, nursery)
            await wait_all_tasks_blocked()
            session.terminate()
        assert waited == [TerminationReason.REQUESTED]


async def test_no_false_alarm_for_another_session(autojump_clock: MockClock) -> None:
    async def wait_and_drain(other: Session, third: Session) -> None:
        other.terminate()
        await other.wait_terminated()
        await third.drain()

    @asynccontextmanager
    async def context(session: Session) -> AsyncIterator[None]:
        session.terminate()
        await session.wait_terminated()
        yield

    async with opened() as (manager, session):
        others = [await manager.create_session() for _ in range(3)]
        await session.start(run_and_tell, partial(wait_and_drain, *others[:2]))
        await session.enter_async_context(context(others[2]))
        assert [other.state for other in others] == [SessionState.TERMINATED] * 3
        assert session.state is SessionState.ACTIVE


async def run_and_tell(
    async_fn: Callable[[], Awaitable[object]], *, task_status: trio.TaskStatus[None]
) -> None:
    await async_fn()
    task_status.started()


async def test_no_false_alarm_in_the_body(autojump_clock: MockClock) -> None:
    async with opened() as (manager, _):
        with pytest.raises(SessionTerminated):
            async with manager.open_session() as session:
                # The body isn't part of the session, but it doesn't continue without it.
                await session.drain()


async def test_no_false_alarm_for_a_held_context_that_was_left(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (_, session):
        await session.enter_async_context(nothing())
        await manager_of(session).sessions()[0].drain(grace=0)
        await session.wait_terminated()


# Leases


async def test_lease_keeps_a_session_from_idling_and_draining(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(idle_after=5, max_idle_time=10, cleanup_interval=0)
    async with opened(cleanup=cleanup) as (_, session):
        with assert_no_checkpoints():
            lease = session.lease()
            lease.__enter__()
            with session.lease():
                assert session.busy
            assert session.busy
        await trio.sleep(100)
        assert session.state is SessionState.ACTIVE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(session.drain, grace=50))
            await trio.sleep(20)
            assert session.state is SessionState.ACTIVE
            with assert_no_checkpoints():
                lease.__exit__(None, None, None)
            assert session.termination_reason is TerminationReason.SHUTDOWN
            await session.wait_terminated()
            assert session._busy == 0
            assert trio.current_time() == 120


async def test_lease_of_an_ended_session() -> None:
    async with opened() as (_, session):
        with session.lease():
            session.terminate()
            await session.wait_terminated()
            with pytest.raises(SessionTerminated):
                session.lease().__enter__()
        assert not session.busy


# Clocks


async def test_touch_postpones_the_idle_timeout(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(idle_after=5, max_idle_time=10, cleanup_interval=0)
    async with opened(cleanup=cleanup) as (_, session):
        for _ in range(5):
            await trio.sleep(9)
            assert session.state.value == "idle"
            with assert_no_checkpoints():
                session.touch()
            assert session.state.value == "active"
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 55
        session.touch()  # Of no use, and no harm.
        assert session.state is SessionState.TERMINATED


async def test_renew_sets_a_new_lifetime(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(max_session_time=100, cleanup_interval=0, max_idle_time=inf)
    async with opened(cleanup=cleanup) as (_, session):
        await trio.sleep(90)
        with assert_no_checkpoints():
            session.renew()
        assert session.time_left == 100
        session.renew(30)
        assert session.time_left == 30
        for bad in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="lifetime must be more than 0 seconds"):
                session.renew(bad)
        assert await session.wait_terminated() is TerminationReason.LIFETIME
        assert trio.current_time() == 120
        with pytest.raises(SessionTerminated):
            session.renew()


# Draining


async def test_drain_waits_for_work(autojump_clock: MockClock) -> None:
    async with opened() as (_, session):
        session.start_soon(trio.sleep, 2)
        with assert_checkpoints():
            report = await session.drain()
        assert trio.current_time() == 2
        assert report.completed == (session.session_id,)
        assert session.termination_reason is TerminationReason.SHUTDOWN
        # Once more, of a session that is gone.
        assert (await session.drain()).completed == (session.session_id,)


async def test_drain_cancels_work_when_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with opened(cleanup=CleanupConfig(drain_grace=7)) as (_, session):
        session.start_soon(trio.sleep_forever)
        report = await session.drain()
        assert trio.current_time() == 7
        assert report.cancelled == (session.session_id,)


async def test_cancelled_drain_leaves_the_session_closing(autojump_clock: MockClock) -> None:
    async with opened() as (_, session):
        session.start_soon(trio.sleep, 4)
        with trio.move_on_after(1):
            await session.drain()
        assert session.state is SessionState.ACTIVE
        assert await session.wait_terminated() is TerminationReason.SHUTDOWN
        assert trio.current_time() == 4


# Events


async def test_a_subscription_receives_the_events_of_its_session_only(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (manager, session):
        with assert_no_checkpoints():
            subscribing = session.subscribe()
            events = subscribing.__enter__()
        other = await manager.create_session()
        other.terminate()
        await other.wait_terminated()
        session.terminate(TerminationReason.EVICTED)
        told = [event async for event in events]
        with assert_no_checkpoints():
            subscribing.__exit__(None, None, None)
        assert all(event.session_id == session.session_id for event in told)  # type: ignore[union-attr]  # no lags
        assert [type(event) for event in told] == [StateChanged, StateChanged, Disconnected]
        assert told[-1].reason is TerminationReason.EVICTED  # type: ignore[union-attr]  # checked above


async def test_several_subscribers_receive_the_same_events() -> None:
    async with opened() as (_, session):
        with session.subscribe() as one, session.subscribe() as other:
            session.terminate()
            await session.wait_terminated()
            told = [event async for event in one]
            assert told == [event async for event in other]
            assert isinstance(told[-1], Disconnected)


async def test_late_subscriber_learns_the_end() -> None:
    async with opened() as (_, session):
        session.terminate()
        await session.wait_terminated()
        with session.subscribe(max_buffer=0) as events:
            (event,) = [event async for event in events]
            assert isinstance(event, Disconnected)


# Messages


@final
@attrs.define(eq=False)
class Outlet(OpenOutlet):
    """A client with room for so many messages."""

    room: float = inf
    messages: list[Any] = attrs.field(factory=list)
    more: trio.Event = attrs.field(factory=trio.Event)

    def send_result(self, frame: bytes) -> None: ...

    def send_no_result(self) -> None: ...

    def send_message(self, frame: bytes) -> bool:
        if len(self.messages) >= self.room:
            return False
        self.messages.append(msgspec.json.decode(frame))
        return True

    async def wait_writable(self) -> None:
        await self.more.wait()
        self.more = trio.Event()

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def reached(outlet: Outlet) -> AsyncIterator[Session]:
    async with serving(Router("test")) as manager:
        session = await accept(manager, outlet, transport=Transport("test"))
        await wait_all_tasks_blocked()
        yield session
        session.terminate()
        await session.wait_terminated()
        assert leftovers(manager, session) == []


async def test_notify_sends_notifications_and_counts_them() -> None:
    outlet = Outlet()
    async with reached(outlet) as session:
        with assert_checkpoints():
            await session.notify("notifications/one", {"a": 1})
        with assert_no_checkpoints():
            assert session.notify_nowait("notifications/two")
        assert outlet.messages == [
            notification("notifications/one", {"a": 1}),
            notification("notifications/two"),
        ]
        assert session.metrics.messages_sent == 2
        assert session.metrics.bytes_sent > 50
        assert session.metrics.dropped == 0


async def test_notify_waits_for_room(autojump_clock: MockClock) -> None:
    outlet = Outlet(room=0)
    async with reached(outlet) as session:
        assert not session.notify_nowait("notifications/none")
        assert session.metrics.dropped == 1
        with trio.move_on_after(1) as scope:
            await session.notify("notifications/none")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.notify, "notifications/one")
            await wait_all_tasks_blocked()
            outlet.more.set()  # And still no room.
            await wait_all_tasks_blocked()
            outlet.room = 1
            outlet.more.set()
        assert outlet.messages == [notification("notifications/one")]
        assert session.metrics.dropped == 1


async def test_a_client_that_cannot_be_reached_now() -> None:
    outlet = Outlet()
    async with reached(outlet) as session:
        outlet.connected = outlet.reachable = False
        with pytest.raises(NoChannel), assert_checkpoints():
            await session.notify("notifications/none")
        with pytest.raises(NoChannel), assert_no_checkpoints():
            session.notify_nowait("notifications/none")
        with pytest.raises(NoChannel), assert_checkpoints():
            await session.ask("ping")
        assert outlet.messages == []
        assert session.metrics.dropped == 0
        # The client may reconnect.
        outlet.reachable = True
        await session.notify("notifications/one")
        assert outlet.messages == [notification("notifications/one")]


async def test_a_lost_client_wakes_tasks_that_wait_for_room() -> None:
    outlet = Outlet(room=0)
    async with reached(outlet) as session:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def notify() -> None:
                with pytest.raises(NoChannel):
                    await session.notify("notifications/none")

            await wait_all_tasks_blocked()
            outlet.reachable = False
            outlet.more.set()
        assert outlet.messages == []


async def test_session_ends_while_notifying() -> None:
    outlet = Outlet(room=0)
    async with reached(outlet) as session:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def notify() -> None:
                with pytest.raises(SessionTerminated):
                    await session.notify("notifications/none")

            await wait_all_tasks_blocked()
            session.terminate()
            outlet.room = 1
            outlet.more.set()
        assert outlet.messages == []


class EndAfterStep(trio.abc.Instrument):
    """Ends a session in the very moment when a task waits for the first time."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.session.terminate()


async def test_session_ends_at_the_first_checkpoint_of_notifying() -> None:
    outlet = Outlet()
    async with reached(outlet) as session:
        instrument = EndAfterStep(session)
        trio.lowlevel.add_instrument(instrument)
        with pytest.raises(SessionTerminated):
            await session.notify("notifications/none")
        trio.lowlevel.remove_instrument(instrument)
        assert outlet.messages == []


async def test_ask_returns_the_answer_of_the_client_or_raises(autojump_clock: MockClock) -> None:
    async with talking(Router("test")) as peer:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await peer.session.ask("ping", {"a": 1}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            question = await peer.receive()
            assert question == request(question["id"], "ping", {"a": 1})
            await peer.send(result(question["id"], {"b": 2}))
        assert answers == [{"b": 2}]

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def be_refused() -> None:
                with pytest.raises(McpError, match="no"):
                    await peer.session.ask("ping")

            question = await peer.receive()
            error = {"code": -32601, "message": "no"}
            await peer.send({"jsonrpc": "2.0", "id": question["id"], "error": error})

        with pytest.raises(QuestionTimeout):
            await peer.session.ask("ping", timeout=5)
        assert trio.current_time() == 5
        with pytest.raises(QuestionTimeout):
            await peer.session.ask("ping")
        assert trio.current_time() == 305


async def test_nothing_can_be_sent_without_a_channel_or_after_the_end() -> None:
    async with opened() as (_, session):
        for error in (NoChannel, SessionTerminated):
            with pytest.raises(error):
                session.notify_nowait("notifications/none")
            with pytest.raises(error):
                await session.notify("notifications/none")
            with pytest.raises(error):
                await session.ask("ping")
            session.terminate()


async def test_subscriptions_of_the_client() -> None:
    router = Router("test", resource_subscriptions=True)

    @router.request("resources/list")
    async def resources(ctx: RequestContext) -> None: ...

    async with serving(router) as manager:
        client = await connect(manager)
        await client.establish()
        await client.ask(1, "resources/subscribe", {"uri": "a:b"})
        assert client.session.subscribed_resources == {"a:b"}
        await client.ask(2, "resources/unsubscribe", {"uri": "a:b"})
        assert client.session.subscribed_resources == set()
