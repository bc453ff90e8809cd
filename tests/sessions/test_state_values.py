"""Typed state: updates that nothing comes between, times to live, and tasks that wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf, nan
from typing import Any

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import serving
from tests.leaks.guest import Guest
from trio_mcp_session import (
    ABSENT,
    Router,
    Session,
    SessionTerminated,
    StateKey,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.sessions.state_values import StateValues

COUNT = StateKey[int]("count")
NAMES = StateKey[list[str]]("names")


@asynccontextmanager
async def a_session() -> AsyncIterator[Session]:
    async with serving(Router("test")) as manager:
        yield await manager.create_session()


def add_one(count: int) -> int:
    return count + 1


def is_high(count: int) -> bool:
    return count >= 10


async def test_a_session_without_state_holds_nothing_for_it() -> None:
    async with a_session() as session:
        assert session._values is None
        assert session.get_state(COUNT, 0) == 0
        assert session.delete_state(COUNT) is False
        assert session._values is None


# Updates.


async def test_a_value_is_updated() -> None:
    async with a_session() as session:
        with assert_no_checkpoints():
            assert session.update_state(COUNT, add_one, 0) == 1
            assert session.update_state(COUNT, add_one) == 2
        assert session.get_state(COUNT) == 2


async def test_an_update_without_a_value_needs_a_default() -> None:
    async with a_session() as session:
        with pytest.raises(KeyError) as caught:
            session.update_state(COUNT, add_one)
        assert caught.value.args == (COUNT,)


async def test_an_update_that_raises_changes_nothing() -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1)
        with pytest.raises(ZeroDivisionError):
            session.update_state(COUNT, lambda count: count // 0)
        assert session.get_state(COUNT) == 1


async def test_an_update_must_not_be_async() -> None:
    async def later(_: int) -> int:
        raise AssertionError  # pragma: no cover  # it is never awaited

    fn: Any = later
    async with a_session() as session:
        session.set_state(COUNT, 1)
        with pytest.raises(TypeError, match=r"updates StateKey\('count'\) must not be async"):
            session.update_state(COUNT, fn)
        assert session.get_state(COUNT) == 1


async def test_an_update_must_not_change_the_value_by_another_call() -> None:
    async with a_session() as session:

        def twice(count: int) -> int:
            session.set_state(COUNT, count + 1)
            return count + 2

        session.set_state(COUNT, 1)
        with pytest.raises(RuntimeError, match="has changed it itself"):
            session.update_state(COUNT, twice)
        assert session.get_state(COUNT) == 2


async def test_a_value_is_replaced_if_it_is_the_expected_one() -> None:
    async with a_session() as session:
        with assert_no_checkpoints():
            assert not session.compare_and_set(COUNT, 0, 1)
            assert session.compare_and_set(COUNT, ABSENT, 1)
            assert not session.compare_and_set(COUNT, ABSENT, 2)
            assert not session.compare_and_set(COUNT, 2, 3)
            assert session.compare_and_set(COUNT, 1, 4)
        assert session.get_state(COUNT) == 4


async def test_a_value_that_does_not_equal_itself_is_compared_by_identity() -> None:
    key = StateKey[float]("number")
    async with a_session() as session:
        session.set_state(key, nan)
        assert session.compare_and_set(key, nan, 1.0)


async def test_a_value_is_removed() -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        with assert_no_checkpoints():
            assert session.delete_state(COUNT) is True
            assert session.delete_state(COUNT) is False
        assert session.get_state(COUNT, None) is None


# Times to live.


async def test_a_value_is_dropped_when_its_time_is_over(autojump_clock: MockClock) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        await trio.sleep(4.9)
        assert session.get_state(COUNT) == 1
        await trio.sleep(0.1)
        with pytest.raises(KeyError):
            session.get_state(COUNT)
        assert session.delete_state(COUNT) is False


async def test_an_update_keeps_the_time_of_the_value_unless_it_has_its_own(
    autojump_clock: MockClock,
) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        session.update_state(COUNT, add_one)
        assert session.compare_and_set(COUNT, 2, 3)
        await trio.sleep(5)
        assert session.get_state(COUNT, None) is None
        session.update_state(COUNT, add_one, 0, ttl=5)
        assert session.compare_and_set(COUNT, 1, 3, ttl=10)
        await trio.sleep(9)
        session.update_state(COUNT, add_one, ttl=inf)
        await trio.sleep(9)
        assert session.get_state(COUNT) == 4


async def test_a_value_that_is_set_again_has_no_time_to_live(autojump_clock: MockClock) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        session.set_state(COUNT, 2)
        await trio.sleep(9)
        assert session.get_state(COUNT) == 2


@pytest.mark.parametrize("ttl", [0, -1, nan])
async def test_a_time_to_live_is_positive(ttl: float) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 1)
        for change in (
            lambda: session.set_state(COUNT, 2, ttl=ttl),
            lambda: session.update_state(COUNT, add_one, ttl=ttl),
            lambda: session.compare_and_set(COUNT, 1, 2, ttl=ttl),
        ):
            with pytest.raises(ValueError, match="ttl must be more than 0 seconds"):
                change()
        assert session.get_state(COUNT) == 1


# Waiting.


async def test_a_wait_for_a_value_that_is_there_ends_at_once(autojump_clock: MockClock) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 10)
        with assert_checkpoints():
            assert await session.wait_state(COUNT, is_high) == 10
        assert await session.wait_state(NAMES, lambda names: not names, None) is None


async def test_changes_wake_waiting_tasks(autojump_clock: MockClock) -> None:
    got: list[int] = []

    async def wait(session: Session) -> None:
        with assert_checkpoints():
            got.append(await session.wait_state(COUNT, is_high))

    async with a_session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(wait, session)
        nursery.start_soon(wait, session)
        for change in (
            lambda: session.set_state(COUNT, 8),
            lambda: session.update_state(COUNT, add_one),
            lambda: session.set_state(NAMES, []),
            lambda: session.delete_state(COUNT),
        ):
            await wait_all_tasks_blocked()
            change()
        await wait_all_tasks_blocked()
        assert got == []
        session.compare_and_set(COUNT, ABSENT, 11)
        await wait_all_tasks_blocked()
        assert got == [11, 11]


async def test_a_value_that_was_replaced_at_once_is_not_seen(autojump_clock: MockClock) -> None:
    async with a_session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(session.wait_state, COUNT, is_high)
        await wait_all_tasks_blocked()
        session.set_state(COUNT, 11)
        session.set_state(COUNT, 0)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_value_wakes_tasks_that_wait_for_it(autojump_clock: MockClock) -> None:
    """By a time that changed while they waited."""
    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(session.wait_state, COUNT, lambda one: one is None, None)
            await trio.sleep(4)
            session.set_state(COUNT, 2, ttl=10)
        assert trio.current_time() == 14


async def test_a_task_that_waits_again_after_the_end_of_a_value_is_woken_by_the_next_one(
    autojump_clock: MockClock,
) -> None:
    """Several tasks begin to wait again in the same turn."""
    got: list[int | None] = []

    async def wait(session: Session, until: int | None) -> None:
        value = await session.wait_state(COUNT, lambda one: one == until, None)
        got.append(value)

    async with a_session() as session:
        session.set_state(COUNT, 1, ttl=5)
        async with trio.open_nursery() as nursery:
            for until in (2, 2, None, 2):
                nursery.start_soon(wait, session, until)
            await trio.sleep(6)
            assert got == [None]
            session.set_state(COUNT, 2)
    assert got == [None, 2, 2, 2]


async def test_a_wait_that_is_cancelled_leaves_nothing(autojump_clock: MockClock) -> None:
    async with a_session() as session:
        with trio.move_on_after(5) as scope:
            await session.wait_state(COUNT, is_high)
        assert scope.cancelled_caught
        assert session._values is not None
        assert session._values._changed == {}


async def test_a_predicate_that_raises_ends_the_wait(autojump_clock: MockClock) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 0)
        with pytest.raises(ZeroDivisionError):
            await session.wait_state(COUNT, lambda count: 1 // count)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_end_of_the_session_ends_the_wait(when: str, autojump_clock: MockClock) -> None:
    async with a_session() as session:
        session.set_state(COUNT, 10)

        async def wait() -> None:
            with pytest.raises(SessionTerminated) as caught:
                await session.wait_state(COUNT, lambda count: count > 10)
            assert caught.value.reason is TerminationReason.REQUESTED

        async with trio.open_nursery() as nursery:
            if when == "before":
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
            session.terminate()
            await session.wait_terminated()
            if when == "after":
                nursery.start_soon(wait)


async def test_a_wait_that_begins_while_the_session_ends_is_ended(
    autojump_clock: MockClock,
) -> None:
    async with a_session() as session:
        session.terminate()
        with pytest.raises(SessionTerminated):
            await session.wait_state(COUNT, is_high)


async def test_a_session_that_never_opens_ends_the_wait(autojump_clock: MockClock) -> None:
    sessions: list[Session] = []

    @asynccontextmanager
    async def slow(session: Session) -> AsyncIterator[None]:
        sessions.append(session)
        await trio.sleep(10)
        yield  # pragma: no cover  # it is never entered

    async def wait() -> None:
        with pytest.raises(SessionTerminated):
            await sessions[0].wait_state(COUNT, is_high)

    async def opening() -> None:
        with pytest.raises(SessionTerminated):
            await manager.create_session(lifespan=slow)

    async with open_session_manager() as manager, trio.open_nursery() as nursery:
        nursery.start_soon(opening)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        sessions[0].terminate()


async def test_a_task_of_the_session_that_waits_does_not_crash_at_its_end(
    autojump_clock: MockClock,
) -> None:
    async with a_session() as session:
        for service in (False, True):
            session.start_soon(session.wait_state, COUNT, is_high, service=service)
        await wait_all_tasks_blocked()
        session.terminate()
        assert await session.wait_terminated() is TerminationReason.REQUESTED
        assert session.error is None


# A model.


@attrs.define(eq=False)
class Waiter:
    """A task that waits for a value of at least ``least``, or for none."""

    least: int | None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    got: list[int | None] = attrs.field(factory=list[int | None])

    def holds(self, value: int | None) -> bool:
        if self.least is None:
            return value is None
        return value is not None and value >= self.least


class Machine(RuleBasedStateMachine):
    """Values of a session, changed in any order, beside a dictionary of values and their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.values = StateValues()
        self.keys = (StateKey[int]("a"), StateKey[int]("b"))
        self.model: dict[int, tuple[int, float]] = {}
        self.waiters: list[tuple[int, Waiter]] = []
        self.now = 0.0
        self.ended = False

    def teardown(self) -> None:
        for _, waiter in self.waiters:
            waiter.scope.cancel()
        self.guest.run(trio.lowlevel.checkpoint)
        assert not self.values._changed
        self.guest.close()

    def check_open(self) -> None:
        if self.ended:
            raise SessionTerminated(TerminationReason.REQUESTED)

    def value(self, key: int) -> int | None:
        value, end = self.model.get(key, (None, inf))
        return value if end > self.now else None

    def end_of(self, key: int, ttl: float | None) -> float:
        if ttl is not None:
            return self.now + ttl
        return inf if self.value(key) is None else self.model[key][1]

    def do(self, change: Callable[[], object]) -> Any:
        async def call() -> object:
            with assert_no_checkpoints():
                return change()

        return self.guest.run(call)

    def check(self) -> None:
        """Compare all values, and end the waiters of the model that have what they wait for."""
        for key in range(len(self.keys)):
            found = self.do(lambda key=key: self.values.get(self.keys[key], None))  # type: ignore[misc]  # of the loop
            assert found == self.value(key)
        still: list[tuple[int, Waiter]] = []
        for key, waiter in self.waiters:
            if waiter.holds(self.value(key)):
                assert waiter.got == [self.value(key)]
            else:
                assert waiter.got == []
                still.append((key, waiter))
        self.waiters = still

    KEYS = st.integers(0, 1)
    NUMBERS = st.integers(0, 3)
    TTLS = st.none() | st.sampled_from([1.0, 2.0, inf])

    @rule(key=KEYS, value=NUMBERS, ttl=TTLS)
    def set(self, key: int, value: int, ttl: float | None) -> None:
        self.do(lambda: self.values.set(self.keys[key], value, ttl))
        self.model[key] = (value, self.end_of(key, ttl))
        self.check()

    @rule(key=KEYS, ttl=TTLS)
    def update(self, key: int, ttl: float | None) -> None:
        new = (self.value(key) or 0) + 1
        assert self.do(lambda: self.values.update(self.keys[key], add_one, 0, ttl)) == new
        self.model[key] = (new, self.end_of(key, ttl))
        self.check()

    @rule(key=KEYS, expected=st.none() | NUMBERS, new=NUMBERS, ttl=TTLS)
    def compare(self, key: int, expected: int | None, new: int, ttl: float | None) -> None:
        old = ABSENT if expected is None else expected
        done = self.do(lambda: self.values.compare_and_set(self.keys[key], old, new, ttl))
        assert done == (self.value(key) == expected)
        if done:
            self.model[key] = (new, self.end_of(key, ttl))
        self.check()

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        there = self.value(key) is not None
        assert self.do(lambda: self.values.delete(self.keys[key])) == there
        self.model.pop(key, None)
        self.check()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.guest.clock.jump(seconds)
        self.now += seconds
        self.guest.run(trio.lowlevel.checkpoint)
        self.check()

    @rule(key=KEYS, least=st.none() | NUMBERS)
    def wait(self, key: int, least: int | None) -> None:
        waiter = Waiter(least)
        self.guest.run(self._begin_to_wait, key, waiter)
        self.waiters.append((key, waiter))
        self.check()

    async def _begin_to_wait(self, key: int, waiter: Waiter) -> None:
        assert self.guest.nursery is not None
        self.guest.nursery.start_soon(self._wait, key, waiter)

    async def _wait(self, key: int, waiter: Waiter) -> None:
        wanted: Any = self.keys[key]
        with waiter.scope:
            try:
                waiter.got.append(
                    await self.values.wait(wanted, waiter.holds, None, self.check_open)
                )
            except SessionTerminated:
                waiter.got.append(-1)

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiters))
        self.do(one[1].scope.cancel)
        self.waiters.remove(one)
        assert one[1].got == []
        self.check()

    @precondition(lambda self: self.waiters)
    @rule()
    def end(self) -> None:
        self.ended = True
        self.do(self.values.wake_all)
        assert all(waiter.got == [-1] for _, waiter in self.waiters)
        self.waiters = []
        self.ended = False  # As another session would be.


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30)
