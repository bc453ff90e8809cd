"""The failures that the library reports during a test, and those that the test expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import attrs

from ..sessions.error_log import failure_watchers


@attrs.frozen(kw_only=True)
class ReportedFailure:
    """A failure that the library reported, because it reached no caller of the test."""

    text: str
    """The text in the log: what failed, in which session, and the cause."""

    error: BaseException
    """The error, with its cause."""


class UnexpectedFailures(AssertionError):
    """A failure that the test did not expect was reported, or an expected one was not.

    The first unexpected error is the cause.
    """

    def __init__(self, unexpected: Sequence[ReportedFailure], missing: Sequence[str]) -> None:
        self.unexpected: tuple[ReportedFailure, ...] = tuple(unexpected)
        """The failures that the test did not expect."""
        self.missing: tuple[str, ...] = tuple(missing)
        """The failures that the test expected, and that were not reported."""
        lines = [f"reported, and not expected: {one.text}" for one in unexpected]
        lines += [f"expected, and not reported: {one}" for one in missing]
        super().__init__("\n".join(lines))


@attrs.frozen
class _Expectation:
    """One failure that has to be reported."""

    kind: type[BaseException]
    match: str | None

    def __str__(self) -> str:
        return self.kind.__name__ + ("" if self.match is None else f" that matches {self.match!r}")

    def fits(self, failure: ReportedFailure) -> bool:
        """Return whether a failure fits: it or its cause is of the kind, and the text matches."""
        return any(
            isinstance(error, self.kind) for error in (failure.error, failure.error.__cause__)
        ) and (self.match is None or re.search(self.match, failure.text) is not None)


@final
@attrs.define(eq=False)
class FailureCheck:
    """The failures that were reported in a block of `check_leaks`."""

    failures: list[ReportedFailure] = attrs.field(factory=list[ReportedFailure], init=False)
    """All failures so far, the expected ones included."""

    _expected: list[_Expectation] = attrs.field(factory=list[_Expectation], init=False)

    def expect(
        self, kind: type[BaseException], *, match: str | None = None, times: int = 1
    ) -> None:
        """Expect a failure, before it is reported or after. Not a checkpoint.

        At the end of the block, an expected failure that was not reported fails the test.

        Args:
            kind: The class of the error, such as `CleanupFailed`, or the class of its cause.
            match: A regular expression for `ReportedFailure.text`.
            times: How many such failures are expected.

        Raises:
            ValueError: ``times`` is less than 1.
        """
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times!r}")
        self._expected += [_Expectation(kind, match)] * times

    def find_unexpected(self, *, strict: bool) -> UnexpectedFailures | None:
        """Return the error that fails the test; None if there is nothing wrong.

        Args:
            strict: Whether a failure that nothing expects is wrong.
        """
        taken = self._match()
        missing = [str(one) for at, one in enumerate(self._expected) if at not in taken.values()]
        left = [one for at, one in enumerate(self.failures) if at not in taken]
        unexpected = left if strict else []
        if not unexpected and not missing:
            return None
        error = UnexpectedFailures(unexpected, missing)
        error.__cause__ = unexpected[0].error if unexpected else None
        return error

    def _match(self) -> dict[int, int]:
        """Give each expectation a failure of its own; as many of them get one as possible.

        An expectation that fits several failures must not keep the only one that fits another.

        Returns:
            The index of the expectation, by the index of the failure that it gets.
        """
        taken: dict[int, int] = {}

        def find(expected: int, tried: set[int]) -> bool:
            for at, failure in enumerate(self.failures):
                if at not in tried and self._expected[expected].fits(failure):
                    tried.add(at)
                    # If another expectation has it, that one may find another failure.
                    if at not in taken or find(taken[at], tried):
                        taken[at] = expected
                        return True
            return False

        for expected in range(len(self._expected)):
            find(expected, set())
        return taken

    def explain(self, error: BaseException) -> None:
        """Add the failures to an error of the test: they may be its reason."""
        for failure in self.failures:
            error.add_note(f"reported before: {failure.text}")

    def _take(self, text: str, error: BaseException) -> None:
        self.failures.append(ReportedFailure(text=text, error=error))


@contextmanager
def collected_failures() -> Iterator[FailureCheck]:
    """Collect the failures that are reported in a ``with`` block."""
    check = FailureCheck()
    failure_watchers.append(check._take)
    try:
        yield check
    finally:
        failure_watchers.remove(check._take)
