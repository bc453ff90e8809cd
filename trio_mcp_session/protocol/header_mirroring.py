"""The headers that a client adds to a stateless request (2026-07-28, *Streamable HTTP*).

They repeat parts of the message; `header_agreement` is what a server checks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from .header_agreement import NAME_IF_SENT, NAME_OF, is_sendable, value_at
from .jsonrpc import encode_json

_MARKED: Final = ("=?base64?", "?=")


def named_parameter(method: str) -> str | None:
    """Return which parameter ``Mcp-Name`` repeats for a method; None for none."""
    return NAME_OF.get(method) or NAME_IF_SENT.get(method)


def encode_value(text: str) -> str:
    """Return a text as the value of a header: in Base64 where a header cannot have it as it is."""
    begin, end = _MARKED
    if is_sendable(text) and text == text.strip() and not text.startswith(begin):
        return text
    return f"{begin}{base64.b64encode(text.encode('utf-8', 'replace')).decode()}{end}"


def mirror_request(method: str, version: str, name: object) -> dict[str, str]:
    """Return the headers of a request.

    Args:
        method: Its method.
        version: The protocol version that its envelope names.
        name: The value of its `named_parameter`.
    """
    # The server compares these as they are: where they cannot be sent, it refuses the message.
    plain = {"MCP-Protocol-Version": version, "Mcp-Method": method}
    headers = {header: value for header, value in plain.items() if is_sendable(value)}
    if named_parameter(method) is not None and isinstance(name, str):
        headers["Mcp-Name"] = encode_value(name)
    return headers


def mirror_arguments(
    declared: Mapping[str, tuple[str, ...]], arguments: Mapping[str, Any]
) -> dict[str, str]:
    """Return the headers that repeat arguments of a tool (``x-mcp-header``).

    Args:
        declared: The path of each value in the arguments, by the name after ``Mcp-Param-``.
        arguments: The arguments.
    """
    headers: dict[str, str] = {}
    for name, place in declared.items():
        value = value_at(arguments, place)
        if isinstance(value, str):
            headers[f"Mcp-Param-{name}"] = encode_value(value)
        elif isinstance(value, (bool, int, float)):
            headers[f"Mcp-Param-{name}"] = encode_json(value).decode()
    return headers
