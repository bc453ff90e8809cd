"""Log records that clients can cause at any rate: one of each kind a minute at most."""

from __future__ import annotations

import logging
from typing import Final, final

import attrs
import trio

from .error_log import write_log

EVERY: Final = 60.0
"""Seconds between two records of one kind: an operator sees it, and a client cannot fill a disk."""


@final
@attrs.define(eq=False)
class SeldomLog:
    """Writes a record, and counts what it leaves out until the next one of that kind."""

    _next: dict[str, float] = attrs.field(factory=dict[str, float], init=False)
    _left_out: dict[str, int] = attrs.field(factory=dict[str, int], init=False)

    def write(self, kind: str, text: str, *args: object) -> None:
        """Write a warning, unless there was one of this kind a short time ago. Not a checkpoint.

        Args:
            kind: Identifies the kind: one of few texts of the library.
            text: The record, for `logging`.
            *args: Its arguments.
        """
        now = trio.current_time()
        if now < self._next.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._next[kind] = now + EVERY
        count = self._left_out.pop(kind, 0)
        if count:
            write_log(logging.WARNING, f"{text} (and %d times since the last record)", *args, count)
        else:
            write_log(logging.WARNING, text, *args)
