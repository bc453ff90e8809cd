"""The request headers that Streamable HTTP knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, final

import attrs

from ...protocol.header_agreement import PARAM_PREFIX
from .json_response import Header

_WHITESPACE: Final = " \t"
"""What may stand around a value, by RFC 9110; other whitespace is part of it."""

_FIELDS: Final = {
    b"accept": "accept",
    b"content-type": "content_type",
    b"content-encoding": "content_encoding",
    b"content-length": "content_length",
    b"expect": "expect",
    b"host": "host",
    b"last-event-id": "last_event_id",
    b"mcp-protocol-version": "protocol_version",
    b"mcp-method": "method",
    b"mcp-name": "name",
    b"mcp-session-id": "session_id",
    b"origin": "origin",
}


@final
@attrs.define
class RequestHeaders:
    """What the headers of one request say; None for what they do not mention."""

    accept: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    content_length: str | None = None
    expect: str | None = None
    host: str | None = None
    last_event_id: str | None = None
    protocol_version: str | None = None
    method: str | None = None
    name: str | None = None
    session_id: str | None = None
    origin: str | None = None
    repeated: frozenset[str] = frozenset()
    """Fields that came more than once; their values are joined with commas."""


def read_headers(headers: Iterable[Header]) -> RequestHeaders:
    """Read the headers of an ASGI scope."""
    known = [
        (_FIELDS[name], value.decode("latin-1").strip(_WHITESPACE))
        for name, value in headers
        if name in _FIELDS
    ]
    found = dict(known)
    if len(found) == len(known):
        return RequestHeaders(repeated=frozenset(), **found)
    repeated = {field for field in found if sum(field == other for other, _ in known) > 1}
    for field in repeated:
        found[field] = ", ".join(text for other, text in known if other == field)
    return RequestHeaders(**found, repeated=frozenset(repeated))


def read_parameters(headers: Iterable[Header]) -> Mapping[str, str]:
    """Return the values of ``Mcp-Param-`` headers by what follows that, in lower case."""
    return {
        name.removeprefix(PARAM_PREFIX): value.strip(_WHITESPACE)
        for name, value in as_mapping(headers).items()
        if name.startswith(PARAM_PREFIX)
    }


def values_of(headers: Iterable[Header], name: bytes) -> Iterator[str]:
    """Return the values of one header, in their order."""
    return (value.decode("latin-1") for field, value in headers if field == name)


def as_mapping(headers: Iterable[Header]) -> Mapping[str, str]:
    """Return all headers by lower-case name; those that came more than once are joined."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
