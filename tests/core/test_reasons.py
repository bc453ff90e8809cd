from __future__ import annotations

import re

from trio_mcp_session import TerminationReason


def test_termination_reasons_and_their_values() -> None:
    assert {reason.value for reason in TerminationReason} == {
        "client closed",
        "idle",
        "lifetime",
        "handshake timeout",
        "evicted",
        "replaced",
        "revoked",
        "crashed",
        "unresponsive",
        "transport failed",
        "requested",
        "cancelled",
        "shutdown",
    }


def test_names_and_values_of_reasons_agree() -> None:
    # Words for people and logs; peers and metrics see them too.
    for reason in TerminationReason:
        assert reason.name.lower().replace("_", " ") == reason.value
        assert re.fullmatch("[a-z ]+", reason.value)
