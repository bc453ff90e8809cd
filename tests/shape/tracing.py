"""Which functions of the package run, and in which order.

A call is counted when a function begins: a coroutine once, however often it is resumed. The
functions that attrs generates, and those of other packages, are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, final

import attrs

import trio_mcp_session

ROOT: Final = Path(trio_mcp_session.__file__).parent


@attrs.frozen
class Counts:
    """What a walk touched."""

    calls: int
    functions: int
    modules: int
    classes: int
    changes: int
    """Calls of a function in another module than the one before."""

    def __str__(self) -> str:
        return (
            f"{self.calls} calls of {self.functions} functions in {self.modules} modules and "
            f"{self.classes} classes, {self.changes} changes of module"
        )


@final
class Trace:
    """Records calls in this thread, while `recording`."""

    def __init__(self, root: Path = ROOT) -> None:
        self._prefix = f"{root}/"
        self._entered: list[tuple[str, CodeType, int]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record for the length of a block. Earlier records are dropped."""
        self._entered.clear()
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        # Coverage sees nothing of what runs inside of a profiler.
        self._entered.append((event, frame.f_code, frame.f_lasti))  # pragma: no cover

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The module and the qualified name of each function that was called."""
        return [
            (code.co_filename.removeprefix(self._prefix), code.co_qualname)
            for event, code, at in self._entered
            if event == "call"
            and code.co_filename.startswith(self._prefix)
            # Each call and each resumption begins with RESUME, a call with the argument 0.
            and code.co_code[at + 1] & 3 == 0
        ]

    def counts(self) -> Counts:
        """Count the recorded calls."""
        return count(self.calls)


def count(calls: Sequence[tuple[str, str]]) -> Counts:
    """Count calls, given as in `Trace.calls`."""
    modules = [module for module, _ in calls]
    classes = {(module, one) for module, name in calls if (one := _class_of(name))}
    return Counts(
        calls=len(calls),
        functions=len(set(calls)),
        modules=len(set(modules)),
        classes=len(classes),
        changes=sum(one != other for one, other in pairwise(modules)),
    )


def _class_of(qualified_name: str) -> str | None:
    """Return the class that a method, or a function inside of one, belongs to."""
    first, _, rest = qualified_name.partition(".")
    return first if rest and not rest.startswith("<locals>") else None
