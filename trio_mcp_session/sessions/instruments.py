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
    _failed: bool = attrs.field(default=False, init=False)

    def __bool__(self) -> bool:
        return bool(self._all)

    def request_begun(self, details: RequestDetails) -> RequestFinished | None:
        """Report that a request began; return the functions to call when it ends."""
        return self._begun(partial(one.request_begun, details) for one in self._all)

    def session_begun(self, details: SessionDetails) -> SessionFinished | None:
        """Report that a session began; return the functions to call when it ends."""
        return self._begun(partial(one.session_begun, details) for one in self._all)

    def _begun(
        self, calls: Iterable[Callable[[], Callable[[Any], object] | None]]
    ) -> Callable[[Any], None] | None:
        finished = [one for call in calls if (one := self._call(call)) is not None]
        return partial(self._finish, finished) if finished else None

    def _finish(self, finished: Iterable[Callable[[Any], object]], outcome: object) -> None:
        for one in finished:
            self._call(partial(one, outcome))

    def _call(self, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except FAILURES as error:  # instrumentation is the application's
            failure = contain(error)
        if not self._failed:
            self._failed = True
            text = "instrumentation failed; further failures of it are not logged"
            write_log(logging.ERROR, text, error=failure)
        return None
