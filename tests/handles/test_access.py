"""Handles: their owners, which task may use them when, and that they are sessions in all else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    at_every_step,
    cancelled_at_step,
    connect,
    events_so_far,
    leftovers,
    manager_of,
    serving,
)
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    Connected,
    Disconnected,
    Error,
    Handle,
    HandleKind,
    LifespanFailed,
    LifetimeExpiring,
    NoPrincipal,
    Principal,
    Router,
    Session,
    SessionHooks,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionTerminated,
    SessionVetoed,
    ShuttingDown,
    StateChanged,
    TerminationReason,
    UnknownHandle,
    current_session,
    validate_sessions,
)
from trio_mcp_session.handles import access as handles

ALICE, BOB = Principal("alice"), Principal("bob")
MARK: ContextVar[str] = ContextVar("mark", default="")
REASON = TerminationReason


@final
@attrs.define(eq=False)
class Box:
    """What a handle stands for here: it knows where it was opened, and whether it still is."""

    label: str
    session: Session
    task: trio.lowlevel.Task
    mark: str
    closed: bool = False


@asynccontextmanager
async def open_box(label: str = "", *, slow: float = 0) -> AsyncIterator[Box]:
    await trio.sleep(slow)
    box = Box(label, current_session(), trio.lowlevel.current_task(), MARK.get())
    try:
        yield box
    finally:
        assert trio.lowlevel.current_task() is box.task
        assert current_session() is box.session
        box.closed = True


BOXES = HandleKind[Box]("box", open_box)
TWINS = HandleKind[Box]("box", open_box)
SHARED = HandleKind[Box]("shared", open_box, concurrent=True)


async def opened(
    manager: SessionManager,
    principal: Principal | None = ALICE,
    kind: HandleKind[Box] = BOXES,
    /,
    *args: Any,
    **kwargs: Any,
) -> Handle[Box]:
    return await handles.open_handle(manager, principal, kind, args, kwargs)


def use(handle: Handle[Box]) -> Any:
    """Use a handle as its owner does."""
    session = handle.session
    return handles.use_handle(manager_of(session), session.principal, handle.kind, handle.handle_id)


async def close(handle: Handle[Box]) -> bool:
    session = handle.session
    return await handles.close_handle(
        manager_of(session), session.principal, handle.kind, handle.handle_id
    )


@asynccontextmanager
async def managing(**settings: Any) -> AsyncIterator[SessionManager]:
    """A manager whose handles leave nothing behind."""
    seen: list[Session] = []

    async def note(session: Session) -> None:
        seen.append(session)

    hooks = [SessionHooks(on_session_created=note), *settings.pop("hooks", ())]
    async with serving(Router("test"), hooks=hooks, **settings) as manager:
        yield manager
    assert leftovers(manager, *seen) == []


@asynccontextmanager
async def one_handle(
    kind: HandleKind[Box] = BOXES, principal: Principal | None = ALICE, **settings: Any
) -> AsyncIterator[Handle[Box]]:
    async with managing(**settings) as manager:
        yield await opened(manager, principal, kind)


# Opening.


async def test_a_handle_is_a_session() -> None:
    async with managing() as manager:
        with assert_checkpoints():
            handle = await opened(manager, ALICE, BOXES, "red")
        session = handle.session
        assert manager.sessions() == [session]
        assert session.handle is handle
        assert session.session_id == handle.handle_id
        assert session.kind is SessionKind.HANDLE
        assert session.state is SessionState.ACTIVE
        assert session.principal == ALICE
        assert session.transport.name == "application"
        assert handle.kind is BOXES
        assert handle.value.label == "red"
        assert handle.value.session is session
        assert repr(handle) == f"<Handle of HandleKind('box') in {session!r}>"


async def test_ids_have_a_prefix_and_192_random_bits() -> None:
    async with managing() as manager:
        ids = {(await opened(manager)).handle_id for _ in range(50)}
        assert len({one[:12] for one in ids}) == 50
        assert all(one.startswith("box_") and len(one) == 4 + 32 for one in ids)


async def test_other_sessions_have_no_handle() -> None:
    async with managing() as manager:
        session = await manager.create_session()
        assert session.handle is None


async def test_handles_have_no_public_constructor() -> None:
    async with one_handle() as handle:
        with pytest.raises(TypeError, match="no public constructor"):
            Handle(handle.session, BOXES)


async def test_a_handle_outlives_the_task_that_opened_it_without_its_context_variables() -> None:
    """Neither in the task, nor in its scopes, nor among its context variables."""
    async with managing() as manager:
        handle: Handle[Box]
        async with trio.open_nursery() as nursery:

            async def handler() -> None:
                nonlocal handle
                MARK.set("of a request")
                handle = await opened(manager)
                nursery.cancel_scope.cancel()

            nursery.start_soon(handler)
        await wait_all_tasks_blocked()
        assert handle.value.mark == ""
        assert handle.session.state is SessionState.ACTIVE


async def test_its_clocks_are_the_kinds(autojump_clock: MockClock) -> None:
    kind = HandleKind[Box]("box", open_box, idle_timeout=7, lifetime=9)
    async with managing(cleanup=CleanupConfig(idle_after=3)) as manager:
        handle = await opened(manager, ALICE, kind)
        clocks = handle.session._clocks
        assert (clocks.max_idle_time, clocks.max_session_time, clocks.idle_after) == (7, 9, 3)
        assert handle.session.time_left == 9


async def test_an_opener_that_fails_leaves_nothing() -> None:
    async with managing() as manager:

        @asynccontextmanager
        async def broken(error: Exception | None) -> AsyncIterator[Box]:
            await trio.lowlevel.checkpoint()
            if error is not None:
                raise error
            yield Box("", current_session(), trio.lowlevel.current_task(), "")

        kind = HandleKind[Box]("box", broken, max_handles=1)
        for error in (OSError("no box"), ValueError("no box")):
            with pytest.raises(type(error), match="no box") as caught:
                await opened(manager, ALICE, kind, error)
            assert caught.value is error
            assert manager.sessions() == []
        await opened(manager, ALICE, kind, None)
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await opened(manager, ALICE, BOXES, size=3)


async def test_cancelled_while_it_is_opened() -> None:
    """In whatever step: nothing is left, or it is open."""
    async with managing() as manager:

        async def attempt(step: int) -> bool:
            with cancelled_at_step(step) as scope:
                handle = await opened(manager, ALICE, BOXES)
            if scope.cancelled_caught:
                assert manager.sessions() == []
                return False
            assert handle.value.session.state is SessionState.ACTIVE
            assert await close(handle)
            return True

        assert await at_every_step(attempt) > 2


async def test_a_hook_may_refuse_one_by_its_kind() -> None:
    asked: list[Handle[Any] | None] = []

    async def no_twins(session: Session) -> None:
        handle = session.handle
        asked.append(handle)
        if handle is not None:
            with pytest.raises(LookupError, match="not open"):
                _ = handle.value
            if handle.kind is TWINS:
                raise ValueError("no twins")

    async with managing(hooks=[SessionHooks(on_session_created=no_twins)]) as manager:
        with pytest.raises(SessionVetoed):
            await opened(manager, ALICE, TWINS)
        box = await opened(manager)
        await manager.create_session()
        assert asked[1:] == [box, None]
        assert manager.statistics().refused == {"SessionVetoed": 1}


# Looking up.


async def test_the_owner_finds_it() -> None:
    async with one_handle() as handle:
        manager = manager_of(handle.session)
        with assert_no_checkpoints():
            assert handles.get_handle(manager, ALICE, BOXES, handle.handle_id) is handle


async def test_without_a_principal_the_id_is_what_counts() -> None:
    async with one_handle(principal=None) as handle:
        manager = manager_of(handle.session)
        assert handles.get_handle(manager, None, BOXES, handle.handle_id) is handle
        with pytest.raises(UnknownHandle):
            handles.get_handle(manager, ALICE, BOXES, handle.handle_id)


async def test_looking_a_handle_up_does_not_postpone_its_idle_timeout(
    autojump_clock: MockClock,
) -> None:
    async with one_handle() as handle:
        await trio.sleep(10)
        handles.get_handle(manager_of(handle.session), ALICE, BOXES, handle.handle_id)
        assert handle.session.idle_time == 10


async def _unknown(manager: SessionManager, how: str) -> tuple[Principal | None, str]:  # noqa: PLR0911  # there are that many
    """Return which principal asks for what, and must not find it."""
    handle = await opened(manager)
    match how:
        case "never was":
            return ALICE, "box_" + "x" * 32
        case "no id":
            return ALICE, "box \n"
        case "too long":
            return ALICE, handle.handle_id + "x" * 200
        case "part of one":
            return ALICE, handle.handle_id[:-1]
        case "somebody else's":
            return BOB, handle.handle_id
        case "known to nobody":
            return None, handle.handle_id
        case "of another kind":
            return ALICE, (await opened(manager, ALICE, TWINS)).handle_id
        case "by hand":
            return ALICE, (await manager.create_session(principal=ALICE)).session_id
        case "a connection":
            return ALICE, (await connect(manager, principal=ALICE)).session.session_id
        case "ending":
            handle.session.terminate()
            return ALICE, handle.handle_id
        case _:
            assert how == "closed"
            assert await close(handle)
            return ALICE, handle.handle_id


@pytest.mark.parametrize(
    "how",
    [
        "never was",
        "no id",
        "too long",
        "part of one",
        "somebody else's",
        "known to nobody",
        "of another kind",
        "by hand",
        "a connection",
        "ending",
        "closed",
    ],
)
async def test_unknown_for_whatever_reason(how: str) -> None:
    async with managing() as manager:
        principal, handle_id = await _unknown(manager, how)
        texts: set[str] = set()
        with pytest.raises(UnknownHandle) as caught:
            handles.get_handle(manager, principal, BOXES, handle_id)
        assert caught.value.handle_id == handle_id
        texts.add(str(caught.value))
        with pytest.raises(UnknownHandle) as caught:
            async with handles.use_handle(manager, principal, BOXES, handle_id):
                raise AssertionError(how)  # pragma: no cover  # that is the point
        texts.add(str(caught.value))
        # Only the owner gets the reason; see `test_ended_handles`.
        reason = REASON.REQUESTED if how in {"ending", "closed"} else None
        assert texts == {str(UnknownHandle(handle_id, reason))}
        with assert_checkpoints():
            assert not await handles.close_handle(manager, principal, BOXES, handle_id)
        assert all(not one.busy for one in manager.sessions())


async def test_unknown_until_it_is_open(autojump_clock: MockClock) -> None:
    async with managing() as manager, trio.open_nursery() as nursery:
        nursery.start_soon(partial(opened, manager, slow=5))
        await trio.sleep(1)
        (session,) = manager.sessions()
        assert session.state is SessionState.INITIALIZING
        with pytest.raises(UnknownHandle):
            handles.get_handle(manager, ALICE, BOXES, session.session_id)
        assert handles.list_handles(manager, ALICE, BOXES) == []
        await trio.sleep(5)
        assert handles.list_handles(manager, ALICE, BOXES) == [session.handle]


async def test_list_handles_returns_the_live_handles_of_a_principal_and_kind_oldest_first() -> None:
    async with managing() as manager:
        mine = [await opened(manager) for _ in range(20)]
        await opened(manager, BOB)
        await opened(manager, None)
        await opened(manager, ALICE, TWINS)
        await manager.create_session(principal=ALICE)
        async with use(mine[0]):
            pass  # Used or not, the oldest is the first.
        mine[3].session.terminate()
        with assert_no_checkpoints():
            found = handles.list_handles(manager, ALICE, BOXES)
        assert found == [*mine[:3], *mine[4:]]
        assert len(handles.list_handles(manager, BOB, BOXES)) == 1
        assert handles.list_handles(manager, Principal("carol"), BOXES) == []
        with pytest.raises(NoPrincipal):
            handles.list_handles(manager, None, BOXES)


# Using.


@pytest.mark.parametrize("kind", [BOXES, SHARED])
async def test_use_gives_the_value_and_counts_as_work(
    kind: HandleKind[Box], autojump_clock: MockClock
) -> None:
    async with one_handle(kind) as handle:
        session = handle.session
        await trio.sleep(100)
        assert session.idle_time == 100
        using = use(handle)
        with assert_checkpoints():
            box = await using.__aenter__()
        assert box is handle.value
        assert session.state is SessionState.ACTIVE
        assert session._busy == 1
        await trio.sleep(10_000)
        assert session.idle_time == 0
        with assert_no_checkpoints():
            await using.__aexit__(None, None, None)
        assert session._busy == 0
        assert session.idle_time == 0
        await trio.sleep(5)
        assert session.idle_time == 5


async def test_one_at_a_time_in_order(autojump_clock: MockClock) -> None:
    async with one_handle() as handle:
        turns: list[tuple[int, float]] = []

        async def take_turn(number: int) -> None:
            async with use(handle):
                turns.append((number, trio.current_time()))
                await trio.sleep(1)
                # In line again, behind those that have not had a turn.
            async with use(handle):
                turns.append((number, trio.current_time()))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(take_turn, number)
                await wait_all_tasks_blocked()
        assert turns == [(0, 0), (1, 1), (2, 2), (0, 3), (1, 3), (2, 3)]


async def test_a_concurrent_kind_of_handle_is_used_by_several_tasks_at_once(
    autojump_clock: MockClock,
) -> None:
    async with one_handle(SHARED) as handle:

        async def take_part() -> None:
            async with use(handle) as box, use(handle) as same_box:
                assert box is same_box
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take_part)
        assert trio.current_time() == 1


async def test_handles_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    async with managing() as manager:
        one, other = await opened(manager), await opened(manager)
        async with use(one) as box, use(other) as other_box:
            assert box is not other_box


async def test_a_task_does_not_wait_for_itself() -> None:
    async with one_handle() as handle:
        async with use(handle):
            with pytest.raises(RuntimeError, match="uses the handle already"):
                async with use(handle):
                    raise AssertionError  # pragma: no cover  # that is the point
            assert handle.session._busy == 1
        async with use(handle):
            pass  # One after the other is fine.


async def test_a_cancelled_wait_for_a_handle_frees_its_place_in_the_queue(
    autojump_clock: MockClock,
) -> None:
    async with one_handle() as handle, trio.open_nursery() as nursery:
        turns: list[int] = []
        scopes = [trio.CancelScope() for _ in range(3)]

        async def take_turn(number: int) -> None:
            with scopes[number]:
                async with use(handle):
                    turns.append(number)
                    await trio.sleep(1)

        for number in range(3):
            nursery.start_soon(take_turn, number)
            await wait_all_tasks_blocked()
        assert handle.session._busy == 3
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        assert handle.session._busy == 2
        await trio.sleep(2)
        assert turns == [0, 2]
        assert scopes[1].cancelled_caught


async def test_cancelled_before_it_begins() -> None:
    async with one_handle() as handle:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with use(handle):
                raise AssertionError  # pragma: no cover  # that is the point
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await close(handle)
        assert scope.cancelled_caught
        assert handle.session.state is SessionState.ACTIVE


# Its end, in the middle of a use.


async def crash() -> None:
    raise OSError("it broke")


async def by_close(handle: Handle[Box]) -> None:
    assert await close(handle)


async def by_termination(handle: Handle[Box]) -> None:
    handle.session.terminate()


async def by_revocation(handle: Handle[Box]) -> None:
    assert manager_of(handle.session).revoke(ALICE) == 1


async def by_lifetime(handle: Handle[Box]) -> None:
    handle.session.renew(1)
    await handle.session.wait_terminated()


async def by_crash(handle: Handle[Box]) -> None:
    handle.session.start_soon(crash)


async def by_its_own_drain(handle: Handle[Box]) -> None:
    report = await handle.session.drain(grace=3)
    assert report.cancelled == (handle.handle_id,)


async def by_the_drain_of_all(handle: Handle[Box]) -> None:
    report = await manager_of(handle.session).drain(grace=3)
    assert report.cancelled == (handle.handle_id,)


ENDS: list[tuple[Callable[[Handle[Box]], Awaitable[None]], TerminationReason]] = [
    (by_close, REASON.REQUESTED),
    (by_termination, REASON.REQUESTED),
    (by_revocation, REASON.REVOKED),
    (by_lifetime, REASON.LIFETIME),
    (by_crash, REASON.CRASHED),
    (by_its_own_drain, REASON.SHUTDOWN),
    (by_the_drain_of_all, REASON.SHUTDOWN),
]


@pytest.mark.parametrize("kind", [BOXES, SHARED])
@pytest.mark.parametrize("end, reason", ENDS)
async def test_the_end_of_a_handle_cancels_its_users_and_closes_it_after_they_left(
    end: Callable[[Handle[Box]], Awaitable[None]],
    reason: TerminationReason,
    kind: HandleKind[Box],
    autojump_clock: MockClock,
) -> None:
    """All tasks that use or await it are cancelled, and it stays open until they have left."""
    async with one_handle(kind) as handle:
        box = handle.value
        outcomes: list[str] = []

        async def work(name: str) -> None:
            with pytest.raises(UnknownHandle) as caught:
                async with use(handle):
                    outcomes.append(f"{name} works")
                    try:
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(2)
                        assert not box.closed
                        outcomes.append(f"{name} has left")
            assert caught.value.handle_id == handle.handle_id
            outcomes.append(f"{name} knows")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "one")
            await wait_all_tasks_blocked()
            nursery.start_soon(work, "two")
            await wait_all_tasks_blocked()
            await end(handle)
        works = ["one", "two"] if kind.concurrent else ["one"]
        assert [f"{name} works" for name in works] == outcomes[: len(works)]
        assert {"one knows", "two knows"} <= set(outcomes)
        assert await handle.session.wait_terminated() is reason
        assert box.closed
        with pytest.raises(LookupError):
            _ = handle.value


async def test_told_to_end_when_the_turn_came() -> None:
    """The task that has the turn ends it and leaves: the next one never begins."""
    async with one_handle() as handle, trio.open_nursery() as nursery:
        first = use(handle)
        await first.__aenter__()

        async def wait_in_line() -> None:
            with pytest.raises(UnknownHandle):
                async with use(handle):
                    raise AssertionError  # pragma: no cover  # that is the point

        nursery.start_soon(wait_in_line)
        await wait_all_tasks_blocked()
        handle.session.terminate()
        await first.__aexit__(None, None, None)


async def test_a_body_that_ended_in_time_hears_nothing() -> None:
    async with one_handle() as handle:
        async with use(handle):
            handle.session.terminate()


async def test_an_own_error_or_a_normal_exit_of_a_cancelled_body_is_kept(
    autojump_clock: MockClock,
) -> None:
    """What the body makes of its cancellation is the body's."""
    async with managing() as manager:
        handle = await opened(manager)
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            async with use(handle):
                try:
                    handle.session.terminate()
                    await trio.sleep_forever()
                finally:
                    raise error
        assert caught.value is error
        handle = await opened(manager)
        async with use(handle):
            handle.session.terminate()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            done = True  # It was cancelled, and has nothing more to wait for.
        assert done


