"""Node labels, in configurations and in names."""

from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_session import SessionConfig
from trio_mcp_session.core.ids import ID_BYTES, MAX_ID_LENGTH, beginning_of, new_session_id
from trio_mcp_session.core.node import node_of


@pytest.mark.parametrize("label", [None, "n", "n2", "mcp-0", "0", "-", "x" * 32])
def test_labels_of_a_node(label: str | None) -> None:
    assert SessionConfig(node=label).node == label


@pytest.mark.parametrize("label", ["", "N2", "n_2", "n.2", "n 2", "n2\n", "é", "x" * 33, 2, b"n2"])
def test_values_that_are_not_a_label(label: Any) -> None:
    with pytest.raises(ValueError, match="node must be 1 to 32 small letters, digits and hyphens"):
        SessionConfig(node=label)


def test_no_label_by_default() -> None:
    assert SessionConfig().node is None


@pytest.mark.parametrize("prefix", ["", "brw", "x" * 16])
@pytest.mark.parametrize("node", ["n2", "mcp-0", "-" * 32])
def test_the_label_in_an_id_is_found(prefix: str, node: str) -> None:
    made = new_session_id(prefix, node)
    assert node_of(made) == node
    assert len(made) <= MAX_ID_LENGTH
    head, _, random = made.partition(".")
    assert head == (f"{prefix}_{node}" if prefix else node)
    assert len(random) == len(new_session_id()) == ID_BYTES * 4 // 3


@pytest.mark.parametrize("prefix", ["", "brw"])
def test_ids_without_a_label_have_none(prefix: str) -> None:
    assert all(node_of(new_session_id(prefix)) is None for _ in range(100))


@pytest.mark.parametrize(
    "name", ["", ".", "n2", "n2_", ".n2", "brw_.x", "N2.x", "é.x", "a b.x", "x" * 33 + ".x"]
)
def test_texts_without_a_label(name: str) -> None:
    assert node_of(name) is None


def test_the_beginning_of_an_id_does_not_give_the_whole_id() -> None:
    assert beginning_of("0123456789") == "012345"
    assert beginning_of("n2.0123456789") == "n2.012345"
    assert beginning_of("brw_mcp-0.0123456789") == "brw_mcp-0.012345"
    assert beginning_of("") == ""
