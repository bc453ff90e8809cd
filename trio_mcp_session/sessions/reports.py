"""What a session tells of itself: events, hooks, and what went wrong in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from ..core import events
from ..core.errors import CleanupFailed, HeldContextEnded, HookFailed, TaskCrashed
from ..core.reasons import TerminationReason
from .fields import SessionFields
from .hooks import HookQueue
from .owner import RequestOwner
from .tasks import name_of

MAX_ERRORS: Final = 16
"""Errors that a session keeps: one that lives on can fail at the same thing again and again."""


@attrs.define(eq=False, repr=False)
class SessionReports(SessionFields, RequestOwner):
    """A session as its subscribers and hooks hear of it. Not for use from outside of this package.

    Nothing here is a checkpoint: events go to buffers, and hooks wait for the session's task.
    """

    # What goes wrong.

    def _report(self, error: Exception, *, log: bool = True) -> None:
        """Log an error, and tell subscribers and hooks of it."""
        if log:
            self._log(error)
        if self._listened_to():
            self._emit(events.Error(**self._stamp(), error=error))
        for hooks in self._hooks:
            if hooks.on_error is not None:
                self._post_hook("on_error", hooks.on_error, error)

    def _crashed(self, error: Exception) -> None:
        """End the session because of an error of its own."""
        self._note(error)
        self._face.terminate(TerminationReason.CRASHED)

    def _task_crashed(self, name: str, error: Exception) -> None:
        # Noted at once: if only the nursery's exit told, a later reason could win the race.
        self._crashed(error)
        report = TaskCrashed(name)
        report.__cause__ = error
        self._report(report)

    def _context_ended(self, name: str, error: Exception | None) -> None:
        """End the session because a context that it holds ended: work may depend on it."""
        report = HeldContextEnded(name)
        report.__cause__ = error
        self._crashed(error or report)
        self._report(report)

    def _task_failed_to_start(self, name: str, error: Exception) -> None:
        """Take the failure of a task that its caller no longer waits for; the session goes on."""
        report = TaskCrashed(name)
        report.__cause__ = error
        self._report(report)

    def _cleanup_failed(self, error: CleanupFailed) -> None:
        self._note(error)
        self._report(error)

    def _flush_failed(self, error: Exception) -> None:
        """Take the failure of the way to the client, when it was to write the last messages."""
        report = CleanupFailed("writing the last messages")
        report.__cause__ = error
        self._cleanup_failed(report)

    def _failed_itself(self, error: Exception) -> None:
        """Take what came out of the session's own task: code of others that was not contained."""
        if self._closing:
            report = CleanupFailed("the session's task")
            report.__cause__ = error
            self._cleanup_failed(report)
        else:
            self._task_crashed("session", error)

    def _note(self, error: Exception) -> None:
        self._counters.errors += 1
        if self._errors is None:
            self._errors = []
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(error)

    # Telling.

    def _listened_to(self) -> bool:
        return bool(self._subscribers) or bool(self._manager._subscribers)

    def _stamp(self) -> dict[str, Any]:
        return {"session_id": self.session_id, "kind": self.kind, "time": trio.current_time()}

    def _emit(self, event: events.Event) -> None:
        self._manager._emit(event)
        if self._subscribers is not None:
            self._subscribers.emit(event)

    def _post_hook(self, name: str, hook: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._hook_calls is None:
            self._hook_calls = HookQueue(
                self._face,
                self._manager.config.limits.max_waiting_hooks,
                self._clocks.hook_budget,
            )
        self._hook_calls.post(name, hook, *args)
        self._face._wake()

    def _lifespan_name(self) -> str:
        """Return what reports call its lifespan."""
        if self._handle is not None:
            return f"opener {name_of(self._handle.kind.opener)}"
        return "session" if self._lifespan is None else f"lifespan {name_of(self._lifespan)}"

    def _hook_failed(self, error: HookFailed) -> None:
        self._counters.errors += 1
        self._manager._counters.hook_failures += 1
        self._log(error)
        if self._farewell is None and self._listened_to():  # No event follows `Disconnected`.
            self._emit(events.Error(**self._stamp(), error=error))
        if error.hook == "on_error":
            return  # Telling it of itself would go round in circles.
        for hooks in self._hooks:
            if hooks.on_error is not None:
                self._post_hook("on_error", hooks.on_error, error)

    def _hook_dropped(self) -> None:
        self._manager._counters.hook_failures += 1
