"""``requestState``: what was sealed is opened again, for the same request only."""

from __future__ import annotations

import string
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from tests import strategies
from trio_mcp_session import McpError, Principal, RequestStateKeys
from trio_mcp_session.core.node import node_of
from trio_mcp_session.protocol.request_state import (
    NOT_BOUND,
    CarriedState,
    ParkedState,
    binding_of,
    open_sealed,
    seal,
)

KEY, OTHER_KEY = b"k" * 16, b"j" * 16
KEYS = RequestStateKeys(KEY)
BINDING = b'[null,"tools/call",{}]'
NOW = 1_000.0

states = st.one_of(
    st.builds(ParkedState, session_id=st.text(), round_number=st.integers(0, 2**60)),
    st.builds(CarriedState, value=strategies.json_values),
)
principals = st.none() | st.builds(Principal, strategies.texts, strategies.texts)
names = strategies.texts.filter(lambda name: name not in NOT_BOUND)
params = st.dictionaries(names, strategies.json_values, max_size=4)


def refusal(text: object, binding: bytes = BINDING, now: float = NOW) -> str:
    """What is said of a state that is not opened."""
    with pytest.raises(McpError) as caught:
        open_sealed(KEYS, text, binding, now)
    assert caught.value.code == -32602
    assert caught.value.data is None
    return caught.value.message


NO_MATCH = "requestState does not match this request"


@given(state=states, binding=st.binary(), expires=st.floats(0, 1e12), early=st.floats(1e-3, 1e6))
def test_what_was_sealed_is_opened(
    state: ParkedState | CarriedState, binding: bytes, expires: float, early: float
) -> None:
    text = seal(KEYS, state, binding, expires)
    assume(expires - early < expires)
    assert open_sealed(KEYS, text, binding, expires - early) == state


@given(state=states)
def test_sealed_text_is_url_safe_ascii(state: ParkedState | CarriedState) -> None:
    text = seal(KEYS, state, BINDING, NOW)
    assert set(text) <= set(string.ascii_letters + string.digits + "-_=.")


SEALED = seal(KEYS, ParkedState(session_id="s" * 32, round_number=3), BINDING, NOW + 1)


@pytest.mark.parametrize("place", range(len(SEALED)))
def test_changed_text_is_refused(place: int) -> None:
    """Not one, by anything: there is one way only to write a state."""
    before, behind = SEALED[:place], SEALED[place + 1 :]
    changed = {before + chr(code) + behind for code in (*range(128), 0xE9, 0x1F600)}
    for text in changed - {SEALED}:
        assert refusal(text) == NO_MATCH
    for text in {before + behind, before + SEALED[place] * 2 + behind, before} - {SEALED}:
        assert refusal(text) == NO_MATCH


@given(text=st.text(), place=st.integers(0, len(SEALED)))
def test_extended_text_is_refused(text: str, place: int) -> None:
    assume(text)
    assert refusal(SEALED[:place] + text + SEALED[place:]) == NO_MATCH


@given(text=st.text() | st.text(alphabet="ab=._-").map(lambda text: text + "." + text))
def test_foreign_text_is_refused(text: str) -> None:
    assert refusal(text) == NO_MATCH


@pytest.mark.parametrize("wrong", [None, 1, True, [], {}, [SEALED], SEALED.encode()])
def test_value_that_is_not_text_is_refused(wrong: object) -> None:
    assert refusal(wrong) == NO_MATCH


def test_parts_of_two_do_not_make_one() -> None:
    other = seal(KEYS, CarriedState(value="admin"), BINDING, NOW + 1)
    ours, theirs = SEALED.split("."), other.split(".")
    assert refusal(f"{ours[0]}.{theirs[1]}") == NO_MATCH
    assert refusal(f"{theirs[0]}.{ours[1]}") == NO_MATCH
    assert refusal(f"{SEALED}.{theirs[1]}") == NO_MATCH


@given(state=states, one=st.binary(), other=st.binary())
def test_other_binding_is_refused(
    state: ParkedState | CarriedState, one: bytes, other: bytes
) -> None:
    assume(one != other)
    assert refusal(seal(KEYS, state, one, NOW + 1), other) == NO_MATCH


@given(state=states, late=st.floats(0, 1e6))
def test_expired_state_is_refused(state: ParkedState | CarriedState, late: float) -> None:
    text = seal(KEYS, state, BINDING, NOW)
    assert "expired" in refusal(text, now=NOW + late)
    # A client does not learn when a state expires that was not made for it.
    assert refusal(text, b"other", now=NOW + late) == NO_MATCH


