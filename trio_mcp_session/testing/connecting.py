"""Connecting a client in memory, for the length of a block."""

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

    Entering and leaving are checkpoints. When it is left, the connection is dropped, and the
    block waits until the server has ended the session (in cancelled surroundings it does not).
    Requests in flight have `CleanupConfig.eof_grace` for that, so the clock has to go on. What
    the body raises comes out as it is, in no group.

    Args:
        manager: Whose client it is.
        principal: On whose behalf it speaks.
        version: The revision to ask for in the handshake; None for no handshake: then call
            `Client.initialize`, or send what you like.
        name: What the client calls itself.
        capabilities: What it declares; by default what there are functions for.
        elicit: Answers ``elicitation/create``.
        sample: Answers ``sampling/createMessage``.
        roots: The answer to ``roots/list``.
        answerers: Answers to other methods; ``ping`` is answered without one.
        capacity: Frames that may wait in each direction.
        through: Makes the server's end from one that works; `FaultyChannel`, for example.

    Raises:
        McpError: The server refused the handshake.
        ConnectionEnded: It left instead of shaking hands.
        Exception: What a function that answers the server raised, other than `McpError`. The
            body was cancelled then.
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
    # The transport is one of its own: by that the session is found.
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
