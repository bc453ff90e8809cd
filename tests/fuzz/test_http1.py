"""HTTP/1.1 with h11 as the judge: what both accept they read alike, down to each body's end.

Two servers that read the same bytes as different requests are what request smuggling needs. h11 is
lenient in places where the built-in server is not, and in a few it is stricter. Each difference
that is allowed is listed in `REFUSED_HERE` and `REFUSED_THERE`, with its reason, and with what
must be in the bytes then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs
import h11
import pytest
from hypothesis import given, note, strategies as st

from tests.transports.http1 import pieces
from tests.transports.http1.pieces import HOST
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.parser import RequestParser
from trio_mcp_session.transports.http1.request_refused import RequestRefused

Refused = tuple[str, re.Pattern[bytes]]

ANYTHING: Final = re.compile(b"")
LF_ALONE: Final = re.compile(rb"(?<!\r)\n")

REFUSED_HERE: Final[Mapping[str, Refused]] = {
    "a line ends without a carriage return": (
        "h11 takes LF for CRLF, as RFC 9112 2.2 allows; proxies differ in it",
        LF_ALONE,
    ),
    "unknown method": (
        "501 for methods that httptools does not know; MCP has GET, POST, DELETE and OPTIONS",
        ANYTHING,
    ),
    "this server is not a proxy": ("501 for CONNECT", re.compile(b"CONNECT")),
    "HTTP/1.1 is spoken here": (
        "505 for all versions but 1.0 and 1.1; h11 leaves this to its user",
        re.compile(rb"HTTP/(?!1\.[01]\r?\n)"),
    ),
    "the request line is malformed": (
        "LF for CRLF, again; more than one empty line before a request; and h11 waits for its head",
        re.compile(rb"(?<!\r)\n|\r\n\r\n|\r(?!\n)"),
    ),
    "the target is malformed": (
        "h11 leaves the target to its user: neither a path, `*` of OPTIONS, nor http://...",
        ANYTHING,
    ),
    "the target is not UTF-8": ("the same, for what is escaped in a path", re.compile(b"%")),
    "the target and the Host differ": (
        "the same, for http://...",
        re.compile(b"http://", re.IGNORECASE),
    ),
    "the Host is malformed": ("h11 only counts them", re.compile(b"host:", re.IGNORECASE)),
    "there is both a Content-Length and a Transfer-Encoding": (
        "RFC 9112 6.1 allows to refuse this, and proxies have been smuggled through with it",
        re.compile(rb"transfer-encoding", re.IGNORECASE),
    ),
    "the Content-Length is malformed": (
        "`5, 5` and the same length twice are one for h11, as RFC 9112 6.3 allows",
        re.compile(rb"content-length", re.IGNORECASE),
    ),
    "there is a Transfer-Encoding too many": (
        "a Transfer-Encoding in HTTP/1.0 is a sign of an attack (RFC 9112 6.1)",
        re.compile(rb"HTTP/1\.0"),
    ),
    "unknown expectation": (
        "417; h11 leaves this to its user",
        re.compile(b"expect", re.IGNORECASE),
    ),
    "the head is malformed": (
        "httptools: folded lines, LF for CRLF, control characters, a second length, bad targets",
        re.compile(
            rb"\r\n[ \t]|(?<!\r)\n|[A-Z] [^/]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|"
            rb"content-length|transfer-encoding",
            re.IGNORECASE,
        ),
    ),
    "the size of a chunk is malformed": (
        "white space behind a size, and sizes of more than 16 digits",
        re.compile(rb"[0-9A-Fa-f][ \t]+\r\n|[0-9A-Fa-f]{17}|[0-9A-Fa-f][ \t]+;|\n"),
    ),
    "the chunks are malformed": (
        "httptools: extensions and trailers that are none",
        re.compile(rb";|\r\n0+\r\n|\n"),
    ),
    "there are too many headers": ("a limit", ANYTHING),
    "the head is too large": ("a limit", ANYTHING),
    "the body is too large": ("a limit", ANYTHING),
}
"""What the built-in server refuses and h11 does not: why, and what is in the bytes then."""

REFUSED_THERE: Final[Mapping[str, Refused]] = {
    "no request line received": (
        "one empty line before a request is skipped, as RFC 9112 2.2 recommends",
        re.compile(rb"(?:^|\r\n\r\n.*)\r\n", re.DOTALL),
    ),
}
"""What h11 refuses and the built-in server does not, by the beginning of h11's words."""


