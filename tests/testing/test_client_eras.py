"""The calls that all test clients have: in both eras, in memory and over HTTP."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_mcp_session import (
    Elicitation,
    InputRequired,
    McpError,
    NoSession,
    Principal,
    RequestContext,
    Router,
    SessionKind,
    SessionManager,
    ToolError,
    open_session_manager,
)
from trio_mcp_session.application.completions import Completion
from trio_mcp_session.application.content import ImageContent
from trio_mcp_session.testing import (
    Client,
    ClientEraName,
    ConnectionEnded,
    HttpConnection,
    PendingRequest,
    assert_no_leaks,
    check_leaks,
    connect_client,
    connect_http_client,
    hang,
)

router = Router("demo", "1", instructions="Be nice.", resource_subscriptions=True, page_size=1)
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
ERAS: list[ClientEraName] = ["legacy", "modern"]


@router.tool()
async def add(a: int, b: int = 0) -> int:
    return a + b


@router.tool()
async def fail() -> str:
    raise ToolError("no")


@router.tool()
async def ask(ctx: RequestContext, what: str) -> str:
    await ctx.progress(1, 2)
    if what == "elicit":
        answer = str((await ctx.elicit("who?", NOTHING)).action)
    elif what == "sample":
        answer = str((await ctx.sample([], max_tokens=1))["model"])
    else:
        answer = ",".join(root["uri"] for root in await ctx.list_roots())
    await ctx.progress(2, 2)
    return answer


@router.tool()
async def ask_twice(ctx: RequestContext) -> str:
    return f"{(await ctx.elicit('1', NOTHING)).action} {(await ctx.elicit('2', NOTHING)).action}"


@router.tool()
async def log(ctx: RequestContext) -> str:
    await ctx.log("debug", "small")
    await ctx.log("warning", "large")
    return "logged"


@router.tool()
async def sleep(seconds: float) -> None:
    await trio.sleep(seconds)


@router.tool()
async def whoami(ctx: RequestContext) -> str:
    return "ann" if ctx.principal == Principal("ann") else "another"


@router.resource("notes://all")
async def notes() -> str:
    return "milk"


@router.resource("notes://picture", mime_type="image/png")
async def picture() -> bytes:
    return b"png"


@router.resource("notes://{name}/text")
async def note(name: str) -> str:
    return f"note {name}"


@router.prompt()
async def review(code: str) -> list[Any]:
    """Review code."""
    return [f"Review {code}", ImageContent(b"png", "image/png")]


@router.completion("review", "code")
async def codes(value: str) -> Completion:
    return Completion([f"{value}1", f"{value}2"], total=3, has_more=True)


@router.completion("notes://{name}/text", "name")
async def names(value: str, arguments: dict[str, str]) -> list[str]:
    return [value, *arguments]


def connecting(manager: SessionManager, way: str, era: ClientEraName) -> Any:
    return partial(connect_http_client if way == "http" else connect_client, manager, era=era)


every_client = [
    pytest.mark.parametrize("era", ERAS),
    pytest.mark.parametrize("way", ["memory", "http"]),
]


def with_every_client(test: Any) -> Any:
    for mark in every_client:
        test = mark(test)
    return test


def messages_of(client: Client[Any]) -> int:
    """Return how many messages the server has received from a modern client."""
    if isinstance(client.server_end, HttpConnection):
        return len(client.server_end.responses)
    return client.session.metrics.messages_received


async def accept(_: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"action": "accept", "content": {}}


@with_every_client
async def test_tools_are_listed_and_called(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            assert client.protocol_version == ("2026-07-28" if era == "modern" else "2025-11-25")
            assert client.instructions == "Be nice."
            assert client.server_capabilities["resources"]["subscribe"]
            assert [tool["name"] for tool in await client.list_tools()][:2] == ["add", "fail"]
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert (result.text, result.structured) == ("3", {"result": 3})
            assert (await client.call_tool("fail")).is_error
            with pytest.raises(McpError, match="Unknown tool"):
                await client.call_tool("nothing")
        assert client.closed
        assert_no_leaks(manager, live=())


@with_every_client
async def test_resources_prompts_and_completions(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            uris = [one["uri"] for one in await client.list_resources()]
            assert uris == ["notes://all", "notes://picture"]
            (template,) = await client.list_resource_templates()
            assert template["uriTemplate"] == "notes://{name}/text"
            found = await client.read_resource("notes://all")
            assert (found.text, found.data) == ("milk", b"")
            found = await client.read_resource("notes://picture")
            assert (found.text, found.data) == ("", b"png")
            assert (await client.read_resource("notes://ü/text")).text == "note ü"
            with pytest.raises(McpError, match="not found"):
                await client.read_resource("notes://none")
            (prompt,) = await client.list_prompts()
            assert prompt["name"] == "review"
            got = await client.get_prompt("review", {"code": "x = 1"})
            assert got.text == "Review x = 1"
            assert len(got.messages) == 2
            assert got.description == "Review code."
            completed = await client.complete("code", "x", prompt="review")
            assert completed.values == ["x1", "x2"]
            assert (completed.total, completed.has_more) == (3, True)
            completed = await client.complete(
                "name", "a", template="notes://{name}/text", arguments={"other": "b"}
            )
            assert completed.values == ["a", "other"]
            with pytest.raises(TypeError, match="either prompt= or template="):
                await client.complete("code")


@with_every_client
async def test_questions_are_answered_by_the_same_functions(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async def sample(_: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": {"type": "text", "text": "m"}}
        return {"model": "m", **message}

    async with check_leaks(strict=True), open_session_manager(router) as manager:
        connect = connecting(manager, way, era)
        roots = [{"uri": "file:///a"}]
        async with connect(elicit=accept, sample=sample, roots=roots) as client:
            pending: PendingRequest = await client.start_request(
                "tools/call", {"name": "ask", "arguments": {"what": "elicit"}}, progress=True
            )
            first_id = pending.id
            assert (await pending.wait())["content"][0]["text"] == "accept"
            assert (pending.id != first_id) is (era == "modern")
            # Also of the call that a retry continues.
            assert [one["progress"] for one in pending.progress] == [1, 2]
            assert (await client.call_tool("ask", {"what": "sample"})).text == "m"
            assert (await client.call_tool("ask", {"what": "roots"})).text == "file:///a"
            assert (await client.call_tool("ask_twice")).text == "accept accept"
        # What it cannot answer it does not declare.
        async with connect() as client:
            with pytest.raises(McpError) if era == "modern" else trio.CancelScope():
                assert (await client.call_tool("ask", {"what": "elicit"})).is_error


async def test_a_state_without_a_question_is_sent_back(autojump_clock: MockClock) -> None:
    sure = Elicitation("Sure?", NOTHING, key="sure")
    own = Router("demo")

    @own.tool()
    async def staged(ctx: RequestContext) -> str | InputRequired:
        if ctx.request_state is not None:
            return "done"
        return InputRequired(sure) if ctx.answer_to(sure) is None else InputRequired(state="x")

    async with check_leaks(strict=True), open_session_manager(own) as manager:
        async with connect_client(manager, era="modern", elicit=accept) as client:
            assert (await client.call_tool("staged")).text == "done"


@pytest.mark.parametrize("way", ["memory", "http"])
async def test_a_retry_has_the_envelope_of_its_request(way: str, autojump_clock: MockClock) -> None:
    metas: list[dict[str, Any]] = []
    own = Router("demo")

    @own.tool()
    async def confirm(ctx: RequestContext) -> str:
        metas.append(dict(ctx.params["_meta"]))
        await ctx.elicit("Sure?", NOTHING)
        metas.append(dict(ctx.params["_meta"]))
        await ctx.log("info", "confirmed")
        return ""

    async with check_leaks(strict=True), open_session_manager(own) as manager:
        async with connecting(manager, way, "modern")(elicit=accept, name="me") as client:
            await client.set_log_level("info")
            params = {"name": "confirm", "arguments": {}, "_meta": {"example.com/mine": 1}}
            await client.request("tools/call", params, progress=True)
            assert [method for method, _ in client.notifications] == ["notifications/message"]
    first, retry = metas
    assert first["example.com/mine"] == 1
    assert first.pop("progressToken") != retry.pop("progressToken")
    assert retry == first


@with_every_client
async def test_a_failing_answerer_fails_the_test(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("not this question")

    async with open_session_manager(router) as manager:
        with pytest.raises(AssertionError, match="not this question"):
            async with connecting(manager, way, era)(elicit=answer) as client:
                await client.call_tool("ask", {"what": "elicit"})


@pytest.mark.parametrize("way", ["memory", "http"])
async def test_a_refused_question_ends_a_modern_request(
    way: str, autojump_clock: MockClock
) -> None:
    async def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise McpError(-1, "rather not", {"why": 1})

    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, "modern")(elicit=refuse) as client:
            with pytest.raises(McpError, match="rather not") as caught:
                await client.call_tool("ask", {"what": "elicit"})
            assert (caught.value.code, caught.value.data) == (-1, {"why": 1})
        capabilities: dict[str, Any] = {"elicitation": {}}
        async with connecting(manager, way, "modern")(capabilities=capabilities) as client:
            with pytest.raises(McpError, match="Method not found"):
                await client.call_tool("ask", {"what": "elicit"})


@pytest.mark.parametrize("way", ["memory", "http"])
async def test_a_cancelled_request_is_not_retried(way: str, autojump_clock: MockClock) -> None:
    async def answer(_: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(1)
        raise AssertionError("it is cancelled with the request")  # pragma: no cover

    async with open_session_manager(router) as manager:
        async with connecting(manager, way, "modern")(elicit=answer) as client:
            pending = await client.start_request(
                "tools/call", {"name": "ask", "arguments": {"what": "elicit"}}
            )
            await wait_all_tasks_blocked()
            assert [one.kind for one in manager.sessions()].count(SessionKind.PARKED) == 1
            sent = messages_of(client)
            pending.cancel()
            with pytest.raises(ConnectionEnded):
                await pending.wait()
            await trio.sleep(2)
            # The server has answered the request, so it is not told.
            assert messages_of(client) == sent
            assert (await client.call_tool("add", {"a": 1})).text == "1"


@pytest.mark.parametrize("way", ["memory", "http"])
async def test_a_client_that_leaves_while_it_answers(way: str, autojump_clock: MockClock) -> None:
    async def answer(_: dict[str, Any]) -> dict[str, Any]:
        client.drop()
        return await hang()

    async with open_session_manager(router) as manager:
        async with connecting(manager, way, "modern")(elicit=answer) as client:
            with pytest.raises(ConnectionEnded):
                await client.call_tool("ask", {"what": "elicit"})


@with_every_client
async def test_log_messages_from_a_level_on(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            with assert_checkpoints():
                await client.set_log_level("warning")
            await client.call_tool("log")
            messages = [p["data"] for m, p in client.notifications if m == "notifications/message"]
            assert messages == ["large"]


@with_every_client
async def test_subscriptions(way: str, era: ClientEraName, autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            async with client.subscribe("notes://all", lists=["tools", "prompts"]):
                manager.notify_resource_updated("notes://other")
                manager.notify_resource_updated("notes://all")
                manager.notify_list_changed("tools")
                updated = await client.wait_notification("notifications/resources/updated")
                assert updated["uri"] == "notes://all"
                await client.wait_notification("notifications/tools/list_changed")
            await wait_all_tasks_blocked()
            client.notifications.clear()
            await trio.sleep(1)  # Then the server knows.
            manager.notify_resource_updated("notes://all")
            await client.list_prompts()
            assert client.notifications == []
            async with client.subscribe(lists=["resources"]):
                pass


@with_every_client
async def test_changes_that_a_server_does_not_notify_of(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(Router("empty")) as manager:
        async with connecting(manager, way, era)() as client:
            with pytest.raises(LookupError, match="list of prompts"):
                async with client.subscribe(lists=["prompts"]):
                    pass  # pragma: no cover
            with pytest.raises(LookupError, match=r"such as 'a:b'.*resource_subscriptions=True"):
                async with client.subscribe("a:b"):
                    pass  # pragma: no cover
            with pytest.raises(ValueError, match="not 'roots'"):
                async with client.subscribe(lists=["roots"]):
                    pass  # pragma: no cover


@with_every_client
async def test_a_refused_subscription(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            uris = [f"notes://{number}" for number in range(2000)]
            with pytest.raises(McpError, match="resources can be subscribed to"):
                async with client.subscribe(*uris):
                    pass  # pragma: no cover


@with_every_client
async def test_a_cancelled_request_is_cancelled_at_the_server(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            with trio.move_on_after(1):
                await client.call_tool("sleep", {"seconds": 100})
            await trio.sleep(1)  # A server over HTTP notices that a little later.
            assert manager.statistics().in_flight == 0
            assert trio.current_time() == 2


@with_every_client
async def test_the_client_has_its_principal(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)(principal=Principal("ann")) as client:
            assert (await client.call_tool("whoami")).text == "ann"
        async with connecting(manager, way, era)() as client:
            assert (await client.call_tool("whoami")).text == "another"


@with_every_client
async def test_requests_in_flight_and_errors_of_the_body(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        with pytest.raises(ValueError, match="mine"):
            async with connecting(manager, way, era)() as client:
                await client.start_request(
                    "tools/call", {"name": "sleep", "arguments": {"seconds": 100}}
                )
                raise ValueError("mine")
        with trio.move_on_after(1) as scope:
            async with connecting(manager, way, era)() as client:
                await client.call_tool("sleep", {"seconds": 100})
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert_no_leaks(manager, live=())


@with_every_client
async def test_the_end_of_the_server(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            async with client.subscribe("notes://all") if era == "modern" else trio.open_nursery():
                await manager.drain()
                with pytest.raises((ConnectionEnded, McpError)):
                    await client.list_prompts()


@with_every_client
async def test_a_server_of_the_other_era_refuses(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    own = Router("demo", eras="legacy" if era == "modern" else "modern")
    async with open_session_manager(own) as manager:
        with pytest.raises(McpError, match="Unsupported protocol version"):
            await connecting(manager, way, era)().__aenter__()


@pytest.mark.parametrize("way", ["memory", "http"])
async def test_a_revision_and_an_era_that_do_not_match(way: str) -> None:
    async with open_session_manager(router) as manager:
        legacy, modern = connecting(manager, way, "legacy"), connecting(manager, way, "modern")
        with pytest.raises(ValueError, match=r"has no handshake: .*use era='modern'"):
            legacy(version="2026-07-28")
        for version in (None, "2025-11-25"):
            with pytest.raises(ValueError, match=f"version={version!r} is not for era='modern'"):
                modern(version=version)
        modern(version="2026-07-28")
        with pytest.raises(ValueError, match="era must be 'legacy' or 'modern', not 'new'"):
            connecting(manager, way, "new")()  # type: ignore[arg-type]  # that is the point


async def test_what_a_modern_client_says_of_itself(autojump_clock: MockClock) -> None:
    seen: list[Any] = []
    own = Router("demo")

    @own.tool()
    async def look(ctx: RequestContext) -> str:
        seen.append(ctx.client)
        with pytest.raises(NoSession):
            _ = ctx.session
        return ""

    async with open_session_manager(own) as manager:
        async with connect_client(manager, era="modern", name="me", roots=[]) as client:
            await client.call_tool("look")
            assert client.discover_result is not None
            assert client.initialize_result is None
        assert seen[0].client_id == "me"
        tasks: dict[str, Any] = {"io.modelcontextprotocol/tasks": {}}
        assert seen[0].capabilities == {"roots": {}, "extensions": tasks}


async def test_there_is_no_ping_in_the_modern_era(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connect_client(manager, era="modern") as client:
            assert isinstance(client, Client)
            with pytest.raises(McpError, match="Method not found"):
                await client.ping()
