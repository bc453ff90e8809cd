"""Headers that decide how a request is read: where it ends, whom it is for, what follows it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, final

import attrs

from .refusal import RequestRefused, bad_request

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)
_DECIDING: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect")
)


@final
class Head:
    """The callbacks of httptools."""

    __slots__ = ("complete", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header: the white space behind a value is no part of it."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note that the head was read to its end."""
        self.complete = True


@final
@attrs.define(eq=False)
class HeaderFacts:
    """What the headers of a request say about it."""

    host: bytes | None = None
    content_length: int = -1
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False


def read_headers(headers: list[tuple[bytes, bytes]], version: str) -> HeaderFacts:
    """Find out what decides.

    Raises:
        RequestRefused: The headers contradict each other, or ask for what is not done here.
    """
    facts = HeaderFacts()
    options = b""
    for name, value in headers:
        if name not in _DECIDING:
            continue
        if name == b"host":
            if facts.host is not None:
                raise bad_request("there is more than one Host")
            check_host(value)
            facts.host = value
        elif name == b"content-length":
            # httptools knows numbers, but not that there must not be many digits.
            if facts.content_length >= 0 or not value.isdigit() or len(value) > 18:
                raise bad_request("the Content-Length is malformed")
            facts.content_length = int(value)
        elif name == b"connection":
            options = options + b"," + value if options else value
        elif name == b"transfer-encoding":
            _check_transfer_encoding(value, version, twice=facts.chunked)
            facts.chunked = True
        elif version == "1.1":
            if value.lower() != b"100-continue":
                raise RequestRefused(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
            facts.expects_continue = True
    if facts.chunked and facts.content_length >= 0:
        raise bad_request("there is both a Content-Length and a Transfer-Encoding")
    if version == "1.1" and facts.host is None:
        raise bad_request("there is no Host")
    facts.content_length = max(facts.content_length, 0)
    facts.keep_alive = _keeps_alive(options, version)
    return facts


def check_host(value: bytes) -> None:
    """Refuse what can't be a host with or without a port."""
    if _HOST.fullmatch(value) is None:
        raise bad_request("the Host is malformed")


def _check_transfer_encoding(value: bytes, version: str, *, twice: bool) -> None:
    if version != "1.1":
        raise bad_request("there is no Transfer-Encoding in HTTP/1.0")
    if twice:
        raise bad_request("there is more than one Transfer-Encoding")
    if value.lower() != b"chunked":
        raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "only chunked is understood")


def _keeps_alive(options: bytes, version: str) -> bool:
    if not options:
        return version == "1.1"
    tokens = [one.strip(b" \t") for one in options.lower().split(b",")]
    return b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)
