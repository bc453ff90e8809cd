"""The headers that repeat parts of a stateless request (2026-07-28, *Streamable HTTP*).

They are for proxies and other intermediaries. The server only checks that they agree with the
message; it uses the message.
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
from .methods import TASK_METHODS

NAME_OF: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}
"""The parameter that ``Mcp-Name`` repeats, by method."""

NAME_IF_SENT: Final = dict.fromkeys(TASK_METHODS, "taskId")
"""The same for methods that clients also call without ``Mcp-Name``, although the tasks extension
wants it: the header must agree if it is sent."""

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
        header_version: ``MCP-Protocol-Version``; None if the header is missing.
        header_method: ``Mcp-Method``.
        header_name: ``Mcp-Name``.

    Raises:
        McpError: -32020, they do not.
    """
    if header_version != version:
        raise mismatch("MCP-Protocol-Version")
    if header_method != request.method:
        raise mismatch("Mcp-Method")
    named = NAME_OF.get(request.method)
    if named is None:
        named = NAME_IF_SENT.get(request.method)
        if named is None or header_name is None:
            return
    value = request.params.get(named)
    if not isinstance(value, str):
        return  # The parameters are invalid: the request is answered with that error.
    if header_name is None or decode_value("Mcp-Name", header_name) != value:
        raise mismatch("Mcp-Name")


def check_parameters(
    declared: Mapping[str, tuple[str, ...]],
    arguments: dict[str, Any],
    headers: Mapping[str, str],
) -> None:
    """Check the headers that repeat arguments of a tool (``x-mcp-header``).

    Args:
        declared: The path of each value in the arguments, by the name after ``Mcp-Param-``.
        arguments: The arguments.
        headers: The values of the ``Mcp-Param-`` headers, by the name after that prefix, in lower
            case. Names that are not declared are ignored.

    Raises:
        McpError: -32020, a header does not agree.
    """
    for name, place in declared.items():
        header = headers.get(name.lower())
        value = value_at(arguments, place)
        shown = f"Mcp-Param-{name}"
        if value is None:
            if header is not None:
                raise mismatch(shown)
        elif header is None or not _same(decode_value(shown, header), value):
            raise mismatch(shown)


def decode_value(name: str, value: str) -> str:
    """Decode a header value: UTF-8 in Base64 if it has the markers, unchanged if not.

    Raises:
        McpError: -32020, the text between the markers is not Base64 of UTF-8, or the value has
            characters that a header must not have.
    """
    if not is_sendable(value):
        raise mismatch(name)
    if not (value.startswith(_BEGIN) and value.endswith(_END)):
        return value
    if len(value) < len(_BEGIN) + len(_END):
        raise mismatch(name)  # The two markers overlap: one ``?`` belongs to both.
    encoded = value[len(_BEGIN) : -len(_END)].encode("ascii")
    try:
        decoded = base64.b64decode(encoded)
        text = decoded.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise mismatch(name) from None
    if base64.b64encode(decoded) != encoded:
        raise mismatch(name)  # ``b64decode`` ignores foreign characters and extra padding.
    return text


def is_sendable(value: str) -> bool:
    """Return whether a header may have a value as it is."""
    return _SENDABLE.fullmatch(value) is not None


def mismatch(name: str) -> McpError:
    """Return the error for a header that does not agree with the message."""
    return McpError(HEADER_MISMATCH, f"Header mismatch: {name} does not agree with the message")


def value_at(arguments: Any, place: tuple[str, ...]) -> Any:
    """Return the value at a place in the arguments; None if the place does not exist."""
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
        return False  # Python accepts numbers that JSON does not, such as ``1_000``.
    if isinstance(value, int):
        # Compared exactly: a float cannot represent all large integers.
        try:
            return Decimal(text) == value
        except InvalidOperation:  # The exponent is too large for ``Decimal``.
            return False
    if isinstance(value, float):
        return float(text) == value
    return bool(text == value)
