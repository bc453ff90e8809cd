"""The life of a session: one task, read from top to bottom.

Outermost first::

    session task
     └ budget scope      only around a lifespan; its deadline is set when the nursery is joined
        └ lifespan       the application's ``async with``, entered and left in this task
           └ nursery     requests, tasks; cancelling it is what ends the session's work

The order of ending is the order of the lines in `_work`, `_open` and `live`: answer what is open
and flush, cancel and join, leave held contexts, leave the lifespan, store the outcome, leave the
table, tell, wake those who wait. No other place does any of it.

The manager shields this task, so that no cancellation from outside tears the middle out of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ..core import events
from ..core.errors import CleanupFailed, SessionVetoed
from ..core.reasons import TerminationReason
from ..core.state import SessionState
from .current import running_in
from .dialogue import finish_opening
from .hooks import run_hook

if TYPE_CHECKING:
    from .hooks import SessionHooks
    from .session import Session


async def live(session: Session) -> None:
    """Live a session, from its opening to its end. The session's task runs this."""
    session._task = trio.lowlevel.current_task()
    running_in.set(session)
    try:
        while session._reason is None and not session._may_open:
            # Hooks wait for the handshake, but a client without one may stay here for good.
            if session._hook_calls and session._state is not SessionState.INITIALIZING:
                await session._hook_calls.run_waiting()
            else:
                await session._sleep()
        if session._reason is None:
            await _open(session)
    except Exception as error:  # noqa: BLE001  # of the lifespan: it ends this session only
        _lifespan_failed(session, error)
    finally:
        session._end_for_want_of_a_reason()
        try:
            if session._nursery is None:
                session._cut = session.busy
                await _say_goodbye(session)
                # Hooks and an unlucky lifespan may have had it hold some already.
                budget_seconds = session._clocks.cleanup_budget
                await _leave_held_contexts(session, trio.current_time() + budget_seconds)
        finally:
            try:
                await _join_stateless_requests(session)
            finally:
                await _conclude(session)


async def _open(session: Session) -> None:
    if not await _accepted(session):
        return
    budget_seconds = session._clocks.cleanup_budget
    if session._lifespan is None:
        try:
            await _work(session)
        finally:
            await _leave_held_contexts(session, trio.current_time() + budget_seconds)
        return
    with trio.CancelScope() as entering, trio.CancelScope() as budget:
        # Until the nursery is there, this is what ends the session.
        session._entering = entering
        async with session._lifespan(session):
            session._entering = None
            # Told to end when it was all but entered: it is left in peace all the same.
            budget.shield = entering.cancel_called
            try:
                await _work(session)
            finally:
                # From here on nothing but its budget cuts it short.
                budget.shield = True
                budget.deadline = trio.current_time() + budget_seconds
                await _leave_held_contexts(session, budget.deadline)
    if budget.cancelled_caught:
        session._cleanup_failed(CleanupFailed("lifespan ran over its budget"))


def _lifespan_failed(session: Session, error: Exception) -> None:
    if session._nursery is None:
        session._crashed(error)
        session._report(error)
    else:
        report = CleanupFailed("lifespan")
        report.__cause__ = error
        session._cleanup_failed(report)


async def _accepted(session: Session) -> bool:
    """Ask the hooks whether the session may be; what they accept, they hear the end of."""
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
            # For the others there was no session.
            session._hooks = tuple(asked)
            session._created = True
            session.terminate(TerminationReason.REQUESTED)
            return False
        asked.append(hooks)
    session._created = True
    return session._reason is None


def _next_of(attached: Iterable[SessionHooks], asked: list[SessionHooks]) -> SessionHooks | None:
    """Return hooks that were not asked yet; some may have been attached while others were."""
    return next((one for one in attached if not any(one is other for other in asked)), None)


async def _work(session: Session) -> None:
    """Keep the nursery open until there is a reason to end, then end what is in it."""
    async with trio.open_nursery() as nursery:
        session._nursery = nursery
        _establish(session)
        try:
            while session._reason is None:
                if session._hook_calls:
                    await session._hook_calls.run_waiting()
                else:
                    await session._sleep()
        finally:
            # A lifespan with a nursery of its own may have cancelled this: then nothing may begin
            # any more, or it would find the nursery closed.
            reason = session._end_for_want_of_a_reason()
            session._cut = session.busy
            await _say_goodbye(session)  # noqa: ASYNC102  # shields itself, for its budget
            nursery.cancel_scope.cancel(reason=f"session ends: {reason.value}")
            await _join_guests(session)  # noqa: ASYNC102  # shields itself


def _establish(session: Session) -> None:
    early, session._early = session._early, None
    for spawn in early or ():
        spawn()
    if session._reason is not None:
        return
    if session._listened_to() and session.client is not None:
        session._emit(events.Connected(**session._stamp(), client=session.client))
    if session._opening is None:
        session._handshake_done()
    else:
        finish_opening(session)
    if session._settled is not None:
        session._settled.set()


async def _say_goodbye(session: Session) -> None:
    """Answer what is still open, and let it be written."""
    session._fail_pending()
    if session._outlet is not None:
        with trio.move_on_after(session._clocks.flush_budget, shield=True):
            await session._outlet.finish()
    if session._stateless_gate is not None:
        session._stateless_gate.cancel_all()
    if session._guests is not None:
        session._guests.send_away(f"Session has ended: {session._reason_to_end().value}")


async def _join_guests(session: Session) -> None:
    if session._guests is not None:
        with trio.CancelScope(shield=True):
            await session._guests.wait_gone()


async def _join_stateless_requests(session: Session) -> None:
    """Wait for the handlers that run beside the session: they were cancelled with its own."""
    if session._stateless_gate is not None:
        with trio.CancelScope(shield=True):
            await session._stateless_gate.wait_empty()


async def _leave_held_contexts(session: Session, deadline: float) -> None:
    if session._holders is not None:
        # Shielded: the lifespan must not be left before what was entered inside of it.
        with trio.CancelScope(shield=True):
            await session._holders.close(deadline)


async def _conclude(session: Session) -> None:
    """Leave the table, tell everybody, wake who waits."""
    session._fail_pending()
    session._early = None
    reason = session._reason_to_end()
    session._end_what_it_owned(reason)
    session._move(SessionState.TERMINATED)
    session._manager._forget(session)
    farewell = events.Disconnected(**session._stamp(), reason=reason, error=session.error)
    session._farewell = farewell
    session._manager._emit(farewell)
    if session._subscribers is not None:
        session._subscribers.finish(farewell)
    try:
        if session._hook_calls is not None:
            await session._hook_calls.run_last()
        if session._created:
            await _tell_the_end(session, reason)
    finally:
        session._over = True
        for event in (session._settled, session._ended):
            if event is not None:
                event.set()


async def _tell_the_end(session: Session, reason: TerminationReason) -> None:
    for hooks in session._hooks:
        if hooks.on_session_terminated is None:
            continue
        failure = await run_hook(
            "on_session_terminated",
            hooks.on_session_terminated,
            (session, reason),
            session._clocks.hook_budget,
        )
        if failure is not None:
            session._hook_failed(failure)
    if session._hook_calls is not None:
        await session._hook_calls.run_last()
