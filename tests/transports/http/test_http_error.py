"""Refusals on the wire, and the responses that every part sends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from trio.testing import assert_no_checkpoints

from tests.helpers import error
from trio_mcp_session.transports.http.http_error import HttpError
from trio_mcp_session.transports.http.json_response import JSON, respond


class Sent:
    """What was sent to a client."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        self.messages.append(message)


async def test_a_response_is_a_start_and_a_body() -> None:
    sent = Sent()
    with assert_no_checkpoints():
        await respond(sent.send, 200, b"{}", [JSON, (b"x", b"y")])
    assert sent.messages == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"x", b"y"),
                (b"content-length", b"2"),
            ],
        },
        {"type": "http.response.body", "body": b"{}"},
    ]


@pytest.mark.parametrize("status, headers", [(202, [(b"content-length", b"0")]), (204, [])])
async def test_a_response_without_a_body_has_the_right_headers(
    status: int, headers: list[Any]
) -> None:
    # A length is not allowed where there cannot be a body (RFC 9110, 8.6).
    sent = Sent()
    await respond(sent.send, status)
    assert sent.messages == [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": b""},
    ]


@pytest.mark.parametrize("request_id", [UNSET, 0, "", 1, "1", 2**70], ids=ascii)
async def test_a_refusal_is_an_error_of_the_protocol(request_id: Any) -> None:
    sent = Sent()
    refusal = HttpError(
        418,
        "A teapot",
        code=-1,
        data={"lid": True},
        request_id=request_id,
        headers=iter([(b"retry-after", b"1")]),
    )
    for _ in range(2):
        await refusal.send(sent.send)
    start, body, *again = sent.messages
    assert again == [start, body]
    assert start["status"] == 418
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"retry-after": b"1",
        b"content-length": b"%d" % len(body["body"]),
    }
    expected = error(None if request_id is UNSET else request_id, -1, "A teapot")
    expected["error"]["data"] = {"lid": True}
    assert body["body"] == msgspec.json.encode(expected)


def test_by_default_it_is_an_invalid_request_without_an_id() -> None:
    refusal = HttpError(400, "No.")
    assert msgspec.json.decode(refusal.body) == error(None, -32600, "No.")
    assert (refusal.status, refusal.headers, str(refusal)) == (400, (), "(400, 'No.')")
