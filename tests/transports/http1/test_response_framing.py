from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import pytest

from trio_mcp_session.transports.http1 import response_framing
from trio_mcp_session.transports.http1.request_refused import RequestRefused
from trio_mcp_session.transports.http1.response_framing import (
    Response,
    plain_answer,
    start_response,
)

DATE = (b"date", b"now")


def start(
    *headers: tuple[bytes, bytes], status: Any = 200, method: str = "GET", date: bool = True
) -> Response:
    listed = [*headers, DATE] if date else [*headers]
    return start_response(
        {"type": "http.response.start", "status": status, "headers": listed}, method
    )


def begin(
    response: Response,
    body: bytes = b"",
    *,
    more: bool = False,
    version: str = "1.1",
    keep_alive: bool = True,
) -> tuple[list[bytes], bytes]:
    """Return the lines behind the status line and the date, and what follows."""
    data = response.begin(body, more=more, version=version, keep_alive=keep_alive)
    head, _, after = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 ")
    return [line for line in lines[1:] if not line.startswith(b"date:")], after


def test_a_body_that_is_there_as_a_whole_has_a_length() -> None:
    response = start((b"X-Y", b"z"))
    assert begin(response, b"abc") == ([b"X-Y: z".lower(), b"content-length: 3"], b"abc")
    assert not response.closes
    assert begin(start(), b"") == ([b"content-length: 0"], b"")


def test_a_body_of_several_parts_is_sent_in_chunks() -> None:
    response = start()
    assert begin(response, b"", more=True) == ([b"transfer-encoding: chunked"], b"")
    assert response.frame(b"a" * 17, more=True) == b"11\r\n" + b"a" * 17 + b"\r\n"
    # An empty chunk would be the end.
    assert response.frame(b"", more=True) == b""
    assert response.frame(b"b", more=False) == b"1\r\nb\r\n0\r\n\r\n"
    response = start()
    assert begin(response, b"ab", more=True)[1] == b"2\r\nab\r\n"
    assert response.frame(b"", more=False) == b"0\r\n\r\n"


def test_without_chunks_the_end_of_the_connection_is_the_end() -> None:
    response = start()
    assert begin(response, b"ab", more=True, version="1.0") == ([b"connection: close"], b"ab")
    assert response.until_close
    assert response.closes
    assert response.frame(b"cd", more=True) == b"cd"
    assert response.frame(b"", more=False) == b""


def test_a_length_is_kept_to() -> None:
    response = start((b"Content-Length", b"5"))
    assert begin(response, b"ab", more=True) == ([b"content-length: 5"], b"ab")
    assert response.frame(b"cd", more=True) == b"cd"
    with pytest.raises(RuntimeError, match="not as long"):
        response.frame(b"ef", more=True)
    with pytest.raises(RuntimeError, match="not as long"):
        response.frame(b"", more=False)
    assert response.frame(b"e", more=True) == b"e"
    assert response.frame(b"", more=False) == b""
    with pytest.raises(RuntimeError, match="not as long"):
        begin(start((b"content-length", b"1")), b"")
    with pytest.raises(RuntimeError, match="not as long"):
        begin(start((b"content-length", b"1")), b"ab", more=True)


def test_the_connection_header_of_a_response_says_close_or_keep_alive() -> None:
    assert begin(start(), b"") == ([b"content-length: 0"], b"")
    response = start()
    lines, _ = begin(response, version="1.0")
    assert lines == [b"content-length: 0", b"connection: keep-alive"]
    assert not response.closes
    response = start()
    lines, _ = begin(response, keep_alive=False)
    assert lines == [b"content-length: 0", b"connection: close"]
    assert response.closes
    response = start((b"Connection", b"Close"), (b"connection", b"x"))
    assert begin(response)[0] == [b"content-length: 0", b"connection: close"]
    # What else an application says about connections is not its business.
    response = start((b"connection", b"keep-alive"), (b"transfer-encoding", b"gzip"))
    assert begin(response)[0] == [b"content-length: 0"]
    assert not response.closes


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("status, method", [(304, "GET"), (200, "HEAD"), (404, "HEAD")])
def test_where_there_is_no_body_there_may_be_a_length(status: int, method: str, more: bool) -> None:
    response = start((b"content-length", b"5"), status=status, method=method)
    assert begin(response, b"hello", more=more) == ([b"content-length: 5"], b"")
    assert response.frame(b"more", more=False) == b""
    response = start(status=status, method=method)
    assert begin(response, b"", more=more) == ([], b"")
    assert not response.closes


