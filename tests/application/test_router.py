from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from trio_mcp_session import (
    Application,
    CacheHint,
    McpError,
    RequestContext,
    Router,
    Session,
    StateKey,
)
from trio_mcp_session.application.router import SESSION_NOTIFICATIONS
from trio_mcp_session.protocol.methods import CACHEABLE, RESERVED
from trio_mcp_session.protocol.results import NO_CACHE
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, STATELESS_REVISIONS

from .client import ERAS, VERSIONS, A, C, D, M, connected

Handler = Callable[..., Awaitable[object]]


async def handler(ctx: RequestContext) -> dict[str, Any]:
    return {"method": ctx.method}


async def noted(ctx: RequestContext) -> None:
    """A tool, too."""


def router_of(*methods: str, **options: Any) -> Router:
    router = Router("test", **options)
    for method in methods:
        router.request(method)(handler)
    return router


# What the server says of itself.


def test_router_is_an_application() -> None:
    application: Application = Router("test", "3", title="Test", instructions="Use it.")
    assert application.server_info.name == "test"
    assert application.server_info.version == "3"
    assert application.server_info.title == "Test"
    assert application.instructions == "Use it."
    assert application.lifespan is None
    assert repr(application) == "<Router 'test': 0 methods>"


@pytest.mark.parametrize("version", VERSIONS)
async def test_initialize_result(version: str, autojump_clock: MockClock) -> None:
    router = Router("test", "3", title="Test", instructions="Use it.")
    async with connected(router, version) as client:
        info = {"name": "test", "version": "3"}
        if version >= C:
            info["title"] = "Test"
        assert client.greeting["serverInfo"] == info
        assert client.greeting["instructions"] == "Use it."
        assert client.greeting["capabilities"] == {"logging": {}}


async def test_discover_result(autojump_clock: MockClock) -> None:
    """What ``initialize`` tells with the handshake, without one."""
    router = Router("test", "3", title="Test", instructions="Use it.")
    async with connected(router, M) as client:
        answer = await client.answer_to(await client.ask("server/discover"))
        assert answer["result"] == {
            "resultType": "complete",
            "supportedVersions": [M],
            "capabilities": {"logging": {}},
            "instructions": "Use it.",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {
                "io.modelcontextprotocol/serverInfo": {
                    "name": "test",
                    "version": "3",
                    "title": "Test",
                }
            },
        }


CHANGING = {"listChanged": True}


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "router, expected",
    [
        (router_of(), {"logging": {}}),
        (router_of(logging=False), {}),
        (router_of("tools/list", "tools/call", logging=False), {"tools": CHANGING}),
        (router_of("tools/call", logging=False), {"tools": CHANGING}),
        (router_of("prompts/list", logging=False), {"prompts": CHANGING}),
        (router_of("prompts/get", logging=False), {"prompts": CHANGING}),
        (router_of("resources/list", logging=False), {"resources": CHANGING}),
        (router_of("resources/read", logging=False), {"resources": CHANGING}),
        (router_of("resources/templates/list", logging=False), {"resources": CHANGING}),
        (
            router_of("resources/read", logging=False, resource_subscriptions=True),
            {"resources": {**CHANGING, "subscribe": True}},
        ),
        (router_of(logging=False, resource_subscriptions=True), {}),
        (router_of("completion/complete", logging=False), {"completions": {}}),
        (router_of("toolsmith/list", "x/tools", logging=False), {}),
    ],
)
async def test_capabilities_follow_from_what_is_registered(
    version: str, router: Router, expected: dict[str, Any], autojump_clock: MockClock
) -> None:
    if version == A:
        expected = {name: value for name, value in expected.items() if name != "completions"}
    revision = {**HANDSHAKE_REVISIONS, **STATELESS_REVISIONS}[version]
    assert router.capabilities(revision) == expected
    async with connected(router, version) as client:
        assert client.greeting["capabilities"] == expected


