"""The headers that repeat what a modern request says (2026-07-28, *Streamable HTTP*).

They are for those in between. The server checks that they agree with the message, and decides
nothing by them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from ..core.errors import McpError
from .error_codes import HEADER_MISMATCH
from .jsonrpc import Request, is_object

NAME_OF: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}
"""The parameter that ``Mcp-Name`` repeats, by method."""

PARAM_PREFIX: Final = "mcp-param-"
_BEGIN: Final = "=?base64?"
_END: Final = "?="
_SENDABLE: Final = re.compile(r"[\t\x20-\x7e]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def check_agreement(
    request: Request,
    version: str,
    *,
    header_version: str | None,
    header_method: str | None,
    header_name: str | None,
) -> None:
    """Check that the headers of a request agree with it.

    Args:
        request: The message.
        version: The protocol version that its envelope names.
        header_version: ``MCP-Protocol-Version``; None where there is none.
        header_method: ``Mcp-Method``.
        header_name: ``Mcp-Name``.

    Raises:
        McpError: -32020.
    """
    if header_version != version:
        raise mismatch("MCP-Protocol-Version")
    if header_method != request.method:
        raise mismatch("Mcp-Method")
    named = NAME_OF.get(request.method)
    if named is None:
        return
    value = request.params.get(named)
    if not isinstance(value, str):
        return  # The message is wrong by itself, and will hear so.
    if header_name is None or decode_value("Mcp-Name", header_name) != value:
        raise mismatch("Mcp-Name")


def check_parameters(
    declared: Mapping[str, tuple[str, ...]],
    arguments: dict[str, Any],
    headers: Mapping[str, str],
) -> None:
    """Check the headers that a tool wants for some of its arguments (``x-mcp-header``).

    Args:
        declared: Where in the arguments each value is, by the name that follows ``Mcp-Param-``.
        arguments: The arguments.
        headers: The values of the ``Mcp-Param-`` headers, by what follows that, in lower case.
            Those that are not declared are ignored.

    Raises:
        McpError: -32020.
    """
    for name, place in declared.items():
        header = headers.get(name.lower())
        value = _value_at(arguments, place)
        shown = f"Mcp-Param-{name}"
        if value is None:
            if header is not None:
                raise mismatch(shown)
        elif header is None or not _same(decode_value(shown, header), value):
            raise mismatch(shown)


def decode_value(name: str, value: str) -> str:
    """Return what a header stands for: UTF-8 in Base64 between its markers, else itself.

    Raises:
        McpError: -32020, there are the markers, and something else between them; or there are
            characters that no header may have.
    """
    if _SENDABLE.fullmatch(value) is None:
        raise mismatch(name)
    if not (value.startswith(_BEGIN) and value.endswith(_END)):
        return value
    if len(value) < len(_BEGIN) + len(_END):
        raise mismatch(name)  # One question mark is not the end of both markers.
    encoded = value[len(_BEGIN) : -len(_END)].encode("ascii")
    try:
        decoded = base64.b64decode(encoded)
        text = decoded.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise mismatch(name) from None
    if base64.b64encode(decoded) != encoded:
        raise mismatch(name)  # The decoder lets pass what is no Base64, or is padded too much.
    return text


def mismatch(name: str) -> McpError:
    """Return the error for a header that does not agree with the message."""
    return McpError(HEADER_MISMATCH, f"Header mismatch: {name} does not agree with the message")


def _value_at(arguments: dict[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = arguments
    for name in place:
        if not is_object(value):
            return None
        value = value.get(name)
    return value


def _same(text: str, value: Any) -> bool:
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, (int, float)) and _NUMBER.fullmatch(text) is None:
        return False  # Python reads more as numbers than JSON does.
    if isinstance(value, int):
        # Exactly: floats are too coarse for large ones.
        try:
            return Decimal(text) == value
        except InvalidOperation:  # Its exponent is out of all bounds.
            return False
    if isinstance(value, float):
        return float(text) == value
    return bool(text == value)
