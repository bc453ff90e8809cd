"""What the headers of a request may refuse it for."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_session.core.errors import McpError
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS
from trio_mcp_session.transports.http.checks import check_accept, check_version, http_error_of
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_error import HttpError

SUPPORTED = ["2026-07-28"]
"""What a client can do about it is to leave the session, and to name one of these."""


@pytest.mark.parametrize("version", [None, *HANDSHAKE_REVISIONS])
def test_versions_that_are_spoken_here(version: str | None) -> None:
    check_version(RequestHeaders(protocol_version=version))


@pytest.mark.parametrize(
    "version",
    ["", "2026-07-28", "2025-11-26", "draft", "2025-11-25, 2025-11-25", "\xe9", "x" * 10_000],
    ids=ascii,
)
def test_an_unsupported_version_header_is_refused_with_400(version: str) -> None:
    with pytest.raises(HttpError) as caught:
        check_version(RequestHeaders(protocol_version=version))
    assert caught.value.status == 400
    error = msgspec.json.decode(caught.value.body)["error"]
    assert error == {
        "code": -32022,
        "message": "Unsupported protocol version",
        # Only as much of it as is needed to see what it was.
        "data": {"supported": SUPPORTED, "requested": version[:64]},
    }


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "application/json, text/event-stream",
        "text/event-stream,application/json",
        "application/*, text/*;q=0.1",
    ],
)
def test_clients_that_can_read_both(accept: str | None) -> None:
    check_accept(RequestHeaders(accept=accept), "application/json", "text/event-stream")


@pytest.mark.parametrize(
    "accept", ["", "application/json", "text/event-stream", "text/html", "*/*, text/*;q=0"]
)
def test_an_accept_header_without_json_and_sse_is_refused_with_406(accept: str) -> None:
    with pytest.raises(HttpError) as caught:
        check_accept(RequestHeaders(accept=accept), "application/json", "text/event-stream")
    assert caught.value.status == 406
    assert b"application/json and text/event-stream" in caught.value.body


def test_what_is_not_asked_for_may_be_missing() -> None:
    check_accept(RequestHeaders(accept="text/event-stream"), "text/event-stream")
    check_accept(RequestHeaders(accept="text/html"))


@pytest.mark.parametrize(
    "code, status",
    [(-32700, 400), (-32600, 400), (-32601, 404), (-32602, 400)]
    + [(code, 400) for code in (-32020, -32021, -32022)],
)
def test_the_status_of_an_error(code: int, status: int) -> None:
    refusal = http_error_of(McpError(code, "why", {"a": 1}), 7)
    assert refusal.status == status
    assert msgspec.json.decode(refusal.body) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": code, "message": "why", "data": {"a": 1}},
    }
    assert b'"id"' not in http_error_of(McpError(code, "why")).body
