"""The typed values of one session, and the tasks that wait for one of them to change.

A value with a time to live has no timer: it is dropped when it is read too late, and a
task that waits for it waits no longer than it lives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeVar, final

import attrs
import trio

from .state_keys import ABSENT, StateKey

T = TypeVar("T")

MISSING: Final[Any] = object()
"""What `StateValues.get` returns for no value, if it is given as the default."""


@final
@attrs.define(eq=False)
class StateValues:
    """Values by key. Only `wait` is a checkpoint; all other methods are atomic."""

    _values: dict[StateKey[Any], Any] = attrs.field(factory=dict[StateKey[Any], Any], init=False)
    _ends: dict[StateKey[Any], float] | None = attrs.field(default=None, init=False)
    """When values with a time to live end, on Trio's clock."""
    _changed: dict[StateKey[Any], trio.Event] | None = attrs.field(default=None, init=False)
    """Set at the next change of a value that a task waits for."""

    def get(self, key: StateKey[T], default: T) -> T:
        """Return a value; the default without one, or if its time is over."""
        if self._ends and self._ends.get(key, inf) <= trio.current_time():
            del self._values[key], self._ends[key]
        value: T = self._values.get(key, default)
        return value

    def set(self, key: StateKey[T], value: T, ttl: float | None) -> None:
        """Store a value, and wake the tasks that wait for it.

        Args:
            key: Its key.
            value: The value.
            ttl: Seconds until it is dropped; None to keep the end of the value that it replaces.

        Raises:
            ValueError: ``ttl`` is not positive.
        """
        if ttl is not None:
            if not ttl > 0:
                raise ValueError(f"ttl must be more than 0 seconds, not {ttl!r}")
            if ttl < inf:
                self._ends = {} if self._ends is None else self._ends
                self._ends[key] = trio.current_time() + ttl
            elif self._ends:
                self._ends.pop(key, None)
        self._values[key] = value
        self._wake(key)

    def update(self, key: StateKey[T], fn: Callable[[T], T], default: T, ttl: float | None) -> T:
        """Replace a value by what a function makes of it. See `Session.update_state`."""
        old = self.get(key, default)
        if old is MISSING:
            raise KeyError(key)
        before = self._values.get(key, MISSING)
        new = fn(old)
        if inspect.iscoroutine(new):
            new.close()
            raise TypeError(f"the function that updates {key!r} must not be async")
        if self._values.get(key, MISSING) is not before:
            raise RuntimeError(f"the function that updates {key!r} has changed it itself")
        self.set(key, new, ttl)
        return new

    def compare_and_set(
        self, key: StateKey[T], expected: object, new: T, ttl: float | None
    ) -> bool:
        """Replace a value if it is the expected one. See `Session.compare_and_set`."""
        old: object = self.get(key, MISSING)
        if old is MISSING:
            old = ABSENT
        if old is not expected and old != expected:
            return False
        self.set(key, new, ttl)
        return True

    def delete(self, key: StateKey[Any]) -> bool:
        """Remove a value, and wake the tasks that wait for it; return whether there was one."""
        if self.get(key, MISSING) is MISSING:
            return False
        del self._values[key]
        if self._ends:
            self._ends.pop(key, None)
        self._wake(key)
        return True

    async def wait(
        self,
        key: StateKey[T],
        predicate: Callable[[T], object],
        default: T,
        check_open: Callable[[], None],
    ) -> T:
        """Wait until a predicate holds for a value. See `Session.wait_state`.

        Args:
            key: The key.
            predicate: Called with the value at first, and after changes.
            default: What it is called with while there is no value; not called for `MISSING`.
            check_open: Raises when the session has ended. `wake_all` has it called.
        """
        await trio.lowlevel.checkpoint()
        while True:
            check_open()
            value = self.get(key, default)
            if value is not MISSING and predicate(value):
                return value
            await self._wait_changed(key)

    async def _wait_changed(self, key: StateKey[Any]) -> None:
        """Wait until a value is replaced or removed, or its time is over."""
        if self._changed is None:
            self._changed = {}
        changed = self._changed.setdefault(key, trio.Event())
        until = inf if self._ends is None else self._ends.get(key, inf)
        try:
            with trio.move_on_at(until):
                await changed.wait()
        finally:
            # The last task whose wait ended without a change removes the event. After a change the
            # key may have another event already, which is not removed.
            if self._changed.get(key) is changed and not changed.statistics().tasks_waiting:
                del self._changed[key]

    def wake_all(self) -> None:
        """Wake all waiting tasks, because the session has ended. Not a checkpoint."""
        for key in list(self._changed or ()):
            self._wake(key)

    def _wake(self, key: StateKey[Any]) -> None:
        if self._changed:
            changed = self._changed.pop(key, None)
            if changed is not None:
                changed.set()