@pytest.mark.parametrize("logging", [True, False])
async def test_logging_methods_follow_the_logging_setting(
    logging: bool, autojump_clock: MockClock
) -> None:
    async with connected(Router("test", logging=logging)) as client:
        answer = await client.answer_to(await client.ask("logging/setLevel", {"level": "info"}))
        assert answer == {"result": {}} if logging else answer["error"]["code"] == -32601


# Requests.


async def test_handles_request_and_notification() -> None:
    router = router_of("a/b")
    router.notification("only/told")(handler)
    with assert_no_checkpoints():
        assert router.handles_request("a/b")
    for method in ("a", "a/b/c", "", "only/told", "tools/list", "tools/call", *RESERVED):
        assert not router.handles_request(method)
    router.tool()(noted)
    assert router.handles_request("tools/list")
    assert router.handles_request("tools/call")
    # It stays, as the capability does.
    router.remove_tool("noted")
    assert router.handles_request("tools/call")


@pytest.mark.parametrize("version", ERAS)
async def test_unknown_method_is_method_not_found(version: str, autojump_clock: MockClock) -> None:
    router = router_of("a/b")
    router.notification("only/told")(handler)
    async with connected(router, version) as client:
        for method in ("a", "a/b/c", "", "tools/list", "tools/call", "only/told"):
            error = await client.refused(method, {"name": "a"})
            assert error == {"code": -32601, "message": "Method not found"}
        assert await client.request("a/b") == {"method": "a/b"}
        await client.notify("not/known")
        await client.notify("a/b")
        assert await client.request("a/b") == {"method": "a/b"}
        await client.forgive()


@pytest.mark.parametrize("method", sorted(RESERVED - {"server/discover", "subscriptions/listen"}))
async def test_session_methods_are_method_not_found_without_a_session(
    method: str, autojump_clock: MockClock
) -> None:
    async with connected(Router("test", resource_subscriptions=True), M) as client:
        error = await client.refused(method, {"level": "info", "uri": "x:"})
        assert error == {"code": -32601, "message": "Method not found"}
        await client.forgive()


class Struct(msgspec.Struct, rename="camel"):
    page_size: int


@attrs.frozen
class Attrs:
    uri: str


