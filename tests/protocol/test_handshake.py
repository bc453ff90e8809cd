from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from tests import strategies
from tests.strategies import Json
from trio_mcp_session import ClientInfo, McpError, ServerInfo
from trio_mcp_session.protocol.handshake import (
    Handshake,
    initialize_result,
    not_initialized,
    read_initialize,
)
from trio_mcp_session.protocol.jsonrpc import encode_result
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS

GOOD: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"sampling": {}, "roots": {"listChanged": True}},
    "clientInfo": {
        "name": "demo",
        "version": "1.2",
        "title": "Demo",
        "icons": [{"src": "https://client.example/icon.png"}],
    },
}


def changed(path: str, *value: Json) -> dict[str, Any]:
    """Return good parameters with one member replaced, or without it."""
    params: dict[str, Any] = json.loads(json.dumps(GOOD))
    *parents, name = path.split(".")
    inner = params
    for parent in parents:
        inner = inner[parent]
    del inner[name]
    if value:
        (inner[name],) = value
    return params


def test_initialize_params_are_read() -> None:
    handshake = read_initialize(GOOD)
    assert handshake == Handshake(
        revision=HANDSHAKE_REVISIONS["2025-06-18"],
        client=ClientInfo(
            client_id="demo",
            client_version="1.2",
            capabilities={"sampling": {}, "roots": {"listChanged": True}},
            metadata={"title": "Demo", "icons": [{"src": "https://client.example/icon.png"}]},
        ),
    )
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        handshake.client = ClientInfo()  # type: ignore[misc]  # that is the point


def test_minimal_initialize_params_are_read() -> None:
    handshake = read_initialize(
        {
            "protocolVersion": "2024-11-05",
            "capabilities": {},
            "clientInfo": {"name": "", "version": ""},
        }
    )
    assert handshake.revision.version == "2024-11-05"
    assert handshake.client == ClientInfo()


@pytest.mark.parametrize("meta", [{}, {"progressToken": 0}, None])
def test_unknown_members_are_ignored(meta: Json) -> None:
    # Some clients send an empty `_meta` with everything.
    assert read_initialize(GOOD | {"_meta": meta, "other": 1}) == read_initialize(GOOD)


@pytest.mark.parametrize("version", ["2026-07-28", "", "1.0"])
def test_an_unknown_revision_in_the_handshake_is_not_an_error(version: str) -> None:
    assert read_initialize(changed("protocolVersion", version)).revision.version == "2025-11-25"


NO_TEXT: list[Json] = [None, 1, True, [], {"SECRET": 1}]
NO_OBJECT: list[Json] = [None, 1, True, [], "SECRET"]
WRONG = {
    "protocolVersion": NO_TEXT,
    "capabilities": NO_OBJECT,
    "clientInfo": [*NO_OBJECT, {"SECRET": 1}],
    "clientInfo.name": NO_TEXT,
    "clientInfo.version": NO_TEXT,
}


@pytest.mark.parametrize("path", WRONG)
def test_missing_member_is_invalid_params(path: str) -> None:
    with pytest.raises(McpError) as caught:
        read_initialize(changed(path))
    assert caught.value.code == -32602
    assert caught.value.message.startswith("Invalid initialize parameters: ")
    assert path.rpartition(".")[2] in caught.value.message


@pytest.mark.parametrize(
    "path, value", [(path, value) for path, values in WRONG.items() for value in values]
)
def test_member_of_wrong_type_is_invalid_params(path: str, value: Json) -> None:
    with pytest.raises(McpError) as caught:
        read_initialize(changed(path, value))
    assert caught.value.code == -32602
    # It goes into logs as well: no text of the peer's.
    assert "SECRET" not in caught.value.message


@given(
    st.one_of(
        strategies.params,
        st.fixed_dictionaries(
            {},
            optional={
                "protocolVersion": st.one_of(
                    st.sampled_from(list(HANDSHAKE_REVISIONS)), strategies.json_values
                ),
                "capabilities": st.one_of(strategies.json_objects, strategies.json_values),
                "clientInfo": st.one_of(
                    st.fixed_dictionaries(
                        {"name": strategies.texts, "version": strategies.texts},
                        optional={"title": strategies.json_values},
                    ),
                    strategies.json_values,
                ),
            },
        ),
    )
)
def test_any_params_are_read_or_invalid_params(params: dict[str, Json]) -> None:
    read: Handshake | McpError
    try:
        read = read_initialize(params)
    except McpError as error:
        read = error
    if isinstance(read, McpError):
        assert read.code == -32602
    else:
        assert read.revision.version in HANDSHAKE_REVISIONS
        assert read.client.capabilities == params["capabilities"]
        assert params["clientInfo"] == {
            "name": read.client.client_id,
            "version": read.client.client_version,
            **read.client.metadata,
        }


@pytest.mark.parametrize("version", HANDSHAKE_REVISIONS)
def test_initialize_result_of_each_revision(version: str) -> None:
    server = ServerInfo(name="demo", version="3", title="The demo")
    capabilities = MappingProxyType({"tools": MappingProxyType({"listChanged": True})})
    result = initialize_result(HANDSHAKE_REVISIONS[version], server, capabilities, "Be kind.")
    assert json.loads(encode_result(1, result))["result"] == {
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {
            "name": "demo",
            "version": "3",
            # Older clients do not know titles.
            **({"title": "The demo"} if version >= "2025-06-18" else {}),
        },
        "instructions": "Be kind.",
    }


def test_missing_title_and_instructions_are_not_sent() -> None:
    server = ServerInfo(name="demo", version="3")
    revision = HANDSHAKE_REVISIONS["2025-11-25"]
    assert initialize_result(revision, server, {}, None) == {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "demo", "version": "3"},
    }
    # Said, although there is nothing in it.
    assert initialize_result(revision, server, {}, "")["instructions"] == ""


def test_a_request_before_the_handshake_is_told_both_ways_to_begin() -> None:
    error = not_initialized()
    assert error.code == -32602
    assert "initialize" in error.message
    assert "_meta" in error.message
    assert error.data == {"supported": list(HANDSHAKE_REVISIONS)}
