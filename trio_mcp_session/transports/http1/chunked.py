"""Bodies in chunks: cut here, where the limits are, and judged by httptools.

Two have to agree on where a body ends before anything that follows it is believed.
"""

from __future__ import annotations

import re
from typing import Final, final

import attrs
import httptools

from .limits import HttpServerLimits
from .request_refused import bad_request, body_too_large, too_large, too_many_chunks

BYTES_PER_CHUNK: Final = 256
"""For so many bytes of a body, one chunk is not counted."""

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{0,16})(;[^\r\n]*)?\r?")


@final
@attrs.define(eq=False, repr=False)
class _Judge:
    """The callbacks of httptools."""

    pieces: list[bytes] = attrs.field(factory=list[bytes])
    complete: bool = False

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True


@final
@attrs.define(eq=False, repr=False)
class ChunkedBody:
    """Takes chunks apart, however they come."""

    _limits: HttpServerLimits = attrs.field(alias="limits")
    complete: bool = attrs.field(default=False, init=False)
    _judge: _Judge = attrs.field(factory=_Judge, init=False)
    _parser: httptools.HttpRequestParser = attrs.field(init=False)
    # Bytes that are still to come of a chunk, with the line end behind it.
    _left: int = attrs.field(default=0, init=False)
    _total: int = attrs.field(default=0, init=False)
    _chunks: int = attrs.field(default=0, init=False)
    _extensions: int = attrs.field(default=0, init=False)
    _in_trailers: bool = attrs.field(default=False, init=False)
    _trailers: int = attrs.field(default=0, init=False)
    _trailers_size: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        # A head of its own: with a real one that asks for an upgrade, httptools ignores the body.
        self._parser = httptools.HttpRequestParser(self._judge)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def take(self, data: bytes, position: int) -> tuple[bytes, int]:
        """Return what there is of the body, and up to where ``data`` was used up for it.

        Raises:
            RequestRefused: This is not a valid chunked body, or it is too large.
        """
        while not self.complete:
            if self._left:
                piece = data[position : position + self._left]
                if not piece:
                    break
                self._left -= len(piece)
            else:
                end = data.find(b"\n", position) + 1
                piece = data[position : end or len(data)]
                if not piece:
                    break
                whole = self._check_trailer(piece) if self._in_trailers else self._check_size(piece)
                if not whole:
                    break
            position += len(piece)
            self._feed(piece)
        pieces = self._judge.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body, position

    def _check_size(self, line: bytes) -> bool:
        """Look at the line before a chunk, or at the first part of one; returns if it is whole."""
        match = _SIZE_LINE.fullmatch(line.removesuffix(b"\n"))
        if match is None:
            raise bad_request("the size of a chunk is malformed")
        digits, extension = match.groups()
        extensions = self._extensions + len(extension or b"")
        if extensions > self._limits.max_header_size:
            raise too_large("there are too many chunk extensions")
        if not line.endswith(b"\n"):
            return False
        if not digits or not line.endswith(b"\r\n"):
            raise bad_request("the size of a chunk is malformed")
        size = int(digits, 16)
        self._extensions = extensions
        self._total += size
        if self._total > self._limits.max_body_size:
            raise body_too_large()
        self._chunks += 1
        if self._chunks > self._limits.max_chunks + self._total // BYTES_PER_CHUNK:
            raise too_many_chunks()
        self._in_trailers = not size
        self._left = size + 2 if size else 0
        return True

    def _check_trailer(self, line: bytes) -> bool:
        """Look at a line behind the last chunk, or at its first part; returns if it is whole."""
        whole = line.endswith(b"\n")
        size = self._trailers_size + len(line)
        # What is not whole yet will be larger.
        if size + (not whole) > self._limits.max_header_size:
            raise too_large("the trailers are too large")
        if not whole:
            return False
        if not line.endswith(b"\r\n"):
            raise bad_request("a line ends without a carriage return")
        self._trailers_size = size
        self._trailers += line != b"\r\n"
        if self._trailers > self._limits.max_headers:
            raise too_large("there are too many trailers")
        self.complete = line == b"\r\n"
        return True

    def _feed(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise bad_request("the chunks are malformed") from error
        if self._judge.complete is not self.complete:
            raise bad_request("the chunks do not end where they should")