async def test_handlers_with_one_and_two_parameters(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request("one")
    async def one(ctx: RequestContext) -> dict[str, Any]:
        return {"seen": ctx.params}

    @router.request("two")
    async def two(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        return {"seen": params}

    @router.request("struct")
    async def struct(ctx: RequestContext, params: Struct) -> dict[str, Any]:
        return {"seen": params.page_size}

    @router.request("attrs")
    async def attrs_class(ctx: RequestContext, params: Attrs) -> dict[str, Any]:
        return {"seen": params.uri}

    async with connected(router) as client:
        for method in ("one", "two"):
            assert await client.request(method) == {"seen": {}}
            assert await client.request(method, {"a": 1}) == {"seen": {"a": 1}}
        assert await client.request("struct", {"pageSize": 3, "_meta": {}}) == {"seen": 3}
        assert await client.request("attrs", {"uri": "x:"}) == {"seen": "x:"}
        for method, params in [
            ("struct", None),
            ("struct", {"page_size": 3}),
            ("struct", {"pageSize": "3"}),
            ("attrs", {"uri": 3}),
        ]:
            error = await client.refused(method, params)
            assert error["code"] == -32602
            assert error["message"].startswith("Invalid params: ")


@pytest.mark.parametrize(
    "returned, expected",
    [
        (None, {}),
        ({}, {}),
        ({"a": [1]}, {"a": [1]}),
        (Attrs("x:"), {"uri": "x:"}),
        (Struct(3), {"pageSize": 3}),
        ({"a": Struct(3)}, {"a": {"pageSize": 3}}),
        ({"_meta": {"x/y": 1}}, {"_meta": {"x/y": 1}}),
    ],
)
@pytest.mark.parametrize("version", ERAS)
async def test_results_of_each_type_are_encoded(
    version: str, returned: object, expected: object, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.request("get")
    async def get(ctx: RequestContext) -> object:
        return returned

    async with connected(router, version) as client:
        assert await client.request("get") == expected


@pytest.mark.parametrize("returned", ["text", [1], 7, object(), {"a": object()}])
@pytest.mark.parametrize("version", ERAS)
async def test_invalid_result_is_an_internal_error_without_details(
    version: str, returned: object, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.request("get")
    async def get(ctx: RequestContext) -> object:
        return returned

    async with connected(router, version) as client:
        error = await client.refused("get")
        assert error == {"code": -32603, "message": "Internal error"}
        assert await client.crash() is not None


@pytest.mark.parametrize("version", ERAS)
async def test_errors_of_handlers_are_answered(version: str, autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request("mcp")
    async def mcp(ctx: RequestContext) -> None:
        raise McpError(-32002, "Resource not found", {"uri": "x:"})

    @router.request("other")
    async def other(ctx: RequestContext) -> None:
        raise ZeroDivisionError("password")

    async with connected(router, version) as client:
        error = await client.refused("mcp")
        code = -32602 if version == M else -32002
        assert error == {"code": code, "message": "Resource not found", "data": {"uri": "x:"}}
        error = await client.refused("other")
        assert error == {"code": -32603, "message": "Internal error"}
        assert isinstance(await client.crash(), ZeroDivisionError)


# Registering.


async def test_decorators_return_the_function() -> None:
    router = Router("test")
    with assert_no_checkpoints():
        assert router.request("a")(handler) is handler
        assert router.notification("a")(handler) is handler
        assert router.tool()(noted) is noted
    assert list(router.tools) == ["noted"]
    assert router.tools["noted"].handler is noted
    assert len(router.tools) == 1
    # And the two methods of tools.
    assert repr(router) == "<Router 'test': 3 methods>"


@pytest.mark.parametrize("method", sorted(RESERVED))
def test_handler_of_a_session_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} is answered by the library"):
        Router("test").request(method)


@pytest.mark.parametrize("method", sorted(SESSION_NOTIFICATIONS))
def test_handler_of_a_session_notification_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} is handled by the library"):
        Router("test").notification(method)


def test_second_registration_is_refused() -> None:
    router = router_of("a")
    with pytest.raises(ValueError, match="a has a handler already"):
        router.request("a")(handler)
    router.notification("a")(handler)
    with pytest.raises(ValueError, match="a has a handler already"):
        router.notification("a")(handler)
    router.tool()(noted)
    with pytest.raises(ValueError, match="a tool 'noted' exists already"):
        router.tool()(noted)
    for method in ("tools/list", "tools/call"):
        with pytest.raises(ValueError, match=f"{method} has a handler already"):
            router.request(method)(handler)


@pytest.mark.parametrize("method", ["tools/list", "tools/call"])
def test_tools_by_request_handler_and_by_decorator_exclude_each_other(method: str) -> None:
    router = router_of(method)
    with pytest.raises(ValueError, match="a handler of its own already"):
        router.tool()(noted)
    assert not router.tools


def test_refused_registration_changes_nothing() -> None:
    async def nothing() -> None: ...

    async def several(*args: int) -> None: ...

    router = Router("test")
    with pytest.raises(TypeError):
        router.tool()(several)
    refused = cast("Any", nothing)
    for decorator in (router.request("a"), router.notification("a")):
        with pytest.raises(TypeError):
            decorator(refused)
    router.request("a")(handler)
    router.notification("a")(handler)
    router.request("tools/list")(handler)


def test_decorator_without_parentheses_is_refused() -> None:
    router = Router("test")
    for decorator in (router.request, router.notification, router.tool):
        with pytest.raises(TypeError, match="parentheses"):
            decorator(cast("Any", handler))


# Notifications.


async def test_notification_handlers_are_called(autojump_clock: MockClock) -> None:
    router = Router("test")
    seen: list[object] = []
    told = trio.Event()

    @router.notification("told")
    async def on_told(ctx: RequestContext, params: Struct) -> None:
        seen.append(params)
        assert ctx.request_id is None
        told.set()

    @router.notification("notifications/initialized")
    async def on_initialized(ctx: RequestContext) -> None:
        seen.append(ctx.method)

    @router.notification("fails")
    async def on_fails(ctx: RequestContext) -> None:
        raise ZeroDivisionError

    assert router.handles_notification("told")
    assert not router.handles_notification("a")
    async with connected(router) as client:
        await wait_all_tasks_blocked()
        await client.notify("told", {"pageSize": 1})
        await told.wait()
        assert seen == ["notifications/initialized", Struct(1)]
        await client.notify("fails")
        assert isinstance(await client.crash(), ZeroDivisionError)
        # Wrong parameters of a notification are not answered.
        await client.notify("told", {"pageSize": "1"})
        assert await client.request("ping") == {}
        await wait_all_tasks_blocked()
        assert len(seen) == 2
        assert not client.notes


# What only 2026-07-28 has.


async def in_region(
    ctx: RequestContext,
    region: Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})],
) -> None: ...


