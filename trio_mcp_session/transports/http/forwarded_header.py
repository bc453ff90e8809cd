"""The header ``Forwarded`` (RFC 7239): one element for each proxy, of named values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_PART: Final = re.compile(
    r"""
    [ \t]*
    (?: ([!#$%&'*+.^_`|~0-9A-Za-z-]+)
        [ \t]*=[ \t]*
        ( "(?:[^"\\]|\\.)*" | [^\s;,"]+ | (?=[;,]|\Z) )
        [ \t]*
    )?
    ( [;,] | \Z )
    """,
    re.VERBOSE,
)
_ESCAPED: Final = re.compile(r"\\(.)")


def read_forwarded(text: str) -> Sequence[Mapping[str, str]] | None:
    """Return the elements of one header, each by lower-case name; None if it is malformed.

    A client can write what comes before the element of a proxy, and the host in that. A quote that
    it leaves open makes the header malformed, whatever follows.
    """
    elements: list[dict[str, str]] = [{}]
    position, more = 0, True
    while more:
        part = _PART.match(text, position)
        if part is None:
            return None
        name, value, end = part.groups()
        if name is not None:
            if name.lower() in elements[-1]:
                return None
            quoted = value.startswith('"')
            elements[-1][name.lower()] = _ESCAPED.sub(r"\1", value[1:-1]) if quoted else value
        if end == ",":
            elements.append({})
        position, more = part.end(), bool(end)
    return elements
