from __future__ import annotations

from contextlib import suppress

import httptools
import pytest
from hypothesis import example, given, strategies as st

from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.parser import RequestParser
from trio_mcp_session.transports.http1.request_refused import RequestRefused

from .pieces import (
    CHUNKED,
    GET,
    HOST,
    POST,
    cut,
    is_complete,
    one_by_one,
    parse,
    parse_one,
    refused,
    requests,
)

places = st.lists(st.integers(0, 10_000), max_size=8)


def test_a_request_has_everything_that_its_bytes_say() -> None:
    seen = parse_one(
        b"POST /a%20b?c=%20d HTTP/1.1\r\n" + HOST + b"X-Two:  1 \t \r\nx-two: \xff\t2\r\n"
        b"X-Empty:\r\nContent-Length: 3\r\n\r\nabc"
    )
    request = seen.request
    assert (request.method, request.version) == ("POST", "1.1")
    assert (request.target.path, request.target.raw_path) == ("/a b", b"/a%20b")
    assert request.target.query == b"c=%20d"
    assert request.headers == [
        (b"host", b"a.example"),
        (b"x-two", b"1"),
        (b"x-two", b"\xff\t2"),
        (b"x-empty", b""),
        (b"content-length", b"3"),
    ]
    assert request.keep_alive
    assert not request.expects_continue
    assert (seen.body, seen.complete) == (b"abc", True)


def test_nothing_is_looked_at_before_it_is_asked_for() -> None:
    parser = RequestParser(HttpServerLimits())
    parser.receive_data(GET + b"\r\n" + POST + b"Content-Length: 2\r\n\r\nab" + b"\0 not HTTP")
    assert parser.next_request() is not None
    second = parser.next_request()
    assert second is not None
    assert second.method == "POST"
    assert not is_complete(parser)
    assert parser.take_body() == b"ab"
    assert is_complete(parser)
    assert parser.take_body() == b""
    assert parser.buffered == 10
    with pytest.raises(RequestRefused):
        parser.next_request()


def test_a_body_is_given_as_it_comes() -> None:
    parser = RequestParser(HttpServerLimits())
    parser.receive_data(POST + b"Content-Length: 4\r\n\r\n")
    assert parser.next_request() is not None
    assert parser.take_body() == b""
    parser.receive_data(b"ab")
    assert parser.take_body() == b"ab"
    assert not is_complete(parser)
    parser.receive_data(b"cdGET")
    assert parser.take_body() == b"cd"
    assert is_complete(parser)
    assert parser.buffered == 3


def test_an_idle_parser_holds_nothing() -> None:
    parser = RequestParser(HttpServerLimits())
    parser.receive_data(POST + b"Content-Length: 5\r\n\r\nhello")
    parser.next_request()
    parser.take_body()
    assert parser.buffered == 0
    assert parser._data == b""


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r", b"G", GET, GET + b"\r"])
def test_an_incomplete_request_head_is_waited_for(data: bytes) -> None:
    assert parse([data]) == ([], None)
    assert parse(one_by_one(data)) == ([], None)


def test_one_blank_line_before_a_request_is_ignored() -> None:
    data = POST + b"Content-Length: 1\r\n\r\na\r\n" + GET + b"\r\n"
    assert [one.request.method for one in parse([data])[0]] == ["POST", "GET"]
    assert [one.request.method for one in parse(one_by_one(data))[0]] == ["POST", "GET"]
    # It is forgotten with the request that it came before.
    assert len(parse([(b"\r\n" + GET + b"\r\n") * 3])[0]) == 3


