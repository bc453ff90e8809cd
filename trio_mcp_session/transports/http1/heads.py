"""Headers that decide how a request is read: where it ends, its host, what follows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import ClassVar, Final, final

import attrs

from .request_refused import RequestRefused, bad_request

MAX_DIGITS: Final = 18
"""Digits of a Content-Length."""

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)


@final
class Head:
    """The callbacks of httptools."""

    __slots__ = ("complete", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header, without white space behind its value."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Note that the head was read to its end."""
        self.complete = True


@final
@attrs.define(eq=False, repr=False, init=False)
class HeaderFacts:
    """What the headers of a request say about it, one after the other."""

    # The defaults are in `__init__`, which is written by hand: one request sets each of them, and
    # the one of attrs looks up the defaults by name.
    version: str
    host: bytes | None
    content_length: int | None
    chunked: bool
    expects_continue: bool
    options: bytes

    def __init__(self, version: str) -> None:
        self.version = version
        self.host = self.content_length = None
        self.chunked = self.expects_continue = False
        self.options = b""

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        modern = self.version == "1.1"
        if not self.options:
            return modern
        tokens = [one.strip(b" \t") for one in self.options.lower().split(b",")]
        return b"close" not in tokens and (modern or b"keep-alive" in tokens)

    def _read_host(self, value: bytes) -> None:
        if self.host is not None:
            raise bad_request("there is more than one Host")
        check_host(value)
        self.host = value

    def _read_content_length(self, value: bytes) -> None:
        # httptools refuses everything but one number; it must not depend on that alone.
        if self.content_length is not None or not value.isdigit() or len(value) > MAX_DIGITS:
            raise bad_request("the Content-Length is malformed")
        self.content_length = int(value)

    def _read_transfer_encoding(self, value: bytes) -> None:
        if self.version != "1.1" or self.chunked:
            raise bad_request("there is a Transfer-Encoding too many")
        if value.lower() != b"chunked":
            raise bad_request("only chunked is understood as Transfer-Encoding")
        self.chunked = True

    def _read_connection(self, value: bytes) -> None:
        self.options += b"," + value

    def _read_expect(self, value: bytes) -> None:
        if self.version == "1.1":
            if value.lower() != b"100-continue":
                raise RequestRefused(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
            self.expects_continue = True

    # What is not here decides nothing.
    _readers: ClassVar[dict[bytes, Callable[[HeaderFacts, bytes], None]]] = {
        b"connection": _read_connection,
        b"content-length": _read_content_length,
        b"expect": _read_expect,
        b"host": _read_host,
        b"transfer-encoding": _read_transfer_encoding,
    }

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Read all headers.

        Raises:
            RequestRefused: They contradict each other, or ask for what is not done here.
        """
        readers = self._readers
        for name, value in headers:
            if name in readers:  # Most are not.
                readers[name](self, value)
        if self.chunked and self.content_length is not None:
            raise bad_request("there is both a Content-Length and a Transfer-Encoding")
        if self.version == "1.1" and self.host is None:
            raise bad_request("there is no Host")


def check_host(value: bytes) -> None:
    """Refuse what can't be a host with or without a port."""
    if _HOST.fullmatch(value) is None:
        raise bad_request("the Host is malformed")
