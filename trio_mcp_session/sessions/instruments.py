"""Calls the instrumentation of a manager, and logs its failures."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

import attrs

from ..core.instrumentation import RequestObserver
from ..protocol.jsonrpc import is_object
from .error_log import write_log
from .failures import FAILURES, contain, contained
from .interrupts import run_user_code

if TYPE_CHECKING:
    from ..core.instrumentation import (
        Instrumentation,
        QuestionDetails,
        QuestionFinished,
        RequestDetails,
        RequestFinished,
        RequestOutcome,
        SessionDetails,
        SessionFinished,
        TaskDetails,
        TaskObserver,
        TaskOutcome,
    )
    from ..core.metrics import ManagerStatistics

T = TypeVar("T")
OneT = TypeVar("OneT", bound="Instrumentation")


@final
@attrs.define(eq=False)
class Instruments:
    """All instrumentation of a manager. None of its methods is a checkpoint."""

    _all: tuple[Instrumentation, ...]
    _failed: set[int] = attrs.field(factory=set[int], init=False)
    """The `id` of each instrumentation that has failed: the object itself may not be hashable."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def find(self, kind: type[OneT]) -> OneT | None:
        """Return the first instrumentation of a class; None without one."""
        return next((one for one in self._all if isinstance(one, kind)), None)

    def opened(
        self, statistics: Callable[[], ManagerStatistics]
    ) -> list[Callable[[], Awaitable[None]]]:
        """Report that the manager opens; drop what does not want to be called.

        Returns:
            Functions to run until the last session has ended. Their failures are logged.
        """
        self._all = tuple(one for one in self._all if self._call(one, one.is_active))
        running: list[Callable[[], Awaitable[None]]] = []
        for one in self._all:
            run = self._call(one, partial(one.opened, statistics))
            if run is not None:
                running.append(partial(self._run, one, run))
        return running

    async def _run(self, one: Instrumentation, run: Callable[[], Awaitable[object]]) -> None:
        with contained(partial(self._report, one)):
            await run_user_code(run)

    def request_begun(self, details: RequestDetails) -> ObservedRequest | None:
        """Report that a request began; return what reports its course, if any observes it."""
        observers: list[tuple[Instrumentation, RequestObserver]] = []
        for one in self._all:
            found = self._call(one, partial(one.request_begun, details))
            if isinstance(found, RequestObserver):
                observers.append((one, found))
            elif found is not None:
                observers.append((one, _Finish(found)))
        return ObservedRequest(self, observers) if observers else None

    def session_begun(self, details: SessionDetails) -> SessionFinished | None:
        """Report that a session began; return the function to call when it ends, if any."""
        return self._begun(lambda one: one.session_begun(details))

    def question_begun(
        self, details: QuestionDetails, params: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, Any] | None, QuestionFinished | None]:
        """Report that a request to a client begins.

        Returns:
            The parameters to send, and the function to call when it ends, if any.
        """
        meta: dict[str, Any] = {}
        finished = self._begun(lambda one: one.question_begun(details, meta))
        return _with_meta(params, meta), finished

    def notification_sent(
        self, method: str, params: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        """Report that a notification is sent to a client; return the parameters to send."""
        meta: dict[str, Any] = {}
        for one in self._all:
            self._call(one, partial(one.notification_sent, method, meta))
        return _with_meta(params, meta)

    def _begun(
        self, begin: Callable[[Instrumentation], Callable[[Any], object] | None]
    ) -> Callable[[Any], None] | None:
        finished = [
            (one, finish)
            for one in self._all
            if (finish := self._call(one, partial(begin, one))) is not None
        ]
        return partial(self._finish, finished) if finished else None

    def _finish(
        self,
        finished: Iterable[tuple[Instrumentation, Callable[[Any], object]]],
        outcome: object,
    ) -> None:
        for one, finish in finished:
            self._call(one, partial(finish, outcome))

    def _call(self, one: Instrumentation, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except FAILURES as error:  # instrumentation is the application's
            self._report(one, contain(error))
        return None

    def _report(self, one: Instrumentation, failure: Exception) -> None:
        if id(one) not in self._failed:
            self._failed.add(id(one))
            text = "instrumentation %s failed; its further failures are not logged"
            write_log(logging.ERROR, text, type(one).__name__, error=failure)


@final
@attrs.define(eq=False)
class ObservedRequest:
    """One request, for the instrumentation that observes it. No method is a checkpoint."""

    _instruments: Instruments
    _observers: list[tuple[Instrumentation, RequestObserver]]
    _first: ObservedRequest | None = attrs.field(default=None, init=False)
    """The request that its handler was called for; None if that is this one."""
    _is_over: bool = attrs.field(default=False, init=False)

    def enter_handler(self) -> None:
        """Call it in the context of the handler, when that begins to work for the request."""
        for one, observer in self._observers:
            self._instruments._call(one, observer.enter_handler)

    def continues(self, earlier: ObservedRequest) -> None:
        """Report that it is the retry of an earlier request."""
        self._first = first = earlier._first or earlier
        for one, observer in self._observers:
            for other, its in first._observers:
                if other is one:
                    self._instruments._call(one, partial(observer.continues, its))

    def task_begun(self, details: TaskDetails) -> ObservedTask | None:
        """Report that it becomes a task; return what reports its course, if any observes it."""
        observers: list[tuple[Instrumentation, TaskObserver]] = []
        for one, observer in self._observers:
            found = self._instruments._call(one, partial(observer.task_begun, details))
            if found is not None:
                observers.append((one, found))
        return ObservedTask(self._instruments, observers) if observers else None

    def finished(self, outcome: RequestOutcome) -> None:
        """Report how it ended; only the first call counts."""
        if not self._is_over:
            self._is_over = True
            for one, observer in self._observers:
                self._instruments._call(one, partial(observer.finished, outcome))


@final
@attrs.frozen(eq=False)
class ObservedTask:
    """One task, for the instrumentation that observes it. No method is a checkpoint."""

    _instruments: Instruments
    _observers: list[tuple[Instrumentation, TaskObserver]]

    def enter_handler(self) -> None:
        """Call it in the context of the handler, when the task begins."""
        for one, observer in self._observers:
            self._instruments._call(one, observer.enter_handler)

    def waits_for_input(self) -> None:
        """Report that it waits for answers of its client."""
        for one, observer in self._observers:
            self._instruments._call(one, observer.waits_for_input)

    def finished(self, outcome: TaskOutcome) -> None:
        """Report how it ended. Call it once."""
        for one, observer in self._observers:
            self._instruments._call(one, partial(observer.finished, outcome))


@final
class _Finish(RequestObserver):
    """Calls a function when the request ends, and nothing before."""

    def __init__(self, function: RequestFinished) -> None:
        self._function = function

    def finished(self, outcome: RequestOutcome) -> None:
        self._function(outcome)


def _with_meta(
    params: Mapping[str, Any] | None, meta: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return parameters with more in ``_meta``; what is there already stays as it is."""
    there: object = {} if params is None else params.get("_meta", {})
    if not meta or not is_object(there):
        return params
    return {**(params or {}), "_meta": {**meta, **there}}