def test_state_of_a_dropped_key_is_refused() -> None:
    keys = RequestStateKeys(KEY)
    state = CarriedState(value=[1])
    text = seal(keys, state, BINDING, NOW + 1)
    keys.rotate(OTHER_KEY)
    assert open_sealed(keys, text, BINDING, NOW) == state
    newer = seal(keys, state, BINDING, NOW + 1)
    assert refusal(newer) == NO_MATCH
    assert open_sealed(RequestStateKeys(OTHER_KEY), newer, BINDING, NOW) == state
    keys.rotate()
    with pytest.raises(McpError, match=NO_MATCH):
        open_sealed(keys, text, BINDING, NOW)
    assert open_sealed(keys, newer, BINDING, NOW) == state


def test_payload_is_readable_and_does_not_contain_the_request() -> None:
    """What clients carry is signed, and not secret; what they asked for they know themselves."""
    text = seal(KEYS, CarriedState(value="visible"), b"what was asked", NOW)
    payload = urlsafe_b64decode(text.partition(".")[0])
    assert b"visible" in payload
    assert b"asked" not in payload


def test_value_that_does_not_encode_raises() -> None:
    with pytest.raises(TypeError):
        seal(KEYS, CarriedState(value=object()), BINDING, NOW)


# What a state is bound to.


@given(principal=principals, method=strategies.texts, params=params, more=strategies.json_values)
def test_binding_ignores_params_that_change_each_round(
    principal: Principal | None, method: str, params: dict[str, Any], more: object
) -> None:
    bound = binding_of(principal, method, params)
    for name in NOT_BOUND:
        assert binding_of(principal, method, {**params, name: more}) == bound
    # The order of members means nothing in JSON.
    assert binding_of(principal, method, dict(reversed(params.items()))) == bound


Bound = tuple[Principal | None, str, dict[str, Any]]
bound_to = st.tuples(principals, strategies.texts, params)


def as_types(value: Any) -> Any:
    """The same value, in which 1, 1.0 and True differ: they do in JSON."""
    if isinstance(value, dict):
        return {key: as_types(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_types(one) for one in value]
    return (type(value), repr(value))


@given(one=bound_to, other=bound_to)
def test_binding_includes_all_other_params(one: Bound, other: Bound) -> None:
    same = (one[:2], as_types(one[2])) == (other[:2], as_types(other[2]))
    assert (binding_of(*one) == binding_of(*other)) is same


@given(params=params, name=names, one=strategies.json_values, other=strategies.json_values)
def test_binding_includes_each_param(
    params: dict[str, Any], name: str, one: object, other: object
) -> None:
    assume(as_types(one) != as_types(other))
    bound = binding_of(None, "m", {**params, name: one})
    assert binding_of(None, "m", {**params, name: other}) != bound
    assert binding_of(None, "m", {k: v for k, v in params.items() if k != name}) != bound


@pytest.mark.parametrize(
    "one, other",
    [
        (None, Principal("")),
        (Principal("a"), Principal("b")),
        (Principal("a", "x"), Principal("a", "y")),
        (Principal("a", "b"), Principal("b", "a")),
        (Principal('a","b'), Principal("a", "b")),
    ],
)
def test_binding_includes_the_principal(one: Principal | None, other: Principal) -> None:
    assert binding_of(one, "m", {}) != binding_of(other, "m", {})
    assert binding_of(other, "m", {}) == binding_of(Principal(other.subject, other.issuer), "m", {})


# Several processes.

LABELLED = seal(KEYS, ParkedState(session_id="n2.s", round_number=3), BINDING, NOW + 1, "n2")


@given(state=states, node=st.from_regex("[a-z0-9-]{1,32}", fullmatch=True))
def test_a_state_begins_with_the_node_that_made_it(
    state: ParkedState | CarriedState, node: str
) -> None:
    text = seal(KEYS, state, BINDING, NOW + 1, node)
    assert node_of(text) == node
    assert open_sealed(KEYS, text, BINDING, NOW) == state


@given(state=states)
def test_a_state_without_a_node_names_none(state: ParkedState | CarriedState) -> None:
    assert node_of(seal(KEYS, state, BINDING, NOW)) is None


@pytest.mark.parametrize("place", range(len(LABELLED)))
def test_changed_text_with_a_node_is_refused(place: int) -> None:
    before, behind = LABELLED[:place], LABELLED[place + 1 :]
    changed = {before + chr(code) + behind for code in range(128)} | {before + behind, before}
    for text in changed - {LABELLED}:
        assert refusal(text) == NO_MATCH


def test_the_node_of_a_state_cannot_be_exchanged() -> None:
    without = seal(KEYS, ParkedState(session_id="n2.s", round_number=3), BINDING, NOW + 1)
    for text in (f"n3.{without}", f"n2.{without}", LABELLED.partition(".")[2], f"n2.{LABELLED}"):
        assert refusal(text) == NO_MATCH
