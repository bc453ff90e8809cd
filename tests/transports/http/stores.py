"""Event stores for tests: asynchronous ones, with delays and failures where a test wants them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, final

import attrs
import trio

from trio_mcp_session.transports.http.event_store import EventLog, StoredEvent

Before: TypeAlias = Callable[[str, int, int], Awaitable[None]]
"""Awaited before each call, and before the answer of a look-up: what, the stream, the number."""


async def at_once(call: str, stream: int, number: int) -> None:
    """Wait no longer than a checkpoint."""
    await trio.lowlevel.checkpoint()


@final
@attrs.define(eq=False)
class AsyncStore:
    """A store whose methods are ``async def``. It keeps everything until the log is closed."""

    before: Before = at_once
    logs: dict[str, AsyncLog] = attrs.field(factory=dict, init=False)
    """The logs that are open."""
    calls: list[tuple[str, int, int]] = attrs.field(factory=list, init=False)
    """Every call that came to its end, in order."""

    def open_log(self, name: str) -> EventLog:
        assert name not in self.logs
        self.logs[name] = AsyncLog(self, name)
        return self.logs[name]

    def stored(self) -> dict[int, list[int]]:
        """The numbers of the stored events of each stream. There must be one log."""
        (log,) = self.logs.values()
        return {stream: [number for number, _ in events] for stream, events in log.kept.items()}


@final
@attrs.define(eq=False)
class AsyncLog:
    store: AsyncStore
    name: str
    kept: defaultdict[int, list[StoredEvent]] = attrs.field(
        factory=lambda: defaultdict(list), init=False
    )

    async def append(self, stream: int, number: int, message: bytes) -> None:
        await self.store.before("append", stream, number)
        self.store.calls.append(("append", stream, number))
        self.kept[stream].append((number, message))

    async def after(self, stream: int, number: int) -> Sequence[StoredEvent]:
        await self.store.before("after", stream, number)
        self.store.calls.append(("after", stream, number))
        found = [event for event in self.kept.get(stream, ()) if event[0] > number]
        await self.store.before("answer", stream, number)
        return found

    async def close(self) -> None:
        await self.store.before("close", 0, 0)
        self.store.calls.append(("close", 0, 0))
        del self.store.logs[self.name]
