"""Which revisions a server serves, and what it says of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest

from trio_mcp_session import Eras, McpError, Router
from trio_mcp_session.protocol.envelope import missing_envelope
from trio_mcp_session.protocol.eras import (
    BOTH,
    ERAS,
    LEGACY,
    MODERN,
    ServedEras,
    check_eras,
    served_eras,
)
from trio_mcp_session.protocol.handshake import not_initialized
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, STATELESS_REVISIONS

SESSIONS = list(HANDSHAKE_REVISIONS)
REQUESTS = list(STATELESS_REVISIONS)


def test_eras_values() -> None:
    assert get_args(Eras) == ERAS
    for value in ERAS:
        check_eras(value)


@pytest.mark.parametrize("value", ["", "Both", "2026-07-28", None, 1])
def test_unknown_eras_value_is_refused(value: Any) -> None:
    told = f"eras must be 'both', 'legacy' or 'modern', not {value!r}"
    with pytest.raises(ValueError, match=told):
        check_eras(value)
    with pytest.raises(ValueError, match=told):
        Router("r", eras=value)


def test_eras_argument_overrides_the_application() -> None:
    by_name = {"both": BOTH, "legacy": LEGACY, "modern": MODERN}
    for said in ERAS:
        router = Router("r", eras=said)
        assert router.eras == said
        assert served_eras(router) is by_name[said]
        for argument in ERAS:
            assert served_eras(router, argument) is by_name[argument]
    assert Router("r").eras == "both"


@pytest.mark.parametrize("application", [None, object(), SimpleNamespace(eras=None)])
def test_application_without_eras_serves_both(application: object) -> None:
    assert served_eras(application) is BOTH
    assert served_eras(application, "legacy") is LEGACY


def test_application_with_invalid_eras_is_refused() -> None:
    with pytest.raises(ValueError, match="eras must be"):
        served_eras(SimpleNamespace(eras=2), None)
    with pytest.raises(ValueError, match="eras must be"):
        served_eras(Router("r"), "all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "eras, supported, hint",
    [
        (BOTH, REQUESTS, ""),
        (LEGACY, SESSIONS, ": this server needs a session, send initialize"),
        (
            MODERN,
            REQUESTS,
            ": this server has no sessions, each request has to name 2026-07-28 in params._meta",
        ),
    ],
    ids=ERAS,
)
def test_unsupported_revision_error_of_each_era(
    eras: ServedEras, supported: list[str], hint: str
) -> None:
    error = eras.unsupported("x" * 100)
    assert (error.code, error.message) == (-32022, f"Unsupported protocol version{hint}")
    assert error.data == {"supported": supported, "requested": "x" * 64}
    # A header may belong to a session: a client of either era can read what it can use.
    error = eras.unsupported_header("x" * 100)
    assert (error.code, error.message) == (-32022, f"Unsupported protocol version{hint}")
    served = [*SESSIONS * eras.legacy, *REQUESTS * eras.modern]
    assert error.data == {"supported": served, "requested": "x" * 64}


@pytest.mark.parametrize("eras", [BOTH, LEGACY, MODERN], ids=ERAS)
@pytest.mark.parametrize("version", [*SESSIONS, *REQUESTS, "1900-01-01", ""])
def test_check_stateless_of_each_era(eras: ServedEras, version: str) -> None:
    if eras.modern and version in REQUESTS:
        eras.check_stateless(version)
        return
    with pytest.raises(McpError) as caught:
        eras.check_stateless(version)
    assert (caught.value.code, caught.value.data["requested"]) == (-32022, version)


def test_no_session_error_of_each_era() -> None:
    either = BOTH.no_session()
    assert (either.code, either.data) == (-32602, {"supported": SESSIONS})
    assert "initialize" in either.message
    assert "params._meta" in either.message
    session = LEGACY.no_session()
    assert (session.code, session.data) == (-32602, {"supported": SESSIONS})
    assert session.message == "No session: send initialize first"
    envelope = MODERN.no_session()
    assert (envelope.code, envelope.data) == (-32602, {"supported": REQUESTS})
    assert str(envelope) == str(missing_envelope())
    assert str(not_initialized()) == str(either)


@pytest.mark.parametrize(
    "method, params, code, requested",
    [
        ("initialize", {"protocolVersion": "2025-11-25"}, -32022, "2025-11-25"),
        ("initialize", {"protocolVersion": "2026-07-28"}, -32022, "2026-07-28"),
        ("initialize", {"protocolVersion": 1}, -32602, None),
        ("initialize", {}, -32602, None),
        ("ping", {"protocolVersion": "2025-11-25"}, -32602, None),
    ],
)
def test_no_envelope_error_of_a_modern_server(
    method: str, params: dict[str, Any], code: int, requested: str | None
) -> None:
    error = MODERN.no_envelope(Request(1, method, params))
    assert (error.code, error.data["supported"]) == (code, REQUESTS)
    assert error.data.get("requested") == requested
