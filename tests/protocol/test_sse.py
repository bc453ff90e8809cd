"""Events on the wire, as a reader that was written after the standard takes them."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from tests import strategies
from tests.strategies import Json
from trio_mcp_session.protocol.jsonrpc import encode_json, encode_result
from trio_mcp_session.protocol.sse import (
    COMMENT,
    CONTENT_TYPE,
    encode_event,
    encode_priming,
    encode_retry,
)


@attrs.define
class Dispatched:
    """What a reader tells the program of."""

    data: str
    event: str = "message"
    last_event_id: str = ""


@attrs.define
class Reader:
    """Interprets a stream of events (HTML Living Standard, 9.2.6).

    Events without data are not returned; their id and retry count all the same.
    """

    dispatched: list[Dispatched] = attrs.field(factory=list)
    last_event_id: str = ""
    retry: int | None = None

    def read(self, stream: bytes) -> Reader:
        data: list[str] = []
        event = ""
        lines = re.split(r"\r\n|\n|\r", stream.decode())
        # What is not followed by the end of a line is not a line yet.
        for line in lines[:-1]:
            if not line:
                if text := "\n".join(data):
                    self.dispatched.append(Dispatched(text, event or "message", self.last_event_id))
                data, event = [], ""
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "data":
                    data.append(value)
                case "event":
                    event = value
                case "id":
                    self.last_event_id = value
                case "retry":
                    assert value.isascii()
                    assert value.isdigit()
                    self.retry = int(value)
                case _:
                    assert name == ""  # a comment
        return self


_ids = st.one_of(st.none(), st.from_regex(r"[!-~]{1,20}", fullmatch=True))


@given(st.lists(st.tuples(strategies.json_values, _ids), max_size=5))
@example([({"text": "\r\n\u2028\u2029\x0b\x0c\x85"}, "1:1")])
@example([("data: x\n\nevent: y", None)])
@example([({"data:": "\n\ndata: injected\n\n"}, "7")])
def test_any_message_is_decoded_by_an_sse_parser(events: list[tuple[Json, str | None]]) -> None:
    stream = b"".join(encode_event(encode_json(value), event_id) for value, event_id in events)
    reader = Reader().read(stream)
    assert len(reader.dispatched) == len(events)
    last = ""
    for found, (value, event_id) in zip(reader.dispatched, events, strict=True):
        last = event_id or last
        assert json.loads(found.data) == value
        assert found == Dispatched(found.data, "message", last)


def _dumps_widely(value: Json, newline: str) -> bytes:
    """Encode as no code here does, with ends of lines wherever JSON allows for them."""
    wide = json.dumps(value, indent=1, ensure_ascii=False)
    return wide.replace("\n", newline).encode()


@given(
    value=strategies.json_values,
    newline=st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r", "\r\n\r\n"]),
)
@example({"a": ["data: x\n\n", "\r"]}, "\n\n")
def test_ends_of_lines_between_tokens_do_not_end_events(value: Json, newline: str) -> None:
    # An application may hand over JSON that it has not made here (`msgspec.Raw`).
    frame = newline.encode() + _dumps_widely(value, newline) + newline.encode()
    (found,) = Reader().read(encode_event(frame, "1")).dispatched
    assert json.loads(found.data) == value


@given(value=strategies.json_values, event_id=_ids)
def test_a_stream_may_be_cut_anywhere(value: Json, event_id: str | None) -> None:
    event = encode_event(encode_json(value), event_id)
    assert event.endswith(b"\n\n")
    # One byte less, and the event has not come.
    assert Reader().read(event[:-1]).dispatched == []
    assert len(Reader().read(event).dispatched) == 1


def test_the_bytes_of_an_event() -> None:
    frame = encode_result(1, {"a": 1})
    assert encode_event(frame, None) == b"event: message\ndata: %b\n\n" % frame
    assert encode_event(frame, "s:1") == b"id: s:1\nevent: message\ndata: %b\n\n" % frame
    raw = msgspec.json.encode({"result": msgspec.Raw(b'{\r\n "a": "b\\n" }')})
    assert encode_event(raw, None) == b'event: message\ndata: {"result":{   "a": "b\\n" }}\n\n'


def test_comment_is_ignored_by_clients() -> None:
    reader = Reader(last_event_id="before").read(COMMENT * 3)
    assert reader == Reader(last_event_id="before")
    # Between two events too.
    event = encode_event(b"{}", None)
    assert len(Reader().read(event + COMMENT + event).dispatched) == 2
    assert CONTENT_TYPE == b"text/event-stream"


@pytest.mark.parametrize(
    "seconds, milliseconds",
    [(0, 0), (0.0004, 0), (0.0006, 1), (0.5, 500), (3, 3000), (1.2345, 1234), (1e9, 10**12)],
)
def test_retry_and_priming_events(seconds: float, milliseconds: int) -> None:
    reader = Reader(last_event_id="before").read(encode_retry(seconds))
    assert reader == Reader([], "before", milliseconds)
    # A stream begins with an id to resume from, and with nothing for the program.
    reader = Reader().read(encode_priming("s:0", seconds))
    assert reader == Reader([], "s:0", milliseconds)
    assert encode_priming("s:0", 3) == b"id: s:0\nretry: 3000\ndata: \n\n"


@given(retry=st.floats(0, 1e6), value=strategies.json_values, event_id=_ids)
def test_bytes_of_a_whole_stream(retry: float, value: Json, event_id: Any) -> None:
    stream = (
        encode_priming("s:0", retry)
        + COMMENT
        + encode_event(encode_json(value), event_id)
        + COMMENT
        + encode_retry(retry)
    )
    reader = Reader().read(stream)
    assert [json.loads(one.data) for one in reader.dispatched] == [value]
    assert reader.last_event_id == (event_id or "s:0")
    assert reader.retry == round(retry * 1000)
