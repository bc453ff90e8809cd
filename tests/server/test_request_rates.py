"""How often requests may be sent: in sessions of both eras, and over HTTP."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, initialize, modern as on_a_pipe, request, serving
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import bearer, json_of, site
from trio_mcp_session import (
    HttpOptions,
    Principal,
    RateLimit,
    RequestContext,
    Router,
    SessionLimits,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request_rates import RequestRates

ALICE = Principal("alice")


@pytest.fixture
def router() -> Router:
    router = Router("r")

    async def done(ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()

    for method in ("one", "two"):
        router.request(method)(done)
    return router


def limits(**rates: Any) -> SessionLimits:
    return SessionLimits(**rates)


def test_nothing_is_counted_without_a_limit() -> None:
    assert RequestRates.of(SessionLimits()) is None
    assert RequestRates.of(limits(method_rates={"one": RateLimit(inf)})) is None


async def ask(peer: Any, *methods: str, make: Any = request) -> list[Any]:
    """Send requests; return what was answered: None, or the error."""
    await peer.send(*(make(number, method) for number, method in enumerate(methods)))
    await wait_all_tasks_blocked()
    answers = {one["id"]: one.get("error") for one in await peer.waiting()}
    return [answers[number] for number in range(len(methods))]


@pytest.mark.parametrize("make", [request, on_a_pipe], ids=["legacy", "modern"])
async def test_requests_of_an_unauthenticated_client_are_counted_by_its_session(
    make: Any, router: Router, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(router, limits=limits(request_rate=RateLimit(0.25, burst=2))) as manager:
        peers = [await connect(manager) for _ in range(2)]
        for peer in peers:
            await peer.establish()
            answers = await ask(peer, "one", "two", "one", make=make)
            assert answers[:2] == [None, None]
            assert answers[2]["message"] == "Too many requests in a short time: try again in 4 s"
            assert answers[2]["data"] == {"retryAfter": 4}
        (told,) = [text for text in caplog.messages if "request_rate" in text]
        assert told.startswith("'one' is sent too often by <Session ")
        await trio.sleep(4)
        assert await ask(peers[0], "one", make=make) == [None]
        for peer in peers:
            await peer.channel.aclose()


async def test_a_principal_has_one_rate_for_all_its_sessions(
    router: Router, autojump_clock: MockClock
) -> None:
    async with serving(router, limits=limits(request_rate=RateLimit(1, burst=2))) as manager:
        first, second = [await connect(manager, principal=ALICE) for _ in range(2)]
        other = await connect(manager, principal=Principal("bob"))
        for peer in (first, second, other):
            await peer.establish()
        assert await ask(first, "one", "one") == [None, None]
        assert (await ask(second, "one"))[0]["code"] == -32603
        assert await ask(other, "one") == [None]
        for peer in (first, second, other):
            await peer.channel.aclose()


async def test_a_method_has_a_rate_of_its_own(router: Router, autojump_clock: MockClock) -> None:
    rates = {"one": RateLimit(1, burst=1), "two": RateLimit(inf)}
    config = limits(method_rates=rates, request_rate=RateLimit(1, burst=4))
    async with serving(router, limits=config) as manager:
        peer = await connect(manager)
        await peer.establish()
        answers = await ask(peer, "one", "one", "two", "two", "two", "two")
        assert [answer is None for answer in answers] == [True, False, True, True, True, False]
        await peer.channel.aclose()


async def test_pings_and_the_handshake_are_not_counted(
    router: Router, autojump_clock: MockClock
) -> None:
    async with serving(router, limits=limits(request_rate=RateLimit(1, burst=1))) as manager:
        peer = await connect(manager)
        await peer.establish()
        assert await ask(peer, "ping", "ping", "one") == [None] * 3
        await peer.channel.aclose()


async def test_stateless_requests_over_http(router: Router, autojump_clock: MockClock) -> None:
    config = limits(request_rate=RateLimit(0.1, burst=1))
    async with site(router, limits=config) as place:
        message = modern(1, "one")

        async def post(host: str | None) -> Any:
            client = place.client(client=None if host is None else (host, 1))
            return await client.request("POST", message, headers=headers_of(message))

        assert (await post("192.0.2.1")).status == 200
        refused = await post("192.0.2.1")
        assert (refused.status, refused.headers["retry-after"]) == (429, "10")
        assert json_of(refused)["error"]["message"].endswith("try again in 10 s")
        assert (await post("192.0.2.2")).status == 200
        # Neither principal nor address: there is nothing to count by.
        assert [(await post(None)).status for _ in range(3)] == [200] * 3
        assert server_of(place.manager).stateless.running == 0


async def test_requests_without_a_session_over_http(
    router: Router, autojump_clock: MockClock
) -> None:
    config = limits(request_rate=RateLimit(0.1, burst=2))
    async with site(router, limits=config, options=HttpOptions(stateless=True)) as place:

        async def post(host: str, message: Any) -> Any:
            return await place.client(client=(host, 1)).request("POST", message)

        # As in a session: pings and the handshake are not counted, each request of a batch is.
        for message in (request(1, "ping"), initialize(), [request(1, "ping")] * 3):
            assert (await post("192.0.2.1", message)).status == 200
        assert (await post("192.0.2.1", [request(1, "one"), request(2, "two")])).status == 200
        refused = await post("192.0.2.1", request(3, "one"))
        assert (refused.status, refused.headers["retry-after"]) == (429, "10")
        assert (await post("192.0.2.1", [request(4, "ping"), request(5, "one")])).status == 429
        assert (await post("192.0.2.2", [request(6, "one")] * 3)).status == 429


async def test_stateless_requests_of_a_principal(router: Router, autojump_clock: MockClock) -> None:
    config = limits(request_rate=RateLimit(0.1, burst=1))
    async with site(router, limits=config, authenticate=bearer) as place:
        message = modern(1, "one")
        statuses = [
            (
                await place.client(who, client=(host, 1)).request(
                    "POST", message, headers=headers_of(message)
                )
            ).status
            for who, host in (("alice", "192.0.2.1"), ("alice", "192.0.2.2"), ("bob", "192.0.2.1"))
        ]
        assert statuses == [200, 429, 200]
