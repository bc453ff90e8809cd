"""What the headers of a request may refuse it for."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_session.core.errors import McpError
from trio_mcp_session.protocol.media_types import Forms
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS
from trio_mcp_session.transports.http.checks import (
    accepted_forms,
    check_content,
    check_events_accepted,
    check_version,
    http_error_of,
)
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_error import HttpError

SUPPORTED = [*HANDSHAKE_REVISIONS, "2026-07-28"]
"""A session can have one of the first four, and a request without a session the last one."""


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
    assert accepted_forms(RequestHeaders(accept=accept)) == Forms(json=True, events=True)
    check_events_accepted(RequestHeaders(accept=accept))


@pytest.mark.parametrize(
    "accept, json",
    [
        ("application/json", True),
        ("application/*, text/event-stream;q=0", True),
        ("*/*, text/*;q=0", True),
        ("application/json" + 100 * ", text/plain", True),
        ("text/event-stream", False),
        ("text/*", False),
    ],
)
def test_clients_that_can_read_one_form_only(accept: str, json: bool) -> None:
    assert accepted_forms(RequestHeaders(accept=accept)) == Forms(json=json, events=not json)


@pytest.mark.parametrize("accept", ["", "text/html", "application/xml, image/*", "*/*;q=0"])
def test_an_accept_header_without_json_and_sse_is_refused_with_406(accept: str) -> None:
    with pytest.raises(HttpError) as caught:
        accepted_forms(RequestHeaders(accept=accept))
    assert caught.value.status == 406
    assert b"application/json or text/event-stream" in caught.value.body


def test_a_stream_of_events_must_be_accepted() -> None:
    check_events_accepted(RequestHeaders(accept="text/event-stream"))
    with pytest.raises(HttpError) as caught:
        check_events_accepted(RequestHeaders(accept="application/json"))
    assert caught.value.status == 406
    assert b"must accept text/event-stream" in caught.value.body


@pytest.mark.parametrize("coding", [None, "", "identity", "Identity , identity"])
def test_bodies_that_are_sent_as_they_are(coding: str | None) -> None:
    headers = RequestHeaders(content_type="application/json", content_encoding=coding)
    check_content(headers)


@pytest.mark.parametrize("coding", ["gzip", "identity, br", "x" * 1000])
def test_a_body_with_an_encoding_is_refused_with_415(coding: str) -> None:
    headers = RequestHeaders(content_type="application/json", content_encoding=coding)
    with pytest.raises(HttpError) as caught:
        check_content(headers)
    assert caught.value.status == 415
    assert caught.value.headers == ((b"accept-encoding", b"identity"),)
    message = msgspec.json.decode(caught.value.body)["error"]["message"]
    assert coding[:64] in message
    assert len(message) < 200


def test_a_body_that_is_not_json_is_refused_with_415() -> None:
    with pytest.raises(HttpError) as caught:
        check_content(RequestHeaders(content_type="text/plain"))
    assert caught.value.status == 415


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
