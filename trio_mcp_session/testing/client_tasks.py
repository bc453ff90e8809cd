"""Tasks of a test client (2026-07-28): `ClientTask`, which `Client.start_task` makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import McpError
from ..core.ids import beginning_of
from ..core.task_info import TaskStatus
from ..protocol.jsonrpc import RequestId
from ..protocol.methods import TASKS_CANCEL, TASKS_GET, TASKS_UPDATE
from ..protocol.subscription_messages import TASK_CHANGED
from .client_answers import TaskAnswer, ToolAnswer
from .connection_errors import ConnectionEnded


@attrs.frozen(kw_only=True)
class Listening:
    """A subscription of a client that the server has acknowledged."""

    id: RequestId
    """The id of its request, which its notifications have."""

    honoured: Mapping[str, Any]
    """What the server agreed to send."""

    is_over: Callable[[], bool]
    """Returns whether it has ended."""


class TaskClient(Protocol):
    """What a task needs of its client."""

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> Any:
        """Send a request and return the result. A checkpoint."""
        ...

    def _send_soon(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a request, and forget its answer. Not a checkpoint."""
        ...

    async def _answer_of_test(
        self, method: str, params: dict[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return what the test answers to a question."""
        ...

    def _listen(self, wanted: Mapping[str, Any]) -> AbstractAsyncContextManager[Listening]:
        """Subscribe for the length of a block."""
        ...

    def _heard(self, method: str, subscription: RequestId) -> list[dict[str, Any]]:
        """Return the parameters of the notifications of a subscription so far."""
        ...

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that messages change."""
        ...


@final
@attrs.define(eq=False, repr=False)
class ClientTask(metaclass=NoPublicConstructor):
    """A task, for its client. `Client.start_task` and `Client.task` make it."""

    id: str
    """Its id."""

    latest: TaskAnswer | None
    """What the server said of it last; None before the first `get` of `Client.task`."""

    _client: TaskClient = attrs.field(alias="client")

    def __repr__(self) -> str:
        status = "not asked for yet" if self.latest is None else self.latest.status.value
        return f"<ClientTask {beginning_of(self.id)}… {status}>"

    async def get(self) -> TaskAnswer:
        """Return what it is like now (``tasks/get``).

        Checkpoint, cancellation and errors are `Client.request`'s, here and below.

        Raises:
            McpError: -32602, the server does not know the task, or it belongs to another principal.
        """
        self.latest = TaskAnswer._read(await self._client.request(TASKS_GET, {"taskId": self.id}))
        return self.latest

    async def wait(self, *statuses: TaskStatus) -> TaskAnswer:
        """Wait until it has one of these statuses, or by default a final one.

        It asks for the status at the interval that the server names. Questions are not answered.

        Raises:
            LookupError: It has ended in another way.
        """
        while True:  # noqa: ASYNC913  # a request is a checkpoint
            now = await self.get()
            if _is_wanted(now, statuses):
                return now
            await trio.sleep(now.poll_interval)

    async def answer(self, result: Mapping[str, Any], *, key: str | None = None) -> None:
        """Answer one of its questions (``tasks/update``).

        Args:
            result: The answer, such as ``{"action": "decline"}``.
            key: The key of the question; by default that of the only one that is open.

        Raises:
            LookupError: ``key`` is not given, and not exactly one question is open.
        """
        if key is None:
            open_keys = list((await self.get()).questions)
            if len(open_keys) != 1:
                raise LookupError(f"the task has {len(open_keys)} open questions: {open_keys}")
            (key,) = open_keys
        params = {"taskId": self.id, "inputResponses": {key: result}}
        await self._client.request(TASKS_UPDATE, params)

    async def cancel(self) -> None:
        """Ask the server to cancel it (``tasks/cancel``); see its status for what came of that."""
        await self._client.request(TASKS_CANCEL, {"taskId": self.id})

    async def result(self) -> ToolAnswer:
        """Wait until it has ended, and return its result.

        It asks for the status at the interval that the server names. Questions are answered by the
        functions that were given to `connect_client`. When cancelled, the task continues.

        Raises:
            McpError: It has failed with this error, or an answering function refused a question.
            TaskCancelled: It was cancelled.
        """
        while True:  # noqa: ASYNC913  # a request is a checkpoint
            now = await self.get()
            if now.status.is_final:
                return now._outcome()
            await self._answer_all(now)
            await trio.sleep(now.poll_interval)

    def listen(self) -> AbstractAsyncContextManager[TaskUpdates]:
        """Subscribe to its changes (``subscriptions/listen``) for the length of a block.

        ::

            async with task.listen() as updates:
                await task.cancel()
                await updates.wait(TaskStatus.CANCELLED)

        Entering is a checkpoint, and returns when the server has acknowledged the subscription.

        Raises:
            LookupError: The server does not know the task, or it belongs to another principal.
        """
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[TaskUpdates]:
        async with self._client._listen({"taskIds": [self.id]}) as listening:
            if self.id not in listening.honoured.get("taskIds", ()):
                raise LookupError(f"the server does not know a task {self.id!r} of this principal")
            yield TaskUpdates._create(self._client, listening)

    async def _answer_all(self, now: TaskAnswer) -> None:
        """Answer the open questions: one that has an answer is not open."""
        for key, question in now.questions.items():
            try:
                given = await self._client._answer_of_test(
                    question["method"], question.get("params", {})
                )
            except McpError:
                # A function that crashed has ended the block, which raises its error.
                await trio.lowlevel.checkpoint()  # noqa: ASYNC120
                raise
            await self.answer(given or {}, key=key)

    def _abandon(self) -> None:
        """Cancel it if it is not over, without waiting for the server."""
        if self.latest is None or not self.latest.status.is_final:
            self._client._send_soon(TASKS_CANCEL, {"taskId": self.id})


@final
@attrs.define(eq=False, repr=False)
class TaskUpdates(metaclass=NoPublicConstructor):
    """What a server has sent of a task on a subscription; see `ClientTask.listen`."""

    _client: TaskClient = attrs.field(alias="client")
    _listening: Listening = attrs.field(alias="listening")

    def __repr__(self) -> str:
        return f"<TaskUpdates: {[one.status.value for one in self.all]}>"

    @property
    def all(self) -> list[TaskAnswer]:
        """All updates so far, the oldest first: the state at the beginning, and each change."""
        return [
            TaskAnswer._read(params)
            for params in self._client._heard(TASK_CHANGED, self._listening.id)
        ]

    async def wait(self, *statuses: TaskStatus) -> TaskAnswer:
        """Wait for an update with one of these statuses, or by default a final one.

        A checkpoint. It returns the first such update since the beginning of the subscription.

        Raises:
            LookupError: The task has ended in another way.
            ConnectionEnded: The subscription has ended before.
        """

        def find() -> TaskAnswer | None:
            return next((one for one in self.all if _is_wanted(one, statuses)), None)

        await trio.lowlevel.checkpoint()
        await self._client._wait_until(lambda: find() is not None or self._listening.is_over())
        found = find()
        if found is None:
            raise ConnectionEnded("the subscription to the task has ended")
        return found


def _is_wanted(now: TaskAnswer, statuses: tuple[TaskStatus, ...]) -> bool:
    """Return whether a task has one of these statuses, or a final one if there are none.

    Raises:
        LookupError: It has another one, and it is final.
    """
    if now.status in statuses or (now.status.is_final and not statuses):
        return True
    if now.status.is_final:
        wanted = " or ".join(one.value for one in statuses)
        raise LookupError(f"the task has ended as {now.status.value}, not as {wanted}: {now}")
    return False
