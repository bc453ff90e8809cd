from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from tests import strategies
from trio_mcp_session import ClientInfo, McpError
from trio_mcp_session.core.log_level import SEVERITY
from trio_mcp_session.protocol import envelope
from trio_mcp_session.protocol.envelope import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PROTOCOL_VERSION,
    Envelope,
    is_modern,
    missing_envelope,
    read_envelope,
    unsupported_version,
)
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, V2026_07_28

LATEST = "2026-07-28"
WHOLE: dict[str, Any] = {PROTOCOL_VERSION: LATEST, CLIENT_CAPABILITIES: {}}


def params(**meta: Any) -> dict[str, Any]:
    return {"_meta": {**WHOLE, **meta}}


def without(key: str) -> dict[str, Any]:
    return {"_meta": {name: value for name, value in WHOLE.items() if name != key}}


def test_meta_names_of_the_specification() -> None:
    names = {name for name in vars(envelope).values() if str(name).startswith(envelope.PREFIX)}
    assert names == {
        "io.modelcontextprotocol/",
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/clientInfo",
        "io.modelcontextprotocol/logLevel",
        "io.modelcontextprotocol/serverInfo",
        "io.modelcontextprotocol/subscriptionId",
    }


# Which requests are modern.


@pytest.mark.parametrize(
    "params, modern",
    [
        (params(), True),
        # What it is set to is another question: a half-built envelope is a modern error.
        ({"_meta": {PROTOCOL_VERSION: LATEST}}, True),
        ({"_meta": {PROTOCOL_VERSION: "2025-11-25"}}, True),
        ({"_meta": {PROTOCOL_VERSION: None}}, True),
        ({"_meta": {PROTOCOL_VERSION: 7}}, True),
        # Everything else is of the years before, whatever else it says.
        (without(PROTOCOL_VERSION), False),
        ({"_meta": {"protocolVersion": LATEST}}, False),
        ({"_meta": {PROTOCOL_VERSION.upper(): LATEST}}, False),
        ({"_meta": {"progressToken": 1, LOG_LEVEL: "info", CLIENT_INFO: {}}}, False),
        ({PROTOCOL_VERSION: LATEST, CLIENT_CAPABILITIES: {}}, False),
        ({"protocolVersion": LATEST, "_meta": {}}, False),
        ({"_meta": [PROTOCOL_VERSION]}, False),
        ({"_meta": PROTOCOL_VERSION}, False),
        ({"_meta": None}, False),
        ({}, False),
    ],
)
def test_the_version_alone_makes_a_request_modern(params: dict[str, Any], modern: bool) -> None:
    assert is_modern(params) is modern


@given(strategies.json_objects, strategies.json_values)
@example({}, {})
@example({}, [])
def test_nothing_but_the_version_makes_a_request_modern(
    params: dict[str, Any], meta: object
) -> None:
    assert not is_modern({**params, "_meta": meta})
    if isinstance(meta, dict):
        assert is_modern({**params, "_meta": {**meta, PROTOCOL_VERSION: None}})


# What an envelope says.


def test_read_complete_envelope() -> None:
    capabilities = {"elicitation": {}, "x/y": {"a": [1]}}
    read = read_envelope(
        params(
            **{
                CLIENT_CAPABILITIES: capabilities,
                CLIENT_INFO: {"name": "c", "version": "9", "title": "See", "icons": []},
                LOG_LEVEL: "warning",
                "progressToken": "p",
            }
        )
    )
    assert (read.version, read.revision) == (LATEST, V2026_07_28)
    assert read.log_severity == SEVERITY["warning"]
    assert read.client == ClientInfo(
        client_id="c",
        client_version="9",
        capabilities=capabilities,
        metadata={"title": "See", "icons": []},
    )
    assert read.client is read.client


def test_read_minimal_envelope() -> None:
    read = read_envelope(params())
    assert read == Envelope(version=LATEST, capabilities={}, info=None, log_severity=None)
    assert read.client == ClientInfo()


NO_OBJECTS: list[Any] = [None, True, 0, "text", [], ["name"]]
NO_TEXT: list[Any] = [None, True, 7, 1.5, [], ["2026-07-28"], {}]


