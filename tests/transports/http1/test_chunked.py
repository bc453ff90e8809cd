from __future__ import annotations

import httptools
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.transports.http1.chunked import ChunkedBody
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.request_refused import RequestRefused

from .pieces import CHUNKED, chunked_bodies, cut, one_by_one, parse_one, refused


def test_a_body_is_given_as_it_comes() -> None:
    body = ChunkedBody(HttpServerLimits())
    assert body.take(b"3\r\nab", 0) == (b"ab", 5)
    assert body.take(b"", 0) == (b"", 0)
    assert body.take(b"..c\r\n2;x", 2) == (b"c", 5)
    assert body.take(b"2;x\r\nde\r\n0\r\nA: b\r\n", 0) == (b"de", 18)
    assert not body.complete
    assert body.take(b"\r\nGET", 0) == (b"", 2)
    assert body.complete


@given(chunked_bodies(), st.lists(st.integers(0, 1000), max_size=6))
def test_a_body_is_the_same_however_it_is_cut(
    drawn: tuple[bytes, bytes], places: list[int]
) -> None:
    body, wire = drawn
    for pieces in ([wire], cut(wire, places), one_by_one(wire)):
        chunked = ChunkedBody(HttpServerLimits())
        taken = rest = b""
        for piece in pieces:
            rest += piece
            part, used = chunked.take(rest, 0)
            taken += part
            rest = rest[used:]
        assert (taken, rest, chunked.complete) == (body, b"", True)


@pytest.mark.parametrize(
    "chunks",
    [
        b"\r\n",
        b";a\r\n",
        b"x\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\t;a\r\nabc\r\n0\r\n\r\n",
        b"3 3\r\nabc\r\n0\r\n\r\n",
        b"3_0\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\r\nabc\r\n0\r\n\r\n",
        b"3\rabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3;\0\r\nabc\r\n0\r\n\r\n",
        b'3;a="\x01"\r\nabc\r\n0\r\n\r\n',
        b"3;\r\nabc\r\n0\r\n\r\n",
        b"00000000000000003\r\nabc\r\n0\r\n\r\n",
        b"0\r\nX y\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\n\n",
        b"0\r\nX: y\0\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_malformed_chunked_body_is_refused(chunks: bytes) -> None:
    assert refused(CHUNKED + chunks) == 400


def test_an_incomplete_chunk_is_waited_for() -> None:
    for chunks in (
        b"",
        b"3",
        b"3\r",
        b"3\r\n",
        b"3\r\nabc",
        b"3\r\nabc\r",
        b"0\r\nX",
        b"0\r\nX: y\r\n",
    ):
        assert refused(CHUNKED + chunks) is None


def test_two_must_agree_on_where_a_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient:
        """A parser for which there is always more to come."""

        def __init__(self, _: object) -> None:
            pass

        def feed_data(self, data: bytes) -> None:
            pass

    monkeypatch.setattr(httptools, "HttpRequestParser", Patient)
    body = ChunkedBody(HttpServerLimits())
    body.take(b"3\r\nabc\r\n", 0)
    with pytest.raises(RequestRefused, match="end where they should"):
        body.take(b"0\r\n\r\n", 0)


def test_trailers_are_read_and_forgotten() -> None:
    trailers = b"Host: b\r\nX: y\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    seen = parse_one(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers)
    assert seen.body == b"abc"
    assert [name for name, _ in seen.request.headers] == [b"host", b"transfer-encoding"]


def test_a_body_may_be_as_large_as_its_limit() -> None:
    chunks = CHUNKED + b"4\r\nabcd\r\n6\r\nefghij\r\n0\r\n\r\n"
    assert refused(chunks, HttpServerLimits(max_body_size=10)) is None
    assert refused(chunks, HttpServerLimits(max_body_size=9)) == 413
    # It is refused when it is announced.
    assert refused(CHUNKED + b"FFFFFFFFFFFFFFFF\r\n") == 413


def test_extensions_of_all_chunks_together_have_a_limit() -> None:
    size = len(CHUNKED)
    limits = HttpServerLimits(max_header_size=size)

    def chunk(extension: int) -> bytes:
        return b"1;" + b"e" * (extension - 1) + b"\r\na\r\n"

    assert refused(CHUNKED + chunk(size), limits) is None
    assert refused(CHUNKED + chunk(size + 1), limits) == 431
    assert refused(CHUNKED + b"1;" + b"e" * size, limits) == 431
    assert refused(CHUNKED + chunk(size - 2) + chunk(2) + b"0\r\n\r\n", limits) is None
    assert refused(CHUNKED + chunk(size - 2) + chunk(2) + b"0;e\r\n\r\n", limits) == 431


def test_trailers_have_the_limits_of_heads() -> None:
    size = len(CHUNKED)
    limits = HttpServerLimits(max_header_size=size)
    trailer = b"X: " + b"y" * (size - 7)
    assert refused(CHUNKED + b"0\r\n" + trailer + b"\r\n\r\n", limits) is None
    assert refused(CHUNKED + b"0\r\n" + trailer + b"y\r\n\r\n", limits) == 431
    assert refused(CHUNKED + b"0\r\n" + b"X" * size, limits) == 431
    limits = HttpServerLimits(max_headers=2)
    assert refused(CHUNKED + b"0\r\n" + b"X: y\r\n" * 2 + b"\r\n", limits) is None
    assert refused(CHUNKED + b"0\r\n" + b"X: y\r\n" * 3 + b"\r\n", limits) == 431
