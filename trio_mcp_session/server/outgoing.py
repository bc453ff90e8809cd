"""Requests to the client, such as ``ping`` or ``elicitation/create``.

Each has a deadline of its own, and only the task that sent it waits for it. If the client does not
answer, the end of the session ends the wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs
import trio
from msgspec import UNSET

from ..core.errors import McpError, NoChannel, QuestionTimeout, TooManyQuestions
from ..protocol import jsonrpc
from ..protocol.error_codes import INTERNAL_ERROR
from ..sessions.arrivals import let_arrive

if TYPE_CHECKING:
    from ..sessions.session import Session
    from .request_owner import RequestOwner
    from .sink import MessageSink


@final
@attrs.define(eq=False)
class _Question:
    answered: trio.Event = attrs.field(factory=trio.Event, init=False)
    response: jsonrpc.Response | None = attrs.field(default=None, init=False)


@final
@attrs.define(eq=False)
class OutgoingRequests:
    """The open requests to the client of one session."""

    _owner: RequestOwner
    session: Session
    _limit: int
    _open: dict[jsonrpc.RequestId, _Question] = attrs.field(
        factory=dict[jsonrpc.RequestId, _Question], init=False
    )
    _last_id: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_id(self) -> int:
        """The id of the next request."""
        return self._last_id + 1

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        sink: MessageSink,
        timeout: float,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a request to the client and wait for its answer.

        A checkpoint. When it is cancelled or times out, the client is sent
        ``notifications/cancelled``.

        Returns:
            The ``result`` of the answer.

        Raises:
            McpError: The client answered with this error.
            NoChannel: The client is not connected, and cannot reconnect; nothing was sent.
            QuestionTimeout: No answer within ``timeout`` seconds.
            TooManyQuestions: The limit on open questions is reached; nothing was sent.
            SessionTerminated: The session ended meanwhile.
        """
        if not sink.reachable:
            await trio.lowlevel.checkpoint()
            raise NoChannel
        if len(self._open) >= self._limit:
            await trio.lowlevel.checkpoint()
            raise TooManyQuestions(self._limit)
        self._last_id = question_id = self.next_id
        question = self._open[question_id] = _Question()
        told = False
        try:
            with trio.move_on_after(timeout) as clock:
                frame = jsonrpc.encode_request(question_id, method, params)
                while not (taken := self._owner.send_message(sink, frame)):
                    if taken is None:
                        raise NoChannel("sending to the client failed")
                    await sink.wait_writable()
                    self.session._check_live()
                    if not sink.reachable:
                        raise NoChannel
                told = True
                await question.answered.wait()
            if clock.cancelled_caught:
                await let_arrive(clock.deadline)  # The answer may have arrived before.
            if question.answered.is_set():
                told = False
                return self._read(question.response)
            raise QuestionTimeout(method, timeout)
        finally:
            del self._open[question_id]
            if told:
                self._take_back(question_id, sink)

    def resolve(self, response: jsonrpc.Response) -> bool:
        """Take the client's answer; return whether it answers an open request. Not a checkpoint."""
        question = self._open.get(response.id)
        if question is None or question.answered.is_set():
            return False
        question.response = response
        question.answered.set()
        return True

    def fail_all(self) -> None:
        """Wake all tasks that wait for an answer: the session ends. Not a checkpoint."""
        for question in self._open.values():
            question.answered.set()

    def _take_back(self, question_id: jsonrpc.RequestId, sink: MessageSink) -> None:
        """Send ``notifications/cancelled`` for a question, if there is room."""
        frame = jsonrpc.encode_notification("notifications/cancelled", {"requestId": question_id})
        if not self._owner.send_message(sink, frame):
            self._owner.counters.dropped += 1

    def _read(self, response: jsonrpc.Response | None) -> Any:
        if response is None:
            raise self.session._terminated()
        if response.error is UNSET:
            return response.result
        match response.error:
            case {"code": int(code), "message": str(message), **rest}:
                raise McpError(code, message, rest.get("data"))
            case _:
                raise McpError(INTERNAL_ERROR, "the client answered with a malformed error")
