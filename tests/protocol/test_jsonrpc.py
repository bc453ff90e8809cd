from __future__ import annotations

import collections
import itertools
import json
import re
import sys
from types import MappingProxyType
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import example, given, strategies as st
from msgspec import UNSET

from tests import strategies
from tests.strategies import Json
from trio_mcp_session.protocol.jsonrpc import (
    Batch,
    Invalid,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    decode,
    encode_batch,
    encode_error,
    encode_json,
    encode_notification,
    encode_request,
    encode_result,
    read_id,
)
from trio_mcp_session.protocol.lone_surrogates import on_replaced
from trio_mcp_session.protocol.message_size import nesting

PARSE_ERROR, INVALID_REQUEST = -32700, -32600


def exactly(one: object, other: object) -> bool:
    """Return whether two values are the same also in type (1 is not true, nor 1.0)."""
    return one == other and repr(_without_size(one)) == repr(_without_size(other))


def _without_size(message: object) -> object:
    """Return a message without the frame that it was decoded from, and its size in memory."""
    if isinstance(message, Batch):
        return [_without_size(one) for one in message.messages]
    if isinstance(message, (Request, Notification)):
        return msgspec.structs.replace(message, frame=b"", cost=0)
    return message


# --- there and back ---


@given(strategies.requests)
def test_encoded_requests_decode_to_the_same_value(request: Request) -> None:
    frame = encode_request(request.id, request.method, request.params)
    assert exactly(decode(frame), request)


@given(strategies.notifications)
def test_encoded_notifications_decode_to_the_same_value(notification: Notification) -> None:
    frame = encode_notification(notification.method, notification.params)
    assert exactly(decode(frame), notification)


@given(strategies.request_ids, strategies.json_objects)
def test_encoded_results_decode_to_the_same_value(
    request_id: RequestId, result: dict[str, Json]
) -> None:
    assert exactly(decode(encode_result(request_id, result)), Response(request_id, result))


@given(strategies.request_ids, st.integers(), strategies.texts, strategies.json_values)
def test_encoded_errors_decode_to_the_same_value(
    request_id: RequestId, code: int, message: str, data: Json
) -> None:
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    frame = encode_error(request_id, code, message, data)
    assert exactly(decode(frame), Response(request_id, error=error))


@given(st.lists(strategies.responses, min_size=1, max_size=5))
def test_encoded_batches_of_answers_decode_to_the_same_value(responses: list[Response]) -> None:
    frame = encode_batch([encode_json(strategies.as_json(one)) for one in responses])
    assert exactly(decode(frame), Batch(list(responses)))


@given(strategies.messages, st.data())
def test_it_does_not_matter_how_a_message_is_written(message: Message, data: st.DataObject) -> None:
    assert not isinstance(message, Invalid)
    frame = data.draw(strategies.encoded(st.just(strategies.as_json(message))))
    assert exactly(decode(frame), message)
    # Unknown members are ignored; later revisions add members.
    more = strategies.as_json(message) | {"traceparent": {"a": [1, "x"]}}
    assert exactly(decode(data.draw(strategies.encoded(st.just(more)))), message)


@given(strategies.messages)
def test_a_frame_is_one_line(message: Message) -> None:
    assert not isinstance(message, Invalid)
    assert not set(encode_json(strategies.as_json(message))) & set(b"\r\n")


@pytest.mark.parametrize("frame", [encode_request(1, "m"), encode_request(1, "m", {})])
def test_no_parameters_are_empty_parameters(frame: bytes) -> None:
    assert decode(frame) == Request(1, "m", {})
    assert decode(encode_notification("m")) == decode(encode_notification("m", {}))


def test_missing_parameters_are_not_encoded() -> None:
    assert encode_request(1, "m") == b'{"jsonrpc":"2.0","id":1,"method":"m"}'
    assert encode_notification("m") == b'{"jsonrpc":"2.0","method":"m"}'
    assert encode_notification("m", {}) == b'{"jsonrpc":"2.0","method":"m","params":{}}'


