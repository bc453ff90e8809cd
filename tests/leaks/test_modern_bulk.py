"""The leak proof of 2026-07-28, second half: a thousand sessions that no client knows.

They belong to handlers that wait for their clients, to handles, and to the connections of
clients that know no sessions; and between them are subscriptions, which are none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    AdmissionPolicy,
    Principal,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    TerminationReason as R,
    open_session_manager,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.testing import ConnectionEnded, FaultyChannel, connect_client
from trio_mcp_session.testing.leaks import handler_of
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader

from .exchange import authenticate
from .machine import Server
from .modern import (
    ANSWERS,
    HURRY,
    MODERN_CLOCKS,
    Asker,
    Call,
    Conversation,
    HttpAsker,
    ModernServer,
    PipeAsker,
    virtual_wall_clock,
)
from .test_bulk import LIMITS, Wave, roll_many

CONFIG = SessionConfig(
    limits=attrs.evolve(LIMITS, max_sessions_of={}, max_in_flight=8, max_queued=8),
    cleanup=MODERN_CLOCKS,
    wall_clock=virtual_wall_clock,
)
ONE_EACH = SessionLimits(
    max_sessions_of={SessionKind.PARKED: 1, SessionKind.HANDLE: 1},
    admission=AdmissionPolicy.EVICT_IDLE,
)
HOW = ("pipe", "http")
FLAVOURS = ("plain", "plain", "leave crashes", "leave hangs", "leave refuses")
MINE = 100.0
"""Seconds after which a session that stays would end by itself."""


@attrs.define(eq=False)
class ModernWave(Wave):
    """A wave of clients of 2026-07-28, on pipes and over HTTP."""

    config: SessionConfig = CONFIG
    server: Server = attrs.field(factory=ModernServer)
    endpoints: dict[SlowReader, Endpoint] = attrs.field(factory=dict)

    def endpoint(self, policy: SlowReader) -> Endpoint:
        if policy not in self.endpoints:
            self.endpoints[policy] = new_endpoint(self.manager, policy)
        return self.endpoints[policy]

    @asynccontextmanager
    async def asker(
        self,
        how: str | None = None,
        user: str | None = "",
        *policies: SlowReader,
        name: str = "plain",
    ) -> AsyncIterator[Asker]:
        """A client, of this user, of a user of its own, or without one."""
        if user == "":
            user = self.random.choice([None, self.new_name()])
        if how is None:
            how = self.random.choice(HOW)
        if how == "http":
            endpoint = self.endpoint(self.random.choice(policies or list(SlowReader)))
            async with http_asker(endpoint, user, name) as asker:
                yield asker
            return
        principal = None if user is None else Principal(user)
        async with connect_client(
            self.manager, principal=principal, version=None, capacity=8, through=FaultyChannel
        ) as client:
            yield PipeAsker(client, name)

    async def be_asked(self, asker: Asker, tool: str | None = None, **more: str) -> Conversation:
        """Let a client call a tool that asks something."""
        tool = tool or self.random.choice(["inquire", "quiz", "cling"])
        talk = Conversation(tool, {"key": self.new_name(), **more})
        await self.hear(talk, await talk.begin(asker), "asked")
        await self.pause()
        return talk

    async def hear(self, talk: Conversation, call: Call, *outcomes: str) -> None:
        await call.wait_over()
        assert talk.hear(call) in outcomes, call.answer

    async def answer(self, talk: Conversation, asker: Asker, *outcomes: str, **how: Any) -> None:
        """Let a client retry, and look at what it receives."""
        await self.hear(talk, await talk.come_back(asker, **how), *outcomes)

    async def attach(self, asker: Asker) -> tuple[Session, Conversation, Call]:
        """Let a handler work for a client that has retried."""
        talk = await self.be_asked(asker, "quiz")
        call = await talk.come_back(asker)
        await wait_all_tasks_blocked()
        assert not call.over
        return self.parked(talk), talk, call

    def parked(self, talk: Conversation) -> Session:
        """Find the session of the handler that a client talks to."""
        (session,) = [
            session
            for session in self.manager.sessions()
            for request in [handler_request(session)]
            if request is not None and request.params["arguments"] == talk.arguments
        ]
        return session

    async def open_box(self, asker: Asker, flavour: str | None = None) -> str:
        flavour = flavour or self.random.choice(FLAVOURS)
        call = await asker.call("open", {"flavour": flavour})
        await call.wait_over()
        assert call.outcome == "done", call.answer
        return call.text

    def handle_of(self, box: str) -> Session:
        session = self.manager.store.get(box, SessionKind.HANDLE)
        assert session is not None
        return session

    async def use_box(self, asker: Asker, box: str) -> list[Call]:
        """Use a handle in any way, or let several wait in line for it."""
        tools = self.random.choices(["use", "clutch", "borrow"], k=self.random.randrange(1, 4))
        return [await asker.call(tool, {"box": box, "key": self.new_name()}) for tool in tools]

    # Handlers that wait, and their ways to end.

    async def never_come_back(self) -> None:
        async with self.asker() as asker:
            talk = await self.be_asked(asker)
            await self.has_ended(self.parked(talk), R.IDLE)

    async def come_back(self) -> None:
        async with self.asker() as asker:
            talk = await self.be_asked(asker, "inquire")
            session = self.parked(talk)
            await self.answer(talk, asker, "done")
            await self.has_ended(session, R.REQUESTED)
            await self.answer(talk, asker, "failed")

    async def come_back_with_one_thing_after_another(self) -> None:
        async with self.asker() as asker:
            talk = await self.be_asked(asker, "quiz")
            session = self.parked(talk)
            self.server.gate(str(talk.arguments["key"])).set()
            for answers in ({"a": ANSWERS["a"]}, {}, {"b": ANSWERS["b"]}):
                await self.answer(talk, asker, "asked", answers=answers)
                await self.pause()
            for state in talk.states[:-1]:
                await self.answer(talk, asker, "-32602", state=state)
            await self.answer(talk, asker, "done")
            await self.has_ended(session, R.REQUESTED)

    async def come_back_with_nothing(self) -> None:
        async with self.asker("http") as asker:
            talk = await self.be_asked(asker, "inquire")
            session = self.parked(talk)
            for _ in range(3):
                await trio.sleep(2)
                outcomes = ("asked",) if session.state.name == "ACTIVE" else ("asked", "failed")
                await self.answer(talk, asker, *outcomes, answers={})
            await self.has_ended(session, R.IDLE)

    async def come_back_all_at_once(self) -> None:
        user = self.new_name()
        async with self.asker("pipe", user) as one, self.asker("http", user) as other:
            talk = await self.be_asked(one, "inquire")
            session = self.parked(talk)
            calls = [await talk.come_back(asker) for asker in (one, other) * 5]
            await wait_all_tasks_blocked()
            assert sum(call.outcome == "done" for call in calls) == 1
            await self.has_ended(session, R.REQUESTED)

    async def come_with_somebody_elses_state(self) -> None:
        async with self.asker(user=self.new_name()) as mine, self.asker() as other:
            talk = await self.be_asked(mine, "inquire")
            session = self.parked(talk)
            for answers in ({}, None, {"a": 1}):
                await self.answer(talk, other, "-32602", answers=answers)
            await self.answer(talk, mine, "done")
            await self.has_ended(session, R.REQUESTED)
            await self.answer(talk, other, "-32602")

    async def come_too_late_for_the_handler(self) -> None:
        async with self.asker() as asker:
            talk = await self.be_asked(asker, "hurry")
            session = self.parked(talk)
            await trio.sleep_until(session._opened_at + HURRY + 1)
            if self.random.random() < 0.5:
                await self.answer(talk, asker, "done")
                await self.has_ended(session, R.REQUESTED)
            else:
                # A connection without a principal may be idle before.
                await self.has_ended(session, R.IDLE)

    async def come_back_by_another_connection(self) -> None:
        user = self.new_name()
        async with self.asker(user=user) as asker:
            talk = await self.be_asked(asker, "inquire")
            session = self.parked(talk)
        async with self.asker(user=user) as asker:
            await self.answer(talk, asker, "done")
            await self.has_ended(session, R.REQUESTED)

    async def work_for_ever(self) -> None:
        async with self.asker("http") as asker:
            session, *_ = await self.attach(asker)
            await self.has_ended(session, R.LIFETIME)

    async def take_it_back(self) -> None:
        async with self.asker() as asker:
            session, talk, call = await self.attach(asker)
            await self.pause()
            call.withdraw()
            await self.has_ended(session, R.CANCELLED)
            await self.answer(talk, asker, "failed")

    async def vanish_at_work(self) -> None:
        async with self.asker("pipe") as asker:
            session, *_ = await self.attach(asker)
            assert isinstance(asker, PipeAsker)
            asker.client.drop()
            await self.has_ended(session, R.CANCELLED)

    async def vanish_as_nobody(self) -> None:
        """What an unauthenticated connection held ends with it, and for its reason."""
        async with self.asker("pipe", None) as asker:
            assert isinstance(asker, PipeAsker)
            await self.open_box(asker)
            await self.be_asked(asker)
            connection: Session = asker.client.session
            held = self.manager.store.of_principal(connection._default_principal)
            assert len(held) == 2
            reason = self.random.choice([R.CLIENT_CLOSED, R.TRANSPORT_FAILED, R.UNRESPONSIVE])
            if reason is R.CLIENT_CLOSED:
                asker.client.drop()
            elif reason is R.TRANSPORT_FAILED:
                asker.client.server_end.fail()
            else:
                await self.read_no_more(asker)
            for session in (connection, *held):
                await self.has_ended(session, reason)

    async def read_no_more(self, asker: PipeAsker) -> None:
        asker.client.stall()
        with pytest.raises(ConnectionEnded):
            while True:
                await asker.client.start_request("ping")

    async def lose_its_principal(self) -> None:
        user = self.new_name()
        async with self.asker("http", user) as asker:
            listen = await asker.listen()
            talk = await self.be_asked(asker)
            box = await self.open_box(asker)
            await self.use_box(asker, box)
            session, _, call = await self.attach(asker)
            held = [self.parked(talk), self.handle_of(box), session]
            await wait_all_tasks_blocked()
            assert self.manager.revoke(Principal(user)) >= len(held)
            for one in held:
                await self.has_ended(one, R.REVOKED)
            await trio.sleep(1)
            assert listen.over
            assert call.over

    async def end_a_handler(self) -> None:
        async with self.asker() as asker:
            talk = await self.be_asked(asker)
            session = self.parked(talk)
            session.terminate()
            await self.has_ended(session, R.REQUESTED)
            session, *_ = await self.attach(asker)
            await session.drain(grace=1)
            await self.has_ended(session, R.SHUTDOWN)

    async def be_refused_by_hooks(self) -> None:
        name, user = self.random.choice(["veto", "created hangs"]), self.new_name()
        async with self.asker(user=user, name=name) as asker:
            talk = Conversation("inquire", {"key": self.new_name()})
            await self.hear(talk, await talk.begin(asker), "failed")
            (session,) = self.opened_for(user)
            await self.has_ended(session, R.REQUESTED)

    def opened_for(self, user: str) -> list[Session]:
        """Return all sessions of a user that hooks were asked for, also those that are over."""
        return [one for one in self.server.asked if one.principal == Principal(user)]

    async def have_bad_hooks(self) -> None:
        name = self.random.choice(["hooks crash", "hooks hang"])
        async with self.asker(name=name) as asker:
            talk = await self.be_asked(asker, "inquire")
            session = self.parked(talk)
            await self.answer(talk, asker, "done")
            await self.has_ended(session, R.REQUESTED)

    async def make_room(self) -> None:
        """One place each; a session that waits for its client, or is unused, may lose it."""
        config = attrs.evolve(self.config, limits=ONE_EACH)
        async with open_session_manager(self.server.router(), config=config) as manager:
            endpoint = new_endpoint(manager, SlowReader.BLOCK)
            user = self.new_name()
            for other, reason in ((user, R.REPLACED), (self.new_name(), R.EVICTED)):
                async with (
                    http_asker(endpoint, user) as first,
                    http_asker(endpoint, other) as second,
                ):
                    await self.be_asked(first)
                    await self.open_box(first, "plain")
                    old = manager.sessions(lambda session: session.termination_reason is None)
                    await self.be_asked(second)
                    await self.open_box(second, "plain")
                    for session in old:
                        assert await session.wait_terminated() is reason
                        self.ended[reason] += 1

    # Handles, and their ways to end.

    async def expire(self) -> None:
        async with self.asker() as asker:
            box = await self.open_box(asker)
            await self.has_ended(self.handle_of(box), R.IDLE)
            for tool in ("use", "borrow"):
                call = await asker.call(tool, {"box": box, "key": "k"})
                await call.wait_over()
                assert call.outcome == "failed"

    async def use_for_ever(self) -> None:
        async with self.asker("http") as asker:
            box = await self.open_box(asker)
            session = self.handle_of(box)
            calls = [await asker.call("use", {"box": box, "key": "never"}) for _ in range(3)]
            await self.has_ended(session, R.LIFETIME)
            await wait_all_tasks_blocked()
            assert [call.outcome for call in calls] == ["failed"] * 3

    async def close_while_it_is_used(self) -> None:
        async with self.asker() as asker, self.asker(user=self.new_name()) as other:
            box = await self.open_box(asker)
            session = self.handle_of(box)
            calls = await self.use_box(asker, box)
            await self.pause()
            for _ in range(2):
                await other.call("close", {"box": box})
            assert session.termination_reason is None
            closing = [await asker.call("close", {"box": box}) for _ in range(2)]
            await self.has_ended(session, R.REQUESTED)
            await wait_all_tasks_blocked()
            assert sorted(call.text for call in closing) == ["False", "True"]
            assert {call.outcome for call in calls} <= {"failed", "asked"}

    async def vanish_from_a_handle(self) -> None:
        user = self.new_name()
        async with self.asker("http", user) as asker:
            box = await self.open_box(asker)
            session = self.handle_of(box)
            calls = await self.use_box(asker, box)
            await self.pause()
            for call in calls:
                call.withdraw()
        await self.has_ended(session, R.IDLE)

    async def fail_to_open(self) -> None:
        user = self.new_name()
        async with self.asker(user=user) as asker:
            call = await asker.call("open", {"flavour": "enter crashes"})
            await call.wait_over()
            assert call.outcome == "failed"
            call = await asker.call("open", {"flavour": "enter hangs"})
            await trio.sleep(1)
            call.withdraw()
            crashed, cancelled = self.opened_for(user)
            await self.has_ended(crashed, R.CRASHED)
            await self.has_ended(cancelled, R.CANCELLED)

    async def end_a_handle(self) -> None:
        async with self.asker() as asker:
            for drains in (False, True):
                box = await self.open_box(asker)
                session = self.handle_of(box)
                await self.use_box(asker, box)
                await self.pause()
                if drains:
                    await session.drain(grace=1)
                    await self.has_ended(session, R.SHUTDOWN)
                else:
                    session.terminate()
                    await self.has_ended(session, R.REQUESTED)

    async def use_in_both_eras(self) -> None:
        """A client with a session opens a handle: it ends with the session."""
        async with self.connection(busy=False) as (session, client):
            opened = await client.call_tool("open", {"flavour": "plain"})
            handle = self.handle_of(opened.text)
            await client.start_request(
                "tools/call", {"name": "use", "arguments": {"box": opened.text, "key": "k"}}
            )
            await self.pause()
            client.server_end.fail()
            await self.has_ended(session, R.TRANSPORT_FAILED)
            await self.has_ended(handle, R.TRANSPORT_FAILED)

    # Subscriptions.

    async def listen_for_a_while(self) -> None:
        async with self.asker() as asker:
            calls = [await asker.listen() for _ in range(3)]
            await self.pause()
            self.manager.notify_list_changed("tools")
            self.manager.notify_resource_updated("file:///a")
            calls[0].withdraw()
            await self.pause()

    async def listen_and_not_read(self) -> None:
        async with self.asker("http") as asker:
            call = await asker.listen(reads=False)
            for _ in range(5):
                self.manager.notify_list_changed("tools")
                await trio.sleep(1)
            assert call.over

    # Those that stay until the manager ends them.

    async def stay_at_work(self) -> None:
        async with self.asker("http") as asker:
            session, _, call = await self.attach(asker)
            session.renew(MINE * MINE)
            await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)
            await call.wait_over()

    async def stay_with_a_handle(self) -> None:
        async with self.asker("http") as asker:
            box = await self.open_box(asker, "plain")
            session = self.handle_of(box)
            session.renew(MINE * MINE)
            call = await asker.call("use", {"box": box, "key": "never"})
            await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)
            await call.wait_over()

    async def stay_and_listen(self) -> None:
        async with self.asker("http", None, SlowReader.BLOCK, SlowReader.DROP) as asker:
            call = await asker.listen()
            await call.wait_over()
            assert call.answer is not None
            assert "result" in call.answer

    async def roll(self, ways: list[str], ending: str) -> None:
        await super().roll(ways, ending)
        assert not len(server_of(self.manager).subscriptions)
        assert isinstance(self.server, ModernServer)
        assert not self.server.held
        for endpoint in self.endpoints.values():
            assert not len(endpoint.ticker)
            assert not len(endpoint.stateless_ticker)


@asynccontextmanager
async def http_asker(
    endpoint: Endpoint, user: str | None, name: str = "plain"
) -> AsyncIterator[HttpAsker]:
    """A client over HTTP, which hears the end of everything that it does not leave."""
    async with trio.open_nursery() as nursery:
        asker = HttpAsker(endpoint, nursery.start_soon, user, name)
        yield asker
        await wait_all_tasks_blocked()
        for one in asker.exchanges:
            if one.running:
                one.leave()
    for one in asker.exchanges:
        assert not one.running
        # Where messages come at once, also a reading client may be too slow for such a buffer.
        too_slow = one.is_stream and endpoint.options.slow_reader is SlowReader.END_STREAM
        assert one.excused or too_slow or (one.complete and one.has_answer), one


def new_endpoint(manager: SessionManager, policy: SlowReader) -> Endpoint:
    options = HttpOptions(keep_alive=6, slow_reader=policy)
    return cast("Endpoint", http_app(manager, authenticate=authenticate, options=options))


def handler_request(session: Session) -> Any:
    """Return the request of the handler that a session is for; None if it is for none."""
    handler = handler_of(session)
    return None if handler is None else handler.request


async def test_a_thousand_sessions_leave_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    ended = await roll_many(ModernWave, 20260728)
    assert set(ended) == set(R) - {R.HANDSHAKE_TIMEOUT}, "whoever knows no sessions opens none"
