"""One response that carries a stream of events, and what waits to be written on it."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import attrs
import trio

from ...protocol.sse import COMMENT, CONTENT_TYPE, encode_event
from ..asgi import Send
from .json_response import Header
from .wakeup import Wakeup

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget
    from .endpoint import Endpoint

MAX_WRITE: Final = 65536
"""The largest write of several events, in bytes: each write has to be made in memory."""

_TURNS: Final = 2
"""Turns of the loop that a handler which does not wait needs at most to answer.

Its task and the connection's are woken in one turn, in any order, so one is not always enough.
"""

SSE_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", CONTENT_TYPE),
    (b"cache-control", b"no-cache, no-transform"),
    # nginx would keep events until a buffer is full.
    (b"x-accel-buffering", b"no"),
)


Replayed: TypeAlias = tuple[bytes, str, bool]
"""A message that is sent again, the id of its event, and whether it is a result."""


class Carried(Protocol):
    """What a response carries: a stream of a session, or of one stateless request."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it is served."""
        ...

    @property
    def send_timeout(self) -> float:
        """Seconds that its client may refuse to read."""
        ...

    @property
    def budget(self) -> ByteBudget:
        """What counts the bytes that wait to be written."""
        ...

    def begin_response(self, response: SseResponse) -> None:
        """Called when a response begins. Not a checkpoint."""
        ...

    def end_response(self, response: SseResponse) -> None:
        """Called when a response has ended, for any reason. Not a checkpoint."""
        ...

    def stalled(self, response: SseResponse) -> None:
        """Called when the client has read nothing for too long. Not a checkpoint."""
        ...


