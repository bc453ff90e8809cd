"""A server and a client for tests: real objects, with short names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast, final

import attrs
import msgspec
import trio
from msgspec import UNSET
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import (
    Application,
    CleanupConfig,
    Eras,
    Error,
    Event,
    EventStream,
    InFlightRequest,
    MemoryChannel,
    MessageSink,
    Principal,
    Session,
    SessionConfig,
    SessionHooks,
    SessionLimits,
    SessionManager,
    connect_memory,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.protocol.envelope import Envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.modern import admit

LATEST = "2025-11-25"


def request(request_id: object, method: str, params: object = None) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else {**message, "params": params}


def notification(method: str, params: object = None) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "method": method}
    return message if params is None else {**message, "params": params}


def cancelled(request_id: object) -> dict[str, Any]:
    return notification("notifications/cancelled", {"requestId": request_id})


def initialize(
    request_id: object = 0,
    version: str = LATEST,
    capabilities: Mapping[str, Any] | None = None,
    name: str = "tester",
) -> dict[str, Any]:
    return request(
        request_id,
        "initialize",
        {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": name, "version": "1"},
        },
    )


def result(request_id: object, value: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": {} if value is None else value}


def error(request_id: object, code: int, message: str | None = None) -> dict[str, Any]:
    """What an error answer looks like; an id of None stands for none at all."""
    body: dict[str, Any] = {"code": code}
    if message is not None:
        body["message"] = message
    return {"jsonrpc": "2.0", **({} if request_id is None else {"id": request_id}), "error": body}


def brief(message: Any) -> Any:
    """The same message without the wording and the data of its error, to compare with `error`."""
    if isinstance(message, dict) and "error" in message:
        return {**message, "error": {"code": message["error"]["code"]}}
    return message


@final
@attrs.define(eq=False)
class Peer:
    """A client by hand, on the other end of a connection in memory."""

    channel: MemoryChannel
    session: Session

    async def send(self, *messages: object) -> None:
        """Send messages in one piece; bytes are sent as they are."""
        await self.channel.send_batch(
            [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in messages]
        )

    async def receive(self) -> Any:
        with trio.fail_after(1000):
            return msgspec.json.decode(await self.channel.receive())

    async def ask(self, request_id: object, method: str, params: object = None) -> Any:
        await self.send(request(request_id, method, params))
        return await self.receive()

    async def waiting(self) -> list[Any]:
        """Everything that comes until all tasks are blocked."""
        await wait_all_tasks_blocked()
        messages = []
        while self.channel._unread or self.channel._incoming.frames:
            messages.append(await self.receive())
        return messages

    async def establish(
        self, version: str = LATEST, capabilities: Mapping[str, Any] | None = None
    ) -> Any:
        """Do the handshake; return the result of ``initialize``."""
        await self.send(
            initialize("hello", version, capabilities), notification("notifications/initialized")
        )
        answer = await self.receive()
        await wait_all_tasks_blocked()
        return answer["result"]


@asynccontextmanager
async def serving(
    application: Application,
    *,
    limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    node: str | None = None,
) -> AsyncIterator[SessionManager]:
    """A manager whose sessions have all ended, with books that agree, when the block is left."""
    config = SessionConfig(
        limits=limits or SessionLimits(), cleanup=cleanup or CleanupConfig(), node=node
    )
    with trio.fail_after(100_000):
        async with open_session_manager(application, config=config, hooks=hooks) as manager:
            yield manager
            assert validate_sessions(manager.store) == []
    assert manager.sessions() == []
    assert manager.statistics().bytes_held == 0


async def connect(
    manager: SessionManager,
    *,
    principal: Principal | None = None,
    capacity: int = 4096,
    eras: Eras | None = None,
) -> Peer:
    """Connect a client that has not said anything yet."""
    known = set(manager.sessions())
    channel = await connect_memory(manager, principal=principal, capacity=capacity, eras=eras)
    await wait_all_tasks_blocked()
    (session,) = set(manager.sessions()) - known
    return Peer(channel, session)


@asynccontextmanager
async def talking(
    application: Application,
    *,
    version: str = LATEST,
    capabilities: Mapping[str, Any] | None = None,
    limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
) -> AsyncIterator[Peer]:
    """An established client of a server of its own."""
    async with serving(application, limits=limits, cleanup=cleanup) as manager:
        peer = await connect(manager)
        await peer.establish(version, capabilities)
        yield peer
        await peer.channel.aclose()


def errors_of(events: Iterable[object]) -> list[Exception]:
    return [event.error for event in events if isinstance(event, Error)]


def events_so_far(subscription: EventStream) -> list[Event]:
    """Take what a subscription has, without waiting for more."""
    events: list[Event] = []
    while True:
        try:
            events.append(subscription.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


@final
@attrs.define(eq=False)
class _Steps(trio.abc.Instrument):
    """Counts the steps of all tasks, and cancels a scope after so many."""

    left: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@contextmanager
def cancelled_at_step(step: int) -> Iterator[trio.CancelScope]:
    """Cancel a block after so many steps of all tasks together; 0 cancels it from the beginning.

    See `at_every_step`.
    """
    steps = _Steps(step)
    if step == 0:
        steps.scope.cancel()
    trio.lowlevel.add_instrument(steps)
    try:
        with steps.scope:
            yield steps.scope
    finally:
        trio.lowlevel.remove_instrument(steps)


async def at_every_step(attempt: Callable[[int], Awaitable[bool]]) -> int:
    """Attempt something that is cancelled after 0, 1, 2... steps, until it returns True.

    Then it was cancelled in every place where it waits. Returns how often that was.
    """
    step = 0
    while not await attempt(step):
        step += 1
    return step


def manager_of(session: Session) -> SessionManager:
    """The manager that a session lives in."""
    return cast("SessionManager", session._manager)


def admit_stateless(
    manager: SessionManager,
    message: Request,
    sink: MessageSink,
    envelope: Envelope,
    principal: Principal | None = None,
) -> InFlightRequest:
    """Hand a modern request over, as HTTP does."""
    server = server_of(manager)
    return admit(server, server.stateless, message, sink, envelope, principal)


def _left_of_client(session: Session) -> dict[str, object]:
    """What is open with the client of a session."""
    if session._connection is None:
        return {}
    client = client_of(session)
    queues = client._queues()
    return {
        f"{session!r} requests": [one for queue in queues for one in queue._active],
        f"{session!r} subscriptions": [one for queue in queues for one in queue._subscriptions],
        f"{session!r} queue": [one for queue in queues for one in queue._waiting],
        f"{session!r} workers": [one for queue in queues for one in queue._workers],
        f"{session!r} outgoing requests": client.outgoing,
        f"{session!r} initialize": client.pending,
    }


def leftovers(manager: SessionManager, *sessions: Session) -> list[str]:
    """What is still in any table, index, queue or map after ``sessions`` have ended."""
    store, admission = manager.store, manager._admission
    found = {
        "sessions": manager.sessions(),
        "principals": store._principals,
        "sessions counted by principal": store._principal_counts,
        "counted handles": store._handle_counts,
        "reservations": admission.reserved,
        "counted reservations": admission._reserved,
        "claims": admission._claimed,
        "requests without a session": server_of(manager).stateless._busy,
        "subscriptions": server_of(manager).subscriptions._table,
        "topics": server_of(manager).subscriptions._listeners,
        "subscriptions by principal": server_of(manager).subscriptions._held_by,
        "books": validate_sessions(store),
    }
    for session in sessions:
        nursery = session._nursery
        found |= {
            f"{session!r} tasks": nursery is not None and nursery.child_tasks,
            f"{session!r} guests": session._borrowers,
            f"{session!r} value": session.handle is not None and session.handle._is_open,
            f"{session!r} held contexts": session._held,
            **_left_of_client(session),
            f"{session!r} children": session._children,
            f"{session!r} early tasks": session._early_tasks,
            f"{session!r} hook calls": session._hook_calls,
            f"{session!r} subscribers": session._event_streams,
            f"{session!r} work": session.busy,
        }
    return [f"{what}: {value!r}" for what, value in found.items() if value]


class OpenOutlet:
    """What a sink of a test has besides what the test is about: its client is there."""

    connected = True
    reachable = True

    def close_stream(self, retry: float | None) -> bool:
        return False  # pragma: no cover  # part of the protocol


# Stateless requests (2026-07-28).

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"


def modern(
    request_id: object,
    method: str,
    params: Mapping[str, Any] | None = None,
    *,
    version: object = MODERN,
    capabilities: object = None,
    **meta: object,
) -> dict[str, Any]:
    """A request with an envelope; ``meta`` is what else the envelope has, without the prefix."""
    envelope = {
        "protocolVersion": version,
        "clientCapabilities": {} if capabilities is None else capabilities,
        **meta,
    }
    said = {f"{PREFIX}{name}": value for name, value in envelope.items()}
    return request(request_id, method, {**(params or {}), "_meta": said})


def modern_result(request_id: object, value: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `undressed` makes of a modern result."""
    return result(request_id, {"modern": dict(value or {})})


