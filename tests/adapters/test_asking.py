"""Handlers of the SDK ask their client, in both eras."""

from __future__ import annotations

from typing import Any

import anyio
import mcp_types as types
import pytest
import trio
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError, NoBackChannelError
from trio.testing import MockClock

from tests.adapters.apps import ERAS, Name, accept, app_with, client_of, serving
from trio_mcp_session import McpError, SessionKind, SessionLimits, current_session
from trio_mcp_session.testing import connect_client, connect_http_client, modern

pytestmark = pytest.mark.parametrize("era", ERAS)


async def greet(ctx: Context) -> str:
    answer: Any = await ctx.elicit("Who?", Name)
    return f"Hello {answer.data.name}"


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_a_form(connect: Any, era: Any, autojump_clock: MockClock) -> None:
    asked: list[Any] = []

    async def answer(params: Any) -> Any:
        asked.append(params)
        return await accept(params)

    async with serving(app_with(greet)) as manager:
        async with connect(manager, era=era, elicit=answer) as client:
            assert (await client.call_tool("greet")).text == "Hello Ada"
    assert asked[0]["message"] == "Who?"


async def test_a_url_has_an_id_only_where_the_revision_has_one(
    era: Any, autojump_clock: MockClock
) -> None:
    asked: list[Any] = []

    async def answer(params: Any) -> Any:
        asked.append(params)
        return {"action": "accept"}

    async def log_in(ctx: Context) -> str:
        return (await ctx.elicit_url("Log in", "https://example.com", "one")).action

    capabilities: Any = {"elicitation": {"form": {}, "url": {}}}
    app = app_with(log_in)
    async with client_of(app, era, elicit=answer, capabilities=capabilities) as client:
        assert (await client.call_tool("log_in")).text == "accept"
    assert asked[0].get("elicitationId") == ("one" if era == "legacy" else None)


async def test_roots_and_sampling(era: Any, autojump_clock: MockClock) -> None:
    async def sample(params: Any) -> Any:
        content = {"type": "text", "text": "short"}
        return {"role": "assistant", "content": content, "model": "test"}

    async def both(ctx: Context) -> list[str]:
        session: Any = ctx.session
        content = types.TextContent(text="Hi")
        message = types.SamplingMessage(role="user", content=content)
        result = await session.create_message([message], max_tokens=1)
        return [str(one.uri) for one in (await session.list_roots()).roots] + [result.content.text]

    roots = [{"uri": "file:///home"}]
    async with client_of(app_with(both), era, sample=sample, roots=roots) as client:
        answer = await client.call_tool("both")
        assert answer.structured == {"result": ["file:///home", "short"]}


async def test_a_client_without_the_capability(era: Any, autojump_clock: MockClock) -> None:
    async with client_of(app_with(greet), era) as client:
        with pytest.raises(McpError) as missing:
            await client.call_tool("greet")
        assert missing.value.code == (-32600 if era == "legacy" else -32021)


async def test_a_client_that_answers_with_an_error(era: Any, autojump_clock: MockClock) -> None:
    if era == "modern":
        pytest.skip("an answer of the modern revision is never an error")

    async def refuse(params: Any) -> Any:
        raise McpError(-32055, "no", {"why": "test"})

    async def ask(ctx: Context) -> str:
        with pytest.raises(MCPError) as refused:
            await ctx.elicit("Who?", Name)
        return f"{refused.value.error.code} {refused.value.error.message}"

    async with client_of(app_with(ask), era, elicit=refuse) as client:
        assert (await client.call_tool("ask")).text == "-32055 no"


async def test_their_timeout_of_a_question(era: Any, autojump_clock: MockClock) -> None:
    async def silent(params: Any) -> Any:
        await trio.sleep_forever()

    async def ask(ctx: Context) -> str:
        request: Any = types.ListRootsRequest()
        with pytest.raises(MCPError) as late:
            await ctx.session.send_request(request, types.ListRootsResult, 5)
        assert trio.current_time() - began == 5
        return str(late.value.error.code)

    began = trio.current_time()
    capabilities: Any = {"roots": {}}
    app = app_with(ask)
    answerers = {"roots/list": silent}
    async with client_of(app, era, capabilities=capabilities, answerers=answerers) as client:
        if era == "legacy":
            assert (await client.call_tool("ask")).text == "-32001"
        else:
            # The client leaves the question open: the call is over for it.
            pending = await client.start_request("tools/call", {"name": "ask", "arguments": {}})
            await trio.sleep(6)
            pending.cancel()


async def test_a_handler_cannot_ask_after_its_end(era: Any, autojump_clock: MockClock) -> None:
    kept: list[Context] = []

    async def keep(ctx: Context) -> str:
        kept.append(ctx)
        return "kept"

    async with client_of(app_with(keep), era, elicit=accept) as client:
        await client.call_tool("keep")
        assert not kept[0].session.can_send_request
        with pytest.raises(NoBackChannelError):
            await kept[0].elicit("Who?", Name)
        await kept[0].report_progress(1)


