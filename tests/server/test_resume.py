"""What a client may retry with, and how everything else is refused (2026-07-28)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.helpers import initialize, modern, notification, request
from tests.rounds import DECLINE, SCHEMA, Call, Clock, Http, accept, town
from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    InputRequired,
    Principal,
    RequestContext,
    RequestStateKeys,
    Router,
    TerminationReason,
)
from trio_mcp_session.protocol.request_state import ParkedState, binding_of, seal

WAYS = ("pipe", "http")
BOTH = pytest.mark.parametrize("way", WAYS)
NO_MATCH = (-32602, "requestState does not match this request")
EXPIRED = (-32602, "requestState has expired: send the request without it")
UNUSED = (-32602, "requestState has been used already")
GONE = "The server no longer waits for this call"
MISTAKE = "requestState or inputResponses do not match the request"
NAME = Elicitation("Name?", SCHEMA, key="name")
AGE = Elicitation("Age?", SCHEMA, key="age")


def program() -> Router:
    """Handlers that ask in all the ways there are."""
    router = Router("r")

    async def ask(ctx: RequestContext) -> str:
        return (await ctx.elicit("a", SCHEMA, key="a")).action

    @router.tool(name="ask")
    async def tool(ctx: RequestContext, n: int = 0, more: dict[str, int] | None = None) -> str:
        return await ask(ctx)

    @router.tool()
    async def step(ctx: RequestContext, n: int = 0) -> object:
        known = ctx.request_state
        if known is None:
            name = ctx.answer_to(NAME)
            assert name is not None
            assert name.content is not None
            return InputRequired(AGE, state=dict(name.content))
        age = ctx.answer_to(AGE)
        if age is None:
            return InputRequired(AGE, state=known)
        return f"{n}: {known} {age.action}"

    @router.request("prompts/get")
    async def prompt(ctx: RequestContext) -> dict[str, Any]:
        return {"messages": [], "description": await ask(ctx)}

    @router.request("resources/read")
    async def read(ctx: RequestContext) -> dict[str, Any]:
        return {"contents": [{"uri": ctx.params["uri"], "text": await ask(ctx)}]}

    @router.request("x/other")
    async def elsewhere(ctx: RequestContext) -> dict[str, Any]:
        return {"params": {name: ctx.params[name] for name in ctx.params if name != "_meta"}}

    return router


def done(call: Call) -> str:
    """What a call came to, whatever its method is."""
    match call.result:
        case {"content": [{"text": text}]}:
            assert not call.result.get("isError")
        case {"contents": [{"text": text}]}:
            pass
        case _:
            text = call.result["description"]
    assert isinstance(text, str)
    return text


CALLS: dict[str, dict[str, Any]] = {
    "tools/call": {"name": "ask", "arguments": {"n": 1}},
    "prompts/get": {"name": "p", "arguments": {"x": "y"}},
    "resources/read": {"uri": "file:///a"},
}
CALLED = pytest.mark.parametrize("method", list(CALLS))


# Whose it is, and what for.


@BOTH
@CALLED
async def test_a_retry_of_the_owner_resumes_each_kind_of_call(
    way: str, method: str, autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way, "ann")
        call = await client.begin(method, CALLS[method])
        assert done(await client.retry(call, {"a": DECLINE})) == "decline"
        assert not here.parked


@BOTH
@CALLED
async def test_a_retry_of_another_principal_is_refused_as_invalid_state(
    way: str, method: str, autojump_clock: MockClock
) -> None:
    """A client that has it and is not its owner gets the answer to any other text."""
    async with town(program()) as here:
        ann = await here.way(way, "ann")
        call = await ann.begin(method, CALLS[method])
        others = [await here.way(kind, name) for kind in WAYS for name in ("bob", None)]
        for other in others:
            again = await other.retry(call, {"a": DECLINE})
            assert again.error == NO_MATCH
            if isinstance(other, Http):
                assert again.status == 200
        here.look()
        assert here.mistakes == [MISTAKE] * 4
        assert done(await ann.retry(call, {"a": DECLINE})) == "decline"


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"name": "nobody"}),
    ("tools/call", {"name": "step"}),
    ("tools/call", {"arguments": {"n": 2}}),
    ("tools/call", {"arguments": {"n": 1.0}}),
    ("tools/call", {"arguments": {}}),
    ("tools/call", {"arguments": {"n": 1, "more": {"a": 1}}}),
    ("tools/call", {"more": None}),
    ("prompts/get", {"name": "q"}),
    ("prompts/get", {"arguments": {"x": "z"}}),
    ("prompts/get", {"arguments": None}),
    ("resources/read", {"uri": "file:///b"}),
    ("resources/read", {"uri": "FILE:///a"}),
]


@BOTH
@pytest.mark.parametrize("method, change", CHANGES)
async def test_a_retry_with_changed_parameters_is_refused(
    way: str, method: str, change: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way, "ann")
        call = await client.begin(method, CALLS[method])
        again = await client.retry(call, {"a": DECLINE}, change=change)
        assert again.error == NO_MATCH
        # What is said of the request may differ, and the order of members.
        again = await client.retry(call, {"a": DECLINE}, progressToken=7, anything={"else": 1})
        assert done(again) == "decline"


async def test_a_retry_for_another_method_is_refused(autojump_clock: MockClock) -> None:
    async with town(program()) as here:
        client = here.http()
        call = await client.begin("prompts/get", {"name": "ask"})
        state = {"requestState": call.state, "inputResponses": {"a": DECLINE}}
        again = await client.begin("tools/call", {"name": "ask", **state})
        assert again.error == NO_MATCH


async def test_request_state_is_a_plain_parameter_of_methods_that_never_ask(
    autojump_clock: MockClock,
) -> None:
    """There it is a parameter like any other."""
    async with town(program()) as here:
        client = here.http()
        call = await client.begin("tools/call", CALLS["tools/call"])
        for state in (call.state, "nonsense", None):
            more = {"requestState": state, "inputResponses": 5}
            again = await client.begin("x/other", more)
            assert again.result["params"] == more


async def test_request_state_is_a_plain_parameter_of_requests_in_a_session(
    autojump_clock: MockClock,
) -> None:
    async with town(program()) as here:
        pipe = await here.pipe("ann")
        await pipe.peer.send(initialize("hello"), notification("notifications/initialized"))
        pipe.open["hello"] = Call({}, pipe)
        params = {"requestState": "nonsense", "inputResponses": 5}
        call = pipe.open["legacy"] = Call({}, pipe)
        await pipe.peer.send(request("legacy", "x/other", params))
        await trio.sleep(1)
        assert call.answer["result"]["params"] == params


# What was not made here, or not lately.


@BOTH
@pytest.mark.parametrize(
    "state", ["", ".", "nonsense", 1, True, [], {}, "a.b", "=.=", "\u2028", "W10=.W10="]
)
async def test_a_retry_with_a_malformed_state_is_refused(
    way: str, state: object, autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way)
        params = {**CALLS["tools/call"], "requestState": state, "inputResponses": {"a": DECLINE}}
        again = await client.begin("tools/call", params)
        assert again.error == NO_MATCH
        here.look()
        assert here.mistakes == [MISTAKE]


@BOTH
async def test_a_retry_with_one_changed_character_in_its_state_is_refused(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way)
        call = await client.begin("tools/call", CALLS["tools/call"])
        for place in range(0, len(call.state), 7):
            other = "A" if call.state[place] != "A" else "B"
            state = call.state[:place] + other + call.state[place + 1 :]
            assert (await client.retry(call, {"a": DECLINE}, state=state)).error == NO_MATCH
        assert done(await client.retry(call, {"a": DECLINE})) == "decline"


@BOTH
@pytest.mark.parametrize("tool, answers", [("ask", {"a": DECLINE}), ("step", {"age": DECLINE})])
async def test_a_retry_with_an_expired_state_is_refused(
    way: str, tool: str, answers: dict[str, Any], autojump_clock: MockClock
) -> None:
    """That is the wall clock's: other processes have to agree."""
    async with town(program(), cleanup=CleanupConfig(request_state_timeout=100)) as here:
        client = await here.way(way)
        params = {"name": tool, "arguments": {"n": 1}, "inputResponses": {"name": accept(x=1)}}
        call = await client.begin("tools/call", params)
        here.clock.turn(100)
        assert (await client.retry(call, answers)).error == EXPIRED
        here.clock.turn(-0.01)
        assert (await client.retry(call, answers)).text.endswith("decline")


