"""``Accept`` and ``Content-Type``: what a client sends, and what it can read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final


def is_json(content_type: str) -> bool:
    """Tell whether a ``Content-Type`` is JSON, whatever its parameters say."""
    return content_type == _JSON or content_type.partition(";")[0].strip().lower() == _JSON


_JSON: Final = "application/json"

MAX_KEPT: Final = 256
"""Characters of a value that is remembered: clients choose what they send."""


def accepts(accept: str, media_type: str) -> bool:
    """Tell whether an ``Accept`` covers a media type.

    The range that fits most closely decides (RFC 9110, 12.5.1); a weight of zero excludes. Other
    parameters are ignored. Clients that send no ``Accept`` accept everything: pass ``*/*``.
    """
    read = _read if len(accept) <= MAX_KEPT else _read.__wrapped__
    ranges = read(accept)
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return False


@lru_cache(maxsize=64)  # the same few come with every request
def _read(accept: str) -> Mapping[str, bool]:
    """Return the ranges that an ``Accept`` names, and whether it takes them."""
    ranges: dict[str, bool] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        ranges[name] = not any(map(_is_zero_weight, parameters))
    return ranges


def _is_zero_weight(parameter: str) -> bool:
    name, _, weight = parameter.partition("=")
    return name.strip() == "q" and weight.strip() in {"0", "0.", "0.0", "0.00", "0.000"}
