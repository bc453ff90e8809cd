"""However a session or a manager ends: each open stream is told, and nothing is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import at_every_step, cancelled, cancelled_at_step, notification
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.scripted import (
    VERSIONS,
    D,
    Site,
    did,
    do,
    messages,
    parse,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session import CleanupConfig, SessionLimits, TerminationReason, open_session_manager
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import SlowReader
from trio_mcp_session.transports.http.session_streams import streams_of

R = TerminationReason


@final
@attrs.define
class Visit:
    """A client with one connection of every sort, and what it heard on them."""

    site: Site
    client: Client
    listener: Response
    streaming: Response
    waiting: Response
    back: Response
    """GET on the stream of a request, which had been let go."""
    away: str | None
    """Where the client would resume, if it did."""

    def ended(self) -> dict[str, Any]:
        """What came on each connection, as far as it ended properly."""
        found: dict[str, Any] = {}
        for name in ("listener", "streaming", "waiting", "back"):
            response: Response = getattr(self, name)
            found[name] = read_all(response) if response.complete else "cut"
        return found


def read_all(response: Response) -> list[Any]:
    if response.headers["content-type"] == "application/json":
        return [msgspec.json.decode(write) for write in response.writes]
    return messages([event for write in response.writes for event in parse(write)])


@asynccontextmanager
async def visit(nursery: trio.Nursery, version: str = D, **options: Any) -> AsyncIterator[Visit]:
    """The server's tasks run in a nursery outside of the manager."""

    async def connect(
        verb: str,
        json: Any,
        event_id: str | None,
        *,
        task_status: trio.TaskStatus[Response],
    ) -> None:
        async with client.stream(verb, json, headers={"last-event-id": event_id}) as response:
            task_status.started(response)
            with suppress(trio.EndOfChannel):
                while True:
                    response.body += await response._came.receive()

    async with site(**options) as s:
        client = await s.client(version)
        listener = await nursery.start(connect, "GET", None, None)
        streaming = await nursery.start(connect, "POST", do(1, ["say", 1], ["wait", "x"]), None)
        waiting = await nursery.start(connect, "POST", do(2, ["wait", "x"]), None)
        names = []
        for number in (3, 4):
            steps = [["say", 3], ["let go"], ["wait", "x"]]
            async with client.stream("POST", do(number, *steps)) as response:
                events = [await response.event() for _ in range(2 if version == D else 1)]
                names.append(events[0].id)
                if version != D:
                    response.server_task.cancel()
        back = await nursery.start(connect, "GET", None, names[0])
        await settle()
        yield Visit(s, client, listener, streaming, waiting, back, names[1])


@asynccontextmanager
async def visited(version: str = D, **options: Any) -> AsyncIterator[tuple[trio.Nursery, Visit]]:
    async with trio.open_nursery() as nursery:
        async with visit(nursery, version, **options) as v:
            yield nursery, v


def why(number: int, reason: TerminationReason) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {"code": -32603, "message": f"Session has ended: {reason.value}"},
    }


async def delete(v: Visit) -> None:
    assert (await v.client.request("DELETE")).status == 204


async def expire(v: Visit) -> None:
    await trio.sleep(510)


async def crash(v: Visit) -> None:
    async with v.client.stream("POST", do(9, ["crash"])) as response:
        answer = await response.json()
    assert answer == why(9, R.CRASHED)


async def terminate(v: Visit) -> None:
    v.site.session_of(v.client).terminate(R.EVICTED)


async def drain(v: Visit) -> None:
    report = await v.site.manager.drain(grace=1)
    assert len(report.cancelled) == 1