@attrs.frozen
class Heard:
    """A request, as one of them has read it."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    complete: bool = False


@attrs.define
class Reading:
    requests: list[Heard] = attrs.field(factory=list)
    refusal: str | None = None
    waits: bool = False
    """Whether it waits for more of a request or of a body, or for the next request."""

    def body(self, piece: bytes, *, complete: bool) -> None:
        last = self.requests[-1]
        self.requests[-1] = attrs.evolve(last, body=last.body + piece, complete=complete)


def ours(data: bytes) -> Reading:
    """Read with the built-in server's parser."""
    parser = RequestParser(HttpServerLimits())
    parser.receive_data(data)
    reading = Reading()
    try:
        while True:
            request = parser.next_request()
            if request is None:
                reading.waits = True
                return reading
            target = request.target
            path = target.raw_path + (b"?" + target.query if target.query else b"")
            reading.requests.append(Heard(request.method.encode(), path, tuple(request.headers)))
            while not parser.body_complete:
                piece = parser.take_body()
                reading.body(piece, complete=False)
                if not piece and not parser.body_complete:
                    reading.waits = True
                    return reading
            reading.body(b"", complete=True)
            if not request.keep_alive:
                return reading
    except RequestRefused as refusal:
        reading.refusal = refusal.reason
        return reading


def theirs(data: bytes) -> Reading:
    """Read with h11, and answer each request so that the next one can come."""
    limit = HttpServerLimits().max_header_size
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
    connection.receive_data(data)
    reading = Reading()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            reading.refusal = str(error)
            return reading
        match event:
            case h11.Request():
                heard = Heard(event.method, event.target, tuple(event.headers))
                reading.requests.append(heard)
            case h11.Data():
                reading.body(bytes(event.data), complete=False)
            case h11.EndOfMessage():
                reading.body(b"", complete=True)
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return reading
                connection.start_next_cycle()
            case _:
                reading.waits = event is h11.NEED_DATA
                return reading


def comparable(heard: Heard) -> Heard:
    """Leave out what the two show in different ways, and what is compared elsewhere."""
    target = re.sub(rb"^http://[^/?#]*", b"", heard.target, flags=re.IGNORECASE)
    if not target.startswith((b"/", b"*")):
        target = b"/" + target
    target = target.removesuffix(b"?")
    headers = tuple(
        (name, b"chunked" if name == b"transfer-encoding" else value)
        for name, value in heard.headers
        if name != b"host"
    )
    return attrs.evolve(heard, target=target, headers=headers)


def compare(data: bytes) -> None:
    """Check that both read the same, or differ in what is listed."""
    us, them = ours(data), theirs(data)
    note(f"ours: {us}")
    note(f"h11: {them}")
    both = min(len(us.requests), len(them.requests))
    for number, (one, other) in enumerate(zip(us.requests, them.requests, strict=False)):
        mine, his = comparable(one), comparable(other)
        if number == both - 1 and (us.refusal or them.refusal):
            # The refusal may be of the rest of the body: what came before is the same.
            assert attrs.evolve(mine, body=b"", complete=False) == attrs.evolve(
                his, body=b"", complete=False
            )
            shorter = min(len(mine.body), len(his.body))
            assert mine.body[:shorter] == his.body[:shorter]
        else:
            assert mine == his
    if us.refusal is not None and them.refusal is None:
        assert explained(us.refusal, REFUSED_HERE, data), us.refusal
    elif them.refusal is not None and us.refusal is None:
        assert explained(them.refusal, REFUSED_THERE, data), them.refusal
    elif us.refusal is None:
        assert len(us.requests) == len(them.requests)
        assert us.waits == them.waits


def explained(refusal: str, table: Mapping[str, Refused], data: bytes) -> bool:
    return any(
        refusal.startswith(text) and must.search(data) is not None
        for text, (_, must) in table.items()
    )


