"""The task of a session: opens it, waits for its end, and closes everything in order.

Outermost first::

    session task
     └ nursery           only where contexts may be held before there is the one below
        └ scope          only around a lifespan: its budget, set when the nursery is joined
           └ lifespan    the application's ``async with``, entered and left in this task
              └ nursery  requests, tasks, held contexts

The order of ending:

1. A reason is set (`Session.terminate`). Peers do not know the session from then on.
2. What is open is answered, and flushed within its budget (`_flush`).
3. The nursery is cancelled, in a ``finally`` and without a wait (`Session._close_nursery`).
   It joins requests and tasks, and a task that waits for what runs elsewhere: users of a handle,
   and modern requests of a pipe (`Session._wait_for_others` says why).
4. Held contexts are children of the same nursery, shielded from its cancellation. The last one of
   the other children releases the youngest context, and each context the one before it
   (`Session._release_next`). So the nursery joins them all, whatever is raised or skipped.
5. The lifespan is left, within its budget.
6. The session leaves the table, its end is reported, and waiting tasks wake (`_conclude`).

Each step is taken even if the step before it raises: code of the application may raise anything in
each of them. The manager shields this task, so that a cancellation from outside cannot cancel one
of its steps, and all of it is protected from `KeyboardInterrupt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..core import events
from ..core.errors import CleanupFailed, LifespanFailed, SessionVetoed
from ..core.lifecycle_states import SessionState
from ..core.reasons import TerminationReason
from .current import running_in
from .failures import contained, report_or_raise
from .hooks import run_hook
from .interrupts import UserContext

if TYPE_CHECKING:
    from .hooks import SessionHooks
    from .session import Session


async def run_session(session: Session) -> None:
    """Run a session from its opening to its end. The session's task runs this."""
    session._task = trio.lowlevel.current_task()
    running_in.set(session)
    try:
        try:
            await _wait_for_handshake(session)
            if _has_opening_code(session) or _needs_nursery(session):
                await _live_in_early_nursery(session)
            elif session._reason is None:
                session._created = True
                await _work(session)
        finally:
            await _end_unopened(session)
    except BaseException as error:  # noqa: BLE001  # raised again, if it has to propagate
        report_or_raise(error, session._session_task_failed)
    finally:
        await _conclude(session)


async def _wait_for_handshake(session: Session) -> None:
    """Wait until the session may open, has to end, or has to hold a context before it opens."""
    while session._reason is None and not session._may_open and not _needs_nursery(session):
        # Hooks wait for the handshake, but a client without one may stay here for good.
        if session._hook_calls and session._state is not SessionState.INITIALIZING:
            await session._hook_calls.run_waiting()
        else:
            await session._sleep()


def _has_opening_code(session: Session) -> bool:
    """Return whether a hook is called, or a lifespan entered, before the session is open."""
    if session._reason is not None:
        return False
    return session._lifespan is not None or any(one.on_session_created for one in session._hooks)


def _needs_nursery(session: Session) -> bool:
    """Return whether contexts are or may be held before the session has its nursery."""
    if session._early_nursery is not None:
        return False
    may_hold = bool(session._hook_calls) and session._state is not SessionState.INITIALIZING
    return may_hold or session._early_holders is not None


async def _end_unopened(session: Session) -> None:
    """End a session that never had its nursery; do nothing if it is closed already."""
    if session._closing:
        return
    try:
        session._begin_ending()
        await _flush(session)
    finally:
        session._close_nursery()
        await session._wait_for_others()  # noqa: ASYNC102  # shields itself


async def _live_in_early_nursery(session: Session) -> None:
    """Open a session that may hold contexts before it has its nursery.

    One coroutine for hooks and lifespan, since each session with a lifespan stays in it until it
    ends.
    """
    opens_later = False
    budget: trio.CancelScope | None = None
    async with trio.open_nursery() as nursery:
        try:
            session._open_early(nursery)
            await _wait_for_handshake(session)
            if session._reason is not None or not await _accepted(session):
                pass
            elif session._lifespan is not None:
                with trio.CancelScope() as budget:
                    # Until there is the session's nursery, this is what ends the session.
                    session._entering = nursery.cancel_scope
                    async with UserContext(session._lifespan(session)):
                        session._entering = None
                        # The session was ended while the lifespan was almost entered: it is left
                        # without being cancelled.
                        budget.shield = nursery.cancel_scope.cancel_called
                        try:
                            await _work(session)
                        finally:
                            # From here on only its budget can cancel it.
                            budget.shield = True
                            budget.deadline = session._cleanup_deadline()
                            await _leave_early_contexts(session)
            elif session._held:
                await _work(session)
            else:
                opens_later = True  # An idle session needs no second nursery.
        except BaseException as error:  # noqa: BLE001  # the same
            report_or_raise(error, partial(_lifespan_failed, session))
        finally:
            if not opens_later:
                await _end_unopened(session)
            session._early_nursery = None
            nursery.cancel_scope.cancel(reason="session has ended")
    if opens_later:
        await _work(session)
    elif budget is not None and budget.cancelled_caught:
        session._cleanup_failed(CleanupFailed(f"{session._lifespan_name()} ran over its budget"))


