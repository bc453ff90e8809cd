"""Cancelling a manager whose sessions are reached over HTTP, and their server, at every step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import NoChannel, SessionTerminated
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore
from trio_mcp_session.transports.http.session_streams import streams_of

from .exchange import Exchange, HttpPeer, authenticate
from .test_cancelled_anywhere import CancelAt, Scenario


@attrs.define(eq=False)
class HttpScenario(Scenario):
    """A manager, an endpoint, and clients that do what they should not."""

    store: MemoryEventStore = attrs.field(factory=MemoryEventStore)
    endpoint: Endpoint = attrs.field(init=False)
    server_tasks: trio.Nursery = attrs.field(init=False)
    peers: list[HttpPeer] = attrs.field(factory=list)

    async def cancel_manager_only(self) -> None:
        """The server continues, and every request comes to its end all the same."""
        async with trio.open_nursery() as self.server_tasks:
            self.instrument.counting = True
            with self.instrument.scope:
                await self.manage(self.be_busy)
            self.instrument.counting = False
            await wait_all_tasks_blocked()
            for one in self.exchanges():
                if one.running:
                    # An unread answer is left to the server.
                    assert not one.reads, one
                    assert not one.is_stream, one
                    one.leave()

    async def work(self) -> None:
        async with trio.open_nursery() as self.server_tasks:
            await self.be_busy()
            self.server_tasks.cancel_scope.cancel()

    async def be_busy(self) -> None:
        options = HttpOptions(event_store=self.store, keep_alive=1)
        app = http_app(self.manager, authenticate=authenticate, options=options)
        self.endpoint = cast("Endpoint", app)
        async with trio.open_nursery() as nursery:
            for flavour in ("plain", "enter hangs"):
                nursery.start_soon(self.be_an_http_client, flavour)
            await trio.sleep(3)
            await self.manager.drain(grace=1)
            nursery.cancel_scope.cancel()

    async def be_an_http_client(self, flavour: str) -> None:
        peer = HttpPeer(self.endpoint, self.server_tasks.start_soon)
        self.peers.append(peer)
        opening = peer.prepare_initialize(flavour)
        self.server_tasks.start_soon(opening.run)
        await opening.ended.wait()
        if not peer.learn(opening):
            return
        await peer.confirm().ended.wait()
        peer.begin("GET")
        for how, tool in (("stays", "talk"), ("leaves", "talk"), ("does not read", "ask")):
            peer.how_next = how
            await peer.start_request("tools/call", {"name": tool, "arguments": {"key": how}})
        await trio.sleep(1)
        with suppress(NoChannel, SessionTerminated):
            await self.server.asked[0].notify("notifications/tools/list_changed")
        first = next((one for one in peer.exchanges if one.last_event_id), opening)
        first.leave()
        peer.begin("GET", last_event_id=first.last_event_id)
        await trio.sleep(1)
        peer.begin("DELETE")

    def exchanges(self) -> list[Exchange]:
        return [exchange for peer in self.peers for exchange in peer.exchanges]

    def check(self) -> None:
        self.seen += self.server.asked
        super().check()
        assert (len(self.store), self.store.size) == (0, 0)
        assert all(not one.running for one in self.exchanges())
        for session in self.server.asked:
            if session._connection is None:
                continue  # Nothing was open, or it would have kept it.
            streams = streams_of(session)
            assert (streams._responses, streams.listeners) == (0, 0)

    def check_answers(self) -> None:
        for one in self.exchanges():
            if one.begun and not one.excused:
                assert one.complete, one
                assert one.message_id is None or one.has_answer or one.status == 404, one


@pytest.mark.parametrize(
    "who", [HttpScenario.cancel_manager, HttpScenario.cancel_manager_only, HttpScenario.cancel_user]
)
def test_nothing_is_left_wherever_it_is_cancelled(
    who: Callable[[HttpScenario], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    at = steps = 1
    while steps >= at:
        instrument = CancelAt(at)
        scenario = HttpScenario(instrument)
        trio.run(who, scenario, clock=MockClock(autojump_threshold=0), instruments=[instrument])
        scenario.check()
        if who is HttpScenario.cancel_manager_only:
            scenario.check_answers()
        steps = instrument.steps
        at += 1
    assert at > 100, "the scenario is shorter than it looks"
