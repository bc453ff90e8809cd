"""Draining: let work finish, for a while, then end the rest; and tell what became of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from ..core.ids import SessionId
from ..core.reasons import TerminationReason

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from .session import Session

BATCH: Final = 100
"""Sessions ended before other tasks get a turn: ending all at once would stall them."""


@attrs.frozen(kw_only=True)
class DrainReport:
    """What became of the sessions that were drained."""

    completed: tuple[SessionId, ...] = ()
    """Ended with all of their work done."""

    cancelled: tuple[SessionId, ...] = ()
    """Ended with work cancelled, because the grace was over."""

    failed: tuple[SessionId, ...] = ()
    """Ended, and something of them crashed or could not be cleaned up."""

    overran: Mapping[SessionId, tuple[str, ...]] = attrs.field(
        factory=dict[SessionId, tuple[str, ...]]
    )
    """Still ending when the budgets were over, with the names of the tasks that go on."""


class WorkBeside(Protocol):
    """Work of no session, which is drained with the sessions."""

    async def wait_done(self) -> None:
        """Wait until nothing runs. A checkpoint."""
        ...

    def end(self) -> None:
        """Cancel what runs. Not a checkpoint."""
        ...


async def drain(
    sessions: Sequence[Session],
    grace: float,
    clocks: CleanupConfig,
    reason: TerminationReason = TerminationReason.SHUTDOWN,
    *,
    beside: WorkBeside | None = None,
) -> DrainReport:
    """Drain sessions together, within one grace, and what runs beside them. A checkpoint.

    No task of its own waits for a part of it: an interrupt would come out in a group.

    When cancelled, it stops waiting; the sessions stay closed to new requests, and end as soon as
    their work is done.
    """
    await trio.lowlevel.checkpoint()
    refuse_requests(sessions, reason)
    for number, session in enumerate(sessions, 1):
        session._finish_work()
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
    with trio.move_on_after(grace):
        await wait_for(sessions)
        if beside is not None:
            await beside.wait_done()
    if beside is not None:
        beside.end()
    await end(sessions, reason)
    with trio.move_on_after(ending_budget(clocks)):
        await wait_for(sessions)
    if beside is not None:
        # It ends when its handlers have; the manager's block waits for them longer.
        with trio.move_on_after(clocks.flush_budget):
            await beside.wait_done()
    return _report(sessions)


def refuse_requests(sessions: Sequence[Session], reason: TerminationReason) -> None:
    """Have sessions take no new requests. Not a checkpoint."""
    for session in sessions:
        session._refuse_requests(reason)


def ending_budget(clocks: CleanupConfig) -> float:
    """Return how many seconds the end of a session takes that keeps within its budgets.

    Hooks take two of theirs: the one that runs, and the last ones together.
    """
    return clocks.flush_budget + clocks.cleanup_budget + 2 * clocks.hook_budget


async def end(sessions: Sequence[Session], reason: TerminationReason) -> None:
    """End sessions, without stalling the others. A checkpoint for every hundred of them."""
    for number, session in enumerate(sessions, 1):
        session.terminate(reason)
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()


async def wait_for(sessions: Sequence[Session]) -> None:
    """Wait until nothing of any of these is left. A checkpoint where something is."""
    for session in sessions:
        if not session._finished:
            await session.wait_terminated()


def _report(sessions: Sequence[Session]) -> DrainReport:
    completed: list[SessionId] = []
    cancelled: list[SessionId] = []
    failed: list[SessionId] = []
    overran: dict[SessionId, tuple[str, ...]] = {}
    for session in sessions:
        if not session._finished:
            overran[session.session_id] = session._running_tasks()
        elif session.error is not None:
            failed.append(session.session_id)
        elif session._work_cancelled:
            cancelled.append(session.session_id)
        else:
            completed.append(session.session_id)
    return DrainReport(
        completed=tuple(completed),
        cancelled=tuple(cancelled),
        failed=tuple(failed),
        overran=overran,
    )
