"""Bytes become requests: nothing but what HTTP/1.1 allows, and nothing that two could read twice.

httptools takes the heads apart. What it leaves to others is here: whole heads only, so that every
limit is exact; request lines and targets, `Host`, and where a body ends.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, final

import attrs
import httptools

from .chunked import ChunkedBody
from .heads import Head, HeaderFacts
from .known_head import MAX_SIZE, KnownHead
from .limits import HttpServerLimits
from .request_refused import RequestRefused, bad_request, body_too_large, too_large
from .targets import Target, read_target

_REQUEST_LINE: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n"
)
_TOKEN_START: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]")
_HEAD_END: Final = b"\r\n\r\n"
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_OTHER_LINES: Final = 2  # of a head: the request line, and the empty line
_VERSIONS: Final = {b"1.1": "1.1", b"1.0": "1.0"}


@final
@attrs.define(eq=False, repr=False)
class Request:
    """The head of a request."""

    method: str
    target: Target
    version: str
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    """Whether the client may send another request on this connection."""
    expects_continue: bool
    """Whether the client waits for ``100 Continue`` before it sends the body."""


@final
@attrs.define(eq=False, repr=False)
class RequestParser:
    """Takes the bytes of one connection apart, one request after the other.

    `take_body` until `body_complete`, then `next_request`. Nothing is looked at before it is asked
    for, so what comes before a bad request is served as if that had never come.
    """

    _limits: HttpServerLimits = attrs.field(alias="limits")
    body_complete: bool = attrs.field(default=True, init=False)
    """Whether the body of the last request was taken as a whole."""
    _data: bytes = attrs.field(default=b"", init=False)
    _position: int = attrs.field(default=0, init=False)
    _remaining: int = attrs.field(default=0, init=False)
    _chunked: ChunkedBody | None = attrs.field(default=None, init=False)
    _blank_line: bool = attrs.field(default=False, init=False)
    _known: KnownHead | None = attrs.field(default=None, init=False)
    """The last head, unless it was an unusual one."""

    @property
    def buffered(self) -> int:
        """How many bytes came that nothing was made of yet."""
        return len(self._data) - self._position

    @property
    def body_at_hand(self) -> bool:
        """Whether the whole body of the last request has come; False where that is not clear."""
        return self._chunked is None and self.buffered >= self._remaining

    def receive_data(self, data: bytes) -> None:
        """Take what came from the client."""
        if self._position == len(self._data):
            self._data = data
        else:
            self._data = self._data[self._position :] + data
        self._position = 0

    def next_request(self) -> Request | None:
        """Return the next request, None if it is not there yet.

        Raises:
            RequestRefused: This is not a valid request. The parser cannot be used again.
        """
        data = self._data
        if not data:  # Usually, behind an answer.
            return None
        start = self._position
        if data.startswith(b"\r\n", start) and not self._blank_line:
            # Some clients send a line end too many behind a body.
            self._blank_line = True
            self._position = start = start + 2
        known = self._known
        if known is not None and data.startswith(known.data, start):
            # No empty line stands within a head, so this is one, to its end; it passed all limits.
            self._blank_line = False
            return self._begin_known(known, start + len(known.data))
        limit = start + self._limits.max_header_size
        end = data.find(_HEAD_END, start, limit)
        line = _REQUEST_LINE.match(data, start, limit)
        if end < 0:
            self._check_incomplete(line, start, limit)
            return None
        if line is None:
            raise bad_request("the request line is malformed")
        end += len(_HEAD_END)
        head = data[start:end] if start or end < len(data) else data
        self._blank_line = False
        if known is not None and (similar := known.with_values_of(head)) is not None:
            self._known = similar
            return self._begin_known(similar, end)
        request = self._read_head(line, head)
        self._advance(end)
        return request

    def _begin_known(self, known: KnownHead, end: int) -> Request:
        self._begin_body(known.length, chunked=False)
        self._advance(end)
        headers = known.headers.copy()  # The application may change its own.
        return Request(
            known.method,
            known.target,
            known.version,
            headers,
            keep_alive=True,
            expects_continue=False,
        )

    def _begin_body(self, length: int, *, chunked: bool) -> None:
        if length > self._limits.max_body_size:
            raise body_too_large()
        self._remaining = length
        self._chunked = ChunkedBody(self._limits) if chunked else None
        self.body_complete = not chunked and not length

    def take_body(self) -> bytes:
        """Return what there is of the body of the last request; nothing if nothing came.

        Raises:
            RequestRefused: This is not a valid body. The parser cannot be used again.
        """
        data, position = self._data, self._position
        if self._chunked is not None:
            body, position = self._chunked.take(data, position)
            self._advance(position)
            if self._chunked.complete:
                self._chunked = None
                self.body_complete = True
            return body
        body = data[position : position + self._remaining]
        self._advance(position + len(body))
        self._remaining -= len(body)
        self.body_complete = not self._remaining
        return body

    def _advance(self, position: int) -> None:
        if position < len(self._data):
            self._position = position
        else:
            # An idle connection holds nothing.
            self._data = b""
            self._position = 0

    def _check_incomplete(self, line: re.Match[bytes] | None, start: int, limit: int) -> None:
        """Refuse data that cannot become a head."""
        data = self._data
        if start == len(data) or (data[start:] == b"\r" and not self._blank_line):
            return
        if _TOKEN_START.match(data, start) is None or (
            line is None and data.find(b"\n", start, limit) >= 0
        ):
            raise bad_request("the request line is malformed")
        if line is not None:
            _check_line(line)
        _check_line_ends(data, start, limit)
        if len(data) >= limit:
            raise too_large("the head is too large")

    def _read_head(self, line: re.Match[bytes], data: bytes) -> Request:
        version = _check_line(line)
        method, raw_target, _ = line.groups()
        head = Head()
        try:
            httptools.HttpRequestParser(head).feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # Upgrades are not supported: answered as if the header were absent.
        except httptools.HttpParserInvalidMethodError as error:
            # The same answer as if the end of the head had come later.
            _check_line_ends(data, 0, len(data))
            raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "unknown method") from error
        except httptools.HttpParserError as error:
            raise bad_request("the head is malformed") from error
        if not head.complete:
            raise bad_request("the head is malformed")
        headers = head.headers
        if len(headers) > self._limits.max_headers:
            raise too_large("there are too many headers")
        facts = HeaderFacts(version)
        facts.read(headers)
        target = read_target(method, raw_target, facts.host)
        if facts.host is None and target.authority is not None:
            headers.insert(0, (b"host", target.authority))
        length = facts.content_length or 0
        self._begin_body(length, chunked=facts.chunked)
        request = Request(
            method=method.decode("ascii"),
            target=target,
            version=version,
            headers=headers,
            keep_alive=facts.keep_alive,
            expects_continue=facts.expects_continue,
        )
        self._known = self._keep(request, data, length)
        return request

    def _keep(self, request: Request, data: bytes, length: int) -> KnownHead | None:
        """Return what the next head is compared with; None if this one is unusual, or large."""
        headers = request.headers
        if (
            not request.keep_alive
            or request.expects_continue
            or self._chunked is not None
            or request.target.authority is not None
            or len(data) > MAX_SIZE
            or data.count(b"\r\n") != len(headers) + _OTHER_LINES
        ):
            return None
        return KnownHead(
            data,
            request.method,
            request.target,
            request.version,
            headers.copy(),
            length,
        )


def _check_line(line: re.Match[bytes]) -> str:
    version = _VERSIONS.get(line[3])
    if version is None:
        raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
    if line[1] == b"CONNECT":
        raise RequestRefused(HTTPStatus.NOT_IMPLEMENTED, "this server is not a proxy")
    return version


def _check_line_ends(data: bytes, start: int, end: int) -> None:
    if _BARE_LF.search(data, start, end) is not None:
        raise bad_request("a line ends without a carriage return")
