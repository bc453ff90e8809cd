"""The order of ending, for whatever reason a session ends; openings that fail or are given up."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    OpenOutlet,
    at_every_step,
    cancelled_at_step,
    errors_of,
    initialize,
    leftovers,
    notification,
    request,
    serving,
)
from trio_mcp_session import (
    CleanupConfig,
    CleanupFailed,
    Connected,
    Disconnected,
    Event,
    EventStream,
    ExitRequested,
    Lifespan,
    LifespanFailed,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionManager,
    SessionState,
    SessionTerminated,
    SessionVetoed,
    TaskCrashed,
    TerminationReason,
    Transport,
    cleanup_session,
    open_session_manager,
    update_session_state,
)
from trio_mcp_session.server.accept import accept
from trio_mcp_session.server.dispatch import receive
from trio_mcp_session.sessions import lifecycle as life

OWNER = Principal("somebody")
BUDGETS = CleanupConfig(
    flush_budget=1, cleanup_budget=10, hook_budget=5, idle_after=1, max_idle_time=20
)


@final
@attrs.define(eq=False)
class SlowOutlet(OpenOutlet):
    """A client that takes half a second to read; it writes down what it hears, and when."""

    trace: list[str]
    hangs: bool = False

    def send_result(self, frame: bytes) -> None:
        answer = msgspec.json.decode(frame)
        if "error" in answer:
            self.trace.append(f"answered: {answer['error']['message']}")

    def send_no_result(self) -> None:
        """No client cancels anything here."""

    def send_message(self, frame: bytes) -> bool:
        return True

    async def wait_writable(self) -> None:
        """There is always room."""

    async def finish(self) -> None:
        try:
            await trio.sleep(1000 if self.hangs else 0.5)
        finally:
            self.trace.append("flushed")


@final
@attrs.define(eq=False)
class Scene:
    """A session that holds one of everything, and a trace of its end."""

    trace: list[str] = attrs.field(factory=list)
    manager: SessionManager = attrs.field(init=False)
    session: Session = attrs.field(init=False)
    events: EventStream = attrs.field(init=False)
    handler_does: Callable[[], Awaitable[object]] | None = None
    task_does: Callable[[], Awaitable[object]] | None = None
    service_does: Callable[[], Awaitable[object]] | None = None
    acts: trio.Event = attrs.field(factory=trio.Event)
    """Lets the task, the service or the handler do it."""

    async def play(self, what: str, does: Callable[[], Awaitable[object]] | None) -> None:
        try:
            if does is not None:
                await self.acts.wait()
                await does()
            await trio.sleep_forever()
        except trio.Cancelled:
            self.trace.append(f"{what} cancelled")
            raise

    @asynccontextmanager
    async def context(self, what: str) -> AsyncIterator[None]:
        yield
        await trio.sleep(0.5)  # The budget, not a cancelled scope, is what it is left in.
        self.trace.append(f"{what} left")

    def lifespan(self, session: Session) -> Any:
        return self.context("lifespan")

    async def ask(self) -> None:
        try:
            await self.session.ask("ping")
        except SessionTerminated as error:
            self.trace.append(f"question failed: {error.reason.value}")

    async def on_terminated(self, session: Session, reason: TerminationReason) -> None:
        assert session.state is SessionState.TERMINATED
        assert session.termination_reason is reason
        assert session not in self.manager.sessions()
        assert not session.busy
        assert any(isinstance(event, Disconnected) for event in taken(self.events))
        self.trace.append(f"hook: {reason.value}")

    async def wait(self) -> None:
        reason = await self.session.wait_terminated()
        self.trace.append(f"waiter: {reason.value}")

    def router(self) -> Router:
        router = Router("test", lifespan=self.lifespan)

        @router.tool()
        async def work(ctx: RequestContext) -> None:
            await self.play("handler", self.handler_does)

        return router

    async def furnish(self, manager: SessionManager, nursery: trio.Nursery) -> None:
        """Open the session, and let it hold everything that there is to hold."""
        outlet = SlowOutlet(self.trace)
        self.manager = manager
        self.session = session = await accept(
            manager, outlet, transport=Transport("test"), principal=OWNER
        )
        for message in (
            initialize(),
            notification("notifications/initialized"),
            request(1, "tools/call", {"name": "work"}),
        ):
            receive(session, msgspec.json.encode(message), outlet)
        await wait_all_tasks_blocked()
        assert session.state is SessionState.ACTIVE
        session.start_soon(self.play, "task", self.task_does)
        session.start_soon(self.play, "service", self.service_does, service=True)
        session.start_soon(self.ask)
        await session.enter_async_context(self.context("first"))
        await session.enter_async_context(self.context("second"))
        nursery.start_soon(self.wait)
        await wait_all_tasks_blocked()


def taken(subscription: EventStream) -> list[Event]:
    events = []
    while True:
        try:
            events.append(subscription.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


def assert_in_order(trace: list[str], reason: str) -> None:
    assert trace[:3] == [
        f"answered: Session has ended: {reason}",
        f"question failed: {reason}",
        "flushed",
    ]
    # These three end together, in the order that Trio likes.
    assert sorted(trace[3:6]) == ["handler cancelled", "service cancelled", "task cancelled"]
    assert trace[6:] == [
        "second left",
        "first left",
        "lifespan left",
        f"hook: {reason}",
        f"waiter: {reason}",
    ]


@asynccontextmanager
async def furnished(scene: Scene) -> AsyncIterator[Session]:
    """A furnished session, which the body ends; its whole end is over when this is left."""
    hooks = SessionHooks(on_session_terminated=scene.on_terminated)
    async with serving(scene.router(), cleanup=BUDGETS, hooks=hooks) as manager:
        with manager.subscribe() as scene.events:
            async with trio.open_nursery() as nursery:
                await scene.furnish(manager, nursery)
                yield scene.session
        assert leftovers(manager, scene.session) == []


async def terminate(scene: Scene) -> None:
    scene.session.terminate()


async def terminate_for_another_reason(scene: Scene) -> None:
    scene.session.terminate(TerminationReason.UNRESPONSIVE)


async def terminate_by_id(scene: Scene) -> None:
    assert scene.manager.terminate_session(scene.session.session_id)
    assert not scene.manager.terminate_session(scene.session.session_id)


async def revoke(scene: Scene) -> None:
    assert scene.manager.revoke(OWNER) == 1
    assert scene.manager.revoke(OWNER) == 0


async def update(scene: Scene) -> None:
    update_session_state(scene.session, SessionState.TERMINATING, reason=TerminationReason.EVICTED)


async def clean_up(scene: Scene) -> None:
    assert await cleanup_session(scene.session) is TerminationReason.REQUESTED


async def outlive(scene: Scene) -> None:
    scene.session.renew(10)


async def drain(scene: Scene) -> None:
    report = await scene.session.drain(grace=3)
    assert report.cancelled == (scene.session.session_id,)


async def drain_manager(scene: Scene) -> None:
    report = await scene.manager.drain(grace=0)
    assert report.cancelled == (scene.session.session_id,)


@pytest.mark.parametrize(
    "end, reason",
    [
        (terminate, "requested"),
        (terminate_for_another_reason, "unresponsive"),
        (terminate_by_id, "requested"),
        (revoke, "revoked"),
        (update, "evicted"),
        (clean_up, "requested"),
        (outlive, "lifetime"),
    ],
)
async def test_order_of_ending_from_outside(
    end: Callable[[Scene], Awaitable[None]], reason: str, autojump_clock: MockClock
) -> None:
    scene = Scene()
    async with furnished(scene):
        await end(scene)
    assert_in_order(scene.trace, reason)


@pytest.mark.parametrize("end", [drain, drain_manager])
async def test_order_of_ending_when_drained(
    end: Callable[[Scene], Awaitable[None]], autojump_clock: MockClock
) -> None:
    scene = Scene()
    async with furnished(scene):
        await end(scene)
    assert_in_order(scene.trace, "shutdown")


@pytest.mark.parametrize("who", ["handler", "task", "service"])
async def test_order_of_ending_from_inside(who: str, autojump_clock: MockClock) -> None:
    scene = Scene()

    async def end_it() -> None:
        for reason in TerminationReason:
            scene.session.terminate(reason)  # The first one stays.

    setattr(scene, f"{who}_does", end_it)
    async with furnished(scene):
        scene.acts.set()
    assert_in_order(scene.trace, "client closed")


@pytest.mark.parametrize("who", ["task", "service"])
async def test_order_of_ending_when_a_task_crashes(who: str, autojump_clock: MockClock) -> None:
    scene = Scene()
    error = ExceptionGroup("two", [ValueError("one"), KeyError("other")])

    async def crash() -> None:
        # If the reason were known only when the nursery is joined, this would take its place.
        trio.lowlevel.spawn_system_task(end_it)
        raise error

    async def end_it() -> None:
        scene.session.terminate(TerminationReason.EVICTED)

    setattr(scene, f"{who}_does", crash)
    async with furnished(scene) as session:
        with session.subscribe() as events:
            scene.acts.set()
            await session.wait_terminated()
            told = taken(events)
    scene.trace.insert(4, f"{who} cancelled")  # It crashed instead.
    assert_in_order(scene.trace, "crashed")
    assert session.error is error
    (report,) = errors_of(told)
    assert isinstance(report, TaskCrashed)
    assert report.task == "Scene.play"
    assert report.__cause__ is error
    assert isinstance(told[-1], Disconnected)
    assert told[-1].error is error


async def test_order_of_ending_from_a_held_context(autojump_clock: MockClock) -> None:
    scene = Scene()

    @asynccontextmanager
    async def ending() -> AsyncIterator[None]:
        scene.session.terminate()
        yield

    async with furnished(scene) as session:
        with pytest.raises(SessionTerminated):
            await session.enter_async_context(ending())
            await session.enter_async_context(ending())
    assert_in_order(scene.trace, "requested")


async def test_order_of_ending_from_another_session(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with furnished(scene) as session:
        async with scene.manager.open_session() as other:
            other.start_soon(cleanup_session, session)
            await session.wait_terminated()
    # The other session's end is told by the same hook.
    assert scene.trace.pop() == "hook: requested"
    assert_in_order(scene.trace, "requested")


async def test_order_of_ending_from_a_hook(autojump_clock: MockClock) -> None:
    scene = Scene()

    async def on_changed(session: Session, old: SessionState, new: SessionState) -> None:
        if new is SessionState.ACTIVE:
            await trio.sleep(1)
            session.terminate()

    hooks = (
        SessionHooks(on_state_changed=on_changed),
        SessionHooks(on_session_terminated=scene.on_terminated),
    )
    async with serving(scene.router(), cleanup=BUDGETS, hooks=hooks) as manager:
        with manager.subscribe() as scene.events:
            async with trio.open_nursery() as nursery:
                await scene.furnish(manager, nursery)
    assert_in_order(scene.trace, "requested")


@pytest.mark.parametrize(
    "how, reason", [("normally", "shutdown"), ("error", "shutdown"), ("cancelled", "cancelled")]
)
async def test_order_of_ending_with_the_manager(
    how: str, reason: str, autojump_clock: MockClock
) -> None:
    scene = Scene()
    config = SessionConfig(cleanup=attrs.evolve(BUDGETS, drain_grace=3))
    hooks = SessionHooks(on_session_terminated=scene.on_terminated)

    async def use(outside: trio.CancelScope, nursery: trio.Nursery) -> None:
        async with open_session_manager(scene.router(), config=config, hooks=hooks) as manager:
            scene.manager = manager
            scene.events = stack.enter_context(manager.subscribe())
            await scene.furnish(manager, nursery)
            if how == "error":
                raise ValueError
            if how == "cancelled":
                outside.cancel()

    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            try:
                with trio.CancelScope() as outside:
                    await use(outside, nursery)
            except ValueError:
                assert how == "error"
    assert_in_order(scene.trace, reason)
    assert leftovers(scene.manager, scene.session) == []


async def test_unknown_at_once_but_listed_until_nothing_is_left(
    autojump_clock: MockClock,
) -> None:
    scene = Scene()
    async with furnished(scene) as session:
        manager = scene.manager
        session.terminate()
        assert manager.get_session(session.session_id) is None
        assert manager.list_sessions() == []
        for _ in range(3):
            await trio.sleep(0.4)
            assert manager.sessions() == [session]
            assert manager.statistics().states == {SessionState.TERMINATING: 1}
            assert manager.store.of_principal(OWNER) == [session]
        await session.wait_terminated()
        assert manager.statistics().ended == {TerminationReason.REQUESTED: 1}
    assert_in_order(scene.trace, "requested")


async def test_the_flush_of_a_sink_that_hangs_ends_at_its_budget(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with serving(Router("test"), cleanup=BUDGETS) as manager:
        session = await accept(manager, SlowOutlet(trace, hangs=True), transport=Transport("test"))
        session.terminate()
        began = trio.current_time()
        await session.wait_terminated()
        assert trio.current_time() - began == 1
    assert trace == ["flushed"]


# Lifespans.


@final
@attrs.define(eq=False)
class FailsToEnter(AbstractAsyncContextManager[None]):
    """A lifespan that does something, and then fails."""

    session: Session
    before: Callable[[Session], Awaitable[None]]
    error: Exception

    @staticmethod
    def after(before: Callable[[Session], Awaitable[None]], error: Exception) -> Lifespan:
        return lambda session: FailsToEnter(session, before, error)

    async def __aenter__(self) -> None:
        await self.before(self.session)
        raise self.error

    async def __aexit__(self, *_: object) -> None: ...


async def test_lifespan_that_fails_at_the_start(autojump_clock: MockClock) -> None:
    error = ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    opened: list[Session] = []
    reported: list[Exception] = []

    async def begin(session: Session) -> None:
        opened.append(session)
        session.start_soon(trio.sleep_forever)
        session.start_soon(trio.sleep_forever, service=True)

    async def on_error(session: Session, error: Exception) -> None:
        reported.append(error)

    async with serving(Router("test"), hooks=SessionHooks(on_error=on_error)) as manager:
        with manager.subscribe() as events:
            with pytest.RaisesGroup(ValueError, KeyError) as caught:
                await manager.create_session(lifespan=FailsToEnter.after(begin, error))
            assert caught.value is error
            told = taken(events)
        (session,) = opened
        assert session.termination_reason is TerminationReason.CRASHED
        assert session.error is error
        (report,) = errors_of(told)
        assert reported == [report]
        assert isinstance(report, LifespanFailed)
        assert "FailsToEnter" in report.what
        assert report.__cause__ is error
        assert not any(isinstance(event, Connected) for event in told)
        assert isinstance(told[-1], Disconnected)
        assert told[-1].error is error
        assert leftovers(manager, session) == []


async def test_lifespan_that_fails_at_the_end(autojump_clock: MockClock) -> None:
    error = ValueError("at the end")

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        yield
        raise error

    async with serving(Router("test")) as manager:
        session = await manager.create_session(lifespan=lifespan)
        with session.subscribe() as events:
            session.terminate()
            assert await session.wait_terminated() is TerminationReason.REQUESTED
            (report,) = errors_of(taken(events))
        assert isinstance(report, CleanupFailed)
        assert report.what == f"lifespan {lifespan.__qualname__}"
        assert report.__cause__ is error
        assert session.error is report
        assert leftovers(manager, session) == []


async def test_a_lifespan_that_is_not_a_context_manager_is_refused() -> None:
    async with serving(Router("test")) as manager:
        with pytest.raises(TypeError):
            await manager.create_session(lifespan=lambda session: None)  # type: ignore[arg-type,return-value]  # that's the mistake
        assert leftovers(manager) == []


async def test_lifespan_is_left_under_its_budget(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        yield
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with serving(Router("test"), cleanup=BUDGETS) as manager:
        session = await manager.create_session(lifespan=lifespan)
        await trio.sleep(3)
        session.terminate()
        await session.wait_terminated()
        assert ended == [13]
        assert isinstance(session.error, CleanupFailed)
        assert session.error.what == f"lifespan {lifespan.__qualname__} ran over its budget"
        assert session.termination_reason is TerminationReason.REQUESTED


async def test_held_contexts_and_lifespan_share_a_budget(autojump_clock: MockClock) -> None:
    trace: list[tuple[str, float]] = []

    @asynccontextmanager
    async def slow(what: str, seconds: float) -> AsyncIterator[None]:
        yield
        try:
            await trio.sleep(seconds)
        finally:
            trace.append((what, trio.current_time()))

    async with serving(Router("test"), cleanup=BUDGETS) as manager:
        session = await manager.create_session(lifespan=lambda session: slow("lifespan", 6))
        await session.enter_async_context(slow("held", 7))
        session.terminate()
        await session.wait_terminated()
        assert trace == [("held", 7), ("lifespan", 10)]


async def test_told_to_end_while_the_lifespan_is_entered(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    async def begin(session: Session) -> None:
        opened.append(session)
        try:
            await trio.sleep_forever()
        finally:
            trace.append("given up")

    lifespan = FailsToEnter.after(begin, ValueError())
    opened: list[Session] = []
    async with serving(Router("test")) as manager:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def create() -> None:
                with pytest.raises(SessionTerminated) as caught:
                    await manager.create_session(lifespan=lifespan)
                assert caught.value.reason is TerminationReason.EVICTED

            await wait_all_tasks_blocked()
            opened[0].terminate(TerminationReason.EVICTED)
        assert trace == ["given up"]
        assert opened[0].error is None
        assert leftovers(manager, opened[0]) == []


async def test_told_to_end_when_the_lifespan_was_all_but_entered(
    autojump_clock: MockClock,
) -> None:
    """It was entered, so it has its budget to be left in: not a cancelled scope."""
    trace: list[str] = []
    go_on = trio.Event()
    opened: list[Session] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        opened.append(session)
        session.start_soon(work)
        await go_on.wait()
        yield
        await trio.sleep(5)
        trace.append("left")

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            trace.append("work ended")

    async with serving(Router("test"), cleanup=BUDGETS) as manager:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def create() -> None:
                with pytest.raises(SessionTerminated):
                    await manager.create_session(lifespan=lifespan)

            await wait_all_tasks_blocked()
            go_on.set()
            opened[0].terminate()
        assert trace == ["work ended", "left"]
        assert opened[0].error is None
        assert leftovers(manager, opened[0]) == []


async def test_lifespan_of_a_connection_is_entered_after_initialize(
    autojump_clock: MockClock,
) -> None:
    """The one that fails answers ``initialize`` with an error."""
    trace: list[str] = []

    async def begin(session: Session) -> None:
        assert session.client is not None
        trace.append(f"entered for {session.client.client_id}")
        await trio.sleep(1)

    lifespan = FailsToEnter.after(begin, ValueError())
    async with serving(Router("test", lifespan=lifespan)) as manager:
        outlet = SlowOutlet(trace)
        session = await accept(manager, outlet, transport=Transport("test"))
        await trio.sleep(5)
        assert trace == []
        receive(session, msgspec.json.encode(initialize()), outlet)
        assert await session.wait_terminated() is TerminationReason.CRASHED
        assert trace == [
            "entered for tester",
            "answered: Session has ended: crashed",
            "flushed",
        ]
        assert leftovers(manager, session) == []


# Contexts held by a session that never opens.


@asynccontextmanager
async def noted(trace: list[str]) -> AsyncIterator[None]:
    yield
    await trio.sleep(1)
    trace.append("left")


async def test_context_held_by_a_lifespan_that_fails(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    async def begin(session: Session) -> None:
        await session.enter_async_context(noted(trace))

    async with serving(Router("test")) as manager:
        with pytest.raises(ValueError, match="no"):
            await manager.create_session(lifespan=FailsToEnter.after(begin, ValueError("no")))
        assert trace == ["left"]


async def test_context_held_by_a_hook_that_refuses(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    error = ValueError("no")

    async def refuse(session: Session) -> None:
        await session.enter_async_context(noted(trace))
        raise error

    async with serving(Router("test"), hooks=SessionHooks(on_session_created=refuse)) as manager:
        with pytest.raises(SessionVetoed) as caught:
            await manager.create_session()
        assert caught.value.__cause__ is error
        assert trace == ["left"]
        assert manager.statistics().refused == {"SessionVetoed": 1}


async def test_a_context_held_by_a_session_without_a_handshake_is_left(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    async with serving(Router("test")) as manager:
        session = await accept(manager, SlowOutlet([]), transport=Transport("test"))
        await wait_all_tasks_blocked()
        await session.enter_async_context(noted(trace))
        session.terminate()
        await session.wait_terminated()
        assert trace == ["left"]


# Hooks around the opening.


async def test_told_to_end_by_the_hook_that_accepts() -> None:
    told: list[TerminationReason] = []

    async def on_created(session: Session) -> None:
        session.terminate(TerminationReason.REVOKED)

    async def on_terminated(session: Session, reason: TerminationReason) -> None:
        told.append(reason)

    hooks = SessionHooks(on_session_created=on_created, on_session_terminated=on_terminated)
    async with serving(Router("test"), hooks=hooks) as manager:
        with pytest.raises(SessionTerminated) as caught:
            await manager.create_session()
        assert caught.value.reason is TerminationReason.REVOKED
        assert told == [TerminationReason.REVOKED]


async def test_a_failing_hook_at_the_end_does_not_block_waiters() -> None:
    async def on_terminated(session: Session, reason: TerminationReason) -> None:
        raise ValueError

    hooks = SessionHooks(on_session_terminated=on_terminated)
    async with serving(Router("test"), hooks=hooks) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
        assert manager.statistics().hook_failures == 1
        assert leftovers(manager, session) == []


# Creators that are cancelled.


@pytest.mark.parametrize("with_lifespan", [False, True])
async def test_a_creator_cancelled_at_any_step_leaves_no_session(
    with_lifespan: bool, autojump_clock: MockClock
) -> None:
    trace: list[str] = []
    seen: list[Session] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        trace.append("entering")
        await trio.sleep(1)
        yield
        await trio.sleep(1)
        trace.append("left")

    async def on_created(session: Session) -> None:
        seen.append(session)
        await trio.sleep(1)

    hooks = SessionHooks(on_session_created=on_created)

    async def attempt(step: int) -> bool:
        trace.clear()
        session = None
        with cancelled_at_step(step) as scope:
            session = await manager.create_session(
                principal=OWNER, lifespan=lifespan if with_lifespan else None
            )
        if session is not None:
            session.terminate()
            await session.wait_terminated()
            assert trace == ["entering", "left"] * with_lifespan
        assert leftovers(manager, *seen) == []
        return not scope.cancel_called

    async with serving(Router("test"), hooks=hooks) as manager:
        assert await at_every_step(attempt) > 3
        assert {one.termination_reason for one in seen} == {
            TerminationReason.CANCELLED,
            TerminationReason.REQUESTED,
        }


# Interrupts.


async def test_interrupt_in_a_task_comes_out_of_the_manager(autojump_clock: MockClock) -> None:
    """It is not contained; what there is of other sessions is cleaned up all the same."""
    trace: list[str] = []

    @asynccontextmanager
    async def closed(what: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(1)  # noqa: ASYNC102  # under the session's budget
            trace.append(what)

    async def interrupted() -> None:
        await trio.sleep(1)
        raise KeyboardInterrupt

    async def use() -> None:
        async with open_session_manager() as manager:
            for _ in range(2):
                session = await manager.create_session(lifespan=lambda _: closed("lifespan"))
                sessions.append(session)
                await session.enter_async_context(closed("held"))
            sessions[-1].start_soon(interrupted)
            await trio.sleep_forever()

    sessions: list[Session] = []
    with pytest.raises(KeyboardInterrupt):
        await use()
    assert [session.termination_reason for session in sessions] == [
        TerminationReason.CANCELLED,
        TerminationReason.CRASHED,
    ]
    assert all(session.state is SessionState.TERMINATED for session in sessions)
    assert sorted(trace) == ["held", "held", "lifespan", "lifespan"]


async def test_a_lifespan_whose_own_task_crashes_is_reported_as_the_crash(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> None:
        await trio.sleep(2)
        raise ValueError("the browser has gone")

    @asynccontextmanager
    async def browser(_: Session) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield

    async with serving(Router("test")) as manager:
        session = await manager.create_session(lifespan=browser)
        with session.subscribe() as events:
            assert await session.wait_terminated() is TerminationReason.CRASHED
            (report,) = errors_of(taken(events))
        assert isinstance(report, LifespanFailed)
        assert report.what == f"lifespan {browser.__qualname__}"
        with pytest.RaisesGroup(ValueError):
            raise session.error or AssertionError
    (record,) = caplog.records
    assert browser.__qualname__ in record.getMessage()
    assert "the browser has gone" in caplog.text


async def test_sys_exit_in_a_lifespan_ends_its_session_only(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def leaves(_: Session) -> AsyncIterator[None]:
        argparse.ArgumentParser().parse_args(["--unknown"])  # as many a program ends itself
        yield  # pragma: no cover  # it does not come to that

    async with serving(Router("test")) as manager:
        neighbour = await manager.create_session()
        with pytest.raises(ExitRequested):
            await manager.create_session(lifespan=leaves)
        assert neighbour.state is SessionState.ACTIVE


# A bug in the last steps of a session.


def fail(*_: object) -> None:
    raise RuntimeError("a bug")


async def fail_later() -> None:
    await trio.lowlevel.checkpoint()
    fail()


async def test_one_before_the_nursery_is_closed_ends_its_session_only(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with serving(Router("test")) as manager:
        neighbour = await manager.create_session()
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        await session.enter_async_context(trio.open_nursery())  # It waits to be released.
        with monkeypatch.context() as patch:
            patch.setattr(life, "_flush", lambda _: fail_later())
            session.terminate()
            await session.wait_terminated()
        assert isinstance(session.error, CleanupFailed)
        assert neighbour.state is SessionState.ACTIVE


async def test_one_in_a_child_ends_its_session_only(autojump_clock: MockClock) -> None:
    async with serving(Router("test")) as manager:
        neighbour = await manager.create_session()
        session = await manager.create_session()
        session._spawn(fail_later, name="child")
        assert await session.wait_terminated() is TerminationReason.CRASHED
        assert isinstance(session.error, RuntimeError)
        assert neighbour.state is SessionState.ACTIVE


async def test_an_error_in_the_last_step_of_an_end_does_not_block_waiters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        async with open_session_manager() as manager:
            session = await manager.create_session()
            monkeypatch.setattr(Session, "_end_owned_sessions", fail)
            session.terminate()
            await session.wait_terminated()
    assert manager.sessions() == []
    assert leftovers(manager, session) == []