@pytest.mark.parametrize(
    "params",
    [
        {},
        *({"_meta": meta} for meta in NO_OBJECTS),
        {"_meta": {}},
        without(PROTOCOL_VERSION),
        without(CLIENT_CAPABILITIES),
        *(params(**{PROTOCOL_VERSION: version}) for version in NO_TEXT),
        *(params(**{CLIENT_CAPABILITIES: declared}) for declared in NO_OBJECTS),
    ],
)
def test_incomplete_envelope_is_invalid_params(params: dict[str, Any]) -> None:
    with pytest.raises(McpError) as caught:
        read_envelope(params)
    assert caught.value.code == -32602
    assert PROTOCOL_VERSION in caught.value.message
    assert CLIENT_CAPABILITIES in caught.value.message
    # A client that probes learns what it could say instead.
    assert caught.value.data == {"supported": [LATEST]}
    assert str(caught.value) == str(missing_envelope())


@pytest.mark.parametrize("info", [*NO_OBJECTS, {}, {"name": 7, "version": None}])
def test_any_client_info_is_accepted(info: object) -> None:
    client = read_envelope(params(**{CLIENT_INFO: info})).client
    assert (client.client_id, client.client_version, client.metadata) == ("", "", {})


def test_reading_does_not_change_the_params() -> None:
    info = {"name": "c", "version": "9", "title": "See"}
    message = params(**{CLIENT_INFO: info})
    read_envelope(message)
    assert message["_meta"][CLIENT_INFO] == {"name": "c", "version": "9", "title": "See"}


# The level of log messages.


@pytest.mark.parametrize("level", SEVERITY)
def test_each_log_level_is_read(level: str) -> None:
    assert read_envelope(params(**{LOG_LEVEL: level})).log_severity == SEVERITY[level]


def test_no_log_level_means_no_log_messages() -> None:
    assert read_envelope(params()).log_severity is None
    assert read_envelope(params(**{LOG_LEVEL: None})).log_severity is None


@pytest.mark.parametrize("level", ["", "loud", "INFO", "warn", 7, True, [], ["info"], {}])
def test_unknown_log_level_is_invalid_params(level: object) -> None:
    with pytest.raises(McpError, match=r"logLevel must be one of debug, .* emergency") as caught:
        read_envelope(params(**{LOG_LEVEL: level}))
    assert caught.value.code == -32602


# The version.


@pytest.mark.parametrize(
    "version", ["", "latest", "2026-07-29", " 2026-07-28", "1900-01-01", *HANDSHAKE_REVISIONS]
)
def test_unsupported_version_error(version: str) -> None:
    """A revision with a handshake has no stateless requests."""
    read = read_envelope(params(**{PROTOCOL_VERSION: version}))
    assert read.version == version
    with pytest.raises(McpError) as caught:
        _ = read.revision
    assert caught.value.code == -32022
    assert caught.value.message == "Unsupported protocol version"
    assert caught.value.data == {"supported": [LATEST], "requested": version}


def test_unsupported_version_error_shortens_the_version() -> None:
    for length in (63, 64, 65, 100_000):
        data = unsupported_version("x" * length).data
        assert data["requested"] == "x" * min(length, 64)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            PROTOCOL_VERSION: st.one_of(st.just(LATEST), strategies.json_values),
            CLIENT_CAPABILITIES: st.one_of(st.just({}), strategies.json_values),
            CLIENT_INFO: strategies.json_values,
            LOG_LEVEL: st.one_of(st.sampled_from(sorted(SEVERITY)), strategies.json_values),
        },
    )
)
@example(WHOLE)
@example({})
def test_any_params_are_read_or_invalid_params(meta: dict[str, Any]) -> None:
    try:
        read = read_envelope({"_meta": meta})
    except McpError as error:
        assert error.code == -32602  # noqa: PT017  # either is fine
    else:
        assert (read.version, read.client.capabilities) == (
            meta[PROTOCOL_VERSION],
            meta[CLIENT_CAPABILITIES],
        )
