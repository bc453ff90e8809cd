from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import OpenOutlet
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    ElicitResult,
    McpError,
    NoChannel,
    NoSession,
    QuestionTimeout,
    RequestContext,
    Router,
    SessionLimits,
    SessionTerminated,
    TerminationReason,
    TooManyQuestions,
    current_request,
    current_session,
)
from trio_mcp_session.server.client_connection import client_of

from .client import ERAS, VERSIONS, A, B, C, Client, D, M, connected, context_of

CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
ALL: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
Handler = Callable[[RequestContext], Awaitable[object]]


@asynccontextmanager
async def serving(handler: Handler, version: str = D, **options: Any) -> AsyncIterator[Client]:
    """A client of a router whose method ``run`` is ``handler``; it can answer any question."""
    router = Router("test")
    router.request("run")(handler)
    async with connected(router, version, **{"capabilities": ALL, **options}) as client:
        yield client


def note(method: str, **params: Any) -> dict[str, Any]:
    return {"method": method, "params": params}


# What it tells.


async def test_properties_of_a_legacy_request(autojump_clock: MockClock) -> None:
    contexts: list[RequestContext] = []

    async def run(ctx: RequestContext) -> None:
        contexts.append(ctx)
        with assert_no_checkpoints():
            assert ctx.session is current_session()
            assert ctx.method == "run"
            assert ctx.params == {"a": 1}
            assert ctx.request_id == 2
            assert ctx.client is not None
            assert (ctx.client.client_id, ctx.client.client_version) == ("client", "9")
            assert ctx.client.capabilities == ALL
            assert ctx.protocol_version == D
            assert ctx.progress_token is None
            assert not ctx.answered
            assert ctx.time_left == math.inf
            assert repr(ctx) == "<RequestContext 'run'>"

    async with serving(run) as client:
        assert await client.request("run", {"a": 1}) == {}
        assert contexts[0].session is client.session


