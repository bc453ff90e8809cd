"""The log of refused requests and clients: one record a minute for each kind of refusal.

A client is told what is wrong with its request, but often neither shows nor logs it; and the
reason can be a setting of the server. So the operator is told, too: with the refused value, and
with the option that accepts it. A client can cause any number of refusals, so records are limited
in number and size.
"""

from __future__ import annotations

import logging
from typing import Final, final

import attrs
import trio

from ..sessions.error_log import write_log

INTERVAL: Final = 60.0
"""Seconds between two records of one kind.

A minute: a second attempt is soon in the log, and a client that tries without a pause adds 1,440
lines a day."""

MOST_KINDS: Final = 8
"""Texts that are told apart at the same time, of refusals with one answer.

An error text can contain a part of the request, so clients could make up kinds. The library has at
most this many texts for one HTTP status that clients see often."""

LONGEST_VALUE: Final = 100
"""Characters of a value that are logged; enough for a host name or a list of media types."""

LONGEST_TEXT: Final = 300
"""Characters of an error's text that are logged; the library's own texts are shorter."""


@final
@attrs.define
class _Kind:
    """What is known of one kind of refusal."""

    due: float
    """When the next record may be written."""

    logged: float
    """When the last record was written."""

    suppressed: int = 0
    """Refusals since then."""


@final
@attrs.define(eq=False)
class RefusalLog:
    """Logs what is refused, at most one record in `INTERVAL` seconds for each kind.

    A kind is an answer and a text. Of each answer the first `MOST_KINDS` kinds are told apart, and
    all others are one more kind.

    Args:
        logger: Where the records are written.
    """

    _logger: logging.Logger = attrs.field(alias="logger")
    _kinds: dict[str, dict[str, _Kind]] = attrs.field(
        factory=dict[str, dict[str, _Kind]], init=False
    )

    def report(
        self,
        answer: str,
        text: str,
        refused: str,
        *,
        value: str | None = None,
        hint: str = "",
        level: int = logging.WARNING,
    ) -> None:
        """Log a refusal, or count it. Not a checkpoint.

        Args:
            answer: What the client gets, such as ``HTTP 403``; one of a few values.
            text: The error that the client gets.
            refused: The request, in a few words: its method, its path, its client.
            value: The refused value; None where there is none.
            hint: What the operator can do, as a part of a sentence.
            level: The level of the record.
        """
        now = trio.current_time()
        kind = self._kind_of(answer, text, now)
        if now < kind.due:
            kind.suppressed += 1
            return
        parts = [f"{answer} for {shown(refused, LONGEST_TEXT)}: {shown(text, LONGEST_TEXT)}"]
        if value is not None:
            parts.append(f": {quoted(value)}")
        if hint:
            parts.append(f"; {hint}")
        if kind.suppressed:
            parts.append(f" ({kind.suppressed} more in the last {now - kind.logged:.0f} s)")
        kind.due, kind.logged, kind.suppressed = now + INTERVAL, now, 0
        write_log(level, "%s", "".join(parts), log=self._logger)

    def _kind_of(self, answer: str, text: str, now: float) -> _Kind:
        kinds = self._kinds.setdefault(answer, {})
        name = text[:LONGEST_TEXT]
        kind = kinds.get(name)
        if kind is None:
            if len(kinds) >= MOST_KINDS:
                # A kind whose next record is due would be logged as a new one is.
                for one in [one for one, known in kinds.items() if known.due <= now]:
                    del kinds[one]
            if len(kinds) >= MOST_KINDS:
                name = ""
            kind = kinds.setdefault(name, _Kind(due=now, logged=now))
        return kind


def quoted(value: str) -> str:
    """Return a peer's text for the log: quoted, escaped, and shortened."""
    return ascii(value[:LONGEST_VALUE]) + ("…" if len(value) > LONGEST_VALUE else "")


def shown(text: str, longest: int) -> str:
    """Return a text for the log: shortened, and escaped where it is not printable."""
    if len(text) > longest:
        text = f"{text[:longest]}…"
    return text if text.isprintable() else ascii(text)[1:-1]