async def test_each_retry_renews_the_expiry_of_the_request_state(autojump_clock: MockClock) -> None:
    async with town(program(), cleanup=CleanupConfig(request_state_timeout=100)) as here:
        client = here.http()
        params = {"name": "step", "arguments": {}, "inputResponses": {"name": accept(x=1)}}
        call = await client.begin("tools/call", params)
        for _ in range(3):
            here.clock.turn(99)
            call = await client.retry(call)
            assert call.keys == {"age"}
        assert (await client.retry(call, {"age": DECLINE})).text == "0: {'x': 1} decline"


@BOTH
async def test_a_retry_is_accepted_after_one_key_rotation_and_refused_after_two(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way)
        call = await client.begin("tools/call", CALLS["tools/call"])
        other = await client.begin("tools/call", CALLS["tools/call"])
        here.keys.rotate()
        assert done(await client.retry(call, {"a": DECLINE})) == "decline"
        here.keys.rotate()
        assert (await client.retry(other, {"a": DECLINE})).error == NO_MATCH
        assert len(here.parked) == 1


# What has been used, and what is gone.


@BOTH
@CALLED
async def test_a_retry_with_a_used_state_is_refused(
    way: str, method: str, autojump_clock: MockClock
) -> None:
    """While its handler is there; afterwards that is all that can be said."""
    router = program()
    release = trio.Event()

    @router.tool()
    async def slow(ctx: RequestContext) -> str:
        await ctx.elicit("a", SCHEMA, key="a")
        await release.wait()
        return "done"

    async with town(router) as here:
        client = await here.way(way)
        call = await client.call("slow")
        again = await client.retry(call, {"a": DECLINE})
        for answers in ({"a": DECLINE}, {}, None, {"b": 1}):
            assert (await client.retry(call, answers)).error == UNUSED
        release.set()
        await trio.lowlevel.checkpoint()
        call = await client.begin(method, CALLS[method])
        assert done(await client.retry(call, {"a": DECLINE})) == "decline"
        late = await client.retry(call, {"a": DECLINE})
        if method == "tools/call":
            assert late.complaint.startswith(GONE)
        else:
            assert late.code == -32602
            assert late.error[1].startswith(GONE)
        assert again.text == "done"


