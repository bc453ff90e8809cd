"""Looking after single sessions: three outcomes, every move, hooks of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import product
from math import inf
from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import Peer, connect, result, serving
from trio_mcp_session import (
    TRANSITIONS,
    CleanupConfig,
    InvalidTransition,
    QuestionTimeout,
    Router,
    Session,
    SessionConfig,
    SessionHealth,
    SessionHooks,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionTerminated,
    TerminationReason,
    check_session_health,
    monitor_session,
    open_session_manager,
    update_session_state,
    validate_sessions,
)

CLOCKS = CleanupConfig(ping_timeout=7, cleanup_interval=0, drain_grace=0)


@asynccontextmanager
async def client_of(**limits: Any) -> AsyncIterator[Peer]:
    async with serving(Router("r"), cleanup=CLOCKS, limits=SessionLimits(**limits)) as manager:
        peer = await connect(manager)
        await peer.establish()
        yield peer


@asynccontextmanager
async def manager_of(
    hooks: SessionHooks | None = None, **clocks: Any
) -> AsyncIterator[SessionManager]:
    config = SessionConfig(
        cleanup=CleanupConfig(**{"cleanup_interval": 0, "drain_grace": 0, **clocks})
    )
    with trio.fail_after(10_000):
        async with open_session_manager(config=config, hooks=hooks or ()) as manager:
            yield manager


# Health.


@pytest.mark.parametrize("answer", [{"result": {}}, {"error": {"code": -32601, "message": "?"}}])
async def test_a_result_or_an_error_answers_the_health_check(answer: dict[str, Any]) -> None:
    async with client_of() as peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def check() -> None:
            with assert_checkpoints():
                health = await check_session_health(peer.session)
            assert health is SessionHealth.ANSWERED

        ping = await peer.receive()
        assert ping["method"] == "ping"
        await peer.send({"jsonrpc": "2.0", "id": ping["id"], **answer})


async def test_no_answer_in_time(autojump_clock: MockClock) -> None:
    async with client_of() as peer:
        with assert_checkpoints():
            assert await check_session_health(peer.session) is SessionHealth.NO_ANSWER
        assert trio.current_time() == 7
        # Nothing follows from it; and asking was not activity.
        assert peer.session.state is SessionState.ACTIVE
        assert peer.session.idle_time == 7
        messages = await peer.waiting()
        assert [message["method"] for message in messages] == ["ping", "notifications/cancelled"]


async def test_a_health_check_without_a_client_reports_no_channel() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        assert await check_session_health(session) is SessionHealth.NO_CHANNEL
        session.terminate()
        with pytest.raises(SessionTerminated):
            await check_session_health(session)


async def test_no_way_to_ask_one_more_question(autojump_clock: MockClock) -> None:
    """Nothing is sent, so nothing follows: the client was not silent."""
    async with client_of(max_questions=1) as peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(QuestionTimeout):
                await peer.session.ask("ping", timeout=50)

        await wait_all_tasks_blocked()
        assert await check_session_health(peer.session) is SessionHealth.NO_CHANNEL
        assert trio.current_time() == 0


async def test_the_session_ends_meanwhile(autojump_clock: MockClock) -> None:
    async with client_of() as peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def check() -> None:
            with pytest.raises(SessionTerminated) as ended:
                await check_session_health(peer.session)
            assert ended.value.reason is TerminationReason.REVOKED

        await trio.sleep(1)
        peer.session.terminate(TerminationReason.REVOKED)


async def test_a_cancelled_check_tells_the_client_to_forget_it(autojump_clock: MockClock) -> None:
    async with client_of() as peer:
        with trio.move_on_after(3) as scope:
            await check_session_health(peer.session)
        assert scope.cancelled_caught
        ping, forget = await peer.waiting()
        assert forget["params"] == {"requestId": ping["id"]}
        # Its late answer belongs to no question, and does no harm.
        await peer.send(result(ping["id"]))
        assert await peer.waiting() == []
        assert peer.session.state is SessionState.ACTIVE


# States by request.


@asynccontextmanager
async def session_in(state: SessionState) -> AsyncIterator[Session]:
    """A session that stands in a state, and stays there for the length of the block."""
    entered, leave = trio.Event(), trio.Event()

    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        if state is SessionState.INITIALIZING:
            entered.set()
            await leave.wait()
        yield
        if state is SessionState.TERMINATING:
            await leave.wait()

    async with manager_of(idle_after=inf, max_idle_time=inf) as manager:
        async with trio.open_nursery() as nursery:
            if state is SessionState.INITIALIZING:

                @nursery.start_soon
                async def create() -> None:
                    with suppress(SessionTerminated):
                        await manager.create_session(lifespan=lifespan)

                await entered.wait()
                (session,) = manager.sessions()
            else:
                session = await manager.create_session(lifespan=lifespan)
            if state is SessionState.IDLE:
                update_session_state(session, SessionState.IDLE)
            elif state in (SessionState.TERMINATING, SessionState.TERMINATED):
                session.terminate(TerminationReason.REPLACED)
            if state is SessionState.TERMINATED:
                await session.wait_terminated()
            await wait_all_tasks_blocked()
            assert session.state is state
            yield session
            assert validate_sessions(manager.store) == []
            leave.set()


async def test_without_a_channel_it_is_a_checkpoint_all_the_same() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with assert_checkpoints():
            assert await check_session_health(session) is SessionHealth.NO_CHANNEL
        with trio.CancelScope() as scope:
            scope.cancel()
            await check_session_health(session)
        assert scope.cancelled_caught


@pytest.mark.parametrize(
    "old, new",
    list(product(SessionState, SessionState)),
    ids=lambda state: state.value if isinstance(state, SessionState) else None,
)
async def test_every_move_of_the_table_and_no_other(old: SessionState, new: SessionState) -> None:
    async with session_in(old) as session:
        reason = session.termination_reason
        if new in TRANSITIONS[old] and new is not SessionState.TERMINATED:
            with assert_no_checkpoints():
                update_session_state(session, new)
            assert session.state is new
            ending = new is SessionState.TERMINATING
            assert session.termination_reason is (TerminationReason.REQUESTED if ending else None)
        else:
            with pytest.raises(InvalidTransition) as refusal:
                update_session_state(session, new, reason=TerminationReason.REVOKED)
            assert (refusal.value.old, refusal.value.new) == (old, new)
            assert session.state is old
            assert session.termination_reason is reason


async def test_terminating_takes_a_reason() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        update_session_state(session, SessionState.TERMINATING, reason=TerminationReason.REVOKED)
        assert await session.wait_terminated() is TerminationReason.REVOKED


async def test_active_by_request_is_activity(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=10, max_idle_time=100) as manager:
        session = await manager.create_session()
        await trio.sleep(50)
        states = [session.state]
        update_session_state(session, SessionState.ACTIVE)
        await trio.sleep(9)
        states.append(session.state)
        assert states == [SessionState.IDLE, SessionState.ACTIVE]
        await session.wait_terminated()
        assert trio.current_time() == 150


async def test_idle_by_request_ends_in_time(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=10, max_idle_time=100) as manager:
        session = await manager.create_session()
        update_session_state(session, SessionState.IDLE)
        await trio.sleep(50)
        assert session.state is SessionState.IDLE
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 100


async def test_active_by_request_ends_the_handshake(autojump_clock: MockClock) -> None:
    async with serving(
        Router("r"),
        cleanup=CleanupConfig(connection_handshake_timeout=10, connection_idle_time=100),
    ) as manager:
        peer = await connect(manager)
        await trio.sleep(5)
        update_session_state(peer.session, SessionState.ACTIVE)
        await peer.session.wait_terminated()
        assert trio.current_time() == 105
        assert peer.session.termination_reason is TerminationReason.IDLE


# Monitoring.


class Recorder:
    """Hooks that write down what they are called for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.hooks = SessionHooks(
            on_session_created=self.created,
            on_session_terminated=self.terminated,
            on_state_changed=self.changed,
            on_error=self.failed,
        )

    async def created(self, session: Session) -> None:
        self.calls.append("created")

    async def terminated(self, session: Session, reason: TerminationReason) -> None:
        self.calls.append(reason)

    async def changed(self, session: Session, old: SessionState, new: SessionState) -> None:
        self.calls.append(new)

    async def failed(self, session: Session, error: Exception) -> None:
        self.calls.append(type(error))


