"""Whose fault an error is."""

from __future__ import annotations

import pytest

from trio_mcp_session import TerminationReason
from trio_mcp_session.telemetry.error_types import error_type_of_session, fault_of


@pytest.mark.parametrize(
    "code, is_ours",
    [
        (-32603, True),
        (-32000, True),
        (-32099, True),
        (-32100, False),
        (-31999, False),
        (-32700, False),
        (-32600, False),
        (-32601, False),
        (-32602, False),
        (-32002, False),
        (-32020, False),
        (-32021, False),
        (-32022, False),
        (-32042, False),
        (7, False),
    ],
)
def test_only_some_codes_are_the_fault_of_the_server(code: int, is_ours: bool) -> None:
    fault = fault_of(code, is_tool_error=False)
    assert fault is not None
    assert (fault.type, fault.is_ours) == (str(code), is_ours)


@pytest.mark.parametrize("reason", TerminationReason)
def test_few_reasons_are_errors_of_a_session(reason: TerminationReason) -> None:
    errors = {"crashed", "unresponsive", "transport_failed", "handshake_timeout"}
    name = reason.name.lower()
    assert error_type_of_session(reason) == (name if name in errors else None)
