"""How tools with tasks are registered, and what routers say of them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from trio.testing import MockClock

from tests.application.client import ERAS, M, connected
from tests.rounds import town
from tests.tasking import BOTH, TASKS, client_of, get, id_of, text_in
from trio_mcp_session import McpError, RequestContext, Router
from trio_mcp_session.application.task_support import NEVER, PROMOTE_AFTER, TaskSupport
from trio_mcp_session.protocol.revisions import V2025_11_25, V2026_07_28


async def work() -> str:
    return "done"


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, NEVER),
        ({"task": "never"}, NEVER),
        ({"task": "optional"}, TaskSupport("optional", PROMOTE_AFTER, at_once=False)),
        (
            {"task": "optional", "promote_after": 0},
            TaskSupport("optional", 0, at_once=False),
        ),
        (
            {"task": "optional", "promote_after": inf},
            TaskSupport("optional", inf, at_once=False),
        ),
        ({"task": "required"}, TaskSupport("required", inf, at_once=True)),
        (
            {"task": "required", "ask_first": True},
            TaskSupport("required", inf, at_once=False),
        ),
    ],
)
def test_a_tool_is_registered_with_its_tasks(
    options: dict[str, Any], expected: TaskSupport
) -> None:
    router = Router("test")
    router.tool(**options)(work)
    tool = router._tools.find("work")
    assert tool is not None
    assert tool.as_task == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "perhaps"}, "task must be 'never', 'optional' or 'required', not 'perhaps'"),
        ({"task": None}, "task must be 'never', 'optional' or 'required', not None"),
        ({"task": True}, "not True"),
        ({"promote_after": 1}, "promote_after belongs to task='optional', not to task='never'"),
        (
            {"task": "required", "promote_after": 0},
            "promote_after belongs to task='optional', not to task='required'",
        ),
        (
            {"task": "optional", "promote_after": -1},
            "promote_after must be 0 or more seconds, not -1",
        ),
        (
            {"task": "optional", "promote_after": nan},
            "promote_after must be 0 or more seconds, not nan",
        ),
        ({"ask_first": True}, "ask_first belongs to task='required', not to task='never'"),
        (
            {"task": "optional", "ask_first": True},
            "ask_first belongs to task='required', not to task='optional'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    router = Router("test")
    with pytest.raises(ValueError, match=message):
        router.tool(**options)
    assert "tools" not in router.capabilities(V2026_07_28)


def test_a_server_has_the_extension_from_its_first_tool_with_tasks_on() -> None:
    router = Router("test", extensions={"com.example/x": {"a": 1}})
    router.tool(name="plain")(work)

    def extensions() -> Any:
        return router.capabilities(V2026_07_28)["extensions"]

    assert extensions() == {"com.example/x": {"a": 1}}
    router.tool(task="optional")(work)
    assert extensions() == {"com.example/x": {"a": 1}, TASKS: {}}
    assert "extensions" not in router.capabilities(V2025_11_25)
    # Its tasks may still run.
    router.remove_tool("work")
    assert TASKS in extensions()


@pytest.mark.parametrize("version", ERAS)
async def test_tasks_are_not_in_the_list_of_tools(version: str, autojump_clock: MockClock) -> None:
    router = Router("test")
    router.tool(name="plain")(work)
    router.tool(name="task", task="required")(work)
    async with connected(router, version) as client:
        plain, task = (await client.request("tools/list"))["tools"]
        assert task == {**plain, "name": "task"}


@pytest.mark.parametrize("version", [one for one in ERAS if one != M])
async def test_tools_with_tasks_are_tools_as_any_for_earlier_clients(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool(name="optional", task="optional", promote_after=0)(work)
    router.tool(name="required", task="required")(work)
    async with connected(router, version, capabilities={"tasks": {}}) as client:
        assert "tasks" not in client.greeting["capabilities"]
        for name in ("optional", "required"):
            assert (await client.call(name))["content"][0]["text"] == "done"


@BOTH
async def test_tasks_are_called_through_middleware_and_mounted_routers(
    way: str, autojump_clock: MockClock
) -> None:
    outer, inner = Router("outer"), Router("inner")
    log: list[object] = []

    async def around(ctx: RequestContext, call_next: Callable[[], Any]) -> Any:
        log.append(ctx.task)
        result = await call_next()
        assert ctx.task is not None
        log.append(ctx.task.name)
        return result

    inner.tool(task="required", middleware=[around])(work)
    outer.mount(inner, prefix="in")

    async with town(outer) as here:
        client = await client_of(here, way)
        call = await client.call("in_work")
        assert text_in(await get(client, id_of(call))) == "done"
        # Middleware is around the whole call, so it begins before the task.
        assert log == [None, "tool 'in_work'"]


@BOTH
async def test_middleware_may_refuse_a_call_before_it_becomes_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.middleware
    async def refuse(ctx: RequestContext, call_next: Callable[[], Any]) -> Any:
        raise McpError(-32000, "not today")

    router.tool(task="required")(work)
    async with town(router) as here:
        client = await client_of(here, way)
        assert (await client.call("work")).error == (-32000, "not today")
        assert here.manager.list_tasks() == []


@BOTH
async def test_a_call_needs_its_scopes_before_it_becomes_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool(task="required", scopes="work:do")(work)
    async with town(router) as here:
        client = await client_of(here, way, "ann")
        assert (await client.call("work")).answer["error"]["data"] == {
            "requiredScopes": ["work:do"]
        }
        assert here.manager.list_tasks() == []
