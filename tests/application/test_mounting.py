"""Mounted routers: what clients see of them, and what holds for their parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import pytest
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, modern, serving
from trio_mcp_session import (
    CacheHint,
    CallNext,
    Elicitation,
    InputRequired,
    McpError,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionManager,
    open_session_manager,
)
from trio_mcp_session.application.mounting import Mount
from trio_mcp_session.application.visibility import FEATURES
from trio_mcp_session.protocol.eras import Eras
from trio_mcp_session.testing import Client, ClientEraName, connect_client

from .client import ERAS, D, M, connected

IN_ALL = pytest.mark.parametrize("version", ERAS)
IN_BOTH = pytest.mark.parametrize("version", [D, M])
IN_ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


def weather(**options: Any) -> Router:
    """A router with something of every kind."""
    router = Router("weather", **options)

    @router.tool()
    async def forecast(ctx: RequestContext, city: str) -> str:
        return f"{ctx.params['name']}: rain in {city}"

    @router.prompt()
    async def advise(city: str = "Paris") -> str:
        return f"What to wear in {city}?"

    @router.completion(advise, "city")
    async def cities(value: str) -> list[str]:
        return ["Oslo"]

    @router.resource("data://cities")
    async def all_cities() -> str:
        return "Oslo, Paris"

    @router.resource("data://cities/{name}")
    async def city(name: str) -> str:
        return f"about {name}"

    @router.completion("data://cities/{name}", "name")
    async def names(value: str) -> list[str]:
        return ["Bergen"]

    @router.request("weather/own")
    async def own(ctx: RequestContext) -> dict[str, Any]:
        return {"from": "weather"}

    @router.notification("weather/noted")
    async def noted(ctx: RequestContext) -> None:
        NOTED.append(ctx.method)

    return router


NOTED: list[str] = []


def main(other: Router | None = None, prefix: str = "weather", **options: Any) -> Router:
    router = Router("main", **options)

    @router.tool()
    async def echo(text: str) -> str:
        return text

    router.mount(weather() if other is None else other, prefix=prefix)
    return router


def text_of(result: Any) -> str:
    text: str = result["content"][0]["text"]
    return text


@IN_ALL
async def test_a_mounted_router_serves_all_that_it_has(
    version: str, autojump_clock: MockClock
) -> None:
    async with connected(main(), version) as client:
        tools = await client.request("tools/list")
        assert [one["name"] for one in tools["tools"]] == ["echo", "weather_forecast"]
        called = await client.call("weather_forecast", city="Oslo")
        assert text_of(called) == "weather_forecast: rain in Oslo"
        assert text_of(await client.call("echo", text="a")) == "a"

        prompts = await client.request("prompts/list")
        assert [one["name"] for one in prompts["prompts"]] == ["weather_advise"]
        got = await client.request("prompts/get", {"name": "weather_advise"})
        assert got["messages"][0]["content"]["text"] == "What to wear in Paris?"

        listed = await client.request("resources/list")
        assert [one["uri"] for one in listed["resources"]] == ["data://weather/cities"]
        listed = await client.request("resources/templates/list")
        (template,) = listed["resourceTemplates"]
        assert template["uriTemplate"] == "data://weather/cities/{name}"
        for uri, text in (("cities", "Oslo, Paris"), ("cities/Rome", "about Rome")):
            whole = f"data://weather/{uri}"
            read = await client.request("resources/read", {"uri": whole})
            (content,) = read["contents"]
            assert (content["uri"], content["text"]) == (whole, text)

        argument = {"name": "city", "value": ""}
        reference = {"type": "ref/prompt", "name": "weather_advise"}
        params = {"ref": reference, "argument": argument}
        completed = await client.request("completion/complete", params)
        assert completed["completion"]["values"] == ["Oslo"]
        reference = {"type": "ref/resource", "uri": "data://weather/cities/{name}"}
        params = {"ref": reference, "argument": {"name": "name", "value": ""}}
        completed = await client.request("completion/complete", params)
        assert completed["completion"]["values"] == ["Bergen"]

        assert (await client.request("weather/own"))["from"] == "weather"
        NOTED.clear()
        await client.notify("weather/noted")
        await wait_all_tasks_blocked()
        # From 2026-07-28 on, the application gets no notifications of clients on a pipe.
        handled = [] if version == M else ["weather/noted"]
        assert handled == NOTED


@IN_ALL
@pytest.mark.parametrize(
    "method, params, message",
    [
        ("tools/call", {"name": "forecast"}, "Unknown tool: 'forecast'"),
        ("tools/call", {"name": "other_forecast"}, "Unknown tool: 'other_forecast'"),
        ("prompts/get", {"name": "advise"}, "Unknown prompt: 'advise'"),
        ("resources/read", {"uri": "data://cities"}, "Resource not found: 'data://cities'"),
        ("resources/read", {"uri": "data:weather"}, "Resource not found: 'data:weather'"),
    ],
)
async def test_names_without_the_prefix_are_unknown(
    version: str,
    method: str,
    params: dict[str, Any],
    message: str,
    autojump_clock: MockClock,
) -> None:
    async with connected(main(), version) as client:
        assert (await client.refused(method, params))["message"] == message
        await client.forgive()


@IN_BOTH
async def test_what_is_added_or_removed_later_is_seen(
    version: str, autojump_clock: MockClock
) -> None:
    inner, middle = Router("inner"), Router("middle")
    router = Router("outer")
    router.mount(middle, prefix="a")
    middle.mount(inner, prefix="b")
    async with connected(router, version) as client:
        assert (await client.refused("tools/list"))["message"] == "Method not found"

        @inner.tool()
        async def late() -> str:
            return "late"

        @inner.request("late/own")
        async def own(ctx: RequestContext) -> dict[str, Any]:
            return {}

        assert text_of(await client.call("a_b_late")) == "late"
        await client.request("late/own")
        inner.remove_tool("late")
        assert (await client.request("tools/list"))["tools"] == []
    async with connected(router, version) as client:
        assert client.greeting["capabilities"]["tools"] == {"listChanged": True}


@IN_BOTH
async def test_failures_name_the_tool_as_the_client_does(
    version: str, autojump_clock: MockClock
) -> None:
    other = Router("other", show_errors=True)

    @other.tool()
    async def broken() -> None:
        raise KeyError("x")

    async with connected(main(other, "far"), version) as client:
        called = await client.call("far_broken")
        assert text_of(called) == "The tool 'far_broken' failed: KeyError: 'x'"
        assert isinstance(await client.crash(), KeyError)


@IN_BOTH
async def test_pages_go_over_all_routers(version: str, autojump_clock: MockClock) -> None:
    router = main(weather(page_size=7), page_size=1)
    async with connected(router, version) as client:
        found: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await client.request("tools/list", cursor)
            found += [one["name"] for one in page["tools"]]
            if "nextCursor" not in page:
                break
            cursor = {"cursor": page["nextCursor"]}
        assert found == ["echo", "weather_forecast"]


@IN_BOTH
async def test_capabilities_come_from_all_routers(version: str, autojump_clock: MockClock) -> None:
    async with connected(main(weather(resource_subscriptions=True)), version) as client:
        capabilities = client.greeting["capabilities"]
        assert capabilities["resources"] == {"listChanged": True, "subscribe": True}
        assert {"tools", "prompts", "completions"} <= capabilities.keys()


# Clashes, circles, and what comes first.


def test_clashes_are_refused() -> None:
    router = main(prefix="")
    with pytest.raises(ValueError, match="both routers have 'forecast' in their tools"):
        router.mount(weather())
    other = Router("other")

    @other.tool(name="cho")
    async def cho() -> None: ...

    with pytest.raises(ValueError, match="'e_cho' in their tools: mount with another prefix"):
        prefixed = Router("third")
        prefixed.tool(name="e_cho")(cho)
        prefixed.mount(other, prefix="e")
    with pytest.raises(ValueError, match="'data://cities' in their resources"):
        clash = Router("fourth")
        clash.resource("data://cities")(cho)
        clash.mount(weather())
    with pytest.raises(ValueError, match="both routers have a handler of weather/own"):
        clash = Router("fifth")
        clash.request("weather/own")(_own)
        clash.mount(weather(), prefix="x")
    with pytest.raises(ValueError, match="both routers have a handler of weather/noted"):
        clash = Router("sixth")
        clash.notification("weather/noted")(_own)
        clash.mount(weather(), prefix="x")


async def _own(ctx: RequestContext) -> None: ...


def test_hidden_names_clash_as_well() -> None:
    router, other = main(prefix="x"), main(prefix="y")
    other.disable(tools="echo")
    with pytest.raises(ValueError, match="both routers have 'echo'"):
        router.mount(other)


def test_handlers_of_lists_are_not_joined() -> None:
    own = Router("own")
    own.request("tools/list")(_own)
    with pytest.raises(ValueError, match="a handler of its own for tools/list cannot be mounted"):
        main(own)
    with pytest.raises(ValueError, match="tools/list has a handler of its own, which would not"):
        own.mount(weather())
    prompts = Router("prompts")
    prompts.prompt(name="a")(_nothing)
    own.mount(prompts)  # It has no tools.


async def _nothing() -> None: ...


@IN_BOTH
async def test_a_router_with_its_own_list_keeps_it(version: str, autojump_clock: MockClock) -> None:
    router, late = Router("own"), Router("late")

    @router.request("tools/list")
    async def own(ctx: RequestContext) -> dict[str, Any]:
        return {"tools": []}

    router.mount(late)
    late.tool(name="a")(_nothing)
    async with connected(router, version) as client:
        assert (await client.request("tools/list"))["tools"] == []


@IN_BOTH
async def test_a_later_handler_of_a_mounted_router_does_not_replace_the_joined_list(
    version: str, autojump_clock: MockClock
) -> None:
    late = Router("late")
    router = main(late)
    late.request("tools/list")(_own)
    async with connected(router, version) as client:
        assert [one["name"] for one in (await client.request("tools/list"))["tools"]] == ["echo"]


@IN_BOTH
async def test_later_names_are_found_in_the_order_of_mounting(
    version: str, autojump_clock: MockClock
) -> None:
    one, two = Router("one"), Router("two")
    router = Router("main")
    router.mount(one)
    router.mount(two)

    def add(where: Router, name: str) -> None:
        async def run() -> str:
            return where.server_info.name

        where.tool(name=name)(run)

    add(two, "x")
    async with connected(router, version) as client:
        for where in (two, one, router):
            if where is not two:
                add(where, "x")
            assert text_of(await client.call("x")) == where.server_info.name
            listed = await client.request("tools/list")
            assert [tool["name"] for tool in listed["tools"]] == ["x"]


def test_circles_are_refused() -> None:
    a, b, c = Router("a"), Router("b"), Router("c")
    a.mount(b, prefix="b")
    b.mount(c, prefix="c")
    for inner in (a, b):
        with pytest.raises(ValueError, match="must not be mounted on itself, or in a circle"):
            c.mount(inner, prefix="x")
    with pytest.raises(ValueError, match="must not be mounted on itself"):
        a.mount(a, prefix="x")


@pytest.mark.parametrize("prefix", ["a b", "a/b", "{a}", "é"])
def test_a_malformed_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix must be letters, digits"):
        main(prefix=prefix)


@pytest.mark.parametrize("eras", ["both", "legacy"])
def test_a_router_for_other_clients_is_refused(eras: Eras) -> None:
    with pytest.raises(ValueError, match=f"'modern' must not be mounted on .* eras='{eras}'"):
        main(weather(eras="modern"), eras=eras)
    main(weather(eras="both"), eras=eras)
    main(weather(eras="modern"), eras="modern")


@IN_BOTH
async def test_one_router_may_be_mounted_in_several_places(
    version: str, autojump_clock: MockClock
) -> None:
    shared = weather()
    router = main(shared, "one")
    router.mount(shared, prefix="two")
    async with connected(router, version) as client:
        listed = await client.request("tools/list")
        names = [one["name"] for one in listed["tools"]]
        assert names == ["echo", "one_forecast", "two_forecast"]
        for name in names[1:]:
            assert text_of(await client.call(name, city="Oslo")) == f"{name}: rain in Oslo"


def notifying() -> Router:
    """A router whose handlers of all kinds notify of one of its resources."""
    router = Router("notes", resource_subscriptions=True)

    def report(ctx: RequestContext) -> str:
        found = ctx.notify_resource_updated("data://all")
        return f"{found.sent + found.listeners} told, {found.dropped} dropped"

    @router.resource("data://all")
    async def everything(ctx: RequestContext) -> str:
        return report(ctx)

    @router.tool()
    async def add(ctx: RequestContext) -> str:
        return report(ctx)

    @router.prompt()
    async def ask(ctx: RequestContext, topic: str = "") -> str:
        return report(ctx)

    @router.completion(ask, "topic")
    async def topics(ctx: RequestContext, value: str) -> list[str]:
        return [report(ctx)]

    @router.request("notes/own")
    async def own(ctx: RequestContext) -> dict[str, Any]:
        return {"report": report(ctx)}

    @router.notification("notes/noted")
    async def noted(ctx: RequestContext) -> None:
        report(ctx)

    return router


def asks(prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests to the handlers of `notifying`."""
    name = f"{prefix}_" if prefix else ""
    uri = f"data://{prefix.replace('_', '/')}/all" if prefix else "data://all"
    reference = {"type": "ref/prompt", "name": f"{name}ask"}
    return [
        ("resources/read", {"uri": uri}),
        ("tools/call", {"name": f"{name}add"}),
        ("prompts/get", {"name": f"{name}ask"}),
        ("completion/complete", {"ref": reference, "argument": {"name": "topic", "value": ""}}),
        ("notes/own", {}),
    ]