HOW: dict[str, tuple[Callable[[Visit], Awaitable[None]], TerminationReason]] = {
    "DELETE": (delete, R.CLIENT_CLOSED),
    "lifetime": (expire, R.LIFETIME),
    "crash": (crash, R.CRASHED),
    "from inside": (terminate, R.EVICTED),
    "drain": (drain, R.SHUTDOWN),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", HOW)
async def test_each_way_to_end_a_session_tells_every_open_stream_the_reason(
    how: str, version: str, autojump_clock: MockClock
) -> None:
    end, reason = HOW[how]
    cleanup = CleanupConfig(max_session_time=500)
    async with visited(version, cleanup=cleanup) as (_, v):
        session = v.site.session_of(v.client)
        await end(v)
        assert await session.wait_terminated() is reason
        await settle()
        heard = v.ended()
        assert heard["listener"] == []
        assert heard["streaming"] == [said(1), why(1, reason)]
        assert heard["back"][-1] == why(3, reason)
        assert heard["waiting"] == [why(2, reason)]
        assert v.site.script.log.count("Cancelled") == (5 if how == "crash" else 4)
        if how != "drain":
            # Unknown from now on, whatever it is asked for.
            for response in (
                await v.client.request("POST", do(1)),
                await v.client.request("GET"),
                await v.client.request("GET", headers={"last-event-id": v.away}),
                await v.client.request("DELETE"),
            ):
                assert response.status == 404
        assert v.site.left() == []


async def test_leaving_the_manager_by_an_error(autojump_clock: MockClock) -> None:
    heard: dict[str, Any] = {}
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            try:
                async with visit(nursery) as v:
                    raise ValueError
            finally:
                heard = v.ended()
    assert heard["streaming"] == [said(1), why(1, R.SHUTDOWN)]
    assert heard["listener"] == []
    assert heard["waiting"] == [why(2, R.SHUTDOWN)]


async def test_a_cancelled_manager_ends_every_open_stream_with_an_answer(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with visit(nursery) as v:
                scope.cancel()
                await trio.sleep_forever()
        await settle()
        heard = v.ended()
    assert heard["streaming"] == [said(1), why(1, R.CANCELLED)]
    assert heard["listener"] == []
    assert heard["waiting"] == [why(2, R.CANCELLED)]
    assert heard["back"] == [said(3), why(3, R.CANCELLED)]


async def test_cancelling_the_manager_and_its_server(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with visited() as (_, v):
            scope.cancel()
            await trio.sleep_forever()
    # No client could be told; nothing is left all the same.
    assert v.site.left() == []
    assert v.site.sessions[0].termination_reason is R.CANCELLED


async def test_cancelling_the_server_only(autojump_clock: MockClock) -> None:
    """Sessions are the manager's: another server may carry them."""
    async with site() as s:
        client = await s.client()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as server:

                async def serve(verb: str, json: Any = None) -> None:
                    async with client.stream(verb, json) as response:
                        await response.read()

                server.start_soon(serve, "GET")
                server.start_soon(serve, "POST", do(1, ["say", 1], ["wait", "x"]))
                server.start_soon(serve, "POST", do(2, ["wait", "x"]))
                await settle()
                server.cancel_scope.cancel()
            streams = s.streams_of(client)
            assert (streams._responses, streams._sse_responses, streams.listeners) == (0, set(), 0)
            assert len(s.app.ticker) == 0
            s.script.gates["x"].set()
            nursery.start_soon(settle)
        assert s.script.log == ["did", "did"]
        assert await client.post(do(3)) == did(3)


# Draining.


async def test_draining_two_hundred_streams(autojump_clock: MockClock) -> None:
    heard: list[Response] = []
    done = 0
    async with site(cleanup=CleanupConfig(drain_grace=10)) as s:
        async with trio.open_nursery() as nursery:

            async def listen(client: Client) -> None:
                async with client.stream("GET") as response:
                    await response.read()
                heard.append(response)

            async def call(client: Client) -> None:
                nonlocal done
                async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
                    assert messages(await response.events()) == [said(1), did(1)]
                heard.append(response)
                done += 1

            for number in range(150):
                client = await s.client()
                nursery.start_soon(listen, client)
                if number >= 100:
                    nursery.start_soon(call, client)
            await settle()
            assert len(s.app.ticker) == 200
            async with trio.open_nursery() as draining:
                draining.start_soon(s.manager.drain)
                await trio.sleep(5)
                assert done == 0
                # Those without work have ended at once.
                assert len(heard) == 100
                s.script.gates["x"].set()
            assert trio.current_time() == 5
        assert len(heard) == 200
        assert all(response.complete for response in heard)
        assert done == 50
        # A new session is refused, and told when to retry.
        response = await Client(s.app).request("POST", {**do(1), "method": "initialize"})
        assert response.status in (200, 503)


async def test_new_requests_in_a_drain(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["wait", "x"])) as response:
            await settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(s.manager.drain)
                await settle()
                # The session is known still: it is told so.
                answer = await client.post(do(2))
                assert "shut" in answer["error"]["message"].lower()
                assert (await client.request("POST", notification("x"))).status == 202
                s.script.gates["x"].set()
            assert await response.json() == did(1)


async def test_waiting_for_the_drain(autojump_clock: MockClock) -> None:
    times: dict[str, float] = {}
    async with site() as s:
        client = await s.client()

        async def note(name: str) -> None:
            await s.manager.wait_drained()
            times[name] = trio.current_time()

        async with client.stream("POST", do(1, ["sleep", 3])), trio.open_nursery() as nursery:
            nursery.start_soon(note, "waits")
            with trio.move_on_after(1) as scope:
                await s.manager.wait_drained()
            assert scope.cancelled_caught
            await s.manager.drain()
            await note("comes late")
            with assert_checkpoints():
                await s.manager.wait_drained()
    assert times == {"waits": 3, "comes late": 3}


# What is said during the end.


@pytest.mark.parametrize("how", ["DELETE", "lifetime", "from inside", "drain"])
@pytest.mark.parametrize("asked", [True, False])
async def test_handlers_that_talk_to_the_last(
    how: str, asked: bool, autojump_clock: MockClock
) -> None:
    end, reason = HOW[how]
    cleanup = CleanupConfig(max_session_time=500)
    async with visited(cleanup=cleanup) as (nursery, v):
        session = v.site.session_of(v.client)
        steps = [["talk to the last", 98765]]
        if asked:
            nursery.start_soon(v.client.request, "POST", do(8, ["say", 1], *steps))
        else:
            message = notification("notifications/do", {"steps": steps})
            assert (await v.client.request("POST", message)).status == 202
        await settle()
        await end(v)
        assert await session.wait_terminated() is reason
        await settle()
        assert session.error is None
        assert v.site.script.log.count(False) == 3
        assert "98765" not in str(v.ended())
        assert v.site.left() == []


# Vanishing clients.


async def test_everything_open_goes_with_its_client(autojump_clock: MockClock) -> None:
    async with site(cleanup=CleanupConfig(max_idle_time=100)) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET"), client.stream("POST", do(1, ["say", 1], ["sleep", 50])):
            await settle()
        # The work is finished; then the session is quiet, and ends.
        assert s.script.log in ([], ["did"])
        await session.wait_terminated()
        assert s.script.log == ["did"]
        assert session.termination_reason is R.IDLE
        assert 150 <= trio.current_time() <= 160


@pytest.mark.parametrize("policy", SlowReader)
async def test_the_end_of_a_session_whose_client_reads_nothing(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_output=10)
    async with site(limits=limits, slow_reader=policy) as s:
        client = await s.client()
        session = s.session_of(client)
        async with (
            client.stream("GET") as one,
            client.stream("POST", do(1, ["say", 1], ["say", 2], ["say", 3])) as two,
            client.stream("POST", do(2, ["sleep", 0.5])) as three,
        ):
            for response in (one, two, three):
                response.stall()
            await settle()
            s.manager.broadcast("notifications/said", {"n": 1})
            await trio.sleep(1)
            start = trio.current_time()
            session.terminate()
            await session.wait_terminated()
            assert trio.current_time() <= start + 1
            await settle()
            # Streams are cut. An answer that waits for its reader is the server's business.
            assert not streams_of(session)._sse_responses


# Cancelled anywhere.


async def converse(client: Client) -> None:
    """A conversation with a bit of everything."""
    steps = [["say", 1], ["tell", 2], ["let go"], ["say", 3], ["sleep", 1]]
    async with client.stream("GET") as listener:
        async with client.stream("POST", do(1, *steps)) as response:
            (first, *_) = await response.events()
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            await until_heard(response, 2)
        await until_heard(listener, 1)
        async with client.stream("POST", do(2, ["sleep", 3])) as response:
            await response.started()
        async with client.stream("POST", do(3, ["wait", "never"])) as response:
            await settle()
            await client.request("POST", cancelled(3))
            await response.read()
    await client.request("POST", do(4))


async def test_a_server_that_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        async with site() as s:
            client = await s.client()
            with cancelled_at_step(step) as scope:
                await converse(client)
            streams = s.streams_of(client)
            assert (streams._responses, streams.listeners) == (0, 0)
            assert not streams._sse_responses
            assert len(s.app.ticker) == 0
            # The session is well.
            with trio.fail_after(5):
                assert await client.post(do(9)) == did(9)
            assert s.session_of(client).error is None
            await client.request("DELETE")
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 50


async def test_a_manager_that_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        with cancelled_at_step(step) as scope:
            async with site() as s:
                client = await s.client()
                async with client.stream("GET"):
                    await converse_beside(client)
                await client.request("DELETE")
        return not scope.cancelled_caught

    async def converse_beside(client: Client) -> None:
        async with client.stream("POST", do(1, ["say", 1], ["let go"], ["sleep", 1])) as response:
            (first, *_) = await response.events()
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            await response.events()

    assert await at_every_step(attempt) > 50


async def test_a_session_ended_at_any_step_leaves_nothing(autojump_clock: MockClock) -> None:
    """The session ends after any number of steps, in the middle of whatever runs."""

    async def attempt(step: int) -> bool:
        async with site() as s:
            client = await s.client()
            session = s.session_of(client)
            over = False

            async def run() -> None:
                nonlocal over
                try:
                    await converse(client)
                    over = True
                except* (trio.EndOfChannel, ValueError):
                    pass  # There was less to read than it thought.

            ender = _EndAfter(step, session.terminate)
            trio.lowlevel.add_instrument(ender)
            try:
                await run()
            finally:
                trio.lowlevel.remove_instrument(ender)
            session.terminate()
            await session.wait_terminated()
            await settle()
            assert s.left() == []
        return over and ender.left > 0

    await at_every_step(attempt)


@final
@attrs.define(eq=False)
class _EndAfter(trio.abc.Instrument):
    left: int
    end: Callable[[], None]

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.end()


async def test_after_the_end_of_the_manager_get_and_delete_find_no_session(
    autojump_clock: MockClock,
) -> None:
    """After its manager is gone, the application still answers: the session is unknown."""
    async with open_session_manager() as manager:
        app = http_app(manager)
    client = Client(app, {"mcp-session-id": "x" * 22})
    assert (await client.request("GET")).status == 404
    assert (await client.request("DELETE")).status == 404
    await wait_all_tasks_blocked()