# --- whatever comes ---

WORDS = re.compile(
    "message is not JSON"
    "|message is not an object"
    "|message is nested (too deeply|more than [0-9]+ deep)"
    "|message is neither request nor response"
    "|message is a request and a response at once"
    "|batch (is empty|holds more than [0-9]+ messages)"
    "|request has no method"
    "|response has no id"
    "|(response|notification) is malformed"
    '|jsonrpc must be "2.0"'
    "|(method|id|params) must be [a-z ]+"
)


def check(message: Message) -> None:
    match message:
        case Invalid():
            # What is said of it goes back to the peer, and into logs: no text of the peer's.
            assert WORDS.fullmatch(message.what)
            assert message.code in {PARSE_ERROR, INVALID_REQUEST}
            assert message.answer or message.id is UNSET
            frame = encode_error(message.id, message.code, message.what)
            assert json.loads(frame)["error"]["message"] == message.what
        case Notification():
            assert type(message.method) is str
            assert type(message.params) is dict
        case Request():
            assert type(message.method) is str
            assert type(message.params) is dict
            assert type(message.id) in {int, str}
            # Whatever can be asked can be answered.
            assert decode(encode_result(message.id, {})) == Response(message.id, {})
        case _:
            assert type(message.id) in {int, str}
            assert (message.result is UNSET) is not (message.error is UNSET)


@given(strategies.frames, st.integers(1, 70), st.integers(1, 5))
@example(b'{"jsonrpc":"2.0","id":1,"method":"m"}', 64, 100)
@example(b'{"jsonrpc":"2.0","method":"m"}', 64, 100)
@example(b'{"jsonrpc":"2.0","id":1,"result":{}}', 64, 100)
@example(b'{"jsonrpc":"2.0","id":%s,"method":"m"}' % (b"9" * 4300), 64, 100)
@example(b'{"jsonrpc":"2.0","id":%s,"method":"m"}' % (b"9" * 4301), 64, 100)
@example(b'{"jsonrpc":"2.0","id":"\\ud800","method":"m"}', 64, 100)
@example(b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', 64, 100)
@example(b'{"jsonrpc":"2.0","id":1,"method":"m","x":"\xff"}', 64, 100)
@example(b'[{"jsonrpc":"2.0","id":1,"method":"\xff"}]', 64, 100)
def test_decoding_never_raises(frame: bytes, max_nesting: int, max_batch: int) -> None:
    decoded = decode(frame, max_nesting=max_nesting, max_batch=max_batch)
    if isinstance(decoded, Batch):
        assert 1 <= len(decoded.messages) <= max_batch
        for message in decoded.messages:
            check(message)
    else:
        check(decoded)


@given(strategies.json_frames)
def test_what_is_json_is_never_called_anything_else(frame: bytes) -> None:
    decoded = decode(frame)
    for message in decoded.messages if isinstance(decoded, Batch) else [decoded]:
        assert not isinstance(message, Invalid) or message.code == INVALID_REQUEST


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"\r",
        b"{",
        b"[",
        b"[1",
        b"[1,]",
        b"{}x",
        b"[]x",
        b"hello",
        b"nul",
        b"\x00",
        b"{}\x00",
        b"\xff\xfe{\x00}\x00",  # UTF-16
        b'{"jsonrpc":"2.0","id":1e999,"method":"m"}',
        b'{"jsonrpc":"2.0","id":01,"method":"m"}',
        b"{'jsonrpc':'2.0','id':1,'method':'m'}",
        b'{"jsonrpc":"2.0","id":"\xc3","method":"m"}',
        b'{"id":1,"params":NaN}',  # it may be a response
    ],
)
def test_malformed_json_gets_a_parse_error_without_an_id(frame: bytes) -> None:
    assert decode(frame) == Invalid("message is not JSON", PARSE_ERROR)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"m\x00"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\x00\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xed\xa0\x80"}}',  # CESU-8
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xff\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1e999}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":-1e999}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m",}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\n"}}',
        b'{"method":"m","params":{"id":2,"a":NaN},"jsonrpc":"2.0","id":1}',
    ],
)
def test_malformed_json_gets_a_parse_error_with_the_id_where_it_is_found(frame: bytes) -> None:
    assert decode(frame) == Invalid("message is not JSON", PARSE_ERROR, id=1)