LINES: Final = [
    *(b"Content-Length: 5", b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 0x5"),
    *(b"Content-Length : 5", b"Content-Length:\t5 ", b"Content-Length: 05", b"content-length: -1"),
    *(b"Content-Length: 5\x0b", b"Content-Length: 1_0", b"Content-Length:", b"Content_Length: 5"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding : chunked"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked"),
    *(
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\x0bchunked",
        b" Transfer-Encoding: chunked",
    ),
    *(
        b"X: y\r\n Transfer-Encoding: chunked",
        b"Transfer-Encoding\r\n: chunked",
        b"Transfer-Encoding: x",
    ),
    *(b"Transfer-Encoding:", b"Transfer-Encoding: chunked;q=1", b'Transfer-Encoding: "chunked"'),
    *(
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade\r\nUpgrade: websocket",
    ),
    *(
        b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        b"X:\x00",
    ),
    *(b"Host: b.example", b"Host: a.example:80", b"Host:", b"Host: a b", b"Expect: 100-continue"),
    *(b"Expect: 200-maybe", b"Trailer: X", b"X: \xe9", b"X: \x7f", b": empty", b"X", b"X y: z"),
    *(
        b"X: a\rb",
        b"X: a\nY: b",
        b"X: " + b"y" * 40_000,
        b"X:y\tz",
        b"X: y\t",
        b"\x0bX: y",
        b"X:\r",
    ),
]
FIRST: Final = [
    *(b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"PUT /x?y HTTP/1.1", b"OPTIONS * HTTP/1.1"),
    *(b"GET http://a.example/x HTTP/1.1", b"POST http://a.example HTTP/1.1", b"GET  / HTTP/1.1"),
    *(b"GET / HTTP/1.0", b"POST / HTTP/1.0", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /"),
    *(b"GET /\x0b HTTP/1.1", b"GET /a b HTTP/1.1", b"G\xc3\x89T / HTTP/1.1", b"GET x HTTP/1.1"),
    *(b"CONNECT a:1 HTTP/1.1", b"BREW / HTTP/1.1", b"get / HTTP/1.1", b"GET / http/1.1", b""),
    *(
        b"PRI * HTTP/2.0",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /#x HTTP/1.1",
    ),
]
BODIES: Final = [
    *(b"", b"hello", b"hello, and more", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    *(
        b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
    ),
    *(
        b"5\nhello\n0\n\n",
        b"5\r\nhello0\r\n\r\n",
        b"05\r\nhello\r\n00\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
    ),
    *(b"5;\nx\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n", b"g\r\n"),
    *(
        b"FFFFFFFFFFFFFFFFF\r\n",
        b'5;x="\r\n"\r\nhello\r\n0\r\n\r\n',
        b"0\r\nX y\r\n\r\n",
        b"+5\r\nhello",
    ),
    *(
        b"5\r\rhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\r0\r\n\r\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"\r\n5\r\nhello",
    ),
]
LINE_ENDS: Final = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"]


@st.composite
def odd_requests(draw: st.DrawFn) -> bytes:
    """Draw a request of parts that servers have disagreed about."""
    end = draw(st.sampled_from(LINE_ENDS))
    lines = [draw(st.sampled_from(FIRST[:4] + FIRST))]
    lines += draw(st.lists(st.sampled_from(LINES), max_size=3))
    if draw(st.integers(0, 9)):
        lines.insert(draw(st.integers(1, len(lines))), HOST.strip())
    data = b"".join(line + draw(st.sampled_from([b"\r\n"] * 9 + [end])) for line in lines)
    return data + draw(st.sampled_from([b"\r\n"] * 9 + [end])) + draw(st.sampled_from(BODIES))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw requests after some accidents: bytes cut out, put in twice, replaced."""
    one = st.one_of(odd_requests(), pieces.requests().map(lambda pair: pair[1]))
    data = b"".join(draw(st.lists(one, min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 4)))
        piece = draw(
            st.one_of(
                st.sampled_from(
                    [b"", b"\r", b"\n", b" ", b"\t", b":", b"\x00", b"0", b"\r\n", b","]
                ),
                st.just(2 * data[start:end]),
                st.binary(max_size=2),
            )
        )
        data = data[:start] + piece + data[end:]
    return data


@given(odd_requests())
def test_odd_requests_are_read_as_h11_reads_them(data: bytes) -> None:
    compare(data)


@given(st.lists(odd_requests(), min_size=2, max_size=3).map(b"".join))
def test_odd_requests_in_one_connection_are_read_as_h11_reads_them(data: bytes) -> None:
    compare(data)


@given(damaged())
def test_damaged_requests_are_read_as_h11_reads_them(data: bytes) -> None:
    compare(data)


@pytest.mark.parametrize("table", [REFUSED_HERE, REFUSED_THERE])
def test_each_listed_difference_from_h11_has_a_reason(table: Mapping[str, Refused]) -> None:
    assert all(reason for reason, _ in table.values())
