"""What a session says outside of any request: to its client, and to those who subscribed to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import trio

from ..core.errors import NoChannel
from ..protocol import jsonrpc
from .interrupts import ProtectedBlock
from .scope import SessionScope
from .subscriptions import Subscribers, Subscription


@attrs.define(eq=False, repr=False)
class Speaking(SessionScope):
    """The part of a session that speaks for itself. See `Session`."""

    def subscribe(self, max_buffer: int = 64) -> AbstractContextManager[Subscription]:
        """Receive this session's events for the length of a block. Not a checkpoint.

        Args:
            max_buffer: Events that may wait; a reader that is slower misses some and is told.
                Its end, `Disconnected`, comes in any case.
        """
        return ProtectedBlock(self._subscribe(max_buffer))

    @contextmanager
    def _subscribe(self, max_buffer: int) -> Iterator[Subscription]:
        if self._subscribers is None:
            self._subscribers = Subscribers()
        with self._subscribers.subscribe(max_buffer) as subscription:
            if self._farewell is not None:
                self._subscribers.finish(self._farewell)
            yield subscription

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification to the client, outside of any request.

        A checkpoint; it waits while the client's buffer is full. When cancelled, nothing was
        sent.

        Raises:
            NoChannel: The session has no connection to its client.
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        outlet = self._channel()
        frame = jsonrpc.encode_notification(method, params)
        await trio.lowlevel.checkpoint()
        self._check_live()
        while not (taken := self._send_message(outlet, frame)):
            if taken is None:
                raise NoChannel("sending to the client failed")
            await outlet.wait_writable()
            self._check_live()
            outlet = self._channel()

    def notify_nowait(self, method: str, params: Mapping[str, Any] | None = None) -> bool:
        """Send a notification if there is room for it; count it as dropped if not.

        Not a checkpoint.

        Returns:
            Whether it was sent.

        Raises:
            NoChannel: The session has no connection to its client.
            SessionTerminated: The session ends or has ended.
        """
        self._check_live()
        return self._offer(self._channel(), jsonrpc.encode_notification(method, params))

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> Any:
        """Send a request to the client, outside of any request of its own, and await the answer.

        Clients expect only ``ping`` here (all revisions); ask everything else through the
        `RequestContext` of the request that it belongs to. A checkpoint.

        Args:
            method: The request's method.
            params: Its parameters.
            timeout: Seconds; `CleanupConfig.question_timeout` by default.

        Raises:
            NoChannel: The session has no connection to its client.
            QuestionTimeout: No answer in time; the client was told to forget it.
            McpError: The client answered with this error.
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        return await self._ask(method, params, self._channel(), timeout)
