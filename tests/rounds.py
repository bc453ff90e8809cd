"""Clients of 2026-07-28 that are asked and retry: over pipes and HTTP, of any principal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, final

import attrs
import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import MODERN, PREFIX, cancelled, connect, leftovers, request
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import headers_of
from trio_mcp_session import (
    Application,
    CleanupConfig,
    Error,
    Principal,
    RequestStateKeys,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionLimits,
    SessionManager,
    http_app,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.core.errors import PeerViolation
from trio_mcp_session.core.events import Event, RequestFailed
from trio_mcp_session.sessions.event_stream import EventStream
from trio_mcp_session.testing.leaks import find_leaks
from trio_mcp_session.transports.asgi import Scope

ALL: Mapping[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
"""The capabilities of a client that can be asked anything."""

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
AWAY = 1.0
"""Seconds after which it is noticed for sure that an HTTP client has left."""


def accept(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


DECLINE = {"action": "decline"}


@final
@attrs.define(eq=False)
class Call:
    """One request, and what was received for it so far."""

    message: dict[str, Any]
    way: Way
    answer: Any = None
    """The result or the error as a message; None as long as there is none."""
    notes: list[Any] = attrs.field(factory=list[Any], init=False)
    status: int | None = attrs.field(default=None, init=False)
    """The status over HTTP."""
    ended: bool = attrs.field(default=False, init=False)
    """Whether the HTTP response has ended."""
    response: Response | None = attrs.field(default=None, init=False)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    @property
    def id(self) -> Any:
        return self.message["id"]

    @property
    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = self.answer["result"]
        return result

    @property
    def asked(self) -> dict[str, Any]:
        """What it is answered with, where those are questions."""
        assert self.result["resultType"] == "input_required", self.answer
        asked: dict[str, Any] = self.result.get("inputRequests", {})
        return asked

    @property
    def keys(self) -> set[str]:
        return set(self.asked)

    @property
    def state(self) -> str:
        state: str = self.result["requestState"]
        return state

    @property
    def text(self) -> str:
        """What a tool said."""
        assert self.result["resultType"] == "complete", self.answer
        assert not self.result.get("isError"), self.answer
        text: str = self.result["content"][0]["text"]
        return text

    @property
    def complaint(self) -> str:
        """What a tool said that failed."""
        assert self.result["isError"], self.answer
        text: str = self.result["content"][0]["text"]
        return text

    @property
    def error(self) -> tuple[int, str]:
        error = self.answer["error"]
        return error["code"], error["message"]

    @property
    def code(self) -> int:
        return self.error[0]

    async def leave(self) -> None:
        """Let the client cancel it, as it does on its way; the server knows afterwards."""
        await self.way.cancel(self)


@attrs.define(eq=False)
class Way(ABC):
    """A client, by the way that its requests take."""

    town: Town
    user: str | None
    capabilities: Mapping[str, Any] = attrs.field(default=ALL, kw_only=True)
    last_id: int = attrs.field(default=0, init=False)

    async def begin(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        request_id: object = None,
        capabilities: Mapping[str, Any] | None = None,
        **meta: Any,
    ) -> Call:
        """Send a request, and wait until all tasks are blocked."""
        if request_id is None:
            self.last_id += 1
            request_id = self.last_id
        envelope = {
            f"{PREFIX}protocolVersion": MODERN,
            f"{PREFIX}clientCapabilities": (
                self.capabilities if capabilities is None else capabilities
            ),
            "progressToken": f"token of {request_id}",
            **meta,
        }
        call = Call(request(request_id, method, {**(params or {}), "_meta": envelope}), self)
        await self.start(call)
        await wait_all_tasks_blocked()
        return call

    async def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any
    ) -> Call:
        """Call a tool. See `begin`."""
        return await self.begin("tools/call", call_of(tool, arguments), **more)

    async def retry(
        self,
        call: Call,
        answers: object = None,
        *,
        state: object = None,
        change: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Call:
        """Send a request again, with answers; ``change`` says what else is new in it."""
        params = {
            name: value
            for name, value in call.message["params"].items()
            if name not in ("_meta", "inputResponses", "requestState")
        }
        params |= {
            "requestState": call.state if state is None else state,
            **({} if answers is None else {"inputResponses": answers}),
            **(change or {}),
        }
        return await self.begin(call.message["method"], params, **more)

    @abstractmethod
    async def start(self, call: Call) -> None: ...

    @abstractmethod
    async def cancel(self, call: Call) -> None: ...


def call_of(tool: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"name": tool, "arguments": dict(arguments or {})}


@final
class Pipe(Way):
    """A connection in memory."""

    def __init__(self, town: Town, user: str | None, peer: Any) -> None:
        super().__init__(town, user)
        self.peer = peer
        self.session: Session = peer.session
        self.open: dict[Any, Call] = {}
        self.notes: list[Any] = []
        """What belongs to no call."""

    async def start(self, call: Call) -> None:
        self.open[call.id] = call
        await self.peer.send(call.message)

    async def cancel(self, call: Call) -> None:
        self.open.pop(call.id, None)
        await self.peer.send(cancelled(call.id))
        await wait_all_tasks_blocked()

    async def leave(self) -> None:
        """Close the connection."""
        await self.peer.channel.aclose()
        await wait_all_tasks_blocked()

    async def read(self) -> None:
        """Hand what comes to the calls that it is for."""
        try:
            while True:
                message = msgspec.json.decode(await self.peer.channel.receive())
                if "method" in message:
                    token = message.get("params", {}).get("progressToken")
                    found = [one.notes for one in self.open.values() if token == token_of(one)]
                    (found[0] if found else self.notes).append(message)
                else:
                    self.open.pop(message["id"]).answer = message
        except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
            pass


def token_of(call: Call) -> Any:
    return call.message["params"]["_meta"]["progressToken"]


@final
class Http(Way):
    """Requests over HTTP, each with a connection of its own."""

    async def start(self, call: Call) -> None:
        self.town.nursery.start_soon(self._run, call)

    async def cancel(self, call: Call) -> None:
        call.scope.cancel()
        await trio.sleep(AWAY)

    async def _run(self, call: Call) -> None:
        headers = headers_of(call.message)
        if self.user is not None:
            headers["x-user"] = self.user
        with call.scope:
            try:
                client = Client(self.town.app)
                async with client.stream("POST", call.message, headers=headers) as response:
                    call.response = response
                    await response.started()
                    call.status = response.status
                    await self._read(call, response)
            finally:
                call.ended = True

    @staticmethod
    async def _read(call: Call, response: Response) -> None:
        if response.headers.get("content-type") != "text/event-stream":
            call.answer = await response.json()
            return
        while call.answer is None:  # noqa: ASYNC913  # that is the last one
            message = (await response.event()).json
            if "method" in message:
                call.notes.append(message)
            else:
                call.answer = message
        assert await response.events() == []


async def authenticate(scope: Scope, headers: Mapping[str, str]) -> Principal | None:
    """Take the principal that a request names."""
    await trio.lowlevel.checkpoint()
    name = headers.get("x-user")
    return None if name is None else Principal(name)


@final
@attrs.define
class Clock:
    """A wall clock that the test turns."""

    time: datetime = datetime(2026, 11, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@final
@attrs.define(eq=False)
class Town:
    """A server, and its clients."""

    manager: SessionManager
    app: Any
    nursery: trio.Nursery
    keys: RequestStateKeys
    clock: Clock
    _subscription: EventStream
    seen: list[Session] = attrs.field(factory=list[Session], init=False)
    """Every session that was there when the test looked."""
    told: list[Event] = attrs.field(factory=list[Event], init=False)
    """The events so far, without errors."""
    errors: list[Exception] = attrs.field(factory=list[Exception], init=False)
    """What was reported, and not taken from here by the test."""
    mistakes: list[str] = attrs.field(factory=list[str], init=False)
    """What clients did wrong."""

    def http(self, user: str | None = None) -> Http:
        return Http(self, user)

    async def pipe(self, user: str | None = None, *, reads: bool = True) -> Pipe:
        """A client on a connection; one that does not read has hardly any room for messages."""
        principal = None if user is None else Principal(user)
        capacity = 4096 if reads else 1
        peer = await connect(self.manager, principal=principal, capacity=capacity)
        pipe = Pipe(self, user, peer)
        if reads:
            self.nursery.start_soon(pipe.read)
        self.look()
        return pipe

    async def way(self, kind: str, user: str | None = None) -> Way:
        """A client by ``"pipe"`` or by ``"http"``."""
        return await self.pipe(user) if kind == "pipe" else self.http(user)

    @property
    def parked(self) -> list[Session]:
        """The sessions of handlers that have asked something."""
        return self.manager.sessions(lambda session: session.kind is SessionKind.PARKED)

    @property
    def the_parked(self) -> Session:
        (session,) = self.parked
        return session

    def look(self) -> None:
        """Take what was told so far, and remember the sessions."""
        self.seen += [one for one in self.manager.sessions() if one not in self.seen]
        while True:
            try:
                event = self._subscription.receive_nowait()
            except trio.WouldBlock:
                return
            if not isinstance(event, Error | RequestFailed):
                self.told.append(event)
            elif isinstance(event.error, PeerViolation):
                self.mistakes.append(event.error.what)
            else:
                self.errors.append(event.error)

    def crash(self) -> BaseException | None:
        """Take the one error that was reported, and return its cause."""
        self.look()
        (error,) = self.errors
        self.errors.clear()
        return error.__cause__

    def check(self) -> None:
        """Check that nothing is left of what has ended. Only where nothing moves."""
        self.look()
        leaks = find_leaks(self.manager, among=self.seen)
        assert leaks == [], leaks
        assert validate_sessions(self.manager.store) == []


@asynccontextmanager
async def town(
    application: Application,
    *,
    limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
    keys: RequestStateKeys | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    clock: Clock | None = None,
    patience: float = 100_000,
) -> AsyncIterator[Town]:
    """A server whose sessions nursery is empty when the block is left."""
    keys = RequestStateKeys() if keys is None else keys
    clock = Clock() if clock is None else clock
    config = SessionConfig(
        limits=limits or SessionLimits(),
        cleanup=cleanup or CleanupConfig(),
        request_state_keys=keys,
        wall_clock=clock,
    )
    with trio.fail_after(patience):
        async with trio.open_nursery() as nursery:
            async with open_session_manager(application, config=config, hooks=hooks) as manager:
                with manager.subscribe(100_000) as subscription:
                    app = http_app(manager, authenticate=authenticate)
                    here = Town(manager, app, nursery, keys, clock, subscription)
                    yield here
                    await wait_all_tasks_blocked()
                    here.check()
                    await manager.drain(grace=0)
                    here.look()
            nursery.cancel_scope.cancel()
    assert here.errors == [], here.errors
    assert leftovers(manager, *here.seen) == []
    assert manager.sessions() == []
