from __future__ import annotations

import attrs
import pytest

from trio_mcp_session import ClientInfo, Principal, ServerInfo, Transport


def test_a_client_that_said_nothing() -> None:
    client = ClientInfo()
    assert (client.client_id, client.client_version) == ("", "")
    assert client.capabilities == client.metadata == {}
    # Each has its own, in case that somebody fills them.
    assert ClientInfo().capabilities is not client.capabilities


def test_a_principal_is_its_subject_and_its_issuer() -> None:
    assert Principal("ada") == Principal("ada", "")
    assert Principal("ada") != Principal("ada", "https://issuer.example")
    assert Principal("ada") != Principal("bob")
    assert len({Principal("ada"), Principal("ada"), Principal("bob")}) == 2


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
