from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_session import CapabilityMissing, ClientInfo
from trio_mcp_session.protocol.capabilities import NEEDED, require


def test_capability_of_each_question() -> None:
    assert NEEDED == {
        "elicitation/create": "elicitation",
        "sampling/createMessage": "sampling",
        "roots/list": "roots",
    }


@pytest.mark.parametrize("method, capability", list(NEEDED.items()))
def test_a_question_needs_its_capability_and_no_other(method: str, capability: str) -> None:
    # An empty object declares it.
    require(ClientInfo(capabilities={capability: {}}), method)
    others: dict[str, Any] = {other: {} for other in NEEDED.values() if other != capability}
    for client in (ClientInfo(capabilities=others), ClientInfo(), None):
        with pytest.raises(
            CapabilityMissing, match=f"did not declare the capability {capability}"
        ) as caught:
            require(client, method)
        assert caught.value.capability == capability


@pytest.mark.parametrize("declared", [{}, {"form": {}}, {"form": {}, "url": {}}, True])
def test_empty_elicitation_capability_means_forms(declared: Any) -> None:
    require(ClientInfo(capabilities={"elicitation": declared}), "elicitation/create")


@pytest.mark.parametrize("declared", [{"url": {}}, None])
def test_elicitation_without_forms_is_missing(declared: Any) -> None:
    with pytest.raises(CapabilityMissing, match="elicitation"):
        require(ClientInfo(capabilities={"elicitation": declared}), "elicitation/create")


@pytest.mark.parametrize("client", [None, ClientInfo()])
def test_ping_needs_no_capability(client: ClientInfo | None) -> None:
    require(client, "ping")
