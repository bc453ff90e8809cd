"""Read-only copies of JSON values."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest

from trio_mcp_session.core.frozen_mapping import EMPTY, FrozenMapping, frozen


def test_a_frozen_mapping_has_the_items_of_its_source() -> None:
    source = {"a": 1, "b": None}
    copied = frozen(source)
    source["c"] = 3
    assert copied == {"a": 1, "b": None}
    assert (list(copied), len(copied), copied["a"]) == (["a", "b"], 2, 1)
    assert repr(copied) == "FrozenMapping({'a': 1, 'b': None})"
    assert not EMPTY


def test_a_frozen_mapping_is_read_only_to_the_last_level() -> None:
    value = frozen({"a": {"b": [{"c": []}]}})
    assert value == {"a": {"b": ({"c": ()},)}}
    for level in (value, value["a"], value["a"]["b"][0]):
        assert isinstance(level, FrozenMapping)
        with pytest.raises(TypeError):
            cast("Any", level)["x"] = 1


def test_other_objects_stay_as_they_are() -> None:
    account = object()
    assert frozen({"account": account})["account"] is account


def test_a_frozen_mapping_is_not_copied_again() -> None:
    value = frozen({"a": {}})
    assert frozen(value) is value
    assert frozen({"nested": value})["nested"] == value


def test_a_frozen_mapping_can_be_copied_and_pickled() -> None:
    value = frozen({"a": {"b": [1]}})
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301  # its own bytes