@BOTH
@CALLED
async def test_a_retry_after_the_handler_ended_says_to_call_again(
    way: str, method: str, autojump_clock: MockClock
) -> None:
    """The state is good, so the client that brings it may know: the model calls again."""
    async with town(program()) as here:
        client = await here.way(way)
        call = await client.begin(method, CALLS[method])
        here.the_parked.terminate(TerminationReason.EVICTED)
        again = await client.retry(call, {"a": DECLINE})
        if method == "tools/call":
            assert again.complaint.endswith("To start over, call again")
            assert again.status in (None, 200)
        else:
            assert again.error[0] == -32602
            assert again.error[1].startswith(GONE)
        # Nothing was malformed.
        here.look()
        assert here.mistakes == []


async def test_a_signed_state_that_names_another_kind_of_session_resumes_nothing(
    autojump_clock: MockClock,
) -> None:
    """Not even a signature opens another session than a parked one, or one of another principal."""
    async with town(program()) as here:
        pipe, client = await here.pipe("bob"), here.http("ann")
        await pipe.begin("tools/call", CALLS["tools/call"])
        params = CALLS["tools/call"]
        binding = binding_of(Principal("ann"), "tools/call", params)
        call = await client.begin("tools/call", params)
        bobs = next(one for one in here.parked if one.principal == Principal("bob"))
        own = await here.manager.create_session(principal=Principal("ann"))
        there = (pipe.session.session_id, bobs.session_id, own.session_id)
        for session_id in (*there, "", "x" * 5_000, "\n"):
            state = seal(
                here.keys, ParkedState(session_id=session_id, round_number=0), binding, 1e12
            )
            again = await client.retry(call, {"a": DECLINE}, state=state)
            assert again.complaint.startswith(GONE)


# Several processes.


