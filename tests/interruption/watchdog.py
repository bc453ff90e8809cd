"""Runs in virtual time that end also where they hang.

A shielded wait for what never comes hangs in virtual time too. No deadline of Trio helps there:
the run is ended from outside, by a signal.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from types import FrameType
from typing import Final, final

import attrs
import trio
from trio.testing import MockClock

PATIENCE: Final = 200.0
"""Virtual seconds after which a run is ended in which something happens again and again."""


class Hang(BaseException):
    """Nothing can happen, or for ever the same, and the run has not ended."""


_abandoned: Final[list[BaseException]] = []
"""How runs ended that hung: what they left must never be collected, for it cannot be cleaned up."""


@final
@attrs.frozen
class Outcome:
    """How a run ended."""

    error: BaseException | None
    seconds: float
    """How long it took, in virtual time."""

    @property
    def hung(self) -> bool:
        """Whether it was ended from outside."""
        cause = None if self.error is None else self.error.__cause__
        return any(isinstance(one, Hang) for one in (*leaves(self.error), *leaves(cause)))


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Return what is in a group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    elif error is not None:
        yield error


def unless(holds: bool, problem: str) -> Iterator[str]:
    """Return a problem, if there is one."""
    return iter(() if holds else (problem,))


@final
@attrs.define(eq=False)
class _Watchdog(trio.abc.Instrument):
    """Sends SIGALRM when a run hangs."""

    clock: MockClock
    _idle: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._idle = 0

    def before_io_wait(self, timeout: float) -> None:
        self._idle += 1
        nothing_due = trio.lowlevel.current_statistics().seconds_to_next_deadline == inf
        if (self._idle > 3 and nothing_due) or self.clock.current_time() > PATIENCE:
            signal.setitimer(signal.ITIMER_REAL, 0.001)


def _bark(_: int, frame: FrameType | None) -> None:
    """Handle SIGALRM: raise `Hang` in Trio's loop, but where nothing contains it."""
    names: list[str] = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    if "unrolled_run" not in names or "call" in names:  # pragma: no cover  # seldom
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # Trio contains what instruments raise.
    else:
        signal.setitimer(signal.ITIMER_REAL, 0.5)  # A task may contain it.
        raise Hang


def run_watched(async_fn: Callable[[], Awaitable[None]]) -> Outcome:
    """Run it in virtual time, with tasks that take their turns in the same order every time."""
    run = trio._core._run
    deterministic = vars(run)["_ALLOW_DETERMINISTIC_SCHEDULING"]
    vars(run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    run._r.seed(0)
    clock = MockClock(autojump_threshold=0)
    error: BaseException | None = None
    previous = signal.signal(signal.SIGALRM, _bark)
    try:
        trio.run(async_fn, clock=clock, instruments=[_Watchdog(clock)])
    except BaseException as raised:  # noqa: ASYNC103  # it is returned
        error = raised
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        vars(run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = deterministic
    outcome = Outcome(error, clock.current_time())
    if error is not None and outcome.hung:  # pragma: no cover  # coverage's hook may be lost
        _abandoned.append(error)
    return outcome
