"""A head that is compared with the connection's last one says what it says when read in full."""

from __future__ import annotations

from collections.abc import Iterable

import httptools
import pytest
from hypothesis import assume, given, strategies as st

from trio_mcp_session.transports.http1 import known_head
from trio_mcp_session.transports.http1.heads import Head
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.parser import RequestParser
from trio_mcp_session.transports.http1.request_refused import RequestRefused

from .pieces import GET, HOST, POST, parse, values

CALL = POST + b"Accept: a/b\r\nMcp-Name: one\r\nTraceparent: 00-1\r\nContent-Length: 2\r\n\r\n"
UPGRADE = GET + b"Connection: Upgrade\r\nProxy-Connection: a\r\nUpgrade: h2c\r\n\r\n"


@pytest.fixture
def full_readings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was made to read a head in full."""
    made: list[object] = []

    def make(callbacks: object) -> httptools.HttpRequestParser:
        made.append(callbacks)
        return httptools_parser(callbacks)

    httptools_parser = httptools.HttpRequestParser
    monkeypatch.setattr(httptools, "HttpRequestParser", make)
    return made


def outcome(chunks: Iterable[bytes], skip: int = 0) -> object:
    seen, status = parse(chunks)
    return [one.brief() for one in seen[skip:]], status


@pytest.mark.parametrize(
    "old, new",
    [
        (b"", b""),
        (b"Length: 2", b"Length: 3"),
        (b"Length: 2", b"Length: 002"),
        (b"Length: 2", b"Length: 0"),
        (b"Mcp-Name: one", b"Mcp-Name:\t another, of \x7e \t"),
        (b"Mcp-Name: one\r\nTraceparent: 00-1", b"mcp-name: x\r\ntraceparent: y"),
    ],
)
def test_a_similar_head_is_not_read_in_full(
    full_readings: list[object], old: bytes, new: bytes
) -> None:
    second = CALL.replace(old, new) + b"xyz"
    behind = outcome([CALL + b"ab" + second, b"\r\n" + second], skip=1)
    assert len(full_readings) == 1
    assert behind == outcome([second, b"\r\n" + second])


@pytest.mark.parametrize(
    "first, old, new",
    [
        (CALL, b"POST", b"PUT"),
        (CALL, b"POST /", b"POST /a"),
        (CALL, b"HTTP/1.1", b"HTTP/1.0"),
        (CALL, b"a.example", b"b.example"),
        (CALL, b"a.example", b"a b"),
        (CALL, b"Length: 2", b"Length: 2, 2"),
        (CALL, b"Length: 2", b"Length: +2"),
        (CALL, b"Length: 2", b"Length: 0000000000000000002"),
        (CALL, b"Length: 2", b"Length:"),
        (CALL, b"Length: 2", b"Length : 2"),
        (CALL, b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        (CALL, b"Accept: a/b\r\n", b""),
        (CALL, b"Accept: a/b", b"Connection: close"),
        (CALL, b"Accept: a/b", b"Accept"),
        (CALL, b"Accept: a/b", b"Accept: a\tb"),
        (CALL, b"Accept: a/b", b"Accept: a\rb"),
        (CALL, b"Accept: a/b", b"Accept: a\nb: c"),
        (CALL, b"Accept: a/b", b"Accept: a\0b"),
        (CALL, b"Accept: a/b", b"Accept: \xe9"),
        (CALL, b"Accept: a/b", b"Accept: " + b"a" * known_head.MAX_SIZE),
        (CALL, b"Mcp-Name: one", b" Mcp-Name: one"),
        (UPGRADE, b"Connection: Upgrade", b"Connection: close"),
        (UPGRADE, b"Connection: a", b"Connection: b"),
        (UPGRADE, b"h2c", b"websocket"),
        # These are not kept.
        (CALL.replace(b"a/b", b"a" * known_head.MAX_SIZE), b"", b""),
        (CALL.replace(b"POST /", b"POST http://a.example/"), b"", b""),
        (CALL.replace(b"Accept: a/b", b"Expect: 100-continue"), b"", b""),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", b""),
        (GET.replace(b"1.1", b"1.0") + b"\r\n", b"", b""),
    ],
)
def test_any_other_head_is_read_in_full(
    full_readings: list[object], first: bytes, old: bytes, new: bytes
) -> None:
    body = b"ab" if b"Length" in first else b""
    second = first.replace(old, new) + body
    behind = outcome([first + body, second], skip=1)
    assert len(full_readings) >= 2 or behind == ([], 400)
    assert behind == outcome([second])


def test_a_head_of_fewer_headers_than_lines_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Joining(Head):  # type: ignore[misc]  # final, to say that nothing else changes it
        def on_header(self, name: bytes, value: bytes) -> None:
            """Leave one header out, as a parser does that joins a folded line."""
            if name != b"Accept":
                super().on_header(name, value)

    monkeypatch.setattr(f"{RequestParser.__module__}.Head", Joining)
    parser = RequestParser(HttpServerLimits())
    for _ in range(2):
        parser.receive_data(CALL.replace(b"one", b"two") + b"ab")
        request = parser.next_request()
        assert request is not None
        assert (b"mcp-name", b"two") in request.headers
        parser.take_body()
    assert parser._known is None


def test_an_application_that_changes_its_headers_does_not_change_the_next_ones() -> None:
    parser = RequestParser(HttpServerLimits())
    for name in (b"one", b"one", b"two", b"two"):
        parser.receive_data(CALL.replace(b"one", name) + b"ab")
        request = parser.next_request()
        assert request is not None
        assert request.headers[2] == (b"mcp-name", name)
        request.headers.clear()
        parser.take_body()


def test_the_limit_on_bodies_holds_for_a_similar_head() -> None:
    parser = RequestParser(HttpServerLimits(max_body_size=3))
    parser.receive_data(CALL + b"ab" + CALL.replace(b"Length: 2", b"Length: 3") + b"abc")
    for body in (b"ab", b"abc"):
        assert parser.next_request() is not None
        assert parser.take_body() == body
    parser.receive_data(CALL.replace(b"Length: 2", b"Length: 4"))
    with pytest.raises(RequestRefused) as caught:
        parser.next_request()
    assert caught.value.status == 413


def test_the_limit_on_heads_holds_for_a_similar_head() -> None:
    limits = HttpServerLimits(max_header_size=len(CALL))
    longer = CALL.replace(b"one", b"three")
    seen, status = parse([CALL + b"ab", CALL + b"ab", longer + b"ab"], limits)
    assert (len(seen), status) == (2, 431)


names = st.sampled_from(
    [b"Accept", b"Connection", b"Content-Length", b"Expect", b"Host", b"Mcp-Name", b"accept"]
)
odd_values = st.one_of(
    values,
    st.sampled_from([b"5", b"05", b"0", b"close", b"keep-alive", b"a.example", b"a\tb", b"5, 5"]),
)
lines = st.tuples(names, st.sampled_from([b":", b": ", b":\t", b" :"]), odd_values).map(b"".join)
changes = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 4), st.binary(max_size=3)), max_size=2
)


@given(st.lists(lines, max_size=4), st.integers(0, 4), lines, changes)
def test_a_head_behind_another_is_read_as_if_it_were_the_first(
    kept: list[bytes], place: int, replaced: bytes, accidents: list[tuple[int, int, bytes]]
) -> None:
    kept.insert(0, HOST.strip())
    first = b"".join(line + b"\r\n" for line in [b"POST /x HTTP/1.1", *kept, b""])
    seen, status = parse([first])
    assume(status is None)
    if not seen[0].complete:
        first += b"hello"
        assume(parse([first])[0][0].complete)
    kept[place % len(kept)] = replaced
    second = b"".join(line + b"\r\n" for line in [b"POST /x HTTP/1.1", *kept, b""])
    for start, length, piece in accidents:
        second = second[:start] + piece + second[start + length :]
    assert outcome([first, second, b"hello"], skip=1) == outcome([second, b"hello"])
