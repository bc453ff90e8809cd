"""Calls the instrumentation of a manager, and logs its failures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

import attrs

from .error_log import write_log
from .failures import FAILURES, contain

if TYPE_CHECKING:
    from ..core.instrumentation import (
        Instrumentation,
        RequestDetails,
        RequestFinished,
        SessionDetails,
        SessionFinished,
    )

T = TypeVar("T")


@final
@attrs.define(eq=False)
class Instruments:
    """All instrumentation of a manager. None of its methods is a checkpoint."""

    _all: tuple[Instrumentation, ...]
    _failed: set[int] = attrs.field(factory=set[int], init=False)
    """The `id` of each instrumentation that has failed: the object itself may not be hashable."""

    def __bool__(self) -> bool:
        return bool(self._all)

    def request_begun(self, details: RequestDetails) -> RequestFinished | None:
        """Report that a request began; return the function to call when it ends, if any."""
        return self._begun(lambda one: one.request_begun(details))

    def session_begun(self, details: SessionDetails) -> SessionFinished | None:
        """Report that a session began; return the function to call when it ends, if any."""
        return self._begun(lambda one: one.session_begun(details))

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
            failure = contain(error)
        if id(one) not in self._failed:
            self._failed.add(id(one))
            text = "instrumentation %s failed; its further failures are not logged"
            write_log(logging.ERROR, text, type(one).__name__, error=failure)
        return None