async def test_errors_of_the_body_go_out_as_they_are() -> None:
    async with one_handle() as handle:
        for error in (ValueError("mine"), UnknownHandle("another"), trio.EndOfChannel()):
            with pytest.raises(type(error)) as caught:
                async with use(handle):
                    raise error
            assert caught.value is error
        with pytest.RaisesGroup(ValueError):
            async with use(handle), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise ValueError("mine")
        assert handle.session.state is SessionState.ACTIVE


@pytest.mark.parametrize("also_ends", [False, True])
async def test_cancelled_from_outside_is_just_that(also_ends: bool) -> None:
    async with one_handle() as handle:
        with trio.CancelScope() as scope:
            async with use(handle):
                scope.cancel()
                if also_ends:
                    handle.session.terminate()
                    with trio.CancelScope(shield=True):
                        await wait_all_tasks_blocked()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert not handle.session.busy


async def test_cancelled_in_every_step(autojump_clock: MockClock) -> None:
    """A cancelled task leaves no place in line behind, nor a lease."""
    async with one_handle() as handle:

        async def attempt(step: int) -> bool:
            async with trio.open_nursery() as nursery:

                async def before() -> None:
                    async with use(handle):
                        await trio.sleep(1)

                nursery.start_soon(before)
                await wait_all_tasks_blocked()
                with cancelled_at_step(step) as scope:
                    async with use(handle):
                        await trio.lowlevel.checkpoint()
            assert not handle.session.busy
            async with use(handle):
                pass
            return not scope.cancelled_caught

        assert await at_every_step(attempt) > 1


