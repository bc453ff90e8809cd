"""One handler text asks the clients of both eras."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.application.answering import by_method, play, text_of, tool, with_tool
from tests.application.client import ERAS, VERSIONS, A, B, C, D, M, connected, envelope_of
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    Elicitation,
    InputRequired,
    McpError,
    NoChannel,
    QuestionTimeout,
    RequestContext,
    Roots,
    Router,
    Sampling,
    SessionLimits,
    ToolError,
    current_request,
)
from trio_mcp_session.server.client_connection import client_of

ALL: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
IN_BOTH = pytest.mark.parametrize("version", [D, M])
IN_ALL = pytest.mark.parametrize("version", ERAS)
DECLINE = {"action": "decline"}
MARK: ContextVar[str] = ContextVar("mark", default="none")


# One await.


@IN_BOTH
async def test_questions_of_both_eras_return_the_answers(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> str:
        MARK.set("mine")
        with assert_checkpoints():
            name = await ctx.elicit("Who?", SCHEMA)
        with assert_checkpoints():
            text = await ctx.sample([{"role": "user"}], max_tokens=5, systemPrompt="Be brief.")
        with assert_checkpoints():
            roots = await ctx.list_roots()
        assert current_request() is ctx
        return f"{name.content} {text['model']} {roots} {MARK.get()}"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        for _ in range(2):
            answer, asked = await play(client, "tools/call", tool("run"))
            assert text_of(answer) == "{'name': 'Ada'} m [{'uri': 'file:///'}] mine"
            sampled = {
                "messages": [{"role": "user"}],
                "maxTokens": 5,
                "systemPrompt": "Be brief.",
            }
            assert asked == [
                ("elicitation/create", {"message": "Who?", "requestedSchema": SCHEMA}),
                ("sampling/createMessage", sampled),
                ("roots/list", None),
            ]


@IN_ALL
async def test_ask_all_returns_answers_in_order(version: str, autojump_clock: MockClock) -> None:
    """In the order in which they are asked, whatever the order of the answers."""

    async def run(ctx: RequestContext) -> str:
        with assert_checkpoints():
            roots, text, more = await ctx.ask_all(
                Roots(), Sampling([], max_tokens=1), Roots(key="more")
            )
        with assert_checkpoints():
            assert await ctx.ask_all() == ()
        (one,) = await ctx.ask_all(Roots())
        return f"{len(roots)} {text['model']} {len(more)} {len(one)}"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert text_of(answer) == "1 m 1 1"
        assert len(asked) == 4


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
async def test_methods_that_may_ask_in_both_eras(method: str, autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request(method)
    async def run(ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots()}

    for version in (D, M):
        async with connected(router, version, capabilities=ALL) as client:
            answer, asked = await play(client, method, {})
            assert asked == [("roots/list", None)]
            assert answer["result"]["roots"] == [{"uri": "file:///"}]


@pytest.mark.parametrize("method", ["tools/list", "completion/complete", "x/own"])
async def test_modern_methods_that_may_not_ask_raise_no_channel(
    method: str, autojump_clock: MockClock
) -> None:
    """From 2026-07-28 on, where a question is a kind of answer."""
    router = Router("test")
    refused: list[str] = []

    @router.request(method)
    async def run(ctx: RequestContext) -> None:
        try:
            with assert_checkpoints():
                await ctx.list_roots()
        except NoChannel as error:
            refused.append(str(error))

    async with connected(router, D, capabilities=ALL) as client:
        await play(client, method, {})
        assert refused == []
    async with connected(router, M, capabilities=ALL) as client:
        await client.request(method, {"inputResponses": {"roots-1": {"roots": []}}})
        assert refused == [f"{method!r} cannot be answered with a question"]


# Keys.


async def test_default_keys_are_counted_by_capability(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        for _ in range(2):
            await ctx.ask_all(Roots(), Elicitation("", {}), Elicitation("", {}, key="own"))

    keys: list[set[str]] = []

    def answer(questions: Mapping[str, Any]) -> Mapping[str, Any]:
        keys.append(set(questions))
        return by_method(questions)

    async with connected(with_tool(run), M, capabilities=ALL) as client:
        for _ in range(2):  # In each request anew.
            await play(client, "tools/call", tool("run"), answer)
            assert keys == [
                {"roots-1", "elicitation-1", "own"},
                {"roots-2", "elicitation-2", "own"},
            ]
            keys.clear()


@IN_BOTH
async def test_two_questions_with_one_key_are_refused(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> str:
        with pytest.raises(ValueError, match="two questions have the key 'a'"):
            await ctx.ask_all(Roots(key="a"), Elicitation("", {}, key="a"))
        with pytest.raises(ValueError, match="two questions have the key 'roots-1'"):
            await ctx.ask_all(Roots(key="roots-1"), Roots())
        return "told"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert (text_of(answer), asked) == ("told", [])


# What cannot be asked.


@IN_BOTH
async def test_missing_capability_is_raised_before_anything_is_sent(
    version: str, autojump_clock: MockClock
) -> None:
    """Before anything is sent, also where only one of several questions lacks its own."""

    async def run(ctx: RequestContext) -> str:
        try:
            await ctx.ask_all(Elicitation("", {}), Roots())
        except CapabilityMissing as error:
            return error.capability
        raise AssertionError("it is missing")  # pragma: no cover

    async with connected(with_tool(run), version, capabilities={"elicitation": {}}) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert (text_of(answer), asked) == ("roots", [])
        assert len(client.manager.sessions()) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_elicitation_in_ask_all_needs_2025_06_18(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> str:
        try:
            await ctx.ask_all(Roots(), Elicitation("", {}))
        except CapabilityMissing as error:
            return f"no {error.capability}"
        return "asked"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        answer, _ = await play(client, "tools/call", tool("run"))
        assert text_of(answer) == ("no elicitation" if version in (A, B) else "asked")


@IN_BOTH
async def test_question_that_does_not_encode_raises_type_error(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> str:
        with pytest.raises(TypeError):
            await ctx.elicit("", {"type": object()})
        return (await ctx.elicit("", {})).action

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert text_of(answer) == "accept"
        assert len(asked) == 1


@IN_BOTH
async def test_ask_all_above_the_question_limit_is_a_tool_error(
    version: str, autojump_clock: MockClock
) -> None:
    """It is not a mistake: nothing has crashed."""

    async def run(ctx: RequestContext) -> None:
        await ctx.ask_all(Roots(), Roots(), Roots())

    limits = SessionLimits(max_questions=2)
    async with connected(with_tool(run), version, capabilities=ALL, limits=limits) as client:
        run_id = await client.ask("tools/call", tool("run"))
        result = (await client.answer_to(run_id))["result"]
        assert result["isError"]
        (content,) = result["content"]
        assert content["text"] == "2 questions to the client are open already"
        client.notes.clear()


# Time.


@IN_BOTH
async def test_question_timeout_in_both_eras(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> str:
        before = trio.current_time()
        with pytest.raises(QuestionTimeout) as caught:
            await ctx.ask_all(Roots(), Elicitation("", {}), timeout=7)
        assert caught.value.seconds == 7
        assert caught.value.method in {"roots/list", "elicitation/create"}
        assert trio.current_time() == before + 7
        raise ToolError("nobody answered")

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        run_id = await client.ask("tools/call", tool("run"))
        if version == M:
            asked = (await client.answer_to(run_id))["result"]
            await trio.sleep(8)
            again = {**tool("run"), "requestState": asked["requestState"]}
            run_id = await client.ask("tools/call", again)
        assert text_of(await client.answer_to(run_id)) == "nobody answered"


@IN_BOTH
async def test_default_question_timeout_of_each_era(
    version: str, autojump_clock: MockClock
) -> None:
    """A connected client has the time of a question, one that retries that of a session."""
    ended: list[float] = []

    async def run(ctx: RequestContext) -> None:
        try:
            await ctx.list_roots()
        finally:
            ended.append(trio.current_time())

    clocks = CleanupConfig(
        question_timeout=50, request_state_timeout=200, max_idle_time=9_000, cleanup_interval=1
    )
    async with connected(with_tool(run), version, capabilities=ALL, cleanup=clocks) as client:
        began = trio.current_time()
        await client.ask("tools/call", tool("run"))
        await trio.sleep(300)
        (after,) = (when - began for when in ended)
        if version == M:
            assert 200 <= after <= 202
        else:
            assert after == 50


@IN_BOTH
async def test_request_timeout_stands_still_in_both_eras(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> str:
        await trio.sleep(3)
        assert ctx.time_left == 7
        await ctx.list_roots()
        assert ctx.time_left == 7
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ctx.list_roots)
            await wait_all_tasks_blocked()
            assert ctx.time_left == 7
        assert ctx.time_left == 7
        return "done"

    clocks = CleanupConfig(request_timeout=10)
    async with connected(with_tool(run), version, capabilities=ALL, cleanup=clocks) as client:
        answer, asked = await play(client, "tools/call", tool("run"), takes=100)
        assert text_of(answer) == "done"
        assert len(asked) == 3


# Without waiting: the handler is called again.

NAME = Elicitation("Name?", SCHEMA, key="name")
AGE = Elicitation("Age?", SCHEMA, key="age")
ROOTS = Roots(key="roots")


@IN_BOTH
async def test_input_required_calls_the_handler_again(
    version: str, autojump_clock: MockClock
) -> None:
    """With the answers of its round, and what it wanted to be remembered."""
    calls: list[Any] = []

    async def run(ctx: RequestContext, greeting: str) -> object:
        state = ctx.request_state
        name, age, roots = ctx.answer_to(NAME), ctx.answer_to(AGE), ctx.answer_to(ROOTS)
        calls.append((state, [one is not None for one in (name, age, roots)]))
        if state is None:
            return InputRequired(NAME, ROOTS, state={"round": 1, "pair": (1, 2)})
        if state["round"] == 1:
            assert name is not None
            assert name.content is not None
            return InputRequired(AGE, state={"round": 2, "name": name.content["name"]})
        assert ctx.answer_to(AGE) == age  # As often as it likes.
        return f"{greeting} {state['name']}"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        answer, asked = await play(client, "tools/call", tool("run", greeting="Hi"))
        assert text_of(answer) == "Hi Ada"
        first, last = asked[:2], asked[2:]
        assert {method for method, _ in first} == {"elicitation/create", "roots/list"}
        assert [params["message"] for _, params in last] == ["Age?"]
        assert calls == [
            (None, [False, False, False]),
            # It has been JSON meanwhile.
            ({"round": 1, "pair": [1, 2]}, [True, False, True]),
            ({"round": 2, "name": "Ada"}, [False, True, False]),
        ]
        assert len(client.manager.sessions()) == 1


@IN_BOTH
@pytest.mark.parametrize("method", ["prompts/get", "resources/read"])
async def test_input_required_in_prompts_and_resources(
    method: str, version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.request(method)
    async def run(ctx: RequestContext) -> object:
        roots = ctx.answer_to(ROOTS)
        return InputRequired(ROOTS) if roots is None else {"roots": roots}

    async with connected(router, version, capabilities=ALL) as client:
        answer, _ = await play(client, method, {})
        assert answer["result"]["roots"] == [{"uri": "file:///"}]


@IN_BOTH
@pytest.mark.parametrize("state", [False, 0, "", [], {"a": None}, "\u2028\U0001f600", 2**70])
async def test_input_required_with_a_state_only(
    state: object, version: str, autojump_clock: MockClock
) -> None:
    """A client that has nothing to answer retries; one that is connected gets no message."""
    seen: list[object] = []

    async def run(ctx: RequestContext) -> object:
        seen.append(ctx.request_state)
        return InputRequired(state=state) if ctx.request_state is None else "done"

    async with connected(with_tool(run), version, capabilities={}) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert (text_of(answer), asked) == ("done", [])
        assert seen == [None, state]


async def test_input_required_result_members(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext, how: str) -> object:
        return {
            "question": InputRequired(ROOTS),
            "state": InputRequired(state=1),
            "both": InputRequired(ROOTS, state=1),
        }[how]

    async with connected(with_tool(run), M, capabilities=ALL) as client:
        found = {}
        for how in ("question", "state", "both"):
            run_id = await client.ask("tools/call", tool("run", how=how))
            result = (await client.answer_to(run_id))["result"]
            assert result.pop("resultType") == "input_required"
            assert result.pop("_meta")
            found[how] = set(result)
        assert found == {
            "question": {"inputRequests"},
            "state": {"requestState"},
            "both": {"inputRequests", "requestState"},
        }


async def test_request_may_bring_answers_without_a_state(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> object:
        roots = ctx.answer_to(ROOTS)
        return InputRequired(ROOTS) if roots is None else str(len(roots))

    async with connected(with_tool(run), M, capabilities={}) as client:
        params = {**tool("run"), "inputResponses": {"roots": {"roots": []}, "more": 1}}
        answer, asked = await play(client, "tools/call", params)
        assert (text_of(answer), asked) == ("0", [])


@IN_BOTH
async def test_input_required_needs_the_capability(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> object:
        return InputRequired(ROOTS, state=1)

    async with connected(with_tool(run), version, capabilities={"sampling": {}}) as client:
        answer, asked = await play(client, "tools/call", tool("run"))
        assert asked == []
        if version == M:
            assert answer["error"]["code"] == -32021
            assert answer["error"]["data"] == {"requiredCapabilities": {"roots": {}}}
        else:
            assert answer["result"]["isError"]
            assert "did not declare the capability roots" in answer["result"]["content"][0]["text"]


@IN_BOTH
@pytest.mark.parametrize("answers", [[], {"roots": None}, {"roots": {"roots": [1]}}])
async def test_input_required_with_a_malformed_answer(
    answers: Any, version: str, autojump_clock: MockClock
) -> None:
    """The request is wrong that brings it; a client that was asked has answered badly."""

    async def run(ctx: RequestContext) -> object:
        ctx.answer_to(ROOTS)
        return InputRequired(ROOTS)

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        if version == M:
            params = {**tool("run"), "inputResponses": answers}
            assert (await client.refused("tools/call", params))["code"] == -32602
        else:
            bad = answers["roots"] if isinstance(answers, dict) else answers
            answer, _ = await play(client, "tools/call", tool("run"), lambda _: {"": bad})
            expected = {"code": -32603, "message": "the client answered with a malformed result"}
            assert answer["error"] == expected


async def test_input_required_answered_with_an_error(autojump_clock: MockClock) -> None:
    """For a connected client it is the end of the request; another one would not retry."""

    async def run(ctx: RequestContext) -> object:
        return InputRequired(ROOTS)

    async with connected(with_tool(run), D, capabilities=ALL) as client:
        run_id = await client.ask("tools/call", tool("run"))
        question = await client.receive()
        await client.send({"id": question["id"], "error": {"code": -1, "message": "no"}})
        answer = await client.answer_to(run_id)
        assert answer == {"error": {"code": -1, "message": "no"}}


@IN_BOTH
@pytest.mark.parametrize("method", ["x/own", "tools/list"])
async def test_input_required_is_refused_for_other_methods(
    method: str, version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.request(method)
    async def run(ctx: RequestContext) -> object:
        return InputRequired(ROOTS)

    async with connected(router, version, capabilities=ALL) as client:
        assert (await client.refused(method))["code"] == -32603
        cause = await client.crash()
        assert isinstance(cause, TypeError)
        assert str(cause) == f"InputRequired is not a valid result of {method}"


@IN_BOTH
async def test_input_required_state_that_does_not_encode(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> object:
        return InputRequired(state=object())

    async with connected(with_tool(run), version) as client:
        assert (await client.call("run"))["isError"]
        assert isinstance(await client.crash(), TypeError)


@IN_BOTH
async def test_answer_to_needs_a_key(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> str:
        with pytest.raises(ValueError, match="needs a key"):
            ctx.answer_to(Roots())
        return "told"

    async with connected(with_tool(run), version) as client:
        assert (await client.call("run"))["content"][0]["text"] == "told"


async def test_handler_may_wait_and_return_input_required(autojump_clock: MockClock) -> None:
    """It may wait in one round, and be called again in another one."""

    async def run(ctx: RequestContext) -> object:
        name = (await ctx.elicit("Name?", SCHEMA, key="name")).content
        if ctx.request_state is None:
            return InputRequired(AGE, state=name)
        age = ctx.answer_to(AGE)
        assert age is None or name is not None
        return f"{ctx.request_state} {name}"

    for version in (D, M):
        async with connected(with_tool(run), version, capabilities=ALL) as client:
            answer, asked = await play(client, "tools/call", tool("run"))
            assert text_of(answer) == "{'name': 'Ada'} {'name': 'Ada'}"
            assert [params["message"] for _, params in asked] == ["Name?", "Age?", "Name?"]


# Both eras at once.


async def test_both_eras_ask_on_one_pipe(autojump_clock: MockClock) -> None:
    """The same handler asks one client in two ways, in turn; nothing gets mixed up."""
    contexts: list[RequestContext] = []

    async def run(ctx: RequestContext, who: str) -> str:
        contexts.append(ctx)
        MARK.set(who)
        first = await ctx.elicit(who, SCHEMA, key="a")
        assert current_request() is ctx
        await ctx.progress(1)
        second = await ctx.elicit(who, SCHEMA, key="b")
        assert MARK.get() == who
        return f"{who} {ctx.protocol_version} {first.action} {second.action}"

    async with connected(with_tool(run), C, capabilities=ALL) as client:
        legacy = await client.ask("tools/call", {**tool("run", who="l"), "_meta": {}})
        one = await client.receive()
        meta = {"_meta": {**envelope_of(ALL), "progressToken": "m"}}
        modern = await client.ask("tools/call", {**tool("run", who="m"), **meta})
        asked = (await client.answer_to(modern))["result"]
        await client.send({"id": one["id"], "result": DECLINE})
        two = await client.receive()
        more = {
            "requestState": asked["requestState"],
            "inputResponses": {"a": {"action": "cancel"}},
        }
        modern = await client.ask("tools/call", {**tool("run", who="m"), **meta, **more})
        asked = (await client.answer_to(modern))["result"]
        assert [note["params"]["progressToken"] for note in client.notes] == ["m"]
        assert asked["inputRequests"]["b"]["params"]["message"] == "m"
        assert two["params"]["message"] == "l"
        await client.send({"id": two["id"], "result": DECLINE})
        assert text_of(await client.answer_to(legacy)) == f"l {C} decline decline"
        more = {"requestState": asked["requestState"], "inputResponses": {"b": DECLINE}}
        modern = await client.ask("tools/call", {**tool("run", who="m"), **meta, **more})
        assert text_of(await client.answer_to(modern)) == f"m {M} cancel decline"
        assert len(contexts) == 2


# When it is over.


@IN_BOTH
async def test_no_question_after_the_answer(version: str, autojump_clock: MockClock) -> None:
    kept: list[RequestContext] = []

    async def run(ctx: RequestContext) -> str:
        kept.append(ctx)
        return "done"

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        # Not even what the request brought an answer to.
        await client.request(
            "tools/call", {**tool("run"), "inputResponses": {"roots-1": {"roots": []}}}
        )
        for question in (Roots(), Elicitation("", {})):
            with pytest.raises(NoChannel):
                await kept[0].ask_all(question)
        assert not client.notes


async def test_first_failure_of_ask_all_cancels_the_others(autojump_clock: MockClock) -> None:
    """Those that a connected client has not answered yet are taken back."""

    async def run(ctx: RequestContext) -> str:
        with pytest.raises(McpError) as caught:
            await ctx.ask_all(Roots(), Elicitation("", {}))
        return caught.value.message

    async with connected(with_tool(run), D, capabilities=ALL) as client:
        run_id = await client.ask("tools/call", tool("run"))
        one, other = await client.receive(), await client.receive()
        await client.send({"id": one["id"], "error": {"code": -1, "message": "no"}})
        assert text_of(await client.answer_to(run_id)) == "no"
        (note,) = client.notes
        assert note["method"] == "notifications/cancelled"
        assert note["params"]["requestId"] == other["id"]


async def test_endless_input_required_lets_others_run_and_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    """There is nothing to wait for; other tasks still have their turn, and it can be cancelled."""

    async def run(ctx: RequestContext) -> object:
        return InputRequired(state=1)

    async with connected(with_tool(run), D) as client:
        run_id = await client.ask("tools/call", tool("run"))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        await client.notify("notifications/cancelled", {"requestId": run_id})
        assert await client.request("ping") == {}


@IN_BOTH
async def test_request_cancelled_before_a_question_is_not_a_crash(
    version: str, autojump_clock: MockClock
) -> None:
    """The handler was about to resume when its client cancelled it: that is not a crash."""
    woken = trio.Event()

    async def run(ctx: RequestContext) -> str:
        if version == M:
            await ctx.list_roots(key="first")
        await woken.wait()
        await ctx.list_roots()
        raise AssertionError("it is cancelled")  # pragma: no cover

    async with connected(with_tool(run), version, capabilities=ALL) as client:
        params = tool("run")
        if version == M:
            result = (await client.answer_to(await client.ask("tools/call", params)))["result"]
            answers: dict[str, Any] = {"inputResponses": {"first": {"roots": []}}}
            params |= {"requestState": result["requestState"], **answers}
        run_id = await client.ask("tools/call", params)
        await wait_all_tasks_blocked()
        connection = next(one for one in client.manager.sessions() if client_of(one)._queues())
        woken.set()
        assert any(gate.cancel(run_id) for gate in client_of(connection)._queues())
        await wait_all_tasks_blocked()
