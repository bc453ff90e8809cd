"""The response to a stateless request: when it begins, and what its end means."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from math import inf
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from tests.helpers import at_every_step, brief, cancelled, cancelled_at_step, error, notification
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import MODERN, PREFIX, complete, headers_of, modern
from tests.transports.http.scripted import (
    Script,
    Site,
    did,
    do,
    messages,
    parse,
    progressed,
    said,
    settle,
    site,
    stateless_leftovers,
    until_heard,
)
from tests.transports.http.site import never
from trio_mcp_session import CleanupConfig, SessionConfig, SessionLimits, open_session_manager
from trio_mcp_session.core.byte_budget import ByteBudget
from trio_mcp_session.protocol.sse import COMMENT
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.transports.http.endpoint import WATCH_AFTER, Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import SlowReader
from trio_mcp_session.transports.http.stateless_stream import StatelessStream

INTERNAL = -32603
JSON_HEADERS = {"content-type", "content-length"}
SSE = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
SOON = 2 * WATCH_AFTER
"""Seconds after which it is noticed at the latest that a client has left."""


def ask(request_id: object, *steps: Any, **more: Any) -> dict[str, Any]:
    """A request to take these steps; see `do`."""
    return modern(request_id, "do", {"steps": steps}, progressToken="t", **more)


def done(request_id: object, *outcomes: object) -> dict[str, Any]:
    return complete(request_id, "script", did=list(outcomes))


def asking(
    s: Site, request_id: object, *steps: Any, **more: Any
) -> AbstractAsyncContextManager[Response]:
    message = ask(request_id, *steps, **more)
    return Client(s.app).stream("POST", message, headers=headers_of(message))


@asynccontextmanager
async def asking_in_turn(s: Site, *scripts: list[Any]) -> AsyncIterator[list[Response]]:
    """Requests 1, 2 and so on, each of which has come before the next one is sent."""
    responses: list[Response] = []
    async with AsyncExitStack() as stack:
        for number, steps in enumerate(scripts, 1):
            responses.append(await stack.enter_async_context(asking(s, number, *steps)))
            await settle()
        yield responses


async def works(s: Site) -> bool:
    """Whether a request is answered at once."""
    async with asking(s, "works?") as response:
        with trio.fail_after(0.01):
            return bool(await response.json() == done("works?"))


def open_requests(s: Site) -> int:
    return server_of(s.manager).stateless._busy


def cancelled_requests(s: Site) -> int:
    return server_of(s.manager).stateless.counters.cancelled


# JSON or a stream.


@pytest.mark.parametrize("seconds", [0, 1.9])
@pytest.mark.parametrize("answers", ["auto", "sse"])
async def test_just_an_answer_is_json(
    answers: str, seconds: float, autojump_clock: MockClock
) -> None:
    """Always where it can be: an error has a status of its own."""
    async with site(answers=answers) as s, asking(s, 1, ["sleep", seconds]) as response:
        assert await response.json() == done(1)
        assert trio.current_time() == seconds
        assert response.status == 200
        assert response.headers.keys() == JSON_HEADERS
        assert response.headers["content-type"] == "application/json"
        assert response.complete


@pytest.mark.parametrize("steps", [(), (["progress", 1],)])
async def test_nothing_waits_for_the_collector(
    steps: tuple[Any, ...], autojump_clock: MockClock
) -> None:
    async with site() as s:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                async with asking(s, 1, *steps) as response:
                    while not response.complete:
                        await settle()
            # An idle worker knows what it did last.
            there = [one for one in gc.get_objects() if isinstance(one, StatelessStream)]
            assert len(there) <= 1
        finally:
            gc.enable()


async def test_the_task_that_watches_a_client_ends_with_the_response(
    autojump_clock: MockClock,
) -> None:
    """Also if the server does not say then that the client has left."""

    def watching(s: Site) -> int:
        return sum("_watch" in task.name for task in s.manager._sessions_nursery.child_tasks)

    async with site() as s, asking(s, 1, ["sleep", 1]) as response:
        await trio.sleep(0.5)
        assert watching(s) == 1
        assert await response.json() == done(1)
        await settle()
        assert watching(s) == 0


async def test_the_first_message_opens_a_stream(autojump_clock: MockClock) -> None:
    async with site() as s, asking(s, 1, ["sleep", 1], ["say", 1], ["wait", "x"]) as response:
        await trio.sleep(0.9)
        assert not response.headers
        await response.started()
        assert trio.current_time() == 1
        assert (response.status, response.headers) == (200, SSE)
        assert await until_heard(response, 1) == [said(1)]
        # Something of a body to begin with, or proxies hold the head back too.
        assert response.writes[0].startswith(COMMENT)
        s.script.gates["x"].set()
        assert messages(await response.events()) == [done(1)]
        assert response.complete
        assert len(s.app.stateless_ticker) == 0


async def test_a_stream_that_is_watched_needs_no_quick_clock(autojump_clock: MockClock) -> None:
    """It is looked at ten times a second for a moment only: then it has a slower clock."""
    async with site(stream_after=15) as s:
        async with asking(s, 1, ["wait", "x"]) as silent:
            await trio.sleep(5)
            assert len(s.app.stateless_ticker) == 1
            async with asking(s, 1, ["say", 1], ["wait", "x"]) as response:
                await settle()
                assert len(s.app.stateless_ticker) == 2
                await trio.sleep(SOON)
                assert len(s.app.stateless_ticker) == 1
                await trio.sleep(20)
                # Now the silent one has a stream, too.
                assert (len(s.app.stateless_ticker), len(s.app.ticker)) == (0, 2)
                assert not s.app.stateless_ticker._running
                s.script.gates["x"].set()
                assert messages(await response.events()) == [said(1), done(1)]
                assert messages(await silent.events()) == [done(1)]


async def test_a_stateless_stream_has_no_event_ids_and_cannot_be_resumed(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        steps = [["progress", 1], ["let go", 5], ["progress", 2], ["sleep", 100], ["say", 3]]
        async with asking(s, 1, *steps) as response:
            await response.read()
        events = [event for written in response.writes for event in parse(written)]
        assert messages(events) == [progressed(1), progressed(2), said(3), done(1, False)]
        assert {(event.id, event.retry) for event in events} == {(None, None)}
        assert "mcp-session-id" not in response.headers
        assert len(s.store) == 0
        # A result is not written together with progress.
        assert messages(parse(response.writes[-1])) == [done(1, False)]


@pytest.mark.parametrize("keep_alive", [3.0, 15.0])
@pytest.mark.parametrize("stream_after", [1.0, 2.0, 20.0])
async def test_silence_opens_a_stream_and_keeps_it_alive(
    stream_after: float, keep_alive: float, autojump_clock: MockClock
) -> None:
    """As in a session: the first byte comes after `HttpOptions.stream_after`."""
    async with site(keep_alive=keep_alive, stream_after=stream_after) as s:
        async with asking(s, 1, ["sleep", stream_after + 2.9 * keep_alive]) as response:
            await response.started()
            assert stream_after <= trio.current_time() <= stream_after + SOON
            assert response.headers == SSE
            await settle()
            assert response.writes == [COMMENT]
            for count in (2, 3):
                silent_since = trio.current_time()
                while len(response.writes) < count:  # noqa: ASYNC110  # comments set no event
                    await trio.sleep(0.125)
                assert keep_alive <= trio.current_time() - silent_since <= keep_alive + 1.125
                assert response.writes[-1] == COMMENT
            assert messages(await response.events()) == [done(1)]
        assert response.complete


async def test_an_answer_in_the_moment_of_the_clock(autojump_clock: MockClock) -> None:
    """It is one or the other: no task waits for an answer that was sent elsewhere."""
    async with site(keep_alive=1) as s:
        stream = StatelessStream(s.app, never, ByteBudget("address", 2**20))
        with assert_no_checkpoints():
            assert (stream.connected, stream.reachable) == (True, True)
            stream.send_result(b"{}")
            assert (stream.connected, stream.reachable) == (False, False)
            stream.tick(trio.current_time() + 1000)
            assert stream.send_message(b"late")
            assert not stream.close_stream(None)
        with assert_no_checkpoints():
            assert await stream.decided() is None
        assert stream.answer == b"{}"
        with assert_checkpoints():
            await stream.wait_writable()
        stream.close()


@pytest.mark.parametrize("steps, code", [([["say", 1], ["ask"]], -32021), ([["ask"]], -32021)])
async def test_an_error_has_its_status_where_the_head_is_not_out(
    steps: Any, code: int, autojump_clock: MockClock
) -> None:
    async with site() as s, asking(s, 1, *steps) as response:
        answer = await response.read()
        if len(steps) == 1:
            assert response.status == 400
            told = msgspec.json.decode(answer)
        else:
            assert (response.status, response.headers) == (200, SSE)
            _, told = [one for written in response.writes for one in messages(parse(written))]
        assert brief(told) == error(1, code)
        assert told["error"]["data"] == {"requiredCapabilities": {"roots": {}}}


async def test_each_response_carries_what_belongs_to_it(autojump_clock: MockClock) -> None:
    """All have one id: it is their clients' business."""
    async with site() as s:
        heard: dict[int, list[Any]] = {}

        async def call(number: int) -> None:
            steps = [["say", number], ["sleep", number], ["progress", number], ["wait", "x"]]
            async with asking(s, 1, *steps) as response:
                heard[number] = messages(await response.events())

        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(call, number)
            await trio.sleep(10)
            s.manager.broadcast("notifications/said", {"n": "all"})
            s.script.gates["x"].set()
        assert heard == {
            number: [said(number), progressed(number), done(1)] for number in range(1, 6)
        }


