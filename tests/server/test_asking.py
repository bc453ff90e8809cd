"""`InFlightRequest.ask` and `ask_all`: one way to ask clients of both eras."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.application.client import VERSIONS, A, B, Client, D, M, connected
from tests.helpers import OpenOutlet, at_every_step, cancelled_at_step
from tests.rounds import ALL, SCHEMA, Town, town
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    InFlightRequest,
    McpError,
    NoChannel,
    QuestionTimeout,
    RequestContext,
    Router,
    SessionLimits,
    SessionTerminated,
    TerminationReason,
    TooManyQuestions,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.sessions.failures import is_group

FORM: Mapping[str, Any] = {"message": "Name?", "requestedSchema": SCHEMA}
ELICIT, SAMPLE, ROOTS = "elicitation/create", "sampling/createMessage", "roots/list"
RESULTS: dict[str, Any] = {
    ELICIT: {"action": "accept", "content": {"name": "Ada"}, "_meta": {"kept": True}},
    SAMPLE: {"role": "assistant", "model": "m"},
    ROOTS: {"roots": [{"uri": "file:///"}]},
    "x/own": {"any": "thing"},
}
IN_BOTH = pytest.mark.parametrize("version", [D, M])
MODERN_WAYS = pytest.mark.parametrize("way", ["pipe", "http"])

Handler = Callable[[InFlightRequest], Awaitable[object]]


def router_of(handler: Handler) -> Router:
    """Make a server whose one tool is given the request itself, as an adapter is."""
    router = Router("test")

    @router.tool()
    async def run(ctx: RequestContext) -> str:
        return str(await handler(ctx._request))

    return router


@asynccontextmanager
async def serving(handler: Handler, version: str, **options: Any) -> AsyncIterator[Client]:
    options = {"capabilities": ALL, **options}
    async with connected(router_of(handler), version, **options) as client:
        yield client


@asynccontextmanager
async def modern_town(handler: Handler, **options: Any) -> AsyncIterator[Town]:
    async with town(router_of(handler), **options) as here:
        yield here


async def begin(client: Client, **params: Any) -> int:
    return await client.ask("tools/call", {"name": "run", "arguments": {}, **params})


async def text(client: Client, request_id: int) -> str:
    result = (await client.answer_to(request_id))["result"]
    assert result.get("resultType", "complete") == "complete"
    said: str = result["content"][0]["text"]
    return said


async def answer_all(client: Client, version: str, request_id: int) -> str:
    """Answer all questions as a client of its era does, and return the text of the tool."""
    if version == M:
        result = (await client.answer_to(request_id))["result"]
        while result["resultType"] == "input_required":
            asked = result["inputRequests"]
            brought = {key: RESULTS[one["method"]] for key, one in asked.items()}
            state = result["requestState"]
            request_id = await begin(client, inputResponses=brought, requestState=state)
            result = (await client.answer_to(request_id))["result"]
        said: str = result["content"][0]["text"]
        return said
    while "method" in (message := await client.receive()):
        await client.send({"id": message["id"], "result": RESULTS[message["method"]]})
    assert message["id"] == request_id
    return str(message["result"]["content"][0]["text"])


# One question.


@IN_BOTH
@pytest.mark.parametrize("method", RESULTS)
async def test_ask_returns_the_result_as_the_client_sent_it(
    method: str, version: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        with assert_checkpoints():
            result = await request.ask(method, {"message": "Name?"})
        assert result == RESULTS[method]
        return "done"

    async with serving(run, version) as client:
        assert await answer_all(client, version, await begin(client)) == "done"


@pytest.mark.parametrize("params", [None, {}, {"a": [1]}])
async def test_legacy_question_is_a_request_with_these_params(
    params: Mapping[str, Any] | None, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> object:
        return await request.ask("x/own", params, key="not sent")

    async with serving(run, D) as client:
        request_id = await begin(client)
        question = await client.receive()
        sent = {} if params is None else {"params": params}
        assert question == {"id": question["id"], "method": "x/own", **sent}
        await client.send({"id": question["id"], "result": {}})
        assert await text(client, request_id) == "{}"


@MODERN_WAYS
async def test_a_modern_question_resumes_with_the_request_that_brings_the_answer(
    way: str, autojump_clock: MockClock
) -> None:
    ids: list[object] = []

    async def run(request: InFlightRequest) -> str:
        ids.append(request.id)
        first = await request.ask(ELICIT, FORM)
        ids.append(request.id)
        second = await request.ask(ROOTS, key="mine")
        ids.append(request.id)
        return f"{first['action']} {second['roots']}"

    async with modern_town(run) as here:
        client = await here.way(way, "ann")
        call = await client.call("run")
        assert call.asked == {"elicitation-1": {"method": ELICIT, "params": FORM}}
        call = await client.retry(call, {"elicitation-1": {"action": "cancel"}})
        assert call.asked == {"mine": {"method": ROOTS}}
        call = await client.retry(call, {"mine": {"roots": []}})
        assert call.text == "cancel []"
        assert ids == [1, 2, 3]


async def test_default_keys_are_counted_by_capability_in_each_request(
    autojump_clock: MockClock,
) -> None:
    async def run(request: InFlightRequest) -> None:
        async with trio.open_nursery() as nursery:
            for method in (ROOTS, ROOTS, ELICIT, SAMPLE, "x/own"):
                nursery.start_soon(request.ask, method)
            nursery.start_soon(lambda: request.ask(ROOTS, key="own"))

    expected = {"roots-1", "roots-2", "elicitation-1", "sampling-1", "x/own-1", "own"}
    async with modern_town(run) as here:
        for _ in range(2):
            client = here.http()
            call = await client.call("run")
            assert call.keys == expected
            answers = {key: RESULTS[one["method"]] for key, one in call.asked.items()}
            assert (await client.retry(call, answers)).text == "None"


@IN_BOTH
async def test_a_missing_capability_uses_no_default_key(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        with pytest.raises(CapabilityMissing) as caught:
            await request.ask(SAMPLE)
        with pytest.raises(CapabilityMissing):
            await request.ask_all({"a": (ROOTS, None), "b": (SAMPLE, None)})
        return f"{caught.value.capability} {request.questions.new_key(SAMPLE)}"

    async with serving(run, version, capabilities={"roots": {}}) as client:
        assert await text(client, await begin(client)) == "sampling sampling-1"
        assert client.notes == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_elicitation_is_missing_before_2025_06_18(
    version: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        try:
            return str((await request.ask(ELICIT, FORM))["action"])
        except CapabilityMissing as error:
            return f"no {error.capability}"

    async with serving(run, version) as client:
        expected = "no elicitation" if version in (A, B) else "accept"
        assert await answer_all(client, version, await begin(client)) == expected


# Answers that a request brings.


@MODERN_WAYS
async def test_answer_that_the_request_brings_is_used_at_once_and_only_once(
    way: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        with assert_checkpoints():
            first = await request.ask(ROOTS, key="a")
        second = await request.ask(ROOTS, key="a")
        return f"{len(first['roots'])} {len(second['roots'])}"

    brought: dict[str, Any] = {"inputResponses": {"a": {"roots": []}}}
    async with modern_town(run) as here:
        client = await here.way(way)
        call = await client.begin("tools/call", {"name": "run", "arguments": {}, **brought})
        assert call.asked == {"a": {"method": ROOTS}}
        assert (await client.retry(call, {"a": RESULTS[ROOTS]})).text == "0 1"


async def test_only_questions_without_an_answer_are_asked(autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> object:
        return await request.ask_all({"a": (ROOTS, None), "b": (ELICIT, FORM)})

    brought: dict[str, Any] = {"inputResponses": {"a": {"roots": []}, "more": 1}}
    async with serving(run, M) as client:
        result = (await client.answer_to(await begin(client, **brought)))["result"]
        assert result["inputRequests"] == {"b": {"method": ELICIT, "params": FORM}}
        more = {"requestState": result["requestState"], "inputResponses": {"b": RESULTS[ELICIT]}}
        request_id = await begin(client, **more)
        expected: dict[str, Any] = {"a": {"roots": []}, "b": RESULTS[ELICIT]}
        assert await text(client, request_id) == str(expected)


async def test_malformed_answer_that_the_request_brings_is_invalid_params(
    autojump_clock: MockClock,
) -> None:
    async def run(request: InFlightRequest) -> None:
        await request.ask(ROOTS, key="a")

    async with serving(run, M) as client:
        answer = await client.answer_to(await begin(client, inputResponses={"a": {}}))
        assert answer["error"]["code"] == -32602


# Several questions.


@IN_BOTH
async def test_ask_all_returns_the_results_by_key(version: str, autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> str:
        with assert_checkpoints():
            results = await request.ask_all(
                {"a": (ROOTS, None), "b": (ELICIT, FORM), "c": (SAMPLE, {"messages": []})}
            )
        assert results == {"a": RESULTS[ROOTS], "b": RESULTS[ELICIT], "c": RESULTS[SAMPLE]}
        with assert_checkpoints():
            assert await request.ask_all({}) == {}
        return "done"

    async with serving(run, version) as client:
        assert await answer_all(client, version, await begin(client)) == "done"


async def test_legacy_questions_are_sent_at_the_same_time(autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> object:
        return list(await request.ask_all({"a": (ROOTS, None), "b": (ELICIT, FORM)}))

    async with serving(run, D) as client:
        request_id = await begin(client)
        asked = [await client.receive() for _ in range(2)]
        for question in reversed(asked):
            await client.send({"id": question["id"], "result": RESULTS[question["method"]]})
        assert sorted(await text(client, request_id)) == sorted("['a', 'b']")


async def test_modern_questions_are_sent_in_one_answer(autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> object:
        return await request.ask_all({"a": (ROOTS, None), "b": (ELICIT, FORM)})

    async with modern_town(run) as here:
        client = here.http()
        call = await client.call("run")
        assert call.asked == {"a": {"method": ROOTS}, "b": {"method": ELICIT, "params": FORM}}
        call = await client.retry(call, {"a": {"roots": []}, "b": {"action": "decline"}})
        assert call.text == str({"a": {"roots": []}, "b": {"action": "decline"}})


@pytest.mark.parametrize(
    "answer, complaint",
    [
        ({"error": {"code": -1, "message": "no"}}, "no (-1)"),
        ({"result": {}}, "the client answered with a malformed result (-32603)"),
    ],
)
async def test_first_failure_cancels_the_other_questions_and_is_raised_bare(
    answer: dict[str, Any], complaint: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        with pytest.raises(McpError) as caught:
            await request.ask_all({"a": (ROOTS, None), "b": (ROOTS, None), "c": (ROOTS, None)})
        return str(caught.value)

    async with serving(run, D) as client:
        request_id = await begin(client)
        first, *others = [await client.receive() for _ in range(3)]
        await client.send({"id": first["id"], **answer})
        assert await text(client, request_id) == complaint
        cancelled = [note["params"]["requestId"] for note in client.notes]
        assert sorted(cancelled) == sorted(one["id"] for one in others)


@IN_BOTH
async def test_params_that_do_not_encode_to_json(version: str, autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> str:
        for questions in ({"a": ("x/own", {"a": object()})}, {"b": (ROOTS, {"b": object()})}):
            with pytest.raises(TypeError):
                await request.ask_all({**questions, "c": (ROOTS, None)})
            with pytest.raises(TypeError):
                await request.ask_all(questions)
        return "refused"

    async with serving(run, version) as client:
        assert await text(client, await begin(client)) == "refused"
        client.notes.clear()


@IN_BOTH
async def test_more_questions_than_the_limit(version: str, autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> str:
        with pytest.raises(TooManyQuestions) as caught:
            await request.ask_all(dict.fromkeys("abc", (ROOTS, None)))
        return str(caught.value.limit)

    async with serving(run, version, limits=SessionLimits(max_questions=2)) as client:
        assert await text(client, await begin(client)) == "2"
        assert all(note.get("method") != ROOTS or version == D for note in client.notes)
        client.notes.clear()


async def test_modern_key_that_is_open_is_refused(autojump_clock: MockClock) -> None:
    refused: list[ValueError] = []

    async def ask(request: InFlightRequest) -> None:
        try:
            await request.ask(ROOTS, key="a")
        except ValueError as error:
            refused.append(error)

    async def run(request: InFlightRequest) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, request)
            nursery.start_soon(ask, request)
        return [str(error) for error in refused]

    async with serving(run, M) as client:
        assert await answer_all(client, M, await begin(client)) == (
            "[\"a question with the key 'a' is open already\"]"
        )


# Clocks.


@IN_BOTH
@pytest.mark.parametrize("count", [1, 2])
async def test_timeout_of_a_call(count: int, version: str, autojump_clock: MockClock) -> None:
    outcomes: list[tuple[str, float, float]] = []

    async def run(request: InFlightRequest) -> None:
        began = trio.current_time()
        try:
            if count == 1:
                await request.ask(ROOTS, timeout=7)
            else:
                await request.ask_all(dict.fromkeys("ab", (ROOTS, None)), timeout=7)
        except QuestionTimeout as error:
            outcomes.append((error.method, error.seconds, trio.current_time() - began))

    async with serving(run, version) as client:
        await begin(client)
        await trio.sleep(8)
        assert outcomes == [(ROOTS, 7, 7)]


@IN_BOTH
@pytest.mark.parametrize("count", [1, 2])
async def test_the_clock_of_the_request_stands_still(
    count: int, version: str, autojump_clock: MockClock
) -> None:
    async def run(request: InFlightRequest) -> str:
        await trio.sleep(3)
        assert request.questions.time_left == 7
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.ask_all, {str(n): (ROOTS, None) for n in range(count)})
            await wait_all_tasks_blocked()
            assert request.questions.time_left == 7
            assert "1 waiting" in repr(request.questions)
        assert request.questions.time_left == 7
        assert "0 waiting" in repr(request.questions)
        await trio.sleep(6)
        assert request.questions.time_left == 1
        return "done"

    clocks = CleanupConfig(request_timeout=10)
    async with serving(run, version, cleanup=clocks) as client:
        request_id = await begin(client)
        await trio.sleep(50)
        assert await answer_all(client, version, request_id) == "done"


# What ends a call.


@IN_BOTH
async def test_no_channel_after_the_handler_has_ended(
    version: str, autojump_clock: MockClock
) -> None:
    kept: list[InFlightRequest] = []

    async def run(request: InFlightRequest) -> str:
        kept.append(request)
        return "done"

    async with serving(run, version) as client:
        # Not even an answer that the request brought is used.
        request_id = await begin(client, inputResponses={"a": {"roots": []}})
        assert await text(client, request_id) == "done"
        await wait_all_tasks_blocked()
        assert kept[0].handler_has_ended
        for questions in ({"a": (ROOTS, None)}, {"a": (ROOTS, None), "b": (ROOTS, None)}):
            with assert_checkpoints(), pytest.raises(NoChannel):
                await kept[0].ask_all(questions)
        assert client.notes == []


@IN_BOTH
async def test_no_channel_after_the_client_has_cancelled_the_request(
    version: str, autojump_clock: MockClock
) -> None:
    refused: list[str] = []

    async def run(request: InFlightRequest) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
            try:
                await request.ask(ROOTS)
            except NoChannel as error:
                refused.append(str(error))

    async with serving(run, version) as client:
        request_id = await begin(client)
        await wait_all_tasks_blocked()
        await client.notify("notifications/cancelled", {"requestId": request_id})
        await trio.sleep(6)
        assert len(refused) == 1
        assert client.notes == []


async def test_modern_method_that_cannot_be_answered_with_a_question(
    autojump_clock: MockClock,
) -> None:
    router = Router("test")

    @router.request("x/own")
    async def run(ctx: RequestContext) -> None:
        with assert_checkpoints(), pytest.raises(NoChannel, match="'x/own' cannot be answered"):
            await ctx._request.ask(ROOTS)

    async with connected(router, M, capabilities=ALL) as client:
        assert await client.request("x/own") == {}


@IN_BOTH
@pytest.mark.parametrize("count", [1, 2])
async def test_session_that_ends_meanwhile(
    count: int, version: str, autojump_clock: MockClock
) -> None:
    reasons: list[TerminationReason] = []

    async def run(request: InFlightRequest) -> None:
        for _ in range(2):
            with trio.CancelScope(shield=True), pytest.raises(SessionTerminated) as caught:
                await request.ask_all({str(n): (ROOTS, None) for n in range(count)})
            reasons.append(caught.value.reason)

    async with serving(run, version) as client:
        await begin(client)
        await wait_all_tasks_blocked()
        # The last one: a modern handler waits in a session of its own.
        session = client.manager.sessions()[-1]
        session.terminate(TerminationReason.EVICTED)
        await session.wait_terminated()
        assert reasons == [TerminationReason.EVICTED] * 2
        client.errors.clear()


@IN_BOTH
@pytest.mark.parametrize("count", [1, 2])
async def test_ask_is_cancelled_at_every_step(
    count: int, version: str, autojump_clock: MockClock
) -> None:
    """In each place where it waits; the clock continues, and the next question works."""

    async def attempt(step: int) -> bool:
        scopes: list[trio.CancelScope] = []

        async def run(request: InFlightRequest) -> str:
            with cancelled_at_step(step) as scope:
                scopes.append(scope)
                await request.ask_all({f"a{n}": (ROOTS, None) for n in range(count)})
            assert request.questions.time_left == 10
            return str((await request.ask(ELICIT, FORM))["action"])

        clocks = CleanupConfig(request_timeout=10)
        async with serving(run, version, cleanup=clocks) as client:
            assert await answer_after_cancellation(client, version) == "accept"
            for session in client.manager.list_sessions():
                connection = session._connection
                assert connection is None or not client_of(session).outgoing
        return not scopes[0].cancelled_caught

    assert await at_every_step(attempt) > 3


async def answer_after_cancellation(client: Client, version: str) -> str:
    """Answer what is asked, also where the question has been taken back meanwhile."""
    request_id = await begin(client)
    if version == M:
        return await answer_all(client, version, request_id)
    while (message := await client.receive()).get("id") != request_id or "method" in message:
        if "id" in message:
            await client.send({"id": message["id"], "result": RESULTS[message["method"]]})
    await client.forgive()  # It answered what was taken back: that is reported.
    said: str = message["result"]["content"][0]["text"]
    return said


class Interrupting(OpenOutlet):
    """A sink that raises KeyboardInterrupt."""

    def send_message(self, frame: bytes) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 2])
async def test_legacy_keyboard_interrupt_comes_out(count: int, autojump_clock: MockClock) -> None:
    async def run(request: InFlightRequest) -> str:
        outlet, request.sink = request.sink, cast("Any", Interrupting())
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # looked at below
            await request.ask_all({str(n): (ROOTS, None) for n in range(count)})
        request.sink = outlet
        error: BaseException = caught.value
        if count == 1:
            assert isinstance(error, KeyboardInterrupt)
        else:
            assert is_group(error)
            assert error.split(KeyboardInterrupt)[1] is None
        assert request.questions.time_left == 10
        return "interrupted"

    async with serving(run, D, cleanup=CleanupConfig(request_timeout=10)) as client:
        assert await text(client, await begin(client)) == "interrupted"


async def test_modern_keyboard_interrupt_comes_out(autojump_clock: MockClock) -> None:
    class Parked:
        async def ask(self, questions: object) -> None:
            raise KeyboardInterrupt

    async def run(request: InFlightRequest) -> str:
        request.questions._parked = cast("Any", Parked())
        with pytest.raises(KeyboardInterrupt):
            await request.ask(ROOTS)
        request.questions._parked = None
        assert request.questions.time_left == 10
        return "interrupted"

    async with serving(run, M, cleanup=CleanupConfig(request_timeout=10)) as client:
        assert await text(client, await begin(client)) == "interrupted"