async def test_monitoring_lasts_until_the_end(nursery: trio.Nursery) -> None:
    recorder = Recorder()
    async with manager_of() as manager:
        session = await manager.create_session()

        @nursery.start_soon
        async def monitor() -> None:
            with assert_checkpoints():
                reason = await monitor_session(session, recorder.hooks)
            assert reason is TerminationReason.REVOKED

        await wait_all_tasks_blocked()
        assert recorder.calls == ["created"]
        session.terminate(TerminationReason.REVOKED)
        await session.wait_terminated()
    assert recorder.calls == [
        "created",
        SessionState.TERMINATING,
        SessionState.TERMINATED,
        TerminationReason.REVOKED,
    ]
    assert session._hooks == ()


async def test_cancelling_detaches_these_hooks_and_no_others() -> None:
    """Also where the very same hooks are the manager's, or attached twice."""
    recorder = Recorder()
    async with manager_of(hooks=recorder.hooks) as manager, trio.open_nursery() as nursery:
        session = await manager.create_session()
        scopes = [trio.CancelScope() for _ in range(2)]

        async def monitor(scope: trio.CancelScope) -> None:
            with scope:
                await monitor_session(session, recorder.hooks)

        for scope in scopes:
            nursery.start_soon(monitor, scope)
        await wait_all_tasks_blocked()
        assert len(session._hooks) == 3
        for left, scope in enumerate(scopes):
            scope.cancel()
            await wait_all_tasks_blocked()
            assert len(session._hooks) == 2 - left
        recorder.calls.clear()
        update_session_state(session, SessionState.IDLE)
        await wait_all_tasks_blocked()
        assert recorder.calls == [SessionState.IDLE]