async def test_log_messages_are_sent_only_where_the_request_asks_for_them(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:

        @s.script.router.request("log")
        async def log(ctx: Any) -> None:
            for level in ("debug", "info", "error"):
                await ctx.log(level, level)

        async def told(**meta: Any) -> list[Any]:
            message = modern(1, "log", **meta)
            response = await Client(s.app).request("POST", message, headers=headers_of(message))
            if response.headers["content-type"] == "application/json":
                return []
            events = [event for written in response.writes for event in parse(written)]
            *logs, _ = messages(events)
            return [one["params"]["level"] for one in logs]

        level = f"{PREFIX}logLevel"
        assert await told(**{level: "info"}) == ["info", "error"]
        # Nothing of that is remembered.
        assert await told() == []
        assert await told(**{level: "error"}) == ["error"]
        assert await told(**{level: None}) == []


# A client that leaves cancels.


@final
@attrs.define(eq=False)
class Line:
    """A connection whose server says nothing to writes after the client has left."""

    sent: list[Any] = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    fails: Exception | None = None
    """What ``receive`` raises in place of telling that the client has left."""

    async def run(self, s: Site, message: Mapping[str, Any]) -> None:
        given = {"content-type": "application/json", **headers_of(message)}
        body: list[Any] = [{"type": "http.request", "body": msgspec.json.encode(message)}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await self.left.wait()
            if self.fails is not None:
                raise self.fails
            return {"type": "http.disconnect"}

        async def send(sent: Any) -> None:
            await trio.lowlevel.checkpoint()
            self.sent.append(sent)

        headers = [(name.encode(), value.encode()) for name, value in given.items() if value]
        scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
        await s.app(scope, receive, send)
        self.over.set()


@asynccontextmanager
async def line(s: Site, message: Mapping[str, Any]) -> AsyncIterator[Line]:
    one = Line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, s, message)
        yield one
        await one.over.wait()


AFTER = {"at once": 0, "before the first look": WATCH_AFTER / 2, "later": 5.0}
SAYS = {"nothing yet": (), "a stream": (["say", 1],)}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("says", SAYS)
async def test_a_client_that_leaves_cancels(
    says: str, after: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        async with asking(s, 1, *SAYS[says], ["talk to the last", 2]) as response:
            await settle()
            await trio.sleep(AFTER[after])
            assert open_requests(s) == 1
            left_at = trio.current_time()
        # The handler spends that much on its way out.
        await trio.sleep(0.75 + SOON - (trio.current_time() - left_at))
        assert open_requests(s) == 0
        # What it says there goes nowhere, and it is not told that it could be resumed.
        assert s.script.log == [False] * 3 + ["Cancelled"]
        assert not response.complete
        assert messages([e for w in response.writes for e in parse(w)]) == (
            [said(1)] if says == "a stream" else []
        )
        assert cancelled_requests(s) == 1
        assert len(s.app.stateless_ticker) == len(s.app.ticker) == 0
        assert await works(s)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("says", SAYS)
async def test_also_where_writes_never_fail(
    says: str, after: str, autojump_clock: MockClock
) -> None:
    """Such servers there are. Nothing is sent after it was noticed."""
    async with site(stream_after=20) as s:
        async with line(s, ask(1, *SAYS[says], ["talk to the last", 2])) as one:
            await settle()
            await trio.sleep(AFTER[after])
            sent = list(one.sent)
            one.left.set()
            with trio.fail_after(SOON):
                await one.over.wait()
        assert one.sent == sent
        assert bool(sent) is (says == "a stream")
        await trio.sleep(1)
        assert one.sent == sent
        assert s.script.log == [False] * 3 + ["Cancelled"]
        assert cancelled_requests(s) == 1
        assert await works(s)


async def test_it_is_noticed_at_once_on_what_has_been_open_for_a_moment(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        async with line(s, ask(1, ["wait", "x"])) as one:
            await trio.sleep(1)
            one.left.set()
            with trio.fail_after(0.01):
                await one.over.wait()
        assert s.script.log == ["Cancelled"]


async def test_a_stateless_stream_ignores_further_body_messages_until_the_disconnect(
    autojump_clock: MockClock,
) -> None:
    """Servers may have more to tell than that the client has left."""
    async with site() as s:
        more = iter([{"type": "http.request", "body": b"?"}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            await trio.sleep(1)
            return next(more)

        stream = StatelessStream(s.app, receive, ByteBudget("address", 2**20))
        await stream._watch(trio.CancelScope())
        assert trio.current_time() == 2
        # There was nothing to cancel.
        assert stream.connected


async def test_a_server_that_fails_to_tell(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That is the end of one request, not of all."""
    async with site() as s, asking(s, 2, ["sleep", 1.5]) as other:
        async with line(s, ask(1, ["wait", "x"])) as one:
            one.fails = RuntimeError("of the server")
            await trio.sleep(1)
            one.left.set()
        assert not one.sent
        assert s.script.log == ["Cancelled"]
        assert caplog.record_tuples == [
            (
                "trio_mcp_session",
                logging.ERROR,
                "reading from a client failed; it counts as disconnected",
            )
        ]
        assert await other.json() == done(2)


async def test_a_client_that_leaves_while_it_waits_in_line(autojump_clock: MockClock) -> None:
    async with site(limits=SessionLimits(max_stateless_requests=1)) as s:
        async with asking(s, 1, ["wait", "x"]) as first:
            await settle()
            async with asking(s, 1, ["say", 1]):
                await trio.sleep(1)
                assert open_requests(s) == 2
            with trio.fail_after(0.01):
                await settle()
            # It never ran, and the other one does.
            assert open_requests(s) == 1
            assert s.script.log == []
            assert cancelled_requests(s) == 1
            async with line(s, ask(1, ["say", 1])) as one:
                one.left.set()
            assert not one.sent
            s.script.gates["x"].set()
            assert await first.json() == done(1)
        assert s.script.log == ["did"]
        assert await works(s)


async def test_a_client_that_does_not_wait_for_its_answer(autojump_clock: MockClock) -> None:
    async with site() as s:
        async with asking(s, 1, ["sleep", 1]) as response:
            response.stall()
            await trio.sleep(2)
        await settle()
        # It was answered: there is nothing to cancel.
        assert s.script.log == ["did"]
        assert cancelled_requests(s) == 0


async def test_nothing_is_cancelled_by_its_id(autojump_clock: MockClock) -> None:
    """Over HTTP ids of different requests have nothing to do with each other."""
    async with site() as s:
        async with asking(s, 1, ["wait", "x"]) as response:
            await settle()
            told = notification(
                "notifications/cancelled",
                {"requestId": 1, "_meta": {f"{PREFIX}protocolVersion": MODERN}},
            )
            header = {"mcp-protocol-version": MODERN}
            legacy = await s.client()
            for client, message, headers in [
                (Client(s.app), cancelled(1), header),
                (Client(s.app), told, header),
                (Client(s.app), told, {}),
                (legacy, cancelled(1), {}),
            ]:
                answer = await client.request("POST", message, headers=headers)
                assert (answer.status, answer.body) == (202, b"")
            await trio.sleep(1)
            assert s.script.log == []
            s.script.gates["x"].set()
            assert await response.json() == done(1)
        assert cancelled_requests(s) == 0


async def test_the_servers_task_is_cancelled(autojump_clock: MockClock) -> None:
    async with site(limits=SessionLimits(max_stateless_requests=2)) as s:
        scripts = ([["wait", "x"]], [["say", 1], ["wait", "x"]], [["wait", "x"]])
        async with asking_in_turn(s, *scripts) as responses:
            assert open_requests(s) == 3
            for response in reversed(responses):
                response.server_task.cancel()
            await settle()
            assert open_requests(s) == 0
        assert s.script.log == ["Cancelled"] * 2
        assert cancelled_requests(s) == 3
        assert await works(s)


# Clients that do not read.


COUNT, ROOM = 50, 1000


@asynccontextmanager
async def slow(policy: SlowReader, **options: Any) -> AsyncIterator[tuple[Site, Response]]:
    """A client that has stopped reading, and a handler that still sends to it."""
    limits = SessionLimits(max_output=ROOM)
    async with site(limits=limits, slow_reader=policy, **options) as s:
        steps = [["say", 0], ["wait", "x"], *[["shout", 100]] * COUNT]
        async with asking(s, 1, *steps) as response:
            assert await until_heard(response, 1) == [said(0)]
            await settle()
            response.stall()
            s.script.gates["x"].set()
            await settle()
            yield s, response


async def test_with_block_a_slow_reader_holds_up_a_stateless_handler_and_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with slow(SlowReader.BLOCK) as (s, response):
        await trio.sleep(25)
        assert s.script.log == []
        assert await works(s)
        response.resume()
        assert messages(await response.events()) == [said("x" * 100)] * COUNT + [done(1)]
        assert response.complete
        assert server_of(s.manager).stateless.counters.dropped == 0


async def test_block_for_too_long(autojump_clock: MockClock) -> None:
    async with slow(SlowReader.BLOCK) as (s, response):
        await trio.sleep(29)
        assert open_requests(s) == 1
        await trio.sleep(2)
        assert s.script.log == ["Cancelled"]
        assert open_requests(s) == 0
        await response.read()
        assert not response.complete
        assert cancelled_requests(s) == 1
        assert await works(s)


async def test_with_drop_a_slow_reader_of_a_stateless_stream_loses_only_notifications(
    autojump_clock: MockClock,
) -> None:
    async with slow(SlowReader.DROP) as (s, response):
        assert s.script.log == ["did"]
        dropped = server_of(s.manager).stateless.counters.dropped
        assert 0 < dropped < COUNT
        response.resume()
        heard = messages(await response.events())
        assert heard == [said("x" * 100)] * (COUNT - dropped) + [done(1)]
        assert response.complete


async def test_with_end_stream_a_slow_reader_ends_its_stateless_request(
    autojump_clock: MockClock,
) -> None:
    """There is no coming back to it: that is the end of the request."""
    async with slow(SlowReader.END_STREAM) as (s, response):
        assert s.script.log == ["Cancelled"]
        assert open_requests(s) == 0
        await response.read()
        assert not response.complete
        assert cancelled_requests(s) == 1
        assert await works(s)


@pytest.mark.parametrize("policy", SlowReader)
async def test_a_stream_that_stands_still_is_cut(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    """Also where there is room, and where it is only the result that is not read."""
    async with site(slow_reader=policy, cleanup=CleanupConfig(send_timeout=10)) as s:
        cases: list[tuple[list[Any], str]] = [
            ([["wait", "x"]], "did"),
            ([["wait", "x"], ["sleep", 90]], "Cancelled"),
        ]
        for steps, log in cases:
            async with asking(s, 1, ["say", 1], *steps, ["say", 2]) as response:
                if log == "Cancelled":
                    # Not even the head.
                    response.stall()
                else:
                    await until_heard(response, 1)
                    response.stall()
                    s.script.gates["x"].set()
                await trio.sleep(9.9)
                assert len(s.app.ticker) == 1
                await trio.sleep(1.2)
                assert len(s.app.ticker) == len(s.app.stateless_ticker) == 0
                assert not response.complete
                assert s.script.log.pop() == log


async def test_without_a_send_timeout_a_slow_reader_of_a_stateless_stream_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with slow(SlowReader.BLOCK, cleanup=CleanupConfig(send_timeout=inf)) as (_, response):
        await trio.sleep(200)
        response.resume()
        assert messages(await response.events())[-1] == done(1)


async def test_a_slow_reader_of_a_stateless_stream_that_reads_now_and_then_gets_its_answer(
    autojump_clock: MockClock,
) -> None:
    async with slow(SlowReader.BLOCK) as (_, response):
        for _ in range(10):
            await trio.sleep(25)
            response.resume()
            await trio.lowlevel.checkpoint()
            response.stall()
        response.resume()
        assert messages(await response.events())[-1] == done(1)


# The end of everything.


async def test_a_drain_waits_for_what_runs(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_requests=2)
    async with site(limits=limits, cleanup=CleanupConfig(drain_grace=10), stream_after=20) as s:
        scripts = ([["sleep", 4]], [["say", 1], ["sleep", 3]], [["sleep", 3]])
        async with (
            asking_in_turn(s, *scripts) as (pending, streaming, queued),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(s.manager.drain)
            await settle()
            for method in ("do", "server/discover"):
                message = modern("late", method, {"steps": []})
                refused = await Client(s.app).request("POST", message, headers=headers_of(message))
                assert refused.status == 503
                assert refused.headers["retry-after"] == "5"
                told = msgspec.json.decode(refused.body)
                assert brief(told) == error("late", INTERNAL)
                assert "shut" in told["error"]["message"].lower()
            # What is wrong with it is told first.
            wrong = await Client(s.app).request("POST", ask("late"), headers={})
            assert wrong.status == 400
            assert await pending.json() == done(1)
            assert messages(await streaming.events()) == [said(1), done(2)]
            assert await queued.json() == done(3)
        # It has not waited longer than that.
        assert trio.current_time() == 6
        assert s.manager.statistics().http_refused == {503: 2, 400: 1}


async def test_a_drain_ends_what_runs_for_too_long(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_requests=2)
    async with site(limits=limits, cleanup=CleanupConfig(drain_grace=10), stream_after=20) as s:
        scripts = ([["wait", "x"]], [["say", 1], ["wait", "x"]], [["wait", "x"]])
        async with asking_in_turn(s, *scripts) as (pending, streaming, queued):
            await s.manager.drain()
            assert trio.current_time() == 10
            for number, response in [(1, pending), (3, queued)]:
                told = await response.json()
                assert (response.status, brief(told)) == (200, error(number, INTERNAL))
                assert "shut" in told["error"]["message"].lower()
            heard = messages(await streaming.events())
            assert list(map(brief, heard)) == [said(1), error(2, INTERNAL)]
            assert streaming.complete
        assert s.script.log == ["Cancelled"] * 2
        assert cancelled_requests(s) == 0


async def end_by(how: str, scope: trio.CancelScope) -> None:
    """Leave the manager's block in one of the ways that there are."""
    if how == "cancelled":
        scope.cancel()
        await trio.sleep_forever()
    if how == "crashed":
        raise ValueError
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", ["cancelled", "left", "crashed"])
async def test_the_end_of_the_manager_answers_every_stateless_stream(
    how: str, autojump_clock: MockClock
) -> None:
    responses: list[Response] = []
    heard: list[Any] = []
    config = SessionConfig(limits=SessionLimits(max_stateless_requests=2))
    script = Script()
    apps: list[Endpoint] = []

    async def converse(s: Site, number: int, *steps: Any) -> None:
        async with asking(s, number, *steps) as response:
            responses.append(response)
            await response.read()
        body = response.body
        if response.headers["content-type"] != "application/json":
            *_, body = (line for line in body.split(b"\n") if line.startswith(b"data: "))
        heard.append(brief(msgspec.json.decode(body.removeprefix(b"data: "))))

    async def live(outside: trio.Nursery) -> None:
        async with open_session_manager(script.router, config=config) as manager:
            app = http_app(manager)
            assert isinstance(app, Endpoint)
            apps.append(app)
            s = Site(manager, app, script)
            scripts: list[list[Any]] = [
                [["wait", "x"]],
                [["say", 1], ["wait", "x"]],
                [["wait", "x"]],
            ]
            for number, steps in enumerate(scripts, 1):
                outside.start_soon(converse, s, number, *steps)
                await settle()
            assert open_requests(s) == 3
            await end_by(how, scope)

    async with trio.open_nursery() as outside:
        with trio.CancelScope() as scope, suppress(ValueError):
            await live(outside)
        assert scope.cancelled_caught is (how == "cancelled")
    assert sorted(heard, key=lambda one: str(one["id"])) == [
        error(number, INTERNAL) for number in (1, 2, 3)
    ]
    assert all(response.complete for response in responses)
    assert script.log == ["Cancelled"] * 2
    assert len(apps[0].ticker) == len(apps[0].stateless_ticker) == 0
    assert not any(stateless_leftovers(apps[0]).values())


async def test_a_stateless_request_after_the_end_of_the_manager_is_refused_with_503(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        pass
    message = ask(1)
    response = await Client(s.app).request("POST", message, headers=headers_of(message))
    assert response.status == 503


# Cancelled anywhere.


async def converse(s: Site) -> None:
    """A bit of everything."""
    async with asking(s, 1, ["sleep", 0.1], ["say", 1], ["sleep", 0.3]) as response:
        async with asking(s, 1, ["progress", 1], ["sleep", 0.2]):
            await trio.sleep(0.1)
        async with asking(s, 2) as waited:
            await waited.read()
        await response.events()
    async with asking(s, 3, ["sleep", 0.6]) as response:
        await response.read()


async def test_a_server_that_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        async with site(limits=SessionLimits(max_stateless_requests=1), keep_alive=0.5) as s:
            with cancelled_at_step(step) as scope:
                await converse(s)
            await settle()
            assert open_requests(s) == 0
            assert len(s.app.ticker) == len(s.app.stateless_ticker) == 0
            assert await works(s)
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 30


async def test_a_manager_that_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        limits = SessionLimits(max_stateless_requests=1)
        with cancelled_at_step(step) as scope:
            async with site(limits=limits, keep_alive=0.5) as s:
                await converse(s)
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 30


async def test_a_manager_cancelled_at_any_step_answers_every_stateless_request(
    autojump_clock: MockClock,
) -> None:
    """Whenever that is, every request is answered."""
    config = SessionConfig(limits=SessionLimits(max_stateless_requests=2))

    async def attempt(step: int) -> bool:
        responses: list[Response] = []
        apps: list[Endpoint] = []

        async def call(s: Site, *steps: Any) -> None:
            async with asking(s, 1, *steps) as response:
                await response.read()
            responses.append(response)

        async def live(outside: trio.Nursery) -> bool:
            script = Script()
            with cancelled_at_step(step) as scope:
                async with open_session_manager(script.router, config=config) as manager:
                    app = http_app(manager)
                    assert isinstance(app, Endpoint)
                    apps.append(app)
                    s = Site(manager, app, script)
                    for steps in ([["say", 1]], [["sleep", 0.2], ["say", 1], ["sleep", 0.2]], []):
                        outside.start_soon(call, s, *steps)
                    await trio.sleep(1)
            return not scope.cancelled_caught

        async with trio.open_nursery() as outside:
            was_over = await live(outside)
        for response in responses:
            assert response.complete
            assert response.status in (200, 503)
            assert b'"id":1' in response.body
        assert len(responses) == 3
        (app,) = apps
        assert len(app.ticker) == len(app.stateless_ticker) == 0
        assert not any(stateless_leftovers(app).values())
        return was_over

    assert await at_every_step(attempt) > 30


async def test_the_clocks_of_responses_are_the_managers(autojump_clock: MockClock) -> None:
    """What is written when it has gone is written without."""
    async with site() as s:
        pass
    stream = StatelessStream(s.app, never, ByteBudget("address", 2**20))
    delivery = stream.start_stream()
    stream.send_result(b"{}")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await delivery.run(send)
    assert [one.get("more_body") for one in sent] == [None, False]
    assert not s.app.ticker._running


async def test_messages_before_its_request_is_known_wait_for_room(
    autojump_clock: MockClock,
) -> None:
    """They are the first ones of a subscription: its client is not a slow reader yet."""
    limits = SessionLimits(max_output=1)
    async with site(limits=limits, slow_reader=SlowReader.END_STREAM) as s:
        stream = StatelessStream(s.app, never, ByteBudget("address", 2**20))
        assert stream.send_message(b"{}")
        assert not stream.send_message(b"{}")
        assert stream.connected
        stream.close()


# Both eras.


async def test_two_eras_on_one_endpoint(autojump_clock: MockClock) -> None:
    """Their ids are the same, and so are their handlers; nothing else is."""
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        before = session.metrics.requests
        async with (
            client.stream("POST", do(1, ["say", "old"], ["wait", "x"])) as old,
            asking(s, 1, ["say", "new"], ["wait", "x"]) as new,
            client.stream("GET") as listener,
        ):
            await settle()
            assert session.metrics.in_flight == 1
            s.manager.broadcast("notifications/said", {"n": "all"})
            assert await until_heard(listener, 1) == [said("all")]
            # The opposite rules: one continues without its client, the other does not.
            async with (
                client.stream("POST", do(2, ["sleep", 5])),
                asking(s, 2, ["sleep", 5]),
            ):
                await settle()
            await trio.sleep(10)
            assert sorted(s.script.log, key=str) == ["Cancelled", "did"]
            s.script.gates["x"].set()
            assert messages(await old.events()) == [said("old"), did(1)]
            assert messages(await new.events()) == [said("new"), done(1)]
        assert session.metrics.requests == before + 2
        # A stateless request that names the session has nothing to do with it.
        message = ask(3, ["sleep", 1])
        async with client.stream("POST", message, headers=headers_of(message)) as response:
            await settle()
            await client.request("DELETE")
            await session.wait_terminated()
            assert await response.json() == done(3)
        assert response.headers.keys() == JSON_HEADERS
