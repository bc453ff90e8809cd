"""Clients of 2026-07-28 by hand, on pipes and over HTTP, and what they are served.

A client calls a tool and may be asked something; then it retries, or does not. What is between
the two is a `Conversation`. None of it is a block that a test is in: it runs on between the rules
of a state machine, and each of its phases can be its last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

import attrs
import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import modern
from tests.transports.http.modern import headers_of
from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    HandleKind,
    McpError,
    Principal,
    QuestionTimeout,
    RequestContext,
    Roots,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionLimits,
    SessionManager,
    open_session_manager,
)
from trio_mcp_session.protocol.tasks_extension import TASKS
from trio_mcp_session.testing import (
    Client,
    FaultyChannel,
    assert_no_leaks,
    connect_client,
    hang,
    refuse_cancellation,
)
from trio_mcp_session.testing.calls import PendingRequest
from trio_mcp_session.transports.asgi import ASGIApplication
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.stateless_stream import StatelessStream

from .exchange import Exchange, Spawn, authenticate
from .machine import CLOCKS, Server

STATE_TIMEOUT = 8.0
"""Seconds that a client has to retry."""
HURRY = 5.0
"""Seconds that a handler in a hurry waits for its client."""
IDLE_HANDLE, OLD_HANDLE = 6.0, 30.0
"""Seconds that a handle lives without use, and in all."""
CLINGING = 0.5
"""Seconds that handlers take to end which do not want to."""

PROMOTED_AFTER = 1.0
"""Seconds after which a call of a tool with optional tasks becomes one."""
TASK_TIMEOUT, TASK_RETENTION = 15.0, 6.0
"""Seconds that the handler of a task may take, and that its outcome is kept."""

MODERN_CLOCKS: CleanupConfig = attrs.evolve(
    CLOCKS,
    request_state_timeout=STATE_TIMEOUT,
    task_timeout=TASK_TIMEOUT,
    task_retention=TASK_RETENTION,
)

ANSWERS: Mapping[str, Any] = {
    "a": {"action": "decline"},
    "b": {"roots": []},
    "c": {"action": "cancel"},
}
"""What clients answer, by the keys of the questions."""

QUESTIONS: Mapping[str, tuple[frozenset[str], ...]] = {
    "inquire": (frozenset("a"),),
    "hurry": (frozenset("a"),),
    "cling": (frozenset("a"),),
    "borrow": (frozenset("a"),),
    "quiz": (frozenset("ab"), frozenset("c")),
    "survey": (frozenset("ab"), frozenset("c")),
    "prepare": (frozenset("a"),),
}
"""What tools ask, round by round."""

TASK_TOOLS = ("toil", "maybe", "survey", "prepare", "sulk", "burst", "protest", "flood")
"""Tools whose calls become tasks."""
TASK_RESULT = 2_000
"""Bytes of the largest outcome of a task that is kept."""

HOPELESS = {"action": "nothing that there is"}
"""An answer that is none."""

EVERYTHING: Mapping[str, Any] = {
    "toolsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["file:///a"],
}
"""What a client may subscribe to."""


def virtual_wall_clock() -> datetime:
    """The time of day, by Trio's clock: what clients carry expires in tests, too."""
    return datetime.fromtimestamp(trio.current_time(), tz=UTC)