def test_the_length_of_what_head_does_not_get() -> None:
    assert begin(start(method="HEAD"), b"hello") == ([b"content-length: 5"], b"")
    assert begin(start(method="HEAD"), b"hello", more=True) == ([], b"")
    assert begin(start(method="HEAD"), b"", more=True, version="1.0", keep_alive=False) == (
        [b"connection: close"],
        b"",
    )


def test_no_content_has_no_length() -> None:
    assert begin(start((b"content-length", b"0"), status=204)) == ([], b"")


@pytest.mark.parametrize(
    "status, line",
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (HTTPStatus.NOT_FOUND, b"HTTP/1.1 404 Not Found\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_the_status_line_has_the_code_and_its_phrase(status: int, line: bytes) -> None:
    data = start(status=status).begin(b"", more=False, version="1.0", keep_alive=False)
    assert data.startswith(line)


@pytest.mark.parametrize("status", [199, 100, 101, 1000, 0, -1, "200", None, 200.0])
def test_an_invalid_response_status_is_refused(status: object) -> None:
    with pytest.raises(RuntimeError, match="status"):
        start(status=status)


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\n"),
        (b"x", b"a\r"),
        (b"x", b"a\0b"),
        (b"date", b"a\nb"),
        (b"x\r\ny", b""),
        (b"x: y", b""),
        (b"x ", b""),
        (b"", b"a"),
        (b"\xe9", b"a"),
        (b"content-length", b"x"),
        (b"content-length", b""),
        (b"content-length", b"-1"),
    ],
)
def test_no_header_becomes_another(header: tuple[bytes, bytes]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError):
            start(header)


def test_a_length_is_said_once() -> None:
    with pytest.raises(RuntimeError, match="Content-Length"):
        start((b"content-length", b"1"), (b"Content-Length", b"1"))


def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_framing, "_names", {b"x": b"x"})
    monkeypatch.setattr(response_framing, "_KEPT_NAMES", 2)
    for name in (b"A", b"B", b"C"):
        assert begin(start((name, b"1"), date=False))[0][0] == name.lower() + b": 1"
    assert response_framing._names == {b"x": b"x", b"A": b"a"}


def test_the_date_changes_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    for now in (1_700_000_000.0, 1_700_000_000.9, 1_700_000_001.0):
        data = start(date=False).begin(b"", more=False, version="1.1", keep_alive=True)
        (line,) = [line for line in data.split(b"\r\n") if line.startswith(b"date: ")]
        assert parsedate_to_datetime(line[6:].decode()).timestamp() == int(now)
    data = start().begin(b"", more=False, version="1.1", keep_alive=True)
    assert data.count(b"date: ") == 1
    assert b"date: now\r\n" in data


def test_headers_may_be_missing() -> None:
    response = start_response({"type": "http.response.start", "status": 200}, "GET")
    assert begin(response) == ([b"content-length: 0"], b"")


def test_the_server_speaks_for_itself() -> None:
    data = plain_answer(RequestRefused(HTTPStatus.BAD_REQUEST, "there is no Host"))
    assert data.startswith(b"HTTP/1.1 400 Bad Request\r\ndate: ")
    assert data.endswith(
        b"content-type: text/plain\r\ncontent-length: 17\r\nconnection: close\r\n\r\n"
        b"there is no Host\n"
    )
    assert plain_answer(
        RequestRefused(HTTPStatus.BAD_REQUEST, "there is no Host"), with_body=False
    ).endswith(b"content-length: 17\r\nconnection: close\r\n\r\n")