async def test_header_parameters_of_a_tool() -> None:
    router = router_of("x/call")
    router.tool()(noted)
    assert router.header_parameters("tools/call", {"name": "in_region"}) == {}
    router.tool()(in_region)
    with assert_no_checkpoints():
        wanted = router.header_parameters("tools/call", {"name": "in_region", "arguments": None})
    assert wanted == {"Region": ("region",)}
    for method in ("tools/list", "x/call", "prompts/get"):
        assert router.header_parameters(method, {"name": "in_region"}) == {}
    names: list[Any] = ["noted", "other", "", None, 7, True, ["in_region"], {"name": "in_region"}]
    for name in names:
        assert router.header_parameters("tools/call", {"name": name}) == {}
    assert router.header_parameters("tools/call", {}) == {}
    router.remove_tool("in_region")
    assert router.header_parameters("tools/call", {"name": "in_region"}) == {}


def test_tools_of_a_request_handler_have_no_header_parameters() -> None:
    router = router_of("tools/list", "tools/call")
    assert router.header_parameters("tools/call", {"name": "in_region"}) == {}


HINT = CacheHint(max_age=90, scope="public")


async def test_no_cache_hint_by_default() -> None:
    assert all(Router("test").cache_hint(method) == NO_CACHE for method in CACHEABLE)
    hints = {"tools/list": HINT}
    router = Router("test", cache_hints=hints)
    hints.clear()  # It was read when the router was made.
    with assert_no_checkpoints():
        assert router.cache_hint("tools/list") == HINT
    assert router.cache_hint("prompts/list") == NO_CACHE


@pytest.mark.parametrize("version", [D, M])
async def test_cache_hints_are_sent(version: str, autojump_clock: MockClock) -> None:
    hints = dict.fromkeys(["server/discover", "resources/list", "tools/call"], HINT)
    router = Router("test", cache_hints=hints)
    for method in ("resources/list", "resources/read"):
        router.request(method)(handler)
    router.tool()(noted)
    async with connected(router, version) as client:
        kept: dict[str, Any] = {"ttlMs": 90_000, "cacheScope": "public"}
        not_kept: dict[str, Any] = {"ttlMs": 0, "cacheScope": "private"}
        if version == D:
            kept = not_kept = {}
        else:
            assert client.greeting.items() >= kept.items()
        listed = await client.request("resources/list")
        assert listed == {"method": "resources/list", **kept}
        assert await client.request("resources/read") == {"method": "resources/read", **not_kept}
        # Not everything can be kept, whatever is said of it.
        assert await client.call("noted") == {"content": []}


async def test_tools_list_is_the_same_for_all_requests(autojump_clock: MockClock) -> None:
    """Nothing that was asked before changes them."""
    router = router_of("prompts/list")
    router.tool()(noted)
    router.tool()(in_region)
    async with connected(router, M) as client, connected(router, M) as other:
        before = await client.request("tools/list")
        assert [tool["name"] for tool in before["tools"]] == ["noted", "in_region"]
        await client.call("noted")
        await client.request("prompts/list")
        for one in (client, other):
            assert await one.request("tools/list") == before


# While clients are served.


