"""A leak check: finds tasks, contexts and table entries that remain when a session has ended.

It looks at the tables of managers and sessions and at the tree of Trio's tasks. It does not use the
code that should have cleaned up.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from ..core.ids import SessionKind
from ..core.lifecycle_states import LIVE_STATES, SessionState
from ..server.client_connection import ClientConnection, client_of
from ..server.listen import ListenSubscription
from ..server.mcp_server import server_of
from ..server.parked import _HANDLER, ParkedHandler
from ..server.promotion import Promotion
from ..server.request_queue import RequestQueue, Worker
from ..server.resting import Resting
from ..server.task import ServerTask, all_tasks, task_of
from ..sessions.cleanup import run_cleanup
from ..sessions.consistency import validate_sessions
from ..sessions.current import running_in
from ..sessions.session import Session
from ..transports.http.session_streams import SessionStreams
from ..transports.http.stateless_stream import StatelessStream
from ..transports.http.ticker import Ticker
from .failure_check import FailureCheck, collected_failures

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.store import SessionStore


class LeakError(AssertionError):
    """Something of a session is left after its end."""

    def __init__(self, leaks: Iterable[str]) -> None:
        self.leaks: tuple[str, ...] = tuple(leaks)
        """A sentence for each leak."""
        super().__init__("left after the end of a session:\n" + "\n".join(self.leaks))


def find_leaks(manager: SessionManager, *, among: Iterable[Session] | None = None) -> list[str]:
    """Return what the ended sessions of a manager left behind. Not a checkpoint.

    It is exact only while nothing happens: sessions that are ending, and clients that are being
    rejected or wait for a place, cannot be distinguished from ones that hang.

    Args:
        manager: The manager of the sessions.
        among: All sessions that the manager ever had, if the caller knows them; to search for them
            takes some milliseconds.

    Returns:
        A sentence for each leak.
    """
    sessions = _all_sessions() if among is None else among
    return [
        *map(str, validate_sessions(manager.store)),
        *_in_the_table(manager.store),
        *_in_the_queue_for_places(manager),
        *_in_the_sessions_nursery(manager),
        *_in_stateless_requests(manager),
        *_in_subscriptions(manager),
        *_among_the_parked(manager),
        *_among_tasks(manager),
        *_in_work_for_tasks(manager),
        *_in_counters(manager),
        *(leak for session in sessions if session._manager is manager for leak in _in(session)),
    ]


def assert_no_leaks(
    manager: SessionManager,
    *,
    live: Collection[Session] | None = None,
    among: Iterable[Session] | None = None,
) -> None:
    """Raise if an ended session of a manager left something behind. Not a checkpoint.

    See `find_leaks` for when to call it.

    Args:
        manager: The manager of the sessions.
        live: Sessions that may still exist; by default any, as long as their tables are consistent.
        among: As for `find_leaks`.

    Raises:
        LeakError: Something is left of an ended session, or another session exists.
    """
    leaks = find_leaks(manager, among=among)
    if live is not None:
        leaks += [f"{one!r} is still there" for one in manager.sessions() if one not in live]
    if leaks:
        raise LeakError(leaks)


@asynccontextmanager
async def check_leaks(
    *, within: float = 0.0, references: bool = False, strict: bool = False
) -> AsyncIterator[FailureCheck]:
    """Raise if a session that was opened in the block, of any manager, exists after it.

    ::

        async with check_leaks(strict=True) as check:
            async with open_session_manager(router) as manager:
                check.expect(CleanupFailed, match="disk is full")
                ...

    Leaving is a checkpoint: it waits until all tasks are blocked. Sessions that were open before
    may stay open. Nothing is checked if the body raises or is cancelled.

    Args:
        within: Seconds of Trio's clock that sessions may still take to end.
        references: Whether a reference to an ended session is a leak, too. Local variables of the
            test are references: delete them first.
        strict: Whether a failure that the library reported in the block fails the test, unless
            `FailureCheck.expect` names it: a crash of a handler or task, a clean-up or hook that
            failed, and all else that is logged with level *error*.

    Yields:
        The failures that were reported so far, and those that the test expects.

    Raises:
        LeakError: A session, or something of a session, still exists.
        UnexpectedFailures: A failure was not expected, or an expected one was not reported.
    """
    before = set(map(id, _all_sessions()))
    kept = [session for session in _all_sessions() if id(session) in before]  # Ids stay unique.
    tasks = set(_all_tasks())
    with collected_failures() as failures:
        try:
            yield failures
        except Exception as error:
            if strict:
                failures.explain(error)
            raise
        await trio.sleep(within)
        await trio.testing.wait_all_tasks_blocked()
    leaks = list(_opened_since(before, tasks, references=references))
    del kept
    wrong = failures.find_unexpected(strict=strict)
    if wrong is not None:
        if leaks:
            wrong.add_note(str(LeakError(leaks)))
        raise wrong
    if leaks:
        raise LeakError(leaks)


def _opened_since(
    before: Collection[int], tasks: Collection[trio.lowlevel.Task], *, references: bool
) -> Iterator[str]:
    """Check the sessions and tasks that were not among these earlier ones."""
    if references:
        gc.collect()
    for session in _all_sessions():
        if id(session) in before:
            continue
        if session.state is not SessionState.TERMINATED:
            yield f"{session!r} has not ended"
            continue
        yield from _in(session)
        if references:
            yield f"{session!r} has ended, and something refers to it"
    for task in _all_tasks():
        if task not in tasks:
            for owner in {task.context.get(running_in), _resident(task)}:
                if owner is not None and id(owner) not in before:
                    yield f"task {task.name!r} runs in {owner!r}"


def _all_sessions() -> list[Session]:
    """Return all sessions that anything refers to."""
    return [one for one in gc.get_objects() if type(one) is Session]


def _all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Return all tasks of this run, except Trio's own."""
    root = trio.lowlevel.current_root_task()
    return iter(()) if root is None else _below(root)


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)


