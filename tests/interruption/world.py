"""A manager with foreign code everywhere, a client that uses it, and neighbours beside it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import cancelled, events_so_far, leftovers, modern, notification, request
from tests.transports.http.asgi_client import Client as HttpClient, Response
from tests.transports.http.modern import headers_of
from trio_mcp_session import (
    Error,
    Event,
    EventStream,
    HandleKind,
    HttpOptions,
    MemoryChannel,
    Principal,
    RequestContext,
    RequestFailed,
    Router,
    Session,
    SessionConfig,
    SessionError,
    SessionHooks,
    SessionManager,
    SessionState,
    SessionTerminated,
    TerminationReason,
    Transport,
    connect_memory,
    http_app,
    open_session_manager,
    serve_channel,
)
from trio_mcp_session.protocol.tasks_extension import TASKS
from trio_mcp_session.server.accept import accept
from trio_mcp_session.server.dispatch import receive
from trio_mcp_session.transports.memory import memory_channel_pair

from .faults import (
    Fault,
    FaultyApplication,
    FaultyChannel,
    FaultyEventStore,
    FaultyLogHandler,
    FaultyOutlet,
    FaultySubject,
    Kind,
    Stage,
)
from .scenarios import CLOCKS, HELLO, LONGEST, Record
from .watchdog import leaves, run_watched, unless

logger: Final = logging.getLogger("trio_mcp_session")


@final
@attrs.define(eq=False)
class World:
    """A manager that foreign code is everywhere in."""

    fault: Fault
    record: Record = attrs.field(factory=Record, init=False)
    manager: SessionManager = attrs.field(init=False)
    servers: trio.Nursery = attrs.field(init=False)
    """What serves clients, outside of the manager's block: it must end by itself."""
    raised: list[BaseException] = attrs.field(factory=list[BaseException], init=False)
    """What foreign code was told: the fault as it came out of calls of the library."""
    problems: list[str] = attrs.field(factory=list[str], init=False)
    sessions: list[Session] = attrs.field(factory=list[Session], init=False)
    clients: list[Peer] = attrs.field(factory=list["Peer"], init=False)
    gate: trio.Event = attrs.field(factory=trio.Event, init=False)
    handler: FaultyLogHandler = attrs.field(init=False)
    neighbours: list[Session] = attrs.field(factory=list[Session], init=False)
    event_ids: list[str] = attrs.field(factory=list[str], init=False)
    events: list[Event] = attrs.field(factory=list[Event], init=False)

    @property
    def is_interrupt(self) -> bool:
        return self.fault.kind is Kind.INTERRUPT

    @asynccontextmanager
    async def context(self, place: str, owner: str) -> AsyncIterator[str]:
        """A context with a nursery of its own, in which a task may crash."""
        self.fault.reach(f"{place}.enter")
        self.record.mark("entered", owner, place)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fault.wait, f"{place}.task")
                try:
                    yield place
                finally:
                    nursery.cancel_scope.cancel()
                    if not (self.fault.struck and self.fault.place == "held.task"):
                        self.record.mark("leaving", owner, place)  # else it leaves by itself
                    with trio.CancelScope(shield=True):
                        await trio.sleep(0.02)  # noqa: ASYNC102  # shielded, and short
        finally:
            self.record.mark("left", owner, place)
        self.fault.reach(f"{place}.leave")

    def make(self, place: str, owner: str) -> AbstractAsyncContextManager[str]:
        """Make such a context."""
        self.fault.reach(f"{place}.make")
        return self.context(place, owner)

    def lifespan(self, session: Session) -> AbstractAsyncContextManager[str]:
        return self.make("lifespan", str(session.session_id))

    def wall_clock(self) -> datetime:
        self.fault.reach("wall_clock")
        return datetime.now(UTC)

    def hooks(self) -> SessionHooks:
        async def created(session: Session) -> None:
            self.sessions.append(session)
            await trio.lowlevel.checkpoint()
            self.fault.reach("hook.created")

        async def terminated(session: Session, reason: TerminationReason) -> None:
            await trio.lowlevel.checkpoint()
            self.fault.reach("hook.terminated")

        async def state_changed(session: Session, old: SessionState, new: SessionState) -> None:
            await trio.lowlevel.checkpoint()
            self.fault.reach("hook.state_changed")

        async def failed(session: Session, error: Exception) -> None:
            await trio.lowlevel.checkpoint()
            self.fault.reach("hook.error")

        return SessionHooks(
            on_session_created=created,
            on_session_terminated=terminated,
            on_state_changed=state_changed,
            on_error=failed,
        )

    def victims(self) -> list[Session]:
        """The sessions that are there, but the neighbours."""
        return self.manager.sessions(lambda one: one not in self.neighbours)

    def web(self) -> HttpClient:
        """A client of the endpoint, which keeps events in a foreign store."""
        store = FaultyEventStore(self.fault)
        options = HttpOptions(answers="sse", event_store=store)
        return HttpClient(http_app(self.manager, options=options))

    async def read(
        self,
        client: HttpClient,
        method: str,
        message: object = None,
        headers: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Make a request, and read its response to the end."""
        async with client.stream(method, message, headers=headers) as response:
            await self._read(response)

    async def _read(self, response: Response) -> None:
        async for chunk in response._came:
            lines = chunk.decode().splitlines()
            self.event_ids += [line[4:] for line in lines if line.startswith("id: ")]

    async def live(self, act: Act) -> None:
        """The whole life of the world."""
        with suppress(trio.Cancelled):
            await self.fault.prepare()
        clocks = attrs.evolve(CLOCKS, ping_interval=5.0, cleanup_interval=0.0)
        config = SessionConfig(cleanup=clocks, wall_clock=self.wall_clock)
        async with trio.open_nursery() as self.servers:
            async with open_session_manager(
                self.application(), config=config, hooks=self.hooks()
            ) as self.manager:
                with self.manager.subscribe() as subscription:
                    await self._beside_neighbours(act, subscription)
            self.record.manager = self.manager
            # What serves clients ends with their sessions.
            await trio.sleep(1)
            self.problems += [f"{task.name} still runs" for task in self.servers.child_tasks]
            self.servers.cancel_scope.cancel()

    async def _beside_neighbours(self, act: Act, subscription: EventStream) -> None:
        neighbour = await self.connect(*HELLO, call(1, "wait"), waiting=frozenset((1,)))
        session = await self.manager.create_session()
        await session.enter_async_context(self.context("of the neighbour", "neighbour"))
        session.start_soon(self.record.work, "neighbour", "work")
        await wait_all_tasks_blocked()
        self.neighbours = self.manager.sessions()
        self.clients.clear()
        await act(self)
        await trio.sleep(0.1)
        if self.fault.stage is not Stage.LEAVING:
            ended = [one for one in self.neighbours if one.state is not SessionState.ACTIVE]
            self.problems += unless(not ended, f"neighbours have ended: {ended}")
            self.gate.set()
            await neighbour.send(request(2, "ping"))
            await trio.sleep(0.1)
            neighbour.waiting = frozenset()
            self.problems += [f"neighbour: {one}" for one in neighbour.unanswered()]
        self.clients.append(neighbour)
        self.events = events_so_far(subscription)

    def application(self) -> FaultyApplication:
        router = Router("world", "1", lifespan=self.lifespan, resource_subscriptions=True)
        boxes = HandleKind("box", lambda: self.make("opener", "box"))

        @router.tool()
        async def wait(ctx: RequestContext) -> str:
            await self.gate.wait()
            return "done"

        @router.tool()
        async def crash(ctx: RequestContext) -> str:
            raise LookupError("a tool that fails")

        @router.tool()
        async def ask(ctx: RequestContext) -> str:
            return (await ctx.elicit("?", {})).action

        @router.tool()
        async def use(ctx: RequestContext) -> None:
            box = await ctx.open_handle(boxes)
            async with ctx.use_handle(boxes, box):
                await trio.sleep_forever()

        @router.tool(task="required")
        async def toil(ctx: RequestContext) -> None:
            await trio.sleep_forever()

        @router.tool(task="required")
        async def confirm(ctx: RequestContext) -> str:
            return (await ctx.elicit("?", {})).action

        @router.tool(task="required")
        async def fail(ctx: RequestContext) -> None:
            raise LookupError("a task that fails")

        @router.tool()
        async def say(ctx: RequestContext) -> str:
            await ctx.notify("notifications/said")
            ctx.close_stream()
            return "said"

        @router.notification("notifications/heard")
        async def heard(ctx: RequestContext, params: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()

        return FaultyApplication(self.fault, router)

    # What happens.

    @contextmanager
    def told(self) -> Iterator[None]:
        """Let a call of the library raise the fault, or that the session has ended for it."""
        try:
            yield
        except BaseException as error:  # noqa: ASYNC103  # the fault is what it is about
            ours = self.fault.is_in(error)
            # The session has ended for it, or the HTTP client got no session.
            expected = (SessionError, AssertionError, KeyError)
            if self.is_interrupt or not (ours or isinstance(error, expected)):
                raise
            if ours:
                self.raised.append(error)

    async def serve(self, async_fn: Callable[[], Awaitable[object]]) -> None:
        """Run something that serves a client."""
        with self.told():
            await async_fn()

    def start_server(self, async_fn: Callable[[], Awaitable[object]], name: str) -> None:
        self.servers.start_soon(self.serve, async_fn, name=name)

    async def begin(self, stage: Stage) -> None:
        """Let a stage begin, and what it brings about happen."""
        self.fault.begin(stage)
        await trio.sleep(0.1)

    async def end(self, *sessions: Session) -> None:
        """End the victim's sessions, now or with the manager."""
        for client in self.clients:
            self.problems += client.unanswered()
        if self.fault.stage is Stage.LEAVING:
            self.fault.begin(Stage.LEAVING)
            return
        self.fault.begin(Stage.ENDING)
        for session in sessions:
            session.terminate()
        for session in sessions:
            await session.wait_terminated()

    async def connect(self, *messages: object, waiting: frozenset[object] = frozenset()) -> Peer:
        """Connect a client in memory, and let it send something.

        Args:
            *messages: What it sends.
            waiting: The requests whose answers come no sooner than at the end.
        """
        peer = Peer(await connect_memory(self.manager), waiting)
        self.clients.append(peer)
        await peer.send(*messages)
        return peer

    # What came of it.

    def judge(self, error: BaseException | None) -> Iterator[str]:
        """Return what is wrong after all has ended."""
        yield from self.problems
        yield from unless(self.fault.struck, "the fault did not strike")
        found = list(leaves(error))
        expected = self.fault.errors if self.is_interrupt else []
        if self.is_interrupt:
            # What the body makes of a session that an interrupt has ended comes out beside it.
            found = [one for one in found if not isinstance(one, (SessionTerminated, KeyError))]
        yield from (f"out came {one!r}" for one in found if one not in expected)
        yield from unless(all(one in found for one in expected), "the interrupt is lost")
        yield from self.judge_reports()
        for client in self.clients:
            yield from client.unanswered_at_the_end()
        yield from self.record.problems()
        yield from leftovers(self.manager, *self.sessions)
        yield from (
            f"{one.name!r} still runs" for one in self.manager._sessions_nursery.child_tasks
        )
        yield from (f"{one!r} is not over" for one in self.sessions if not one._finished)

    def judge_reports(self) -> Iterator[str]:
        """The fault is reported once: logged, told in an event, or raised."""
        if self.is_interrupt or self.fault.place == "log.emit":
            return  # An interrupt comes out; what cannot be logged cannot.
        is_in = self.fault.is_in
        logged = sum(is_in(one) for one in self.handler.errors())
        told = sum(
            isinstance(one, (Error, RequestFailed)) and is_in(one.error) for one in self.events
        )
        # A hook that raises refuses a session: that is what it is for, and no failure.
        least = 0 if self.fault.place == "hook.created" else 1
        # An opener's failure is one of its handle's session, and one of the handler that opens it.
        most = 2 if self.fault.place in ("opener.make", "opener.enter") else 1
        yield from unless(
            least <= max(logged, len(self.raised)) <= 1 and told <= most,
            f"logged {logged} times, told {told} times, raised {len(self.raised)} times",
        )


@final
@attrs.define(eq=False)
class Peer:
    """A client in memory, and what it has asked."""

    channel: MemoryChannel
    waiting: frozenset[object]
    asked: list[object] = attrs.field(factory=list[object], init=False)
    answered: list[object] = attrs.field(factory=list[object], init=False)
    closed: bool = attrs.field(default=False, init=False)

    async def send(self, *messages: Any) -> None:
        self.asked += [one["id"] for one in messages if "id" in one]
        try:
            await self.channel.send_batch([msgspec.json.encode(one) for one in messages])
        except trio.BrokenResourceError:
            self.closed = True  # The fault has ended it.

    def read(self) -> None:
        """Take what has come. Not a checkpoint."""
        for frame in self.channel._incoming.frames:
            assert isinstance(frame, bytes)
            message = msgspec.json.decode(frame)
            if "id" in message and "method" not in message:
                self.answered.append(message["id"])
        self.channel._incoming.frames.clear()
        self.closed |= self.channel._incoming.ended

    def unanswered(self) -> Iterator[str]:
        """What should be answered by now."""
        self.read()
        missing = set(self.asked).difference(self.waiting, self.answered)
        return unless(self.closed or not missing, f"requests {missing} are not answered")

    def unanswered_at_the_end(self) -> Iterator[str]:
        """What was never answered, on a connection that is still open."""
        self.read()
        what = f"a connection is still open; it was asked {self.asked}, told {self.answered}"
        return unless(self.closed, what)


def call(number: int, tool: str, **arguments: object) -> dict[str, Any]:
    return request(number, "tools/call", {"name": tool, "arguments": arguments})


def modern_call(number: int, tool: str) -> dict[str, Any]:
    params = {"name": tool, "arguments": {}}
    return modern(number, "tools/call", params, capabilities={"elicitation": {}})


def task_request(
    number: int, method: str, params: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    capabilities: dict[str, Any] = {"elicitation": {}, "extensions": {TASKS: {}}}
    return modern(number, method, params, capabilities=capabilities)


Act = Callable[[World], Awaitable[None]]


def strike(fault: Fault, act: Act) -> list[str]:
    """Let a fault happen while the victim acts; return what is wrong afterwards."""
    world = World(fault)
    world.handler = FaultyLogHandler(fault)
    logger.addHandler(world.handler)
    try:
        outcome = run_watched(partial(world.live, act))
    finally:
        logger.removeHandler(world.handler)
    late = unless(outcome.seconds <= 2 * LONGEST, f"it takes {outcome.seconds:.0f} s")
    return ["it hangs"] if outcome.hung else [*late, *world.judge(outcome.error)]


# Victims.


async def own_session(world: World) -> None:
    """The application opens a session, lets it hold a context and run a task."""
    world.fault.begin(Stage.OPENING)
    owner = Principal(FaultySubject(world.fault))
    with world.told():
        session = await world.manager.create_session(
            principal=owner, lifespan=lambda _: world.make("lifespan", "victim")
        )
        world.sessions.append(session)
        with world.told():
            await session.enter_async_context(world.context("held", "victim"))
        with world.told():
            session.start_soon(world.record.work, "victim", "work")
            session.start_soon(world.fault.wait, "task")
        await world.begin(Stage.WORKING)
        with world.told():
            _ = session.metrics
        with world.told():
            asker = Principal(FaultySubject(world.fault))
            world.manager.get_session(session.session_id, principal=asker)
        await world.end(session)


async def legacy_client(world: World) -> None:
    """A client of 2025-11-25 calls tools, one of which waits, one asks, and one uses a handle."""
    world.fault.begin(Stage.OPENING)
    peer = await world.connect(*HELLO, waiting=frozenset((1, 2, 3)))
    await trio.sleep(0.1)
    await peer.send(call(1, "wait"))
    await world.begin(Stage.WORKING)
    await peer.send(
        call(2, "ask"),
        call(3, "use"),
        call(4, "crash"),
        request(5, "unknown"),
        notification("notifications/heard"),
    )
    await trio.sleep(0.1)
    await world.end(*world.victims())


async def modern_client(world: World) -> None:
    """A client of 2026-07-28 on a pipe discovers, listens, and is asked something."""
    world.fault.begin(Stage.OPENING)
    peer = await world.connect(modern(1, "server/discover"), waiting=frozenset((2, 4, 6)))
    await world.begin(Stage.WORKING)
    await peer.send(
        modern_call(2, "wait"),
        modern_call(3, "ask"),
        modern(4, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
        modern(5, "tools/list"),
        modern_call(6, "use"),
        modern_call(7, "crash"),
    )
    await trio.sleep(0.1)
    await world.end(*world.victims())


async def task_client(world: World) -> None:
    """A client of 2026-07-28 on a pipe whose calls become tasks, which it listens to."""
    world.fault.begin(Stage.OPENING)
    peer = await world.connect(task_request(1, "server/discover"), waiting=frozenset((9,)))
    await world.begin(Stage.WORKING)
    tools = ("toil", "confirm", "fail")
    params = [{"name": tool, "arguments": {}} for tool in tools]
    await peer.send(*(task_request(2 + at, "tools/call", one) for at, one in enumerate(params)))
    await trio.sleep(0.1)
    ids = [one.task_id for one in world.manager.list_tasks()]
    about = [("tasks/cancel", one) for one in ids[:1]] + [("tasks/get", one) for one in ids]
    await peer.send(
        task_request(9, "subscriptions/listen", {"notifications": {"taskIds": ids}}),
        *(task_request(10 + at, what, {"taskId": one}) for at, (what, one) in enumerate(about)),
    )
    await trio.sleep(0.1)
    await world.end(*world.victims())


async def http_client(world: World) -> None:
    """A client of 2025-11-25 over HTTP has streams, loses one, and resumes the rest."""
    web = world.web()
    world.fault.begin(Stage.OPENING)
    with world.told():
        client = await web.initialize()
        world.start_server(partial(world.read, client, "GET"), "GET")
        await trio.sleep(0.1)
        world.start_server(partial(world.read, client, "POST", call(1, "wait")), "POST 1")
        await world.begin(Stage.WORKING)
        world.manager.notify_list_changed("tools")
        world.start_server(partial(world.read, client, "POST", call(2, "say")), "POST 2")
        await trio.sleep(0.1)
        last = world.event_ids[-1] if world.event_ids else "none"  # The store may keep nothing.
        back = {"last-event-id": last}
        world.start_server(partial(world.read, client, "GET", headers=back), "GET again")
        await trio.sleep(0.1)
        await world.end(*world.victims())


async def modern_http_client(world: World) -> None:
    """A client of 2026-07-28 over HTTP: each of its requests is stateless."""
    web = world.web()
    await world.begin(Stage.OPENING)
    await world.begin(Stage.WORKING)
    for message in (
        modern(1, "server/discover"),
        modern_call(2, "wait"),
        modern_call(3, "ask"),
        modern_call(4, "crash"),
        modern(5, "tools/list"),
        modern(6, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
    ):
        headers = headers_of(message)
        server = partial(world.read, web, "POST", message, headers=headers)
        world.start_server(server, f"POST {message['id']}")
    await trio.sleep(0.2)
    await world.end(*world.victims())


async def outlet_client(world: World) -> None:
    """A client of a transport that others wrote, by `accept`."""
    outlet = FaultyOutlet(world.fault)
    world.fault.begin(Stage.OPENING)
    with world.told():
        session = await accept(world.manager, outlet, transport=Transport("foreign"))
        for message in (*HELLO, call(1, "wait"), call(2, "say")):
            receive(session, msgspec.json.encode(message), outlet)
        await world.begin(Stage.WORKING)
        receive(session, msgspec.json.encode(call(3, "ask")), outlet)
        receive(session, msgspec.json.encode(call(4, "wait")), outlet)
        receive(session, msgspec.json.encode(cancelled(4)), outlet)
        session.notify_nowait("notifications/said")
        await trio.sleep(0.1)
        await world.end(session)


async def quiet_outlet_client(world: World) -> None:
    """A client of such a transport that says nothing, and is pinged."""
    outlet = FaultyOutlet(world.fault)
    session = await accept(world.manager, outlet, transport=Transport("foreign"))
    for message in HELLO:
        receive(session, msgspec.json.encode(message), outlet)
    await world.begin(Stage.WORKING)
    await trio.sleep(6)
    await world.end(session)


async def channel_client(world: World) -> None:
    """A client on a channel that others wrote."""
    ours, theirs = memory_channel_pair()
    peer = Peer(ours, frozenset((1,)))
    world.clients.append(peer)
    channel = FaultyChannel(world.fault, theirs)
    world.fault.begin(Stage.OPENING)
    world.start_server(partial(serve_channel, world.manager, channel), "serve_channel")
    await peer.send(*HELLO, call(1, "wait"))
    await world.begin(Stage.WORKING)
    await peer.send(call(2, "crash"))
    await trio.sleep(0.1)
    await world.end(*world.victims())