async def test_tools_can_be_added_and_removed_while_serving(autojump_clock: MockClock) -> None:
    router = Router("test")
    async with connected(router) as client:
        assert "tools" not in client.greeting["capabilities"]
        assert (await client.refused("tools/list"))["code"] == -32601

        with assert_no_checkpoints():
            router.tool()(noted)
        client.manager.broadcast("notifications/tools/list_changed")
        assert [tool["name"] for tool in (await client.request("tools/list"))["tools"]] == ["noted"]
        assert client.notes == [{"method": "notifications/tools/list_changed"}]
        assert await client.call("noted") == {"content": []}

        with assert_no_checkpoints():
            router.remove_tool("noted")
        with pytest.raises(KeyError):
            router.remove_tool("noted")
        # There are tools, as it was said; there are just none left.
        assert await client.request("tools/list") == {"tools": []}
        assert (await client.refused("tools/call", {"name": "noted"}))["message"] == (
            "Unknown tool: 'noted'"
        )
        assert "tools" in router.capabilities(HANDSHAKE_REVISIONS[D])
        with pytest.raises(ValueError, match="has a handler already"):
            router.request("tools/list")(handler)

        router.tool(title="Again")(noted)
        (again,) = (await client.request("tools/list"))["tools"]
        assert again["title"] == "Again"


async def test_tool_removed_while_it_runs_finishes(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def slow(ctx: RequestContext) -> str:
        router.remove_tool("slow")
        await trio.sleep(1)
        return "done"

    async with connected(router) as client:
        assert (await client.call("slow"))["content"] == [{"type": "text", "text": "done"}]
        assert not router.tools


async def test_handlers_can_be_added_while_serving(autojump_clock: MockClock) -> None:
    router = Router("test")
    async with connected(router) as client:
        router.request("late")(handler)
        assert await client.request("late") == {"method": "late"}


# The lifespan.

NUMBER = StateKey[int]("number")


async def test_lifespan_runs_for_each_session(autojump_clock: MockClock) -> None:
    left = math.nan

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        nonlocal left
        session.set_state(NUMBER, 5)
        try:
            yield
        finally:
            left = trio.current_time()

    router = Router("test", lifespan=lifespan)

    @router.request("number")
    async def number(ctx: RequestContext) -> dict[str, Any]:
        return {"number": ctx.session.get_state(NUMBER)}

    async with connected(router) as client:
        assert router.lifespan is lifespan
        assert await client.request("number") == {"number": 5}
        assert math.isnan(left)
    assert left == trio.current_time()


async def test_two_managers_may_share_a_router(autojump_clock: MockClock) -> None:
    router = router_of("get")
    async with connected(router, A) as old, connected(router, D) as new:
        for client in (old, new):
            assert await client.request("get") == {"method": "get"}


async def test_the_thread_limiter_is_for_functions_of_every_kind() -> None:
    limiter = trio.CapacityLimiter(1)
    router = Router("editor", thread_limiter=limiter)
    borrowed: list[int] = []

    def look() -> str:
        borrowed.append(limiter.borrowed_tokens)
        return "seen"

    router.tool()(look)
    router.resource("seen://all")(look)

    @router.prompt()
    def ask(about: str) -> str:
        return f"{about}: {look()}"

    @router.completion(ask, "about")
    def topics(value: str) -> list[str]:
        return [value + look()]

    async with connected(router, D) as client:
        await client.call("look")
        await client.request("resources/read", {"uri": "seen://all"})
        await client.request("prompts/get", {"name": "ask", "arguments": {"about": "x"}})
        await client.request(
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "ask"},
                "argument": {"name": "about", "value": "x"},
            },
        )
    assert borrowed == [1, 1, 1, 1]


@pytest.mark.parametrize("abandon", [False, True])
async def test_a_cancelled_call_leaves_its_thread_only_if_it_may_be_abandoned(
    abandon: bool,
) -> None:
    router = Router("editor")
    started, ended, release = trio.Event(), trio.Event(), threading.Event()

    @router.tool(abandon_on_cancel=abandon)
    def block() -> None:
        trio.from_thread.run_sync(started.set)
        release.wait(60)

    async def call() -> None:
        try:
            await router.tools["block"].invoke(cast("RequestContext", None), {})
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await started.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        try:
            assert ended.is_set() is abandon
        finally:
            release.set()