@attrs.define(eq=False)
class ModernServer(Server):
    """A server whose tools ask, and hold handles."""

    boxes: HandleKind[None] = attrs.field(init=False)
    held: int = attrs.field(default=0, init=False)
    """How many handlers are in the middle of something that they have to leave again."""
    cancelled: int = attrs.field(default=0, init=False)
    """How many of them were cancelled."""

    def __attrs_post_init__(self) -> None:
        self.boxes = HandleKind("box", self.context, idle_timeout=IDLE_HANDLE, lifetime=OLD_HANDLE)

    def new_router(self) -> Router:
        return Router("leaks", lifespan=self.lifespan, resource_subscriptions=True)

    def router(self) -> Router:
        router = super().router()
        router.request("resources/read")(lambda ctx: hang())
        self._add_questions(router)
        self._add_handles(router)
        self._add_tasks(router)
        return router

    def _add_tasks(self, router: Router) -> None:
        @router.tool(task="required")
        async def toil(ctx: RequestContext, key: str) -> str:
            with Held(self):
                await self.gate(key).wait()
            return key

        @router.tool(task="optional", promote_after=PROMOTED_AFTER)
        async def maybe(ctx: RequestContext, key: str) -> str:
            with Held(self):
                await self.gate(key).wait()
            return key

        @router.tool(task="optional", promote_after=PROMOTED_AFTER)
        async def hasten(ctx: RequestContext, key: str, after: float) -> str:
            await trio.sleep(after)
            await ctx.become_task()
            await self.gate(key).wait()
            return key

        @router.tool(task="required")
        async def survey(ctx: RequestContext, key: str) -> str:
            with Held(self):
                await ctx.ask_all(Elicitation(key, {}, key="a"), Roots(key="b"))
                return (await ctx.elicit(key, {}, key="c")).action

        @router.tool(task="required", ask_first=True)
        async def prepare(ctx: RequestContext, key: str) -> str:
            with Held(self):
                await ctx.elicit(key, {}, key="a")
                await ctx.become_task()
                await self.gate(key).wait()
            return key

        @router.tool(task="required")
        async def sulk(ctx: RequestContext, key: str) -> str:
            try:
                await self.gate(key).wait()
            except trio.Cancelled:
                await refuse_cancellation(CLINGING)  # noqa: ASYNC102  # that is the point
                raise
            return key

        @router.tool(task="required")
        async def burst(ctx: RequestContext, key: str) -> str:
            await self.gate(key).wait()
            raise ValueError("in a task")

        @router.tool(task="required")
        async def protest(ctx: RequestContext, key: str) -> str:
            await self.gate(key).wait()
            raise McpError(1, "in a task")

        @router.tool(task="required")
        async def flood(ctx: RequestContext, key: str) -> str:
            await self.gate(key).wait()
            return "x" * TASK_RESULT

    def _add_questions(self, router: Router) -> None:
        @router.tool()
        async def inquire(ctx: RequestContext, key: str) -> str:
            with Held(self):
                return (await ctx.elicit(key, {}, key="a")).action

        @router.tool()
        async def quiz(ctx: RequestContext, key: str) -> str:
            with Held(self):
                await ctx.ask_all(Elicitation(key, {}, key="a"), Roots(key="b"))
                await self.gate(key).wait()
                return (await ctx.elicit(key, {}, key="c")).action

        @router.tool()
        async def hurry(ctx: RequestContext, key: str) -> str:
            try:
                return (await ctx.elicit(key, {}, key="a", timeout=HURRY)).action
            except QuestionTimeout:
                return "too late"

        @router.tool()
        async def cling(ctx: RequestContext, key: str) -> str:
            try:
                return (await ctx.elicit(key, {}, key="a")).action
            except trio.Cancelled:
                await refuse_cancellation(CLINGING)  # noqa: ASYNC102  # that is the point
                raise

    def _add_handles(self, router: Router) -> None:
        @router.tool(name="open")
        async def open_box(ctx: RequestContext, flavour: str) -> str:
            return await ctx.open_handle(self.boxes, flavour)

        @router.tool()
        async def use(ctx: RequestContext, box: str, key: str) -> str:
            async with ctx.use_handle(self.boxes, box):
                with Held(self):
                    await self.gate(key).wait()
            return key

        @router.tool()
        async def clutch(ctx: RequestContext, box: str, key: str) -> str:
            async with ctx.use_handle(self.boxes, box):
                try:
                    await self.gate(key).wait()
                except trio.Cancelled:
                    await refuse_cancellation(CLINGING)  # noqa: ASYNC102  # that is the point
                    raise
            return key

        @router.tool()
        async def borrow(ctx: RequestContext, box: str, key: str) -> str:
            async with ctx.use_handle(self.boxes, box):
                with Held(self):
                    return (await ctx.elicit(key, {}, key="a")).action

        @router.tool()
        async def close(ctx: RequestContext, box: str) -> str:
            return str(await ctx.close_handle(self.boxes, box))


