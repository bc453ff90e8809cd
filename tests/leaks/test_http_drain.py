"""A drain with two hundred open streams: each comes to its proper end, and none is waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import CleanupConfig, SessionConfig, SessionManager, open_session_manager
from trio_mcp_session.testing import assert_no_leaks, check_leaks
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app

from .exchange import Exchange, HttpCall, HttpPeer
from .machine import Server

STREAMS = 200
GRACE = 3


@attrs.define(eq=False)
class Listeners:
    """Clients of one manager, each with a session and its stream open."""

    manager: SessionManager
    endpoint: Endpoint
    server: Server
    nursery: trio.Nursery
    scope: trio.CancelScope
    peers: list[HttpPeer] = attrs.field(factory=list)
    streams: list[Exchange] = attrs.field(factory=list)

    async def come(self) -> None:
        peer = HttpPeer(self.endpoint, self.nursery.start_soon)
        opening = peer.prepare_initialize("plain")
        await opening.run()
        assert peer.learn(opening)
        await peer.confirm().ended.wait()
        self.peers.append(peer)
        self.streams.append(peer.begin("GET"))

    async def call(self, number: int, tool: str, key: str) -> HttpCall:
        arguments = {"name": tool, "arguments": {"key": key}}
        return await self.peers[number].start_request("tools/call", arguments)


@asynccontextmanager
async def listeners() -> AsyncIterator[Listeners]:
    server = Server()
    config = SessionConfig(cleanup=CleanupConfig(drain_grace=GRACE))
    async with check_leaks(), trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_session_manager(server.router(), config=config) as manager:
                endpoint = cast("Endpoint", http_app(manager))
                these = Listeners(manager, endpoint, server, nursery, scope)
                for _ in range(STREAMS):
                    await these.come()
                await wait_all_tasks_blocked()
                assert all(one.running and one.is_stream for one in these.streams)
                yield these
        await wait_all_tasks_blocked()
        assert_no_leaks(manager, live=())
        assert not len(endpoint.ticker)


async def test_streams_that_wait_for_nothing_end_at_once(autojump_clock: MockClock) -> None:
    async with listeners() as these:
        start = trio.current_time()
        report = await these.manager.drain()
        assert trio.current_time() == start
        assert len(report.completed) == STREAMS
        await wait_all_tasks_blocked()
        assert all(one.complete for one in these.streams)


async def test_calls_have_the_grace_and_others_do_not_wait_for_them(
    autojump_clock: MockClock,
) -> None:
    async with listeners() as these, trio.open_nursery() as nursery:
        done = [await these.call(number, "talk", "done") for number in range(10)]
        done += [await these.call(number, "work", "done") for number in range(10, 20)]
        never = [await these.call(number, "talk", "never") for number in range(20, 30)]
        never += [await these.call(number, "work", "never") for number in range(30, 40)]
        await wait_all_tasks_blocked()
        start = trio.current_time()
        nursery.start_soon(partial(these.manager.drain, grace=GRACE))
        await wait_all_tasks_blocked()
        assert [one.complete for one in these.streams] == [False] * 40 + [True] * (STREAMS - 40)

        await trio.sleep(1)
        these.server.gate("done").set()
        await wait_all_tasks_blocked()
        assert [one.complete for one in these.streams] == (
            [True] * 20 + [False] * 20 + [True] * (STREAMS - 40)
        )
        assert all("result" in call.exchange.messages[-1] for call in done)

        await these.manager.wait_drained()
        assert trio.current_time() == start + GRACE
        await wait_all_tasks_blocked()
        assert all(one.complete for one in these.streams)
        assert all(call.exchange.complete for call in (*done, *never))
        assert all("error" in call.exchange.messages[-1] for call in never)


async def test_clients_that_do_not_read_delay_a_drain_by_one_flush_budget(
    autojump_clock: MockClock,
) -> None:
    async with listeners() as these:
        for one in these.streams[:20]:
            one.stop_reading()
        these.manager.broadcast("notifications/tools/list_changed")
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await these.manager.drain()
        flush_budget = these.manager.config.cleanup.flush_budget
        assert trio.current_time() == start + flush_budget
        await wait_all_tasks_blocked()
        assert not any(one.running for one in these.streams)
        assert [one.complete for one in these.streams] == [False] * 20 + [True] * (STREAMS - 20)


async def test_a_manager_that_is_cancelled_ends_them_all_at_once(
    autojump_clock: MockClock,
) -> None:
    async with listeners() as these:
        calls = [await these.call(number, "talk", "never") for number in range(10)]
        await wait_all_tasks_blocked()
        start = trio.current_time()
        these.scope.cancel()
        await trio.sleep(GRACE)
    assert trio.current_time() == start
    assert all(one.complete for one in these.streams)
    assert all("error" in call.exchange.messages[-1] for call in calls)