async def test_a_handle_in_use_by_a_shielded_task_stays_open_and_overruns_the_drain(
    autojump_clock: MockClock,
) -> None:
    cleanup = CleanupConfig(flush_budget=1, cleanup_budget=2, hook_budget=1)
    async with one_handle(cleanup=cleanup) as handle, trio.open_nursery() as nursery:
        box = handle.value

        async def stubborn() -> None:
            with pytest.raises(UnknownHandle):
                async with use(handle):
                    with trio.CancelScope(shield=True):
                        await trio.sleep(100)
                    await trio.lowlevel.checkpoint()

        nursery.start_soon(stubborn, name="stubborn")
        await wait_all_tasks_blocked()
        report = await handle.session.drain(grace=10)
        assert trio.current_time() < 20
        (tasks,) = report.overran.values()
        assert any("stubborn" in name for name in tasks)
        assert not box.closed
        await handle.session.wait_terminated()
        assert trio.current_time() == 100
        assert box.closed


# Closing.


async def test_close_waits_until_nothing_is_left() -> None:
    async with one_handle() as handle:
        box = handle.value
        with assert_checkpoints():
            assert await close(handle)
        assert box.closed
        assert handle.session.state is SessionState.TERMINATED
        assert handle.session.termination_reason is REASON.REQUESTED
        assert not await close(handle)