@attrs.define(eq=False)
class Held:
    """Something that a handler has while it waits, and that has to be let go."""

    server: ModernServer

    def __enter__(self) -> None:
        self.server.held += 1

    def __exit__(self, kind: object, *_: object) -> None:
        self.server.held -= 1
        self.server.cancelled += kind is trio.Cancelled


class Call(ABC):
    """A request that was sent, as its client sees it."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether there is an answer, or will be none."""

    @property
    @abstractmethod
    def answer(self) -> dict[str, Any] | None:
        """The answer; None where there is none."""

    @abstractmethod
    async def wait_over(self) -> None:
        """Wait for that. A checkpoint."""

    @abstractmethod
    def withdraw(self) -> None:
        """Tell the server to forget it, in the way of the transport. Not a checkpoint."""

    @property
    def outcome(self) -> str:
        """What came of it, in one word."""
        answer = self.answer
        if answer is None:
            return "nothing"
        if "error" in answer:
            return str(answer["error"]["code"])
        result = answer["result"]
        if result["resultType"] == "input_required":
            return "asked"
        if result["resultType"] == "task":
            return "task"
        return "failed" if result.get("isError") else "done"

    @property
    def text(self) -> str:
        """What the tool returned, or what it says is wrong."""
        assert self.answer is not None
        return str(self.answer["result"]["content"][0]["text"])

    @property
    def state(self) -> str:
        """What its client has to bring when it retries."""
        assert self.answer is not None
        return str(self.answer["result"]["requestState"])

    @property
    def task_id(self) -> str:
        """The id of the task that it became."""
        assert self.answer is not None
        return str(self.answer["result"]["taskId"])

    @property
    def questions(self) -> frozenset[str]:
        """The keys of what its client was asked."""
        assert self.answer is not None
        return frozenset(self.answer["result"]["inputRequests"])


@attrs.define(eq=False)
class PipeCall(Call):
    """A request on a connection."""

    pending: PendingRequest
    id: Any
    client: Client[Any]

    @property
    def over(self) -> bool:
        return self.pending.done

    @property
    def answer(self) -> dict[str, Any] | None:
        return self.pending._answer

    async def wait_over(self) -> None:
        await self.pending._done.wait()

    def withdraw(self) -> None:
        self.pending.cancel()


@attrs.define(eq=False)
class HttpCall(Call):
    """A request with a response of its own."""

    exchange: Exchange

    @property
    def over(self) -> bool:
        return self.exchange.over

    @property
    def answer(self) -> dict[str, Any] | None:
        messages = self.exchange.messages
        return messages[-1] if messages and "method" not in messages[-1] else None

    async def wait_over(self) -> None:
        await self.exchange.ended.wait()

    def withdraw(self) -> None:
        self.exchange.leave()


