"""One anonymous client opens more sessions than there are places: the others keep theirs."""

from __future__ import annotations

from math import inf
from typing import Any

from trio.testing import wait_all_tasks_blocked

from tests.helpers import serving
from tests.sessions.test_crowds import SINK
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import bearer, json_of, site, works
from trio_mcp_session import (
    RateLimit,
    RequestContext,
    Router,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    Transport,
    accept,
)

INITIALIZE: Any = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
ATTACKER = ("203.0.113.66", 6666)


async def open_many(client: Client, count: int) -> list[int]:
    """Open sessions and leave without another word; return the statuses."""
    return [(await client.request("POST", INITIALIZE)).status for _ in range(count)]


async def test_a_crowd_evicts_no_session_of_another_address() -> None:
    limits = SessionLimits(max_sessions=40, opening_rate=RateLimit(inf))
    async with site(limits=limits) as place:
        others = [await place.client(client=(f"192.0.2.{n}", 1)).initialize() for n in range(10)]
        statuses = await open_many(place.client(client=ATTACKER), 100)
        assert statuses == [200] * 30 + [503] * 70
        assert [await works(one) for one in others] == [True] * 10
        # A new client of another address gets in at once, as often as that is fair.
        new_clients = [
            await place.client(client=("198.51.100.7", n)).initialize() for n in range(5)
        ]
        assert [await works(one) for one in [*others, *new_clients]] == [True] * 15
        held = [s for s in place.headers() if s.transport.peer.startswith(ATTACKER[0])]
        assert len(held) == 25
        assert (await open_many(place.client(client=ATTACKER), 3)) == [503] * 3


async def test_behind_a_proxy_that_is_not_trusted_all_clients_are_one_address() -> None:
    limits = SessionLimits(max_sessions=3, opening_rate=RateLimit(inf))
    async with site(limits=limits) as place:
        for number in range(3):
            headers = {"x-forwarded-for": f"192.0.2.{number}"}
            await place.client(headers=headers, client=("10.0.0.1", 5)).initialize()
        assert await open_many(place.client(client=("10.0.0.1", 5)), 1) == [503]


async def test_a_session_with_an_open_stream_or_request_stays() -> None:
    limits = SessionLimits(max_sessions=3, opening_rate=RateLimit(inf))
    async with site(limits=limits) as place:
        crowd = [await place.client(client=ATTACKER).initialize() for _ in range(3)]
        wait = {"jsonrpc": "2.0", "id": 1, "method": "wait"}
        async with crowd[0].stream("GET") as listening, crowd[1].stream("POST", wait) as asking:
            await listening.started()
            await place.client(client=("192.0.2.1", 1)).initialize()
            ended = [await one.request("GET") for one in crowd[2:]]
            assert [one.status for one in ended] == [404]
            refused = await place.client(client=("192.0.2.2", 1)).request("POST", INITIALIZE)
            assert refused.status == 503
            for session in place.headers():
                session.terminate()
            await asking.read()
            await listening.read()


async def test_too_many_openings_are_told_when_to_try_again() -> None:
    limits = SessionLimits(opening_rate=RateLimit(0.1, burst=2))
    async with site(limits=limits) as place:
        client = place.client(client=ATTACKER)
        assert await open_many(client, 2) == [200, 200]
        response = await client.request("POST", INITIALIZE)
        assert (response.status, response.headers["retry-after"]) == (429, "10")
        assert json_of(response)["id"] == 1
        assert "try again in" in json_of(response)["error"]["message"]
        assert await open_many(place.client(client=("192.0.2.1", 1)), 1) == [200]


async def test_the_rate_of_a_principal_counts_wherever_it_comes_from() -> None:
    limits = SessionLimits(opening_rate=RateLimit(0.1, burst=2))
    async with site(limits=limits, authenticate=bearer) as place:
        for number in range(2):
            await place.client("alice", client=(f"192.0.2.{number}", 1)).initialize()
        late = place.client("alice", client=("192.0.2.7", 1))
        assert await open_many(late, 1) == [429]
        await place.client("bob", client=("192.0.2.7", 1)).initialize()


async def test_parked_handlers_of_one_address_leave_places_to_others() -> None:
    router = Router("asking")

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        return (await ctx.elicit("?", {"type": "object"}, key="k")).action

    limits = SessionLimits(max_sessions_of={SessionKind.PARKED: 4})
    call: dict[str, Any] = {"name": "ask", "arguments": {}}
    message = modern(1, "tools/call", call, capabilities={"elicitation": {}})

    async with site(router, limits=limits) as place:

        async def park(host: str) -> Any:
            client = place.client(client=(host, 1))
            return (await client.post(message, headers=headers_of(message)))["result"]

        first, second, *_ = [await park(ATTACKER[0]) for _ in range(4)]
        assert (await park(ATTACKER[0]))["isError"]
        other = await park("192.0.2.1")
        # The first one of the crowd made room.
        for parked, lives in ((first, False), (second, True), (other, True)):
            answers = {"k": {"action": "decline"}}
            again = {**call, "requestState": parked["requestState"], "inputResponses": answers}
            retry = modern(2, "tools/call", again, capabilities={"elicitation": {}})
            client = place.client(client=("192.0.2.9", 1))
            result = (await client.post(retry, headers=headers_of(retry)))["result"]
            assert (result["content"][0]["text"] == "decline") is lives


async def open_one(manager: SessionManager, host: str) -> bool:
    try:
        session = await accept(
            manager,
            SINK,
            transport=Transport("http", f"{host}:1"),
            kind=SessionKind.HEADER,
        )
    except SessionLimitReached:
        return False
    session._handshake_done()
    return True


async def test_twenty_thousand_openings_of_one_address() -> None:
    limits = SessionLimits(opening_rate=RateLimit(inf))
    async with serving(Router("r"), limits=limits) as manager:
        for number in range(100):
            assert await open_one(manager, f"192.0.2.{number}")
        others = manager.sessions()
        opened = [await open_one(manager, ATTACKER[0]) for _ in range(20_000)]
        assert sum(opened) == 9_900
        for number in range(200):
            assert await open_one(manager, f"198.51.100.{number}")
        await wait_all_tasks_blocked()
        assert {session.termination_reason for session in others} == {None}
        assert {session.state for session in others} == {SessionState.ACTIVE}
        assert manager.statistics().ended == {TerminationReason.EVICTED: 200}
