"""Visibility: lists and calls agree, and the clients that a change concerns are notified."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st
from msgspec import Meta
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, modern, serving
from trio_mcp_session import (
    CacheHint,
    CallNext,
    Component,
    McpError,
    Principal,
    RequestContext,
    Router,
    open_session_manager,
)
from trio_mcp_session.testing import connect_client

from .client import ERAS, Client, D, M, connected

IN_ALL = pytest.mark.parametrize("version", ERAS)
IN_BOTH = pytest.mark.parametrize("version", [D, M])
InHeader = Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Key"})]
FEATURES = {"tools", "prompts", "resources"}


def full(**options: Any) -> Router:
    """A router with two things of every kind."""
    router = Router("full", **options)
    for name in ("one", "two"):

        @router.tool(name=name)
        async def run() -> str:
            return "ran"

        @router.prompt(name=name)
        async def ask(city: str = "") -> str:
            return "asked"

        @router.resource(f"data://{name}")
        async def read() -> str:
            return "read"

        @router.resource(f"data://{name}/{{part}}")
        async def part(part: str) -> str:
            return part

    @router.completion("one", "city")
    async def cities(value: str) -> list[str]:
        return ["Oslo"]

    return router


async def seen_by(client: Client) -> dict[str, list[str]]:
    """Return what a client sees, and check that requests agree with the lists."""
    found: dict[str, list[str]] = {}
    for method, member, key in (
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ):
        listed = await client.request(method)
        found[member] = [one[key] for one in listed[member]]
    for name in ("one", "two"):
        for method, member, value in (
            ("tools/call", "tools", name),
            ("prompts/get", "prompts", name),
            ("resources/read", "resources", f"data://{name}"),
            ("resources/read", "resourceTemplates", f"data://{name}/{{part}}"),
        ):
            key = "uri" if method == "resources/read" else "name"
            params = {key: value.replace("{part}", "a")}
            answer = await client.answer_to(await client.ask(method, params))
            assert ("result" in answer) is (value in found[member])
    await client.forgive()
    return found


ALL = {
    "tools": ["one", "two"],
    "prompts": ["one", "two"],
    "resources": ["data://one", "data://two"],
    "resourceTemplates": ["data://one/{part}", "data://two/{part}"],
}


@IN_ALL
async def test_what_is_disabled_is_not_listed_and_unknown(
    version: str, autojump_clock: MockClock
) -> None:
    router = full()
    router.disable(tools="one", prompts=["one"], resources=["data://one", "data://two/{part}"])
    async with connected(router, version) as client:
        assert await seen_by(client) == {
            "tools": ["two"],
            "prompts": ["two"],
            "resources": ["data://two"],
            "resourceTemplates": ["data://one/{part}"],
        }
        refused = await client.refused("tools/call", {"name": "one"})
        assert refused["message"] == "Unknown tool: 'one'"
        reference = {"type": "ref/prompt", "name": "one"}
        params = {"ref": reference, "argument": {"name": "city", "value": ""}}
        refused = await client.refused("completion/complete", params)
        assert refused["message"] == "ref does not match a prompt or a resource template"
        router.enable(tools="one", prompts="one", resources=["data://one", "data://two/{part}"])
        assert await seen_by(client) == ALL
        completed = await client.request("completion/complete", params)
        assert completed["completion"]["values"] == ["Oslo"]


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_disabled_tool_needs_neither_scopes_nor_headers(
    mounted: bool, autojump_clock: MockClock
) -> None:
    """Otherwise the answer would tell that the tool exists."""
    router = served = Router("main")
    if mounted:
        served = Router("outer")
        served.mount(router)

    @router.tool(scopes="admin")
    async def secret(key: InHeader) -> None: ...

    called = "tools/call", {"name": "secret"}
    assert served.required_scopes(*called) == ("admin",)
    assert served.header_parameters(*called) == {"Key": ("key",)}
    router.disable(tools="secret")
    assert served.required_scopes(*called) == ()
    assert served.header_parameters(*called) == {}
    async with (
        open_session_manager(served) as manager,
        connect_client(manager, principal=Principal("ada")) as client,
    ):
        with pytest.raises(McpError, match="Unknown tool: 'secret'"):
            await client.call_tool("secret")


def test_unknown_names_are_refused() -> None:
    router = full()
    for kind in sorted(FEATURES):
        names: dict[str, Any] = {kind: ["one", "data://one", "nope"]}
        with pytest.raises(ValueError, match=f"is not a name in the {kind} of this router"):
            router.disable(**names)
        with pytest.raises(ValueError, match=f"is not a name in the {kind} of this router"):
            router.enable(**names)


async def test_what_is_disabled_for_one_session_is_seen_by_the_others(
    autojump_clock: MockClock,
) -> None:
    router = full()
    router.disable(prompts="two")

    @router.tool()
    async def less(ctx: RequestContext) -> None:
        router.disable(tools="one", session=ctx.session)
        router.enable(prompts="two", session=ctx.session)

    async with (
        open_session_manager(router) as manager,
        connect_client(manager) as mine,
        connect_client(manager) as other,
    ):
        await mine.call_tool("less")
        listed = await mine.request("tools/list")
        assert [one["name"] for one in listed["tools"]] == ["two", "less"]
        with pytest.raises(McpError, match="Unknown tool: 'one'"):
            await mine.call_tool("one")
        assert len((await mine.request("prompts/list"))["prompts"]) == 2
        assert await mine.wait_notification("notifications/tools/list_changed") is not None
        assert await mine.wait_notification("notifications/prompts/list_changed") is not None
        assert (await other.call_tool("one")).text == "ran"
        assert len((await other.request("prompts/list"))["prompts"]) == 1


@pytest.mark.parametrize("mounted", [False, True])
async def test_clients_are_notified_of_what_concerns_them(
    mounted: bool, autojump_clock: MockClock
) -> None:
    router = full()
    served = router
    name = "one"
    if mounted:
        served, middle = Router("main"), Router("middle")
        served.mount(middle, prefix="a")
        middle.mount(router, prefix="b")
        name = "a_b_one"

    def told(client: Client) -> list[str]:
        found = [one["method"].split("/")[1] for one in client.notes]
        client.notes.clear()
        return found

    async with connected(served) as client:

        async def after() -> list[str]:
            await wait_all_tasks_blocked()
            await client.request("ping")
            return told(client)

        assert await after() == []
        served.disable(tools=name)
        assert await after() == ["tools"]
        served.disable(tools=name)
        assert await after() == []
        router.disable(prompts="one", resources="data://one")
        assert await after() == ["prompts", "resources"]
        router.enable(prompts="one")
        router.enable(prompts="one")
        assert await after() == ["prompts"]
        served.enable(tools=name, session=client.session)
        served.enable(tools=name, session=client.session)
        assert await after() == ["tools"]
        served.visible(lambda _, component: component.feature != "tools")
        assert sorted(await after()) == sorted(FEATURES)
    served.disable(tools=name)  # No manager serves it now.


async def test_a_session_without_a_client_is_not_notified(autojump_clock: MockClock) -> None:
    router = full()
    async with open_session_manager(router) as manager, manager.open_session() as session:
        router.disable(tools="one", session=session)
    router.enable(tools="one", session=session)


async def test_a_subscription_of_2026_07_28_is_notified(autojump_clock: MockClock) -> None:
    router = full()
    async with serving(router) as manager:
        peer = await connect(manager)
        listen = {"notifications": {"toolsListChanged": True}}
        await peer.send(modern(1, "subscriptions/listen", listen))
        assert (await peer.receive())["method"] == "notifications/subscriptions/acknowledged"
        router.disable(tools="one")
        assert (await peer.receive())["method"] == "notifications/tools/list_changed"
        await peer.channel.aclose()


# Predicates.


@IN_ALL
async def test_a_predicate_decides_for_each_request_and_component(
    version: str, autojump_clock: MockClock
) -> None:
    router = full()
    seen: set[tuple[str, str, str]] = set()

    @router.visible
    def only_two(ctx: RequestContext, component: Component) -> bool:
        seen.add((component.feature, component.name, type(component.item).__name__))
        return "one" not in component.name

    async with connected(router, version) as client:
        assert await seen_by(client) == {kind: names[1:] for kind, names in ALL.items()}
    assert seen >= {
        ("tools", "one", "Tool"),
        ("prompts", "two", "Prompt"),
        ("resources", "data://one", "Resource"),
        ("resources", "data://two/{part}", "Resource"),
    }


async def test_a_predicate_sees_the_principal_of_the_request(autojump_clock: MockClock) -> None:
    router = full()

    @router.visible
    def admins(ctx: RequestContext, component: Component) -> bool:
        assert ctx.principal is not None
        return component.name != "one" or "admin" in ctx.principal.scopes

    async with open_session_manager(router) as manager:
        for scopes, names in (["admin"], ["one", "two"]), ([], ["two"]):
            principal = Principal("ada", scopes=scopes)
            async with connect_client(manager, principal=principal) as client:
                listed = await client.request("tools/list")
                assert [one["name"] for one in listed["tools"]] == names


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_clients_of_one_principal_are_notified_when_the_answer_of_a_predicate_changes(
    era: Literal["legacy", "modern"], authenticated: bool, autojump_clock: MockClock
) -> None:
    router = full()
    unlocked: set[Principal | None] = set()

    @router.visible
    def when_unlocked(ctx: RequestContext, component: Component) -> bool:
        return component.name != "one" or ctx.principal in unlocked

    @router.tool()
    async def unlock(ctx: RequestContext) -> list[int]:
        unlocked.add(ctx.principal)
        report = ctx.notify_list_changed("tools", principal=ctx.principal)
        return [report.sent, report.listeners, report.dropped]

    ada, bob = (Principal("ada"), Principal("bob")) if authenticated else (None, None)
    changed = "notifications/tools/list_changed"
    async with (
        open_session_manager(router) as manager,
        connect_client(manager, principal=ada, era=era) as mine,
        connect_client(manager, principal=ada, era=era) as second,
        connect_client(manager, principal=bob, era=era) as other,
        mine.subscribe(lists=["tools"]),
        second.subscribe(lists=["tools"]),
        other.subscribe(lists=["tools"]),
    ):
        told = 2 if authenticated else 1  # Without authentication each connection is for itself.
        reached = [told, 0, 0] if era == "legacy" else [0, told, 0]
        assert (await mine.call_tool("unlock")).structured == {"result": reached}
        await wait_all_tasks_blocked()
        heard = [
            sum(method == changed for method, _ in one.notifications)
            for one in (mine, second, other)
        ]
        assert heard == [1, int(authenticated), 0]
        listed = [
            any(tool["name"] == "one" for tool in (await one.request("tools/list"))["tools"])
            for one in (mine, second, other)
        ]
        assert listed == [True, authenticated, False]
        # Without a principal, all are notified.
        report = manager.notify_list_changed("tools", principal=None)
        assert report.sent + report.listeners == 3


@IN_BOTH
async def test_a_predicate_that_fails_shows_nothing(
    version: str, autojump_clock: MockClock
) -> None:
    router = full()

    @router.visible
    def broken(ctx: RequestContext, component: Component) -> bool:
        raise KeyError("secret")

    async with connected(router, version) as client:
        for method in ("tools/list", "tools/call"):
            refused = await client.refused(method, {"name": "one"})
            assert refused["message"] == "Internal error"
            assert isinstance(await client.crash(), KeyError)


def test_a_predicate_that_waits_or_takes_less_is_refused() -> None:
    async def slow(ctx: RequestContext, component: Component) -> bool: ...  # type: ignore[empty-body]

    def short(ctx: RequestContext) -> bool: ...  # type: ignore[empty-body]

    for wrong in (slow, short):
        with pytest.raises(TypeError, match="must be a def that takes the context and a Component"):
            full().visible(wrong)  # type: ignore[type-var]


@pytest.mark.parametrize("where", ["outer", "inner", "nowhere"])
async def test_lists_that_depend_on_the_request_are_private_to_caches(
    where: str, autojump_clock: MockClock
) -> None:
    methods = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    hints = {
        method: CacheHint(max_age=60, scope="public") for method in (*methods, "resources/read")
    }
    inner = full(cache_hints=hints)
    router = Router("main", cache_hints=hints)
    router.mount(inner)
    if where != "nowhere":
        (router if where == "outer" else inner).visible(lambda _, component: True)
    async with serving(router) as manager:
        peer = await connect(manager)
        for method in (*methods, "resources/read"):
            answer = await peer.ask(1, method, modern(1, "", {"uri": "data://one"})["params"])
            expected = "public" if where == "nowhere" else "private"
            assert (answer["result"]["ttlMs"], answer["result"]["cacheScope"]) == (60_000, expected)
        await peer.channel.aclose()


# Together with mounts and middleware.


@IN_BOTH
async def test_each_router_hides_by_its_own_names(version: str, autojump_clock: MockClock) -> None:
    inner, router = full(), Router("main")
    router.mount(inner, prefix="in")
    inner.disable(tools="one", resources="data://one")
    router.disable(prompts="in_one", resources="data://in/two/{part}")
    async with connected(router, version) as client:
        listed = await client.request("tools/list")
        assert [one["name"] for one in listed["tools"]] == ["in_two"]
        listed = await client.request("prompts/list")
        assert [one["name"] for one in listed["prompts"]] == ["in_two"]
        listed = await client.request("resources/list")
        assert [one["uri"] for one in listed["resources"]] == ["data://in/two"]
        for uri in ("data://in/one", "data://in/two/a"):
            refused = await client.refused("resources/read", {"uri": uri})
            assert refused["message"] == f"Resource not found: {uri!r}"
        await client.forgive()
    assert router.header_parameters("tools/call", {"name": "in_one"}) == {}


@IN_BOTH
async def test_a_hidden_template_does_not_cover_another_resource(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("main")

    @router.resource("data://{name}")
    async def every(name: str) -> str:
        return "every"

    @router.resource("{+uri}", any_path=["uri"])
    async def rest(uri: str) -> str:
        return "rest"

    async with connected(router, version) as client:
        for expected in ("every", "rest"):
            read = await client.request("resources/read", {"uri": "data://x"})
            assert read["contents"][0]["text"] == expected
            router.disable(resources="data://{name}")


@IN_BOTH
async def test_middleware_is_around_requests_for_hidden_tools(
    version: str, autojump_clock: MockClock
) -> None:
    router = full()
    errors: list[str] = []

    @router.middleware
    async def watch(ctx: RequestContext, call_next: CallNext) -> object:
        try:
            return await call_next()
        except McpError as error:
            errors.append(error.message)
            raise

    router.disable(tools="one")
    async with connected(router, version) as client:
        await client.refused("tools/call", {"name": "one"})
    assert errors == ["Unknown tool: 'one'"]


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(), st.sampled_from(["outer", "inner"]), st.sampled_from(["one", "two"])
        ),
        max_size=8,
    )
)
def test_lists_and_lookups_agree_after_any_changes(steps: list[tuple[bool, str, str]]) -> None:
    from trio_mcp_session.application.mounting import entries, find

    inner, router = full(), Router("main")
    router.mount(inner, prefix="in")
    hidden: set[tuple[str, str]] = set()
    for enable, where, name in steps:
        changed = router if where == "outer" else inner
        shown = f"in_{name}" if where == "outer" else name
        (changed.enable if enable else changed.disable)(tools=shown)
        (hidden.discard if enable else hidden.add)((where, name))
    listed = {name for name, _ in entries(router._parts, "tools")}
    for name in ("one", "two"):
        visible = not hidden & {("outer", name), ("inner", name)}
        assert (f"in_{name}" in listed) is visible
        assert (find(router._parts, "tools", f"in_{name}") is not None) is visible