class Asker(ABC):
    """A client of 2026-07-28, by whatever transport."""

    name: str
    """What it calls itself."""

    @abstractmethod
    async def send(self, method: str, params: Mapping[str, Any], **how: Any) -> Call:
        """Send a request. A checkpoint at most."""

    async def call(self, tool: str, arguments: Mapping[str, Any], **more: Any) -> Call:
        """Call a tool."""
        return await self.send("tools/call", {"name": tool, "arguments": arguments, **more})

    async def listen(self, wanted: Mapping[str, Any] = EVERYTHING, **how: Any) -> Call:
        """Begin to listen to changes."""
        return await self.send("subscriptions/listen", {"notifications": wanted}, **how)

    async def about_task(self, method: str, task_id: str, **more: Any) -> Call:
        """Send a request about a task."""
        return await self.send(f"tasks/{method}", {"taskId": task_id, **more})

    def params(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        capabilities: Mapping[str, Any] = {
            "elicitation": {},
            "roots": {},
            "extensions": {TASKS: {}},
        }
        info = {"name": self.name, "version": "1"}
        message = modern(0, method, params, capabilities=capabilities, clientInfo=info)
        sealed: dict[str, Any] = message["params"]
        return sealed


@attrs.define(eq=False)
class PipeAsker(Asker):
    """One that speaks on a connection."""

    client: Client[Any]
    name: str = "plain"

    async def send(self, method: str, params: Mapping[str, Any], **how: Any) -> Call:
        pending = await self.client.start_request(method, self.params(method, params))
        return PipeCall(pending, pending.id, self.client)


_ports = count(50_001)


@attrs.define(eq=False)
class HttpAsker(Asker):
    """One that makes a request of its own for everything, as a user or without one."""

    app: ASGIApplication
    spawn: Spawn
    user: str | None = None
    name: str = "plain"
    exchanges: list[Exchange] = attrs.field(factory=list, init=False)
    last_id: int = attrs.field(default=0, init=False)

    async def send(self, method: str, params: Mapping[str, Any], **how: Any) -> Call:
        self.last_id += 1
        sealed = self.params(method, params)
        message = {"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": sealed}
        headers = {
            "host": "testserver",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "x-user": self.user,
            **headers_of(message),
        }
        exchange = Exchange(
            app=self.app,
            port=next(_ports),
            method="POST",
            headers={name: text for name, text in headers.items() if text is not None},
            body=msgspec.json.encode(message),
            message_id=self.last_id,
            **how,
        )
        exchange.excused = not exchange.reads
        self.exchanges.append(exchange)
        self.spawn(exchange.run)
        return HttpCall(exchange)


@attrs.define(eq=False)
class Conversation:
    """A call of a tool that asks, and all that its client sent and received for it since."""

    tool: str
    arguments: Mapping[str, Any]
    calls: list[Call] = attrs.field(factory=list)
    states: list[str] = attrs.field(factory=list)
    """What the client was given to bring back, the latest last."""
    open: frozenset[str] = frozenset()
    """The keys of what is still to be answered."""

    async def begin(self, asker: Asker) -> Call:
        return self._sent(await asker.call(self.tool, self.arguments))

    async def come_back(
        self,
        asker: Asker,
        answers: Mapping[str, Any] | None = None,
        *,
        state: str | None = None,
    ) -> Call:
        """Call again: with the latest state, and an answer to everything, if not told otherwise."""
        if answers is None:
            answers = {key: ANSWERS[key] for key in self.open}
        return self._sent(
            await asker.call(
                self.tool,
                self.arguments,
                requestState=state or self.states[-1],
                inputResponses=answers,
            )
        )

    def hear(self, call: Call) -> str:
        """Take what came of a call, and tell it in one word."""
        if call.outcome == "asked":
            self.states.append(call.state)
            self.open = call.questions
        return call.outcome

    def _sent(self, call: Call) -> Call:
        self.calls.append(call)
        return call


@attrs.define(eq=False)
class World:
    """One manager, one endpoint, and their clients."""

    manager: SessionManager
    endpoint: Endpoint
    server: ModernServer
    nursery: trio.Nursery
    stack: AsyncExitStack
    scope: trio.CancelScope
    exchanges: list[Exchange] = attrs.field(factory=list)
    """All that came over HTTP."""
    seen: set[Session] = attrs.field(factory=set)
    """All sessions so far that were there for more than a moment."""

    async def come(self, how: str, user: str | None = None, name: str = "plain") -> Asker:
        """Let a client come, by a pipe of its own or over HTTP."""
        if how == "http":
            asker = HttpAsker(self.endpoint, self.nursery.start_soon, user, name)
            asker.exchanges = self.exchanges
            return asker
        principal = None if user is None else Principal(user)
        client = await self.stack.enter_async_context(
            connect_client(self.manager, principal=principal, version=None, through=FaultyChannel)
        )
        return PipeAsker(client, name)

    async def outcome(self, call: Call) -> str:
        """Wait until there is nothing left to do, and return what came of a call."""
        await self.settle()
        return call.outcome

    async def ask(self, asker: Asker, tool: str = "inquire", **arguments: Any) -> Conversation:
        """Let a client call a tool that asks it something."""
        talk = Conversation(tool, {"key": f"key {next(_keys)}", **arguments})
        call = await talk.begin(asker)
        await self.settle()
        assert talk.hear(call) == "asked"
        return talk

    async def answer(self, talk: Conversation, asker: Asker, *args: Any, **how: Any) -> str:
        """Let a client retry, and return what it receives."""
        call = await talk.come_back(asker, *args, **how)
        await self.settle()
        return talk.hear(call)

    async def open_box(self, asker: Asker, flavour: str = "plain") -> str:
        """Let a client open a handle."""
        call = await asker.call("open", {"flavour": flavour})
        await self.settle()
        assert call.outcome == "done"
        return call.text

    def parked(self) -> list[Session]:
        """Return the sessions of handlers that wait."""
        return self.manager.sessions(lambda session: session.kind is SessionKind.PARKED)

    async def begin_task(self, asker: Asker, tool: str = "toil", **arguments: Any) -> str:
        """Let a client call a tool that becomes a task; return the id."""
        call = await asker.call(tool, {"key": f"key {next(_keys)}", **arguments})
        await self.settle()
        assert call.outcome == "task", call.answer
        return call.task_id

    async def status(self, asker: Asker, task_id: str) -> str:
        """Ask for the status of a task."""
        call = await asker.about_task("get", task_id)
        await self.settle()
        answer = call.answer
        assert answer is not None
        return str(answer["result"]["status"] if "result" in answer else answer["error"]["code"])

    async def settle(self) -> None:
        """Wait until there is nothing left to do."""
        await wait_all_tasks_blocked()
        self.seen.update(self.manager.sessions())

    async def check(self) -> None:
        """Fail if anything is left of what is over."""
        await self.settle()
        assert watchers(self.manager) <= sum(one.running for one in self.exchanges)
        assert_no_leaks(self.manager, among=self.seen)


_keys = count(1)


@asynccontextmanager
async def world(
    limits: SessionLimits | None = None,
    clocks: CleanupConfig = MODERN_CLOCKS,
    hooks: SessionHooks | None = None,
    wall_clock: Callable[[], datetime] = virtual_wall_clock,
) -> AsyncIterator[World]:
    """A world that has to be empty when it is left."""
    server = ModernServer()
    config = SessionConfig(limits=limits or SessionLimits(), cleanup=clocks, wall_clock=wall_clock)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with (
                    open_session_manager(
                        server.router(), config=config, hooks=hooks or SessionHooks()
                    ) as manager,
                    AsyncExitStack() as stack,
                ):
                    endpoint = cast("Endpoint", http_app(manager, authenticate=authenticate))
                    here = World(manager, endpoint, server, nursery, stack, scope)
                    yield here
                    here.seen.update(manager.sessions())
            await wait_all_tasks_blocked()
            assert_no_leaks(manager, live=(), among=here.seen)
            assert manager.statistics().bytes_held == 0
            assert not manager._sessions_nursery.child_tasks
            assert not server.held
            assert not len(endpoint.ticker)
            assert not len(endpoint.stateless_ticker)
            assert all(context.entered == context.leaving for context in server.contexts)
            nursery.cancel_scope.cancel()


def watchers(manager: SessionManager) -> int:
    """Count the tasks that look whether a client is still there: each has a response to look at."""
    codes = [getattr(task.coro, "cr_code", None) for task in manager._sessions_nursery.child_tasks]
    return codes.count(StatelessStream._watch.__code__)
