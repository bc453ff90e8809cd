from __future__ import annotations

from math import inf, nan
from types import MappingProxyType
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given

from tests import strategies
from trio_mcp_session import CacheHint, ServerInfo
from trio_mcp_session.protocol.jsonrpc import encode_result
from trio_mcp_session.protocol.methods import CACHEABLE
from trio_mcp_session.protocol.results import NO_CACHE, complete_result, describe, translate_code

SERVER = ServerInfo(name="s", version="1")
INFO = {"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}}
PLAIN = {"resultType": "complete", "_meta": INFO}


class Struct(msgspec.Struct, rename="camel"):
    page_size: int


@attrs.frozen
class Attrs:
    uri: str
    inner: Any = None


# What a result has besides its own.


@pytest.mark.parametrize(
    "result, members",
    [
        (None, {}),
        ({}, {}),
        ({"a": [1]}, {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Attrs("x:"), {"uri": "x:", "inner": None}),
        (Attrs("x:", Attrs("y:")), {"uri": "x:", "inner": {"uri": "y:", "inner": None}}),
        (Attrs("x:", 10**30), {"uri": "x:", "inner": 10**30}),
        (Struct(3), {"pageSize": 3}),
    ],
)
def test_result_gets_type_and_server_info(result: object, members: dict[str, Any]) -> None:
    assert complete_result("tools/call", result, SERVER) == {**PLAIN, **members}


@pytest.mark.parametrize("result", ["text", 7, 1.5, True, [], [1], (1, 2)])
def test_result_that_is_not_an_object_raises(result: object) -> None:
    with pytest.raises(TypeError, match=f"a result must be an object, not {type(result).__name__}"):
        complete_result("tools/call", result, SERVER)


def test_members_of_the_handler_are_kept() -> None:
    said = {
        "resultType": "input_required",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "other"}, "x/y": 1},
    }
    assert complete_result("tools/call", said, SERVER) == said
    assert complete_result("tools/call", {"_meta": {"x/y": 1}}, SERVER) == {
        "resultType": "complete",
        "_meta": {**INFO, "x/y": 1},
    }


@pytest.mark.parametrize("meta", [None, [], "text", 7])
def test_meta_that_is_not_an_object_is_replaced(meta: object) -> None:
    assert complete_result("tools/call", {"_meta": meta}, SERVER) == PLAIN


@given(strategies.json_objects)
def test_handlers_result_is_not_changed(said: dict[str, Any]) -> None:
    before = encode_result(1, said)
    completed = complete_result("tools/list", said, SERVER)
    assert encode_result(1, said) == before
    assert {name: completed[name] for name in said if name != "_meta"} == {
        name: value for name, value in said.items() if name != "_meta"
    }


# The server that answers.


def test_server_info_members() -> None:
    assert describe(SERVER) == {"name": "s", "version": "1"}
    titled = ServerInfo(name="s", version="1", title="See")
    assert describe(titled) == {"name": "s", "version": "1", "title": "See"}


# How long a result may be kept.


def test_cacheable_methods() -> None:
    assert set(CACHEABLE) == {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "skills/list",
        "skills/get",
    }


@pytest.mark.parametrize("method", sorted(CACHEABLE))
def test_cacheable_result_has_ttl_and_scope(method: str) -> None:
    assert complete_result(method, None, SERVER) == {**PLAIN, "ttlMs": 0, "cacheScope": "private"}
    hint = CacheHint(max_age=1.5, scope="public")
    completed = complete_result(method, None, SERVER, hint)
    assert completed == {**PLAIN, "ttlMs": 1500, "cacheScope": "public"}
    assert type(completed["ttlMs"]) is int
    # The handler may know better for a single result.
    said = {"ttlMs": 7, "cacheScope": "private"}
    assert complete_result(method, said, SERVER, hint) == {**PLAIN, **said}
    assert complete_result(method, {"ttlMs": 7}, SERVER, hint)["cacheScope"] == "public"


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "completion/complete", "x/y"])
def test_other_results_have_no_ttl(method: str) -> None:
    assert complete_result(method, None, SERVER, CacheHint(max_age=60)) == PLAIN


def test_input_required_result_has_no_ttl() -> None:
    said = {"resultType": "input_required", "requestState": "s"}
    completed = complete_result("resources/read", said, SERVER, CacheHint(max_age=60))
    assert completed == {**said, "_meta": INFO}


@pytest.mark.parametrize("max_age, milliseconds", [(0, 0), (0.0004, 0), (0.25, 250), (3600, 3.6e6)])
def test_max_age_is_sent_in_milliseconds(max_age: float, milliseconds: int) -> None:
    completed = complete_result("tools/list", {}, SERVER, CacheHint(max_age=max_age))
    assert completed["ttlMs"] == milliseconds


def test_invalid_cache_hint_is_refused() -> None:
    assert CacheHint() == NO_CACHE == CacheHint(max_age=0, scope="private")
    assert CacheHint(max_age=2**31 - 1).max_age == 2**31 - 1
    wrong: list[Any] = [-1, -0.001, inf, -inf, nan, 2**31, True, False, "1", None]
    for max_age in wrong:
        with pytest.raises(ValueError, match="max_age must be 0 or more seconds, not") as caught:
            CacheHint(max_age=max_age)
        assert str(caught.value).endswith(repr(max_age))
    with pytest.raises(ValueError, match="'scope' must be in"):
        CacheHint(scope="shared")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError):
        CacheHint(60)  # type: ignore[call-arg]  # that is the point
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        NO_CACHE.max_age = 5  # type: ignore[misc]  # that is the point


# Errors.


@pytest.mark.parametrize("code", [-32700, -32600, -32601, -32602, -32603, -32021, 0, 7])
def test_error_codes_are_the_same_in_2026_07_28(code: int) -> None:
    assert translate_code(code) == code


def test_resource_not_found_becomes_invalid_params() -> None:
    assert translate_code(-32002) == -32602
