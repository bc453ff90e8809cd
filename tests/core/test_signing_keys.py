"""The keys that ``requestState`` is signed with."""

from __future__ import annotations

import hmac
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import RequestStateKeys, SessionConfig

OLD, NEW, NEWEST = b"o" * 16, b"n" * 16, b"e" * 16
DATA = b"what is signed"

raw_keys = st.binary(min_size=16, max_size=40)


def test_a_signature_is_an_hmac_of_the_first_key() -> None:
    # Other processes have to come to the same, of other releases too.
    expected = hmac.digest(NEW, DATA, "sha256")
    keys = RequestStateKeys(NEW, OLD)
    assert keys.sign(DATA) == expected
    assert keys.recognise(expected, DATA)


@given(keys=st.lists(raw_keys, min_size=1, max_size=4, unique=True), data=st.binary())
def test_every_key_recognises_and_the_first_one_signs(keys: list[bytes], data: bytes) -> None:
    ours = RequestStateKeys(*keys)
    for key in keys:
        assert ours.recognise(RequestStateKeys(key).sign(data), data)
    assert RequestStateKeys(keys[0]).recognise(ours.sign(data), data)
    for other in keys[1:]:
        assert not RequestStateKeys(other).recognise(ours.sign(data), data)


@given(data=st.binary(), change=st.data())
def test_other_signatures_are_not_recognised(data: bytes, change: st.DataObject) -> None:
    keys = RequestStateKeys(OLD)
    signature = bytearray(keys.sign(data))
    place = change.draw(st.integers(0, len(signature) - 1))
    signature[place] ^= change.draw(st.integers(1, 255))
    assert not keys.recognise(bytes(signature), data)
    assert not keys.recognise(keys.sign(data)[:-1], data)
    assert not keys.recognise(b"", data)
    assert not keys.recognise(keys.sign(data), data + b"x")


def test_random_keys_differ() -> None:
    one, other = RequestStateKeys(), RequestStateKeys()
    assert one.recognise(one.sign(DATA), DATA)
    assert not other.recognise(one.sign(DATA), DATA)


def test_configurations_do_not_share_random_keys() -> None:
    one, other = SessionConfig().request_state_keys, SessionConfig().request_state_keys
    assert not other.recognise(one.sign(DATA), DATA)


@pytest.mark.parametrize("keep, known", [(None, 1), (0, 0), (1, 1), (2, 2), (9, 2)])
def test_rotate_keeps_the_given_number_of_keys(keep: int | None, known: int) -> None:
    keys = RequestStateKeys(OLD)
    by_old = keys.sign(DATA)
    keys.rotate(NEW)
    by_new = keys.sign(DATA)
    if keep is None:
        keys.rotate(NEWEST)
    else:
        keys.rotate(NEWEST, keep=keep)
    assert keys.sign(DATA) == RequestStateKeys(NEWEST).sign(DATA)
    assert keys.recognise(keys.sign(DATA), DATA)
    assert keys.recognise(by_new, DATA) is (known >= 1)
    assert keys.recognise(by_old, DATA) is (known >= 2)


def test_rotate_without_a_key_makes_a_random_one() -> None:
    keys = RequestStateKeys(OLD)
    before = keys.sign(DATA)
    keys.rotate()
    assert keys.sign(DATA) != before
    assert keys.recognise(before, DATA)
    keys.rotate(keep=0)
    assert not keys.recognise(before, DATA)


@pytest.mark.parametrize("key", [b"", b"x" * 15])
def test_short_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match=f"at least 16 bytes, not {len(key)}"):
        RequestStateKeys(OLD, key)
    keys = RequestStateKeys(OLD)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        keys.rotate(key)
    assert keys.sign(DATA) == RequestStateKeys(OLD).sign(DATA)


@pytest.mark.parametrize("key", ["x" * 32, bytearray(32), None, 32, ["x"] * 32])
def test_keys_that_are_not_bytes_are_refused(key: object) -> None:
    """Found when they are set, and not when the first client is to be asked."""
    with pytest.raises(TypeError, match=f"bytes, not {type(key).__name__}"):
        RequestStateKeys(cast("Any", key))


def test_rotate_refuses_a_negative_keep() -> None:
    keys = RequestStateKeys(OLD)
    with pytest.raises(ValueError, match="keep must be at least 0, not -1"):
        keys.rotate(NEW, keep=-1)
    assert keys.sign(DATA) == RequestStateKeys(OLD).sign(DATA)


def test_repr_does_not_show_the_keys() -> None:
    assert repr(RequestStateKeys(OLD, NEW)) == "<RequestStateKeys: 2>"
    assert "oooo" not in repr(SessionConfig(request_state_keys=RequestStateKeys(OLD)))
