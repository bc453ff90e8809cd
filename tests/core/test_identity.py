from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import ClientInfo, Principal, ServerInfo, SessionId, Transport
from trio_mcp_session.core.identity import principal_of_connection


def test_a_client_that_said_nothing() -> None:
    client = ClientInfo()
    assert (client.client_id, client.client_version) == ("", "")
    assert client.capabilities == client.metadata == {}
    # Each has its own, in case that it is filled.
    assert ClientInfo().capabilities is not client.capabilities


def test_a_principal_is_its_subject_and_its_issuer() -> None:
    assert Principal("ada") == Principal("ada", "")
    assert Principal("ada") != Principal("ada", "https://issuer.example")
    assert Principal("ada") != Principal("bob")
    assert len({Principal("ada"), Principal("ada"), Principal("bob")}) == 2


def test_a_connection_is_a_principal_of_its_own() -> None:
    one, other = SessionId("one"), SessionId("other")
    assert principal_of_connection(one) == principal_of_connection(one)
    assert principal_of_connection(one) != principal_of_connection(other)
    assert not principal_of_connection(one).subject.startswith("one")


def test_an_authenticated_principal_never_equals_one_of_a_connection() -> None:
    """Whatever subject a token names: another issuer vouches for it."""
    implied = principal_of_connection(SessionId("one"))
    assert implied.issuer != ""
    assert Principal(implied.subject) != implied


@given(st.text("abcXYZ09-_", min_size=1, max_size=64))
def test_the_id_cannot_be_told_from_the_principal(session_id: str) -> None:
    """Principals are logged and shown; the id may be a secret."""
    implied = principal_of_connection(SessionId(session_id))
    assert len(implied.subject) == 64
    if len(session_id) > 8:
        assert session_id not in repr(implied)


def test_descriptions_have_defaults() -> None:
    assert Transport("stdio") == Transport("stdio", "")
    assert ServerInfo(name="demo", version="1").title is None


@pytest.mark.parametrize(
    "value",
    [ClientInfo(), ServerInfo(name="demo", version="1"), Principal("ada"), Transport("stdio")],
    ids=lambda value: type(value).__name__,
)
def test_identities_do_not_change(value: attrs.AttrsInstance) -> None:
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, "other")


@pytest.mark.parametrize("one", [ClientInfo, ServerInfo])
def test_fields_are_named(one: type) -> None:
    with pytest.raises(TypeError):
        one("demo", "1")


def test_claims_and_scopes_do_not_distinguish_principals() -> None:
    plain = Principal("ada", "id")
    told = Principal("ada", "id", claims={"role": ["admin"]}, scopes="a b")
    assert told == plain
    assert hash(told) == hash(plain)
    assert repr(told) == repr(plain)
    assert told.claims == {"role": ("admin",)}
    assert told.scopes == {"a", "b"}
    assert (dict(plain.claims), plain.scopes) == ({}, frozenset())


def test_the_identity_of_a_principal_has_neither_claims_nor_scopes() -> None:
    plain = Principal("ada", "id")
    assert plain.identity is plain
    for told in (Principal("ada", "id", claims={"a": 1}), Principal("ada", "id", scopes=["a"])):
        assert told.identity == plain
        assert (dict(told.identity.claims), told.identity.scopes) == ({}, frozenset())
