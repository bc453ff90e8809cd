"""GET: which client may open which stream, and how others are refused."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    D,
    did,
    do,
    messages,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session import CleanupConfig, SessionState, TerminationReason
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore

NEVER = {"event_store": None}


async def refused(client: Client, **options: Any) -> int:
    """Send a GET that is refused; return its status."""
    response = await client.request("GET", **options)
    assert response.headers["content-type"] == "application/json"
    assert msgspec.json.decode(response.body)["error"]["code"] == -32600
    assert "mcp-session-id" not in response.headers
    if response.status == 429:
        assert response.headers["retry-after"] == "5"
    return response.status


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_sent_outside_of_requests(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    async with site(**({} if store else NEVER)) as s:
        client = await s.client(version)
        async with client.stream("GET") as response:
            await settle()
            s.manager.broadcast("notifications/said", {"n": 1})
            session = s.session_of(client)
            assert session.notify_nowait("notifications/said", {"n": 2})
            await session.notify("notifications/said", {"n": 3})
            assert await until_heard(response, 3) == [said(1), said(2), said(3)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.ask, "ping")
                (ping,) = await until_heard(response, 1)
                pong = {"jsonrpc": "2.0", "id": ping["id"], "result": {}}
                assert (await client.request("POST", pong)).status == 202


async def test_a_notification_that_no_stream_can_carry_is_dropped(
    autojump_clock: MockClock,
) -> None:
    """Its handler goes on: there is neither a GET nor an event store."""
    async with site(**NEVER) as s:
        client = await s.client()
        params = {"steps": [["say", 1]]}
        message = {"jsonrpc": "2.0", "method": "notifications/do", "params": params}
        assert (await client.request("POST", message)).status == 202
        await settle()
        assert s.script.log == ["did"]
        assert s.session_of(client).metrics.dropped == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("store", [True, False])
async def test_the_priming_event_is_sent_only_in_revisions_that_have_it(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    async with site(retry=0.5, **({} if store else NEVER)) as s:
        client = await s.client(version)
        async with client.stream("GET") as response:
            await settle()
            s.manager.broadcast("notifications/said", {"n": 1})
            event = await response.event()
            if version == D and store:
                assert (event.data, event.retry, event.event) == ("", 500, None)
                assert event.id is not None
                primed, event = event, await response.event()
                assert primed.id is not None
                assert primed.id.rpartition(".")[0] == (event.id or "").rpartition(".")[0]
            assert event.json == said(1)
            assert event.event == "message"
            assert event.retry is None
            assert (event.id is not None) is store


async def test_a_stream_that_goes_before_it_was_opened(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("GET") as response:
            response.server_task.cancel()
        streams = s.streams_of(client)
        assert not streams.connected
        async with client.stream("GET"):
            await settle()
            assert streams.connected


async def test_a_server_that_fails_to_say_that_the_client_has_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> NoReturn:
        await trio.sleep(1)
        raise RuntimeError("of the server")

    async with site() as s:
        client = await s.client()
        app, client.app = client.app, lambda scope, _, send: app(scope, fail, send)
        response = await client.request("GET")
        assert (response.status, response.complete) == (200, False)
        assert not s.streams_of(client).connected
    assert caplog.messages == ["reading from a client failed; it counts as disconnected"]


@pytest.mark.parametrize(
    "event_id, status",
    [
        ("", 400),
        ("nonsense", 400),
        ("x.1.0", 400),
        ("9" * 10_000, 400),
        ("\xe9", 400),
        ("TAG.99.0", 400),
        ("TAG.1.99", 410),  # The stream has ended: nothing is kept of its length.
        ("TAG.1", 400),
        ("foreign", 400),
        ("purged", 410),
    ],
)
async def test_a_last_event_id_that_cannot_be_resumed_is_refused(
    event_id: str, status: int, autojump_clock: MockClock
) -> None:
    async with site(event_store=MemoryEventStore(max_session_events=2)) as s:
        client, other = await s.client(), await s.client()
        for one in (client, other):
            await one.request("POST", do(1, ["say", 1], ["say", 2]))
        log, foreign = s.streams_of(client).log, s.streams_of(other).log
        assert log is not None
        assert foreign is not None
        names = {"foreign": f"{foreign.name}.1.0", "purged": f"{log.name}.1.0"}
        event_id = names.get(event_id, event_id.replace("TAG", log.name))
        assert await refused(client, headers={"last-event-id": event_id}) == status
        # Never 404: the session is well.
        assert await client.post(do(2)) == did(2)
        assert s.manager.statistics().http_refused == {status: 1}


async def test_what_was_missed_is_given_as_far_as_it_is_kept(autojump_clock: MockClock) -> None:
    async with site(event_store=MemoryEventStore(max_session_events=2)) as s:
        client = await s.client()
        for number in range(5):
            s.session_of(client).notify_nowait("notifications/n", {"number": number})
        async with client.stream("GET") as response:
            heard = await until_heard(response, 2)
        assert [one["params"]["number"] for one in heard] == [3, 4]
        assert s.session_of(client).metrics.dropped == 3


async def test_a_resume_without_stored_events_is_refused(autojump_clock: MockClock) -> None:
    async with site(**NEVER) as s:
        client = await s.client()
        assert await refused(client, headers={"last-event-id": "a.1.0"}) == 400
        # Before anything was kept.
    async with site() as s:
        client = await s.client()
        assert await refused(client, headers={"last-event-id": "a.1.0"}) == 400


async def test_streams_above_the_limit_are_refused_with_429(autojump_clock: MockClock) -> None:
    async with site(max_streams=3) as s:
        client, other = await s.client(), await s.client()
        first: dict[int, str | None] = {}
        async with trio.open_nursery() as nursery:

            async def post(number: int) -> None:
                async with client.stream("POST", do(number, ["say", 1], ["wait", "x"])) as response:
                    first[number] = (await response.event()).id
                    await response.read()

            async def get(number: int) -> None:
                async with client.stream(
                    "GET", headers={"last-event-id": first[number]}
                ) as response:
                    assert messages(await response.events()) == [said(1), did(number)]

            # Those that requests opened do not count.
            for number in range(5):
                nursery.start_soon(post, number)
            await settle()
            async with client.stream("GET") as response:
                await response.started()
                for number in range(2):
                    nursery.start_soon(get, number)
                await settle()
                assert s.streams_of(client).listeners == 3
                assert await refused(client, headers={"last-event-id": first[2]}) == 429
                assert await refused(client, headers={"last-event-id": "nonsense"}) == 429
                async with other.stream("GET") as strange:
                    assert (await strange.started()).status == 200
            # There is room again.
            async with client.stream("GET") as response:
                assert (await response.started()).status == 200
            s.script.gates["x"].set()
        assert s.streams_of(client).listeners == 0


# A stream does not keep its session alive.


@pytest.mark.parametrize("version", [B, D])
async def test_a_silent_stream_keeps_no_session_alive(
    version: str, autojump_clock: MockClock
) -> None:
    async with site(cleanup=CleanupConfig(idle_after=30, max_idle_time=100)) as s:
        client = await s.client(version)
        session = s.session_of(client)
        start = trio.current_time()
        async with client.stream("GET") as response:
            await trio.sleep(36)
            assert session.state is SessionState.IDLE
            assert len(response.writes) > 2  # comments are not activity either
            await response.read()
        # It ends properly, and its client learns why when it asks again.
        assert response.complete
        assert 100 <= trio.current_time() - start <= 106
        assert session.termination_reason is TerminationReason.IDLE
        assert (await client.request("GET")).status == 404


async def test_opening_a_stream_does_not_postpone_the_idle_timeout(
    autojump_clock: MockClock,
) -> None:
    """A session whose client only reconnects must not live for ever."""
    async with site(cleanup=CleanupConfig(max_idle_time=100)) as s:
        client = await s.client()
        session = s.session_of(client)
        response = Response()
        while response.status != 404:
            async with client.stream("GET") as response:
                await response.started()
                await trio.sleep(9)
            assert trio.current_time() < 130
        assert session.termination_reason is TerminationReason.IDLE


# Pings.


async def test_a_client_with_a_stream_is_pinged(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(ping_interval=10, ping_timeout=2, ping_strikes=2)
    async with site(cleanup=cleanup) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as response:
            heard = [one["method"] for one in messages(await response.events())]
        assert heard == ["ping", "notifications/cancelled"] * 2
        assert session.termination_reason is TerminationReason.UNRESPONSIVE


@pytest.mark.parametrize("store", [True, False])
async def test_a_client_without_a_stream_is_not_pinged_and_not_missed(
    store: bool, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(ping_interval=10, ping_timeout=2, ping_strikes=1)
    async with site(cleanup=cleanup, **({} if store else NEVER)) as s:
        client = await s.client()
        session = s.session_of(client)
        await trio.sleep(500)
        assert session.state is SessionState.IDLE
        assert session.metrics.messages_sent == 1  # the answer to initialize
        # As soon as it can hear them, they come.
        async with client.stream("GET") as response:
            (ping,) = await until_heard(response, 1)
            assert ping["method"] == "ping"
            await response.read()
        assert session.termination_reason is TerminationReason.UNRESPONSIVE
