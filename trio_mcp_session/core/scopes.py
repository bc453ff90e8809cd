"""OAuth scopes: names of what a token permits (RFC 6749, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")


def as_scopes(scopes: str | Iterable[str]) -> frozenset[str]:
    """Return scopes as a set. Text is split at spaces. Not a checkpoint."""
    return frozenset(scopes.split() if isinstance(scopes, str) else scopes)


def checked_scopes(scopes: str | Iterable[str]) -> tuple[str, ...]:
    """Return scopes in their order, each once. Text is split at spaces. Not a checkpoint.

    Raises:
        ValueError: One of them is not a scope: it is empty, or has characters that RFC 6749 does
            not allow, such as quotes, backslashes or others than ASCII.
    """
    names = tuple(dict.fromkeys(scopes.split() if isinstance(scopes, str) else scopes))
    for name in names:
        if not _SCOPE.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a scope: use printable ASCII without quotes and backslashes"
            )
    return names
