"""The leak proof over HTTP, second half: a thousand sessions that end in every way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import cancelled, notification, request
from trio_mcp_session import (
    AdmissionPolicy,
    Principal,
    Session,
    SessionConfig,
    SessionLimits,
    SessionManager,
    TerminationReason as R,
    open_session_manager,
)
from trio_mcp_session.testing import crash, hang
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore

from .exchange import Exchange, HttpCall, HttpPeer, authenticate
from .machine import CLOCKS
from .test_bulk import LIMITS, Boom, Wave, roll_many

CONFIG = SessionConfig(limits=attrs.evolve(LIMITS, max_sessions_per_principal=2), cleanup=CLOCKS)
TOOLS = ("work", "talk", "ask", "poll", "stubborn", "fail")
HOW = ("stays", "stays", "leaves", "does not read")


def options(slow_reader: SlowReader, *, keeps: bool) -> HttpOptions:
    return HttpOptions(
        keep_alive=6,
        stream_after=2,
        body_timeout=5,
        slow_reader=slow_reader,
        event_store=MemoryEventStore(max_session_events=20) if keeps else None,
    )


@attrs.define(eq=False)
class HttpWave(Wave):
    """A wave of sessions that are reached over HTTP, by several endpoints of one manager."""

    config: SessionConfig = CONFIG
    endpoints: dict[tuple[SlowReader, bool], Endpoint] = attrs.field(factory=dict)

    def endpoint(self, *policies: SlowReader, keeps: bool | None = None) -> Endpoint:
        slow_reader = self.random.choice(policies or list(SlowReader))
        if keeps is None:
            keeps = self.random.random() < 0.7
        key = (slow_reader, keeps)
        if key not in self.endpoints:
            self.endpoints[key] = new_endpoint(self.manager, slow_reader, keeps=keeps)
        return self.endpoints[key]

    @asynccontextmanager
    async def client(
        self,
        flavour: str = "plain",
        principal: Principal | None = None,
        *,
        endpoint: Endpoint | None = None,
        version: str = "2025-11-25",
    ) -> AsyncIterator[tuple[HttpPeer, Exchange]]:
        """A client, and its ``initialize`` that has not been sent yet."""
        if endpoint is None:
            endpoint = self.endpoint()
        async with trio.open_nursery() as nursery:
            user = None if principal is None else principal.subject
            peer = HttpPeer(endpoint, nursery.start_soon, user=user, version=version)
            yield peer, peer.prepare_initialize(flavour)
            await wait_all_tasks_blocked()
            for one in peer.exchanges:
                if one.running:
                    # An unread answer, or a request that never came.
                    assert not one.is_stream
                    assert not one.reads or not one.whole
                    one.leave()
        for one in peer.exchanges:
            assert not one.running
            if one.begun and not one.excused:
                assert one.complete
                assert one.message_id is None or one.has_answer or one.status == 404

    @asynccontextmanager
    async def http(
        self, flavour: str = "plain", principal: Principal | None = None, **more: Any
    ) -> AsyncIterator[tuple[Session, HttpPeer]]:
        """An established session with not much to do, and its client."""
        busy = more.pop("busy", True)
        if busy:
            # A client that does not read must not be ended for it before the test gets to it.
            more["endpoint"] = self.endpoint(SlowReader.DROP, SlowReader.END_STREAM)
        async with self.client(flavour, principal, **more) as (peer, opening):
            await opening.run()
            assert peer.learn(opening)
            await peer.confirm().ended.wait()
            session = self.session_of(peer)
            if busy:
                await self.make_busy(session)
                await self.make_calls(peer)
            await self.pause()
            yield session, peer

    def session_of(self, peer: HttpPeer) -> Session:
        (session,) = [one for one in self.server.asked if one.transport == peer.transport]
        return session

    async def make_calls(self, peer: HttpPeer) -> list[HttpCall]:
        """Begin calls, streams and what goes wrong with them."""
        calls: list[HttpCall] = []
        for _ in range(self.random.randrange(5)):
            peer.how_next, peer.again = self.random.choice(HOW), self.random.random() < 0.2
            calls.append(await self.call(peer, self.random.choice(TOOLS)))
        if self.random.random() < 0.5:
            peer.begin("GET", reads=self.random.random() < 0.7)
        if self.random.random() < 0.3:
            peer.begin("POST", request(9, "ping"), whole=False)
        await self.pause()
        for exchange in list(peer.exchanges):
            what = self.random.choice(["", "", "leave", "stop_reading", "cut", "resume"])
            if what == "resume" and exchange.is_stream and exchange.last_event_id:
                peer.begin("GET", last_event_id=exchange.last_event_id, resumes=exchange)
                for one in peer.exchanges:
                    one.excused |= one.stream is exchange.stream
            elif what not in ("", "resume") and exchange.running:
                getattr(exchange, what)()
        return calls

    async def call(self, peer: HttpPeer, tool: str, key: str | None = None) -> HttpCall:
        arguments = {} if tool == "fail" else {"key": key or self.new_name()}
        return await peer.start_request("tools/call", {"name": tool, "arguments": arguments})

    # Ways to end.

    async def delete(self) -> None:
        async with self.http() as (session, peer):
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def delete_beside_calls(self) -> None:
        async with self.http() as (session, peer):
            for _ in range(3):
                await self.call(peer, "work")
            peer.begin("DELETE")
            await self.call(peer, "work")
            await self.has_ended(session, R.CLIENT_CLOSED)
            late = peer.prepare("GET")
            await late.run()
            assert late.status == 404

    async def idle_while_listening(self) -> None:
        async with self.http(busy=False) as (session, peer):
            listening = peer.begin("GET")
            await self.has_ended(session, R.IDLE)
            assert listening.complete

    async def lifetime(self) -> None:
        async with self.http() as (session, peer):
            session.start_soon(hang)
            await self.call(peer, "talk")
            await self.has_ended(session, R.LIFETIME)

    async def no_handshake(self) -> None:
        async with self.client() as (peer, opening):
            await opening.run()
            await self.has_ended(self.session_of(peer), R.HANDSHAKE_TIMEOUT)

    async def stuck_in_the_handshake(self) -> None:
        async with self.client("enter hangs") as (peer, opening):
            peer.spawn(opening.run)
            await self.pause()
            await wait_all_tasks_blocked()
            if self.random.random() < 0.5:
                opening.leave()
            await self.has_ended(self.session_of(peer), R.HANDSHAKE_TIMEOUT)

    async def leave_while_let_in(self) -> None:
        async with self.client() as (peer, opening):
            opening.leave()
            await opening.run()
            await self.has_ended(self.session_of(peer), R.CLIENT_CLOSED)

    async def leave_before_it_is_let_in(self) -> None:
        async with self.client() as (peer, opening):
            opening.stop_reading()
            peer.spawn(opening.run)
            await trio.sleep(1)
            opening.leave()
            await self.has_ended(self.session_of(peer), R.CLIENT_CLOSED)

    async def cut_while_let_in(self) -> None:
        async with self.client("enter hangs") as (peer, opening):
            peer.spawn(opening.run)
            await self.pause()
            await wait_all_tasks_blocked()
            opening.cut()
            await self.has_ended(self.session_of(peer), R.CANCELLED)

    async def stop_reading(self) -> None:
        endpoint = self.endpoint(SlowReader.BLOCK)
        async with self.http(busy=False, endpoint=endpoint) as (session, peer):
            peer.begin("GET", reads=False)
            await wait_all_tasks_blocked()
            await session.notify("notifications/tools/list_changed")
            await self.has_ended(session, R.UNRESPONSIVE)

    async def stop_reading_a_call(self) -> None:
        endpoint = self.endpoint()
        slow_reader = endpoint.options.slow_reader
        async with self.http(busy=False, endpoint=endpoint) as (session, peer):
            peer.how_next = "does not read"
            call = await self.call(peer, "talk")
            if slow_reader is not SlowReader.BLOCK:
                await trio.sleep(8)
                assert call.exchange.over, "cut, and nobody else is the worse for it"
                call.cancel()
                peer.begin("DELETE")
                await self.has_ended(session, R.CLIENT_CLOSED)
            else:
                await self.has_ended(session, R.UNRESPONSIVE)

    async def come_back(self) -> None:
        async with self.http(busy=False, endpoint=self.endpoint(keeps=True)) as (session, peer):
            key = self.new_name()
            call = await self.call(peer, "talk", key)
            await trio.sleep(2)
            call.exchange.leave()
            await trio.sleep(2)
            again = peer.begin("GET", last_event_id=call.exchange.last_event_id)
            again.message_id = call.id
            await trio.sleep(1)
            self.server.gate(key).set()
            await wait_all_tasks_blocked()
            assert again.has_answer
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def vanish(self) -> None:
        """Leave everything as it is, for ever."""
        async with self.http() as (session, peer):
            for exchange in peer.exchanges:
                if exchange.running:
                    exchange.leave()
            await self.has_ended(session, R.IDLE, R.LIFETIME)

    async def cancel_all(self) -> None:
        async with self.http(busy=False) as (session, peer):
            calls = [await self.call(peer, tool) for tool in ("work", "talk", "ask", "poll")]
            await self.pause()
            for call in calls:
                call.cancel()
            await self.has_ended(session, R.IDLE)

    async def batch(self) -> None:
        async with self.http(busy=False, version="2025-03-26") as (session, peer):
            names = [self.new_name() for _ in range(3)]
            calls = [
                request(name, "tools/call", {"name": tool, "arguments": {"key": name}})
                for name, tool in zip(names, ("work", "talk", "work"), strict=True)
            ]
            exchange = peer.begin("POST", [*calls, notification("notifications/whatever")])
            await self.pause()
            await peer.begin("POST", cancelled(names[0])).ended.wait()
            self.server.gate(names[1]).set()
            await self.pause()
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)
            answers = exchange.messages[-1]
            assert [answer["id"] for answer in answers] == names[1:]

    async def evicted(self) -> None:
        """One place only, and a silent listener has no claim to it."""
        limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
        config = SessionConfig(limits=limits, cleanup=CLOCKS)
        async with open_session_manager(self.server.router(), config=config) as manager:
            endpoint = new_endpoint(manager, SlowReader.BLOCK, keeps=True)
            async with self.client(endpoint=endpoint) as (first, opening):
                await opening.run()
                first.learn(opening)
                listening = first.begin("GET")
                await wait_all_tasks_blocked()
                (session,) = manager.sessions()
                async with self.client(endpoint=endpoint) as (second, its_opening):
                    await its_opening.run()
                    assert second.learn(its_opening)
                    assert await session.wait_terminated() is R.EVICTED
                    await wait_all_tasks_blocked()
                    assert listening.complete
                    second.begin("DELETE")
                    self.ended[R.EVICTED] += 1

    async def replaced(self) -> None:
        principal = Principal(self.new_name())
        async with self.http(principal=principal, busy=False) as (first, peer):
            listening = peer.begin("GET")
            await trio.sleep(1)
            async with self.http(principal=principal, busy=False) as (second, _):
                async with self.http(principal=principal, busy=False) as (third, _):
                    await self.has_ended(first, R.REPLACED)
                    assert listening.complete
                    third.terminate()
                    await self.has_ended(third, R.REQUESTED)
                second.terminate()
                await self.has_ended(second, R.REQUESTED)

    async def revoked(self) -> None:
        principal = Principal(self.new_name())
        async with self.http(principal=principal) as (session, _):
            assert self.manager.revoke(principal) == 1
            await self.has_ended(session, R.REVOKED)

    async def somebody_else(self) -> None:
        async with (
            self.http(principal=Principal(self.new_name()), busy=False) as (session, peer),
            self.client() as (other, _),
        ):
            exchanges = [
                other.begin("DELETE", session_id=peer.session_id, user=user)
                for user in (None, "bob", "nobody")
            ]
            await wait_all_tasks_blocked()
            assert [one.status for one in exchanges] == [404, 404, 401]
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def crash_task(self) -> None:
        async with self.http() as (session, _):
            session.start_soon(crash, Boom(), service=self.random.random() < 0.5)
            await self.has_ended(session, R.CRASHED)

    async def crash_on_entering(self) -> None:
        flavour = self.random.choice(["enter crashes", "holds and crashes"])
        await self.fail_to_open(flavour, R.CRASHED)

    async def vetoed(self) -> None:
        await self.fail_to_open(self.random.choice(["veto", "created hangs"]), R.REQUESTED)

    async def fail_to_open(self, flavour: str, reason: R) -> None:
        async with self.client(flavour) as (peer, opening):
            await opening.run()
            assert not peer.learn(opening)
            assert "error" in opening.json
            await self.has_ended(self.session_of(peer), reason)

    async def crash_in_the_background(self) -> None:
        async with self.http("background") as (session, _):
            self.server.gate(f"background {session.session_id}").set()
            await self.has_ended(session, R.CRASHED)

    async def bad_clean_up(self) -> None:
        flavour = self.random.choice(["leave crashes", "leave hangs", "leave refuses"])
        async with self.http(flavour) as (session, peer):
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def bad_hooks(self) -> None:
        flavour = self.random.choice(["hooks crash", "hooks hang"])
        async with self.http(flavour) as (session, peer):
            peer.begin("DELETE")
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def terminate(self) -> None:
        async with self.http() as (session, _):
            session.terminate()
            await self.has_ended(session, R.REQUESTED)

    async def terminate_in_handler(self) -> None:
        async with self.http(busy=False) as (session, peer):
            await peer.start_request("tools/call", {"name": "end"})
            await self.has_ended(session, R.REQUESTED)

    async def drain_session(self) -> None:
        async with self.http() as (session, _):
            await session.drain(grace=1)
            await self.has_ended(session, R.SHUTDOWN)

    async def stay(self) -> None:
        """Listen until the manager ends it."""
        async with self.http(busy=False) as (session, peer):
            session.start_soon(hang)
            session.renew(10_000)
            listening = peer.begin("GET")
            await self.call(peer, "talk")
            await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)
            assert listening.complete

    async def roll(self, ways: list[str], ending: str) -> None:
        await super().roll(ways, ending)
        for endpoint in self.endpoints.values():
            assert not len(endpoint.ticker)
            store = endpoint.options.event_store
            if store is not None:
                assert isinstance(store, MemoryEventStore)
                assert (len(store), store.size) == (0, 0)


def new_endpoint(manager: SessionManager, slow_reader: SlowReader, *, keeps: bool) -> Endpoint:
    app = http_app(manager, authenticate=authenticate, options=options(slow_reader, keeps=keeps))
    return cast("Endpoint", app)


async def test_a_thousand_http_sessions_leave_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    ended = await roll_many(HttpWave, 20250326)
    assert set(ended) == set(R) - {R.TRANSPORT_FAILED}, "there is no transport that could fail"