async def test_a_created_hook_that_fails_when_monitoring_begins_does_not_end_the_session() -> None:
    recorder = Recorder()

    async def refuse(_: Session) -> None:
        raise ValueError("no")

    async with manager_of(hooks=recorder.hooks) as manager, trio.open_nursery() as nursery:
        session = await manager.create_session()
        nursery.start_soon(monitor_session, session, SessionHooks(on_session_created=refuse))
        await wait_all_tasks_blocked()
        assert session.state is SessionState.ACTIVE
        assert manager.statistics().hook_failures == 1
        session.terminate()


async def test_monitoring_without_a_created_hook() -> None:
    async with manager_of() as manager, trio.open_nursery() as nursery:
        session = await manager.create_session()
        nursery.start_soon(monitor_session, session, SessionHooks())
        await wait_all_tasks_blocked()
        assert len(session._hooks) == 1
        session.terminate()


async def test_hooks_attached_before_the_session_is_established() -> None:
    """They are asked in their turn, once."""
    recorder = Recorder()
    async with serving(Router("r"), cleanup=CLOCKS) as manager, trio.open_nursery() as nursery:
        peer = await connect(manager)
        nursery.start_soon(monitor_session, peer.session, recorder.hooks)
        await wait_all_tasks_blocked()
        assert recorder.calls == []
        await peer.establish()
        assert recorder.calls == ["created", SessionState.ACTIVE]
        peer.session.terminate()


async def test_hooks_attached_by_a_created_hook(nursery: trio.Nursery) -> None:
    """The natural place to begin monitoring; the hooks must not miss their own beginning."""
    recorder = Recorder()

    async def created(session: Session) -> None:
        nursery.start_soon(monitor_session, session, recorder.hooks)
        await wait_all_tasks_blocked()

    async with manager_of(hooks=SessionHooks(on_session_created=created)) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
    await wait_all_tasks_blocked()
    assert recorder.calls.count("created") == 1
    assert recorder.calls[0] == "created"
    assert recorder.calls[-1] is TerminationReason.REQUESTED


async def test_monitoring_an_ended_session_or_oneself() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        done = trio.Event()

        async def inside() -> None:
            with pytest.raises(RuntimeError):
                await monitor_session(session, SessionHooks())
            done.set()

        session.start_soon(inside)
        await done.wait()
        assert session._hooks == ()
        session.terminate()
        with pytest.raises(SessionTerminated):
            await monitor_session(session, SessionHooks())
        assert session._hooks == ()
