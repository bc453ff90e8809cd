from __future__ import annotations

import re

from trio_mcp_session import TerminationReason


def test_reasons() -> None:
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


def test_names_and_words_say_the_same() -> None:
    # Words for people and logs; peers and metrics see them too.
    for reason in TerminationReason:
        assert reason.name.lower().replace("_", " ") == reason.value
        assert re.fullmatch("[a-z ]+", reason.value)