def test_malformed_json_that_is_not_a_request_is_not_answered() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}') == Invalid(
        "message is not JSON", PARSE_ERROR, answer=False, answers=1
    )
    assert decode(b'{"jsonrpc":"2.0","id":1.5,"error":{"a":NaN}}') == Invalid(
        "message is not JSON", PARSE_ERROR, answer=False
    )
    assert decode(b'{"method":"notifications/m","params":{"a":NaN}}') == Invalid(
        "message is not JSON", PARSE_ERROR, answer=False
    )


@pytest.mark.parametrize("text", [b"\\ud83d", b"\\uDE00", b"\\udfff", b"\\uD800"])
def test_lone_surrogates_are_decoded_as_replacement_characters(text: bytes) -> None:
    frame = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"%b":["a%b"]}}' % (text, text)
    assert decode(frame) == Request(1, "m", {"\ufffd": ["a\ufffd"]})
    assert decode(b"[%b]" % frame) == Batch([Request(1, "m", {"\ufffd": ["a\ufffd"]})])
    deep = b'{"jsonrpc":"2.0","id":1,"method":"%b","params":{"a":[[]]}}' % text
    assert decode(deep, max_nesting=3) == Invalid("message is nested more than 3 deep", id=1)


def test_a_byte_order_mark_is_skipped() -> None:
    mark, frame = b"\xef\xbb\xbf", b'{"jsonrpc":"2.0","id":1,"method":"m"}'
    assert decode(mark + frame) == Request(1, "m", {})
    assert decode(mark + b" " + frame) == Request(1, "m", {})
    assert decode(mark + b"[%b]" % frame) == Batch([Request(1, "m", {})])
    # Only one, and only at the beginning.
    assert decode(mark + mark + frame) == Invalid("message is not JSON", PARSE_ERROR, id=1)
    assert decode(frame + mark) == Invalid("message is not JSON", PARSE_ERROR, id=1)


def test_a_member_that_may_be_absent_may_be_null() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}') == Request(1, "m", {})
    assert decode(
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1},"result":null,"error":null}'
    ) == Request(1, "m", {"a": 1})
    initialized = b'{"jsonrpc":"2.0","id":%b,"method":"notifications/initialized","params":null}'
    assert decode(initialized % b"null") == Notification("notifications/initialized", {})
    assert decode(b'{"jsonrpc":"2.0","method":"m","params":null}') == Notification("m", {})
    assert decode(b'{"jsonrpc":"2.0","id":1,"method":null,"result":{},"error":null}') == Response(
        1, {}
    )
    assert decode(b'{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1}}') == Response(
        1, error={"code": 1}
    )
    assert decode(b'{"jsonrpc":"2.0","id":1,"result":null,"error":null}') == Response(1, None)
    nested = b'{"jsonrpc":"2.0","id":null,"method":"notifications/m","params":{"a":[[]]}}'
    assert decode(nested, max_nesting=3) == Invalid(
        "message is nested more than 3 deep", answer=False
    )


def test_text_is_taken_as_it_is() -> None:
    frame = (
        b'{"jsonrpc":"2.0","id":"\\u0000","method":"a\\nb\xe2\x80\xa8",'
        b'"params":{"":"\\ud83d\\ude00"}}'
    )
    assert decode(frame) == Request("\x00", "a\nb\u2028", {"": "\U0001f600"})


