"""The tree of all tasks as text, with their sessions, requests, ages and places.

It can be made in the event loop, or in another thread while the loop is blocked. Its length is
bounded: sessions without work are only counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from ..core.ids import short_hash
from .running_task import Running, find_running, where_waiting

if TYPE_CHECKING:
    from .manager_server import RunningRequests
    from .session import Session

MOST_TASKS: Final = 200
"""Most tasks that one tree shows: enough to see what hangs, and a few screens of text."""

MOST_LETTERS: Final = 80
"""Most characters of one name that a peer or the application chose."""

MOST_REREADS: Final = 5
"""How often a table is read again that changed while another thread read it."""


@final
class TaskAges(trio.abc.Instrument):
    """Notes when tasks begin: Trio does not. It costs a little for each task that is started."""

    def __init__(self) -> None:
        self.began: Final[dict[trio.lowlevel.Task, float]] = {}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Note the time."""
        self.began[task] = trio.current_time()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget the task."""
        self.began.pop(task, None)


@final
class TaskTree:
    """Describes the tasks of the event loop that it is made in.

    Args:
        sessions: Returns all sessions of a manager.
        requests: Returns the stateless requests that run.
        ages: When tasks began; without it, only sessions and requests have an age.
    """

    def __init__(
        self,
        sessions: Callable[[], Iterable[Session]],
        requests: Callable[[], RunningRequests],
        ages: TaskAges | None = None,
    ) -> None:
        self._sessions: Final = sessions
        self._requests: Final = requests
        self._ages: Final = ages
        self._root: Final = trio.lowlevel.current_root_task()
        self._clock: Final = trio.lowlevel.current_clock()
        self._thread: Final = threading.get_ident()

    def describe(self) -> str:
        """Return the tree as lines of text. Not a checkpoint; safe in another thread."""
        for _ in range(MOST_REREADS):
            with suppress(RuntimeError):  # A table changed while it was read.
                return _Drawing(
                    self._root,
                    list(self._sessions()),
                    self._requests(),
                    self._clock.current_time(),
                    self._ages,
                    find_running(self._root, self._thread),
                ).text()
        return "the tasks change too fast to be read"


@final
class _Drawing:
    """One tree."""

    def __init__(
        self,
        root: trio.lowlevel.Task | None,
        sessions: Sequence[Session],
        requests: RunningRequests,
        now: float,
        ages: TaskAges | None,
        running: Running,
    ) -> None:
        self._root: Final = root
        self._now: Final = now
        self._began: Final = {} if ages is None else dict(ages.began)
        self._running: Final = running
        self._sessions: Final = {one._task: one for one in sessions if one._task is not None}
        requests = dict(requests)
        for session in sessions:
            if session._connection is not None:
                requests |= session._connection.running_requests()
        self._requests: Final = requests
        self._shown: int = 0
        self._left_out: int = 0

    def text(self) -> str:
        lines = [] if self._root is None else list(self._draw(self._root, 0))
        if self._left_out:
            lines.append(f"  and {self._left_out} more tasks")
        return "\n".join(lines)

    def _draw(self, task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
        if self._shown >= MOST_TASKS:
            self._left_out += 1
        else:
            self._shown += 1
            yield f"{'  ' * depth}{self._describe(task)}"
        idle = 0
        for nursery in task.child_nurseries:
            for child in sorted(nursery.child_tasks, key=self._order):
                if self._is_idle_session(child):
                    idle += 1
                else:
                    yield from self._draw(child, depth + 1)
        if idle:
            yield f"{'  ' * (depth + 1)}and {idle} sessions without work"

    def _order(self, task: trio.lowlevel.Task) -> tuple[float, str]:
        """The oldest first, where that is known."""
        began = self._began_of(task)
        return self._now if began is None else began, task.name

    def _began_of(self, task: trio.lowlevel.Task) -> float | None:
        if task in self._requests:
            return self._requests[task][1]
        if task in self._sessions:
            return self._sessions[task]._opened_at
        return self._began.get(task)

    def _is_idle_session(self, task: trio.lowlevel.Task) -> bool:
        session = self._sessions.get(task)
        if session is None or session._busy or session.termination_reason is not None:
            return False
        return not any(nursery.child_tasks for nursery in task.child_nurseries)

    def _describe(self, task: trio.lowlevel.Task) -> str:
        parts = [_visible(task.name)]
        if task in self._requests:
            parts.append(_visible(self._requests[task][0]))
        if task in self._sessions:
            parts += self._describe_session(self._sessions[task])
        began = self._began_of(task)
        if began is not None:
            parts.append(f"for {max(0.0, self._now - began):.1f} s")
        if task is self._running.task:
            return f"{', '.join(parts)}: runs now in {self._running.where}"
        with suppress(Exception):  # It ended meanwhile, or awaits what Trio cannot look into.
            parts.append(f"at {where_waiting(task)}")
        return ", ".join(parts)

    def _describe_session(self, session: Session) -> Iterator[str]:
        yield f"{session.kind.value} {short_hash(session.session_id)}"
        client = session.client
        if client is not None and client.client_id:
            yield f"client {_visible(client.client_id)}"
        yield session.state.value
        if session.termination_reason is not None:
            yield f"ends: {session.termination_reason.value}"


def _visible(name: str) -> str:
    """Return a name on one line, cut."""
    return "".join(c if c.isprintable() else "?" for c in name[:MOST_LETTERS])