def undressed(message: Any) -> Any:
    """The same message; a modern result without what every one of them has, but marked as one."""
    if not isinstance(message, dict) or "resultType" not in message.get("result", ()):
        return message
    value = dict(message["result"])
    assert value.pop("resultType") == "complete"
    meta = value.pop("_meta")
    assert meta[f"{PREFIX}serverInfo"].keys() >= {"name", "version"}
    subscription = meta.get(f"{PREFIX}subscriptionId", UNSET)
    ends = {} if subscription is UNSET else {"ends": subscription}
    return {**modern_result(message["id"], value), **ends}


def told(message: Any) -> Any:
    """The same message in short, to compare with `error`, `result` and `modern_result`."""
    return undressed(brief(message))


# Subscriptions (2026-07-28).

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION_ID = f"{PREFIX}subscriptionId"


def listening(request_id: object, **wanted: object) -> dict[str, Any]:
    """A request for a subscription; ``wanted`` is its filter."""
    return modern(request_id, LISTEN, {"notifications": wanted})


def tagged(request_id: object, method: str, **params: object) -> dict[str, Any]:
    """A notification to a subscription."""
    return notification(method, {"_meta": {SUBSCRIPTION_ID: request_id}, **params})


def acknowledged(request_id: object, **honoured: object) -> dict[str, Any]:
    """What a subscription begins with."""
    return tagged(request_id, ACKNOWLEDGED, notifications=honoured)


def changed(request_id: object, what: str) -> dict[str, Any]:
    """What a subscription is told when a list has changed, or a resource of this URI."""
    if what in ("tools", "prompts", "resources"):
        return tagged(request_id, f"notifications/{what}/list_changed")
    return tagged(request_id, "notifications/resources/updated", uri=what)


def ended(request_id: object) -> dict[str, Any]:
    """What `told` makes of the result of a subscription."""
    return {**modern_result(request_id), "ends": request_id}
