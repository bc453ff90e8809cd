from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_session import CapabilityMissing, ClientInfo
from trio_mcp_session.protocol.capabilities import (
    NEEDED,
    as_object,
    is_known,
    needed,
    require,
)
from trio_mcp_session.protocol.revisions import (
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
    Revision,
)


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


URL = {"mode": "url", "message": "", "url": "https://x/"}


@pytest.mark.parametrize(
    "method, params, capability",
    [
        ("elicitation/create", URL, "elicitation.url"),
        ("elicitation/create", {"mode": "form"}, "elicitation"),
        ("sampling/createMessage", {"messages": []}, "sampling"),
        ("sampling/createMessage", {"tools": []}, "sampling.tools"),
        ("sampling/createMessage", {"toolChoice": {}}, "sampling.tools"),
        ("roots/list", {"tools": [], "mode": "url"}, "roots"),
        ("ping", {"mode": "url"}, None),
    ],
)
def test_parameters_can_need_a_part_of_a_capability(
    method: str, params: dict[str, Any], capability: str | None
) -> None:
    assert needed(method, params) == capability


@pytest.mark.parametrize("declared", [{"url": {}}, {"form": {}, "url": {}}, {"url": True}])
def test_a_part_of_a_capability_is_declared(declared: Any) -> None:
    require(ClientInfo(capabilities={"elicitation": declared}), "elicitation/create", URL)


@pytest.mark.parametrize("declared", [{}, {"form": {}}, {"url": None}, {"url": False}, True, None])
def test_a_part_of_a_capability_is_missing(declared: Any) -> None:
    with pytest.raises(CapabilityMissing, match=r"the capability elicitation\.url"):
        require(ClientInfo(capabilities={"elicitation": declared}), "elicitation/create", URL)


@pytest.mark.parametrize(
    "capability, without, with_it",
    [
        ("elicitation", V2025_03_26, V2025_06_18),
        ("elicitation.url", V2025_06_18, V2025_11_25),
        ("sampling.tools", V2025_06_18, V2026_07_28),
    ],
)
def test_revisions_know_capabilities(capability: str, without: Revision, with_it: Revision) -> None:
    assert is_known(capability, with_it)
    assert not is_known(capability, without)
    assert not is_known(capability, None)
    assert is_known("roots", without)
    assert is_known("sampling", None)


def test_a_capability_as_the_object_that_declares_it() -> None:
    assert as_object("roots") == {"roots": {}}
    assert as_object("elicitation.url") == {"elicitation": {"url": {}}}
