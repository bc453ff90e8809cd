"""The size of a message in memory: how many values it has, and what they take once decoded.

Decoded JSON takes more memory than its text: as much for one long string, and more than 20 times as
much for a list of empty objects. So limits in bytes of text are not enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import getsizeof
from typing import Any, Final, cast, final

MEASURED_FROM: Final = 64 * 1024
"""Bytes by the rough estimate from which on a message is measured value by value.

Below, the estimate is good enough, and takes a tenth of the time.
"""

PIECE: Final = 64 * 1024
"""Bytes that are split at their quotes at a time: the parts take several times as much."""

CONTAINER: Final = 160
"""Bytes of an array or object, by rough estimate: between an empty one and one with members."""

MEMBER: Final = 40
"""Bytes of a value without its text, by rough estimate: between a number and a text."""

_NOT_COUNTED: Final = bytes(sorted(set(range(256)).difference(b'",[{')))

_WHOLE_NUMBER: Final = 32
_FLOAT: Final = 24
_SHARED: Final = range(-5, 257)
"""Whole numbers that exist only once in a Python process."""

MAX_SHARED: Final = 32
"""Characters of a key up to which msgspec uses the text of an equal key."""


def count_values(frame: bytes) -> int:
    """Return how many values a message has: its commas and opening brackets, plus one.

    What stands in texts does not count. An empty array or object counts as two values.
    """
    unescaped = frame.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most texts are empty now. Without two quotes that follow each other, all else is where it was:
    # inside of a text, or outside.
    marks = unescaped.translate(None, _NOT_COUNTED).replace(b'""', b"")
    return 1 + sum(map(len, _outside_of_texts(marks)))


def _outside_of_texts(marks: bytes) -> Iterator[bytes]:
    """Yield what is outside of the quotes, piece by piece."""
    inside = 0
    for start in range(0, len(marks), PIECE):
        parts = marks[start : start + PIECE].split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1


def estimate(size: int, commas: int, brackets: int) -> int:
    """Return roughly what a decoded message takes, in bytes.

    Args:
        size: Bytes of its text.
        commas: How many commas are in it.
        brackets: How many opening brackets.
    """
    return size + MEMBER * commas + CONTAINER * brackets


def measure(*values: object) -> int:
    """Return what decoded JSON values take in memory, in bytes.

    The decoder makes small whole numbers and short keys of objects only once.
    """
    total = 0
    keys = _Keys()
    waiting: list[Any] = [values]
    while waiting:
        for one in waiting.pop():
            kind = cast("object", type(one))
            if kind is str:
                total += getsizeof(one)
            elif kind is dict:
                total += getsizeof(one)
                if one:
                    total += keys.measure(tuple(one))
                    waiting.append(one.values())
            elif kind is list:
                total += getsizeof(one)
                if one:
                    waiting.append(cast("list[object]", one))
            elif kind is float:
                total += _FLOAT
            elif kind is int and one not in _SHARED:
                total += _WHOLE_NUMBER
    return total


@final
class _Keys:
    """The keys of the objects in one message. Most objects have the same ones."""

    def __init__(self) -> None:
        self._known: Final[set[str]] = set()
        self._shapes: Final[dict[tuple[str, ...], int]] = {}

    def measure(self, keys: tuple[str, ...]) -> int:
        """Return what the keys of another object take."""
        again = self._shapes.get(keys)
        if again is not None:
            return again
        new = set(keys) - self._known
        self._known.update(new)
        self._shapes[keys] = again = sum(getsizeof(key) for key in keys if len(key) > MAX_SHARED)
        return again + sum(getsizeof(key) for key in new if len(key) <= MAX_SHARED)
