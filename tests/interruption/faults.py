"""Faults of foreign code: what it raises, and the foreign code that raises it.

A `Fault` happens once, at one place: the first time that it is reached in a stage.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from enum import Enum
from typing import Any, Self, final

import attrs
import msgspec
import trio

from trio_mcp_session import (
    CacheHint,
    EventLog,
    Lifespan,
    MemoryChannel,
    MemoryEventStore,
    Revision,
    Router,
    ServerInfo,
)
from trio_mcp_session.protocol.jsonrpc import Params
from trio_mcp_session.server.request import InFlightRequest


class Kind(Enum):
    """What foreign code raises."""

    INTERRUPT = "interrupt"
    EXIT = "exit"
    ERROR = "error"
    GROUP = "group"
    CANCELLED = "error-beside-a-cancellation"


class Stage(Enum):
    """From when on a fault happens."""

    OPENING = "opening"
    WORKING = "working"
    ENDING = "ending"
    """The victim's session is terminated."""
    LEAVING = "leaving"
    """The manager's block is left."""


@final
@attrs.define(eq=False)
class Fault:
    """Happens once: the first time that its place is reached in its stage."""

    place: str
    stage: Stage
    kind: Kind
    armed: bool = attrs.field(default=False, init=False)
    struck: bool = attrs.field(default=False, init=False)
    errors: list[BaseException] = attrs.field(factory=list[BaseException], init=False)
    """What it raised, without groups and cancellations."""
    cancellation: trio.Cancelled | None = attrs.field(default=None, init=False)
    begun: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def prepare(self) -> None:
        """Get hold of the cancellation of an inner scope. A checkpoint."""
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                self.cancellation = cancelled
                raise

    def begin(self, stage: Stage) -> None:
        if stage is self.stage:
            self.armed = True
            self.begun.set()

    def reach(self, place: str) -> None:
        """Raise, if it is here. Not a checkpoint."""
        if self.armed and place == self.place:
            self.armed = False
            self.struck = True
            raise self._make()

    async def wait(self, place: str) -> None:
        """Raise in a task of its own, as soon as its stage has begun. A checkpoint."""
        await self.begun.wait()
        await trio.sleep(0.01)
        self.reach(place)

    def _make(self) -> BaseException:
        errors: Mapping[Kind, list[BaseException]] = {
            Kind.INTERRUPT: [KeyboardInterrupt("fault")],
            Kind.EXIT: [SystemExit(3)],
            Kind.ERROR: [ValueError("fault")],
            Kind.GROUP: [ValueError("fault"), KeyError("another")],
            Kind.CANCELLED: [ValueError("fault")],
        }
        self.errors = errors[self.kind]
        if self.kind is Kind.CANCELLED:
            assert self.cancellation is not None
            return BaseExceptionGroup("fault", [self.cancellation, *self.errors])
        if len(self.errors) > 1:
            return BaseExceptionGroup("fault", self.errors)
        return self.errors[0]

    def is_in(self, error: BaseException | None) -> bool:
        """Return whether an error is what it raised, contains it, or was caused by it."""
        seen: list[BaseException] = []
        waiting = [error]
        while waiting:
            one = waiting.pop()
            if one is not None and one not in seen:
                seen.append(one)
                waiting += [one.__cause__, one.__context__]
                waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        return any(one is mine for one in seen for mine in self.errors)


# Foreign code.


@final
class FaultySubject(str):
    """The subject of a principal whose comparison may fail."""

    __slots__ = ("fault",)

    def __new__(cls, fault: Fault) -> Self:
        subject = super().__new__(cls, "victim")
        subject.fault = fault
        return subject

    fault: Fault

    def __eq__(self, other: object) -> bool:
        self.fault.reach("principal.eq")
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        self.fault.reach("principal.hash")
        return str.__hash__(self)


