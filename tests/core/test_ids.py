from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import SessionKind
from trio_mcp_session.core.ids import ID_BYTES, MAX_ID_LENGTH, is_session_id, new_session_id


def test_ids_carry_at_least_128_bits_in_visible_ascii() -> None:
    ids = {new_session_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    for one in ids:
        assert len(base64.urlsafe_b64decode(one)) * 8 == ID_BYTES * 8 >= 128
        assert is_session_id(one)


def test_every_place_of_an_id_varies() -> None:
    # A prefix or a counter in it would leave some places the same.
    ids = [new_session_id() for _ in range(200)]
    assert all(len(set(place)) > 20 for place in zip(*ids, strict=True))


def test_a_prefix_is_put_before_all_of_the_random_bits() -> None:
    one = new_session_id("brw")
    prefix, _, random = one.partition("_")
    assert prefix == "brw"
    assert len(base64.urlsafe_b64decode(random)) == ID_BYTES
    assert is_session_id(one)
    assert len(new_session_id("x" * 16)) < MAX_ID_LENGTH


@pytest.mark.parametrize(
    "text, good",
    [
        ("", False),
        ("!", True),
        ("~", True),
        (" ", False),
        ("\x7f", False),
        ("é", False),
        ("\uff11", False),
        ("a\n", False),
        ("a\x00", False),
        ("x" * MAX_ID_LENGTH, True),
        ("x" * (MAX_ID_LENGTH + 1), False),
        ("x" * (MAX_ID_LENGTH - 1) + "\ud800", False),
    ],
)
def test_texts_that_can_be_ids(text: str, good: bool) -> None:
    assert is_session_id(text) is good


@given(st.one_of(st.text(max_size=140), st.text("!~azAZ09-_ \x7f", max_size=140)))
def test_an_id_is_short_visible_ascii(text: str) -> None:
    assert is_session_id(text) is bool(re.fullmatch(r"[\x21-\x7E]{1,128}", text))


def test_session_kinds_and_their_values() -> None:
    assert {kind.value for kind in SessionKind} == {
        "connection",
        "header",
        "handle",
        "parked",
        "task",
    }
