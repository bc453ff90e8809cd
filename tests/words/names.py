"""Test names that say nothing by themselves.

A name says something if it has at least four words, and at least two of them are neither pronouns
nor other words that any sentence may have: ``an idle session is evicted``, not ``who may live``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .texts import Text

FEWEST_WORDS: Final = 4
FEWEST_OF_SUBSTANCE: Final = 2

EMPTY: Final = frozenset(
    """
    a about after again all alone also always an and another any are as at back be been before
    behind being besides both but by can cannot come comes could do does done each either else
    end ends even every everybody everything few first for from get gets give gives go goes gone
    had has have hear hears how if in into is it its itself just keep keeps last late later leave
    leaves left let lets like live lives made make makes many may more most much must need needs
    neither never new next no nobody none nor not nothing now of off on once one ones only or
    other others out over own place run runs same say says seen so some somebody something soon
    still such take taken takes tell tells than that the their them then there these they thing
    things this those though to together told too twice two under until up used very want wants
    was way ways well were what whatever when where whether which while who whoever whom whose
    why will with without work works would yet
    """.split()  # noqa: SIM905  # a line for each word would be a page
)


def says_nothing(name: str) -> bool:
    """Return whether a test's name, given as words, says nothing by itself."""
    words = name.lower().split()
    substance = {word for word in words if word not in EMPTY}
    return len(words) < FEWEST_WORDS or len(substance) < FEWEST_OF_SUBSTANCE


def report(texts: Iterable[Text]) -> str:
    """Return the share of test names that say nothing, and these names by file."""
    names = [one for one in texts if one.kind == "test name"]
    empty = [one for one in names if says_nothing(one.text)]
    share = len(empty) / len(names) if names else 0
    lines = [f"{one.path}:{one.line}: {one.text}" for one in empty]
    lines.append(f"{len(empty)} of {len(names)} test names say nothing by themselves: {share:.1%}")
    return "\n".join(lines)
