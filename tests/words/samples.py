"""Sentences drawn at random, for readers to restate."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Final

from .texts import Text

KINDS: Final = ("page", "docstring", "message")
PLACES: Final = ("trio_mcp_session", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FEWEST_WORDS: Final = 4
_END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][)\"*])) +(?=[\"(*]*[A-Z`…])")


def sentences(texts: Iterable[Text]) -> list[Text]:
    """Return the sentences of the pages, docstrings and messages that users read."""
    return [
        text._replace(text=sentence)
        for text in texts
        if text.kind in KINDS and text.path.startswith(PLACES)
        for sentence in _END.split(text.text)
        if len(sentence.split()) >= FEWEST_WORDS
    ]


def sample(texts: Iterable[Text], number: int, seed: int | None = None) -> list[Text]:
    """Draw sentences, each with the same chance. The same seed draws the same ones."""
    found = sentences(texts)
    return random.Random(seed).sample(found, min(number, len(found)))  # noqa: S311  # no secret