def updated(client: Client[Any]) -> list[str]:
    """Take the URIs that a client was notified of."""
    found = [
        params["uri"]
        for method, params in client.notifications
        if method == "notifications/resources/updated"
    ]
    client.notifications.clear()
    return found


@IN_ERAS
async def test_a_mounted_router_names_its_resources_itself_when_it_notifies(
    era: ClientEraName, autojump_clock: MockClock
) -> None:
    inner = notifying()
    middle = Router("middle")
    middle.mount(inner, prefix="b")
    uris = ["data://all", "data://a/b/all", "data://b/all"]
    async with (
        open_session_manager(main(middle, "a", resource_subscriptions=True)) as manager,
        connect_client(manager, era=era) as client,
        client.subscribe(*uris),
    ):
        for method, params in asks("a_b"):
            assert "1 told, 0 dropped" in repr(await client.request(method, params)), method
            await wait_all_tasks_blocked()
            assert updated(client) == ["data://a/b/all"], method
        # Clients of 2026-07-28 send no notifications to handlers.
        await client.notify("notes/noted")
        await wait_all_tasks_blocked()
        assert updated(client) == ["data://a/b/all"] * (era == "legacy")


@IN_ERAS
async def test_subscribers_are_notified_under_each_prefix_of_a_router_that_is_mounted_twice(
    era: ClientEraName, autojump_clock: MockClock
) -> None:
    shared = notifying()
    router = main(shared, "one", resource_subscriptions=True)
    router.mount(shared, prefix="two")

    @router.tool()
    async def touch(ctx: RequestContext, uri: str) -> int:
        report = ctx.notify_resource_updated(uri)
        return report.sent + report.listeners

    uris = ["data://one/all", "data://two/all", "data://all"]
    async with (
        open_session_manager(router) as manager,
        connect_client(manager, era=era) as client,
        connect_client(manager, era=era) as other,
        client.subscribe(*uris),
        other.subscribe("data://two/all"),
    ):
        assert (await client.call_tool("two_add")).text == "3 told, 0 dropped"
        await wait_all_tasks_blocked()
        assert updated(client) == uris[:2]
        assert updated(other) == ["data://two/all"]
        # The outer router names resources as clients do, and so does the manager.
        assert (await client.call_tool("touch", {"uri": "data://all"})).text == "1"
        await wait_all_tasks_blocked()
        assert updated(client) == ["data://all"]
        manager.notify_resource_updated("data://one/all")
        await wait_all_tasks_blocked()
        assert updated(client) == ["data://one/all"]