def two_towns(keys: RequestStateKeys | None, others: RequestStateKeys | None) -> tuple[Any, Any]:
    clock = Clock()
    return town(program(), keys=keys, clock=clock), town(program(), keys=others, clock=clock)


SHARED = b"a key that both have"


@BOTH
async def test_request_state_is_resumed_by_another_process_with_the_same_keys(
    way: str, autojump_clock: MockClock
) -> None:
    """What a handler gave its client to carry is good wherever the keys are known."""
    one, other = two_towns(RequestStateKeys(SHARED), RequestStateKeys(b"k" * 16, SHARED))
    async with one as here, other as there:
        params = {"name": "step", "arguments": {"n": 5}, "inputResponses": {"name": accept(x=1)}}
        call = await (await here.way(way, "ann")).begin("tools/call", params)
        assert call.keys == {"age"}
        client = await there.way(way, "ann")
        again = await client.retry(call)
        assert again.keys == {"age"}
        assert (await client.retry(call, {"age": DECLINE})).text == "5: {'x': 1} decline"
        # Other keys sign there.
        first = await here.way(way, "ann")
        assert (await first.retry(again, {"age": DECLINE})).error == NO_MATCH
        assert here.parked == there.parked == []


@BOTH
async def test_a_parked_handler_is_not_resumed_by_another_process(
    way: str, autojump_clock: MockClock
) -> None:
    one, other = two_towns(RequestStateKeys(SHARED), RequestStateKeys(SHARED))
    async with one as here, other as there:
        first, then = await here.way(way, "ann"), await there.way(way, "ann")
        call = await first.begin("tools/call", CALLS["tools/call"])
        assert (await then.retry(call, {"a": DECLINE})).complaint.startswith(GONE)
        assert (await first.retry(call, {"a": DECLINE})).text == "decline"


@BOTH
@pytest.mark.parametrize("tool", ["ask", "step"])
async def test_a_retry_in_a_process_with_other_keys_is_refused(
    way: str, tool: str, autojump_clock: MockClock
) -> None:
    one, other = two_towns(None, None)
    async with one as here, other as there:
        params = {"name": tool, "arguments": {}, "inputResponses": {"name": accept(x=1)}}
        call = await (await here.way(way, "ann")).begin("tools/call", params)
        again = await (await there.way(way, "ann")).retry(call)
        assert again.error == NO_MATCH


@BOTH
async def test_a_retry_with_a_forged_carried_state_is_refused(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(program()) as here:
        client = await here.way(way, "ann")
        params = {"name": "step", "arguments": {}, "inputResponses": {"name": accept(x=1)}}
        call = await client.begin("tools/call", params)
        payload, _, signature = call.state.partition(".")
        for forged in (payload, f"{payload}.", f".{signature}", payload[:-4] + "fX1d." + signature):
            assert (await client.retry(call, {"age": DECLINE}, state=forged)).error == NO_MATCH
        bob = await here.way(way, "bob")
        assert (await bob.retry(call, {"age": DECLINE})).error == NO_MATCH
        changed = await client.retry(call, {"age": DECLINE}, change={"arguments": {"n": 1}})
        assert changed.error == NO_MATCH


# Ids.


async def test_a_retry_may_reuse_the_id_of_the_first_request(autojump_clock: MockClock) -> None:
    """That one is over: its id is free."""
    async with town(program()) as here:
        pipe = await here.pipe()
        call = await pipe.begin("tools/call", CALLS["tools/call"], request_id="same")
        again = await pipe.retry(call, {"a": DECLINE}, request_id="same")
        assert again.text == "decline"


async def test_a_retry_with_an_id_in_use_is_refused(autojump_clock: MockClock) -> None:
    """It is refused before anything is claimed."""
    router = program()

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep(10)

    async with town(router) as here:
        pipe, other = await here.pipe("ann"), await here.pipe("ann")
        call = await pipe.begin("tools/call", CALLS["tools/call"])
        await other.peer.send(modern("same", "wait"))
        again = await other.retry(call, {"a": DECLINE}, request_id="same")
        assert again.code == -32600
        other.open["same"] = Call({}, other)
        await trio.sleep(11)
        assert (await other.retry(call, {"a": DECLINE}, request_id="same")).text == "decline"
