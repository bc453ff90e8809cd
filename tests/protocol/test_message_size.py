"""How many values a message has, and what it takes in memory: checked against `tracemalloc`."""

from __future__ import annotations

import base64
import gc
import random
import string
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from tests import strategies
from tests.strategies import Json
from trio_mcp_session.protocol.jsonrpc import (
    Invalid,
    Notification,
    Request,
    Response,
    decode,
    decode_again,
    encode_json,
    encode_request,
)
from trio_mcp_session.protocol.message_size import (
    CONTAINER,
    MEASURED_FROM,
    MEMBER,
    PIECE,
    count_values,
    measure,
)

refused = partial(Invalid, setting="max_values")

R = random.Random(11)  # noqa: S311  # the same in every run


def word(length: int) -> str:
    return "".join(R.choices(string.ascii_lowercase, k=length))


def row(number: int) -> dict[str, Any]:
    name = word(12)
    return {"id": 1000 + number, "name": name, "active": True, "score": R.random(), "tags": [name]}


CORPORA: dict[str, Callable[[], Any]] = {
    "flat strings": lambda: [word(R.randint(3, 40)) for _ in range(6000)],
    "numbers": lambda: [R.randint(0, 10**9) for _ in range(10_000)],
    "empty objects": lambda: [{} for _ in range(10_000)],
    "nested arrays": lambda: [[[], [[n]], [n, [n + 1]]] for n in range(2500)],
    "long keys": lambda: [{word(40): n for _ in range(10)} for n in range(500)],
    "rows": lambda: [row(number) for number in range(2500)],
    "unicode": lambda: [
        f"{R.choice(['Привет, мир', '日本語テキスト', 'héllo wörld', 'fine 😀'])} {n}"
        for n in range(5000)
    ],
    "base64": lambda: base64.b64encode(R.randbytes(400_000)).decode(),
    "floats": lambda: [R.random() for _ in range(10_000)],
    "booleans": lambda: [R.random() < 0.5 for _ in range(20_000)],
    "keys": lambda: {f"{word(8)}{n}": n for n in range(5000)},
    "small numbers": lambda: [R.randint(0, 255) for _ in range(20_000)],
}


def truth(frames: list[bytes]) -> tuple[int, int]:
    """Return how many bytes the decoded messages really take, and how many they count for."""
    kept: list[Request] = []
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for frame in frames:
            message = decode(frame)
            assert isinstance(message, Request)
            kept.append(msgspec.structs.replace(message, frame=b""))
            del message
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, sum(message.cost for message in kept)


@pytest.mark.parametrize("name", CORPORA)
def test_a_large_message_counts_for_what_it_takes(name: str) -> None:
    frame = encode_request(1, "tools/call", {"name": "x", "arguments": {"value": CORPORA[name]()}})
    decode(frame)  # What is made once, such as short keys, is not part of the message.
    real, counted = truth([frame])
    assert counted >= MEASURED_FROM
    assert 0.8 * real <= counted <= 1.5 * real


def mixed_call(number: int) -> bytes:
    arguments: list[dict[str, Any]] = [
        {"query": word(20), "limit": R.randint(1, 500)},
        {"path": f"/home/{word(15)}.py", "content": "def f():\n    return 1\n" * R.randint(1, 60)},
        {"ids": [R.randint(1, 10**6) for _ in range(20)]},
        {},
        {"filter": {"and": [{"field": "a", "value": word(5)}, {"field": "b", "value": 0.5}]}},
        {"rows": [row(n) for n in range(R.randint(1, 30))]},
    ]
    params = {"name": "search_files", "arguments": arguments[number % len(arguments)]}
    return encode_request(number, "tools/call", params)


def test_usual_calls_count_for_what_they_take() -> None:
    frames = [mixed_call(number) for number in range(1200)]
    assert all(len(frame) < 10_000 for frame in frames)
    real, counted = truth(frames)
    assert 0.8 * real <= counted <= 1.5 * real


def test_from_some_size_on_a_message_is_measured() -> None:
    def padded(size: int) -> Any:
        return decode(encode_request(1, "m", {"a": "x" * size}))

    empty = encode_request(1, "m", {"a": ""})
    estimate = len(empty) + MEMBER * empty.count(b",") + CONTAINER * 2
    last = MEASURED_FROM - estimate - 1
    assert padded(last).cost == MEASURED_FROM - 1
    message = padded(last + 1)
    assert message.cost == measure(message.id, message.method, message.params)


def test_long_keys_count_each_time_and_short_ones_once() -> None:
    long, short = "k" * 33, "k" * 32
    assert measure([{long: 0}, {long: 0}]) - measure([{long: 0}, {}]) > 33
    assert measure([{short: 0}, {short: 0}, {short: 0, "a": 0}]) < measure(
        [{short: 0}, {"x": 0}, {"y": 0, "a": 0}]
    )


# How many values.