@IN_ERAS
async def test_middleware_of_the_outer_router_names_resources_as_the_router_that_answers(
    era: ClientEraName, autojump_clock: MockClock
) -> None:
    router = main(notifying(), "a", resource_subscriptions=True)

    @router.middleware
    async def tell(ctx: RequestContext, call_next: CallNext) -> Any:
        ctx.notify_resource_updated("data://told")
        return await call_next()

    async with (
        open_session_manager(router) as manager,
        connect_client(manager, era=era) as client,
        client.subscribe("data://a/told", "data://told"),
    ):
        await client.call_tool("a_add")
        await client.call_tool("echo", {"text": "x"})
        await wait_all_tasks_blocked()
        assert updated(client) == ["data://a/told", "data://told"]


@IN_ERAS
async def test_a_router_that_is_served_itself_names_its_resources_as_clients_do(
    era: ClientEraName, autojump_clock: MockClock
) -> None:
    inner = notifying()
    main(inner, "a")
    async with (
        open_session_manager(inner) as manager,
        connect_client(manager, era=era) as client,
        client.subscribe("data://all", "data://a/all"),
    ):
        for method, params in asks(""):
            assert "1 told, 0 dropped" in repr(await client.request(method, params)), method
            await wait_all_tasks_blocked()
            assert updated(client) == ["data://all"], method


