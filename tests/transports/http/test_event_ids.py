"""Event ids: what they name, and that no other text is taken for one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.transports.http.event_ids import (
    MAX_EVENT_ID_LENGTH,
    EventId,
    read_event_id,
)
from trio_mcp_session.transports.http.event_store import UnknownEvent

PLACES = st.builds(EventId, st.integers(1, 10**9), st.integers(0, 10**9), st.booleans())


@given(PLACES, PLACES)
def test_an_id_is_read_as_what_it_was_made_of(place: EventId, other: EventId) -> None:
    text = place.encode("log")
    assert read_event_id(text, "log") == place
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < MAX_EVENT_ID_LENGTH
    assert (other.encode("log") == text) is (other == place)


def test_ids_of_another_log_are_unknown() -> None:
    with pytest.raises(UnknownEvent):
        read_event_id(EventId(1, 1).encode("one"), "other")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log",
        "log.1",
        "log.1.",
        "log..1",
        ".1.1",
        "xlog.1.1",
        "LOG.1.1",
        "log.1.1.1",
        "log.1.1.last.last",
        "log.1.last",
        "log.1.1.LAST",
        "log.1.1last",
        "log.1.-1",
        "log.1.+1",
        "log.1. 1",
        "log.1.1 ",
        "log.1.1.0",
        "log.1.\N{ARABIC-INDIC DIGIT ONE}",
        "log.1.\N{SUPERSCRIPT TWO}",
        "log.1.1\0",
        f"log.1.{'1'.zfill(MAX_EVENT_ID_LENGTH)}",
        f"log.1.{'9' * 100_000}",
    ],
)
def test_malformed_ids_are_unknown(text: str) -> None:
    with pytest.raises(UnknownEvent):
        read_event_id(text, "log")


@given(st.text())
def test_any_text_is_an_id_or_unknown(text: str) -> None:
    for event_id in (text, f"log.{text}", f"log.1.{text}"):
        with suppress(UnknownEvent):
            assert read_event_id(event_id, "log").encode("log").startswith("log.")
