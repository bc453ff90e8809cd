"""The size of a message: how many values it has, how deep, and what they take once decoded.

Decoded JSON takes more memory than its text: as much for one long string, and more than 20 times as
much for a list of empty objects. So limits in bytes of text are not enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
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

_EVERYTHING: Final = bytes(range(256))
_NO_VALUES: Final = _EVERYTHING.translate(None, b'",[{')
_NO_BRACKETS: Final = _EVERYTHING.translate(None, b'"[]{}')
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""An opening bracket becomes 1, a closing one -1 (as a signed byte)."""

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
    return 1 + sum(map(len, _outside_of_texts(frame, _NO_VALUES)))


def nesting(frame: bytes) -> int:
    """Return how deep arrays and objects are nested."""
    steps = b"".join(_outside_of_texts(frame, _NO_BRACKETS)).translate(_STEPS)
    return max(accumulate(memoryview(steps).cast("b"), initial=0))


def _outside_of_texts(frame: bytes, left_out: bytes) -> Iterator[bytes]:
    """Yield the bytes of a message that are not in texts, piece by piece.

    A hostile frame may consist of brackets, quotes or backslashes only: each step here is one pass
    over the frame in C.

    Args:
        frame: The message.
        left_out: The bytes that are not wanted; quotes are not among them.
    """
    unescaped = frame.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most texts are empty now. Without two quotes that follow each other, all else is where it was:
    # inside of a text, or outside.
    marks = unescaped.translate(None, left_out).replace(b'""', b"")
    inside = 0
    for start in range(0, len(marks), PIECE):
        parts = marks[start : start + PIECE].split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1


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