@given(
    prefix=st.from_regex(r"[a-z_.-]{0,3}", fullmatch=True),
    name=st.text("ab_/:.{}", max_size=12),
    scheme=st.sampled_from(["", "a:", "a://", "a:///", "{x}://", "http://h:1/"]),
)
def test_every_prefixed_name_leads_back_to_the_name(prefix: str, name: str, scheme: str) -> None:
    mount = Mount(Router("any")._parts, prefix)
    for feature in FEATURES:
        for own in (name, scheme + name):
            assert mount.inner(feature, mount.outer(feature, own)) == own


# What holds for the parts of a mounted router.


@IN_ALL
async def test_middleware_of_the_mounted_router_is_called_within_that_of_the_outer_one(
    version: str, autojump_clock: MockClock
) -> None:
    calls: list[str] = []
    inner = weather()
    router = main(inner)

    async def add(name: str, call_next: CallNext) -> object:
        calls.append(name)
        return await call_next()

    @inner.middleware
    async def of_inner(ctx: RequestContext, call_next: CallNext) -> object:
        return await add("inner", call_next)

    @router.middleware
    async def of_outer(ctx: RequestContext, call_next: CallNext) -> object:
        return await add("outer", call_next)

    async with connected(router, version) as client:
        requests: list[tuple[str, dict[str, Any], list[str]]] = [
            ("tools/call", {"name": "echo", "arguments": {"text": ""}}, ["outer"]),
            ("tools/call", {"name": "weather_forecast"}, ["outer", "inner"]),
            ("tools/list", {}, ["outer"]),
            ("resources/read", {"uri": "data://weather/cities"}, ["outer", "inner"]),
            ("weather/own", {}, ["outer", "inner"]),
        ]
        for method, params, expected in requests:
            calls.clear()
            await client.request(method, params)
            assert calls == expected