async def test_the_end_of_a_parked_call_cancels_it(era: Any, autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def ask(ctx: Context) -> str:
        try:
            return str(await ctx.elicit("Who?", Name))
        finally:
            ended.append("ended")

    async def silent(params: Any) -> Any:
        await trio.sleep_forever()

    async with serving(app_with(ask)) as manager:
        async with connect_client(manager, era=era, elicit=silent) as client:
            pending = await client.start_request("tools/call", {"name": "ask", "arguments": {}})
            await trio.sleep(1)
            parked = [one for one in manager.sessions() if one.kind is SessionKind.PARKED]
            assert len(parked) == (era == "modern")
            assert ended == []
            for one in parked or [client.session]:
                one.terminate()
            await trio.sleep(1)
            assert ended == ["ended"]
            pending.cancel()


async def test_a_cancelled_handler_sees_the_event(era: Any, autojump_clock: MockClock) -> None:
    seen: list[bool] = []

    async def wait(ctx: Context) -> str:
        event = ctx.session._request_outbound.cancel_requested
        seen.append(event.is_set())
        events.append(ctx.session._request_outbound.cancel_requested)
        await anyio.sleep(999)
        raise AssertionError

    events: list[Any] = []
    async with client_of(app_with(wait), era) as client:
        pending = await client.start_request("tools/call", {"name": "wait", "arguments": {}})
        await trio.sleep(1)
        pending.cancel()
        await trio.sleep(1)
        assert (seen, [one.is_set() for one in events]) == ([False], [True])


async def test_too_many_questions(era: Any, autojump_clock: MockClock) -> None:
    async def ask(ctx: Context) -> str:
        failed: list[str] = []

        async def once() -> None:
            try:
                await ctx.elicit("Who?", Name)
            except MCPError as error:
                failed.append(f"{error.error.code} {error.error.message}")

        async with anyio.create_task_group() as group:
            group.start_soon(once)
            await anyio.sleep(1)
            await once()
        return failed[0]

    async def slowly(params: Any) -> Any:
        await trio.sleep(5)
        return await accept(params)

    limits = SessionLimits(max_questions=1)
    async with serving(app_with(ask), limits=limits) as manager:
        async with connect_client(manager, era=era, elicit=slowly) as client:
            assert (await client.call_tool("ask")).text.startswith("-32603")


async def test_a_question_that_is_not_json(era: Any, autojump_clock: MockClock) -> None:
    async def ask(ctx: Context) -> str:
        channel = ctx.session._request_outbound
        with pytest.raises(TypeError):
            await channel.send_raw_request("elicitation/create", {"x": object()})
        return "refused"

    async with client_of(app_with(ask), era, elicit=accept) as client:
        assert (await client.call_tool("ask")).text == "refused"


async def test_a_question_outside_of_a_request(era: Any, autojump_clock: MockClock) -> None:
    done = trio.Event()

    async def start(ctx: Context) -> str:
        async def ping() -> None:
            await ctx.session.send_ping()
            done.set()

        current_session().start_soon(ping)
        return "started"

    if era == "modern":
        pytest.skip("requests of this era have no session")
    async with client_of(app_with(start), era) as client:
        await client.call_tool("start")
        await done.wait()


# Questions that are returned.


def guarded(rounds: int) -> Any:
    async def ask(ctx: Context) -> Any:
        done = int(ctx.request_state or 0)
        if done == rounds:
            return f"after {done}: {sorted(ctx.input_responses or {})}"
        params = types.ElicitRequestFormParams(
            message="Name?", requested_schema={"type": "object", "properties": {}}
        )
        question = types.ElicitRequest(params=params)
        state = str(done + 1)
        return types.InputRequiredResult(input_requests={"who": question}, request_state=state)

    return ask


@pytest.mark.parametrize("rounds", [1, 3])
async def test_a_returned_question(rounds: int, era: Any, autojump_clock: MockClock) -> None:
    async with client_of(app_with(guarded(rounds)), era, elicit=accept) as client:
        if era == "legacy":
            with pytest.raises(McpError):  # Their server cannot send it to such a client either.
                await client.call_tool("ask")
        else:
            assert (await client.call_tool("ask")).text == f"after {rounds}: ['who']"


async def test_their_state_is_bound_to_the_request(era: Any, autojump_clock: MockClock) -> None:
    if era == "legacy":
        pytest.skip("results of this era have no state")
    async with serving(app_with(guarded(1), greet)) as manager:
        async with connect_client(manager, version=None) as client:
            call = {"name": "ask", "arguments": {}}
            result = await client.request("tools/call", modern(call))
            assert result["resultType"] == "input_required"
            state = result["requestState"]
            for name, sent in [("greet", state), ("ask", "forged")]:
                retry = {"name": name, "arguments": {}, "requestState": sent}
                with pytest.raises(McpError) as refused:
                    await client.request("tools/call", modern(retry))
                assert refused.value.code == -32602
            retry = {**call, "requestState": state, "inputResponses": {}}
            result = await client.request("tools/call", modern(retry))
            assert result["content"][0]["text"] == "after 1: []"


async def test_a_returned_question_without_state(era: Any, autojump_clock: MockClock) -> None:
    async def call_tool(ctx: Any, params: Any) -> Any:
        if params.input_responses:
            return types.CallToolResult(content=[types.TextContent(text="answered")])
        return types.InputRequiredResult(input_requests={"where": types.ListRootsRequest()})

    server: Server[Any] = Server("low", on_call_tool=call_tool)
    if era == "legacy":
        pytest.skip("results of this era have no questions")
    async with client_of(server, era, roots=[]) as client:
        assert (await client.call_tool("ask")).text == "answered"
    async with client_of(server, era) as client:
        with pytest.raises(McpError) as missing:
            await client.call_tool("ask")
        assert missing.value.code == -32021
