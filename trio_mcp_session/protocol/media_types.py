"""``Accept`` and ``Content-Type``: what a client sends, and what it can read."""

from __future__ import annotations

from functools import lru_cache


def is_json(content_type: str) -> bool:
    """Tell whether a ``Content-Type`` is JSON, whatever its parameters say."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


@lru_cache(maxsize=256)  # clients send the same few values with every request
def accepts(accept: str, media_type: str) -> bool:
    """Tell whether an ``Accept`` covers a media type.

    The range that fits most closely decides (RFC 9110, 12.5.1); a weight of zero excludes. Other
    parameters are ignored. Clients that send no ``Accept`` accept everything: pass ``*/*``.
    """
    family = media_type.partition("/")[0] + "/*"
    weights: dict[str, bool] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[name] = not any(map(_is_zero_weight, parameters))
    for name in (media_type, family, "*/*"):
        if name in weights:
            return weights[name]
    return False


def _is_zero_weight(parameter: str) -> bool:
    name, _, weight = parameter.partition("=")
    return name.strip() == "q" and weight.strip() in {"0", "0.", "0.0", "0.00", "0.000"}
