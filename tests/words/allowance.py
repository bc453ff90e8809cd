"""How many refused words each file may have. The numbers can only be lowered."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from .patterns import Pattern, find
from .texts import Text

ALLOWED: Final = Path(__file__).with_name("allowed.toml")

HEAD: Final = """\
# How many of the words that tests/words/patterns.py refuses each file may have.
# `python -m tests.words --update` writes the numbers, unless their sum would rise.
"""


class Hit(NamedTuple):
    """Refused words in a text."""

    text: Text
    pattern: Pattern
    words: str

    def __str__(self) -> str:
        at = self.text.text.lower().find(self.words)
        around = self.text.text[max(0, at - 30) : at + len(self.words) + 30]
        place = f"{self.text.path}:{self.text.line}"
        return f"{place}: {self.words!r} in {around!r}; write: {self.pattern.instead}"


def hits(texts: Iterable[Text]) -> list[Hit]:
    """Return all refused words."""
    return [Hit(text, pattern, words) for text in texts for pattern, words in find(text.text)]


def counted(found: Iterable[Hit]) -> Counter[str]:
    """Return the number of hits in each file."""
    return Counter(hit.text.path for hit in found)


def problems(found: list[Hit], allowed: Mapping[str, int]) -> Iterator[str]:
    """Yield what differs from the allowance, with all hits of a file that has too many."""
    counts = counted(found)
    for path in sorted({*counts, *allowed}):
        here, may_be = counts[path], allowed.get(path, 0)
        if here > may_be:
            yield f"{path}: {here} refused words, {may_be} allowed. All of them:"
            yield from (f"  {hit}" for hit in found if hit.text.path == path)
        elif here < may_be:
            yield (
                f"{path}: {here} refused words, {may_be} allowed: "
                "lower the number with python -m tests.words --update"
            )


def read_allowed(path: Path | None = None) -> dict[str, int]:
    """Read an allowance."""
    return tomllib.loads((path or ALLOWED).read_text(encoding="utf-8"))


def update(found: Iterable[Hit], path: Path | None = None) -> bool:
    """Write how many there are, unless their sum is more than was allowed: return whether."""
    path = path or ALLOWED
    counts = counted(found)
    if path.exists() and counts.total() > sum(read_allowed(path).values()):
        return False
    lines = [HEAD, *(f'"{name}" = {count}' for name, count in sorted(counts.items()))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return True
