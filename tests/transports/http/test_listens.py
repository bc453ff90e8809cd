"""Subscriptions over HTTP: a stream from the first moment, which may stay open for hours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from math import inf
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    acknowledged,
    brief,
    cancelled,
    changed,
    ended,
    error,
    listening,
    notification,
    told,
)
from tests.transports.http.asgi_client import Response
from tests.transports.http.live import SERVERS, Live, ServerName, Wire, watched
from tests.transports.http.modern import MODERN, headers_of, modern
from tests.transports.http.scripted import messages, parse, until_heard
from tests.transports.http.site import Server, Site, bearer, json_of, site
from trio_mcp_session import (
    CleanupConfig,
    Principal,
    Router,
    SessionLimits,
    SessionManager,
    SlowReader,
    http_app,
    open_session_manager,
)
from trio_mcp_session.protocol.sse import COMMENT
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.testing import find_leaks
from trio_mcp_session.transports.http.endpoint import WATCH_AFTER, Endpoint
from trio_mcp_session.transports.http.http_options import HttpOptions

INTERNAL = -32603
SSE = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
SOON = 2 * WATCH_AFTER
ROOM = 1_000
URIS = [f"resource:{number:0100}" for number in range(30)]
ALL: dict[str, Any] = {"toolsListChanged": True, "resourceSubscriptions": URIS}


def changing() -> Router:
    """A server of which things may change."""
    router = Server(resource_subscriptions=True).router

    async def nothing(ctx: object) -> None: ...

    for method in ("tools/list", "resources/list"):
        router.request(method)(nothing)
    return router


def listen(
    place: Site, request_id: object = 1, subject: str | None = None, **wanted: Any
) -> AbstractAsyncContextManager[Response]:
    message = listening(request_id, **(wanted or ALL))
    return place.client(subject).stream("POST", message, headers=headers_of(message))


def heard(response: Response) -> list[Any]:
    """All messages so far, without reading them."""
    return [told(one) for written in response.writes for one in messages(parse(written))]


def count(place: Site) -> int:
    return place.manager.statistics().listens


async def settles(place: Site) -> None:
    """Nothing is left of any subscription."""
    await wait_all_tasks_blocked()
    assert count(place) == 0
    assert len(place.app.stateless_ticker) == len(place.app.ticker) == 0
    assert find_leaks(place.manager) == []


# What it looks like.


@pytest.mark.parametrize("answers", ["auto", "sse"])
async def test_a_listen_request_opens_its_sse_stream_at_once(
    answers: Any, autojump_clock: MockClock
) -> None:
    async with site(changing(), options=HttpOptions(answers=answers)) as place:
        async with listen(place, 7) as response:
            await response.started()
            assert trio.current_time() == 0
            assert (response.status, response.headers) == (200, SSE)
            assert await until_heard(response, 1) == [acknowledged(7, **ALL)]
            assert response.writes[0].startswith(COMMENT)
            place.manager.notify_list_changed("tools")
            place.manager.notify_resource_updated(URIS[3])
            place.manager.notify_list_changed("resources")
            assert await until_heard(response, 2) == [changed(7, "tools"), changed(7, URIS[3])]
            # There is nothing to resume.
            event = parse(response.writes[-1])[0]
            assert (event.id, event.event, event.retry) == (None, "message", None)
            assert not response.complete
        await settles(place)
        assert place.refused == {}


async def test_listen_streams_with_the_same_request_id_are_independent(
    autojump_clock: MockClock,
) -> None:
    """Ids of different responses have nothing to do with each other."""
    async with site(changing()) as place, AsyncExitStack() as stack:
        responses = [
            await stack.enter_async_context(listen(place, request_id, toolsListChanged=True))
            for request_id in (1, 1, "1")
        ]
        await wait_all_tasks_blocked()
        assert place.manager.notify_list_changed("tools").listeners == 3
        await wait_all_tasks_blocked()
        for response, request_id in zip(responses, (1, 1, "1"), strict=True):
            expected = [acknowledged(request_id, toolsListChanged=True)]
            assert heard(response) == [*expected, changed(request_id, "tools")]


async def test_a_refused_subscription_is_answered_as_json(autojump_clock: MockClock) -> None:
    async with site(changing()) as place:
        async with listen(place, toolsListChanged="yes") as response:
            answer = await response.json()
        assert response.headers["content-type"] == "application/json"
        assert (response.status, brief(answer)) == (200, error(1, -32602))
        await settles(place)


async def test_subscriptions_listen_is_unknown_in_sessions(autojump_clock: MockClock) -> None:
    async with site(changing()) as place:
        client, _ = await place.open()
        answer = await client.post({**listening(1), "params": {"notifications": {}}})
        assert brief(answer) == error(1, -32601)


# How long it stays.


async def test_it_stays_and_costs_nothing(autojump_clock: MockClock) -> None:
    """One clock looks at all of them, once a second: it does not matter how many there are."""

    @final
    class Steps(trio.abc.Instrument):
        taken = 0

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.taken += 1

    async def steps_of(number: int) -> int:
        options = HttpOptions(keep_alive=10_000)
        cleanup = CleanupConfig(send_timeout=inf)
        async with (
            site(changing(), options=options, cleanup=cleanup) as place,
            AsyncExitStack() as stack,
        ):
            for _ in range(number):
                await stack.enter_async_context(listen(place))
            await trio.sleep(1)
            assert count(place) == number
            assert len(place.app.stateless_ticker) == 0
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(600)
            trio.lowlevel.remove_instrument(steps)
            return steps.taken

    assert await steps_of(1) <= 605
    assert await steps_of(40) <= 605


async def test_it_is_kept_alive(autojump_clock: MockClock) -> None:
    async with site(changing(), options=HttpOptions(keep_alive=15)) as place:
        async with listen(place) as response:
            await trio.sleep(4 * 3600)
            assert count(place) == 1
            # For proxies to see it alive.
            comments = response.writes[1:]
            assert set(comments) == {COMMENT}
            assert 4 * 3600 / 16 <= len(comments) <= 4 * 3600 / 15
            place.manager.notify_list_changed("tools")
            assert await until_heard(response, 2) == [
                acknowledged(1, **ALL),
                changed(1, "tools"),
            ]
        await settles(place)


# How it ends.


@pytest.mark.parametrize("after", [0, WATCH_AFTER / 2, 3600])
async def test_a_client_that_disconnects_ends_its_listen_stream(
    after: float, autojump_clock: MockClock
) -> None:
    async with site(changing()) as place:
        async with listen(place) as response:
            await wait_all_tasks_blocked()
            await trio.sleep(after)
            assert count(place) == 1
        await trio.sleep(SOON if after < 1 else 0)
        await settles(place)
        assert place.manager.notify_list_changed("tools").listeners == 0
        assert not response.complete
        assert server_of(place.manager).stateless.counters.cancelled == 1


@final
@attrs.define(eq=False)
class Line:
    """A connection whose server says nothing to writes after the client has left."""

    sent: list[Any] = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, place: Site, message: Mapping[str, Any]) -> None:
        given = {
            "content-type": "application/json",
            "host": "localhost:8000",
            **headers_of(message),
        }
        body: list[Any] = [{"type": "http.request", "body": msgspec.json.encode(message)}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(sent: Any) -> None:
            await trio.lowlevel.checkpoint()
            self.sent.append(sent)

        headers = [(name.encode(), value.encode()) for name, value in given.items() if value]
        scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
        await place.app({**scope, "server": ("127.0.0.1", 8000)}, receive, send)


@pytest.mark.parametrize("after", [0, 5])
async def test_also_where_writes_never_fail(after: float, autojump_clock: MockClock) -> None:
    async with site(changing()) as place:
        line = Line()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.run, place, listening(1, **ALL))
            await wait_all_tasks_blocked()
            await trio.sleep(after)
            line.left.set()
            await trio.sleep(SOON if after < WATCH_AFTER else 0)
            await wait_all_tasks_blocked()
            sent = list(line.sent)
            # Nothing is sent after it was noticed.
            place.manager.notify_list_changed("tools")
        assert line.sent == sent
        await settles(place)


async def test_nothing_is_cancelled_by_its_id(autojump_clock: MockClock) -> None:
    async with site(changing()) as place, listen(place) as response:
        await wait_all_tasks_blocked()
        header = {"mcp-protocol-version": MODERN}
        for sent in (
            cancelled(1),
            notification("notifications/cancelled", modern(1, "")["params"]),
        ):
            assert (await place.client().request("POST", sent, headers=header)).status == 202
        client, _ = await place.open()
        assert (await client.request("POST", cancelled(1))).status == 202
        place.manager.notify_list_changed("tools")
        assert await until_heard(response, 2) == [acknowledged(1, **ALL), changed(1, "tools")]


async def test_a_drain_ends_it_with_its_result(autojump_clock: MockClock) -> None:
    async with site(changing()) as place, listen(place, "x") as response:
        await wait_all_tasks_blocked()
        place.manager.notify_list_changed("tools")
        await place.manager.drain(grace=10)
        assert trio.current_time() == 0
        events = messages(await response.events())
        assert [told(one) for one in events] == [
            acknowledged("x", **ALL),
            changed("x", "tools"),
            ended("x"),
        ]
        # The result shares no write with what went before.
        assert [told(one) for one in messages(parse(response.writes[-1]))] == [ended("x")]
        assert response.complete
        await settles(place)
        async with listen(place) as late:
            assert brief(await late.json()) == error(1, INTERNAL)
        assert (late.status, late.headers["retry-after"]) == (503, "5")


async def leave_by_an_error() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("leave", [trio.lowlevel.checkpoint, leave_by_an_error])
async def test_the_end_of_the_manager_ends_each_listen_stream(
    leave: Callable[[], Awaitable[None]], autojump_clock: MockClock
) -> None:
    responses: list[Response] = []
    managers: list[SessionManager] = []

    async def client(place: Site) -> None:
        async with listen(place) as response:
            responses.append(response)
            await response.read()

    async with trio.open_nursery() as nursery:
        with suppress(ZeroDivisionError):
            async with open_session_manager(changing()) as manager:
                managers.append(manager)
                app = http_app(manager)
                assert isinstance(app, Endpoint)
                nursery.start_soon(client, Site(manager, app))  # noqa: ASYNC111  # outlives it
                await wait_all_tasks_blocked()
                await leave()
    (response,) = responses
    assert trio.current_time() == 0
    assert heard(response) == [acknowledged(1, **ALL), ended(1)]
    assert response.complete
    assert find_leaks(*managers) == []


async def test_revoke_ends_only_the_listen_streams_of_the_principal(
    autojump_clock: MockClock,
) -> None:
    async with site(changing(), authenticate=bearer) as place:
        async with listen(place, 1, "alice") as alice, listen(place, 1, "bob") as bob:
            await wait_all_tasks_blocked()
            place.manager.revoke(Principal("alice"))
            await alice.read()
            assert heard(alice) == [acknowledged(1, **ALL), ended(1)]
            assert alice.complete
            assert count(place) == 1
            assert not bob.complete
        await settles(place)


# How many.


async def test_listen_streams_above_the_limits_are_refused_with_503(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_listens_per_principal=2, max_listens=4)
    async with (
        site(changing(), authenticate=bearer, limits=limits) as place,
        AsyncExitStack() as stack,
    ):
        for subject in ("alice", "alice", "bob"):
            await stack.enter_async_context(listen(place, 1, subject))
        await wait_all_tasks_blocked()
        async with listen(place, 1, "alice") as response:
            assert brief(await response.json()) == error(1, INTERNAL)
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        async with listen(place, 1, "carol") as carol:
            await carol.started()
            assert carol.status == 200
            async with listen(place, 1, "dave") as dave:
                await dave.read()
            assert dave.status == 503
        assert place.refused == {503: 2}


async def test_clients_without_a_principal_share_one_listen_limit(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_listens_per_principal=1, max_listens=3)
    async with site(changing(), limits=limits) as place, AsyncExitStack() as stack:
        for _ in range(3):
            response = await stack.enter_async_context(listen(place))
            await response.started()
            assert response.status == 200
        async with listen(place) as refused:
            assert "busy" in json_of_error(await refused.json())
        assert refused.status == 503


def json_of_error(answer: Any) -> str:
    text: str = answer["error"]["message"]
    return text


async def test_a_listen_stream_does_not_count_to_the_request_limit(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_stateless_requests=1, max_queued=0)
    async with site(changing(), limits=limits) as place, listen(place), listen(place):
        await wait_all_tasks_blocked()
        message = modern(1, "echo")
        client = place.client()
        response = await client.request("POST", message, headers=headers_of(message))
        assert (response.status, json_of(response)["id"]) == (200, 1)


# Clients that do not read.


@asynccontextmanager
async def slow(
    policy: SlowReader, send_timeout: float = 1000
) -> AsyncIterator[tuple[Site, Response]]:
    """A client that stopped to read, and much that has changed since then, twice."""
    limits = SessionLimits(max_output=ROOM)
    async with (
        site(
            changing(),
            limits=limits,
            cleanup=CleanupConfig(send_timeout=send_timeout),
            options=HttpOptions(slow_reader=policy),
        ) as place,
        listen(place) as response,
    ):
        assert await until_heard(response, 1) == [acknowledged(1, **ALL)]
        await wait_all_tasks_blocked()
        response.stall()
        for _ in range(2):
            for uri in URIS:
                place.manager.notify_resource_updated(uri)
        await wait_all_tasks_blocked()
        yield place, response


@pytest.mark.parametrize("policy", [SlowReader.BLOCK, SlowReader.DROP])
async def test_nothing_is_lost_and_nothing_grows(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with slow(policy) as (place, response):
        # Others are well.
        async with listen(place, 2) as other:
            await other.started()
            with trio.fail_after(1):
                place.manager.notify_list_changed("tools")
                assert await until_heard(other, 2) == [acknowledged(2, **ALL), changed(2, "tools")]
        await trio.sleep(20)
        assert find_leaks(place.manager) == []
        response.resume()
        await wait_all_tasks_blocked()
        told_of = heard(response)[1:]
        assert told_of.pop() == changed(1, "tools")
        # Some were put before there was no room, and then each once.
        for uri in URIS:
            assert 1 <= told_of.count(changed(1, uri)) <= 2
        assert told_of[-len(URIS) :] != told_of[: len(URIS)]
        assert server_of(place.manager).stateless.counters.dropped == 0
        place.manager.notify_resource_updated(URIS[0])
        await wait_all_tasks_blocked()
        assert heard(response)[-1] == changed(1, URIS[0])


async def test_a_stream_may_be_ended_for_it(autojump_clock: MockClock) -> None:
    async with slow(SlowReader.END_STREAM) as (place, response):
        await settles(place)
        await response.read()
        assert not response.complete
        assert server_of(place.manager).stateless.counters.cancelled == 1


@pytest.mark.parametrize("policy", [SlowReader.BLOCK, SlowReader.DROP])
async def test_a_listen_stream_that_is_not_read_ends_at_the_send_timeout(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with slow(policy, send_timeout=30) as (place, response):
        await trio.sleep(29)
        assert count(place) == 1
        await trio.sleep(2)
        await settles(place)
        await response.read()
        assert not response.complete


@pytest.mark.parametrize("policy", [SlowReader.BLOCK, SlowReader.DROP])
async def test_a_drain_ends_a_listen_stream_that_is_not_read(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with slow(policy) as (place, response):
        await place.manager.drain()
        assert trio.current_time() == 0
        assert count(place) == 0
        response.resume()
        await response.read()
        *_, last = heard(response)
        assert last == ended(1)
        assert response.complete


async def test_a_client_that_disconnects_with_a_backlog_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with slow(SlowReader.BLOCK) as (place, response):
        response.resume()
        response.server_task.cancel()
        await settles(place)


# On real sockets.

on_both_servers = pytest.mark.parametrize("server", SERVERS)


async def begin(it: Live) -> tuple[Wire, Any]:
    wire = await it.connect()
    message = listening(1, toolsListChanged=True)
    answer = await wire.begin("POST", message, {**headers_of(message)})
    assert answer.headers["content-type"] == "text/event-stream"
    assert await wire.message(answer) == acknowledged(1, toolsListChanged=True)
    return wire, answer


@on_both_servers
async def test_a_listen_stream_on_a_real_server_receives_changes_and_ends_with_a_drain(
    server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it:
        wire, answer = await begin(it)
        await it.pass_time(60)
        # The bystander's session is notified, too, in its way.
        assert it.manager.notify_list_changed("tools").listeners == 1
        assert await wire.message(answer) == changed(1, "tools")
        await it.manager.drain(grace=0)
        assert told(await wire.message(answer)) == ended(1)
        await wire.to_the_end(answer)
        await it.served.returned.wait()


@on_both_servers
@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("seconds", [0, 60])
async def test_a_client_that_vanishes(
    seconds: float, how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it, it.undisturbed():
        wire, _ = await begin(it)
        await it.pass_time(seconds)
        await wait_all_tasks_blocked()
        await (wire.aclose() if how == "closes" else wire.reset())
        await it.pass_time(1)
        assert it.manager.statistics().listens == 0
