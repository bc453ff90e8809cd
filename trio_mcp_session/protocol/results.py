"""Complete the result of a handler with the members that 2026-07-28 requires.

These are the type of the result, the server's name and version, and how long clients may keep it.
Results of earlier revisions have none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import attrs
import msgspec

from ..core.identity import ServerInfo
from .envelope import SERVER_INFO
from .error_codes import INVALID_PARAMS, RESOURCE_NOT_FOUND
from .jsonrpc import encode_json, is_object
from .methods import CACHEABLE


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class CacheHint:
    """How long clients may keep a result, and whether they may share it (2026-07-28)."""

    max_age: float = attrs.field(default=0.0, validator=_seconds)
    """Seconds; with 0, clients may not keep it."""

    scope: Literal["private", "public"] = attrs.field(
        default="private", validator=attrs.validators.in_(("private", "public"))
    )
    """``public`` if the result is the same for all users, ``private`` otherwise."""


NO_CACHE: Final = CacheHint()


def complete_result(
    method: str, result: object, server: ServerInfo, hint: CacheHint = NO_CACHE
) -> dict[str, Any]:
    """Return a result with the members that 2026-07-28 requires.

    Members that the handler has set are kept.

    Args:
        method: The method of the request.
        result: The handler's return value: a mapping, an attrs object, a msgspec struct, or None.
        server: The name and version of the server.
        hint: How long clients may keep the result, if results of this method can be kept.

    Raises:
        TypeError: ``result`` does not encode to a JSON object.
    """
    members = _members(result)
    meta = members.get("_meta")
    completed: dict[str, Any] = {
        "resultType": "complete",
        **members,
        "_meta": {SERVER_INFO: describe(server), **(meta if is_object(meta) else {})},
    }
    if method in CACHEABLE and completed["resultType"] == "complete":
        completed.setdefault("ttlMs", round(hint.max_age * 1000))
        completed.setdefault("cacheScope", hint.scope)
    return completed


def describe(server: ServerInfo) -> dict[str, Any]:
    """Return the ``serverInfo`` of a result: names and version.

    The rest, such as icons, is in the result of ``server/discover``.
    """
    described = {"name": server.name, "version": server.version}
    if server.title is not None:
        described["title"] = server.title
    return described


def translate_code(code: int) -> int:
    """Return the 2026-07-28 equivalent of an error code of earlier revisions."""
    return INVALID_PARAMS if code == RESOURCE_NOT_FOUND else code


def _members(result: object) -> dict[str, Any]:
    if is_object(result):
        return result
    if result is None:
        return {}
    if isinstance(result, Mapping):
        return dict(cast("Mapping[str, Any]", result))
    members = msgspec.json.decode(encode_json(result))
    if not is_object(members):
        raise TypeError(f"a result must be an object, not {type(result).__name__}")
    return members
