"""What a request is for: the target of its request line."""

from __future__ import annotations

import re
from typing import Final, final
from urllib.parse import unquote_to_bytes

import attrs

from .heads import check_host
from .request_refused import bad_request

_ABSOLUTE: Final = re.compile(rb"http://([^/?#]*)([^#]*)", re.IGNORECASE)
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@final
@attrs.define(eq=False)
class Target:
    """A path and a query."""

    path: str
    raw_path: bytes
    query: bytes
    authority: bytes | None = None
    """The host that an absolute target names."""


def read_target(method: bytes, target: bytes, host: bytes | None) -> Target:
    """Take a request target apart.

    Raises:
        RequestRefused: The target is malformed, or contradicts the `Host` header.
    """
    authority = None
    if target == b"*" and method == b"OPTIONS":
        return Target("*", target, b"")
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise bad_request("the target is malformed")
        authority = match[1]
        check_host(authority)
        # Of two that differ, an application would check one and a proxy the other.
        if host is not None and host.lower() != authority.lower():
            raise bad_request("the target and the Host differ")
        target = match[2] if match[2].startswith(b"/") else b"/" + match[2]
    raw_path, _, query = target.partition(b"?")
    if b"#" in target:
        raise bad_request("the target is malformed")
    if b"%" not in raw_path:
        return Target(raw_path.decode("ascii"), raw_path, query, authority)
    if _BAD_ESCAPE.search(raw_path) is not None:
        raise bad_request("the target is malformed")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request("the target is not UTF-8") from error
    return Target(path, raw_path, query, authority)