@final
@attrs.define(eq=False)
class SseResponse(Wakeup):
    """The way of a stream's events to the connection that carries them now.

    The connection's task runs `run`. Other tasks add events, and end it.

    Args:
        stream: The stream, until another response takes it over.
        first: What the response begins with: proxies hold back headers without a body.
    """

    _stream: Carried
    _first: bytes
    turn: int = 0
    """The number of the GET that it answers, in the order of arrival; 0 for a POST."""
    _waiting: deque[tuple[bytes, bool]] = attrs.field(factory=deque[tuple[bytes, bool]], init=False)
    _size: int = attrs.field(default=0, init=False)
    """Bytes of what waits, and of what is being written."""
    _replay: deque[Replayed] | None = attrs.field(default=None, init=False)
    """Events that are written before what waits; they are encoded when there is room for them."""
    _replay_size: int = attrs.field(default=0, init=False)
    """Bytes of their messages."""
    _over: bool = attrs.field(default=False, init=False)
    broken: bool = attrs.field(default=False, init=False)
    """Whether its client has left before it was over."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _writing_since: float = attrs.field(default=inf, init=False)
    _last_write: float = attrs.field(factory=trio.current_time, init=False)
    _quiet_time: float = attrs.field(default=inf, init=False)
    """Seconds without a write after which a comment is written."""
    _progress: trio.Event | None = attrs.field(default=None, init=False)

    @property
    def full(self) -> bool:
        """Whether there is no room for messages."""
        return self._size >= self._stream.endpoint.manager.config.limits.max_output

    def put(self, event: bytes, *, is_result: bool = False) -> None:
        """Let an event be written. Not a checkpoint."""
        self._waiting.append((event, is_result))
        self._count(len(event))
        self.wake()

    def replay(self, events: deque[Replayed], size: int) -> None:
        """Let these events be written first. Called before `run`. Not a checkpoint.

        Args:
            events: The events.
            size: Bytes of their messages, which the budget counts already.
        """
        self._replay, self._replay_size = events, size

    def end(self) -> None:
        """Let the response end properly when all is written. Not a checkpoint."""
        self._over = True
        self.wake()
        self._made_progress()  # Senders that wait for room may find it on another connection.

    def hand_over(self) -> tuple[deque[Replayed], int, list[tuple[bytes, bool]]]:
        """Let the response end, and return what waits in it. Not a checkpoint.

        Returns:
            The events that are sent again, which the budget still counts; bytes of their messages;
            the events that come after those.
        """
        replay, size = self._replay or deque[Replayed](), self._replay_size
        self._replay, self._replay_size = None, 0
        waiting = list(self._waiting)
        self.relieve()
        return replay, size, waiting

    def relieve(self) -> None:
        """Let the response end: another one writes what waits. Not a checkpoint."""
        self._drop()
        self.end()

    def cut(self) -> None:
        """Break the response off: the client does not read, or the time is over."""
        self._scope.cancel(reason="stream is broken off")

    async def wait_for_progress(self) -> None:
        """Wait until something was written, or the response has ended. A checkpoint."""
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def tick(self, now: float) -> None:
        """Check the clocks: keep a silent stream alive, end one whose client does not read."""
        if now - self._writing_since >= self._stream.send_timeout:
            self._stream.stalled(self)
        elif self._writing_since == inf and now - self._last_write >= self._quiet_time:
            self.put(COMMENT)

    async def run(self, send: Send) -> None:
        """Write the response, until it is over or the client has left. A checkpoint."""
        ticker = self._stream.endpoint.ticker
        ticker.add(self)
        self._quiet_time = self._stream.endpoint.options.keep_alive * ticker.share()
        self._stream.begin_response(self)
        try:
            with self._scope:
                if not self.turn:
                    await self._wait_for_quick_answer()
                self._writing_since = trio.current_time()
                await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
                await self._write(send)
        except OSError:
            self.broken = True  # What the client misses waits for it where events are kept.
        finally:
            self._over = True
            ticker.discard(self)
            self._drop()
            self._made_progress()
            self._stream.end_response(self)

    async def _wait_for_quick_answer(self) -> None:
        """Let a handler that does not wait answer: its result goes out with what comes first.

        One write less, and the connection's task is not woken again.
        """
        for _ in range(_TURNS):
            if self._waiting or self._replay or self._over:
                break
            await trio.lowlevel.checkpoint()

    async def _write(self, send: Send) -> None:
        chunk = self._first
        while True:
            taken = self._take_replay() if self._replay else self._take()
            last = self._over and not (self._waiting or self._replay)
            self._writing_since = trio.current_time()
            await send({"type": "http.response.body", "body": chunk + taken, "more_body": not last})
            self._writing_since = inf
            self._last_write = trio.current_time()
            # Nothing waits any longer if another response carries the stream now.
            self._count(-min(self._size, len(taken)))
            self._made_progress()
            if last:
                return
            chunk = b""
            if not (self._waiting or self._replay or self._over):
                await self.sleep()

    def _take_replay(self) -> bytes:
        """Encode the next events that are sent again; a result by itself."""
        assert self._replay
        taken: list[bytes] = []
        size = 0
        while self._replay and size < MAX_WRITE:
            frame, event_id, is_result = self._replay[0]
            if is_result and taken:
                break
            del self._replay[0]
            self._replay_size -= len(frame)
            self._stream.budget.release(len(frame))
            taken.append(encode_event(frame, event_id))
            size += len(taken[-1])
        self._count(size)
        return b"".join(taken)

    def _drop(self) -> None:
        """Forget what is not written yet."""
        self._waiting.clear()
        self._replay = None
        if self._replay_size:
            self._stream.budget.release(self._replay_size)
            self._replay_size = 0
        self._count(-self._size)

    def _count(self, change: int) -> None:
        """Count bytes that wait, or no longer wait."""
        if change:
            self._size += change
            self._stream.budget.add(change)

    def _take(self) -> bytes:
        """Take what may be written at once: messages together, a result by itself.

        There are clients that read the result first where both come in one piece, and then do not
        know what the progress is about.
        """
        taken: list[bytes] = []
        size = 0
        while self._waiting and size < MAX_WRITE:
            event, is_result = self._waiting[0]
            if is_result and taken:
                break
            taken.append(event)
            size += len(event)
            self._waiting.popleft()
        return b"".join(taken)

    def _made_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
