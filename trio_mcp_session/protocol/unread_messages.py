"""What is known of a message that cannot be decoded: which request it is, or answers.

The message may be too large, cut short or not JSON. Its first and its last bytes are scanned:
programs write the members of a message that tell what it is either before ``params`` or ``result``,
or after it.
"""

from __future__ import annotations

import re
from typing import Final

import attrs
import msgspec
from msgspec import UNSET, UnsetType

SCANNED: Final = 1024
"""How many bytes at each end of a message are scanned. Only an id can make these members long."""

NOTIFICATIONS: Final = "notifications/"
"""What the methods of all notifications of MCP begin with."""

_STRING: Final = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_SCALAR: Final = rb'(?:%b|[^\s,{}\[\]"]+)' % _STRING
_SPACE: Final = rb"[ \t\r\n]*"

_BEGIN: Final = re.compile(rb"(?:\xef\xbb\xbf)?%b\{" % _SPACE)
_KEY: Final = re.compile(rb"%b(%b)%b:%b" % (_SPACE, _STRING, _SPACE, _SPACE), re.DOTALL)
_VALUE: Final = re.compile(_SCALAR, re.DOTALL)
_COMMA: Final = re.compile(rb"%b," % _SPACE)
_TOKEN: Final = re.compile(rb"%b|[{}\[\]]" % _STRING, re.DOTALL)
_STEPS: Final = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
_NAMED: Final = rb',%b"(?:jsonrpc|method|id)"%b:%b' % (_SPACE, _SPACE, _SPACE)
_LAST: Final = re.compile(rb"(?:%b%b%b){1,3}\}%b\Z" % (_NAMED, _SCALAR, _SPACE, _SPACE), re.DOTALL)
_MEMBER: Final = re.compile(rb'"(\w+)"%b:%b(%b)' % (_SPACE, _SPACE, _SCALAR), re.DOTALL)


@attrs.frozen
class UnreadMessage:
    """What is known of a message that was not decoded."""

    request_id: int | float | str | UnsetType = UNSET
    """Its id, if it is a request."""

    answers: int | float | str | UnsetType = UNSET
    """The id of the request that it answers, if it is a response."""

    is_notification: bool = False
    """Whether it is a notification."""


def scan(head: bytes, tail: bytes = b"") -> UnreadMessage:
    """Return what is known of a message from its ends. Ids are as decoded, unchecked.

    A response must not be taken for a request: its id is one of the server's own.

    Args:
        head: The first `SCANNED` bytes of the message.
        tail: The last ones; empty if the message was cut short.
    """
    members = {**_members_at_end(tail[-SCANNED:]), **_members_at_begin(head[:SCANNED])}
    message_id = _decoded(members.get("id", b""))
    found = UNSET if not isinstance(message_id, (int, float, str)) else message_id
    method = members.get("method", b"")
    if method.startswith(b'"'):
        notifies = found is UNSET and method.startswith(b'"' + NOTIFICATIONS.encode())
        return UnreadMessage(request_id=found, is_notification=notifies)
    if "result" in members or "error" in members:
        return UnreadMessage(answers=found)
    return UnreadMessage()


def _members_at_begin(head: bytes) -> dict[str, bytes]:
    """Return the members of the outermost object that begin in the head, as they are written.

    A member whose value is an array or an object has empty text.
    """
    members: dict[str, bytes] = {}
    here = _BEGIN.match(head)
    while here is not None and (key := _KEY.match(head, here.end())) is not None:
        name, begin = str(_decoded(key[1])), key.end()
        value = _VALUE.match(head, begin)
        # Only a text shows where it ends: anything else may be cut short.
        if value is not None and (value[0].endswith(b'"') or value.end() < len(head)):
            members[name] = value[0]
            end: int | None = value.end()
        elif head.startswith((b"{", b"["), begin):
            members[name] = b""
            end = _end_of_nested(head, begin)
        else:
            end = None
        here = None if end is None else _COMMA.match(head, end)
    return members


def _end_of_nested(head: bytes, begin: int) -> int | None:
    """Return where an array or object ends; None if that is not in the head."""
    depth = 0
    for token in _TOKEN.finditer(head, begin):
        depth += _STEPS.get(token[0], 0)
        if not depth:
            return token.end()
    return None


def _members_at_end(tail: bytes) -> dict[str, bytes]:
    """Return the last members of the outermost object, as far as they have plain values.

    Inside of a string the quotes would be escaped, so this text cannot be part of one.
    """
    last = _LAST.search(tail)
    return {} if last is None else {key.decode(): value for key, value in _MEMBER.findall(last[0])}


def _decoded(text: bytes) -> object:
    """Return a JSON value; None if it is not one."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
