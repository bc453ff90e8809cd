"""Parties that share the queue of stateless requests: turns, limits, and what makes room."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import msgspec
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import modern, serving
from tests.server.test_stateless_requests import Response, at_rest
from trio_mcp_session import (
    CleanupConfig,
    Principal,
    RequestContext,
    Router,
    SessionLimits,
    SessionManager,
)
from trio_mcp_session.core.peer import Party
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.modern import admit
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.turns import AT_ONCE, CROWD, REMEMBERED, Turns

ALICE, BOB, CAROL = Principal("alice"), Principal("bob"), Principal("carol")


class Desk:
    """Handlers that note their party, and wait until the test lets one go."""

    def __init__(self) -> None:
        self.router = Router("desk")
        self.began: list[object] = []
        self.open: list[trio.Event] = []
        self.router.request("wait")(self.wait)
        self.router.request("short")(self.short)
        self.router.tool()(self.ask)

    async def wait(self, ctx: RequestContext) -> None:
        self.began.append(ctx.request_id)
        release = trio.Event()
        self.open.append(release)
        try:
            await release.wait()
        finally:
            self.open.remove(release)

    async def short(self, ctx: RequestContext) -> None:
        self.began.append(ctx.request_id)
        await trio.lowlevel.checkpoint()

    async def ask(self, ctx: RequestContext) -> str:
        await ctx.elicit("?", {"type": "object"}, key="k")
        await self.wait(ctx)
        return "done"

    async def release(self, count: int = 1) -> None:
        for event in self.open[:count]:
            event.set()
        await wait_all_tasks_blocked()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@attrs.define(eq=False)
class Raw(Response):
    """Where an answer goes, whole as it is."""

    def send_result(self, frame: bytes) -> None:
        self.answers.append(msgspec.json.decode(frame))
        self.answered.set()


def post(
    manager: SessionManager,
    party: Party | None,
    request_id: Any,
    method: str = "wait",
    params: dict[str, Any] | None = None,
) -> tuple[InFlightRequest, Response]:
    capabilities: dict[str, Any] = {"elicitation": {}}
    message = modern(request_id, method, params or {}, capabilities=capabilities)
    response = Raw()
    server = server_of(manager)
    principal = party if isinstance(party, Principal) else None
    request = admit(
        server,
        server.stateless,
        Request(request_id, method, message["params"]),
        response,
        read_envelope(message["params"]),
        principal,
        party,
    )
    return request, response


async def retry_of(manager: SessionManager, party: Party) -> dict[str, Any]:
    """Make a call that asks; return the parameters of its retry."""
    call = {"name": "ask", "arguments": {}}
    _, asked = post(manager, party, 1, "tools/call", call)
    await asked.answered.wait()
    state = asked.answers[0]["result"]["requestState"]
    answers = {"k": {"action": "accept", "content": {}}}
    return {**call, "requestState": state, "inputResponses": answers}


def was_busy(response: Response) -> bool:
    error = response.answers[0].get("error") if response.answers else None
    return error is not None and "Server is busy" in error["message"]


async def test_parties_take_turns_in_the_queue(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router, limits=SessionLimits(max_stateless_requests=1)) as manager:
        post(manager, ALICE, "a0")
        for number in range(1, 5):
            post(manager, ALICE, f"a{number}")
        for number in range(3):
            post(manager, BOB, f"b{number}")
        post(manager, "192.0.2.1", "c0")
        await wait_all_tasks_blocked()
        for _ in range(9):
            await desk.release()
        assert desk.began == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4"]
        assert at_rest(manager)


async def test_parties_take_turns_where_each_may_run_several(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router, limits=SessionLimits(max_stateless_requests=4)) as manager:
        for number in range(8):
            post(manager, ALICE, f"a{number}")
        for number in range(4):
            post(manager, BOB, f"b{number}")
        await wait_all_tasks_blocked()
        assert set(desk.began) == {"a0", "a1", "a2", "a3"}
        for _ in range(12):
            await desk.release()
        # Also the party that has just had a place freed, and has more that wait, goes to the end.
        assert desk.began[4:] == ["b0", "a4", "b1", "a5", "b2", "a6", "b3", "a7"]
        assert at_rest(manager)


async def test_one_call_waits_for_one_turn_beside_a_thousand(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """Counted in requests that begin between a call of the quiet party and its begin."""
    limits = SessionLimits(max_stateless_requests=100, max_queued=1_000)
    async with serving(desk.router, limits=limits) as manager:
        post(manager, BOB, "bob", "short")
        for number in range(1_000):
            post(manager, ALICE, number, "short")
        waited = []
        for number in range(20):
            before = len(desk.began)
            _, response = post(manager, BOB, f"bob {number}", "short")
            await response.answered.wait()
            waited.append(desk.began.index(f"bob {number}") - before)
            # The other party sends another one for each that is served.
            for more in range(5):
                post(manager, ALICE, f"{number} {more}", "short")
        # Up to a crowd they start at once.
        assert max(waited) <= CROWD + 2 * AT_ONCE
        assert server_of(manager).stateless.queue is not None
        await wait_all_tasks_blocked()
        assert at_rest(manager)


async def begun_in_each_turn(desk: Desk, count: int) -> list[int]:
    """Return how many handlers began in each turn of the event loop, until so many have."""
    begun: list[int] = []
    while len(desk.began) < count:
        before = len(desk.began)
        await trio.lowlevel.checkpoint()
        begun.append(len(desk.began) - before)
    return begun


async def test_few_requests_of_a_crowd_start_in_one_turn_beside_another_party(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        post(manager, BOB, "b")
        for number in range(50):
            post(manager, ALICE, number)
        begun = await begun_in_each_turn(desk, 51)
        # Up to a crowd they start at once. Afterwards there is one in each turn; this
        # task may run first in one turn, and last in another.
        assert sum(begun[:2]) >= CROWD
        assert max(begun[2:]) <= 2 * AT_ONCE
        await desk.release(51)
        assert at_rest(manager)


async def test_requests_of_a_party_that_is_alone_start_at_once(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        for number in range(50):
            post(manager, ALICE, number)
        assert len(await begun_in_each_turn(desk, 50)) <= 2
        await desk.release(50)
        post(manager, BOB, "b")
        await wait_all_tasks_blocked()
        await desk.release(1)
        for number in range(REMEMBERED):
            post(manager, ALICE, f"short {number}", "short")
            await wait_all_tasks_blocked()
        desk.began.clear()
        for number in range(50):
            post(manager, ALICE, f"again {number}")
        assert len(await begun_in_each_turn(desk, 50)) <= 2
        await desk.release(50)
        assert at_rest(manager)


async def test_a_party_does_not_take_all_places(desk: Desk, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_per_principal=3, max_queued=2)
    async with serving(desk.router, limits=limits) as manager:
        server = server_of(manager)
        posted = [post(manager, ALICE, f"a{number}")[1] for number in range(6)]
        assert [was_busy(one) for one in posted] == [False] * 5 + [True]
        assert server.no_turn_for(ALICE, at_once=False) is not None
        assert server.no_turn_for(BOB, at_once=False) is None
        post(manager, BOB, "b")
        # Without a party only the limits of all hold.
        for number in range(10):
            post(manager, None, f"n{number}")
        await wait_all_tasks_blocked()
        assert server.stateless.running == 3 + 1 + 10
        assert set(desk.began) == {"a0", "a1", "a2", "b", *(f"n{n}" for n in range(10))}
        await desk.release(14)
        assert set(desk.began[-2:]) == {"a3", "a4"}
        assert server.no_turn_for(ALICE, at_once=False) is None
        await desk.release(20)
        assert at_rest(manager)


async def test_the_party_with_the_most_waiting_requests_makes_room(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_stateless_requests=1, max_stateless_queued=4)
    async with serving(desk.router, limits=limits) as manager:
        server = server_of(manager)
        alice = [post(manager, ALICE, f"a{number}")[1] for number in range(5)]
        assert not any(map(was_busy, alice))
        assert server.no_turn_for(ALICE, at_once=False) is not None
        assert was_busy(post(manager, ALICE, "a5")[1])
        assert server.no_turn_for(BOB, at_once=False) is None
        bob = [post(manager, BOB, f"b{number}")[1] for number in range(3)]
        # 4 of hers against 1, 3 against 2; then it would be 2 against 3.
        assert [was_busy(one) for one in alice] == [False, False, False, True, True]
        assert [was_busy(one) for one in bob] == [False, False, True]
        await wait_all_tasks_blocked()
        for _ in range(5):
            await desk.release()
        assert desk.began == ["a0", "b0", "a1", "b1", "a2"]
        assert at_rest(manager)


async def test_a_party_that_is_held_back_makes_room_too(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(
        max_stateless_requests=2, max_stateless_per_principal=1, max_stateless_queued=2
    )
    async with serving(desk.router, limits=limits) as manager:
        alice = [post(manager, ALICE, f"a{number}")[1] for number in range(4)]
        await wait_all_tasks_blocked()
        post(manager, BOB, "b0")
        await wait_all_tasks_blocked()
        post(manager, BOB, "b1")
        assert [was_busy(one) for one in alice] == [False, False, True, True]
        for _ in range(4):
            await desk.release()
        assert at_rest(manager)


async def test_a_waiting_request_can_be_cancelled(desk: Desk, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_requests=2, max_stateless_per_principal=1)
    async with serving(desk.router, limits=limits) as manager:
        server = server_of(manager)
        requests = [post(manager, ALICE, f"a{number}")[0] for number in range(3)]
        await wait_all_tasks_blocked()
        server.cancel(requests[1])
        server.cancel(requests[2])
        post(manager, ALICE, "last")
        await desk.release()
        await desk.release()
        assert desk.began == ["a0", "last"]
        assert at_rest(manager)


async def test_a_request_that_was_cancelled_before_it_began_starts_the_next(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        server = server_of(manager)
        requests = [post(manager, ALICE, number)[0] for number in range(AT_ONCE + 3)]
        for request in requests[:AT_ONCE]:
            server.cancel(request)
        await wait_all_tasks_blocked()
        assert sorted(map(str, desk.began)) == [str(AT_ONCE + n) for n in range(3)]
        await desk.release(3)
        # Also where idle workers were to take them.
        requests = [post(manager, ALICE, 10 + number)[0] for number in range(AT_ONCE + 1)]
        for request in requests[:AT_ONCE]:
            server.cancel(request)
        await wait_all_tasks_blocked()
        assert desk.began[-1] == 10 + AT_ONCE
        await desk.release()
        assert at_rest(manager)
        assert server.stateless.queue is not None
        assert server.stateless.queue._turns is not None
        assert not server.stateless.queue._turns.starting


async def test_a_retry_counts_for_its_party(desk: Desk, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_per_principal=1)
    async with serving(desk.router, limits=limits) as manager:
        retry = await retry_of(manager, ALICE)
        post(manager, ALICE, 2)
        await wait_all_tasks_blocked()
        _, busy = post(manager, ALICE, 3, "tools/call", retry)
        assert was_busy(busy)
        await desk.release()
        post(manager, ALICE, 4, "tools/call", retry)
        await wait_all_tasks_blocked()
        post(manager, ALICE, 5)
        await wait_all_tasks_blocked()
        assert len(desk.open) == 1
        await desk.release()
        await desk.release()
        assert desk.began[-1] == 5
        assert at_rest(manager)


async def test_a_retry_counts_for_the_address_that_it_came_from(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_stateless_per_principal=1)
    async with serving(desk.router, limits=limits) as manager:
        retry = await retry_of(manager, "192.0.2.1")
        post(manager, "192.0.2.2", 2, "tools/call", retry)
        await wait_all_tasks_blocked()
        post(manager, "192.0.2.2", 3)
        post(manager, "192.0.2.1", 4)
        await wait_all_tasks_blocked()
        assert desk.began == [2, 4]
        await desk.release(2)
        assert desk.began == [2, 4, 3]
        await desk.release()
        assert at_rest(manager)


async def test_after_a_request_that_times_out_the_next_one_runs(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_stateless_per_principal=1)
    cleanup = CleanupConfig(request_timeout=5)
    async with serving(desk.router, limits=limits, cleanup=cleanup) as manager:
        _, first = post(manager, ALICE, 1)
        _, second = post(manager, ALICE, 2)
        await first.answered.wait()
        await second.answered.wait()
        assert trio.current_time() == 10
        assert at_rest(manager)


# The turns alone.


@pytest.mark.parametrize("others, starts", [(CROWD, True), (CROWD + 1, False)])
def test_so_many_requests_are_a_crowd(others: int, starts: bool) -> None:
    turns = Turns(100, 100, 100)
    for _ in range(others):
        turns.started(ALICE)
    # Another party has requests, and as many were started in this turn as may be.
    assert turns.may_start(BOB)
    turns.starting = AT_ONCE
    assert turns.may_start(ALICE) == starts


# Against a model.

PARTIES: tuple[Party | None, ...] = (None, ALICE, BOB)
MAX_ALL, MAX_RUNNING, MAX_WAITING = 2, 1, 3


class Model(RuleBasedStateMachine):
    """Requests come, start, end and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(MAX_ALL, MAX_RUNNING, MAX_WAITING)
        self.running: list[Party | None] = []
        self.waiting: list[tuple[Party | None, int]] = []
        self.number = 0

    def limit_of(self, party: Party | None) -> int:
        return MAX_ALL if party is None else MAX_RUNNING

    @rule(party=st.sampled_from(PARTIES))
    def come(self, party: Party | None) -> None:
        there = self.running.count(party) + sum(one == party for one, _ in self.waiting)
        room = self.turns.has_room_for(party)
        assert room == (there < self.limit_of(party) + MAX_WAITING)
        waits = any(one == party for one, _ in self.waiting)
        may_run = self.running.count(party) < self.limit_of(party)
        assert self.turns.may_run(party) == may_run
        may_start = self.turns.may_start(party)
        assert may_start == (may_run and not waits)
        if may_start:
            self.turns.started(party)
            self.running.append(party)
        elif room:
            self.number += 1
            self.turns.wait(party, self.number)
            self.waiting.append((party, self.number))

    @rule()
    def start(self) -> None:
        key = self.turns.take()
        ready = {one for one, _ in self.waiting if self.running.count(one) < self.limit_of(one)}
        if key is None:
            assert not ready
            return
        (found,) = [one for one in self.waiting if one[1] == key]
        party = found[0]
        assert party in ready
        assert key == next(number for one, number in self.waiting if one == party)
        self.waiting.remove(found)
        self.turns.started(party)
        self.running.append(party)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        party = data.draw(st.sampled_from(self.running))
        self.running.remove(party)
        self.turns.ended(party)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(found)
        self.turns.leave(*found)

    @invariant()
    def the_longest_line_makes_room(self) -> None:
        lengths = Counter(party for party, _ in self.waiting)
        most = max(lengths.values(), default=0)
        for party in PARTIES:
            displaced = self.turns.displaced_by(party)
            if most <= lengths[party] + 1:
                assert displaced is None
            else:
                (owner,) = [one for one, number in self.waiting if number == displaced]
                assert lengths[owner] == most
                assert displaced == max(number for one, number in self.waiting if one == owner)

    @invariant()
    def nothing_is_kept_for_parties_without_requests(self) -> None:
        turns = self.turns
        there = {party for party, _ in self.waiting}
        assert turns._lines.keys() == set(self.running) | there
        may_run = {one for one in there if self.running.count(one) < self.limit_of(one)}
        assert {line.party for line in turns._circle} == may_run
        assert {line.party for line in turns._waiting.leaders} <= there
        assert len(turns._waiting) == len(there)


Model.TestCase.settings = settings(stateful_step_count=30)
TestModel = Model.TestCase