@final
@attrs.define(eq=False)
class FaultyApplication:
    """A router behind foreign code."""

    fault: Fault
    router: Router

    @property
    def server_info(self) -> ServerInfo:
        self.fault.reach("application.server_info")
        return self.router.server_info

    @property
    def instructions(self) -> str | None:
        self.fault.reach("application.instructions")
        return self.router.instructions

    @property
    def lifespan(self) -> Lifespan | None:
        self.fault.reach("application.lifespan")
        return self.router.lifespan

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        self.fault.reach("application.capabilities")
        return self.router.capabilities(revision)

    def handles_request(self, method: str) -> bool:
        self.fault.reach("application.handles_request")
        return self.router.handles_request(method)

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        self.fault.reach("application.header_parameters")
        return self.router.header_parameters(method, params)

    def cache_hint(self, method: str) -> CacheHint:
        self.fault.reach("application.cache_hint")
        return self.router.cache_hint(method)

    def handles_notification(self, method: str) -> bool:
        self.fault.reach("application.handles_notification")
        return self.router.handles_notification(method)

    async def handle(self, request: InFlightRequest) -> object:
        self.fault.reach("application.handle")
        try:
            return await self.router.handle(request)
        finally:
            self.fault.reach("application.handle.leave")


@final
@attrs.define(eq=False)
class _EventLog:
    fault: Fault
    log: EventLog

    def append(self, stream: int, number: int, message: bytes) -> Awaitable[object] | None:
        self.fault.reach("event_log.append")
        return self.log.append(stream, number, message)

    def after(
        self, stream: int, number: int
    ) -> Sequence[tuple[int, bytes]] | Awaitable[Sequence[tuple[int, bytes]]]:
        self.fault.reach("event_log.after")
        return self.log.after(stream, number)

    def close(self) -> None:
        try:
            self.fault.reach("event_log.close")
        finally:
            assert self.log.close() is None


@final
@attrs.define(eq=False)
class FaultyEventStore:
    fault: Fault
    store: MemoryEventStore = attrs.field(factory=MemoryEventStore, init=False)

    def open_log(self, name: str) -> EventLog:
        self.fault.reach("event_store.open_log")
        return _EventLog(self.fault, self.store.open_log(name))


@final
@attrs.define(eq=False)
class FaultyOutlet:
    """The way to a client of a transport that others wrote."""

    fault: Fault
    answered: list[int] = attrs.field(factory=list[int], init=False)
    finished: bool = attrs.field(default=False, init=False)
    full: bool = attrs.field(default=False, init=False)

    @property
    def connected(self) -> bool:
        self.fault.reach("outlet.connected")
        return True

    @property
    def reachable(self) -> bool:
        self.fault.reach("outlet.reachable")
        return True

    def send_result(self, frame: bytes) -> None:
        self.answered.append(msgspec.json.decode(frame)["id"])
        self.fault.reach("outlet.send_result")

    def send_no_result(self) -> None:
        self.fault.reach("outlet.send_no_result")

    def send_message(self, frame: bytes) -> bool:
        self.fault.reach("outlet.send_message")
        self.full = not self.full
        return not self.full

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        self.fault.reach("outlet.wait_writable")
        await trio.sleep(0.01)

    def close_stream(self, retry: float | None) -> bool:
        self.fault.reach("outlet.close_stream")
        return False

    async def finish(self) -> None:
        self.finished = True
        await trio.lowlevel.checkpoint()
        self.fault.reach("outlet.finish")


@final
@attrs.define(eq=False)
class FaultyChannel(trio.abc.Channel[bytes]):
    """A channel that others wrote."""

    fault: Fault
    channel: MemoryChannel

    async def receive(self) -> bytes:
        self.fault.reach("channel.receive")
        frame = await self.channel.receive()
        self.fault.reach("channel.receive.late")
        return frame

    async def send(self, value: bytes) -> None:
        await self.channel.send(value)
        self.fault.reach("channel.send")

    async def aclose(self) -> None:
        await self.channel.aclose()
        self.fault.reach("channel.aclose")


@final
class FaultyLogHandler(logging.Handler):
    """Keeps what is logged, or fails to."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.fault.reach("log.emit")

    def errors(self) -> list[BaseException]:
        """What was logged, one error a record."""
        found: list[BaseException] = []
        for record in self.records:
            args = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
            info = record.exc_info[1] if record.exc_info else None
            errors = [one for one in (info, *args) if isinstance(one, BaseException)]
            found += errors[:1]
        return found
