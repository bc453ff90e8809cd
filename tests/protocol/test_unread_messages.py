"""What is found in the ends of messages that cannot be decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET

from tests import strategies
from trio_mcp_session.protocol.framing import BadFrame
from trio_mcp_session.protocol.unread_messages import SCANNED, UnreadMessage, scan

LONG = {"text": "x" * 10_000, "id": 7, "method": "n", "more": [{"id": 8}, "}", '"']}
UNKNOWN = UnreadMessage()


def scan_line(line: bytes) -> UnreadMessage:
    frame = BadFrame.too_long(line)
    return scan(frame.head, frame.tail)


def as_line(members: dict[str, Any], order: str) -> bytes:
    return json.dumps({name: members[name] for name in order.split()}).encode()


REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": LONG}


@pytest.mark.parametrize(
    "order",
    [
        "jsonrpc id method params",  # Go, Rust
        "method params jsonrpc id",  # TypeScript, Python
        "id jsonrpc method params",  # sorted
        "jsonrpc method params id",
        "params id jsonrpc method",
        "params method id",
        "id params method",
    ],
)
@pytest.mark.parametrize("request_id", [1, 0, -5, 1.0, "", 'a\\"b,}{', "\u00e9", "x" * 300])
def test_the_id_of_a_request_is_found_before_and_after_its_parameters(
    order: str, request_id: Any
) -> None:
    line = as_line({**REQUEST, "id": request_id}, order)
    assert scan_line(line) == UnreadMessage(request_id=request_id)
    assert scan_line(b"\xef\xbb\xbf" + line + b" ") == UnreadMessage(request_id=request_id)


@pytest.mark.parametrize(
    "order", ["jsonrpc id result", "result jsonrpc id", "id jsonrpc result", "result id jsonrpc"]
)
def test_a_response_is_not_taken_for_a_request(order: str) -> None:
    members = {"jsonrpc": "2.0", "id": 1, "result": LONG}
    assert scan_line(as_line(members, order)) == UnreadMessage(answers=1)
    error = {"jsonrpc": "2.0", "id": 1, "error": LONG}
    order = order.replace("result", "error")
    assert scan_line(as_line(error, order)) == UnreadMessage(answers=1)


def test_a_notification_has_no_id() -> None:
    members = {"jsonrpc": "2.0", "method": "notifications/x", "params": LONG}
    for order in ("jsonrpc method params", "method params jsonrpc", "params method jsonrpc"):
        assert scan_line(as_line(members, order)) == UnreadMessage(is_notification=True)
    # Other methods may be requests, with an id that was not found.
    assert scan_line(as_line({**members, "method": "x"}, "jsonrpc method params")) == UNKNOWN


@pytest.mark.parametrize("bad_id", [None, True, [1], {"id": 1}])
def test_a_value_that_cannot_be_an_id_is_not_taken_for_one(bad_id: Any) -> None:
    line = as_line({**REQUEST, "id": bad_id}, "jsonrpc id method params")
    assert scan_line(line).request_id in (UNSET, True)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x" * 5000,
        b"[" * 5000,
        b'{"id":1,"params":{}}',
        b'{"id":1,"params":"' + b"x" * 5000 + b'"}',
        b'[{"id":1,"method":"m"}]',
        b'{"params":"' + b"x" * 5000 + rb'\",\"id\":1,\"method\":\"m\"}"}',
        b'{"params":{"x":"' + b"y" * 5000 + b'","id":1,"method":"m"}}',
        b'{"id":1,method:2}',
        b'{"id" 1}',
        b'{"id":\xff,"method":"m"}',
        b'{"method":"m","id":12',  # 123?
        b'{"params":{"id":1,"method":"m',
    ],
)
def test_a_line_without_recognisable_members_stays_unknown(line: bytes) -> None:
    assert scan_line(line) == UNKNOWN


def test_a_message_that_was_cut_short_has_no_tail() -> None:
    assert scan(b'{"jsonrpc":"2.0","id":12,"method":"m') == UNKNOWN
    assert scan(b'{"jsonrpc":"2.0","id":12,"method":"m"') == UnreadMessage(request_id=12)
    assert scan(b'{"jsonrpc":"2.0","id":12,"result":{"a') == UnreadMessage(answers=12)


@given(strategies.json_objects, st.integers(0, 3000))
def test_parameters_never_look_like_an_id(params: dict[str, Any], padding: int) -> None:
    members = {"method": "m", "params": params, "pad": "x" * padding, "id": "right"}
    for order in ("method params pad id", "id method params pad", "pad params id method"):
        found = scan_line(as_line(members, order)).request_id
        assert found == "right" or (found is UNSET and padding > SCANNED - 100)
    hidden = {"pad": "x" * padding, "params": {**members, "id": "wrong"}}
    assert scan_line(as_line(hidden, "pad params")) == UNKNOWN