@pytest.mark.parametrize("frame", [b"null", b"1", b"true", b'"x"', b" 1.5 "])
def test_json_that_is_not_an_object_is_refused(frame: bytes) -> None:
    assert decode(frame) == Invalid("message is not an object")


# --- ids ---


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1", 1),
        ('"1"', "1"),
        ("0", 0),
        ("-0", 0),
        ("-1", -1),
        ('""', ""),
        ('"true"', "true"),
        (str(2**53 + 1), 2**53 + 1),
        (str(2**63), 2**63),
        (str(-(2**63) - 1), -(2**63) - 1),
        (str(2**64), 2**64),
        (str(10**30), 10**30),
        ("9" * 4300, 10**4300 - 1),
        # The number 1 is the number 1, however it is written: some languages know only floats.
        ("1.0", 1),
        ("-1.0", -1),
        ("0.0", 0),
        ("-0.0", 0),
        ("1e2", 100),
        ("1.5e1", 15),
        (f"{2**53 - 1}.0", 2**53 - 1),
        (f"-{2**53 - 1}.0", -(2**53) + 1),
    ],
)
def test_ids_keep_their_exact_type(text: str, expected: RequestId) -> None:
    frame = b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % text.encode()
    decoded = decode(frame)
    assert decoded == Request(expected, "m", {})
    assert isinstance(decoded, Request)
    assert type(decoded.id) is type(expected)
    answer = decode(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % text.encode())
    assert answer == Response(expected, {})
    assert isinstance(answer, Response)
    assert type(answer.id) is type(expected)
    # A broken request is answered under the same id.
    broken = b'{"jsonrpc":"2.0","id":%b,"method":"m","params":1}' % text.encode()
    assert decode(broken) == Invalid("params must be an object", id=expected)


@pytest.mark.parametrize(
    "text",
    ["true", "false", "null", "1.5", "1e-1", "[]", "[1]", "{}", '{"id":1}', f"{2**53}.0", "1e300"],
)
def test_an_id_of_a_wrong_type_is_refused(text: str) -> None:
    frame = b'{"jsonrpc":"2.0","id":%b,"method":"m"}' % text.encode()
    assert decode(frame) == Invalid("id must be a string or a whole number")
    answer = b'{"jsonrpc":"2.0","id":%b,"result":{}}' % text.encode()
    assert decode(answer) == Invalid("response is malformed", answer=False)


@given(strategies.json_values)
@example(True)
@example(1.0)
def test_reading_an_id(value: Json) -> None:
    read = read_id(value)
    if type(value) in {int, str}:
        assert read is value
    elif type(value) is float and value.is_integer() and abs(value) < 2**53:
        assert read == value
        assert type(read) is int
    else:
        assert read is None


# --- every combination of members ---

ABSENT: Any = object()
MEMBERS: dict[str, list[Json]] = {
    "jsonrpc": [ABSENT, "2.0", "1.0", 2.0],
    "id": [ABSENT, None, True, 0, 1.5, 2.0, "1", []],
    "method": [ABSENT, "m", None],
    "params": [ABSENT, {}, {"a": [1]}, [], None],
    "result": [ABSENT, {}, None],
    "error": [ABSENT, {"code": 1, "message": ""}, None],
}