async def test_properties_of_a_modern_request(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        with assert_no_checkpoints():
            with pytest.raises(NoSession, match="use a handle instead"):
                _ = ctx.session
            with pytest.raises(LookupError):
                current_session()
            assert current_request() is ctx
            assert ctx.method == "run"
            assert ctx.params == {"a": 1, "_meta": client.envelope}
            assert ctx.request_id == 2
            assert ctx.client is not None
            assert (ctx.client.client_id, ctx.client.client_version) == ("client", "9")
            assert ctx.client.capabilities == ALL
            assert ctx.protocol_version == M
            assert ctx.progress_token is None
            assert not ctx.answered
            assert ctx.time_left == math.inf
            assert not ctx.close_stream()
            assert repr(ctx) == "<RequestContext 'run'>"

    async with serving(run, M) as client:
        assert await client.request("run", {"a": 1}) == {}


async def test_modern_requests_have_separate_client_info_and_log_levels(
    autojump_clock: MockClock,
) -> None:
    """What one says of its client holds for no other, also at the same time."""

    async def run(ctx: RequestContext) -> dict[str, Any]:
        await trio.sleep(5)
        await ctx.log("error", ctx.request_id)
        assert ctx.client is not None
        return {"name": ctx.client.client_id, "can": [*ctx.client.capabilities]}

    def said(name: str, level: str | None, *can: str) -> dict[str, Any]:
        level_too = {} if level is None else {LOG_LEVEL: level}
        info = {CLIENT_INFO: {"name": name}, CLIENT_CAPABILITIES: {one: {} for one in can}}
        return {"_meta": {**info, **level_too}}

    async with serving(run, M) as client:
        first = await client.ask("run", said("a", "debug", "roots"))
        second = await client.ask("run", said("b", "alert", "sampling"))
        third = await client.ask("run", said("c", None))
        answers: dict[int, Any] = {}
        while len(answers) < 3:
            message = await client.receive()
            if "method" in message:
                client.notes.append(message)
            else:
                answers[message["id"]] = message
        found = [answers[one] for one in (first, second, third)]
        for one, name, can in zip(found, "abc", (["roots"], ["sampling"], []), strict=True):
            assert (one["result"]["name"], one["result"]["can"]) == (name, can)
        assert client.notes == [note("notifications/message", level="error", data=first)]
        # And what came before is forgotten.
        result = await client.request("run", {"_meta": {CLIENT_INFO: None}})
        assert result == {"name": "", "can": [*ALL]}
        assert len(client.notes) == 1


async def test_request_id_keeps_its_type(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def run(ctx: RequestContext) -> None:
        seen.append(ctx.request_id)

    ids = [0, "", "0", -1, 2**53]
    async with serving(run) as client:
        for request_id in ids:
            await client.send({"id": request_id, "method": "run"})
            assert await client.receive() == {"id": request_id, "result": {}}
    assert seen == ids
    assert [type(one) for one in seen] == [type(one) for one in ids]


@pytest.mark.parametrize("version", ERAS)
async def test_protocol_version(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> dict[str, Any]:
        return {"version": ctx.protocol_version}

    async with serving(run, version) as client:
        assert await client.request("run") == {"version": version}


@pytest.mark.parametrize(
    "params, token",
    [
        ({"_meta": {"progressToken": 0}}, 0),
        ({"_meta": {"progressToken": ""}}, ""),
        ({"_meta": {"progressToken": "t"}}, "t"),
        ({"_meta": {"progressToken": True}}, None),
        ({"_meta": {"progressToken": 1.5}}, None),
        ({"_meta": {"progressToken": None}}, None),
        ({"_meta": {"progressToken": [1]}}, None),
        ({"_meta": {}}, None),
        ({"_meta": []}, None),
        ({"progressToken": 1}, None),
        ({}, None),
    ],
)
async def test_progress_token(
    params: dict[str, Any], token: object, autojump_clock: MockClock
) -> None:
    context = context_of(params)
    assert context.progress_token == token
    assert type(context.progress_token) is type(token)


async def test_modern_request_has_no_session(autojump_clock: MockClock) -> None:
    """Stateless requests belong to none."""

    async def run(ctx: RequestContext) -> None:
        assert ctx.time_left == math.inf
        with pytest.raises(NoSession, match="handle"):
            _ = ctx.session

    async with serving(run, M) as client:
        await client.request("run")


# Progress.

TOKEN = {"_meta": {"progressToken": "t"}}


@pytest.mark.parametrize("version", ERAS)
async def test_progress_is_sent_as_the_revision_defines(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        with assert_checkpoints():
            await ctx.progress(1)
        with assert_checkpoints():
            await ctx.progress(1.5, 3)
        with assert_checkpoints():
            await ctx.progress(2, message="two")
        with assert_checkpoints():
            await ctx.progress(3, 3.0, "three")

    async with serving(run, version) as client:
        await client.request("run", TOKEN)
        messages = [{}, {}, {"message": "two"}, {"message": "three"}]
        if version == A:
            messages = [{}, {}, {}, {}]
        expected = [
            {"progressToken": "t", "progress": 1},
            {"progressToken": "t", "progress": 1.5, "total": 3},
            {"progressToken": "t", "progress": 2},
            {"progressToken": "t", "progress": 3, "total": 3.0},
        ]
        assert client.notes == [
            note("notifications/progress", **one, **message)
            for one, message in zip(expected, messages, strict=True)
        ]


@pytest.mark.parametrize("version", [D, M])
async def test_progress_without_a_token_is_not_sent(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        with assert_checkpoints():
            await ctx.progress(1)

    async with serving(run, version) as client:
        await client.request("run", {"_meta": {"progressToken": True}})
        await client.request("run")
        assert not client.notes


async def test_progress_that_does_not_increase_is_not_sent(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        for progress in (-3, -3, -5, 0, math.nan, 0.0, math.inf, 1, -math.inf, 0.5, 2):
            with assert_checkpoints():
                await ctx.progress(progress, math.nan)
        await ctx.progress(3, math.inf)

    async with serving(run) as client:
        await client.request("run", TOKEN)
        assert [one["params"] for one in client.notes] == [
            {"progressToken": "t", "progress": progress} for progress in (-3, 0, 1, 2, 3)
        ]


async def test_concurrent_progress_increases(autojump_clock: MockClock) -> None:
    """In whatever order Trio runs the two."""

    async def run(ctx: RequestContext) -> None:
        for base in range(0, 100, 10):
            async with trio.open_nursery() as nursery:
                for step in range(10):
                    nursery.start_soon(ctx.progress, base + step)

    async with serving(run) as client:
        await client.request("run", TOKEN)
        sent = [one["params"]["progress"] for one in client.notes]
        assert sent == sorted(set(sent))
        # The last of each ten is there.
        assert {one for one in sent if one % 10 == 9} == set(range(9, 100, 10))


# Logging.

LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_log_messages_below_the_level_are_not_sent(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        for level in LEVELS:
            with assert_checkpoints():
                await ctx.log(level, {"n": 1})  # type: ignore[arg-type]  # a str
        await ctx.log("emergency", ["text"], "part")

    async with serving(run, version) as client:
        await client.request("run")
        # It has set no level: `SessionConfig.default_log_level` is "info".
        assert [one["params"]["level"] for one in client.notes] == [*LEVELS[1:], "emergency"]
        for number, level in enumerate(LEVELS):
            client.notes.clear()
            assert await client.request("logging/setLevel", {"level": level}) == {}
            await client.request("run")
            assert client.notes == [
                *(
                    note("notifications/message", level=more, data={"n": 1})
                    for more in LEVELS[number:]
                ),
                note("notifications/message", level="emergency", data=["text"], logger="part"),
            ]
        client.notes.clear()
        error = await client.refused("logging/setLevel", {"level": "loud"})
        assert error["code"] == -32602


async def test_modern_request_sets_its_own_log_level(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        for level in LEVELS:
            with assert_checkpoints():
                await ctx.log(level, {"n": 1})  # type: ignore[arg-type]  # a str
        await ctx.log("emergency", ["text"], "part")

    async with serving(run, M) as client:
        for number, level in enumerate(LEVELS):
            await client.request("run", {"_meta": {LOG_LEVEL: level}})
            assert client.notes == [
                *(
                    note("notifications/message", level=more, data={"n": 1})
                    for more in LEVELS[number:]
                ),
                note("notifications/message", level="emergency", data=["text"], logger="part"),
            ]
            client.notes.clear()
            # The next one has not asked for any.
            await client.request("run")
            assert not client.notes


async def test_log_at_an_unknown_level_is_refused(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        with pytest.raises(ValueError, match=r"level must be one of debug, .* not 'loud'"):
            await ctx.log("loud", "text")  # type: ignore[arg-type]  # this is the test

    async with serving(run) as client:
        assert await client.request("run") == {}


async def test_log_data_that_does_not_encode_raises(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        with pytest.raises(TypeError, match="object"):
            await ctx.log("error", object())

    async with serving(run) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        assert await client.request("run") == {}
        assert not client.notes


# Notifications.


async def test_notify_sends_a_notification(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        with assert_checkpoints():
            await ctx.notify("x/told")
        with assert_checkpoints():
            await ctx.notify("x/told", {"a": 1})

    async with serving(run) as client:
        await client.request("run")
        assert client.notes == [{"method": "x/told"}, note("x/told", a=1)]


async def progress(ctx: RequestContext) -> None:
    await ctx.progress(9)


async def log(ctx: RequestContext) -> None:
    await ctx.log("error", "late")


async def notify(ctx: RequestContext) -> None:
    await ctx.notify("late")


SENDING = pytest.mark.parametrize("send", [progress, log, notify])


@SENDING
async def test_sending_waits_while_the_output_is_full(
    send: Handler, autojump_clock: MockClock
) -> None:
    """Cancelled while it waits, it has sent nothing; with room again, it continues."""

    async def run(ctx: RequestContext) -> None:
        await ctx.notify("fits")
        await ctx.notify("is being written")
        with trio.move_on_after(5) as patience:
            await send(ctx)
        assert patience.cancelled_caught
        assert trio.current_time() == begin + 5
        await ctx.notify("has room")

    async with serving(run, limits=SessionLimits(max_output=1), capacity=1) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        begin = trio.current_time()
        run_id = await client.ask("run", TOKEN)
        await trio.sleep(10)
        assert await client.answer_to(run_id) == {"result": {}}
        assert [one["method"] for one in client.notes] == ["fits", "is being written", "has room"]


@SENDING
async def test_sending_can_be_cancelled_at_once(send: Handler, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await send(ctx)
        assert scope.cancelled_caught

    async with serving(run) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        await client.request("run", TOKEN)
        assert not client.notes


async def test_waiting_progress_is_replaced_by_later_progress(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        await ctx.notify("fits")
        await ctx.notify("is being written")
        async with trio.open_nursery() as nursery:
            for step in range(1, 4):
                nursery.start_soon(ctx.progress, step)
                await wait_all_tasks_blocked()

    async with serving(run, limits=SessionLimits(max_output=1), capacity=1) as client:
        run_id = await client.ask("run", TOKEN)
        await trio.sleep(1)
        assert await client.answer_to(run_id) == {"result": {}}
        assert client.notes[2:] == [note("notifications/progress", progressToken="t", progress=3)]


@SENDING
async def test_nothing_is_sent_after_the_answer(send: Handler, autojump_clock: MockClock) -> None:
    """A context that outlives its handler is of no use, and does no harm."""
    answered = trio.Event()

    async def later(ctx: RequestContext) -> None:
        await answered.wait()
        with assert_checkpoints():
            await send(ctx)
        with pytest.raises(NoChannel):
            await ctx.list_roots()

    async def run(ctx: RequestContext) -> None:
        ctx.session.start_soon(later, ctx)

    async with serving(run) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        await client.request("run", TOKEN)
        answered.set()
        await wait_all_tasks_blocked()
        assert await client.request("ping") == {}
        assert not client.notes


@SENDING
async def test_nothing_is_sent_after_a_cancellation(
    send: Handler, autojump_clock: MockClock
) -> None:
    outcome: list[str] = []

    async def run(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                with assert_checkpoints():
                    await send(ctx)
                with pytest.raises(NoChannel):
                    await ctx.list_roots()
            assert ctx.answered
            outcome.append("cleaned up")

    async with serving(run) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        run_id = await client.ask("run", TOKEN)
        await wait_all_tasks_blocked()
        await client.notify("notifications/cancelled", {"requestId": run_id})
        await wait_all_tasks_blocked()
        assert outcome == ["cleaned up"]
        assert await client.request("ping") == {}
        assert not client.notes


@SENDING
async def test_cancelled_by_the_client_while_waiting_for_room(
    send: Handler, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        await ctx.notify("fits")
        await ctx.notify("is being written")
        with trio.CancelScope(shield=True):
            await send(ctx)

    async with serving(run, limits=SessionLimits(max_output=1), capacity=1) as client:
        await client.request("logging/setLevel", {"level": "debug"})
        run_id = await client.ask("run", TOKEN)
        await wait_all_tasks_blocked()
        client_of(client.session).request_queue().cancel(run_id)  # Its reader waits for room, too.
        assert await client.request("ping") == {}
        assert [one["method"] for one in client.notes] == ["fits", "is being written"]


async def test_context_of_a_notification(autojump_clock: MockClock) -> None:
    router = Router("test")
    roots: list[Any] = []

    @router.notification("notifications/roots/list_changed")
    async def changed(ctx: RequestContext) -> None:
        assert ctx.request_id is None
        assert not ctx.answered
        with assert_checkpoints():
            await ctx.notify("x/told")
        roots.extend(await ctx.list_roots())
        ctx.session.start_soon(later, ctx)

    async def later(ctx: RequestContext) -> None:
        await trio.sleep(1)
        await ctx.notify("late")
        with pytest.raises(NoChannel):
            await ctx.list_roots()
        roots.append("later")

    async with connected(router, capabilities=ALL) as client:
        await client.notify("notifications/roots/list_changed")
        assert await client.receive() == {"method": "x/told"}
        question = await client.receive()
        assert question["method"] == "roots/list"
        await client.send({"id": question["id"], "result": {"roots": [{"uri": "file:///"}]}})
        await trio.sleep(2)
        assert roots == [{"uri": "file:///"}, "later"]
        assert await client.request("ping") == {}
        assert not client.notes


# Questions.


async def ask_elicit(ctx: RequestContext) -> object:
    return await ctx.elicit("Who?", SCHEMA)


async def ask_sample(ctx: RequestContext) -> object:
    return await ctx.sample([{"role": "user"}], max_tokens=5, systemPrompt="Be brief.")


async def ask_roots(ctx: RequestContext) -> object:
    return await ctx.list_roots()


METHODS: dict[Any, str] = {
    ask_elicit: "elicitation/create",
    ask_sample: "sampling/createMessage",
    ask_roots: "roots/list",
}
PARAMS: dict[Any, object] = {
    ask_elicit: {"params": {"message": "Who?", "requestedSchema": SCHEMA}},
    ask_sample: {
        "params": {"messages": [{"role": "user"}], "maxTokens": 5, "systemPrompt": "Be brief."}
    },
    ask_roots: {},
}
ANSWERS: dict[Any, Any] = {
    ask_elicit: {"action": "accept", "content": {"name": "Ada"}},
    ask_sample: {"role": "assistant", "content": {"type": "text", "text": "Hm."}, "model": "m"},
    ask_roots: {"roots": [{"uri": "file:///a", "name": "a"}, {"uri": "file:///b"}]},
}
ASKING = pytest.mark.parametrize("ask", list(METHODS))


@ASKING
async def test_question_is_sent_and_its_answer_read(
    ask: Handler, autojump_clock: MockClock
) -> None:
    answers: list[object] = []

    async def run(ctx: RequestContext) -> None:
        with assert_checkpoints():
            answers.append(await ask(ctx))

    async with serving(run) as client:
        run_id = await client.ask("run")
        question = await client.receive()
        assert question.pop("method") == METHODS[ask]
        question_id = question.pop("id")
        assert question == PARAMS[ask]
        await client.send({"id": question_id, "result": ANSWERS[ask]})
        assert await client.answer_to(run_id) == {"result": {}}
    expected: dict[Any, object] = {
        ask_elicit: ElicitResult(action="accept", content={"name": "Ada"}),
        ask_sample: ANSWERS[ask_sample],
        ask_roots: ANSWERS[ask_roots]["roots"],
    }
    assert answers == [expected[ask]]


@pytest.mark.parametrize(
    "answer, expected",
    [
        ({"action": "accept"}, ElicitResult(action="accept", content=None)),
        ({"action": "accept", "content": None}, ElicitResult(action="accept", content=None)),
        ({"action": "accept", "content": [1]}, ElicitResult(action="accept", content=None)),
        ({"action": "accept", "content": {}}, ElicitResult(action="accept", content={})),
        ({"action": "decline"}, ElicitResult(action="decline", content=None)),
        (
            {"action": "decline", "content": {"name": "Ada"}},
            ElicitResult(action="decline", content=None),
        ),
        ({"action": "cancel", "_meta": {}}, ElicitResult(action="cancel", content=None)),
    ],
)
async def test_elicit_result_has_action_and_content(
    answer: object, expected: ElicitResult[Any], autojump_clock: MockClock
) -> None:
    answers: list[ElicitResult[Any]] = []

    async def run(ctx: RequestContext) -> None:
        answers.append(await ctx.elicit("Who?", SCHEMA))

    async with serving(run) as client:
        run_id = await client.ask("run")
        await client.send({"id": (await client.receive())["id"], "result": answer})
        await client.answer_to(run_id)
    assert answers == [expected]


NO_ACCEPTANCES: list[Any] = [None, [], "accept", {}, {"action": "maybe"}, {"action": ["accept"]}]
NO_MESSAGES: list[Any] = [None, [], "text", 7]
NO_ROOTS: list[Any] = [None, [], {}, {"roots": {}}, {"roots": None}, {"roots": ["file:///"]}]
NO_ERRORS: list[Any] = [None, "no", {}, {"code": "1", "message": "m"}, {"code": 1}]
MALFORMED_RESULT = "the client answered with a malformed result"
MALFORMED_ERROR = "the client answered with a malformed error"


@pytest.mark.parametrize(
    "ask, answer, complaint",
    [
        *((ask_elicit, {"result": result}, MALFORMED_RESULT) for result in NO_ACCEPTANCES),
        *((ask_sample, {"result": result}, MALFORMED_RESULT) for result in NO_MESSAGES),
        *((ask_roots, {"result": result}, MALFORMED_RESULT) for result in NO_ROOTS),
        *((ask_roots, {"error": error}, MALFORMED_ERROR) for error in NO_ERRORS),
    ],
)
async def test_malformed_answer_raises_mcp_error(
    ask: Handler, answer: dict[str, Any], complaint: str, autojump_clock: MockClock
) -> None:
    """They fail the question, and that request at the most."""

    async def run(ctx: RequestContext) -> None:
        with pytest.raises(McpError) as caught:
            await ask(ctx)
        assert (caught.value.code, caught.value.message) == (-32603, complaint)

    async with serving(run) as client:
        run_id = await client.ask("run")
        await client.send({"id": (await client.receive())["id"], **answer})
        assert await client.answer_to(run_id) == {"result": {}}


async def test_error_of_the_client_raises_mcp_error(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        await ctx.list_roots()

    error = {"code": -1, "message": "the user said no", "data": {"a": 1}}
    async with serving(run) as client:
        run_id = await client.ask("run")
        await client.send({"id": (await client.receive())["id"], "error": error})
        # A handler that does not care hands it on.
        assert await client.answer_to(run_id) == {"error": error}


@ASKING
async def test_question_without_the_capability_raises(
    ask: Handler, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        with pytest.raises(CapabilityMissing) as caught:
            await ask(ctx)
        assert caught.value.capability in {"elicitation", "sampling", "roots"}

    async with serving(run, capabilities={"experimental": {}}) as client:
        assert await client.request("run") == {}
        assert not client.notes


@pytest.mark.parametrize("version", VERSIONS)
async def test_elicitation_needs_2025_06_18(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        if version in (A, B):
            with pytest.raises(CapabilityMissing, match="elicitation"):
                await ask_elicit(ctx)
        else:
            await ask_elicit(ctx)

    async with serving(run, version) as client:
        run_id = await client.ask("run")
        if version in (C, D):
            question = await client.receive()
            await client.send({"id": question["id"], "result": {"action": "decline"}})
        assert await client.answer_to(run_id) == {"result": {}}
        assert not client.notes


@pytest.mark.parametrize(
    "ask, needed, declared",
    [
        (ask_elicit, "elicitation", {}),
        (ask_elicit, "elicitation", {"sampling": {}, "roots": {}}),
        # It could show the user a page, and no form.
        (ask_elicit, "elicitation", {"elicitation": {"url": {}}}),
        (ask_sample, "sampling", {"elicitation": {}, "roots": {}}),
        (ask_roots, "roots", {"elicitation": {}, "sampling": {}}),
    ],
)
async def test_missing_capability_is_answered_with_the_required_one(
    ask: Handler, needed: str, declared: dict[str, Any], autojump_clock: MockClock
) -> None:
    """Its client is told, in the words of its own capabilities."""

    async def run(ctx: RequestContext) -> None:
        await ask(ctx)

    async with serving(run, M, capabilities=declared) as client:
        error = await client.refused("run")
        assert error["code"] == -32021
        assert error["data"] == {"requiredCapabilities": {needed: {}}}
        # No other request can have declared it for this one.
        refused = await client.refused("run", {"_meta": {CLIENT_CAPABILITIES: {}}})
        assert refused == error
        assert not client.notes


@ASKING
async def test_modern_method_that_cannot_ask_raises_no_channel(
    ask: Handler, autojump_clock: MockClock
) -> None:
    """An answer to a request of such a method cannot be a question, from 2026-07-28 on."""
    refused: list[str] = []

    async def careful(ctx: RequestContext) -> None:
        try:
            await ask(ctx)
        except NoChannel as error:
            refused.append(str(error))

    async with serving(careful, M) as client:
        assert await client.request("run") == {}
        assert len(refused) == 1
        assert not client.notes

    async def careless(ctx: RequestContext) -> None:
        await ask(ctx)

    async with serving(careless, M) as client:
        error = await client.refused("run")
        assert error == {"code": -32603, "message": "Internal error"}
        assert isinstance(await client.crash(), NoChannel)
        assert not client.notes


async def test_handler_can_catch_a_missing_capability(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> dict[str, Any]:
        try:
            await ctx.list_roots()
        except CapabilityMissing as error:
            return {"missing": error.capability}
        return {}  # pragma: no cover  # it is missing

    async with serving(run, M, capabilities={}) as client:
        assert await client.request("run") == {"missing": "roots"}


@ASKING
async def test_cancelled_question_is_cancelled_at_the_client(
    ask: Handler, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        with trio.move_on_after(5) as patience:
            await ask(ctx)
        assert patience.cancelled_caught

    async with serving(run) as client:
        run_id = await client.ask("run")
        question = await client.receive()
        assert await client.answer_to(run_id) == {"result": {}}
        assert client.notes == [note("notifications/cancelled", requestId=question["id"])]
        # It comes all the same, and goes nowhere.
        await client.send({"id": question["id"], "result": ANSWERS[ask]})
        await wait_all_tasks_blocked()
        client.errors.clear()


async def elicit_soon(ctx: RequestContext) -> None:
    await ctx.elicit("Who?", SCHEMA, timeout=7)


async def sample_soon(ctx: RequestContext) -> None:
    await ctx.sample([], max_tokens=1, timeout=7)


async def roots_soon(ctx: RequestContext) -> None:
    await ctx.list_roots(timeout=7)


@pytest.mark.parametrize(
    "ask, seconds",
    [
        (ask_elicit, 300),
        (ask_sample, 300),
        (ask_roots, 300),
        (elicit_soon, 7),
        (sample_soon, 7),
        (roots_soon, 7),
    ],
)
async def test_question_timeout_raises_and_cancels_the_question(
    ask: Handler, seconds: float, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        begin = trio.current_time()
        with pytest.raises(QuestionTimeout) as caught:
            await ask(ctx)
        assert caught.value.seconds == seconds
        assert trio.current_time() == begin + seconds

    async with serving(run) as client:
        run_id = await client.ask("run")
        question = await client.receive()
        assert await client.answer_to(run_id) == {"result": {}}
        assert client.notes == [note("notifications/cancelled", requestId=question["id"])]


async def test_question_above_the_limit_raises(autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_roots, ctx)
            await wait_all_tasks_blocked()
            with pytest.raises(TooManyQuestions):
                await ask_roots(ctx)

    async with serving(run, limits=SessionLimits(max_questions=1)) as client:
        run_id = await client.ask("run")
        question = await client.receive()
        await trio.sleep(1)
        await client.send({"id": question["id"], "result": ANSWERS[ask_roots]})
        assert await client.answer_to(run_id) == {"result": {}}


@ASKING
async def test_end_of_the_session_ends_its_questions(
    ask: Handler, autojump_clock: MockClock
) -> None:
    reasons: list[TerminationReason] = []

    async def run(ctx: RequestContext) -> None:
        for _ in range(2):
            with trio.CancelScope(shield=True), pytest.raises(SessionTerminated) as caught:
                await ask(ctx)
            reasons.append(caught.value.reason)
        await ctx.progress(1)

    async with serving(run) as client:
        run_id = await client.ask("run", TOKEN)
        await client.receive()
        session = client.session
        session.terminate(TerminationReason.EVICTED)
        assert (await client.answer_to(run_id))["error"]["code"] == -32603
        await session.wait_terminated()
        assert reasons == [TerminationReason.EVICTED] * 2
        assert not client.notes


async def test_hooks_report_failed_requests_without_a_handshake(autojump_clock: MockClock) -> None:
    """At once, and of all of them: their connection may stay for good, without a handshake."""

    async def run(ctx: RequestContext) -> None:
        raise ZeroDivisionError

    async with serving(run, M, limits=SessionLimits(max_waiting_hooks=1)) as client:
        for _ in range(3):
            assert (await client.refused("run"))["code"] == -32603
            assert isinstance(await client.crash(), ZeroDivisionError)
        assert client.manager.statistics().hook_failures == 0


# Without a handshake it is all the same what a request may send, and when.


@SENDING
async def test_nothing_is_sent_after_the_answer_to_a_modern_request(
    send: Handler, autojump_clock: MockClock
) -> None:
    answered = trio.Event()
    contexts: list[RequestContext] = []

    async def run(ctx: RequestContext) -> None:
        contexts.append(ctx)

    async def later() -> None:
        await answered.wait()
        (ctx,) = contexts
        assert ctx.answered
        with assert_checkpoints():
            await send(ctx)
        with pytest.raises(NoChannel):
            await ctx.list_roots()

    async with serving(run, M) as client, trio.open_nursery() as nursery:
        nursery.start_soon(later)
        await client.request("run", {"_meta": {"progressToken": "t", LOG_LEVEL: "debug"}})
        answered.set()
        await wait_all_tasks_blocked()
        await client.request("server/discover")
        assert not client.notes


@SENDING
async def test_nothing_is_sent_after_a_modern_request_is_cancelled(
    send: Handler, autojump_clock: MockClock
) -> None:
    outcome: list[str] = []

    async def run(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), assert_checkpoints():
                await send(ctx)
            assert ctx.answered
            outcome.append("cleaned up")

    async with serving(run, M) as client:
        meta = {"progressToken": "t", LOG_LEVEL: "debug"}
        run_id = await client.ask("run", {"_meta": meta})
        await wait_all_tasks_blocked()
        await client.notify("notifications/cancelled", {"requestId": run_id})
        await wait_all_tasks_blocked()
        assert outcome == ["cleaned up"]
        await client.request("server/discover")
        assert not client.notes


# Deadlines.


def timed(seconds: float) -> dict[str, Any]:
    return {"cleanup": CleanupConfig(request_timeout=seconds)}


@pytest.mark.parametrize("version", [D, M])
async def test_request_timeout_and_time_left(version: str, autojump_clock: MockClock) -> None:
    async def run(ctx: RequestContext) -> None:
        assert ctx.time_left == 10
        await trio.sleep(4)
        assert ctx.time_left == 6
        await trio.sleep(7)

    async with serving(run, version, **timed(10)) as client:
        begin = trio.current_time()
        for _ in range(2):
            error = await client.refused("run")
            assert error == {"code": -32603, "message": "Request timed out"}
        assert trio.current_time() == begin + 20


@ASKING
async def test_request_timeout_stands_still_during_a_question(
    ask: Handler, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        await trio.sleep(4)
        await ask(ctx)
        assert ctx.time_left == 6
        await trio.sleep(5)
        assert ctx.time_left == 1
        await trio.sleep(2)

    async with serving(run, **timed(10)) as client:
        begin = trio.current_time()
        run_id = await client.ask("run")
        question = await client.receive()
        await trio.sleep(100)
        await client.send({"id": question["id"], "result": ANSWERS[ask]})
        error = (await client.answer_to(run_id))["error"]
        assert error == {"code": -32603, "message": "Request timed out"}
        assert trio.current_time() == begin + 110


async def test_request_timeout_stands_still_until_the_last_answer(
    autojump_clock: MockClock,
) -> None:
    left: list[float] = []

    async def ask_and_look(ctx: RequestContext) -> None:
        await ask_roots(ctx)
        left.append(ctx.time_left)

    async def run(ctx: RequestContext) -> None:
        await trio.sleep(4)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask_and_look, ctx)
            await wait_all_tasks_blocked()
            assert ctx.time_left == 6
        assert ctx.time_left == 6
        await trio.sleep(5)
        assert ctx.time_left == 1

    async with serving(run, **timed(10)) as client:
        run_id = await client.ask("run")
        questions = [await client.receive() for _ in range(3)]
        for question in questions:
            await trio.sleep(50)
            await client.send({"id": question["id"], "result": ANSWERS[ask_roots]})
        assert await client.answer_to(run_id) == {"result": {}}
        assert left == [6, 6, 6]


async def test_the_request_timeout_continues_after_a_failed_question(
    autojump_clock: MockClock,
) -> None:
    async def run(ctx: RequestContext) -> None:
        with pytest.raises(QuestionTimeout):
            await roots_soon(ctx)
        assert ctx.time_left == 10
        with trio.move_on_after(50):
            await ask_roots(ctx)
        assert ctx.time_left == 10
        await trio.sleep(11)

    async with serving(run, **timed(10)) as client:
        begin = trio.current_time()
        assert (await client.refused("run"))["message"] == "Request timed out"
        assert trio.current_time() == begin + 7 + 50 + 10


async def test_question_that_outlives_its_request_leaves_other_timeouts_alone(
    autojump_clock: MockClock,
) -> None:
    """It leaves the clock of the next request alone."""
    answers: list[object] = []

    async def later(ctx: RequestContext) -> None:
        answers.append(await ask_roots(ctx))

    async def run(ctx: RequestContext) -> None:
        if ctx.params:
            ctx.session.start_soon(later, ctx)
            await wait_all_tasks_blocked()
            return
        assert ctx.time_left == 10
        await trio.sleep(3)
        assert answers
        assert ctx.time_left == 7

    async with serving(run, **timed(10)) as client:
        run_id = await client.ask("run", {"ask": True})
        question = await client.receive()
        await client.answer_to(run_id)
        run_id = await client.ask("run")
        await trio.sleep(2)
        await client.send({"id": question["id"], "result": ANSWERS[ask_roots]})
        assert await client.answer_to(run_id) == {"result": {}}


# Which request is being handled.


async def test_current_request_in_handlers_and_other_tasks(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def look() -> None:
        seen.append(current_request())

    async def look_from_session() -> None:
        with pytest.raises(LookupError):
            current_request()
        seen.append(current_session())

    @asynccontextmanager
    async def held() -> AsyncIterator[None]:
        await look_from_session()
        yield
        seen.append(current_session())

    async def run(ctx: RequestContext) -> None:
        seen.clear()
        with assert_no_checkpoints():
            assert current_request() is ctx
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(look)
            inner.start_soon(look)
        assert seen == [ctx, ctx]
        seen.clear()
        ctx.session.start_soon(look_from_session)
        await ctx.session.enter_async_context(held())
        await wait_all_tasks_blocked()
        assert seen == [ctx.session] * 2

    with pytest.raises(LookupError):
        current_request()
    async with serving(run) as client:
        for _ in range(2):
            assert await client.request("run") == {}
        seen.clear()
    assert len(seen) == 2
    with pytest.raises(LookupError):
        current_request()


async def test_current_request_in_a_thread() -> None:
    async def run(ctx: RequestContext) -> None:
        assert await trio.to_thread.run_sync(current_request) is ctx
        assert await trio.to_thread.run_sync(current_session) is ctx.session

    async with serving(run) as client:
        assert await client.request("run") == {}


async def test_concurrent_requests_have_their_own_current_request(
    autojump_clock: MockClock,
) -> None:
    async def run(ctx: RequestContext) -> dict[str, Any]:
        for _ in range(5):
            await trio.sleep(1)
            assert current_request() is ctx
        return {"n": current_request().params["n"]}

    async with serving(run) as client:
        ids = [await client.ask("run", {"n": n}) for n in range(10)]
        answers = {}
        for _ in ids:
            answer = await client.receive()
            answers[answer["id"]] = answer["result"]["n"]
        assert answers == {request_id: n for n, request_id in enumerate(ids)}


# Letting the client go.


@pytest.mark.parametrize("version", VERSIONS)
async def test_close_stream_does_nothing_on_a_connection(
    version: str, autojump_clock: MockClock
) -> None:
    """There is no stream of one request there, in any revision."""

    async def run(ctx: RequestContext) -> dict[str, Any]:
        with assert_no_checkpoints():
            outcomes = [ctx.close_stream(), ctx.close_stream(retry=1)]
        await ctx.notify("notifications/more")
        return {"outcomes": outcomes}

    async with serving(run, version) as client:
        assert await client.request("run") == {"outcomes": [False, False]}
        assert client.notes == [{"method": "notifications/more"}]


@pytest.mark.parametrize("retry", [-1, math.inf, math.nan])
async def test_close_stream_refuses_an_invalid_retry(
    retry: float, autojump_clock: MockClock
) -> None:
    async def run(ctx: RequestContext) -> None:
        with pytest.raises(ValueError, match="retry must be 0 or more seconds"):
            ctx.close_stream(retry=retry)

    async with serving(run) as client:
        assert await client.request("run") == {}


async def test_close_stream_does_nothing_after_answer_or_cancellation(
    autojump_clock: MockClock,
) -> None:
    outcomes: list[bool] = []
    contexts: list[RequestContext] = []

    async def run(ctx: RequestContext) -> None:
        contexts.append(ctx)
        # It would be possible there.
        ctx._request.sink = cast("Any", Poll())
        try:
            if ctx.params.get("hang"):
                await trio.sleep_forever()
        finally:
            outcomes.append(ctx.close_stream())

    async with serving(run) as client:
        await client.ask("run")
        await wait_all_tasks_blocked()
        assert outcomes == [True]
        assert not contexts[0].close_stream()
        await client.ask("run", {"hang": True})
        await wait_all_tasks_blocked()
        await client.notify("notifications/cancelled", {"requestId": client.last_id})
        await wait_all_tasks_blocked()
        assert outcomes == [True, False]


class Poll(OpenOutlet):
    """A sink whose stream can be closed early at any time."""

    def close_stream(self, retry: float | None) -> bool:
        return True

    def send_result(self, frame: bytes) -> None: ...

    def send_no_result(self) -> None: ...
