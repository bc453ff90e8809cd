"""The leak proof, second half: a thousand sessions, in random order from random tasks.

Each ends in a way of its own, among others that live on; after each there is nothing left of it.
The seed is fixed: what passes once passes always.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from math import inf
from random import Random
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    AdmissionPolicy,
    ClientInfo,
    McpError,
    NoChannel,
    Principal,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    SessionTerminated,
    SessionVetoed,
    TerminationReason as R,
    Transport,
    open_session_manager,
    serve_channel,
    validate_sessions,
)
from trio_mcp_session.sessions.current import running_in
from trio_mcp_session.testing import (
    Client,
    ConnectionEnded,
    FaultyChannel,
    FaultyContext,
    assert_no_leaks,
    check_leaks,
    connect_client,
    crash,
    hang,
    refuse_cancellation,
)
from trio_mcp_session.testing.leaks import _below, _in
from trio_mcp_session.transports.memory import memory_channel_pair

from .machine import CLOCKS, Server

SESSIONS = 1_000
LIMITS = SessionLimits(
    max_sessions=200,
    # One place each: the next session needs it.
    max_sessions_of={SessionKind.TASK: 1, SessionKind.PARKED: 1},
    admission=AdmissionPolicy.EVICT_IDLE,
    max_in_flight=2,
    max_queued=2,
    max_output=64,
)
CONFIG = SessionConfig(limits=LIMITS, cleanup=CLOCKS)

WORK = ("task", "service", "stubborn", "context", "ear", "question", "calls")
"""What a session may have to do when it ends."""

_random: ContextVar[Random] = ContextVar("random")


class Boom(Exception):
    pass


@attrs.define(eq=False)
class Wave:
    """One manager, and some fifty tasks that open and end sessions."""

    seed: str
    ended: Counter[R]
    config: SessionConfig = CONFIG
    server: Server = attrs.field(factory=Server)
    manager: SessionManager = attrs.field(init=False)
    one_place: trio.Lock = attrs.field(factory=trio.Lock)
    gone: list[weakref.ref[Session]] = attrs.field(factory=list)
    names: int = 0

    @property
    def random(self) -> Random:
        """The calling task's own: so the order of tasks does not change the choices."""
        return _random.get()

    def new_name(self) -> str:
        self.names += 1
        return f"name {self.names}"

    async def pause(self) -> None:
        await trio.sleep(self.random.choice([0, 0, 0.1, 1, 3]))

    async def has_ended(self, session: Session, reason: R, *others: R) -> None:
        """Wait for the end of a session, and look for what it left."""
        assert await session.wait_terminated() in (reason, *others), session
        await wait_all_tasks_blocked()  # Its connection ends with it, right after.
        assert session.session_id not in self.manager.store.active_sessions
        assert session.principal is None or session not in self.manager.store.of_principal(
            session.principal
        )
        assert not list(_in(session))
        for top in self.manager._sessions_nursery.child_tasks:
            for task in _below(top):
                assert task.context.get(running_in) is not session, task.name
        assert not validate_sessions(self.manager.store)
        self.ended[session._reason_to_end()] += 1
        self.gone.append(weakref.ref(session))

    async def make_busy(self, session: Session, client: Client[Any] | None = None) -> None:
        """Give a session something to leave behind."""
        for _ in range(self.random.randrange(4)):
            what = self.random.choice(WORK)
            if what == "task":
                session.start_soon(hang)
            elif what == "service":
                session.start_soon(hang, service=True)
            elif what == "stubborn":
                session.start_soon(self.stubborn)
            elif what == "context":
                flavour = self.random.choice(["plain", "leave crashes", "leave hangs"])
                await session.enter_async_context(self.server.context(flavour))
            elif what == "question":
                self.manager._start_connection_task(self.ask, session)
            elif what == "ear":
                self.manager._start_connection_task(self.listen, session)
            elif client is not None:
                for tool in ("work", "ask", "stubborn", "work", "work"):
                    arguments = {"name": tool, "arguments": {"key": self.new_name()}}
                    await client.start_request("tools/call", arguments)

    async def stubborn(self) -> None:
        try:
            await hang()
        finally:
            await refuse_cancellation(0.5)  # noqa: ASYNC102  # what it is about

    async def ask(self, session: Session) -> None:
        with suppress(NoChannel, SessionTerminated):
            await session.ask("never")

    async def listen(self, session: Session) -> None:
        with session.subscribe(1) as events:
            async for _ in events:
                pass

    @asynccontextmanager
    async def connection(
        self, flavour: str = "plain", principal: Principal | None = None, *, busy: bool = True
    ) -> AsyncIterator[tuple[Session, Client[FaultyChannel]]]:
        async with connect_client(
            self.manager,
            name=flavour,
            principal=principal,
            capacity=8,
            elicit=lambda _: hang(),
            answerers={"never": lambda _: hang()},
            through=FaultyChannel,
        ) as client:
            session = client.session
            await self.pause()
            if busy:
                await self.make_busy(session, client)
            yield session, client

    async def handle(self, flavour: str = "plain", **more: Any) -> Session:
        session = await self.manager.create_session(
            ClientInfo(client_id=flavour), lifespan=self.server.lifespan, **more
        )
        await self.pause()
        return session

    # Ways to end.

    async def end_of_stream(self) -> None:
        async with self.connection() as (session, client):
            await client.send_eof()
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def drop(self) -> None:
        async with self.connection() as (session, client):
            client.drop()
            await self.has_ended(session, R.CLIENT_CLOSED, R.TRANSPORT_FAILED)

    async def break_transport(self) -> None:
        async with self.connection() as (session, client):
            client.server_end.fail()
            await self.has_ended(session, R.TRANSPORT_FAILED)

    async def stop_reading(self) -> None:
        async with self.connection(busy=False) as (session, client):
            client.stall()
            with pytest.raises(ConnectionEnded):
                while True:
                    await client.start_request("ping")
            await self.has_ended(session, R.UNRESPONSIVE)

    async def miss_pings(self) -> None:
        async def ignore(_: dict[str, Any]) -> None:
            await hang()

        clocks = attrs.evolve(CLOCKS, ping_interval=1, ping_timeout=1, ping_strikes=2)
        config = SessionConfig(limits=LIMITS, cleanup=clocks)
        async with open_session_manager(self.server.router(), config=config) as manager:
            async with connect_client(manager, answerers={"ping": ignore}) as client:
                session = client.session
                assert await session.wait_terminated() is R.UNRESPONSIVE
                await wait_all_tasks_blocked()
                assert not list(_in(session))
                self.ended[R.UNRESPONSIVE] += 1
                self.gone.append(weakref.ref(session))

    async def no_handshake(self) -> None:
        async with connect_client(self.manager, version=None) as client:
            await client.ping()
            await self.has_ended(client.session, R.HANDSHAKE_TIMEOUT)

    async def half_a_handshake(self) -> None:
        async with connect_client(self.manager, version=None) as client:
            await client.initialize(name="plain", confirm=False)
            await self.has_ended(client.session, R.HANDSHAKE_TIMEOUT)

    async def stuck_in_the_handshake(self) -> None:
        async with connect_client(self.manager, version=None) as client:
            await client.ping()
            session = client.session
            with pytest.raises(McpError):
                await client.initialize(name="enter hangs")
            await self.has_ended(session, R.HANDSHAKE_TIMEOUT)

    async def idle(self) -> None:
        async with self.connection(busy=False) as (session, _):
            await self.has_ended(session, R.IDLE)

    async def idle_handle(self) -> None:
        await self.has_ended(await self.handle("leave hangs"), R.IDLE)

    async def lifetime(self) -> None:
        session = await self.handle("leave refuses")
        await self.make_busy(session)
        session.start_soon(hang)
        await self.has_ended(session, R.LIFETIME)

    async def renewed_lifetime(self) -> None:
        session = await self.handle()
        session.start_soon(hang)
        session.renew(5)
        await self.has_ended(session, R.LIFETIME)

    async def evicted(self) -> None:
        async with self.one_place:
            first = await self.handle(kind=SessionKind.TASK, principal=Principal("ann"))
            second = await self.handle(kind=SessionKind.TASK, principal=Principal("bob"))
            await self.has_ended(first, R.EVICTED)
            second.terminate()
            await self.has_ended(second, R.REQUESTED)

    async def replaced(self) -> None:
        async with self.one_place:
            first = await self.handle(
                "leave crashes", kind=SessionKind.PARKED, principal=Principal("ann")
            )
            second = await self.handle(kind=SessionKind.PARKED, principal=Principal("ann"))
            await self.has_ended(first, R.REPLACED)
            second.terminate()
            await self.has_ended(second, R.REQUESTED)

    async def revoked(self) -> None:
        principal = Principal(self.new_name())
        handle = await self.handle(principal=principal)
        await self.make_busy(handle)
        async with self.connection(principal=principal) as (session, _):
            assert self.manager.revoke(principal) == 2
            await self.has_ended(session, R.REVOKED)
        await self.has_ended(handle, R.REVOKED)

    async def failing_handler(self) -> None:
        async with self.connection(busy=False) as (session, client):
            assert (await client.call_tool("fail")).is_error
            await client.send_eof()
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def crash_task(self) -> None:
        async with self.connection() as (session, _):
            session.start_soon(crash, Boom(), service=self.random.random() < 0.5)
            await self.has_ended(session, R.CRASHED)
            assert isinstance(session.error, (Boom, ExceptionGroup))

    async def crash_on_entering(self) -> None:
        flavour = self.random.choice(["enter crashes", "holds and crashes"])
        with pytest.raises(ValueError, match=r"crashes|after a context"):
            await self.handle(flavour)
        async with connect_client(self.manager, version=None) as client:
            await client.ping()
            session = client.session
            with pytest.raises(McpError):
                await client.initialize(name=flavour)
            await self.has_ended(session, R.CRASHED)

    async def crash_in_the_background(self) -> None:
        async with self.connection("background") as (session, client):
            self.server.gate(f"background {session.session_id}").set()
            for _ in range(3):
                # Its nursery is closed by now, and its lifespan takes its time.
                with suppress(ConnectionEnded, McpError):
                    await client.call_tool("nothing")
            await self.has_ended(session, R.CRASHED)

    async def crash_on_leaving(self) -> None:
        session = await self.handle("leave crashes")
        await self.make_busy(session)
        session.terminate()
        await self.has_ended(session, R.REQUESTED)
        assert session.error is not None

    async def hang_on_leaving(self) -> None:
        async with self.connection("leave hangs") as (session, client):
            await client.send_eof()
            await self.has_ended(session, R.CLIENT_CLOSED)

    async def vetoed(self) -> None:
        for flavour in ("veto", "created hangs"):
            with pytest.raises(SessionVetoed):
                await self.handle(flavour)
            async with connect_client(self.manager, version=None) as client:
                await client.ping()
                session = client.session
                with pytest.raises(McpError):
                    await client.initialize(name=flavour)
                await self.has_ended(session, R.REQUESTED)

    async def bad_hooks(self) -> None:
        flavour = self.random.choice(["hooks crash", "hooks hang"])
        async with self.connection(flavour) as (session, client):
            client.drop()
            await self.has_ended(session, R.CLIENT_CLOSED, R.TRANSPORT_FAILED)

    async def terminate(self) -> None:
        session = await self.handle()
        await self.make_busy(session)
        for reason in (R.REQUESTED, R.IDLE):
            session.terminate(reason)
        await self.has_ended(session, R.REQUESTED)

    async def terminate_in_handler(self) -> None:
        async with self.connection(busy=False) as (session, client):
            await client.call_tool("end")
            await self.has_ended(session, R.REQUESTED)

    async def terminate_in_own_task(self) -> None:
        async def in_own_task() -> None:
            session.terminate()

        session = await self.handle()
        await self.make_busy(session)
        session.start_soon(in_own_task)
        await self.has_ended(session, R.REQUESTED)

    async def drain_session(self) -> None:
        async with self.connection() as (session, _):
            await session.drain(grace=1)
            await self.has_ended(session, R.SHUTDOWN)

    async def cancel_opener(self) -> None:
        opened = []

        def lifespan(session: Session) -> FaultyContext:
            opened.append(session)
            return FaultyContext(enter=hang)

        with trio.move_on_after(1):
            await self.manager.create_session(lifespan=lifespan)
        await self.has_ended(opened.pop(), R.CANCELLED)

    async def cancel_connection(self) -> None:
        here, there = memory_channel_pair()
        transport = Transport("cancelled")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_channel, self.manager, there, transport=transport))
            await self.pause()
            await wait_all_tasks_blocked()
            (session,) = self.manager.sessions(lambda session: session.transport is transport)
            nursery.cancel_scope.cancel()
        await self.has_ended(session, R.CANCELLED)
        here.close()

    async def leave_block(self) -> None:
        async with self.manager.open_session() as session:
            await self.make_busy(session)
        await self.has_ended(session, R.REQUESTED)

    async def crash_block(self) -> None:
        with pytest.raises(Boom):
            async with self.manager.open_session() as session:
                await self.make_busy(session)
                raise Boom
        await self.has_ended(session, R.REQUESTED)

    async def cancel_block(self) -> None:
        with trio.move_on_after(1):
            async with self.manager.open_session() as session:
                await hang()
        await self.has_ended(session, R.CANCELLED)

    async def end_block(self) -> None:
        with pytest.raises(SessionTerminated):
            async with self.manager.open_session() as session:
                session.start_soon(crash, Boom())
                await hang()
        await self.has_ended(session, R.CRASHED)

    async def stay(self) -> None:
        """Stay until the manager ends it."""
        session = await self.handle(clocks=attrs.evolve(CLOCKS, max_session_time=inf))
        await self.make_busy(session)
        session.start_soon(hang)
        await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)

    async def stay_connected(self) -> None:
        async with self.connection() as (session, _):
            session.start_soon(hang)
            session.renew(10_000)
            await self.has_ended(session, R.SHUTDOWN, R.CANCELLED)

    # The wave.

    async def drive(self, way: str, to_come: list[str], done: trio.Event, seed: str) -> None:
        _random.set(Random(seed))  # noqa: S311  # to choose, not to hide
        await trio.sleep(self.random.uniform(0, 10))
        await getattr(self, way)()
        if not stays(way):
            to_come.remove(way)
            if not to_come:
                done.set()

    async def roll(self, ways: list[str], ending: str) -> None:
        to_come = [way for way in ways if not stays(way)]
        done = trio.Event()
        async with trio.open_nursery() as drivers:
            with trio.CancelScope() as scope, suppress(Boom):
                async with open_session_manager(
                    self.server.router(), config=self.config, hooks=self.server.hooks()
                ) as self.manager:
                    for number, way in enumerate(ways):
                        seed = f"{self.seed} {number}"
                        drivers.start_soon(self.drive, way, to_come, done, seed, name=way)
                    await done.wait()
                    await wait_all_tasks_blocked()
                    assert_no_leaks(self.manager)
                    if ending == "raise":
                        raise Boom
                    if ending == "cancel":
                        scope.cancel()
        assert_no_leaks(self.manager, live=())
        assert not self.manager._sessions_nursery.child_tasks
        assert all(context.entered == context.leaving for context in self.server.contexts)
        assert sorted(self.server.created) == sorted(name for name, _ in self.server.told)