async def test_lifespans_of_mounted_routers_are_entered_once_and_left_in_reverse_order(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    def lifespan(name: str) -> Any:
        @asynccontextmanager
        async def lifespan(session: Session) -> AsyncIterator[None]:
            events.append(f"open {name}")
            yield
            events.append(f"close {name}")

        return lifespan

    one, two = Router("one", lifespan=lifespan("one")), Router("two", lifespan=lifespan("two"))
    router = Router("main", lifespan=lifespan("main"))
    assert router.lifespan is not None
    router.mount(one, prefix="a")
    router.mount(one, prefix="b")
    one.mount(two, prefix="c")
    async with connected(router):
        assert events == ["open main", "open one", "open two"]
    assert events[3:] == ["close two", "close one", "close main"]
    plain = Router("plain")
    plain.mount(Router("nothing"))
    assert plain.lifespan is None
    plain.mount(two)
    assert plain.lifespan is two.lifespan


async def test_server_lifespans_of_mounted_routers_are_entered_once_before_the_first_client(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    def lifespan(name: str) -> Any:
        @asynccontextmanager
        async def lifespan(manager: SessionManager) -> AsyncIterator[str]:
            events.append(f"open {name}")
            yield f"value of {name}"
            events.append(f"close {name}")

        return lifespan

    inner = lifespan("inner")
    router = Router("main", server_lifespan=lifespan("main"))
    other = Router("other", server_lifespan=inner)

    @other.tool()
    async def read(ctx: RequestContext) -> str:
        return cast("str", ctx.server_state(inner))

    router.mount(other, prefix="a")
    router.mount(other, prefix="b")
    async with connected(router) as client:
        assert events == ["open main", "open inner"]
        assert (await client.call("b_read"))["content"][0]["text"] == "value of inner"
    assert events[2:] == ["close inner", "close main"]


async def test_scopes_of_mounted_tools_and_requests_are_needed(autojump_clock: MockClock) -> None:
    inner = Router("inner")

    @inner.tool(scopes="a b")
    async def locked() -> None: ...

    @inner.request("locked/own", scopes="c")
    async def own(ctx: RequestContext) -> None: ...

    router = main(inner, "in")
    assert router.required_scopes("tools/call", {"name": "in_locked"}) == ("a", "b")
    assert router.required_scopes("tools/call", {"name": "echo"}) == ()
    assert router.required_scopes("tools/call", {"name": 1}) == ()
    assert router.required_scopes("other", {}) == ()
    assert router.required_scopes("locked/own", {}) == ("c",)
    async with (
        open_session_manager(router) as manager,
        connect_client(manager, principal=Principal("ada", scopes="a")) as client,
    ):
        with pytest.raises(McpError, match=r"the scopes: a, b|the scopes: a b"):
            await client.call_tool("in_locked")


def test_header_parameters_of_mounted_tools_are_found() -> None:
    inner = Router("inner")
    schema = {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    }

    @inner.tool(input_schema=schema)
    async def look(arguments: dict[str, Any]) -> None: ...

    router = main(inner, "in")
    for name, expected in [("in_look", {"Region": ("region",)}), ("look", {}), ("echo", {})]:
        assert router.header_parameters("tools/call", {"name": name}) == expected
    assert router.header_parameters("tools/call", {"name": 1}) == {}
    assert inner.header_parameters("tools/call", {"name": "look"}) == {"Region": ("region",)}


def hint(max_age: float, scope: Any = "public") -> dict[str, CacheHint]:
    names = ("tools/list", "resources/read")
    return {name: CacheHint(max_age=max_age, scope=scope) for name in names}


@pytest.mark.parametrize(
    "outer, inner, listed",
    [
        (hint(60), hint(5), (5000, "public")),
        (hint(5), hint(60, "private"), (5000, "private")),
        ({}, hint(60), (0, "private")),
    ],
)
async def test_lists_are_kept_as_long_as_all_routers_allow_and_resources_as_long_as_theirs(
    outer: dict[str, CacheHint],
    inner: dict[str, CacheHint],
    listed: tuple[int, str],
    autojump_clock: MockClock,
) -> None:
    router = main(weather(cache_hints=inner), cache_hints=outer)

    @router.resource("data://own")
    async def own() -> str:
        return "own"

    @router.resource("data://asks")
    async def asks(ctx: RequestContext) -> str | InputRequired:
        question = Elicitation("?", {"type": "object", "properties": {}}, key="a")
        answer = ctx.answer_to(question)
        return InputRequired(question) if answer is None else answer.action

    def times(hints: dict[str, CacheHint]) -> tuple[int, str]:
        own = hints.get("resources/read", CacheHint())
        return round(own.max_age * 1000), own.scope

    async with serving(router) as manager:
        peer = await connect(manager)

        async def ask(method: str, params: Any = None) -> Any:
            capable: dict[str, Any] = {"elicitation": {}}
            message = modern(1, method, params or {}, capabilities=capable)
            answer = (await peer.ask(1, method, message["params"]))["result"]
            return answer.get("ttlMs"), answer.get("cacheScope")

        assert await ask("tools/list") == listed
        assert await ask("resources/read", {"uri": "data://weather/cities"}) == times(inner)
        assert await ask("resources/read", {"uri": "data://own"}) == times(outer)
        assert await ask("resources/read", {"uri": "data://asks"}) == (None, None)
        responses = {"inputResponses": {"a": {"action": "decline"}}}
        read = await ask("resources/read", {"uri": "data://asks", **responses})
        assert read == (0, "private")
        await peer.channel.aclose()


def test_a_method_that_no_router_serves_has_the_hint_of_the_outer_one() -> None:
    router = main(cache_hints={"server/discover": CacheHint(max_age=3, scope="public")})
    assert router.cache_hint("server/discover") == CacheHint(max_age=3, scope="public")


def test_a_router_serves_the_methods_of_what_is_mounted() -> None:
    router = main()
    assert router.handles_request("weather/own")
    assert not router.handles_request("other")
    assert router.handles_notification("weather/noted")
    assert not router.handles_notification("other")
    assert router._noticed.get("other") is None
    assert repr(router) == "<Router 'main': 2 methods>"


@IN_BOTH
async def test_schemas_and_options_of_the_mounted_router_hold_for_its_tools(
    version: str, autojump_clock: MockClock
) -> None:
    inner = Router("inner", strict=True)

    @inner.tool()
    async def add(a: Annotated[int, "A number"]) -> int: ...  # type: ignore[empty-body]

    async with connected(main(inner, "in"), version) as client:
        called = await client.call("in_add", a="5")
        assert called["isError"] is True
