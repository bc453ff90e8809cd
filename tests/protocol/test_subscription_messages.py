"""What a client subscribes to, and messages that differ by the id of their listener only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from tests import strategies
from tests.helpers import SUBSCRIPTION_ID, acknowledged, changed, notification, tagged
from trio_mcp_session import McpError
from trio_mcp_session.protocol.subscription_messages import (
    CHANGES,
    RESOURCE_UPDATED,
    Filter,
    Notice,
    acknowledgement,
    list_changed,
    listen_result,
    read_filter,
    tag_of,
)

MEMBERS = {
    "tools": "toolsListChanged",
    "prompts": "promptsListChanged",
    "resources": "resourcesListChanged",
}
ALL: dict[str, Any] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
}


def read(max_uris: int = 10, **wanted: object) -> Filter:
    return read_filter({"notifications": wanted, "_meta": {}}, max_uris)


def refusal(params: dict[str, Any], max_uris: int = 10) -> str:
    with pytest.raises(McpError) as caught:
        read_filter(params, max_uris)
    assert caught.value.code == -32602
    return caught.value.message


def decode(frame: bytes) -> Any:
    assert b"\n" not in frame
    return msgspec.json.decode(frame)


# What is asked for.


@pytest.mark.parametrize(
    "wanted, lists, uris",
    [
        ({}, (), None),
        ({"toolsListChanged": True}, ("tools",), None),
        (
            dict.fromkeys(reversed(MEMBERS.values()), True),
            ("tools", "prompts", "resources"),
            None,
        ),
        ({"toolsListChanged": False, "promptsListChanged": True}, ("prompts",), None),
        ({"resourceSubscriptions": []}, (), ()),
        ({"resourceSubscriptions": ["b:", "a:", "b:", ""]}, (), ("b:", "a:", "")),
        ({"taskIds": 7, "unknown": None, "resourcesListChanged": True}, ("resources",), None),
    ],
)
def test_filter_is_read(
    wanted: dict[str, Any], lists: tuple[str, ...], uris: tuple[str, ...] | None
) -> None:
    assert read(**wanted) == Filter(lists, uris)


@pytest.mark.parametrize("params", [{}, {"notifications": None}, {"notifications": [1]}])
def test_missing_filter_is_invalid_params(params: dict[str, Any]) -> None:
    assert refusal(params) == "notifications must be an object"


@pytest.mark.parametrize("member", MEMBERS.values())
@pytest.mark.parametrize("value", [None, 0, 1, "true", [], {}])
def test_list_members_must_be_booleans(member: str, value: object) -> None:
    assert refusal({"notifications": {member: value}}) == f"{member} must be true or false"


@pytest.mark.parametrize("value", [None, "x:", 1, {}, [1], ["x:", None], [["x:"]], True])
def test_resources_must_be_a_list_of_strings(value: object) -> None:
    message = refusal({"notifications": {"resourceSubscriptions": value}})
    assert message == "resourceSubscriptions must be a list of strings"


def test_too_many_resources_are_invalid_params() -> None:
    assert read(2, resourceSubscriptions=["a:", "b:"]).uris == ("a:", "b:")
    assert read(0, resourceSubscriptions=[]).uris == ()
    for uris in (["a:", "b:", "c:"], ["a:"] * 3):
        assert "No more than 2" in refusal({"notifications": {"resourceSubscriptions": uris}}, 2)


wishes = st.fixed_dictionaries(
    {"unknown": strategies.json_values},
    optional={
        **dict.fromkeys(MEMBERS.values(), st.booleans()),
        "resourceSubscriptions": st.lists(strategies.texts, max_size=3),
    },
)


@given(wishes)
def test_any_valid_filter_is_read(wanted: dict[str, Any]) -> None:
    found = read_filter({"notifications": wanted}, 3)
    assert found.lists == tuple(what for what, member in MEMBERS.items() if wanted.get(member))
    assert set(found.uris or ()) == set(wanted.get("resourceSubscriptions", ()))
    # It says of itself what it was told.
    described = msgspec.json.decode(msgspec.json.encode(found.described()))
    assert read_filter({"notifications": described}, 3) == found


@given(
    wishes,
    st.sampled_from([*MEMBERS.values(), "resourceSubscriptions"]),
    strategies.json_values.filter(lambda value: not isinstance(value, bool | list)),
)
def test_invalid_filter_member_is_invalid_params(
    wanted: dict[str, Any], member: str, value: Any
) -> None:
    assert member in refusal({"notifications": {**wanted, member: value}})


# What is honoured.


@pytest.mark.parametrize(
    "capabilities, lists, resources",
    [
        (ALL, ("tools", "prompts", "resources"), True),
        ({}, (), False),
        ({"tools": {}, "resources": {"listChanged": True}}, ("resources",), False),
        ({"resources": {"subscribe": True}}, (), True),
        ({"tools": {"listChanged": False}, "resources": {"subscribe": False}}, (), False),
        ({"tools": None, "prompts": True, "resources": "all"}, (), False),
        ({"tools": {"listChanged": 1}, "resources": {"subscribe": "yes"}}, (), False),
    ],
)
def test_honoured_filter_follows_the_capabilities(
    capabilities: Mapping[str, Any], lists: tuple[str, ...], resources: bool
) -> None:
    wanted = Filter(("tools", "prompts", "resources"), ("x:",))
    assert wanted.honoured(capabilities) == Filter(lists, ("x:",) if resources else None)
    assert Filter((), None).honoured(capabilities) == Filter((), None)


def test_topics_of_a_filter() -> None:
    wanted = Filter(("prompts", "tools"), ("b:", "a:"))
    assert list(wanted.topics()) == [
        ("notifications/prompts/list_changed", None),
        ("notifications/tools/list_changed", None),
        (RESOURCE_UPDATED, "b:"),
        (RESOURCE_UPDATED, "a:"),
    ]
    assert {method for method, _ in wanted.topics()} < CHANGES
    assert list(Filter((), None).topics()) == []


# What is sent.


@pytest.mark.parametrize("request_id", [1, "1", 0, "", -(2**70), 'x"\\\n\u2028é'], ids=repr)
def test_acknowledgement_message(request_id: int | str) -> None:
    notice = acknowledgement(Filter(("tools", "resources"), ("x:", "y:")))
    assert decode(notice.tagged(tag_of(request_id))) == acknowledged(
        request_id,
        toolsListChanged=True,
        resourcesListChanged=True,
        resourceSubscriptions=["x:", "y:"],
    )
    nothing = acknowledgement(Filter((), None))
    assert decode(nothing.tagged(tag_of(request_id))) == acknowledged(request_id)
    assert listen_result(request_id) == {"_meta": {SUBSCRIPTION_ID: request_id}}


def test_change_notification_messages() -> None:
    for what in MEMBERS:
        notice = Notice.of(list_changed(what), None)
        assert notice.topic == (list_changed(what), None)
        assert decode(notice.tagged(b"7")) == changed(7, what)
        # The same with nothing in it.
        assert Notice.of(list_changed(what), {}) == notice
    notice = Notice.of(RESOURCE_UPDATED, {"uri": "x:y"})
    assert notice.topic == (RESOURCE_UPDATED, "x:y")
    assert decode(notice.tagged(b'"7"')) == changed("7", "x:y")


def test_subscription_id_in_params_is_replaced() -> None:
    """Of two members of one name, some clients take the first one."""
    said = {"_meta": {SUBSCRIPTION_ID: "not yours", "x": 1}}
    frame = Notice.of(list_changed("tools"), said).tagged(b"7")
    assert frame.count(SUBSCRIPTION_ID.encode()) == 1
    assert decode(frame)["params"] == {"_meta": {"x": 1, SUBSCRIPTION_ID: 7}}


@pytest.mark.parametrize("params", [None, {}, {"uri": 7}, {"uri": None}, {"uri": ["x:"]}])
def test_resource_update_without_a_uri_has_no_resource(params: dict[str, Any] | None) -> None:
    assert Notice.of(RESOURCE_UPDATED, params).topic == (RESOURCE_UPDATED, None)


def test_list_change_has_no_resource() -> None:
    assert Notice.of(list_changed("tools"), {"uri": "x:"}).topic == (list_changed("tools"), None)


@given(
    request_id=strategies.request_ids,
    method=strategies.texts,
    params=strategies.json_objects,
    meta=strategies.json_objects | st.just({SUBSCRIPTION_ID: "not yours"}) | strategies.numbers,
)
@example(request_id=1, method="m", params={}, meta={SUBSCRIPTION_ID: 2, "a": 1})
def test_a_notice_is_the_notification_with_a_tag(
    request_id: int | str, method: str, params: dict[str, Any], meta: Any
) -> None:
    said = {key: value for key, value in params.items() if key != "_meta"}
    notice = Notice.of(method, {**said, "_meta": meta})
    message = decode(notice.tagged(tag_of(request_id)))
    assert type(message["params"]["_meta"][SUBSCRIPTION_ID]) is type(request_id)
    kept = meta if isinstance(meta, dict) else {}
    expected = tagged(request_id, method, **said)
    expected["params"]["_meta"] = {**kept, SUBSCRIPTION_ID: request_id}
    assert message == msgspec.json.decode(msgspec.json.encode(expected))
    # The message without a listener stays what it was.
    assert Notice.of(method, None) == Notice.of(method, {})
    bare = notification(method, {"_meta": {SUBSCRIPTION_ID: request_id}})
    assert decode(Notice.of(method, None).tagged(tag_of(request_id))) == bare
