"""What parked handlers hold counts for their client until they end (2026-07-28)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.rounds import DECLINE, SCHEMA, accept, town
from trio_mcp_session import (
    Elicitation,
    QuestionTimeout,
    RequestContext,
    Router,
    SessionLimits,
)
from trio_mcp_session.server.busy import NO_MEMORY
from trio_mcp_session.server.parked import parked_handler

BOTH = pytest.mark.parametrize("way", ["http", "pipe"])


def router() -> Router:
    made = Router("r")

    @made.tool()
    async def ask(ctx: RequestContext, data: str) -> str:
        answer = await ctx.elicit("a", SCHEMA, key="a")
        return f"{answer.action} {len(data)}"

    @made.tool()
    async def three(ctx: RequestContext) -> str:
        await ctx.ask_all(*(Elicitation(key, SCHEMA, key=key) for key in "abc"))
        return "all"

    @made.tool()
    async def late(ctx: RequestContext, how: str) -> Any:
        try:
            await ctx.elicit("a", SCHEMA, key="a", timeout=1)
        except QuestionTimeout:
            if how == "fails":
                raise
        return {"text": "x" * 50_000}

    return made


@BOTH
async def test_the_parameters_of_a_parked_handler_count_until_it_ends(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(router()) as here:
        client = await here.way(way)
        call = await client.call("ask", {"data": "x" * 100_000})
        assert call.keys == {"a"}

        def held() -> int:
            return here.manager.statistics().bytes_held

        assert 100_000 < held() < 110_000
        assert here.the_parked.metrics.bytes_held == held()
        last = await client.retry(call, {"a": accept()})
        assert last.text == "accept 100000"
        await trio.testing.wait_all_tasks_blocked()
        assert held() == 0


@BOTH
async def test_a_retry_without_room_can_be_sent_again(way: str, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_bytes=280_000)
    async with town(router(), limits=limits) as here:
        client = await here.way(way)
        call = await client.call("ask", {"data": "x" * 100_000})
        await client.call("ask", {"data": "x" * 90_000})
        refused = await client.retry(call, {"a": accept()})
        assert refused.answer["error"]["message"] == NO_MEMORY
        second = here.parked[1]
        second.terminate()
        await second.wait_terminated()
        assert (await client.retry(call, {"a": accept()})).text == "accept 100000"


async def test_a_retry_counts_for_the_connection_that_it_came_on(
    autojump_clock: MockClock,
) -> None:
    release = trio.Event()
    made = Router("r")

    @made.tool()
    async def ask(ctx: RequestContext, data: str) -> int:
        await ctx.elicit("a", SCHEMA, key="a")
        await release.wait()
        return len(data)

    async with town(made) as here:
        first, second = await here.pipe("ann"), await here.pipe("ann")
        call = await first.call("ask", {"data": "x" * 50_000})
        retried = await second.retry(call, {"a": DECLINE})
        assert first.session.metrics.bytes_held == 0
        assert second.session.metrics.bytes_held > 50_000
        # The first parameters, too, which the handler still has.
        assert here.manager.statistics().bytes_held > 100_000
        release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert retried.text == "50000"
        assert first.session.metrics.bytes_held == second.session.metrics.bytes_held == 0
        assert here.manager.statistics().bytes_held == 0


@BOTH
async def test_answers_that_are_kept_count(way: str, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_party_bytes=100_000, max_session_bytes=100_000)
    async with town(router(), limits=limits) as here:
        client = await here.way(way)
        call = await client.call("three")
        large = accept(text="x" * 60_000)
        again = await client.retry(call, {"a": large})
        assert again.keys == {"b", "c"}
        assert here.manager.statistics().bytes_held > 60_000
        refused = await client.retry(again, {"b": large})
        assert refused.answer["error"]["message"] == NO_MEMORY
        last = await client.retry(again, {"b": DECLINE, "c": DECLINE})
        assert last.text == "all"
        await trio.testing.wait_all_tasks_blocked()
        assert here.manager.statistics().bytes_held == 0


@BOTH
async def test_a_retry_that_brings_no_answer_is_not_kept(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(router()) as here:
        client = await here.way(way)
        call = await client.call("three")
        before = here.manager.statistics().bytes_held
        for _ in range(3):
            call = await client.retry(call, {"unknown": accept(text="x" * 1000)})
            assert call.keys == {"a", "b", "c"}
            assert here.manager.statistics().bytes_held == before


@BOTH
@pytest.mark.parametrize("how", ["text", "fails"])
async def test_an_outcome_that_is_kept_counts(
    way: str, how: str, autojump_clock: MockClock
) -> None:
    async with town(router()) as here:
        client = await here.way(way)
        call = await client.call("late", {"how": how})
        before = here.manager.statistics().bytes_held
        await trio.sleep(2)
        kept = here.manager.statistics().bytes_held - before
        assert kept > 50_000 if how == "text" else kept < 1000
        last = await client.retry(call, {"a": DECLINE})
        if how == "text":
            assert last.result["structuredContent"] == {"text": "x" * 50_000}
        else:
            assert "error" in last.answer or last.result["isError"]
        await trio.testing.wait_all_tasks_blocked()
        assert here.manager.statistics().bytes_held == 0


async def test_an_outcome_that_does_not_encode_is_reported_and_fails_the_request(
    autojump_clock: MockClock,
) -> None:
    async with town(router()) as here:
        client = here.http()
        call = await client.call("three")
        request = parked_handler(here.the_parked).call.request
        request.describe_failure = None
        request.answer({"no": object()})
        last = await client.retry(call, dict.fromkeys("abc", DECLINE))
        assert last.error == (-32603, "Internal error")
        assert isinstance(here.crash(), TypeError)