def _in_the_table(store: SessionStore) -> Iterator[str]:
    watched = {entry[1:] for entry in store._watcher._heap}
    for kind, table in store._tables.items():
        for session_id, session in table.items():
            if session.session_id != session_id or session.kind is not kind:
                yield f"{session!r} is in the wrong place of the table"
            # The clocks of a session that ends do not run.
            watches = session.termination_reason is None and session._next_check < inf
            if watches and (session_id, kind) not in watched:
                yield f"{session!r} is not watched"
    if any(not held for held in store._principals.values()):
        yield "a principal without sessions is in the index"
    # Entries of ended sessions stay in the heap until they are due. They hold ids, no sessions.
    if any(isinstance(part, Session) for entry in store._watcher._heap for part in entry):
        yield "the watcher's heap holds sessions"


def _in_the_queue_for_places(manager: SessionManager) -> Iterator[str]:
    admission = manager._admission
    if admission.reserved:
        yield f"places are still reserved for new sessions: {admission.reserved}"
    if admission._reserved:
        yield f"places are still counted as reserved: {dict(admission._reserved)}"
    for victim in admission._claimed:
        yield f"{victim!r} is still claimed by a new session"


def _in_the_sessions_nursery(manager: SessionManager) -> Iterator[str]:
    """Check every task below the sessions nursery of the manager."""
    here = set(manager.store)
    for top in manager._sessions_nursery.child_tasks:
        owners = set(_owners(top))
        if not owners and not _serves_all(manager, top):
            yield f"task {top.name!r} belongs to no session"
        for task in _below(top):
            owner = task.context.get(running_in)
            if owner is not None:
                owners.add(owner)
        for owner in owners - here:
            yield f"task {top.name!r} runs for {owner!r}"


_CLOCKS = (run_cleanup.__code__, Ticker._run.__code__, Resting._run.__code__)
"""The code of tasks in the sessions nursery that belong to no session, since they serve all."""


def _serves_all(manager: SessionManager, task: trio.lowlevel.Task) -> bool:
    """Return whether a task may run in the sessions nursery without belonging to a session."""
    for code, local in _frames(task):
        if code is RequestQueue._work.__code__:
            queue: RequestQueue = local["self"]
            return (
                queue._owner is server_of(manager).stateless and local["worker"] in queue._workers
            )
        if code is StatelessStream._watch.__code__:
            return not local["scope"].cancel_called
        if code is ListenSubscription._write.__code__:
            return local["self"] in server_of(manager).subscriptions._table.values()
        if code is Promotion._wait.__code__:
            promotion: Promotion = local["self"]
            is_stopped = promotion._timer is not local["timer"] or promotion.task is not None
            return not (is_stopped or promotion._request.handler_has_ended)
        if code in _CLOCKS:
            return True
    return False


