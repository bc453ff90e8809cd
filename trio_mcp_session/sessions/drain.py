"""Draining: let work finish within a grace, then end the rest, and report the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from ..core.ids import SessionId
from ..core.reasons import TerminationReason
from .endings import BATCH

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from .session import Session

REFUSED: Final = 2_000
"""How many sessions refuse requests before other tasks may run: less than a millisecond."""

REPORTED: Final = 1_000
"""How many sessions are reported before other tasks may run."""


@attrs.frozen(kw_only=True)
class DrainReport:
    """How the drained sessions ended."""

    completed: tuple[SessionId, ...] = ()
    """Ended with all of their work done."""

    cancelled: tuple[SessionId, ...] = ()
    """Ended with work cancelled, because the grace was used up."""

    failed: tuple[SessionId, ...] = ()
    """Ended with an error: a task, the lifespan or the clean-up failed (`Session.error`)."""

    overran: Mapping[SessionId, tuple[str, ...]] = attrs.field(
        factory=dict[SessionId, tuple[str, ...]]
    )
    """Still ending when the budgets were used up, with the names of the tasks that still run."""


class WorkBeside(Protocol):
    """Work that belongs to no session, and is drained with the sessions."""

    async def wait_done(self) -> None:
        """Wait until nothing runs. A checkpoint."""
        ...

    async def end(self) -> None:
        """Cancel all running work. A checkpoint only if there is much; it cannot be cancelled."""
        ...


async def drain(
    sessions: Sequence[Session],
    grace: float,
    clocks: CleanupConfig,
    reason: TerminationReason = TerminationReason.SHUTDOWN,
    *,
    beside: WorkBeside | None = None,
) -> DrainReport:
    """Drain sessions and the work beside them, within one grace for all. A checkpoint.

    All waiting happens in the calling task, without a nursery: an interrupt would leave a nursery
    in a group.

    When cancelled, it stops waiting; the sessions stay closed to new requests, and end as soon as
    their work is done.
    """
    await trio.lowlevel.checkpoint()
    await refuse_requests(sessions, reason)
    for number, session in enumerate(sessions, 1):
        session._finish_work()
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
    with trio.move_on_after(grace):
        await wait_for(sessions)
        if beside is not None:
            await beside.wait_done()
    if beside is not None:
        await beside.end()
    await end(sessions, reason)
    with trio.move_on_after(ending_budget(clocks)):
        await wait_for(sessions)
    if beside is not None:
        # It ends when its handlers have ended. The manager's block still waits for them after this.
        with trio.move_on_after(clocks.flush_budget):
            await beside.wait_done()
    return await _report(sessions)


async def refuse_requests(sessions: Sequence[Session], reason: TerminationReason) -> None:
    """Make sessions refuse new requests. A checkpoint only if there are thousands.

    It cannot be cancelled: a cancellation must not leave some open. An idle session takes no call
    here.
    """
    for number, session in enumerate(sessions, 1):
        if session._drain_reason is None:
            if session._busy or session._borrowers:
                session._refuse_requests(reason)
            else:
                session._drain_reason = reason
        if number % REFUSED == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()


def ending_budget(clocks: CleanupConfig) -> float:
    """Return how many seconds a session takes to end if all its stages use up their budgets.

    The budget of hooks counts twice: for the hook that runs, and for all last hooks together.
    """
    return clocks.flush_budget + clocks.cleanup_budget + 2 * clocks.hook_budget


async def end(sessions: Sequence[Session], reason: TerminationReason) -> None:
    """End sessions, and let other tasks run in between. A checkpoint after every `BATCH`."""
    for number, session in enumerate(sessions, 1):
        session.terminate(reason)
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()


async def wait_for(sessions: Sequence[Session]) -> None:
    """Wait until all these sessions have ended. A checkpoint if one has not ended yet."""
    for session in sessions:
        if not session._finished:
            await session.wait_terminated()


async def _report(sessions: Sequence[Session]) -> DrainReport:
    completed: list[SessionId] = []
    cancelled: list[SessionId] = []
    failed: list[SessionId] = []
    overran: dict[SessionId, tuple[str, ...]] = {}
    for number, session in enumerate(sessions, 1):
        if number % REPORTED == 0:
            # Not a point of cancellation: everything has ended, and the caller needs the report.
            await trio.lowlevel.cancel_shielded_checkpoint()
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
