"""Finds out whether a method of an application was meant to be one of the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from ..protocol.capabilities import NEEDED
from ..protocol.methods import METHODS

_OWN: Final = ("tools/", "prompts/", "resources/", "completion/", "logging/", "subscriptions/")
"""What only names of the protocol begin with."""

_SIMILAR: Final = 0.85
"""How similar a misspelt name is to the name that was meant, from 0 to 1."""


def check_method_name(method: str, extensions: Iterable[str] = ()) -> None:
    """Refuse a name that is not a method of the protocol, but looks like one.

    Args:
        method: The name.
        extensions: The extensions of the server: names that begin with the vendor or with the name
            of one of them are its methods.

    Raises:
        ValueError: It looks like a method of the protocol.
    """
    if method in METHODS:
        return
    first = method.partition("/")[0]
    if any(first in name.split("/") for name in extensions):
        return
    if method in NEEDED:
        why = "clients answer it: a server sends it with RequestContext.elicit, sample, list_roots."
    elif similar := get_close_matches(
        method.lower(), [name for name in METHODS if "/" in name], 1, _SIMILAR
    ):
        why = f"did you mean {similar[0]!r}?"
    elif method.startswith(_OWN):
        why = f"names that begin with '{first}/' belong to the protocol."
    else:
        return
    raise ValueError(
        f"{method!r} is not a method that servers have: {why} For a method of your own, choose "
        "another name, or pass allow_unknown=True"
    )