def stays(way: str) -> bool:
    """Whether it does not end before the manager does."""
    return way.startswith("stay")


def ways_of(kind: type[Wave]) -> list[str]:
    return [
        name
        for name, member in vars(kind).items()
        if inspect.iscoroutinefunction(member)
        and member.__code__.co_argcount == 1
        and name not in ("pause", "stubborn")
    ]


async def roll_many(kind: type[Wave], seed: int) -> Counter[R]:
    """Roll waves until there were a thousand sessions; return how they ended."""
    random = Random(seed)  # noqa: S311  # to choose, not to hide
    ended: Counter[R] = Counter()
    ways = ways_of(kind)
    opened = 0
    while opened < SESSIONS:
        chosen = [*ways, *random.choices(ways, k=10)]
        random.shuffle(chosen)
        wave = kind(f"wave {opened}", ended)
        async with check_leaks():
            await wave.roll(chosen, random.choice(["leave", "cancel", "raise"]))
        opened += wave.manager.statistics().opened
        statistics = wave.manager.statistics()
        assert sum(statistics.ended.values()) == statistics.opened
        gone = wave.gone
        del wave
        gc.collect()
        assert not [one() for one in gone if one() is not None]
    return ended


async def test_a_thousand_sessions_leave_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # Records of crashes hold tracebacks, and so sessions.
    caplog.set_level("CRITICAL", logger="trio_mcp_session")
    ended = await roll_many(Wave, 20250618)
    assert set(ended) == set(R), "every reason has been the reason"
