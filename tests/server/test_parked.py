"""Handlers that ask, and resume where they stood when their client retries (2026-07-28)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.rounds import ALL, AWAY, DECLINE, SCHEMA, Call, Pipe, Town, accept, town
from trio_mcp_session import (
    AccessRevoked,
    CacheHint,
    CleanupConfig,
    Elicitation,
    HandleKind,
    NoChannel,
    RequestContext,
    Roots,
    Router,
    Sampling,
    ServerInfo,
    Session,
    SessionHooks,
    SessionLimits,
    SessionTerminated,
    TerminationReason,
    current_request,
)
from trio_mcp_session.server.parked import ParkedHandler, parked_handler

WAYS = ("pipe", "http")
BOTH = pytest.mark.parametrize("way", WAYS)
FROM_TO = pytest.mark.parametrize("first, then", [(first, then) for first in WAYS for then in WAYS])
MARK: ContextVar[str] = ContextVar("mark", default="none")


def handler_of(here: Town) -> ParkedHandler:
    return parked_handler(here.the_parked)


# It resumes where it stood.


@FROM_TO
async def test_a_parked_handler_is_resumed_by_retries_and_runs_once(
    first: str, then: str, autojump_clock: MockClock
) -> None:
    """The handler runs once, on whatever ways its client comes."""
    router = Router("r")
    runs: list[RequestContext] = []
    tasks: list[trio.lowlevel.Task] = []

    @router.tool()
    async def hello(ctx: RequestContext, greeting: str) -> str:
        runs.append(ctx)
        tasks.append(trio.lowlevel.current_task())
        MARK.set(greeting)
        with assert_checkpoints():
            answer = await ctx.elicit("Who?", SCHEMA, key="name")
        with assert_checkpoints():
            text = await ctx.sample([{"role": "user"}], max_tokens=5)
        with assert_checkpoints():
            roots = await ctx.list_roots()
        assert current_request() is ctx
        assert trio.lowlevel.current_task() is tasks[0]
        assert answer.content is not None
        return f"{MARK.get()} {answer.content['name']} {text['model']} {len(roots)}"

    async with town(router) as here:
        one, other = await here.way(first, "ann"), await here.way(then, "ann")
        call = await one.call("hello", {"greeting": "Hi"})
        assert call.asked == {
            "name": {
                "method": "elicitation/create",
                "params": {"message": "Who?", "requestedSchema": SCHEMA},
            }
        }
        again = await other.retry(call, {"name": accept(name="Ada")})
        assert again.asked == {
            "sampling-1": {
                "method": "sampling/createMessage",
                "params": {"messages": [{"role": "user"}], "maxTokens": 5},
            }
        }
        third = await one.retry(again, {"sampling-1": {"model": "m"}})
        assert third.asked == {"roots-1": {"method": "roots/list"}}
        last = await other.retry(third, {"roots-1": {"roots": [{"uri": "file:///"}]}})
        assert last.text == "Hi Ada m 1"
        assert len(runs) == 1
        assert here.parked == []


@FROM_TO
async def test_it_works_for_the_request_that_came_last(
    first: str, then: str, autojump_clock: MockClock
) -> None:
    router = Router("r")
    seen: list[Any] = []

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        async def look() -> None:
            assert ctx.client is not None
            seen.append((ctx.request_id, ctx.progress_token, ctx.client.capabilities))
            await ctx.progress(len(seen))
            await ctx.log("info", len(seen))

        await look()
        await ctx.elicit("a", SCHEMA, key="a")
        await look()
        await ctx.elicit("b", SCHEMA, key="b")
        await look()
        return "done"

    forms: dict[str, Any] = {"elicitation": {}}
    async with town(router) as here:
        one, other = await here.way(first, "ann"), await here.way(then, "ann")
        call = await one.call("work", request_id="i", **LOUD)
        assert told_to(call) == ["token of i: 1", 1]
        again = await other.retry(
            call, {"a": DECLINE}, request_id="ii", capabilities=forms, progressToken="t2"
        )
        # No log level is requested, this time.
        assert told_to(again) == ["t2: 2"]
        last = await one.retry(again, {"b": DECLINE}, request_id="iii", progressToken="t3", **LOUD)
        assert last.text == "done"
        assert seen == [
            ("i", "token of i", ALL),
            ("ii", "t2", forms),
            ("iii", "t3", ALL),
        ]
        assert told_to(last) == ["t3: 3", 3]


LOUD: dict[str, Any] = {"io.modelcontextprotocol/logLevel": "debug"}


def told_to(call: Call) -> list[Any]:
    """The progress and log messages of one call; on a pipe log messages belong to no call."""
    notes = list(call.notes)
    if isinstance(call.way, Pipe):
        notes += call.way.notes
        call.way.notes.clear()
    return [
        f"{one['params']['progressToken']}: {one['params']['progress']}"
        if one["method"] == "notifications/progress"
        else one["params"]["data"]
        for one in notes
    ]


@BOTH
async def test_its_own_clock_stands_still(way: str, autojump_clock: MockClock) -> None:
    router = Router("r")
    left: list[float] = []

    @router.tool()
    async def slow(ctx: RequestContext) -> str:
        await trio.sleep(4)
        await ctx.elicit("a", SCHEMA, key="a")
        left.append(ctx.time_left)
        await trio.sleep(left[0] - 0.5)
        await ctx.elicit("b", SCHEMA, key="b")
        left.append(ctx.time_left)
        await trio.sleep(100)
        raise AssertionError("its time is over")  # pragma: no cover

    async with town(router, cleanup=CleanupConfig(request_timeout=10)) as here:
        client = await here.way(way)
        call = await client.call("slow")
        await trio.sleep(4)
        await wait_all_tasks_blocked()
        assert call.keys == {"a"}
        await trio.sleep(1000)
        again = await client.retry(call, {"a": DECLINE})
        await trio.sleep(5.5)
        await wait_all_tasks_blocked()
        assert again.keys == {"b"}
        await trio.sleep(1000)
        last = await client.retry(again, {"b": DECLINE})
        await trio.sleep(0.4)
        assert last.answer is None
        await trio.sleep(0.2)
        await wait_all_tasks_blocked()
        assert last.complaint == "The tool 'slow' took too long, and was cancelled"
        assert left == [6, 0.5]
        assert here.parked == []


# What is asked together.


@BOTH
async def test_ask_all_sends_several_questions_and_resumes_with_all_answers(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.tool()
    async def several(ctx: RequestContext) -> str:
        with assert_checkpoints():
            name, poem, roots = await ctx.ask_all(
                Elicitation("Name?", SCHEMA, key="user_name"),
                Sampling([{"role": "user"}], max_tokens=100),
                Roots(),
            )
        return f"{name.action} {poem['model']} {roots}"

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("several")
        assert call.keys == {"user_name", "sampling-1", "roots-1"}
        again = await client.retry(
            call,
            {"sampling-1": {"model": "m"}, "roots-1": {"roots": []}, "user_name": DECLINE},
        )
        assert again.text == "decline m []"


@BOTH
async def test_from_tasks_of_one_handler(way: str, autojump_clock: MockClock) -> None:
    """In one answer, in any order; and so in each round."""
    router = Router("r")
    heard: list[str] = []

    @router.tool()
    async def parallel(ctx: RequestContext) -> str:
        async def one(key: str) -> None:
            for number in (1, 2):
                answer = await ctx.elicit(key, SCHEMA, key=f"{key}{number}")
                heard.append(f"{key}{number} {answer.action}")

        async with trio.open_nursery() as nursery:
            for key in "abc":
                nursery.start_soon(one, key)
        return "done"

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("parallel")
        assert call.keys == {"a1", "b1", "c1"}
        again = await client.retry(call, dict.fromkeys(call.keys, DECLINE))
        assert again.keys == {"a2", "b2", "c2"}
        last = await client.retry(again, dict.fromkeys(again.keys, DECLINE))
        assert last.text == "done"
        assert sorted(heard) == [f"{key}{number} decline" for key in "abc" for number in (1, 2)]


@BOTH
async def test_asked_while_it_waits(way: str, autojump_clock: MockClock) -> None:
    """The client is told at its retry; the answers that it brings are kept."""
    router = Router("r")

    @router.tool()
    async def late(ctx: RequestContext) -> str:
        heard: dict[str, str] = {}

        async def one(key: str, after: float) -> None:
            await trio.sleep(after)
            heard[key] = (await ctx.elicit(key, SCHEMA, key=key)).action

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", 0)
            nursery.start_soon(one, "b", 5)
        return str(sorted(heard.items()))

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("late")
        assert call.keys == {"a"}
        await trio.sleep(10)
        again = await client.retry(call, {"a": DECLINE})
        assert again.keys == {"b"}
        assert again.state != call.state
        last = await client.retry(again, {"b": {"action": "cancel"}})
        assert last.text == "[('a', 'decline'), ('b', 'cancel')]"


async def test_one_key_for_two_questions(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def twice(ctx: RequestContext) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.elicit, "a", SCHEMA)
            await wait_all_tasks_blocked()
            with pytest.raises(ValueError, match="'elicitation-1' is open already"):
                await ctx.ask_all(Roots(key="elicitation-1"), Roots())
            nursery.cancel_scope.cancel()
        return (await ctx.elicit("b", SCHEMA, key="elicitation-1")).action

    async with town(router) as here:
        client = here.http()
        call = await client.call("twice")
        assert call.keys == {"elicitation-1"}
        assert call.asked["elicitation-1"]["params"]["message"] == "a"
        # The first question has been taken back, and the key stands for another one.
        again = await client.retry(call, {})
        assert again.asked["elicitation-1"]["params"]["message"] == "b"
        last = await client.retry(again, {"elicitation-1": DECLINE})
        assert last.text == "decline"


async def test_a_key_is_free_as_soon_as_it_is_answered(autojump_clock: MockClock) -> None:
    """Also for another task that is quicker than the one that asked."""
    router = Router("r")
    heard: list[str] = []

    @router.tool()
    async def race(ctx: RequestContext) -> str:
        async def one(key: str, other: str) -> None:
            heard.append((await ctx.elicit(f"{key} first", SCHEMA, key=key)).action)
            # One of the two comes here first, and uses the other's key.
            heard.append((await ctx.elicit(f"{key} then", SCHEMA, key=other)).action)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", "b")
            nursery.start_soon(one, "b", "a")
        return str(len(heard))

    async with town(router) as here:
        client = here.http()
        call = await client.call("race")
        again = await client.retry(call, {"a": DECLINE, "b": DECLINE})
        assert again.keys == {"a", "b"}
        last = await client.retry(again, {"a": DECLINE, "b": DECLINE})
        assert last.text == "4"


async def test_what_was_answered_is_asked_anew(autojump_clock: MockClock) -> None:
    """Its answer had come, and it was taken back while others were waited for."""
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        with trio.move_on_after(5):
            await ctx.ask_all(Elicitation("a", SCHEMA, key="a"), Elicitation("b", SCHEMA, key="b"))
        return (await ctx.elicit("again", SCHEMA, key="a")).action

    async with town(router) as here:
        client = here.http()
        call = await client.retry(await client.call("ask"), {"a": accept()})
        assert call.keys == {"b"}
        await trio.sleep(6)
        again = await client.retry(call, {"b": DECLINE})
        assert again.asked["a"]["params"]["message"] == "again"
        assert (await client.retry(again, {"a": DECLINE})).text == "decline"


# What clients bring.


@BOTH
async def test_partial_answers_are_kept(way: str, autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def three(ctx: RequestContext) -> str:
        answers = await ctx.ask_all(*(Elicitation(key, SCHEMA, key=key) for key in "abc"))
        return " ".join(one.action for one in answers)

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("three")
        again = await client.retry(call, {"b": DECLINE, "unknown": "anything"})
        assert again.keys == {"a", "c"}
        assert again.asked["a"] == call.asked["a"]
        # It has been asked for the others only: an answer that comes twice is the newer one.
        third = await client.retry(again, {"a": DECLINE, "b": accept(), "c": None, "": 1})
        assert third.error == (
            -32602,
            "inputResponses['c'] is not a valid answer to elicitation/create",
        )
        third = await client.retry(again, {"a": DECLINE, "b": accept()})
        assert third.keys == {"c"}
        last = await client.retry(third, {"c": {"action": "cancel"}})
        assert last.text == "decline accept cancel"


MALFORMED: list[Any] = [
    [],
    "a",
    {"a": None},
    {"a": []},
    {"a": {}},
    {"a": {"action": "maybe"}},
    {"a": DECLINE, "roots-1": {"roots": None}},
    {"roots-1": {"roots": ["file:///"]}},
]


@BOTH
@pytest.mark.parametrize("answers", MALFORMED)
async def test_malformed_answers_change_nothing(
    way: str, answers: object, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        one, roots = await ctx.ask_all(Elicitation("a", SCHEMA, key="a"), Roots())
        return f"{one.action} {roots}"

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("ask")
        await trio.sleep(7)
        again = await client.retry(call, change={"inputResponses": answers})
        assert again.code == -32602
        assert here.the_parked.idle_time >= 7
        last = await client.retry(call, {"a": DECLINE, "roots-1": {"roots": []}})
        assert last.text == "decline []"


@BOTH
@pytest.mark.parametrize("nothing", [None, {}, {"unknown": DECLINE}, {"a": DECLINE}])
async def test_a_retry_without_a_new_answer_asks_again_and_keeps_the_idle_time(
    way: str, nothing: object, autojump_clock: MockClock
) -> None:
    """Nor does it keep the handler any longer: that would be for ever."""
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        one, other = await ctx.ask_all(*(Elicitation(key, SCHEMA, key=key) for key in "ab"))
        return f"{one.action} {other.action}"

    async with town(router) as here:
        client = await here.way(way, "ann")
        call = await client.retry(await client.call("ask"), {"a": accept()})
        assert call.keys == {"b"}
        since = trio.current_time()
        for _ in range(3):
            await trio.sleep(7)
            again = await client.retry(call, nothing)
            assert again.asked == call.asked
            # What was there before is as good as what came with this.
            assert here.the_parked.idle_time == trio.current_time() - since
        assert (await client.retry(call, {"b": DECLINE})).text.endswith("decline")


@BOTH
async def test_a_retry_without_a_new_answer_does_not_keep_its_handler_alive(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> None:
        await ctx.ask_all(*(Elicitation(key, SCHEMA, key=key) for key in "ab"))

    async with town(router, cleanup=CleanupConfig(request_state_timeout=100)) as here:
        client = await here.way(way)
        call = await client.call("ask")
        for _ in range(9):
            await trio.sleep(10)
            await client.retry(call)
        await trio.sleep(1)
        call = await client.retry(call, {"a": DECLINE})  # That is something.
        for _ in range(9):
            await trio.sleep(10)
            call = await client.retry(call, {"a": DECLINE})
            assert call.keys == {"b"}
        await trio.sleep(15)
        assert here.parked == []


@BOTH
async def test_answers_to_questions_to_come(way: str, autojump_clock: MockClock) -> None:
    """With a state or without, they resolve at once, once; and only in their own request."""
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        heard = []
        for key in "abcb":
            with assert_checkpoints():
                heard.append((await ctx.elicit(key, SCHEMA, key=key)).action)
        return " ".join(heard)

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("ask")
        first = await client.begin(
            "tools/call",
            {**call.message["params"], "inputResponses": {"a": accept(), "c": DECLINE}},
        )
        assert first.keys == {"b"}
        again = await client.retry(first, {"b": DECLINE})
        assert again.keys == {"c"}  # What the first request brought went with it.
        last = await client.retry(again, {"b": accept(), "c": {"action": "cancel"}})
        assert last.text == "accept decline cancel accept"
        # All in the first request: nothing is parked.
        opened = here.manager.statistics().opened
        whole = await client.begin(
            "tools/call",
            {"name": "ask", "arguments": {}, "inputResponses": dict.fromkeys("abc", DECLINE)},
        )
        assert whole.keys == {"b"}  # That was used.
        assert here.manager.statistics().opened == opened + 1


async def test_a_call_that_brings_all_answers_is_not_parked(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        one, roots = await ctx.ask_all(Elicitation("a", SCHEMA, key="a"), Roots())
        return f"{one.action} {roots}"

    async with town(router) as here:
        opened = here.manager.statistics().opened
        call = await here.http().begin(
            "tools/call",
            {
                "name": "ask",
                "arguments": {},
                "inputResponses": {"a": DECLINE, "roots-1": {"roots": []}, "more": 1},
            },
        )
        assert call.text == "decline []"
        assert here.manager.statistics().opened == opened


@pytest.mark.parametrize("answers", MALFORMED)
async def test_malformed_answers_in_a_first_request(
    answers: object, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> None:
        await ctx.ask_all(Elicitation("a", SCHEMA, key="a"), Roots())

    async with town(router) as here:
        call = await here.http().begin(
            "tools/call", {"name": "ask", "arguments": {}, "inputResponses": answers}
        )
        assert call.code == -32602
        assert here.parked == []


# What clients can do.


@BOTH
async def test_a_retry_without_the_needed_capabilities_is_refused(
    way: str, autojump_clock: MockClock
) -> None:
    """Each answer fits the request that it is for; and nothing has been claimed."""
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        one, roots = await ctx.ask_all(Elicitation("a", SCHEMA, key="a"), Roots())
        return f"{one.action} {roots} {(await ctx.list_roots())}"

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("ask")
        again = await client.retry(call, {"a": DECLINE}, capabilities={"elicitation": {}})
        assert again.code == -32021
        assert again.answer["error"]["data"] == {"requiredCapabilities": {"roots": {}}}
        if way == "http":
            assert again.status == 400
        # What is there already need not be asked.
        everything = {"a": DECLINE, "roots-1": {"roots": []}}
        again = await client.retry(call, everything, capabilities={})
        assert again.code == -32021
        assert again.answer["error"]["data"] == {"requiredCapabilities": {"roots": {}}}
        if way == "http":
            assert again.status == 400
        assert here.parked == []


# Each request is answered.


@BOTH
@pytest.mark.parametrize("how", ["its id", "its connection"])
async def test_the_retry_is_cancelled(way: str, how: str, autojump_clock: MockClock) -> None:
    """It takes the handler along; the first request no longer has to do with it."""
    router = Router("r")
    log: list[str] = []

    @router.tool()
    async def work(ctx: RequestContext) -> None:
        try:
            await ctx.elicit("a", SCHEMA, key="a")
            log.append("asked")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            log.append("gone")

    async with town(router, cleanup=CleanupConfig(eof_grace=0.25)) as here:
        first, then = await here.way(way, "ann"), await here.way(way, "ann")
        call = await first.call("work")
        again = await then.retry(call, {"a": DECLINE}, request_id="again")
        await call.leave()
        if isinstance(first, Pipe):
            await first.leave()
        assert log == ["asked"]
        (session,) = here.parked
        assert session.busy
        if how == "its id" or not isinstance(then, Pipe):
            await again.leave()
        else:
            await then.leave()
        await trio.sleep(AWAY)
        assert log == ["asked", "gone"]
        assert again.answer is None
        assert here.parked == []
        assert session.termination_reason is TerminationReason.CANCELLED


@BOTH
async def test_a_request_that_is_over_cannot_be_cancelled(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        return (await ctx.elicit("a", SCHEMA, key="a")).action

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("ask")
        await call.leave()
        await trio.sleep(100)
        assert (await client.retry(call, {"a": DECLINE})).text == "decline"


async def test_a_question_of_a_cancelled_handler_raises_and_does_not_park(
    autojump_clock: MockClock,
) -> None:
    """A handler whose client has left is told so, and is not parked."""
    router = Router("r")
    log: list[str] = []

    @router.tool()
    async def work(ctx: RequestContext, first: bool) -> None:
        if first:
            await ctx.elicit("a", SCHEMA, key="a")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                with pytest.raises(NoChannel, match="has left"), assert_checkpoints():
                    await ctx.elicit("b", SCHEMA)
                log.append("told")

    async with town(router) as here:
        client = here.http()
        call = await client.call("work", {"first": False})
        await call.leave()
        call = await client.call("work", {"first": True})
        again = await client.retry(call, {"a": DECLINE})
        await again.leave()
        assert log == ["told", "told"]
        assert here.parked == []


async def test_a_client_that_leaves_while_its_handler_is_being_parked_cancels_it(
    autojump_clock: MockClock,
) -> None:
    """The handler may be shielded, and is notified all the same."""
    router = Router("r")
    log: list[str] = []
    release = trio.Event()

    @router.tool()
    async def work(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True), pytest.raises(NoChannel, match="has left"):
            await ctx.elicit("a", SCHEMA, key="a")
        log.append("told")

    async def hold(_: object) -> None:
        await release.wait()

    async with town(router, hooks=SessionHooks(on_session_created=hold)) as here:
        client = here.http()
        call = await client.call("work")
        (session,) = here.parked
        await call.leave()
        assert log == []
        release.set()
        await wait_all_tasks_blocked()
        assert log == ["told"]
        assert session.termination_reason is TerminationReason.CANCELLED
        assert call.answer is None


async def test_the_session_ends_while_it_is_opened(autojump_clock: MockClock) -> None:
    router = Router("r")
    release = trio.Event()

    @router.tool()
    async def work(ctx: RequestContext) -> None:
        await ctx.elicit("a", SCHEMA, key="a")

    async def hold(_: object) -> None:
        await release.wait()

    async with town(router, hooks=SessionHooks(on_session_created=hold)) as here:
        call = await here.http("ann").call("work")
        here.the_parked.terminate(TerminationReason.REVOKED)
        release.set()
        await wait_all_tasks_blocked()
        assert call.error == (-32603, "session has ended: revoked")


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_task_of_a_parked_handler_opens_handles_until_access_is_revoked(
    revoked: bool, autojump_clock: MockClock
) -> None:
    router = Router("r")
    outcomes: list[str] = []

    @asynccontextmanager
    async def box() -> AsyncIterator[str]:
        yield "box"

    boxes = HandleKind[str]("box", box)

    @router.tool()
    async def work(ctx: RequestContext) -> None:
        async def open_late() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                try:
                    await ctx.open_handle(boxes)
                except AccessRevoked as refusal:
                    outcomes.append(str(refusal))
                else:
                    outcomes.append("opened")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_late)
            await ctx.elicit("a", SCHEMA, key="a")

    async with town(router) as here:
        await here.http("ann").call("work")
        if revoked:
            here.the_parked.terminate(TerminationReason.REVOKED)
        await trio.sleep(10)
        assert outcomes == ["access was revoked" if revoked else "opened"]


async def test_a_resumed_handler_opens_handles(autojump_clock: MockClock) -> None:
    router = Router("r")

    @asynccontextmanager
    async def box() -> AsyncIterator[str]:
        yield "box"

    boxes = HandleKind[str]("box", box)

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        await ctx.elicit("a", SCHEMA, key="a")
        return (await ctx.open_handle(boxes))[:4]

    async with town(router) as here:
        call = await here.http("ann").call("work")
        last = await here.http("ann").retry(call, {"a": DECLINE})
        assert last.text == "box_"


async def test_the_session_ends_as_soon_as_it_is_open(autojump_clock: MockClock) -> None:
    """Nothing keeps the handler from asking once more: then it gets another one."""
    router = Router("r")
    log: list[str] = []

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        with pytest.raises(SessionTerminated):
            await ctx.elicit("a", SCHEMA, key="a")
        return (await ctx.elicit("b", SCHEMA, key="b")).action

    async def end_the_first(session: Session, *_: object) -> None:
        if not log:
            log.append("ended")
            session.terminate(TerminationReason.EVICTED)
        await trio.lowlevel.checkpoint()

    async with town(router, hooks=SessionHooks(on_state_changed=end_the_first)) as here:
        client = here.http()
        call = await client.call("work")
        assert call.keys == {"b"}
        assert (await client.retry(call, {"b": DECLINE})).text == "decline"


@pytest.mark.parametrize("parked", [False, True])
async def test_a_shielded_parked_handler_is_notified_of_the_end(
    parked: bool, autojump_clock: MockClock
) -> None:
    """And whatever it asks then, there is no client to ask."""
    router = Router("r")
    log: list[str] = []

    @router.tool()
    async def stubborn(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):
            if not parked:
                await ctx.elicit("a", SCHEMA, key="a")
                await trio.sleep(10)
            for key in "bc":
                try:
                    await ctx.elicit(key, SCHEMA, key=key)
                except SessionTerminated as error:
                    log.append(error.reason.value)
            await trio.lowlevel.checkpoint()

    async with town(router) as here:
        client = here.http("ann")
        call = await client.call("stubborn")
        if not parked:
            call = await client.retry(call, {"a": DECLINE})
        here.the_parked.terminate(TerminationReason.REVOKED)
        await trio.sleep(20)
        assert log == ["revoked", "revoked"]
        assert here.parked == []
        expected = None if parked else (-32603, "Session has ended: revoked")
        assert (call.error if "error" in call.answer else None) == expected


async def test_a_task_that_outlives_its_handler(autojump_clock: MockClock) -> None:
    """A task that asks when the handler has ended, or still asks then, gets no answer."""
    router = Router("r")
    log: list[str] = []

    async def ask(ctx: RequestContext) -> None:
        try:
            await ctx.elicit("a", SCHEMA)
        except (NoChannel, SessionTerminated) as error:
            log.append(type(error).__name__)

    async def hold(_: object) -> None:
        await trio.sleep(2)

    hooks, cleanup = SessionHooks(on_session_created=hold), CleanupConfig(hook_budget=5)
    async with town(router, hooks=hooks, cleanup=cleanup) as here:

        @router.tool()
        async def leave_behind(ctx: RequestContext, seconds: float) -> str:
            for _ in range(2):
                here.nursery.start_soon(ask, ctx)
            await trio.sleep(seconds)
            return "done"

        client = here.http()
        # It ends between two retries: what it says is kept, and delivered.
        call = await client.call("leave_behind", {"seconds": 5})
        await trio.sleep(3)
        assert call.keys == {"elicitation-1", "elicitation-2"}
        await trio.sleep(10)
        assert log == ["NoChannel", "NoChannel"]
        assert (await client.retry(call)).text == "done"
        await trio.sleep(1)
        assert here.parked == []
        log.clear()
        # It ends in the middle of the opening.
        call = await client.call("leave_behind", {"seconds": 1})
        assert log == []
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert call.text == "done"
        await trio.sleep(2)
        assert log == ["NoChannel", "NoChannel"]
        assert here.parked == []


# Messages on the way.


async def test_a_message_is_for_the_request_that_wanted_it(autojump_clock: MockClock) -> None:
    """It waited for room, and the handler works for another retry when there is some."""
    router = Router("r")

    @router.tool()
    async def talk(ctx: RequestContext) -> str:
        async with trio.open_nursery() as nursery:
            await ctx.notify("x/fits")
            await ctx.notify("x/waits")
            nursery.start_soon(ctx.progress, 1)
            nursery.start_soon(ctx.log, "info", "late")
            await wait_all_tasks_blocked()
            await ctx.elicit("a", SCHEMA, key="a")
            await trio.sleep(1)
        return "done"

    async with town(router, limits=SessionLimits(max_output=1)) as here:
        slow, other = await here.pipe("ann", reads=False), await here.pipe("ann")
        call = await slow.call("talk", **LOUD)
        await wait_all_tasks_blocked()
        state = handler_of(here)._state(handler_of(here).request)
        again = await other.retry(call, {"a": DECLINE}, state=state, **LOUD)
        here.nursery.start_soon(slow.read)
        await trio.sleep(5)
        assert again.text == "done"
        assert told_to(again) == []
        assert call.keys == {"a"}
        assert [note["method"] for note in slow.notes] == ["x/fits", "x/waits"]


# How it is kept.


@BOTH
async def test_a_handler_whose_question_cannot_be_sent_is_not_parked(
    way: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Router) -> ServerInfo:
        raise LookupError("no name")

    router = Router("r")
    monkeypatch.setattr(Router, "server_info", property(broken))

    @router.tool()
    async def ask(ctx: RequestContext) -> None:
        await ctx.elicit("a", SCHEMA, key="a")

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("ask")
        assert call.error == (-32603, "Internal error")
        assert here.parked == []
        here.look()
        assert {str(error.__cause__) for error in here.errors} == {"no name"}
        here.errors.clear()


@BOTH
async def test_results_of_retries_are_not_for_keeping(way: str, autojump_clock: MockClock) -> None:
    """They were made of one client's answers."""
    router = Router("r", cache_hints={"resources/read": CacheHint(max_age=60, scope="public")})

    @router.request("resources/read")
    async def read(ctx: RequestContext) -> dict[str, Any]:
        if ctx.params["uri"] != "plain":
            await ctx.elicit("a", SCHEMA, key="a")
        return {"contents": []}

    async with town(router) as here:
        client = await here.way(way)
        plain = await client.begin("resources/read", {"uri": "plain"})
        assert (plain.result["ttlMs"], plain.result["cacheScope"]) == (60_000, "public")
        call = await client.begin("resources/read", {"uri": "x"})
        assert {"ttlMs", "cacheScope"}.isdisjoint(call.result)
        again = await client.retry(call, {"a": DECLINE})
        assert (again.result["ttlMs"], again.result["cacheScope"]) == (0, "private")
        brought = await client.begin(
            "resources/read", {"uri": "x", "inputResponses": {"a": DECLINE}}
        )
        assert (brought.result["ttlMs"], brought.result["cacheScope"]) == (0, "private")


async def test_the_repr_of_a_parked_handler_names_its_request_and_questions(
    autojump_clock: MockClock,
) -> None:
    router = Router("r")

    @router.tool()
    async def ask(ctx: RequestContext) -> None:
        await ctx.elicit("a", SCHEMA)

    async with town(router) as here:
        await here.http().call("ask", request_id=7)
        expected = "<ParkedHandler of <InFlightRequest 'tools/call' id=7>: 1 questions open>"
        assert repr(handler_of(here)) == expected


async def test_a_detached_call_shows_its_request(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.tool()
    async def work(ctx: RequestContext) -> None:
        await ctx.elicit("a", SCHEMA, key="a")

    async with town(router) as here:
        await here.http("ann").call("work")
        call = handler_of(here).call
        assert repr(call) == f"<DetachedCall of {call.request!r}>"