def model(members: dict[str, Json]) -> tuple[type, bool, object]:
    """Return type, whether it is answered, and id: what the specification says of an object."""
    # A member that may be absent may be null.
    may_be_absent = {"method", "params"} if members.get("method") is None else set(members) - {"id"}
    members = {
        name: value
        for name, value in members.items()
        if value is not None or name not in may_be_absent
    }
    request_id = members.get("id", ABSENT)
    usable_id = 2 if request_id == 2.0 else request_id
    is_id = type(usable_id) in {int, str}
    well_formed = members.get("jsonrpc") == "2.0" and type(members.get("params", {})) is dict
    is_error = "error" in members and not (members["error"] is None and "result" in members)
    is_result = "result" in members and not (is_error and members["result"] is None)
    outcomes = is_result + is_error
    if well_formed and members.get("method") == "m" and outcomes == 0:
        if request_id is ABSENT:
            return Notification, False, UNSET
        if is_id:
            return Request, True, usable_id
    if well_formed and "method" not in members and is_id and outcomes == 1:
        return Response, False, usable_id
    # An error must never answer an answer or a notification, be they ever so broken.
    answer_like = "method" not in members and not members.keys().isdisjoint({"result", "error"})
    if answer_like or request_id is ABSENT:
        return Invalid, False, UNSET
    return Invalid, True, usable_id if is_id else UNSET


def outcome(message: Message) -> tuple[type, bool, object]:
    answered = isinstance(message, Request) or (isinstance(message, Invalid) and message.answer)
    message_id = UNSET if isinstance(message, Notification) else message.id
    return type(message), answered, message_id


def test_every_combination_of_members_is_what_the_specification_says() -> None:
    seen = set()
    for values in itertools.product(*MEMBERS.values()):
        members = {
            name: value for name, value in zip(MEMBERS, values, strict=True) if value is not ABSENT
        }
        frame = json.dumps(members).encode()
        message = decode(frame)
        assert not isinstance(message, Batch)
        assert exactly(outcome(message), model(members)), (members, message)
        assert decode(b"[%b]" % frame) == Batch([message])
        seen.add(type(message))
    assert seen == {Request, Notification, Response, Invalid}


@pytest.mark.parametrize(
    "frame, what",
    [
        (b'{"id":1,"method":"m"}', 'jsonrpc must be "2.0"'),
        (b'{"jsonrpc":"1.0","id":1,"method":"m"}', 'jsonrpc must be "2.0"'),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', "method must be a string"),
        (b'{"jsonrpc":"2.0","id":1,"method":null}', "request has no method"),
        (b'{"jsonrpc":"2.0","id":1}', "request has no method"),
        (b'{"jsonrpc":"2.0","id":1,"params":{}}', "request has no method"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}', "params must be an object"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', "params must be an object"),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"m","result":{}}',
            "message is a request and a response at once",
        ),
    ],
)
def test_a_broken_request_is_told_what_is_wrong(frame: bytes, what: str) -> None:
    assert decode(frame) == Invalid(what, id=1)


@pytest.mark.parametrize(
    "frame, what",
    [
        (b'{"jsonrpc":"2.0"}', "message is neither request nor response"),
        (
            b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
            "message is neither request nor response",
        ),
        (b'{"jsonrpc":"1.0","id":1,"result":{}}', "response is malformed"),
        (b'{"jsonrpc":"2.0","error":{}}', "response has no id"),
        (b'{"jsonrpc":"2.0","result":{}}', "response has no id"),
        (b'{"jsonrpc":"2.0","id":null,"error":{}}', "response is malformed"),
        (b'{"jsonrpc":"2.0","method":1}', "notification is malformed"),
        (b"{}", "notification is malformed"),
        (
            b'{"jsonrpc":"2.0","method":"m","error":{}}',
            "message is a request and a response at once",
        ),
    ],
)
def test_what_wants_no_answer_gets_none(frame: bytes, what: str) -> None:
    assert decode(frame) == Invalid(what, answer=False)


def test_of_two_equal_members_the_last_counts() -> None:
    assert decode(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}') == Request(2, "m", {})


# --- batches ---


@given(st.lists(strategies.messages, min_size=1, max_size=5), st.data())
def test_a_batch_holds_its_messages_in_order(messages: list[Message], data: st.DataObject) -> None:
    elements = [strategies.as_json(one) for one in messages if not isinstance(one, Invalid)]
    frame = data.draw(strategies.encoded(st.just(elements)))
    assert exactly(decode(frame), Batch(list(messages)))