async def _leave_early_contexts(session: Session) -> None:
    """Wait until the contexts that were entered within the lifespan are left."""
    if session._held:
        with trio.CancelScope(shield=True):
            await session._held.wait_gone()


def _lifespan_failed(session: Session, error: Exception) -> None:
    """Report an error of the lifespan: a failed opening, a crash, or a failed clean-up."""
    name = session._lifespan_name()
    # If a nursery of the lifespan fails, it cancels the session's, before there is a reason.
    crashed = session._nursery is None or (
        session._reason is TerminationReason.CRASHED and not session._errors
    )
    if crashed:
        failed = LifespanFailed(name)
        failed.__cause__ = error
        session._crashed(error)
        # A caller that waits for the opening gets the error: nothing is logged then.
        session._report(failed, log=session._settled is None)
    else:
        left = CleanupFailed(name)
        left.__cause__ = error
        session._cleanup_failed(left)


async def _accepted(session: Session) -> bool:
    """Call ``on_session_created``; hooks that accept the session are called again at its end."""
    asked: list[SessionHooks] = []
    while (hooks := _next_of(session._hooks, asked)) is not None:
        if hooks.on_session_created is None:
            asked.append(hooks)
            continue
        failure = await run_hook(
            "on_session_created",
            hooks.on_session_created,
            (session,),
            session._clocks.hook_budget,
        )
        if failure is not None:
            veto = SessionVetoed()
            veto.__cause__ = failure.__cause__ or failure
            session._note(veto)
            session._manager._counters.refused[type(veto).__name__] += 1
            # The other hooks were never called for this session.
            session._hooks = tuple(asked)
            session._created = True
            session.terminate(TerminationReason.REQUESTED)
            return False
        asked.append(hooks)
    session._created = True
    return session._reason is None


def _next_of(attached: Iterable[SessionHooks], asked: list[SessionHooks]) -> SessionHooks | None:
    """Return hooks that were not called yet; more can be attached while others run."""
    return next((one for one in attached if not any(one is other for other in asked)), None)


async def _work(session: Session) -> None:
    """Keep the nursery open until there is a reason to end, then end all tasks in it."""
    async with trio.open_nursery() as nursery:
        session._nursery = nursery
        try:
            _establish(session)
            while session._reason is None:
                if session._hook_calls:
                    await session._hook_calls.run_waiting()
                else:
                    await session._sleep()
        finally:
            try:
                session._begin_ending()
                await _flush(session)  # noqa: ASYNC102  # shields itself, for its budget
            finally:
                session._close_nursery()


def _establish(session: Session) -> None:
    session._start_early_tasks()
    if session._reason is not None:
        return
    if session._has_listeners() and session.client is not None:
        session._emit(events.Connected(**session._stamp(), client=session.client))
    if session._connection is None:
        session._handshake_done()
    else:
        session._connection.session_is_open()
    if session._settled is not None:
        session._settled.set()


async def _flush(session: Session) -> None:
    """Answer all open requests, and wait until the answers are written."""
    connection = session._connection
    if connection is not None:
        connection.fail_pending()
        with contained(session._flush_failed):
            with trio.move_on_after(session._flush_budget(), shield=True):
                await connection.flush()


async def _conclude(session: Session) -> None:
    """Leave the table, report the end, wake waiting tasks: each step even if another raises."""
    reason = session._reason_to_end()
    try:
        session._manager._endings.begun(session)  # Also if an error came before the usual place.
        session._early_tasks = None
        if session._connection is not None:
            session._connection.fail_pending()
        session._end_owned_sessions(reason)
    finally:
        try:
            session._move(SessionState.TERMINATED)
        finally:
            session._end_state_waits()
            try:
                session._manager._forget(session)
            finally:
                await _report_end(session, reason)


async def _report_end(session: Session, reason: TerminationReason) -> None:
    try:
        disconnected = events.Disconnected(**session._stamp(), reason=reason, error=session.error)
        session._disconnected_event = disconnected
        session._manager._emit(disconnected)
        if session._event_streams is not None:
            session._event_streams.finish(disconnected)
        await _run_last_hooks(session, reason)
    finally:
        if session._hook_calls is not None:
            session._hook_calls.drop_all()
        try:
            session._manager._call_over(session)
        finally:
            session._finish()
            for event in (session._settled, session._ended):
                if event is not None:
                    event.set()


async def _run_last_hooks(session: Session, reason: TerminationReason) -> None:
    """Call the waiting hooks, and those for the end of the session, all within one budget."""
    first_until, until = session._hooks_deadlines()
    if session._hook_calls is not None:
        await session._hook_calls.run_last(first_until)
    for hooks in session._hooks if session._created else ():
        if hooks.on_session_terminated is not None:
            failure = await run_hook(
                "on_session_terminated",
                hooks.on_session_terminated,
                (session, reason),
                until - trio.current_time(),
            )
            if failure is not None:
                session._hook_failed(failure)
    if session._hook_calls is not None:
        await session._hook_calls.run_last(until)
