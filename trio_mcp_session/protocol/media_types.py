"""``Accept`` and ``Content-Type``: the media types that a client accepts and sends."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, final

import attrs


def is_json(content_type: str) -> bool:
    """Return whether a ``Content-Type`` is JSON; its parameters are ignored."""
    return content_type == _JSON or content_type.partition(";")[0].strip().lower() == _JSON


_JSON: Final = "application/json"

MAX_KEPT: Final = 256
"""The longest value to cache, in characters: clients may send any value."""


def accepts(accept: str, media_type: str) -> bool:
    """Return whether an ``Accept`` header accepts a media type.

    The most specific range decides (RFC 9110, 12.5.1); a weight of zero excludes it. Other
    parameters are ignored. A client without this header accepts everything: pass ``*/*``.
    """
    read = _read if len(accept) <= MAX_KEPT else _read.__wrapped__
    ranges = read(accept)
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return False


@final
@attrs.frozen
class Forms:
    """The forms of an answer that a client accepts."""

    json: bool
    """Whether it accepts JSON."""

    events: bool
    """Whether it accepts an event stream."""


ALL_FORMS: Final = Forms(json=True, events=True)


def forms_of(accept: str) -> Forms:
    """Return the forms of an answer that an ``Accept`` header accepts, as `accepts` does."""
    return (_forms if len(accept) <= MAX_KEPT else _forms.__wrapped__)(accept)


@lru_cache(maxsize=64)  # as below
def _forms(accept: str) -> Forms:
    return Forms(accepts(accept, _JSON), accepts(accept, "text/event-stream"))


@lru_cache(maxsize=64)  # most requests have one of a few values
def _read(accept: str) -> Mapping[str, bool]:
    """Return the ranges in an ``Accept`` header, and whether each is accepted."""
    ranges: dict[str, bool] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        ranges[name] = not any(map(_is_zero_weight, parameters))
    return ranges


def _is_zero_weight(parameter: str) -> bool:
    name, _, weight = parameter.partition("=")
    return name.strip() == "q" and weight.strip() in {"0", "0.", "0.0", "0.00", "0.000"}