def values_of(value: Json) -> int:
    """Count by looking at the values, as commas and opening brackets would."""
    if isinstance(value, dict):
        return 1 + sum(map(values_of, value.values())) + max(0, len(value) - 1)
    if isinstance(value, list):
        return 1 + sum(map(values_of, value)) + max(0, len(value) - 1)
    return 0


@given(strategies.json_values)
def test_values_are_counted_outside_of_texts(value: Json) -> None:
    assert count_values(encode_json(value)) == 1 + values_of(value)


@given(st.lists(st.sampled_from(['"', "\\", ",", "[", "{", "a", "é"]), max_size=40).map("".join))
def test_what_stands_in_texts_does_not_count(text: str) -> None:
    assert count_values(encode_json([text, {text: text}])) == 4


def test_a_text_that_goes_over_a_piece_is_a_text_in_both() -> None:
    marks = ",[{" * PIECE
    assert count_values(encode_json([marks, marks, 1])) == 4


@pytest.mark.parametrize("count", [9, 10])
def test_the_limit_on_values_at_its_edge(count: int) -> None:
    # The message itself has two brackets, and three commas.
    params = {"a": list(range(count - 6))}
    frame = encode_request(7, "m", params)
    assert count_values(frame) == count
    assert decode(frame, max_values=count) == Request(7, "m", params)
    what = f"message has more than {count - 1} values"
    assert decode(frame, max_values=count - 1) == refused(what, id=7)


WHAT = "message has more than 3 values"


@pytest.mark.parametrize(
    "members, refusal",
    [
        (b'"id":"x","method":"m"', refused(WHAT, id="x")),
        (b'"id":1.0,"method":"m"', refused(WHAT, id=1)),
        (b'"id":"x","method":"m","a":"\\ud83d"', refused(WHAT, id="x")),
        (b'"method":"m"', refused(WHAT, answer=False)),
        (b'"id":null,"method":"notifications/m"', refused(WHAT, answer=False)),
        (b'"id":null,"method":"m"', refused(WHAT)),
        (b'"id":1,"result":{}', refused(WHAT, answer=False, answers=1)),
        (b'"id":1,"method":null,"error":{}', refused(WHAT, answer=False, answers=1)),
        (b'"result":{}', refused(WHAT, answer=False)),
        (b'"id":1.5,"method":"m"', refused(WHAT)),
        (b'"id":[1],"method":"m"', refused(WHAT)),
        (b'"id":1,"method":7', refused(WHAT)),
        (b'"id":1,"method":"m', refused(WHAT)),
        # What cannot be decoded is scanned: the last members are at its end.
        (b'"a":\xff,"id":1,"method":"m"', refused(WHAT, id=1)),
    ],
)
def test_a_message_with_too_many_values_is_refused_with_its_id(
    members: bytes, refusal: Invalid
) -> None:
    frame = b'{"params":{"a":[1,2,3,4]},%b}' % members
    assert decode(frame, max_values=3) == refusal
    assert decode(b"\xef\xbb\xbf" + frame, max_values=3) == refusal


def test_a_batch_with_too_many_values_is_refused() -> None:
    assert decode(b'[{"id":1,"method":"m"},2,3]', max_values=3) == refused(WHAT)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("message_id", [b'"id":1,', b'"id":null,', b""])
def test_a_message_that_is_decoded_again_has_the_same_parameters(
    mark: bytes, message_id: bytes
) -> None:
    text = b'"\\ud83d and \\ud83d\\ude00", "\\\\ud83d", 1.0'
    frame = mark + b'{%b"jsonrpc":"2.0","method":"notifications/m","params":{"a":[%b]}}' % (
        message_id,
        text,
    )
    message = decode(frame)
    assert isinstance(message, (Request, Notification))
    assert message.params == {"a": ["\ufffd and \U0001f600", "\\ud83d", 1.0]}
    assert decode_again(message.frame) == message.params


def test_a_message_with_too_many_values_is_not_decoded() -> None:
    frame = b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":[%b{}]}}' % (b"{}," * 1_000_000)
    tracemalloc.start()
    try:
        decoded = decode(frame)
        _, top = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded == refused("message has more than 100000 values", id=7)
    assert top < 4 * len(frame)


# Decoding again.


@given(strategies.requests)
def test_a_message_is_decoded_again_from_its_frame(request: Request) -> None:
    message = decode(encode_request(request.id, request.method, request.params))
    assert isinstance(message, Request)
    assert decode_again(message.frame) == request.params


def test_messages_are_equal_without_what_they_were_decoded_from() -> None:
    one = decode(b'{"jsonrpc":"2.0","id":1,"method":"m"}')
    assert one == Request(1, "m", {})
    assert one != Request(2, "m", {})
    note = decode(b'{"jsonrpc":"2.0","method":"m"}')
    assert note == Notification("m", {})
    assert note != Notification("n", {})
    assert one != note
    assert note != one
    assert Response(1, {}) == Response(1, {})