def test_one_bad_element_spoils_nothing_else() -> None:
    frame = (
        b'[1,{"jsonrpc":"2.0","id":1,"method":"m"},[],{},'
        b'{"jsonrpc":"2.0","id":2},{"jsonrpc":"2.0","method":"n"}]'
    )
    assert decode(frame) == Batch(
        [
            Invalid("message is not an object"),
            Request(1, "m", {}),
            Invalid("message is not an object"),
            Invalid("notification is malformed", answer=False),
            Invalid("request has no method", id=2),
            Notification("n", {}),
        ]
    )


@pytest.mark.parametrize("frame", [b"[]", b" [ ] ", b"\r\n\t[\n]"])
def test_an_empty_batch_is_none(frame: bytes) -> None:
    assert decode(frame) == Invalid("batch is empty")


def test_the_limit_of_a_batch_is_exact() -> None:
    for limit in (1, 2, 100):
        batch = decode(b"[%b]" % b",".join([b"1"] * limit), max_batch=limit)
        assert isinstance(batch, Batch)
        assert len(batch.messages) == limit
        frame = b"[%b]" % b",".join([b"1"] * (limit + 1))
        assert decode(frame, max_batch=limit) == Invalid(f"batch holds more than {limit} messages")


def test_the_elements_of_too_long_a_batch_are_not_looked_at() -> None:
    # A message's worth of these would otherwise block all tasks for seconds.
    frame = b"[%b1]" % (b"1," * 1_000_000)
    decoded = decode(frame, max_values=sys.maxsize)
    assert decoded == Invalid("batch holds more than 100 messages")


# --- nesting ---


