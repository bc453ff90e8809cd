"""Questions of a request's handler to its client: `InFlightRequest.ask`, for both eras.

Up to 2025-11-25 a question is a request in the other direction. It goes out on the stream of the
handler's own request, and the handler waits while that request stays open: see `outgoing`.

From 2026-07-28 on a question is sent as the answer to the handler's request, a result of type
``input_required``. The handler is parked until its client sends the request again, with the
answers: see `parked`. If the call has become a task, the question is a part of the task's status
instead: see `task`.

The code that asks does not depend on the era. In both eras the request's own clock
(`CleanupConfig.request_timeout`) is stopped while the client is asked; that of a task
(`CleanupConfig.task_timeout`) is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

from ..core.errors import CapabilityMissing, McpError, NoChannel, QuestionTimeout
from ..protocol.capabilities import NEEDED, is_known, needed, require
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.input_required import AskedFor, is_answer
from ..protocol.methods import MAY_ASK
from .detached import DetachedCall
from .parked import ParkedHandler

if TYPE_CHECKING:
    from .request import InFlightRequest

MethodAndParams: TypeAlias = tuple[str, Mapping[str, Any] | None]
"""One question: the method of a request to the client, and its parameters or None."""


class CannotAsk(NoChannel):
    """The method of the request cannot be answered with a question: an error of the handler."""


@final
@attrs.define(eq=False, repr=False)
class HandlerQuestions:
    """The questions of the handler of one request to its client.

    It belongs to the request that the handler was called for. A parked handler keeps it when the
    request is sent again.
    """

    _request: InFlightRequest
    _waiting: int = attrs.field(default=0, init=False)
    """How many calls wait for the client now. The request's clock runs while it is 0."""
    _time_left: float = attrs.field(default=inf, init=False)
    """The seconds left on the request's clock when it was stopped."""
    _waits_since: float = attrs.field(default=0.0, init=False)
    """When the clock was stopped last, as `trio.current_time`."""
    _waited: float = attrs.field(default=0.0, init=False)
    """The seconds for which the clock was stopped before that."""
    _parked: ParkedHandler | None = attrs.field(default=None, init=False)
    """The handler, once it has asked something from 2026-07-28 on."""
    _numbers: dict[str, int] | None = attrs.field(default=None, init=False)
    """The last number that `new_key` used, by the name before the number."""

    def __repr__(self) -> str:
        return f"<HandlerQuestions of {self._request!r}: {self._waiting} waiting>"

    @property
    def are_open(self) -> bool:
        """Whether the client is asked now."""
        return self._waiting > 0

    @property
    def time_left(self) -> float:
        """Seconds until the request times out; unchanged while the client is asked."""
        scope = self._request.scope
        if scope is None or (self._waiting and self._request.task is None):
            return self._time_left
        return scope.deadline - trio.current_time()

    @property
    def suspended_for(self) -> float:
        """Seconds for which the handler has waited for the client, until now."""
        waits = trio.current_time() - self._waits_since if self._waiting else 0.0
        return self._waited + waits

    def check_capabilities(self, questions: Iterable[MethodAndParams]) -> None:
        """Check that these requests may be sent to the client. Not a checkpoint.

        Raises:
            CapabilityMissing: The client did not declare a capability that one of them needs, or
                its revision does not have it.
            NoChannel: The client is served without a session, so it cannot be asked.
        """
        request = self._request
        if request.session is None and not request.is_modern:
            raise NoChannel(
                "the client cannot be asked: this endpoint serves requests without sessions"
            )
        revision = request.revision
        for method, params in questions:
            require(request.client, method, params)
            capability = needed(method, params)
            if capability is not None and not is_known(capability, revision):
                raise CapabilityMissing(capability)

    def new_key(self, method: str) -> str:
        """Return a key for a question without one, such as ``roots-1``. Not a checkpoint.

        The handler's questions of each capability are counted from 1.
        """
        name = NEEDED.get(method, method)
        if self._numbers is None:
            self._numbers = {}
        self._numbers[name] = number = self._numbers.get(name, 0) + 1
        return f"{name}-{number}"

    async def ask_all(
        self,
        questions: Mapping[str, MethodAndParams],
        timeout: float | None,  # noqa: ASYNC109  # the library's own clock, see `InFlightRequest.ask`
    ) -> dict[str, Any]:
        """Ask several things at once. See `InFlightRequest.ask_all`."""
        request = self._request
        self.check_capabilities(questions.values())
        if request.session is None:
            return await self._ask_in_answer(questions, timeout)
        request.session._check_live()
        return await self._ask_by_requests(questions, timeout)

    # Up to 2025-11-25.

    async def _ask_by_requests(
        self,
        questions: Mapping[str, MethodAndParams],
        timeout: float | None,  # noqa: ASYNC109  # as above
    ) -> dict[str, Any]:
        """Ask by requests to the client, all at the same time."""
        if self._request.handler_has_ended or self._request.has_answer:
            # If the client has cancelled the handler, that gets the cancellation, not the error.
            await trio.lowlevel.checkpoint()
            raise NoChannel
        answers: dict[str, Any] = {}
        failures: list[Exception] = []

        async def ask(key: str, question: MethodAndParams) -> None:
            try:
                answers[key] = await self._ask_one(question, timeout)
            except Exception as error:  # noqa: BLE001  # raised again below, without a group
                failures.append(error)
                nursery.cancel_scope.cancel(reason="another question failed")

        self._stop_clock()
        try:
            if len(questions) == 1:
                ((key, question),) = questions.items()
                return {key: await self._ask_one(question, timeout)}
            async with trio.open_nursery() as nursery:
                for key, question in questions.items():
                    nursery.start_soon(ask, key, question)
                # A checkpoint, for a loop that asks without any question.
                await trio.lowlevel.checkpoint()
        finally:
            self._resume_clock()
        if failures:
            raise failures[0]
        return answers

    async def _ask_one(
        self,
        question: MethodAndParams,
        timeout: float | None,  # noqa: ASYNC109  # as above
    ) -> Any:
        method, params = question
        answer = await self._request.owner.ask_client(self._request.sink, method, params, timeout)
        if not is_answer(method, answer):
            raise McpError(INTERNAL_ERROR, "the client answered with a malformed result")
        return answer

    # From 2026-07-28 on.

    async def _ask_in_answer(
        self,
        questions: Mapping[str, MethodAndParams],
        timeout: float | None,  # noqa: ASYNC109  # as above
    ) -> dict[str, Any]:
        """Use the answers in the request, and ask the other questions in its answer."""
        request = self._request
        if request.handler_has_ended:
            await trio.lowlevel.checkpoint()
            raise NoChannel
        answers = request.take_answers({key: method for key, (method, _) in questions.items()})
        missing = {
            key: AskedFor(method, params)
            for key, (method, params) in questions.items()
            if key not in answers
        }
        if not missing:
            await trio.lowlevel.checkpoint()
            return answers
        self._stop_clock()
        try:
            with trio.move_on_after(inf if timeout is None else timeout):
                return {**answers, **await self._park(missing)}
        finally:
            self._resume_clock()
        assert timeout is not None  # Without a return, the timeout has ended the block.
        raise QuestionTimeout(next(iter(missing.values())).method, timeout)

    async def _park(self, missing: Mapping[str, AskedFor]) -> Mapping[str, Any]:
        request = self._request
        if request.task is not None:
            return await request.task.ask(missing)
        if request.method not in MAY_ASK:
            await trio.lowlevel.checkpoint()
            raise CannotAsk(f"{request.method!r} cannot be answered with a question")
        if self._parked is None:
            if request.answered:
                await trio.lowlevel.checkpoint()
                raise NoChannel("the client has left")
            assert request.worker is not None  # The tasks that run the handler.
            request.detached = DetachedCall(request, request.worker)
            self._parked = ParkedHandler(request.detached)
        return await self._parked.ask(missing)

    # The request's own clock.

    def _stop_clock(self) -> None:
        scope = self._request.scope
        if not self._waiting:
            self._waits_since = trio.current_time()
        if not self._waiting and scope is not None and self._request.task is None:
            self._time_left = scope.deadline - self._waits_since
            scope.deadline = inf
        self._waiting += 1

    def _resume_clock(self) -> None:
        """End a call; the clock continues when no call waits."""
        self._waiting -= 1
        if self._waiting:
            return
        self._waited += trio.current_time() - self._waits_since
        request = self._request
        if request.task is not None:
            return  # Its clock was not stopped.
        # If the handler has ended, its scope may belong to another request now.
        if not request.handler_has_ended and request.scope is not None:
            request.scope.deadline = trio.current_time() + self._time_left
