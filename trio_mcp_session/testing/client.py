"""A client in this process that speaks the real protocol, to test a server with.

Nothing of the server is replaced: the client's frames go through the same reader, the same
session and the same handlers as those of any connection. What differs between the eras of the
protocol is in `client_eras`, and what differs over HTTP in `asgi_connection`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.lifecycle_states import SessionState
from ..protocol.envelope import SUBSCRIPTION_ID
from ..protocol.jsonrpc import RequestId, encode_notification
from ..protocol.methods import LISTEN
from ..protocol.revisions import LATEST_HANDSHAKE, V2026_07_28
from ..protocol.subscription_messages import ACKNOWLEDGED
from .calls import PendingRequest
from .client_answers import (
    CompletionAnswer,
    PromptAnswer,
    ResourceAnswer,
    TaskAnswer,
    ToolAnswer,
)
from .client_eras import capabilities_of
from .client_tasks import ClientTask, Listening
from .connection_errors import ConnectionEnded
from .conversation import ChannelT, Conversation

if TYPE_CHECKING:
    from ..core.log_level import LogLevel
    from ..sessions.session import Session


@final
@attrs.define(eq=False, repr=False)
class Client(Conversation[ChannelT]):
    """A client. `connect_client` and `connect_http_client` make it.

    All clients have the same calls, in both eras of the protocol, in memory and over HTTP.

    A task of its own reads the server's messages and passes them on: answers to their requests,
    questions to the functions that answer them, notifications to `notifications`.
    """

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._pending)} requests waiting"
        return f"<Client: {state}>"

    # Properties.

    @property
    def session(self) -> Session:
        """The server's session with this client.

        Raises:
            LookupError: The server has no session with this client, or it has ended. Over HTTP,
                clients of 2026-07-28 never have one.
        """
        session = self._find_session()
        if session is None:
            raise LookupError("the server has no session with this client")
        return session

    @property
    def protocol_version(self) -> str:
        """The protocol version that was agreed on.

        Raises:
            LookupError: There was no handshake yet.
        """
        if self.discover_result is not None:
            return V2026_07_28.version
        version: str = self._greeting["protocolVersion"]
        return version

    @property
    def server_capabilities(self) -> Mapping[str, Any]:
        """The capabilities that the server declared.

        Raises:
            LookupError: There was no handshake yet.
        """
        capabilities: dict[str, Any] = self._greeting["capabilities"]
        return capabilities

    @property
    def instructions(self) -> str | None:
        """The server's instructions for the model, if it has any.

        Raises:
            LookupError: There was no handshake yet.
        """
        return self._greeting.get("instructions")

    @property
    def _greeting(self) -> dict[str, Any]:
        greeting = self.initialize_result or self.discover_result
        if greeting is None:
            raise LookupError("there was no handshake")
        return greeting

    @property
    def closed(self) -> bool:
        """Whether the server has ended the connection, or this client dropped it."""
        return self._over.is_set()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, and all messages before that are processed.

        A checkpoint.
        """
        await self._over.wait()

    # Sending.

    async def initialize(
        self,
        version: str = LATEST_HANDSHAKE.version,
        *,
        name: str = "test",
        client_version: str = "1",
        capabilities: Mapping[str, Any] | None = None,
        confirm: bool = True,
    ) -> dict[str, Any]:
        """Make the handshake: ``initialize``, ``notifications/initialized``. A checkpoint.

        With ``confirm`` it returns when the server has processed the notification: from then on,
        this client gets the notifications that the server sends to all clients.

        Args:
            version: The protocol version to ask for.
            name: The client's name.
            client_version: The client's version.
            capabilities: The capabilities to declare; by default those with an answering function.
            confirm: Whether to send the notification.

        Returns:
            The server's answer.

        Raises:
            McpError: The server refused.
            ConnectionEnded: The server closed the connection.
        """
        if capabilities is None:
            declared = capabilities_of(self._answerers)
            if "roots" in declared:
                declared["roots"] = {"listChanged": True}
            capabilities = declared
        result: dict[str, Any] = await self.request(
            "initialize",
            {
                "protocolVersion": version,
                "capabilities": capabilities,
                "clientInfo": {"name": name, "version": client_version},
            },
        )
        self._note_initialize(result)
        if confirm:
            await self.notify("notifications/initialized")
            await self._wait_established()
        return result

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> Any:
        """Send a request and return the result of its answer.

        A checkpoint. When cancelled, the server is sent ``notifications/cancelled``.

        Args:
            method: The request's method.
            params: Its parameters.
            progress: Whether to ask for progress notifications.

        Raises:
            McpError: The answer is an error.
            ConnectionEnded: The connection was closed before the answer.
            HttpRefused: The HTTP response does not contain an answer.
        """
        pending = await self.start_request(method, params, progress=progress)
        try:
            return await pending.wait()
        except trio.Cancelled:
            pending.cancel()
            raise

    async def start_request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> PendingRequest:
        """Send a request without waiting for its answer.

        A checkpoint; it waits while the server does not read. When cancelled, nothing was sent.
        Arguments as for `request`.

        Raises:
            ConnectionEnded: The connection is over.
        """
        pending = self._new_request(method, params, progress=progress)
        try:
            await self.send_raw(pending._encode(self._era.prepare(params)))
        except BaseException:
            self._pending.pop(pending.id, None)  # The connection has ended before.
            raise
        return pending

    def _new_request(
        self, method: str, params: Mapping[str, Any] | None, *, progress: bool = False
    ) -> PendingRequest:
        request_id = next(self._ids)
        pending: PendingRequest = PendingRequest._create(
            request_id, method, client=self, params=params, wants_progress=progress
        )
        self._pending[request_id] = pending
        return pending

    def _send_soon(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a request if there is room, and forget its answer. Not a checkpoint."""
        pending = self._new_request(method, params)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._channel.send_nowait(pending._encode(self._era.prepare(params)))

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> ToolAnswer:
        """Call a tool (``tools/call``), and return its result.

        If the call becomes a task (2026-07-28), it is followed to its end, as `ClientTask.result`
        does: so the same test works with every client.

        Checkpoint, cancellation and errors are `request`'s. When cancelled, a task is cancelled,
        too, as also when a question of it is not answered.

        Raises:
            TaskCancelled: The call has become a task, and that was cancelled.
        """
        result = await self._call(name, arguments, progress=progress)
        if not _is_task(result):
            return ToolAnswer._read(result)
        task = self._task_of(result)
        try:
            return await task.result()
        except BaseException:
            task._abandon()
            raise

    async def start_task(self, name: str, arguments: Mapping[str, Any] | None = None) -> ClientTask:
        """Call a tool, and return the task that the call becomes (2026-07-28).

        ::

            task = await client.start_task("build", {"target": "all"})
            await task.cancel()
            assert (await task.wait()).status is TaskStatus.CANCELLED

        Checkpoint, cancellation and errors are `request`'s.

        Raises:
            LookupError: The call has a result instead: the client does not declare the tasks
                extension, or the call of an *optional* task was over before.
        """
        result = await self._call(name, arguments)
        if not _is_task(result):
            raise LookupError(f"the call of {name!r} did not become a task: its result is {result}")
        return self._task_of(result)

    def task(self, task_id: str) -> ClientTask:
        """Return the task of an id, for example one that another connection has started.

        Not a checkpoint: the server is not asked.
        """
        return ClientTask._create(task_id, None, client=self)

    def _task_of(self, result: Mapping[str, Any]) -> ClientTask:
        created = TaskAnswer._read(result)
        return ClientTask._create(created.task_id, created, client=self)

    async def _call(
        self, name: str, arguments: Mapping[str, Any] | None, *, progress: bool = False
    ) -> dict[str, Any]:
        params = {"name": name, "arguments": arguments or {}}
        result: dict[str, Any] = await self.request("tools/call", params, progress=progress)
        return result

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return all tools, of all pages (``tools/list``).

        Checkpoints, cancellation and errors are `request`'s, here and in the other lists.
        """
        return await self._list("tools/list", "tools")

    async def list_resources(self) -> list[dict[str, Any]]:
        """Return all resources, of all pages (``resources/list``). See `list_tools`."""
        return await self._list("resources/list", "resources")

    async def list_resource_templates(self) -> list[dict[str, Any]]:
        """Return all templates, of all pages (``resources/templates/list``). See `list_tools`."""
        return await self._list("resources/templates/list", "resourceTemplates")

    async def list_prompts(self) -> list[dict[str, Any]]:
        """Return all prompts, of all pages (``prompts/list``). See `list_tools`."""
        return await self._list("prompts/list", "prompts")

    async def _list(self, method: str, member: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:  # noqa: ASYNC913  # a request is a checkpoint
            result = await self.request(method, None if cursor is None else {"cursor": cursor})
            found += result[member]
            cursor = result.get("nextCursor")
            if cursor is None:
                return found

    async def read_resource(self, uri: str) -> ResourceAnswer:
        """Read a resource (``resources/read``).

        Checkpoint, cancellation and errors are `request`'s.
        """
        result = await self.request("resources/read", {"uri": uri})
        return ResourceAnswer(contents=result["contents"])

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None
    ) -> PromptAnswer:
        """Get a prompt (``prompts/get``). Checkpoint, cancellation and errors are `request`'s."""
        result = await self.request("prompts/get", {"name": name, "arguments": arguments or {}})
        return PromptAnswer(messages=result["messages"], description=result.get("description"))

    async def complete(
        self,
        argument: str,
        value: str = "",
        *,
        prompt: str | None = None,
        template: str | None = None,
        arguments: Mapping[str, str] | None = None,
    ) -> CompletionAnswer:
        """Complete an argument of a prompt or a template (``completion/complete``).

        Checkpoint, cancellation and errors are `request`'s.

        Args:
            argument: The name of the argument.
            value: Its text so far.
            prompt: The name of the prompt.
            template: The URI template, if it is not a prompt.
            arguments: The other arguments that the user has filled in already.

        Raises:
            TypeError: Not exactly one of ``prompt`` and ``template`` is given.
        """
        if (prompt is None) is (template is None):
            raise TypeError("complete() needs either prompt= or template=")
        ref = (
            {"type": "ref/resource", "uri": template}
            if prompt is None
            else {"type": "ref/prompt", "name": prompt}
        )
        params: dict[str, Any] = {"ref": ref, "argument": {"name": argument, "value": value}}
        if arguments is not None:
            params["context"] = {"arguments": dict(arguments)}
        completion = (await self.request("completion/complete", params))["completion"]
        return CompletionAnswer(
            values=completion["values"],
            total=completion.get("total"),
            has_more=completion.get("hasMore", False),
        )

    async def set_log_level(self, level: LogLevel) -> None:
        """Choose the log messages that the server sends; they arrive in `notifications`.

        Up to 2025-11-25 a request (``logging/setLevel``); in 2026-07-28 each request names the
        level from now on, and gets the messages about itself. A checkpoint; otherwise as `request`.
        """
        await self._era.set_log_level(self, level)

    def subscribe(self, *uris: str, lists: Sequence[str] = ()) -> AbstractAsyncContextManager[None]:
        """Subscribe to changes of resources and lists for the length of an ``async with`` block.

        ::

            async with client.subscribe("notes://all", lists=["tools"]):
                await client.call_tool("add_note", {"text": "milk"})
                await client.wait_notification("notifications/resources/updated")

        Up to 2025-11-25 this is ``resources/subscribe`` for each resource (and
        ``resources/unsubscribe``, if the body does not raise); servers send changes of lists in any
        case. In 2026-07-28 it is one ``subscriptions/listen``, which is cancelled at the end.
        Entering is a checkpoint, and returns when the server has subscribed the client.

        Args:
            uris: The URIs of the resources.
            lists: ``tools``, ``prompts``, ``resources``.

        Raises:
            ValueError: The protocol does not have such a list.
            LookupError: The server did not declare that it notifies of these changes.
            McpError: The server refused.
            ConnectionEnded: The connection was closed before the answer.
        """
        return self._era.subscribe(self, uris, lists)

    @asynccontextmanager
    async def _listen(self, wanted: Mapping[str, Any]) -> AsyncIterator[Listening]:
        """Subscribe (2026-07-28) for the length of a block, which begins when that is confirmed.

        Args:
            wanted: The notifications, in the form of the protocol.
        """
        request = await self.start_request(LISTEN, {"notifications": wanted})
        try:
            await self._wait_until(
                lambda: request.done or bool(self._heard(ACKNOWLEDGED, request.id))
            )
            if request.done:
                await request.wait()  # It raises: the server refused.
            (acknowledged,) = self._heard(ACKNOWLEDGED, request.id)
            yield Listening(
                id=request.id,
                honoured=acknowledged["notifications"],
                is_over=lambda: request.done,
            )
        finally:
            request.cancel()

    async def ping(self) -> None:
        """Ping the server; 2026-07-28 has no ``ping``.

        Checkpoint, cancellation and errors are `request`'s.
        """
        await self.request("ping")

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification.

        A checkpoint; it waits while the server does not read. When cancelled, nothing was sent.

        Raises:
            ConnectionEnded: The connection is over.
        """
        await self.send_raw(encode_notification(method, self._era.prepare(params)))

    async def send_raw(self, frame: bytes) -> None:
        """Send any bytes as one frame, well-formed or not. Otherwise as `notify`."""
        try:
            await self._channel.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("the connection is over") from error

    # Receiving.

    async def wait_notification(
        self, method: str, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Wait until there is a notification, and return its parameters. A checkpoint.

        Those that are in `notifications` already count: empty that list to wait for a new one.

        Args:
            method: Its method.
            where: Returns whether these parameters are the wanted ones; by default any are.

        Raises:
            ConnectionEnded: The connection is over, and there was none.
        """

        def find() -> dict[str, Any] | None:
            found = (p for m, p in self.notifications if m == method and where(p))
            return next(found, None)

        return await self._wait_for(find, f"notification {method}")

    def _heard(self, method: str, subscription: RequestId) -> list[dict[str, Any]]:
        """Return the parameters of all notifications of a method that belong to a subscription."""
        return [
            params
            for heard, params in self.notifications
            if heard == method and params.get("_meta", {}).get(SUBSCRIPTION_ID) == subscription
        ]

    async def wait_stray(
        self, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Wait until there is an answer that belongs to no request, and return it.

        As `wait_notification`, with `strays`; it returns the whole message.
        """
        return await self._wait_for(lambda: next(filter(where, self.strays), None), "answer")

    async def _wait_established(self) -> None:
        """Wait until the server's session has left its handshake, or has ended."""
        try:
            session = self.session
        except LookupError:
            return
        with session.subscribe() as events:
            while session.state is SessionState.INITIALIZING:
                await events.receive()

    async def _wait_for(
        self, find: Callable[[], dict[str, Any] | None], what: str
    ) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        while (found := find()) is None:
            if self.closed:
                raise ConnectionEnded(f"the connection is over, and there was no {what}")
            await self._news.wait()
        return found

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, which can change when a message arrives or a request ends."""
        while not holds():
            await self._news.wait()

    # Stalling and leaving.

    def stall(self) -> None:
        """Stop reading until `resume`. Not a checkpoint."""
        if self._stalled is None:
            self._stalled = trio.Event()
            self._reading.cancel(reason="the client stalls")

    def resume(self) -> None:
        """Continue reading. Not a checkpoint."""
        if self._stalled is not None:
            self._stalled.set()
            self._stalled = None

    async def send_eof(self) -> None:
        """Close the sending direction, and continue reading. A checkpoint.

        Raises:
            RuntimeError: The client is connected over HTTP: use `drop`.
        """
        await self._channel.send_eof()

    def drop(self) -> None:
        """Close both directions, as when the client's process dies. Not a checkpoint."""
        self._channel.close()
        self.resume()
        self._end()


def _is_task(result: Mapping[str, Any]) -> bool:
    return result.get("resultType") == "task"
