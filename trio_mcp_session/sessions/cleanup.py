"""Clean-up functions: watch the clocks of all sessions, end one session, leave its contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..core.reasons import TerminationReason

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from .session import Session
    from .store import SessionStore


async def run_cleanup(
    store: SessionStore,
    config: CleanupConfig | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch the clocks of all sessions of a store, until cancelled.

    A manager runs one of these. Startable; a checkpoint.

    Args:
        store: The table of the sessions to watch.
        config: The configuration with the clean-up interval; the store's own by default.
        task_status: ``started()`` is called on it when the watcher runs.
    """
    interval = store.cleanup_interval if config is None else config.cleanup_interval
    task_status.started()
    await store._watcher.run(interval)


async def cleanup_session(
    session: Session, reason: TerminationReason = TerminationReason.REQUESTED
) -> TerminationReason:
    """End a session and wait until nothing of it is left.

    A checkpoint. When cancelled, it stops waiting, and the session still ends.

    Returns:
        The reason why it ended: ``reason``, or another one that was set before.

    Raises:
        RuntimeError: The session itself runs the calling task; nothing was changed.
    """
    session._check_not_inside()
    session.terminate(reason)
    return await session.wait_terminated()


async def cleanup_resources(session: Session) -> None:
    """Leave all contexts that a session holds, last one first; the session stays open.

    Those that are still being entered are not held yet, and stay. A checkpoint. When cancelled,
    contexts that are being left are left to the end, the others stay.

    Raises:
        RuntimeError: One of these contexts runs the calling task.
    """
    session._check_not_held()
    await trio.lowlevel.checkpoint()
    if session._held is not None:
        await session._held.leave(trio.current_time() + session._clocks.cleanup_budget)
