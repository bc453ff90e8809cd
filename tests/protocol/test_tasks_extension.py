"""The tasks extension: what is read from messages, and what a task is in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, strategies as st

from trio_mcp_session import ClientInfo, McpError, TaskStatus
from trio_mcp_session.protocol.subscription_messages import (
    TASK_CHANGED,
    Filter,
    asks_for_tasks,
    read_filter,
    read_task_ids,
    tag_of,
)
from trio_mcp_session.protocol.tasks_extension import (
    TASKS,
    TaskSnapshot,
    are_declared,
    are_offered,
    encode_error,
    not_declared,
    read_answers,
    read_task_id,
    unknown_task,
)

BEGAN = datetime(2026, 11, 1, 12, 30, 5, 999_999, tzinfo=UTC)


def snapshot(**changes: Any) -> TaskSnapshot:
    plain = TaskSnapshot(
        task_id="t",
        status=TaskStatus.WORKING,
        message=None,
        created=BEGAN,
        changed=BEGAN + timedelta(seconds=1),
        time_to_live=90,
        poll_interval=1,
        questions={},
        result=None,
        error=None,
    )
    return attrs.evolve(plain, **changes)


def decoded(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


MEMBERS = {
    "taskId": "t",
    "status": "working",
    "createdAt": "2026-11-01T12:30:05.999Z",
    "lastUpdatedAt": "2026-11-01T12:30:06.999Z",
    "ttlMs": 90_000,
    "pollIntervalMs": 1_000,
}


def test_a_creation_has_the_members_of_a_task_and_its_type() -> None:
    assert decoded(snapshot().creation()) == {"resultType": "task", **MEMBERS}
    said = snapshot(message="what").creation()
    assert said == {"resultType": "task", **MEMBERS, "statusMessage": "what"}


def test_a_creation_never_has_questions_or_an_outcome() -> None:
    raw = msgspec.Raw(b"{}")
    asking = snapshot(status=TaskStatus.INPUT_REQUIRED, questions={"a": raw})
    over = snapshot(status=TaskStatus.COMPLETED, result=raw, error=raw)
    for one in (asking, over):
        assert one.creation().keys() == {"resultType", *MEMBERS}


@pytest.mark.parametrize("status", TaskStatus)
def test_the_details_belong_to_the_status(status: TaskStatus) -> None:
    raw = msgspec.Raw(b'{"b":1,"a":2}')
    state: dict[TaskStatus, tuple[str, dict[str, Any]]] = {
        TaskStatus.INPUT_REQUIRED: ("inputRequests", {"questions": {"a": raw}}),
        TaskStatus.COMPLETED: ("result", {"result": raw}),
        TaskStatus.FAILED: ("error", {"error": raw}),
    }
    member, changes = state.get(status, ("status", {"questions": {"a": raw}}))
    details = snapshot(status=status, **changes).details()
    assert details.keys() == {*MEMBERS, member}
    assert details["status"] == status.value
    if changes and member != "status":
        assert b'{"b":1,"a":2}' in msgspec.json.encode(details[member])


def test_a_notification_says_what_the_details_say() -> None:
    one = snapshot(status=TaskStatus.COMPLETED, result=msgspec.Raw(b'{"isError":true}'))
    notice = one.notice()
    assert notice.topic == (TASK_CHANGED, "t")
    message = msgspec.json.decode(notice.tagged(tag_of("s")))
    assert message["method"] == "notifications/tasks"
    params = message["params"]
    assert params.pop("_meta") == {"io.modelcontextprotocol/subscriptionId": "s"}
    assert params == decoded(one.details())


def test_times_are_in_utc_and_seconds_have_three_digits() -> None:
    for when, text in [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 1_500, tzinfo=UTC), "2026-01-02T03:04:05.001Z"),
        (datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "2026-12-31T23:59:59.999Z"),
    ]:
        assert snapshot(created=when).details()["createdAt"] == text
    zone = timezone(timedelta(hours=2))
    assert snapshot(created=BEGAN.astimezone(zone).astimezone(UTC)).details() == MEMBERS


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_times_in_milliseconds_are_whole_and_more_than_none(live: float, poll: float) -> None:
    members = snapshot(time_to_live=live, poll_interval=poll).details()
    for name, seconds in (("ttlMs", live), ("pollIntervalMs", poll)):
        assert type(members[name]) is int
        assert members[name] >= 1
        assert abs(members[name] - seconds * 1000) <= 1


def test_an_error_has_data_if_there_is_any() -> None:
    assert bytes(encode_error(1, "x", None)) == b'{"code":1,"message":"x"}'
    assert decoded(encode_error(1, "x", {"a": 0})) == {"code": 1, "message": "x", "data": {"a": 0}}
    assert decoded(encode_error(1, "x", 0))["data"] == 0
    with pytest.raises(TypeError):
        encode_error(1, "x", object())


# What is read.


@pytest.mark.parametrize(
    "capabilities, offered",
    [
        ({}, False),
        ({"extensions": {}}, False),
        ({"extensions": None}, False),
        ({"extensions": [TASKS]}, False),
        ({"extensions": {TASKS: {}}}, True),
        ({"tasks": {}}, False),
    ],
)
def test_what_a_server_offers(capabilities: dict[str, Any], *, offered: bool) -> None:
    assert are_offered(capabilities) is offered


@pytest.mark.parametrize(
    "extensions, declared",
    [
        ({}, False),
        ({TASKS: {}}, True),
        ({TASKS: {"x": 1}}, True),
        ({TASKS: None}, False),
        ({TASKS: True}, False),
        ({TASKS: 1}, False),
        ({TASKS: ""}, False),
        ({TASKS: []}, False),
    ],
)
def test_what_a_client_declares(extensions: dict[str, Any], *, declared: bool) -> None:
    assert are_declared(ClientInfo(capabilities={"extensions": extensions})) is declared
    assert not are_declared(None)
    assert not are_declared(ClientInfo(capabilities={"tasks": {}}))


def test_the_error_names_the_extension() -> None:
    error = not_declared()
    assert error.code == -32021
    assert TASKS in error.message
    assert error.data == {"requiredCapabilities": {"extensions": {TASKS: {}}}}
    assert unknown_task().data is None


@pytest.mark.parametrize("bad", [{}, {"taskId": None}, {"taskId": 1}, {"taskId": ["t"]}], ids=str)
def test_an_id_is_a_text(bad: dict[str, Any]) -> None:
    assert read_task_id({"taskId": "☃"}) == "☃"
    with pytest.raises(McpError, match="taskId must be a string") as caught:
        read_task_id(bad)
    assert caught.value.code == -32602


@pytest.mark.parametrize("bad", [{}, {"inputResponses": None}, {"inputResponses": []}], ids=str)
def test_answers_are_an_object(bad: dict[str, Any]) -> None:
    assert read_answers({"inputResponses": {"a": 1}}) == {"a": 1}
    with pytest.raises(McpError, match="inputResponses must be an object") as caught:
        read_answers(bad)
    assert caught.value.code == -32602


def test_the_ids_of_a_filter_are_each_there_once() -> None:
    params = {"notifications": {"taskIds": ["b", "a", "b"]}}
    assert asks_for_tasks(params)
    assert not asks_for_tasks({"notifications": {}})
    assert read_task_ids(params, 3) == ("b", "a")
    with pytest.raises(McpError, match="No more than 2 tasks"):
        read_task_ids(params, 2)
    # Only the server knows which of them it agrees to.
    assert read_filter(params, 3).task_ids is None
    one = Filter((), None, ("a", "b"))
    assert list(one.topics()) == [(TASK_CHANGED, "a"), (TASK_CHANGED, "b")]
    assert one.described() == {"taskIds": ("a", "b")}
    assert one.honoured({}).described() == {}
