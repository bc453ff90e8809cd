"""Responses become bytes: heads that are checked, bodies that end where the head says."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, final

import attrs

from .request_refused import RequestRefused

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KEPT_NAMES: Final = 1000
_DECIDING: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date"))
_NO_CONTENT: Final = 204  # `HTTPStatus.NO_CONTENT` takes long to look up
_BODILESS: Final = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
_LOWEST: Final = 200  # Lower ones are not final responses.
_HIGHEST: Final = 999
_STATUS_LINES: Final = {
    int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii")
    for status in HTTPStatus
    if status >= _LOWEST
}


@final
@attrs.define(eq=False, repr=False, init=False)
class Response:
    """Frames the body that an application sends, see `start_response`."""

    # The defaults are in `__init__`, which is written by hand: see `HeaderFacts`.
    _lines: bytes
    _content_length: int | None
    _bodiless: bool
    closes: bool
    """Whether the connection ends after this response."""
    until_close: bool
    """Whether nothing but the end of the connection tells where the body ends."""
    _chunked: bool
    _missing: int | None

    def __init__(
        self, lines: bytes, content_length: int | None, *, bodiless: bool, closes: bool
    ) -> None:
        self._lines = lines
        self._content_length = content_length
        self._bodiless = bodiless
        self.closes = closes
        self.until_close = self._chunked = False
        self._missing = None

    def begin(self, body: bytes, *, more: bool, version: str, keep_alive: bool) -> bytes:
        """Return the head, with the first part of the body.

        Raises:
            RuntimeError: That is not the body that the head announced.
        """
        length = self._content_length
        framing = b""
        if self._bodiless:
            # The length of what another method or another time would have got.
            if length is None and body and not more:
                length = len(body)
        elif length is not None:
            self._missing = length
        elif not more:
            length = len(body)
        elif version == "1.1":
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self.until_close = True
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        if self.closes or self.until_close or not keep_alive:
            self.closes = True
            framing += b"connection: close\r\n\r\n"
        elif version == "1.1":
            framing += b"\r\n"
        else:
            framing += b"connection: keep-alive\r\n\r\n"
        return self._lines + framing + self.frame(body, more=more)

    def frame(self, body: bytes, *, more: bool) -> bytes:
        """Return the next part of the body as it is written.

        Raises:
            RuntimeError: It is more or less than the head announced.
        """
        if self._bodiless:
            return b""
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._missing is not None:
            missing = self._missing - len(body)
            if missing < 0 or (missing and not more):
                raise RuntimeError("the body is not as long as the Content-Length says")
            self._missing = missing
        return body


def start_response(message: Any, method: str) -> Response:
    """Check an ``http.response.start``.

    Raises:
        RuntimeError: It would not make a response.
    """
    status = message["status"]
    lines = [_status_line(status)]
    content_length = None
    closes = dated = False
    for name, value in message.get("headers", ()):
        known = _names.get(name) or _learn(name)
        if known in _DECIDING:
            if known == b"content-length":
                if content_length is not None or not value.isdigit():
                    raise RuntimeError("the Content-Length of the response is malformed")
                content_length = int(value)
                continue
            if known == b"connection":
                closes = closes or b"close" in value.lower()
                continue
            if known == b"transfer-encoding":
                continue  # How the body is sent is the server's business.
            dated = True
        lines.append(b"%b: %b\r\n" % (known, value))
    if not dated:
        lines.append(_date_line())
    block = b"".join(lines)
    # One more would begin another header, or another response.
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        raise RuntimeError("a header of the response contains a line end or a NUL")
    if status == _NO_CONTENT:
        content_length = None
    bodiless = method == "HEAD" or status in _BODILESS
    return Response(block, content_length, bodiless=bodiless, closes=closes)


def plain_answer(refusal: RequestRefused, *, with_body: bool = True) -> bytes:
    """Return a whole response in plain text, after which the connection is closed."""
    body = f"{refusal.reason}\n".encode("ascii")
    return b"%b%bcontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        _status_line(refusal.status),
        _date_line(),
        len(body),
        body if with_body else b"",
    )


def _status_line(status: object) -> bytes:
    if isinstance(status, int) and (line := _STATUS_LINES.get(status)) is not None:
        return line
    if not isinstance(status, int) or not _LOWEST <= status <= _HIGHEST:
        raise RuntimeError(f"no response can have the status {status!r}")
    return b"HTTP/1.1 %d \r\n" % status


_names: dict[bytes, bytes] = {}


def _learn(name: bytes) -> bytes:
    """Check the name of a header; the next time it is known."""
    if _NAME.fullmatch(name) is None:
        raise RuntimeError(f"{name!r} can't be the name of a header")
    known = name.lower()
    if len(_names) < _KEPT_NAMES:
        _names[name] = known
    return known


@final
class _Date:
    """The Date header of this second, shared by all responses."""

    second = 0
    line = b""


def _date_line() -> bytes:
    second = int(time.time())
    if second != _Date.second:
        _Date.second = second
        _Date.line = f"date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")
    return _Date.line