WRONG_HEADS = [
    # Of the request line.
    (b"\r\n\r\n" + GET + b"\r\n", 400),
    (b"\n" + GET + b"\r\n", 400),
    (b"\rX" + GET + b"\r\n", 400),
    (b" " + GET + b"\r\n", 400),
    (b"\x16\x03\x01", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/0.9\r\n\r\n", 505),
    (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"PRI * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"PRI / HTTP/1.0\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1,1\r\n" + HOST + b"\r\n", 400),
    (b"GET / ICE/1.0\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r" + HOST + b"\r\n", 400),
    (b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"G\xe9T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"BREW / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n", 400),
    (b"DESCRIBE / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"CONNECT a.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    # Of the other lines.
    (b"GET / HTTP/1.1\r\n" + HOST[:-2] + b"\n\r\n", 400),
    (GET + b"\n", 400),
    (GET + b"X: a\n\r\n\r\n", 400),
    (GET + b"X : a\r\n\r\n", 400),
    (GET + b" X: a\r\n\r\n", 400),
    (GET + b"X: a\r\n folded\r\n\r\n", 400),
    (GET + b"X: a\r\n\tfolded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n " + HOST + b"\r\n", 400),
    (GET + b"X: a\0b\r\n\r\n", 400),
    (GET + b"X: a\x01b\r\n\r\n", 400),
    (GET + b"X: a\x7fb\r\n\r\n", 400),
    (GET + b"X: a\rb\r\n\r\n", 400),
    (GET + b"X\0: a\r\n\r\n", 400),
    (GET + b"X\xe9: a\r\n\r\n", 400),
    (GET + b"X(: a\r\n\r\n", 400),
    (GET + b": a\r\n\r\n", 400),
    (GET + b"X\r\n\r\n", 400),
    # Of where the request ends: what two servers could read as two different things.
    (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    (POST + b"Content-Length: 3 3\r\n\r\nabc", 400),
    (POST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    (POST + b"Content-Length: \xb2\r\n\r\nab", 400),
    (POST + b"Content-Length:\r\n\r\n", 400),
    (POST + b"Content-Length: 18446744073709551619\r\n\r\nabc", 400),
    (POST + b"Content-Length: 0000000000000000003\r\n\r\nabc", 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # Of the host that it is for.
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (GET + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
    (b"GET http://b.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (GET + b"Expect: 200-ok\r\n\r\n", 417),
]


@pytest.mark.parametrize("data, status", WRONG_HEADS)
def test_a_malformed_request_head_is_refused(data: bytes, status: int) -> None:
    assert parse([data])[0] == []
    assert refused(data) == status


@pytest.mark.parametrize("data, status", WRONG_HEADS)
def test_what_comes_before_a_bad_request_is_served(data: bytes, status: int) -> None:
    before = POST + b"Content-Length: 3\r\n\r\nabc"
    if data.startswith(b"\r\n"):
        data = data.removeprefix(b"\r\n")
        before += b"\r\n"
    seen, found = parse([before + data])
    assert [one.body for one in seen] == [b"abc"]
    assert found == status


@pytest.mark.parametrize(
    "data, keeps",
    [
        (GET + b"\r\n", True),
        (GET + b"Connection: keep-alive\r\n\r\n", True),
        (GET + b"Connection: close\r\n\r\n", False),
        (GET + b"Connection: x, Close\r\n\r\n", False),
        (GET + b"Connection: x\r\nConnection: close\r\n\r\n", False),
        (GET + b"Connection: closed\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_keep_alive_follows_the_version_and_the_connection_header(data: bytes, keeps: bool) -> None:
    assert parse_one(data).request.keep_alive is keeps


def test_expect_100_continue_is_read_for_http_1_1_only() -> None:
    expect = b"Expect: 100-Continue\r\n\r\n"
    assert parse_one(GET + expect).request.expects_continue
    # It is nothing that a client of 1.0 could wait for.
    assert not parse_one(b"GET / HTTP/1.0\r\n" + expect).request.expects_continue
    assert not parse_one(b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n").request.expects_continue


@pytest.mark.parametrize(
    "framing, after",
    [
        (b"", b""),
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
    ],
)
def test_an_upgrade_request_is_served_as_http_1_1(framing: bytes, after: bytes) -> None:
    # httptools takes what follows such a head for another protocol, body and all.
    data = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + framing + b"\r\n" + after
    seen, status = parse([data + GET + b"\r\n"])
    assert status is None
    assert [one.body for one in seen] == [b"abc" if after else b"", b""]
    assert (b"upgrade", b"h2c") in seen[0].request.headers


def test_an_absolute_target_replaces_the_host_header() -> None:
    seen = parse_one(b"GET http://b.example:80/c HTTP/1.0\r\nX: y\r\n\r\n")
    assert seen.request.target.path == "/c"
    assert seen.request.headers == [(b"host", b"b.example:80"), (b"x", b"y")]
    seen = parse_one(b"GET HTTP://A.example/c HTTP/1.1\r\n" + HOST + b"\r\n")
    assert seen.request.headers == [(b"host", b"a.example")]


def test_a_head_may_be_as_large_as_its_limit() -> None:
    data = GET + b"X: 0123456789\r\n\r\n"
    for ahead in (b"", GET + b"\r\n", b"\r\n"):
        assert refused(ahead + data + b"GET", HttpServerLimits(max_header_size=len(data))) is None
        limits = HttpServerLimits(max_header_size=len(data) - 1)
        assert refused(ahead + data, limits) == 431
    # It is refused as soon as it is clear, and not once it has come as a whole.
    assert refused(data[:40], HttpServerLimits(max_header_size=41)) is None
    assert refused(data[:40], HttpServerLimits(max_header_size=40)) == 431
    assert refused(b"GET /" + b"a" * 100, HttpServerLimits(max_header_size=64)) == 431


def test_there_may_be_as_many_headers_as_their_limit() -> None:
    data = GET + b"A: b\r\n" * 3 + b"\r\n"
    assert refused(data, HttpServerLimits(max_headers=4)) is None
    assert refused(data, HttpServerLimits(max_headers=3)) == 431


def test_a_body_may_be_as_large_as_its_limit() -> None:
    data = POST + b"Content-Length: 10\r\n\r\n0123456789"
    assert parse_one(data, HttpServerLimits(max_body_size=10)).complete
    assert refused(data, HttpServerLimits(max_body_size=9)) == 413


@given(st.lists(requests(), min_size=1, max_size=4), places)
def test_requests_are_the_same_however_they_are_cut(
    drawn: list[tuple[tuple[bytes, bytes], bytes]], places: list[int]
) -> None:
    data = b"".join(raw for _, raw in drawn)
    seen, status = parse([data])
    assert status is None
    assert [(one.request.target.raw_path, one.body) for one in seen] == [said for said, _ in drawn]
    assert all(one.complete for one in seen)
    for pieces in (cut(data, places), one_by_one(data)):
        again, status = parse(pieces)
        assert status is None
        assert [one.brief() for one in again] == [one.brief() for one in seen]


fragments = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST",
        b" ",
        b"/",
        b"\r\n",
        b"\n",
        b"\r",
        HOST,
        b":",
        b"\x00",
        b"0",
        b"5",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Upgrade: h2c\r\n",
        b"\x80",
        b"Connection: upgrade\r\n",
        b"hello",
        b"a\r\n",
        b";a=b",
        b"Expect: 100-continue\r\n",
        b"X",
        CHUNKED,
        POST,
        GET + b"\r\n",
        b"HTTP/1.0\r\n",
        b"HTTP/2.0\r\n",
        b"CONNECT a HTTP/1.1\r\n",
    ]
)


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    data = b"".join(raw for _, raw in draw(st.lists(requests(), min_size=1, max_size=3)))
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(fragments) + data[place + draw(st.integers(0, 2)) :]


anything = st.one_of(
    st.binary(max_size=80), st.lists(fragments, max_size=12).map(b"".join), damaged_requests()
)


@given(anything, places)
@example(CHUNKED + b"0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", [])
def test_whatever_comes_is_a_request_or_is_refused_however_it_is_cut(
    data: bytes, places: list[int]
) -> None:
    limits = HttpServerLimits(max_header_size=70, max_headers=3, max_body_size=20)
    for chosen in (None, limits):
        seen, status = parse([data] if data else [], chosen)
        for pieces in (cut(data, places), one_by_one(data)):
            again, other = parse(pieces, chosen)
            assert other == status
            assert [one.request.headers for one in again] == [one.request.headers for one in seen]
            assert [one.complete for one in again] == [one.complete for one in seen]


@given(anything)
def test_nothing_is_taken_that_httptools_would_take_otherwise(data: bytes) -> None:
    seen, status = parse([data])
    if status is not None or any(
        name == b"upgrade" for one in seen for name, _ in one.request.headers
    ):
        return  # It reads no further than to an upgrade.
    bodies: list[bytes] = []
    ended: list[bool] = []

    class Judge:
        def on_message_begin(self) -> None:
            bodies.append(b"")

        def on_body(self, body: bytes) -> None:
            bodies[-1] += body  # pragma: no cover  # in some examples only

        def on_message_complete(self) -> None:
            ended.append(True)

    judge = httptools.HttpRequestParser(Judge())
    judge.set_dangerous_leniencies(lenient_data_after_close=True)
    with suppress(httptools.HttpParserError):  # in what is not a whole request yet
        judge.feed_data(data)
    assert len(ended) == sum(one.complete for one in seen)
    assert bodies[: len(ended)] == [one.body for one in seen if one.complete]


@pytest.mark.parametrize("size", [1, 255, 256, 1000])
def test_small_chunks_are_limited_and_larger_ones_are_not(size: int) -> None:
    limits = HttpServerLimits(max_chunks=4)
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)

    def status(count: int) -> int | None:
        return parse([CHUNKED + chunk * count + b"0\r\n\r\n"], limits)[1]

    # The last chunk, which is empty, counts as well.
    assert status(3) is None
    assert status(4) == (413 if size == 1 else None)
    assert status(1000) == (None if size >= 256 else 413)
