"""Headers that decide. More of what is refused is in the tests of the parser."""

from __future__ import annotations

import pytest

from trio_mcp_session.transports.http1.heads import HeaderFacts, check_host
from trio_mcp_session.transports.http1.request_refused import RequestRefused

HOST = (b"host", b"a")


def test_what_decides_is_found_among_what_does_not() -> None:
    facts = HeaderFacts("1.1")
    facts.read([(b"x", b"y"), HOST, (b"content-length", b"007"), (b"expect", b"100-CONTINUE")])
    assert (facts.host, facts.content_length, facts.chunked) == (b"a", 7, False)
    assert facts.expects_continue
    assert facts.keep_alive


@pytest.mark.parametrize(
    "headers",
    [
        # httptools refuses these first; the limits between the two must not be a gap.
        [HOST, (b"content-length", b"1"), (b"content-length", b"1")],
        [HOST, (b"content-length", b"")],
        [HOST, (b"content-length", b"1" * 19)],
        [HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"transfer-encoding", b"chunked"), (b"content-length", b"1")],
        [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"transfer-encoding", b"chunked, gzip")],
    ],
)
def test_contradictory_framing_headers_are_refused_in_any_order(
    headers: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(RequestRefused):
        HeaderFacts("1.1").read(headers)


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"a.b-c_d~e:80",
        b"127.0.0.1:1",
        b"[::1]",
        b"[::ffff:1.2.3.4]:65535",
        b"a%41",
        b"a:",
        b"A!,",
    ],
)
def test_valid_host_headers_are_accepted(host: bytes) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a:123456",
        b"::1",
        b"[::1",
        b"[]",
        b"[g]",
        b"a%4",
        b"a\x80",
        b"a\n",
        b"a#",
        b"a?",
        b"a\\b",
        b'"a"',
        b"a:1:2",
        b"<a>",
    ],
)
def test_malformed_host_headers_are_refused(host: bytes) -> None:
    with pytest.raises(RequestRefused):
        check_host(host)