def _frames(task: trio.lowlevel.Task) -> Iterator[tuple[CodeType, Mapping[str, Any]]]:
    """Return the code and the locals of the functions that a task runs, or is about to run."""
    for frame, _ in task.iter_await_frames():
        local = frame.f_locals
        yield frame.f_code, local
        to_run = local.get("async_fn")
        if isinstance(to_run, MethodType) and "args" in local:  # It may not have begun yet.
            code = to_run.__func__.__code__
            yield code, dict(zip(code.co_varnames, (to_run.__self__, *local["args"]), strict=False))


def _resident(task: trio.lowlevel.Task) -> Session | None:
    """Return the session that a task runs requests for, or that it stays a borrower of."""
    for code, local in _frames(task):
        if code is not RequestQueue._work.__code__:
            continue
        worker: Worker = local["worker"]
        if worker.detached and worker.request is not None:
            detached = worker.request.detached
            return None if detached is None else detached.session
        owner = local["self"]._owner
        return owner.session if isinstance(owner, ClientConnection) else None
    return None


def _owners(task: trio.lowlevel.Task) -> Iterator[Session]:
    """Return the sessions that a task works for: a connection's is found in its frames."""
    for owner in (task.context.get(running_in), _resident(task)):
        if owner is not None:
            yield owner
    for frame, _ in task.iter_await_frames():
        found = frame.f_locals.get("session")
        if isinstance(found, Session):
            yield found


def _in_stateless_requests(manager: SessionManager) -> Iterator[str]:
    """Check the stateless requests of the manager."""
    owner = server_of(manager).stateless
    there = 0 if owner.queue is None else len(owner.queue._active)
    if owner._busy != there:
        yield f"{owner._busy} requests without a session are counted, and {there} are there"


def _in_subscriptions(manager: SessionManager) -> Iterator[str]:
    """Check the subscriptions of the manager."""
    listens = server_of(manager).subscriptions
    open_ones = set(listens._table.values())
    for listen in open_ones:
        if manager._is_left or not listen.request.sink.reachable:
            yield f"{listen!r} is still open without its connection or its manager"
        for task_id in listen.working:
            session = manager._store.get(task_id, SessionKind.TASK)
            task = None if session is None else task_of(session)
            if task is None or task.status.is_final:
                yield f"{listen!r} still waits for a task that is over"
    indexed = {listen for listeners in listens._listeners.values() for listen in listeners}
    if indexed - open_ones or not all(listens._listeners.values()):
        yield "the index of topics knows subscriptions that have ended"
    held = {one for theirs in listens._held_by.values() for one in theirs}
    if held != {one for one in open_ones if one.principal is not None}:
        yield f"subscriptions are not those of their principals: {listens._held_by!r}"


def _among_the_parked(manager: SessionManager) -> Iterator[str]:
    """Check the sessions of parked handlers: each needs its handler, or that one's outcome."""
    for session in manager._store.of_kind(SessionKind.PARKED):
        handler = handler_of(session)
        if (
            handler is not None
            and session.state in LIVE_STATES
            and not session._borrowers
            and handler.outcome is None
        ):
            yield f"{session!r} is kept for a handler that has ended"


def _among_tasks(manager: SessionManager) -> Iterator[str]:
    """Check the sessions of tasks: each needs its handler, or that one's outcome."""
    for task in all_tasks(manager):
        session = task.session
        if session.state not in LIVE_STATES:
            continue
        if not session._borrowers:
            if not task.status.is_final:
                yield f"{session!r} is kept for a task without a handler and without an outcome"
            if task._call is not None:
                yield f"{task!r} is over and still has its handler"
        if task.status.is_final:
            for what, there in _in_ended_task(task).items():
                if there:
                    yield f"{task!r} is over and still has {what}"
            kept = sum(len(bytes(one)) for one in (task._result, task._error) if one is not None)
            if task._call is None and session._byte_budget().held < kept:
                yield f"{task!r} keeps an outcome of {kept} bytes that are not counted"


