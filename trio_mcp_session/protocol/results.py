"""What an answer has besides what the handler returned, in each era.

Results of 2026-07-28 say of what type they are, who answers and how long they may be kept; those
before say nothing of it.
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

CACHEABLE: Final = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
"""Methods whose complete results say how long they may be kept (*Caching*)."""


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class CacheHint:
    """How long clients may keep a result, and who may be given what they kept (2026-07-28)."""

    max_age: float = attrs.field(default=0.0, validator=_seconds)
    """Seconds; 0 for not at all."""

    scope: Literal["private", "public"] = attrs.field(
        default="private", validator=attrs.validators.in_(("private", "public"))
    )
    """``public`` only where everybody would get the same."""


NO_CACHE: Final = CacheHint()


def complete_result(
    method: str, result: object, server: ServerInfo, hint: CacheHint = NO_CACHE
) -> dict[str, Any]:
    """Return a result as 2026-07-28 wants it. What the handler itself said goes before.

    Args:
        method: The method that it answers.
        result: What the handler returned: a mapping, an attrs object, a msgspec struct, or None.
        server: Who answers.
        hint: How long it may be kept, where the method's results can be.

    Raises:
        TypeError: ``result`` is no object of JSON.
    """
    said = _members(result)
    meta = said.get("_meta")
    dressed: dict[str, Any] = {
        "resultType": "complete",
        **said,
        "_meta": {SERVER_INFO: describe(server), **(meta if is_object(meta) else {})},
    }
    if method in CACHEABLE and dressed["resultType"] == "complete":
        dressed.setdefault("ttlMs", round(hint.max_age * 1000))
        dressed.setdefault("cacheScope", hint.scope)
    return dressed


def describe(server: ServerInfo) -> dict[str, Any]:
    """Return what the server says of itself."""
    described = {"name": server.name, "version": server.version}
    if server.title is not None:
        described["title"] = server.title
    return described


def translate_code(code: int) -> int:
    """Return what an error number of the years before is in 2026-07-28."""
    return INVALID_PARAMS if code == RESOURCE_NOT_FOUND else code


def _members(result: object) -> dict[str, Any]:
    if result is None:
        return {}
    if isinstance(result, Mapping):
        return dict(cast("Mapping[str, Any]", result))
    members = msgspec.json.decode(encode_json(result))
    if not is_object(members):
        raise TypeError(f"a result must be an object, not {type(result).__name__}")
    return members
