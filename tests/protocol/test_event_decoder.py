from __future__ import annotations

import pytest

from trio_mcp_session.protocol.event_decoder import MAX_ID, EventDecoder, ReceivedEvent


def decode(*pieces: bytes, max_size: int = 100) -> list[ReceivedEvent]:
    decoder = EventDecoder(max_size)
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_events_are_decoded_in_whatever_pieces_they_come(newline: bytes) -> None:
    lines = [
        b": comment",
        b"",
        b"event: message",
        b"data: one",
        b"data:two",
        b"",
        b"data: 3",
        b"",
        b"",
    ]
    whole = newline.join(lines)
    expected = [ReceivedEvent(b"one\ntwo"), ReceivedEvent(b"3")]
    assert decode(whole) == expected
    assert decode(*(bytes([one]) for one in whole)) == expected
    assert decode(whole[:20], b"", whole[20:]) == expected


def test_an_id_counts_from_the_end_of_its_event_on() -> None:
    decoder = EventDecoder(100)
    assert decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n") == [ReceivedEvent(b"a")]
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"\n") == [ReceivedEvent(b"b")]
    assert decoder.last_event_id == "2"
    # An event without one keeps it, and an empty one forgets it.
    assert decoder.feed(b"data: c\n\n") == [ReceivedEvent(b"c")]
    assert decoder.last_event_id == "2"
    assert decoder.feed(b"id:\n\n") == [ReceivedEvent(b"")]
    assert decoder.last_event_id is None


@pytest.mark.parametrize("event_id", [b"x" * (MAX_ID + 1), "é".encode()])
def test_an_id_that_no_header_can_have_is_forgotten(event_id: bytes) -> None:
    decoder = EventDecoder(5000)
    decoder.feed(b"id: 1\n\nid: " + event_id + b"\n\n")
    assert decoder.last_event_id is None


def test_an_id_with_a_null_is_ignored() -> None:
    decoder = EventDecoder(100)
    decoder.feed(b"id: 1\n\nid: a\0b\ndata: c\n\n")
    assert decoder.last_event_id == "1"


def test_the_time_before_reconnecting_is_read() -> None:
    decoder = EventDecoder(100)
    assert decoder.retry is None
    assert decoder.feed(b"retry: 1500\nretry: soon\nretry: 99999999999\n\n") == []
    assert decoder.retry == 1.5


def test_an_event_up_to_the_limit_is_kept_and_a_larger_one_dropped() -> None:
    assert decode(b"data: " + b"x" * 100 + b"\n\n") == [ReceivedEvent(b"x" * 100)]
    too_long = [ReceivedEvent(b"", too_long=True), ReceivedEvent(b"next")]
    assert decode(b"data: " + b"x" * 101 + b"\n\ndata: next\n\n") == too_long
    assert (
        decode(b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60 + b"\n\ndata: next\n\n") == too_long
    )


def test_what_is_held_stays_within_the_limit() -> None:
    decoder = EventDecoder(100)
    decoder.feed(b"data: ")
    for _ in range(100):
        assert decoder.feed(b"x" * 1000) == []
        assert decoder.held <= 2 * (100 + MAX_ID)
    assert decoder.feed(b"\n\ndata: next\n\n") == [
        ReceivedEvent(b"", too_long=True),
        ReceivedEvent(b"next"),
    ]
    assert decoder.held == 0