async def test_of_two_tasks_that_close_a_handle_one_did(autojump_clock: MockClock) -> None:
    async with one_handle() as handle, trio.open_nursery() as nursery:
        done: list[bool] = []

        async def close_it() -> None:
            done.append(await close(handle))

        nursery.start_soon(close_it)
        nursery.start_soon(close_it)
        await wait_all_tasks_blocked()
        assert sorted(done) == [False, True]


async def test_a_task_that_uses_a_handle_cannot_wait_for_its_end() -> None:
    async with one_handle() as handle:
        async with use(handle):
            with pytest.raises(RuntimeError, match="a task that uses a session cannot wait"):
                await close(handle)
        assert handle.session.state is SessionState.ACTIVE

        async def of_its_own() -> None:
            with pytest.raises(RuntimeError, match="cannot wait for its own end"):
                await close(handle)

        handle.session.start_soon(of_its_own)
        await wait_all_tasks_blocked()
        assert handle.session.state is SessionState.ACTIVE


async def test_a_cancelled_close_closes(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def open_slowly_closed() -> AsyncIterator[Box]:
        async with open_box() as box:
            yield box
            await trio.sleep(2.5)

    async with one_handle(HandleKind[Box]("box", open_slowly_closed)) as handle:
        with trio.move_on_after(1) as scope:
            await close(handle)
        assert scope.cancelled_caught
        assert trio.current_time() == 1
        assert await handle.session.wait_terminated() is REASON.REQUESTED
        assert trio.current_time() == 2.5


# Limits.


async def test_handles_of_a_kind() -> None:
    kind = HandleKind[Box]("box", open_box, max_handles=2)
    async with managing() as manager:
        first = await opened(manager, ALICE, kind)
        await opened(manager, None, kind)
        with pytest.raises(SessionLimitReached, match="too many 'box' handles") as caught:
            await opened(manager, BOB, kind)
        assert (caught.value.limit, caught.value.prefix) == (2, "box")
        assert manager.statistics().refused == {"SessionLimitReached": 1}
        await opened(manager, BOB, BOXES)  # another kind, although of one prefix
        assert await close(first)
        await opened(manager, BOB, kind)


async def test_handles_of_one_principal() -> None:
    kind = HandleKind[Box]("box", open_box, max_per_principal=1)
    async with managing() as manager:
        for principal in (ALICE, BOB):
            await opened(manager, principal, kind)
            with pytest.raises(SessionLimitReached, match="for this user") as caught:
                await opened(manager, principal, kind)
            assert caught.value.per_principal
            assert caught.value.limit == 1
        for _ in range(3):
            await opened(manager, None, kind)  # Without a principal there is no limit of one's own.


async def test_limits_of_sessions_hold_too() -> None:
    limits = SessionLimits(
        max_sessions_of={SessionKind.HANDLE: 3}, max_sessions_per_principal=2, max_sessions=1
    )
    async with managing(limits=limits) as manager:
        await opened(manager)
        await opened(manager, ALICE, TWINS)
        with pytest.raises(SessionLimitReached) as caught:
            await opened(manager)
        assert (caught.value.limit, caught.value.prefix) == (2, None)
        await opened(manager, BOB)
        with pytest.raises(SessionLimitReached) as caught:
            await opened(manager, BOB)
        assert (caught.value.limit, caught.value.per_principal) == (3, False)


async def test_the_policy_of_a_kind_evicts_its_idle_handles() -> None:
    kind = HandleKind[Box]("box", open_box, max_handles=2, admission=AdmissionPolicy.EVICT_IDLE)
    async with managing() as manager:
        first, second = await opened(manager, ALICE, kind), await opened(manager, ALICE, kind)
        async with use(first):  # The longest quiet, but in use.
            third = await opened(manager, BOB, kind)
            assert second.session.termination_reason is REASON.EVICTED
            async with use(third):
                with pytest.raises(SessionLimitReached):
                    await opened(manager, ALICE, kind)
        await opened(manager, ALICE, kind)
        assert third.session.termination_reason is REASON.EVICTED


async def test_a_kind_with_its_own_policy_evicts_no_others_and_is_not_evicted() -> None:
    """Neither does it make room for others, nor others for it."""
    precious = HandleKind[Box]("box", open_box, admission=AdmissionPolicy.REJECT)
    greedy = HandleKind[Box]("box", open_box, admission=AdmissionPolicy.EVICT_IDLE)
    limits = SessionLimits(max_sessions=2, admission=AdmissionPolicy.EVICT_IDLE)
    async with managing(limits=limits) as manager:
        await opened(manager, ALICE, precious)
        plain = await opened(manager)
        with pytest.raises(SessionLimitReached):
            await opened(manager, ALICE, greedy)
        await opened(manager, BOB)
        assert plain.session.termination_reason is REASON.EVICTED
        assert len(handles.list_handles(manager, ALICE, precious)) == 1


async def test_only_a_handle_that_frees_every_full_limit_is_evicted() -> None:
    """Of a principal's quota and a kind's both, only what frees both is ended."""
    kind = HandleKind[Box]("box", open_box, max_handles=2, max_per_principal=5)
    limits = SessionLimits(max_sessions_per_principal=2, admission=AdmissionPolicy.EVICT_IDLE)
    async with managing(limits=limits) as manager:
        of_bob = await opened(manager, BOB, kind)
        of_another_kind = await opened(manager, ALICE, TWINS)
        both = await opened(manager, ALICE, kind)
        newcomer = await opened(manager, ALICE, kind)
        assert both.session.termination_reason is REASON.REPLACED
        assert of_bob.session.termination_reason is None
        assert of_another_kind.session.termination_reason is None
        async with use(newcomer):
            with pytest.raises(SessionLimitReached) as caught:
                await opened(manager, ALICE, kind)
        # The narrowest is named: it is the one that the caller can do something about.
        assert (caught.value.per_principal, caught.value.prefix) == (True, None)


async def test_many_at_once_never_exceed_a_limit() -> None:
    kind = HandleKind[Box]("box", open_box, max_handles=3, max_per_principal=2)
    async with managing() as manager:
        outcomes: list[str] = []

        async def come(principal: Principal | None) -> None:
            try:
                await opened(manager, principal, kind)
            except SessionLimitReached as error:
                outcomes.append(str(error))
            else:
                outcomes.append("open")

        async with trio.open_nursery() as nursery:
            for principal in (ALICE, ALICE, ALICE, BOB, BOB, None):
                nursery.start_soon(come, principal)
        assert outcomes.count("open") == 3
        assert manager.store.count_handles(kind) == 3
        assert manager.store.count_handles(BOXES) == 0


# In all else they are sessions.


async def test_an_unused_handle_ends_after_its_idle_timeout(autojump_clock: MockClock) -> None:
    kind = HandleKind[Box]("box", open_box, idle_timeout=100)
    async with one_handle(kind) as handle:
        box = handle.value
        await trio.sleep(90)
        async with use(handle):
            await trio.sleep(200)
        await trio.sleep(99)
        assert not box.closed
        assert await handle.session.wait_terminated() is REASON.IDLE
        assert 390 <= trio.current_time() <= 395
        assert box.closed


async def test_a_handle_ends_after_its_lifetime(autojump_clock: MockClock) -> None:
    kind = HandleKind[Box]("box", open_box, idle_timeout=inf, lifetime=1000)
    async with one_handle(kind) as handle:
        with handle.session.subscribe() as events:
            assert await handle.session.wait_terminated() is REASON.LIFETIME
            assert any(isinstance(one, LifetimeExpiring) for one in events_so_far(events))
        assert trio.current_time() == 1000


async def test_revoke_ends_only_the_handles_of_the_principal() -> None:
    async with managing() as manager:
        mine, other, nobodys = [await opened(manager, who) for who in (ALICE, BOB, None)]
        assert manager.revoke(ALICE) == 1
        assert await mine.session.wait_terminated() is REASON.REVOKED
        assert manager.list_sessions() == [other.session, nobodys.session]


async def test_an_idle_handle_is_evicted_for_a_new_one() -> None:
    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    async with managing(limits=limits) as manager:
        first = await opened(manager)
        box = first.value
        second = await opened(manager, BOB)
        assert first.session.termination_reason is REASON.EVICTED
        assert box.closed
        assert manager.sessions() == [second.session]


async def test_a_drain_ends_idle_handles_at_once_and_gives_used_ones_the_grace(
    autojump_clock: MockClock,
) -> None:
    """Idle ones end at its beginning; those in use have the grace."""
    async with managing() as manager, trio.open_nursery() as nursery:
        idle, quick, slow = [await opened(manager) for _ in range(3)]

        async def work(handle: Handle[Box], seconds: float) -> None:
            async with use(handle):
                await trio.sleep(seconds)

        async def cut_off() -> None:
            with pytest.raises(UnknownHandle):
                await work(slow, 100)

        nursery.start_soon(work, quick, 5)
        nursery.start_soon(cut_off)
        await wait_all_tasks_blocked()
        ended: list[float] = []

        async def note_end() -> None:
            await idle.session.wait_terminated()
            ended.append(trio.current_time())

        nursery.start_soon(note_end)
        report = await manager.drain(grace=20)
        assert set(report.completed) == {idle.handle_id, quick.handle_id}
        assert report.cancelled == (slow.handle_id,)
        assert ended == [0]
        assert trio.current_time() == 20
        with pytest.raises(ShuttingDown):
            await opened(manager)


async def test_drained_while_it_is_opened(autojump_clock: MockClock) -> None:
    async with managing() as manager, trio.open_nursery() as nursery:

        async def come() -> None:
            with pytest.raises(ShuttingDown) as caught:
                await opened(manager, slow=100)
            assert isinstance(caught.value.__cause__, SessionTerminated)

        nursery.start_soon(come)
        await trio.sleep(1)
        await manager.drain(grace=50)
        assert trio.current_time() == 1


async def test_revoked_while_it_is_opened(autojump_clock: MockClock) -> None:
    async with managing() as manager, trio.open_nursery() as nursery:

        async def come() -> None:
            with pytest.raises(SessionTerminated) as caught:
                await opened(manager, slow=100)
            assert caught.value.reason is REASON.REVOKED

        nursery.start_soon(come)
        await trio.sleep(1)
        assert manager.revoke(ALICE) == 1


async def test_leaving_the_manager_closes_its_handles(autojump_clock: MockClock) -> None:
    async with managing() as manager:
        handle = await opened(manager)
        box = handle.value
    assert handle.session.termination_reason is REASON.SHUTDOWN
    assert box.closed


async def test_hooks_and_events_report_the_whole_life_of_a_handle(
    autojump_clock: MockClock,
) -> None:
    told: list[tuple[str, object]] = []

    async def created(session: Session) -> None:
        told.append(("created", session.handle and session.handle.kind))

    async def changed(session: Session, old: SessionState, new: SessionState) -> None:
        told.append(("state", new))

    async def terminated(session: Session, reason: TerminationReason) -> None:
        told.append((session.handle.kind.prefix if session.handle else "", reason))

    hooks = SessionHooks(
        on_session_created=created, on_state_changed=changed, on_session_terminated=terminated
    )
    async with managing(hooks=[hooks]) as manager:
        with manager.subscribe() as events:
            handle = await opened(manager)
            await trio.sleep(70)
            async with use(handle):
                pass
            assert await close(handle)
            seen = events_so_far(events)
    states = [
        SessionState.ACTIVE,
        SessionState.IDLE,
        SessionState.ACTIVE,
        SessionState.TERMINATING,
        SessionState.TERMINATED,
    ]
    assert told[0] == ("created", BOXES)
    assert [state for what, state in told if what == "state"] == states
    assert ("box", REASON.REQUESTED) in told
    assert isinstance(seen[0], Connected)
    assert [one.new for one in seen if isinstance(one, StateChanged)] == states
    assert isinstance(seen[-1], Disconnected)
    for one in seen:
        assert getattr(one, "session_id", None) == handle.handle_id


async def test_metrics_and_statistics_count_handles(autojump_clock: MockClock) -> None:
    async with managing() as manager:
        handle = await opened(manager)
        other = await opened(manager, BOB)
        await trio.sleep(10)
        async with use(handle):
            pass
        metrics = handle.session.metrics
        assert (metrics.last_active - metrics.created).total_seconds() == pytest.approx(10)
        assert manager.statistics().active == {SessionKind.HANDLE: 2}
        assert await close(other)
        statistics = manager.statistics()
        assert statistics.active == {SessionKind.HANDLE: 1}
        assert statistics.opened == 2
        assert statistics.ended == {REASON.REQUESTED: 1}


async def test_a_task_of_its_own_that_crashes(autojump_clock: MockClock) -> None:
    async with one_handle() as handle:
        handle.session.start_soon(crash)
        assert await handle.session.wait_terminated() is REASON.CRASHED
        assert isinstance(handle.session.error, OSError)


async def test_books_that_do_not_agree_are_found() -> None:
    async with one_handle() as handle:
        store = manager_of(handle.session).store
        store._handle_counts[BOXES] += 1
        (error,) = validate_sessions(store)
        assert "handles are counted as" in str(error)
        store._handle_counts[BOXES] -= 1
        assert validate_sessions(store) == []


# What an opener is called.


async def test_an_opener_whose_own_task_crashes_is_reported_under_its_name(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def read() -> None:
        await trio.sleep(2)
        raise ValueError("the shell has gone")

    @asynccontextmanager
    async def open_shell() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield

    shells = HandleKind[None]("shell", open_shell)
    async with serving(Router("test")) as manager:
        handle = await handles.open_handle(manager, ALICE, shells, (), {})
        with handle.session.subscribe() as events:
            assert await handle.session.wait_terminated() is REASON.CRASHED
            (error,) = (one.error for one in events_so_far(events) if isinstance(one, Error))
        assert isinstance(error, LifespanFailed)
        assert error.what == f"opener {open_shell.__qualname__}"
    (record,) = caplog.records
    assert f"opener {open_shell.__qualname__}" in record.getMessage()
    assert "the shell has gone" in caplog.text
