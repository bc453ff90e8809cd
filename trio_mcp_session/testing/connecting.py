"""`connect_client`: a client in memory for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, overload

import trio

from ..core.identity import Principal, Transport
from ..protocol.revisions import LATEST_HANDSHAKE
from ..transports.channel import BatchChannel
from ..transports.memory import MemoryChannel, memory_channel_pair
from .client import Client
from .conversation import Answerer, ChannelT
from .faults import FaultyChannel

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager


async def _pong(_: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


@overload
def connect_client(
    manager: SessionManager,
    *,
    principal: Principal | None = ...,
    version: str | None = ...,
    name: str = ...,
    capabilities: Mapping[str, Any] | None = ...,
    elicit: Answerer | None = ...,
    sample: Answerer | None = ...,
    roots: Sequence[Mapping[str, Any]] | None = ...,
    answerers: Mapping[str, Answerer] | None = ...,
    capacity: int = ...,
) -> AbstractAsyncContextManager[Client[MemoryChannel]]: ...


@overload
def connect_client(
    manager: SessionManager,
    *,
    principal: Principal | None = ...,
    version: str | None = ...,
    name: str = ...,
    capabilities: Mapping[str, Any] | None = ...,
    elicit: Answerer | None = ...,
    sample: Answerer | None = ...,
    roots: Sequence[Mapping[str, Any]] | None = ...,
    answerers: Mapping[str, Answerer] | None = ...,
    capacity: int = ...,
    through: Callable[[MemoryChannel], ChannelT],
) -> AbstractAsyncContextManager[Client[ChannelT]]: ...


def connect_client(
    manager: SessionManager,
    *,
    principal: Principal | None = None,
    version: str | None = LATEST_HANDSHAKE.version,
    name: str = "test",
    capabilities: Mapping[str, Any] | None = None,
    elicit: Answerer | None = None,
    sample: Answerer | None = None,
    roots: Sequence[Mapping[str, Any]] | None = None,
    answerers: Mapping[str, Answerer] | None = None,
    capacity: int = 1024,
    through: Callable[[MemoryChannel], BatchChannel] = lambda end: end,
) -> AbstractAsyncContextManager[Client[Any]]:
    """Connect a client in memory for the length of an ``async with`` block.

    ::

        async with connect_client(manager) as client:
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert result.text == "3"

    Entering and leaving are checkpoints. When the block is left, the connection is closed, and the
    block waits until the server has ended the session; if it is cancelled, it does not wait.
    Requests in flight may take `CleanupConfig.eof_grace`, so the clock has to advance. An error of
    the body is raised as it is, not in a group.

    Args:
        manager: The manager to connect to.
        principal: The principal of the client.
        version: The protocol version to ask for in the handshake; None for no handshake: then call
            `Client.initialize`, or send any messages.
        name: The client's name.
        capabilities: The capabilities to declare; by default those with an answering function.
        elicit: Answers ``elicitation/create``.
        sample: Answers ``sampling/createMessage``.
        roots: The answer to ``roots/list``.
        answerers: Answers to other methods; ``ping`` is answered without one.
        capacity: How many frames may wait in each direction.
        through: Wraps the server's end of the connection, for example `FaultyChannel`.

    Raises:
        McpError: The server refused the handshake.
        ConnectionEnded: The server closed the connection during the handshake.
        Exception: An answering function raised it, other than `McpError`. The body was cancelled
            then.
    """

    async def list_roots(_: dict[str, Any]) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"roots": roots}

    own: dict[str, Answerer | None] = {
        "ping": _pong,
        "elicitation/create": elicit,
        "sampling/createMessage": sample,
        "roots/list": None if roots is None else list_roots,
    }
    known = {method: answerer for method, answerer in own.items() if answerer is not None}
    known |= answerers or {}
    return _connect(manager, principal, version, name, capabilities, known, capacity, through)


@asynccontextmanager
async def _connect(
    manager: SessionManager,
    principal: Principal | None,
    version: str | None,
    name: str,
    capabilities: Mapping[str, Any] | None,
    answerers: Mapping[str, Answerer],
    capacity: int,
    through: Callable[[MemoryChannel], BatchChannel],
) -> AsyncIterator[Client[Any]]:
    here, there = memory_channel_pair(capacity, max_size=manager.config.limits.max_message_size)
    # Each client has its own transport object, which identifies its session.
    client: Client[Any] = Client[Any]._create(
        through(there),
        manager=manager,
        transport=Transport("memory"),
        channel=here,
        answerers=answerers,
    )
    manager._start_connection_task(client._serve, principal)
    error: BaseException | None = None
    async with trio.open_nursery() as client._nursery:
        client._nursery.start_soon(client._read, name="reader of a test client")
        try:
            with client._body:
                if version is not None:
                    await client.initialize(version, name=name, capabilities=capabilities)
                yield client
        except BaseException as raised:  # noqa: BLE001, ASYNC103  # raised again below
            error = raised
        client.drop()
        if isinstance(client.server_end, FaultyChannel):
            client.server_end.resume()
        await client._served.wait()
        client._nursery.cancel_scope.cancel(reason="the client left")
    if error is None:
        error = client._crash
    if error is not None:
        raise error