def depth_of(value: Json) -> int:
    """Count by looking at the values."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(depth_of, inner), default=0)


@given(strategies.json_values.flatmap(lambda value: strategies.encoded(st.just(value))))
@example(b"0")
@example(b'"[[[["')
@example(b'["\\"[[[["]')
@example(b'["\\\\",[]]')
@example(b'["\\\\\\"[[["]')
@example(b'["\\\\\\\\",[[]]]')
@example(b'{"[":{"]}":["{","\\u005b"]}}')
@example(b'["\\\\\\n\\"\\\\",[[[]]],"]]]"]')
def test_nesting_is_counted_outside_of_strings(frame: bytes) -> None:
    assert nesting(frame) == depth_of(json.loads(frame))


@given(strategies.frames)
def test_nesting_of_anything_is_bounded_by_its_brackets(frame: bytes) -> None:
    assert 0 <= nesting(frame) <= frame.count(b"[") + frame.count(b"{")


def nested(depth: int, *, head: bytes = b'"id":7,"method":"m",', brackets: bytes = b"[]") -> bytes:
    """A message of exactly ``depth`` levels, with some more in strings and side by side."""
    inner = brackets[:1] * (depth - 2) + brackets[1:] * (depth - 2)
    if brackets == b"{}":
        inner = b'{"a":' * (depth - 2) + b"1" + b"}" * (depth - 2)
    side = b'"[[[[{{{{\\"[[[[":[' + b",".join([b"{}"] * 80) + b"]"
    if depth < 4:
        side = b'"[[[[{{{{\\"[[[[":1'
    return b'{"jsonrpc":"2.0",%b"params":{%b,"deep":%b}}' % (head, side, inner or b"1")


@pytest.mark.parametrize("limit", [2, 3, 4, 63, 64, 65, 200])
@pytest.mark.parametrize("brackets", [b"[]", b"{}"])
def test_the_limit_of_nesting_is_exact(limit: int, brackets: bytes) -> None:
    fits = decode(nested(limit, brackets=brackets), max_nesting=limit)
    assert isinstance(fits, Request)
    assert depth_of(fits.params) == limit - 1
    assert decode(nested(limit + 1, brackets=brackets), max_nesting=limit) == Invalid(
        f"message is nested more than {limit} deep", id=7
    )


def test_the_limit_is_exact_where_all_brackets_are_nested() -> None:
    frame = b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":[]}}'
    assert decode(frame, max_nesting=3) == Request(7, "m", {"a": []})
    assert decode(frame, max_nesting=2) == Invalid("message is nested more than 2 deep", id=7)


def test_the_limit_of_nesting_counts_the_batch_s_own_array() -> None:
    assert isinstance(decode(b"[%b]" % nested(63)), Batch)
    assert decode(b"[%b]" % nested(64)) == Invalid("message is nested more than 64 deep")


def test_a_request_that_is_nested_too_deeply_is_refused_with_its_id() -> None:
    what = "message is nested more than 64 deep"
    assert decode(nested(65, head=b'"id":"x","method":"m",')) == Invalid(what, id="x")
    assert decode(nested(65, head=b'"method":"m",')) == Invalid(what, answer=False)
    response = decode(nested(65, head=b'"id":1,"result":{},'))
    assert response == Invalid(what, answer=False, answers=1)
    assert decode(nested(65)[:-1]) == Invalid("message is not JSON", PARSE_ERROR, id=7)


@pytest.mark.parametrize("levels", [10_000, 1_000_000])
@pytest.mark.parametrize("opened, closed", [(b"[", b"]"), (b'{"a":', b"}")])
def test_very_deep_nesting_is_refused(levels: int, opened: bytes, closed: bytes) -> None:
    no_limit = sys.maxsize
    # msgspec raises RecursionError for these.
    too_deep = Invalid("message is nested more than 64 deep")
    whole = opened * levels + b"1" + closed * levels
    assert decode(whole, max_values=no_limit) == too_deep
    assert decode(opened * levels, max_values=no_limit) == too_deep
    # However high the limit is set.
    assert decode(whole, max_nesting=no_limit, max_values=no_limit) == Invalid(
        "message is nested too deeply"
    )
    request = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":%b}}' % whole
    assert decode(request, max_values=no_limit) == Invalid(too_deep.what, id=1)
    assert decode(request, max_nesting=no_limit, max_values=no_limit) == Invalid(
        "message is nested too deeply", id=1
    )


@pytest.mark.parametrize(
    "piece", [b'\\"', b'"', b"\\", b'"\\', b'\\\\"', b"[]", b"[", b"]", b'["', b'{"":', b"]["]
)
def test_counting_takes_one_pass_over_whatever_comes(piece: bytes) -> None:
    # A count that begins again at every quote would take hours for some of these.
    for frame in (b"[" * 70 + b'"' + piece * 500_000, b"[" * 70 + piece * 500_000 + b'"'):
        assert isinstance(decode(frame), Invalid)


# --- encoding ---


@attrs.frozen
class Point:
    x: int
    y: Any = None


class Shape(msgspec.Struct, rename="camel", omit_defaults=True):
    line_width: int
    points: Any = None


@pytest.mark.parametrize(
    "result, expected",
    [
        (None, {}),
        ({}, {}),
        ({"a": None}, {"a": None}),
        (MappingProxyType({"a": MappingProxyType({})}), {"a": {}}),
        (collections.ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
        (collections.UserDict(a=collections.UserDict()), {"a": {}}),
        (Point(1), {"x": 1, "y": None}),
        (Point(1, Point(2, [Point(3)])), {"x": 1, "y": {"x": 2, "y": [{"x": 3, "y": None}]}}),
        (Shape(1), {"lineWidth": 1}),
        (
            Shape(2, (Point(1), Shape(3))),
            {"lineWidth": 2, "points": [{"x": 1, "y": None}, {"lineWidth": 3}]},
        ),
        ({"a": MappingProxyType({"b": Shape(1)})}, {"a": {"b": {"lineWidth": 1}}}),
        ({"a": (1, [2.5, "x", True])}, {"a": [1, [2.5, "x", True]]}),
        ({1: 2}, {"1": 2}),
    ],
)
def test_results_are_mappings_attrs_classes_and_structs(result: object, expected: Json) -> None:
    assert exactly(decode(encode_result(1, result)), Response(1, expected))


@pytest.mark.parametrize("result", [[], [{}], (), "{}", "", 0, 1.5, True, b"{ }", UNSET])
def test_a_result_that_is_not_an_object_is_refused(result: object) -> None:
    with pytest.raises(TypeError):
        encode_result(1, result)


@pytest.mark.parametrize("result, name", [([], "list"), ("x", "str"), (5, "int")])
def test_a_result_that_is_not_an_object_is_refused_with_its_type(result: object, name: str) -> None:
    with pytest.raises(TypeError, match=f"^a result must be an object, not {name}$"):
        encode_result(1, result)


@pytest.mark.parametrize(
    "value, name",
    [(object(), "object"), (1j, "complex"), (range(3), "range"), (iter([]), "list_iterator")],
)
def test_what_does_not_encode_is_refused_by_its_type(value: object, name: str) -> None:
    match = f"^cannot encode {name} as JSON$"
    with pytest.raises(TypeError, match=match):
        encode_result(1, value)
    with pytest.raises(TypeError, match=match):
        encode_result(1, {"a": [value]})
    with pytest.raises(TypeError, match=match):
        encode_error(1, -1, "m", value)
    with pytest.raises(TypeError, match=match):
        encode_notification("m", {"a": value})
    with pytest.raises(TypeError, match=match):
        encode_request(1, "m", {"a": Point(1, value)})


@pytest.mark.parametrize("key", [(1,), None, True])
def test_keys_are_text(key: object) -> None:
    with pytest.raises(TypeError):
        encode_result(1, {"a": {key: 1}})


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\udfff": 1}, Point(1, "\ud800")])
def test_lone_surrogates_are_encoded_as_replacement_characters(value: Any) -> None:
    replaced: list[None] = []
    token = on_replaced.set(lambda: replaced.append(None))
    try:
        answer = encode_result(1, value)
        error = encode_error(1, -1, "m", value)
    finally:
        on_replaced.reset(token)
    assert "\ufffd" in answer.decode()
    assert "\ufffd" in error.decode()
    assert len(replaced) == 2
    assert encode_result(1, value) == answer  # Also where nothing is told.


def test_a_result_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = [loop]
    with pytest.raises(RecursionError):
        encode_result(1, loop)


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert decode(encode_result(1, {"a": [float("nan"), float("inf")]})) == Response(
        1, {"a": [None, None]}
    )


def test_an_error_without_a_readable_id_names_none() -> None:
    # Not even null: in MCP it is not an id.
    assert json.loads(encode_error(UNSET, -32700, "x")) == {
        "jsonrpc": "2.0",
        "error": {"code": -32700, "message": "x"},
    }


@pytest.mark.parametrize("data", [0, "", False, {}, []])
def test_empty_data_is_data(data: Json) -> None:
    assert json.loads(encode_error(0, 1, "", data))["error"]["data"] == data


@pytest.mark.parametrize("request_id", [0, "", "0"], ids=repr)
def test_empty_ids_are_ids(request_id: RequestId) -> None:
    for frame in (
        encode_result(request_id, None),
        encode_error(request_id, 1, ""),
        encode_request(request_id, "m"),
    ):
        assert exactly(json.loads(frame)["id"], request_id)


def test_raw_json_in_a_result_must_not_break_the_framing() -> None:
    assert encode_result(1, {"a": msgspec.Raw(b"[1, 2]")}) == (
        b'{"jsonrpc":"2.0","id":1,"result":{"a":[1, 2]}}'
    )
    with pytest.raises(ValueError, match="newlines"):
        encode_result(1, {"a": msgspec.Raw(b"[1,\n2]")})
