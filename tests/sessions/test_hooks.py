"""Hooks: one at a time, in order, within their budget, and without effect on other sessions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, error, initialize, notification, result, serving
from trio_mcp_session import (
    CleanupConfig,
    Disconnected,
    Error,
    Event,
    HandlerCrashed,
    HookFailed,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionTerminated,
    SessionVetoed,
    StateChanged,
    TaskCrashed,
    TerminationReason,
    current_session,
    open_session_manager,
    update_session_state,
)

INITIALIZING, ACTIVE, IDLE, TERMINATING, TERMINATED = SessionState
REQUESTED = TerminationReason.REQUESTED


@asynccontextmanager
async def manager_of(
    *hooks: SessionHooks, max_waiting_hooks: int = 64, **clocks: Any
) -> AsyncIterator[SessionManager]:
    settings = {"hook_budget": 5, "drain_grace": 0, "idle_after": inf, "max_idle_time": inf}
    config = SessionConfig(
        limits=SessionLimits(max_waiting_hooks=max_waiting_hooks),
        cleanup=CleanupConfig(**{**settings, **clocks}),
    )
    with trio.fail_after(10_000):
        async with open_session_manager(config=config, hooks=hooks) as manager:
            yield manager


class Log:
    """Hooks that write down what they are told; each behaves as it is told by ``act``."""

    def __init__(
        self, act: Callable[[str, Session], Awaitable[None]] | None = None, name: str = ""
    ) -> None:
        self.told: list[Any] = []
        self.act = act
        self.name = name
        self.running = 0
        self.hooks = SessionHooks(
            on_session_created=self.created,
            on_session_terminated=self.terminated,
            on_state_changed=self.changed,
            on_error=self.failed,
        )

    async def note(self, hook: str, session: Session, *what: object) -> None:
        assert current_session() is session
        self.told.append((hook, *what) if what else hook)
        assert not self.running, "hooks run one at a time"
        self.running += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.act is not None:
                await self.act(hook, session)
        finally:
            self.running -= 1

    async def created(self, session: Session) -> None:
        await self.note("created", session)

    async def terminated(self, session: Session, reason: TerminationReason) -> None:
        await self.note("terminated", session, reason)

    async def changed(self, session: Session, old: SessionState, new: SessionState) -> None:
        await self.note("changed", session, old, new)

    async def failed(self, session: Session, error: Exception) -> None:
        await self.note("failed", session, type(error))


def failing(*hooks: str) -> Callable[[str, Session], Awaitable[None]]:
    async def act(hook: str, session: Session) -> None:
        if hook in hooks:
            raise OSError(f"{hook} broke")

    return act


def slow(seconds: float, *hooks: str) -> Callable[[str, Session], Awaitable[None]]:
    async def act(hook: str, session: Session) -> None:
        if hook in hooks:
            await trio.sleep(seconds)

    return act


def everything(subscription: Any) -> list[Event]:
    taken: list[Event] = []
    while True:
        try:
            taken.append(subscription.receive_nowait())
        except trio.WouldBlock:
            return taken


WHOLE_LIFE = [
    "created",
    ("changed", INITIALIZING, ACTIVE),
    ("changed", ACTIVE, TERMINATING),
    ("changed", TERMINATING, TERMINATED),
    ("terminated", REQUESTED),
]


# Order.


async def test_they_are_called_in_the_order_of_events() -> None:
    log = Log()
    async with manager_of(log.hooks) as manager:
        session = await manager.create_session()
        await wait_all_tasks_blocked()
        update_session_state(session, IDLE)
        session.touch()
        await wait_all_tasks_blocked()
        session.start_soon(fail)
        assert await session.wait_terminated() is TerminationReason.CRASHED
    assert log.told == [
        "created",
        ("changed", INITIALIZING, ACTIVE),
        ("changed", ACTIVE, IDLE),
        ("changed", IDLE, ACTIVE),
        # A task's error is the reason to end before it is reported.
        ("changed", ACTIVE, TERMINATING),
        ("failed", TaskCrashed),
        ("changed", TERMINATING, TERMINATED),
        ("terminated", TerminationReason.CRASHED),
    ]


async def fail() -> None:
    raise OSError("it broke")


async def test_several_sets_are_called_in_their_order() -> None:
    told: list[str] = []

    def hooks(name: str) -> SessionHooks:
        async def created(_: Session) -> None:
            told.append(f"{name} created")

        async def terminated(_: Session, reason: TerminationReason) -> None:
            told.append(f"{name} {reason.value}")

        return SessionHooks(on_session_created=created, on_session_terminated=terminated)

    async with manager_of(hooks("first"), SessionHooks(), hooks("second")) as manager:
        async with manager.open_session():
            pass
    assert told == ["first created", "second created", "first requested", "second requested"]


async def test_hooks_may_be_a_single_set() -> None:
    log = Log()
    async with open_session_manager(hooks=log.hooks) as manager:
        async with manager.open_session():
            pass
    assert log.told == WHOLE_LIFE


async def test_errors_before_the_handshake_wait_for_the_session() -> None:
    log = Log()
    async with serving(Router("r"), hooks=log.hooks) as manager:
        peer = await connect(manager)
        await peer.ask(1, "tools/list")
        assert log.told == []
        await peer.establish()
        assert [what if isinstance(what, str) else what[0] for what in log.told] == [
            "created",
            "failed",
            "changed",
        ]


async def test_failing_handlers_are_told() -> None:
    router = Router("r")
    log = Log()

    @router.request("break")
    async def handler(_: RequestContext) -> None:
        raise OSError("it broke")

    async with serving(router, hooks=log.hooks) as manager:
        peer = await connect(manager)
        await peer.establish()
        assert await peer.ask(1, "break") == error(1, -32603, "Internal error")
        await wait_all_tasks_blocked()
        assert log.told[-1] == ("failed", HandlerCrashed)


# The veto.


async def test_a_created_hook_may_refuse() -> None:
    log = Log(failing("created"))
    async with manager_of(log.hooks) as manager:
        with manager.subscribe() as events:
            with pytest.raises(SessionVetoed) as veto:
                await manager.create_session()
            told = everything(events)
        assert isinstance(veto.value.__cause__, OSError)
        assert manager.sessions() == []
        assert manager.statistics().refused == {"SessionVetoed": 1}
        assert manager.statistics().reserved == 0
        assert isinstance(told[-1], Disconnected)
        assert isinstance(told[-1].error, SessionVetoed)
    # What refused a session hears nothing more of it.
    assert log.told == ["created"]


async def test_a_created_hook_that_takes_too_long_refuses(autojump_clock: MockClock) -> None:
    log = Log(slow(100, "created"))
    async with manager_of(log.hooks) as manager:
        with pytest.raises(SessionVetoed) as veto:
            await manager.create_session()
        assert isinstance(veto.value.__cause__, HookFailed)
        assert veto.value.__cause__.overran
        assert trio.current_time() == 5


async def test_a_veto_is_answered_to_the_client() -> None:
    log = Log(failing("created"))
    async with serving(Router("r"), hooks=log.hooks) as manager:
        peer = await connect(manager)
        await peer.send(initialize(1))
        assert await peer.receive() == error(1, -32603, "Session has ended: requested")
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()


async def test_only_hooks_that_admitted_a_session_are_called_at_its_end() -> None:
    first, second, third = Log(), Log(failing("created")), Log()
    plain = Log()
    unasked = SessionHooks(on_session_terminated=plain.terminated)
    async with manager_of(first.hooks, unasked, second.hooks, third.hooks) as manager:
        with pytest.raises(SessionVetoed):
            await manager.create_session()
    assert first.told == [
        "created",
        ("changed", INITIALIZING, TERMINATING),
        ("changed", TERMINATING, TERMINATED),
        ("terminated", REQUESTED),
    ]
    assert plain.told == [("terminated", REQUESTED)]
    assert second.told == ["created"]
    assert third.told == []


async def test_the_terminated_hook_is_called_for_every_admitted_session() -> None:
    """Also where it failed right behind the hook; and once, however often it is ended."""

    @asynccontextmanager
    async def broken(_: Session) -> AsyncIterator[None]:
        await fail()
        yield  # pragma: no cover  # the point is that it never gets there

    async def end_it(hook: str, session: Session) -> None:
        if hook == "created" and ending:
            session.terminate(TerminationReason.REVOKED)

    ending = False
    log = Log(end_it)
    async with manager_of(log.hooks) as manager:
        with pytest.raises(OSError, match="it broke"):
            await manager.create_session(lifespan=broken)
        ending = True
        with pytest.raises(SessionTerminated):
            await manager.create_session()
        ending = False
        session = await manager.create_session()
        for reason in TerminationReason:
            session.terminate(reason)
        await session.wait_terminated()
        last = await manager.create_session()
    assert last.termination_reason is TerminationReason.SHUTDOWN
    assert [told for told in log.told if told[0] not in ("changed", "failed")] == [
        "created",
        ("terminated", TerminationReason.CRASHED),
        "created",
        ("terminated", TerminationReason.REVOKED),
        "created",
        ("terminated", TerminationReason.CLIENT_CLOSED),
        "created",
        ("terminated", TerminationReason.SHUTDOWN),
    ]


async def test_a_session_that_ends_before_its_hook_is_asked() -> None:
    log = Log()
    async with serving(Router("r"), hooks=log.hooks) as manager:
        peer = await connect(manager)
        peer.session.terminate()
        await peer.session.wait_terminated()
    assert "created" not in log.told
    assert ("terminated", REQUESTED) not in log.told


async def test_a_cancelled_opening_lets_its_hook_finish(autojump_clock: MockClock) -> None:
    """Hooks are shielded: one that has begun is not torn."""
    finished: list[float] = []

    async def created(_: Session) -> None:
        await trio.sleep(3)
        finished.append(trio.current_time())

    async with manager_of(SessionHooks(on_session_created=created)) as manager:
        with trio.move_on_after(1) as scope:
            await manager.create_session()
        assert scope.cancelled_caught
        assert finished == [3]
        assert manager.sessions() == []


# Failing, and slow.


async def test_a_failing_hook_is_contained_and_told() -> None:
    log = Log(failing("changed", "terminated"))
    async with manager_of(log.hooks) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            await wait_all_tasks_blocked()
            assert session.state is ACTIVE
            (failure,) = [event for event in everything(events) if isinstance(event, Error)]
        assert isinstance(failure.error, HookFailed)
        assert failure.error.hook == "on_state_changed"
        assert not failure.error.overran
        assert isinstance(failure.error.__cause__, OSError)
        assert log.told[2] == ("failed", HookFailed)
        assert manager.statistics().hook_failures == 1
        assert session.metrics.errors == 1
        session.terminate()
        assert await session.wait_terminated() is REQUESTED
        # Two more moves, and the end.
        assert manager.statistics().hook_failures == 4
        assert log.told.count(("failed", HookFailed)) == 4
        # The session has not failed.
        assert session.error is None


async def test_a_slow_hook_is_cut_short(autojump_clock: MockClock) -> None:
    log = Log(slow(100, "changed"))
    async with manager_of(log.hooks) as manager:
        session = await manager.create_session()
        assert trio.current_time() == 0  # it holds up no opening
        with session.subscribe() as events:
            failure = await events.receive()
            assert isinstance(failure, Error)
            assert failure.time == 5
            assert isinstance(failure.error, HookFailed)
            assert failure.error.overran
            assert failure.error.__cause__ is None
        other = await manager.create_session()
        assert trio.current_time() == 5
        other.terminate()


async def test_a_slow_hook_delays_the_end_of_its_own_session_only(
    autojump_clock: MockClock,
) -> None:
    log = Log(slow(3, "changed"))
    async with manager_of(hook_budget=5) as manager:
        quick = await manager.create_session()
        session = await manager.create_session()
        session._hooks = (log.hooks,)
        update_session_state(session, IDLE)
        await wait_all_tasks_blocked()
        for one in (session, quick):
            one.terminate()
        await quick.wait_terminated()
        assert trio.current_time() == 0
        await session.wait_terminated()
        # The one that ran; then half of a budget for those of the last two moves, so that the
        # first is cut and the second dropped; each is one failure, and so is the report of each
        # that comes too late.
        assert trio.current_time() == 3 + 2.5
        assert log.told[-1] == ("terminated", REQUESTED)


async def test_at_the_end_all_that_wait_share_one_budget(autojump_clock: MockClock) -> None:
    log = Log(slow(2, "changed"))
    async with manager_of(hook_budget=10) as manager:
        session = await manager.create_session()
        session._hooks = (log.hooks,)
        for _ in range(10):
            update_session_state(session, IDLE)
            session.touch()
        session.terminate()
        await session.wait_terminated()
        # In half of the budget: two whole ones and half of a third; those that are not called are
        # counted, and so is the call that would report the third.
        assert trio.current_time() == 5
        assert len([told for told in log.told if told[0] == "changed"]) == 3
        assert manager.statistics().hook_failures == 1 + 19 + 1
        assert log.told[-1] == ("terminated", REQUESTED)


async def test_too_many_waiting_hooks_are_dropped_and_counted(autojump_clock: MockClock) -> None:
    log = Log(slow(1, "changed"))
    async with manager_of(max_waiting_hooks=3) as manager:
        session = await manager.create_session()
        session._hooks = (log.hooks,)
        update_session_state(session, IDLE)
        await wait_all_tasks_blocked()  # this one runs, it does not wait
        for _ in range(3):
            session.touch()
            update_session_state(session, IDLE)
        await trio.sleep(10)
        assert log.told == [("changed", ACTIVE, IDLE)] * 1 + [
            ("changed", IDLE, ACTIVE),
            ("changed", ACTIVE, IDLE),
            ("changed", IDLE, ACTIVE),
        ]
        assert manager.statistics().hook_failures == 3
        # There is room again.
        session.touch()
        await trio.sleep(1)
        assert len(log.told) == 5


async def test_a_failing_on_error_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(failing("changed", "failed"))
    async with manager_of(log.hooks) as manager:
        session = await manager.create_session()
        await wait_all_tasks_blocked()
        assert log.told == [
            "created",
            ("changed", INITIALIZING, ACTIVE),
            ("failed", HookFailed),  # and that one is not reported
        ]
        assert manager.statistics().hook_failures == 2
        other, record = caplog.records
        assert "hook on_state_changed (Log.changed) failed" in other.getMessage()
        assert record.levelno == logging.ERROR
        assert "hook on_error (Log.failed) failed" in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], OSError)
        assert session.session_id not in record.getMessage()


async def test_nothing_follows_the_last_event(caplog: pytest.LogCaptureFixture) -> None:
    """Hooks that fail after it are told to on_error, counted and logged."""
    log = Log(failing("changed", "terminated"))
    async with manager_of(log.hooks) as manager:
        session = await manager.create_session()
        await wait_all_tasks_blocked()
        caplog.clear()
        with manager.subscribe() as events, session.subscribe() as own:
            session.terminate()
            await session.wait_terminated()
            told = everything(events)
            assert [event async for event in own] == told
        assert isinstance(told[-1], Disconnected)
        assert sum(isinstance(event, Disconnected) for event in told) == 1
        failed = [record.getMessage() for record in caplog.records]
        assert (
            sum("on_session_terminated (Log.terminated) failed" in message for message in failed)
            == 1
        )
        assert log.told.count(("failed", HookFailed)) == 4


async def test_without_on_error_failures_are_events() -> None:
    async def changed(_: Session, old: SessionState, new: SessionState) -> None:
        raise OSError("it broke")

    async with manager_of(SessionHooks(on_state_changed=changed)) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            await wait_all_tasks_blocked()
            told = everything(events)
            assert isinstance(told[-1], Error)
        update_session_state(session, IDLE)
        await wait_all_tasks_blocked()  # without a subscriber: that is fine too
        assert manager.statistics().hook_failures == 2


# What hooks may do.


async def test_hooks_may_end_their_session() -> None:
    async def end_it(hook: str, session: Session) -> None:
        session.terminate(TerminationReason.REVOKED)

    log = Log(end_it)
    async with manager_of() as manager:
        session = await manager.create_session()
        session._hooks = (log.hooks,)
        update_session_state(session, IDLE)
        assert await session.wait_terminated() is TerminationReason.REVOKED
    assert log.told == [
        ("changed", ACTIVE, IDLE),
        ("changed", IDLE, TERMINATING),
        ("changed", TERMINATING, TERMINATED),
        ("terminated", TerminationReason.REVOKED),
    ]


async def test_hooks_cannot_wait_for_their_session() -> None:
    errors: list[str] = []

    async def wait(hook: str, session: Session) -> None:
        for waiting in (session.wait_terminated, session.drain):
            try:
                await waiting()
            except RuntimeError as error:
                errors.append(str(error))

    log = Log(wait)
    async with manager_of(log.hooks) as manager:
        async with manager.open_session():
            pass
    assert errors == ["a session cannot wait for its own end"] * 2 * len(WHOLE_LIFE)


async def test_hooks_may_start_work_in_their_session(autojump_clock: MockClock) -> None:
    async def created(session: Session) -> None:
        session.start_soon(trio.sleep, 7)

    async with manager_of(SessionHooks(on_session_created=created)) as manager:
        session = await manager.create_session()
        assert session.busy
        report = await session.drain(grace=100)
        assert report.completed == (session.session_id,)
        assert trio.current_time() == 7


async def test_hooks_may_talk_to_the_client() -> None:
    async def changed(session: Session, old: SessionState, new: SessionState) -> None:
        if new is ACTIVE:
            await session.notify("hello")

    async with serving(Router("r"), hooks=SessionHooks(on_state_changed=changed)) as manager:
        peer = await connect(manager)
        await peer.send(initialize(1), notification("notifications/initialized"))
        assert (await peer.receive())["id"] == 1
        assert (await peer.receive())["method"] == "hello"
        assert await peer.ask(2, "ping") == result(2)


async def test_hooks_may_open_other_sessions() -> None:
    others: list[Session] = []

    async def created(session: Session) -> None:
        if not others:
            others.append(session)
            others.append(await manager.create_session())

    async with manager_of(SessionHooks(on_session_created=created)) as manager:
        session = await manager.create_session()
        assert others[0] is session
        assert set(manager.sessions()) == set(others)


async def test_a_manager_left_by_an_error_tells_the_end_all_the_same() -> None:
    log = Log()
    with pytest.raises(OSError, match="it broke"):
        async with manager_of(log.hooks) as manager:
            await manager.create_session()
            await wait_all_tasks_blocked()
            await fail()
    assert log.told[-1] == ("terminated", TerminationReason.SHUTDOWN)


class Torn(BaseException):
    """What is not contained, as `KeyboardInterrupt` is not."""


async def test_a_manager_that_is_torn_lets_hooks_finish(autojump_clock: MockClock) -> None:
    finished: dict[TerminationReason, float] = {}

    async def terminated(_: Session, reason: TerminationReason) -> None:
        await trio.sleep(3)
        finished[reason] = trio.current_time()

    async def tear() -> None:
        raise Torn

    with pytest.RaisesGroup(Torn, flatten_subgroups=True):
        async with manager_of(SessionHooks(on_session_terminated=terminated)) as manager:
            await manager.create_session()
            (await manager.create_session()).start_soon(tear)
            await trio.sleep_forever()
    # The tear reaches the others when it leaves the session that it began in.
    assert finished == {TerminationReason.CRASHED: 3, TerminationReason.CANCELLED: 6}


async def test_events_and_hooks_tell_the_same() -> None:
    log = Log()
    async with manager_of(log.hooks) as manager:
        with manager.subscribe() as events:
            async with manager.open_session() as session:
                update_session_state(session, IDLE)
            moves = [
                ("changed", event.old, event.new)
                for event in everything(events)
                if isinstance(event, StateChanged)
            ]
    assert [told for told in log.told if told[0] == "changed"] == moves