def _in_counters(manager: SessionManager) -> Iterator[str]:
    """Check the counters that are kept, since counting would read every session."""
    counters = manager._counters
    sessions = manager.sessions()
    connections = [one._connection for one in sessions if one._connection is not None]
    queue = server_of(manager).stateless.queue
    waiting = sum(one.queued for one in connections) + (0 if queue is None else queue.queued)
    running = sum(one.in_flight for one in connections) + (0 if queue is None else queue.running)
    counts: dict[str, tuple[object, object]] = {
        "sessions by state": (
            +counters.states,
            Counter((one.kind, one.state) for one in sessions),
        ),
        "tasks by status": (
            +counters.tasks,
            Counter(task.status.value for task in all_tasks(manager)),
        ),
        "requests": (counters.open_requests, running + waiting),
        "requests that wait": (counters.waiting_requests, waiting),
    }
    for what, (counted, there) in counts.items():
        if counted != there:
            yield f"{what} are counted as {counted!r}, and there are {there!r}"
    clients = [queue._owner for queue in server_of(manager).resting._seen]
    gone = [one for one in clients if isinstance(one, ClientConnection) and one.session._finished]
    if gone:
        yield f"queues of sessions that have ended are looked at: {gone!r}"
    if ending := [one for one in manager._endings if one._finished]:
        yield f"sessions that have ended are to be woken for their end: {ending!r}"


def _in_work_for_tasks(manager: SessionManager) -> Iterator[str]:
    """Check that connections are busy with the tasks and subscriptions that hold them open."""
    held = Counter(task._connection for task in all_tasks(manager))
    held.update(
        listen.connection
        for listen in server_of(manager).subscriptions._table.values()
        if listen.working
    )
    for session, count in held.items():
        connection = None if session is None else session._connection
        if session is None or connection is None:
            continue
        if count + connection.in_flight + connection.queued > session._busy:
            yield f"{session!r} has tasks that are not counted as work"


def _in(session: Session) -> Iterator[str]:
    """Check an ended session that is still referenced."""
    if session.state is not SessionState.TERMINATED:
        return
    left = {
        "held contexts": session._held,
        "tasks that are counted": session._children,
        "tasks that never began": session._early_tasks,
        "hook calls": session._finished and session._hook_calls,
        "event streams": session._event_streams,
        "work that is counted": session._busy,
        "a connection or block": session._finished and session._body is not None,
        "tasks": session._nursery and session._nursery.child_tasks,
        "borrowers": session._borrowers,
        "the value of its handle": session.handle and session.handle._is_open,
        "bytes that are counted": session._bytes is not None and session._bytes.parent is not None,
        **_in_parked(session),
        **_in_task(session),
        **_in_connection(session),
    }
    for what, there in left.items():
        if there:
            yield f"{session!r} has ended and still has {what}"


def _in_connection(session: Session) -> dict[str, object]:
    """Return what is open with the client of a session."""
    if session._connection is None:
        return {}
    client = client_of(session)
    queues = client._queues()
    return {
        "requests in flight": [one for queue in queues for one in queue._active],
        "requests in the queue": [one for queue in queues for one in queue._waiting],
        "idle workers": [one for queue in queues for one in queue._idle],
        "workers": [one for queue in queues for one in queue._workers],
        "subscriptions of its client": [one for queue in queues for one in queue._subscriptions],
        "requests to its client": client.outgoing and client.outgoing._open,
        "an unanswered initialize": client.pending is not None,
        **(_in_streams(client.sink) if session._finished else {}),
    }


def handler_of(session: Session) -> ParkedHandler | None:
    """Return the parked handler of a session; None if an application opened the session."""
    return session.get_state(_HANDLER, None)


def _in_parked(session: Session) -> dict[str, object]:
    """Return what is left of the parked handler of a session."""
    handler = handler_of(session)
    if handler is None:
        return {}
    return {"questions of its handler": handler._open, "answers to those": handler._collected}


def _in_task(session: Session) -> dict[str, object]:
    """Return what is left of the task of an ended session."""
    task = task_of(session)
    if task is None:
        return {}
    return {
        "a task that is not over": not task.status.is_final,
        "the handler of its task": task._call,
        **_in_ended_task(task),
    }


def _in_ended_task(task: ServerTask) -> dict[str, object]:
    """Return what a task must not have after its end."""
    return {
        "questions of its task": task._open,
        "a connection that its task holds open": task._connection,
    }


def _in_streams(sink: object) -> dict[str, object]:
    """Return what HTTP keeps of an ended session."""
    if not isinstance(sink, SessionStreams):
        return {}
    log = None if sink._log is None else sink._log._log
    return {
        "streams": sink._sse_responses,
        "streams that a client could resume": sink._unfinished,
        "kept events": getattr(log, "_events", None),
        "places for events": getattr(log, "_streams", None),
    }
