"""The layers of the package, and the imports that do not point down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .modules import Import

RANKS: Final[Mapping[str, int]] = {
    "core": 1,
    "protocol": 2,
    "sessions": 3,
    "server": 4,
    "handles": 5,
    "application": 6,
    "transports": 7,
    "adapters": 8,
    "telemetry": 8,
    "admin": 9,
    "cli": 10,
    "testing": 10,
    "__main__": 11,  # hands over to `cli`
}
"""A module imports from layers with a lower rank, and from its own."""

PURE: Final = ("core", "protocol")
"""Layers of values in and values out: without I/O, and without trio."""

# (`secrets` and `datetime` are for ids and for the default wall clock; `contextvars` is for a
# callback of the encoder; `inspect` only looks at functions; `urllib.parse` only parses text,
# unlike the rest of `urllib`.)
PURE_IMPORTS: Final = frozenset(
    {
        "__future__",
        "abc",
        "attrs",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "contextlib",
        "contextvars",
        "datetime",
        "decimal",
        "enum",
        "functools",
        "hashlib",
        "hmac",
        "ipaddress",
        "itertools",
        "math",
        "msgspec",
        "re",
        "secrets",
        "sys",
        "types",
        "typing",
        "inspect",
        "urllib.parse",
    }
)


def layer(module: str) -> str:
    """Return the layer of a module; the empty string for the package's own module."""
    return module.partition(".")[0]


def upward(found: Iterable[Import]) -> list[Import]:
    """Return the imports that do not point down, also those for type checkers only.

    A folder without a rank is below all others.
    """
    wrong = []
    for one in found:
        source, target = layer(one.source), layer(one.target)
        if not one.inside or not source or source == target:
            continue
        if not target or RANKS.get(target, 0) >= RANKS.get(source, 0):
            wrong.append(one)
    return wrong


def impure(found: Iterable[Import]) -> list[Import]:
    """Return the imports of pure layers from other packages that are not pure."""
    return [
        one
        for one in found
        if layer(one.source) in PURE
        and not one.inside
        and not {one.target, one.target.partition(".")[0]} & PURE_IMPORTS
    ]
