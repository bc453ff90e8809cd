r"""Text with lone surrogates: halves of UTF-16 pairs, which are not valid Unicode.

JSON may contain them as escapes: a client that cuts text in the middle of an emoji sends
``"\ud83d"``. Python strings may contain them too, for example the names of files that are not
UTF-8, as `os.listdir` returns them. In both cases each one is replaced by U+FFFD, the replacement
character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Final, cast

import msgspec

_HIGH: Final = rb"[89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"[c-fC-F][0-9a-fA-F]{2}"
# It begins with plain text, so that the regular expression is searched for fast.
_LONE: Final = re.compile(
    rb"\\u[dD](?:%b(?!\\u[dD]%b)|(?<!\\u[dD]%b\\u[dD])%b)" % (_HIGH, _LOW, _HIGH, _LOW)
)

_BACKSLASH: Final = rb"\\"
"""An escaped backslash. Without these, each backslash begins an escape."""
_PLACEHOLDER: Final = b"\x00\x00"
"""Stands for an escaped backslash: JSON contains no NUL."""


def _do_nothing() -> None:
    """Do nothing: the default callback."""


on_replaced: Final[ContextVar[Callable[[], object]]] = ContextVar(
    "trio_mcp_session.on_replaced", default=_do_nothing
)
"""Called when text of the server was sent with U+FFFD in place of lone surrogates.

A context variable, since encoding is everywhere, and handlers run in the context of their manager.
"""


def replace_in_json(frame: bytes) -> bytes | None:
    """Replace the escapes of lone surrogates in JSON; return None if there are none.

    Each step is one pass over the frame in C: a hostile frame may consist of escapes only.
    """
    if b"\\u" not in frame or b"\x00" in frame:
        return None
    replaced, count = _LONE.subn(rb"\\ufffd", frame.replace(_BACKSLASH, _PLACEHOLDER))
    return replaced.replace(_PLACEHOLDER, _BACKSLASH) if count else None


def replace_in_value(value: object, encode_other: Callable[[object], object]) -> object:
    """Return a value that is to be sent, without lone surrogates in any text of it.

    Surrogates that stand next to each other as a pair become the character that they mean.

    Args:
        value: Anything that encodes to JSON.
        encode_other: Converts values that msgspec does not know.

    Raises:
        RecursionError: The value contains itself.
        TypeError: It does not encode to JSON.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        return {
            replace_in_value(key, encode_other): replace_in_value(one, encode_other)
            for key, one in members.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = cast("Iterable[object]", value)
        return [replace_in_value(one, encode_other) for one in items]
    if value is None or isinstance(value, (int, float, bytes, bytearray, memoryview, msgspec.Raw)):
        return cast("object", value)

    def convert(other: object) -> object:
        return msgspec.json.decode(other) if isinstance(other, msgspec.Raw) else encode_other(other)

    return replace_in_value(msgspec.to_builtins(value, enc_hook=convert), encode_other)
