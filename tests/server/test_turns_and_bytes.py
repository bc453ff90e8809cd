"""Where parties take turns, a request that waits holds its text only (2026-07-28, over HTTP)."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import modern, serving
from tests.server.test_stateless_requests import Response
from tests.server.test_turns import ALICE, BOB, CAROL, Desk
from trio_mcp_session import Principal, SessionLimits, SessionManager
from trio_mcp_session.core.identity import Transport
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request, decode, encode_json
from trio_mcp_session.server.busy import BUSY, NO_MEMORY
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.modern import admit
from trio_mcp_session.server.request import InFlightRequest

MANY: dict[str, Any] = {"a": [{}] * 5_000}
"""It takes much more memory than its text: about 320 KB, and 15 KB."""


@attrs.define(eq=False)
class Raw(Response):
    def send_result(self, frame: bytes) -> None:
        self.answers.append(msgspec.json.decode(frame))
        self.answered.set()

    @property
    def complaint(self) -> str | None:
        return self.answers[0]["error"]["message"] if self.answers else None


def post(
    manager: SessionManager, party: Principal, request_id: str, params: dict[str, Any] | None = None
) -> tuple[InFlightRequest, Raw]:
    message = decode(encode_json(modern(request_id, "wait", params or {})))
    assert isinstance(message, Request)
    response = Raw()
    server = server_of(manager)
    budget = manager._byte_budgets.of_party(party, Transport("http"))
    envelope = read_envelope(message.params)
    request = admit(server, server.stateless, message, response, envelope, party, party, budget)
    return request, response


def held(manager: SessionManager) -> int:
    return manager.statistics().bytes_held


async def test_a_request_is_decoded_again_when_its_turn_comes(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with serving(desk.router, limits=SessionLimits(max_stateless_requests=1)) as manager:
        post(manager, ALICE, "a0")
        await wait_all_tasks_blocked()
        alone = held(manager)
        waiting = [post(manager, party, party.subject, MANY)[0] for party in (BOB, CAROL, ALICE)]
        assert [one.params for one in waiting] == [{}] * 3
        assert held(manager) - alone < 3 * 20_000
        for number, request in enumerate(waiting, 1):
            await desk.release()
            assert request.params["a"] == MANY["a"]
            assert len(desk.began) == 1 + number
            assert held(manager) > 300_000
        assert desk.began == ["a0", "bob", "carol", "alice"]
        await desk.release()
        assert held(manager) == 0


async def test_a_request_that_cannot_be_decoded_is_refused_and_the_next_one_runs(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    limits = SessionLimits(max_stateless_requests=2, max_party_bytes=500_000)
    async with serving(desk.router, limits=limits) as manager:
        post(manager, ALICE, "a0", MANY)
        post(manager, BOB, "b0")
        await wait_all_tasks_blocked()
        _, refused = post(manager, ALICE, "a1", MANY)
        _, second = post(manager, ALICE, "a2")
        _, third = post(manager, CAROL, "c0")
        desk.open[desk.began.index("b0")].set()
        await wait_all_tasks_blocked()
        # There is no room for two such requests of Alice.
        assert refused.complaint == NO_MEMORY
        assert len(desk.began) == 3
        await desk.release(10)
        await desk.release(10)
        assert second.answers
        assert third.answers
        assert held(manager) == 0
        assert manager.statistics().bytes_refused == {"principal": 1}
        # Its place is free again.
        post(manager, ALICE, "a3")
        await wait_all_tasks_blocked()
        assert desk.began[-1] == "a3"
        await desk.release()


async def test_the_last_one_that_waits_may_be_refused(autojump_clock: MockClock) -> None:
    desk = Desk()
    limits = SessionLimits(max_stateless_requests=1, max_bytes=400_000)
    async with serving(desk.router, limits=limits) as manager:
        post(manager, ALICE, "a0")
        await wait_all_tasks_blocked()
        _, refused = post(manager, BOB, "b0", MANY)
        manager._byte_budgets.manager.add(200_000)
        await desk.release()
        assert refused.complaint == NO_MEMORY
        manager._byte_budgets.manager.release(200_000)
        assert held(manager) == 0
        assert server_of(manager).stateless.busy == 0


async def test_a_request_without_room_displaces_no_other(autojump_clock: MockClock) -> None:
    desk = Desk()
    limits = SessionLimits(
        max_stateless_requests=1, max_stateless_queued=3, max_party_bytes=100_000
    )
    async with serving(desk.router, limits=limits) as manager:
        post(manager, ALICE, "a0")
        await wait_all_tasks_blocked()
        responses = [post(manager, ALICE, f"a{number}")[1] for number in range(1, 4)]
        _, refused = post(manager, BOB, "b0", {"text": "x" * 200_000})
        assert refused.complaint == NO_MEMORY
        assert not any(one.answers for one in responses)
        # One with room takes the place of the last one.
        _, waits = post(manager, BOB, "b1", {"text": "x"})
        assert not waits.answers
        assert responses[-1].complaint == BUSY
        for _ in range(5):
            await desk.release()
        assert desk.began == ["a0", "b1", "a1", "a2"]
        assert held(manager) == 0


async def test_a_request_that_could_run_at_once_is_refused_without_room(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    async with serving(desk.router, limits=SessionLimits(max_party_bytes=100_000)) as manager:
        request, refused = post(manager, ALICE, "a0", MANY)
        assert (refused.complaint, request.no_room) == (NO_MEMORY, NO_MEMORY)
        assert server_of(manager).stateless.busy == 0
        await wait_all_tasks_blocked()
        assert desk.began == []
