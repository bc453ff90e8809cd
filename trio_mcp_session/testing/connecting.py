"""`connect_client` and `connect_http_client`: a client for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, overload

import trio

from ..core.identity import Principal
from ..core.ids import SessionKind
from ..protocol.revisions import LATEST_HANDSHAKE, STATELESS_REVISIONS, V2026_07_28
from ..server.mcp_server import server_of
from ..transports.asgi import ASGIApplication, Scope
from ..transports.channel import BatchChannel
from ..transports.http.http_app import http_app
from ..transports.memory import MemoryChannel, memory_channel_pair
from .asgi_connection import HttpConnection
from .client import Client
from .client_eras import ClientEra, LegacyEra, ModernEra
from .conversation import Answerer, ChannelT
from .links import HttpLink, Link, MemoryLink

ClientEraName: TypeAlias = Literal["legacy", "modern"]
"""What a test client speaks: 2025-11-25 or earlier, with a session; or 2026-07-28, without."""

LATEST: Final = "latest"
"""The value of ``version`` for the latest revision of the era."""

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager


async def _pong(_: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


@overload
def connect_client(
    manager: SessionManager,
    *,
    era: ClientEraName = ...,
    principal: Principal | None = ...,
    version: str | None = ...,
    name: str = ...,
    capabilities: Mapping[str, Any] | None = ...,
    elicit: Answerer | None = ...,
    sample: Answerer | None = ...,
    roots: Sequence[Mapping[str, Any]] | None = ...,
    answerers: Mapping[str, Answerer] | None = ...,
    tasks: bool = ...,
    capacity: int = ...,
) -> AbstractAsyncContextManager[Client[MemoryChannel]]: ...


@overload
def connect_client(
    manager: SessionManager,
    *,
    era: ClientEraName = ...,
    principal: Principal | None = ...,
    version: str | None = ...,
    name: str = ...,
    capabilities: Mapping[str, Any] | None = ...,
    elicit: Answerer | None = ...,
    sample: Answerer | None = ...,
    roots: Sequence[Mapping[str, Any]] | None = ...,
    answerers: Mapping[str, Answerer] | None = ...,
    tasks: bool = ...,
    capacity: int = ...,
    through: Callable[[MemoryChannel], ChannelT],
) -> AbstractAsyncContextManager[Client[ChannelT]]: ...


def connect_client(
    manager: SessionManager,
    *,
    era: ClientEraName = "legacy",
    principal: Principal | None = None,
    version: str | None = LATEST,
    name: str = "test",
    capabilities: Mapping[str, Any] | None = None,
    elicit: Answerer | None = None,
    sample: Answerer | None = None,
    roots: Sequence[Mapping[str, Any]] | None = None,
    answerers: Mapping[str, Answerer] | None = None,
    tasks: bool = True,
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
        era: What the client speaks. ``legacy``: revisions up to 2025-11-25, with a handshake.
            ``modern``: 2026-07-28; what the server asks is answered by the same functions, in
            retries. The calls of the client are the same.
        principal: The principal of the client.
        version: The protocol version to ask for in the handshake, by default the latest of the
            era; None for no handshake: then call `Client.initialize`, or send any messages.
        name: The client's name.
        capabilities: The capabilities to declare; by default those with an answering function, and
            tasks.
        elicit: Answers ``elicitation/create``.
        sample: Answers ``sampling/createMessage``.
        roots: The answer to ``roots/list``.
        answerers: Answers to other methods; ``ping`` is answered without one.
        tasks: Whether a client of 2026-07-28 declares the tasks extension, if ``capabilities`` is
            not given. `Client.call_tool` follows a task to its end, so most tests need not know.
            False to test what a client without the extension gets.
        capacity: How many frames may wait in each direction.
        through: Wraps the server's end of the connection, for example `FaultyChannel`.

    Raises:
        ValueError: ``version`` is not one of this era, or ``era`` does not exist.
        McpError: The server refused the handshake.
        ConnectionEnded: The server closed the connection during the handshake.
        Exception: An answering function raised it, other than `McpError`. The body was cancelled
            then.
    """
    speaks = _era(era, version, capabilities, tasks=tasks)
    here, there = memory_channel_pair(capacity, max_size=manager.config.limits.max_message_size)
    link = MemoryLink(manager=manager, principal=principal, channel=here, server_end=through(there))
    return _connect(link, speaks, name, _answerers(elicit, sample, roots, answerers))


def connect_http_client(
    manager: SessionManager,
    *,
    era: ClientEraName = "legacy",
    app: ASGIApplication | None = None,
    path: str = "/mcp",
    principal: Principal | None = None,
    headers: Mapping[str, str] | None = None,
    version: str | None = LATEST,
    name: str = "test",
    capabilities: Mapping[str, Any] | None = None,
    elicit: Answerer | None = None,
    sample: Answerer | None = None,
    roots: Sequence[Mapping[str, Any]] | None = None,
    answerers: Mapping[str, Answerer] | None = None,
    tasks: bool = True,
    capacity: int = 1024,
) -> AbstractAsyncContextManager[Client[HttpConnection]]:
    """Connect a client over Streamable HTTP for the length of an ``async with`` block.

    ::

        async with connect_http_client(manager, era="modern") as client:
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert client.server_end.responses[-1].status == 200

    The application is called in this process, without a socket: time may be virtual. The client
    sends the headers of its revision, opens the stream for messages of the server (GET), resumes
    streams that the server closes early, and ends its session (DELETE). `Client.server_end` has the
    statuses and headers.

    Entering and leaving are checkpoints. When the block is left, all responses are closed, and the
    block waits until the server has ended the session and all requests; if it is cancelled, the
    session is told to end, and the block does not wait. An error of the body is raised as it is.

    Args:
        manager: The manager to connect to.
        era: What the client speaks; as for `connect_client`.
        app: The application of this manager, for example `http_app` with ``authenticate``, or one
            that it is mounted in; by default `http_app` without options.
        path: The path of the endpoint.
        principal: The principal of the client; only without ``app``.
        headers: Headers of each request, such as ``Authorization``.
        version: As for `connect_client`.
        name: The client's name.
        capabilities: The capabilities to declare; by default those with an answering function, and
            tasks.
        elicit: Answers ``elicitation/create``.
        sample: Answers ``sampling/createMessage``.
        roots: The answer to ``roots/list``.
        answerers: Answers to other methods; ``ping`` is answered without one.
        tasks: Whether a client of 2026-07-28 declares the tasks extension, if ``capabilities`` is
            not given. `Client.call_tool` follows a task to its end, so most tests need not know.
            False to test what a client without the extension gets.
        capacity: How many messages may wait to be read by the client.

    Raises:
        ValueError: ``version`` is not one of this era, ``era`` does not exist, or there are both
            ``app`` and ``principal``.
        McpError: The server refused the handshake.
        HttpRefused: It did so with an HTTP status, for example 401.
        Exception: An answering function or the application raised it. The body was cancelled then.
    """
    speaks = _era(era, version, capabilities, tasks=tasks)
    if app is None:
        app = _app_for(manager, path, principal)
    elif principal is not None:
        raise ValueError("principal= is for the default app=: let your own authenticate the client")
    connection = HttpConnection(
        dict(headers or {}),
        app=app,
        path=path,
        capacity=capacity,
        sessions=lambda: manager.sessions(lambda one: one.kind is SessionKind.HEADER),
        parameters=lambda method, params: (
            server_of(manager).served.get().header_parameters(method, params)
        ),
    )
    return _connect(
        HttpLink(channel=connection), speaks, name, _answerers(elicit, sample, roots, answerers)
    )


def _app_for(manager: SessionManager, path: str, principal: Principal | None) -> ASGIApplication:
    """Return the default application; each request has this principal, if there is one."""
    if principal is None:
        return http_app(manager, path=path)

    async def authenticate(_scope: Scope, _headers: Mapping[str, str]) -> Principal:
        await trio.lowlevel.checkpoint()
        return principal

    return http_app(manager, path=path, authenticate=authenticate)


def _era(
    era: str, version: str | None, capabilities: Mapping[str, Any] | None, *, tasks: bool
) -> ClientEra:
    """Return the era, for a client of this revision.

    Raises:
        ValueError: The revision does not belong to the era, or the era does not exist.
    """
    if era == "modern":
        if version not in (LATEST, V2026_07_28.version):
            raise ValueError(
                f"version={version!r} is not for era='modern', which has {V2026_07_28.version} "
                "and no handshake: leave version out"
            )
        return ModernEra(capabilities=capabilities, tasks=tasks)
    if era != "legacy":
        raise ValueError(f"era must be 'legacy' or 'modern', not {era!r}")
    if version in STATELESS_REVISIONS:
        raise ValueError(
            f"version={version!r} has no handshake: for a client that speaks it, use era='modern'"
        )
    if version == LATEST:
        version = LATEST_HANDSHAKE.version
    return LegacyEra(version=version, capabilities=capabilities)


def _answerers(
    elicit: Answerer | None,
    sample: Answerer | None,
    roots: Sequence[Mapping[str, Any]] | None,
    others: Mapping[str, Answerer] | None,
) -> Mapping[str, Answerer]:
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
    return known | dict(others or {})


@asynccontextmanager
async def _connect(
    link: Link, era: ClientEra, name: str, answerers: Mapping[str, Answerer]
) -> AsyncIterator[Client[Any]]:
    client: Client[Any] = Client[Any]._create(
        link.server_end,
        find_session=link.find_session,
        channel=link.channel,
        era=era,
        answerers=answerers,
    )
    link.open(client)
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        client._run_in(nursery)
        try:
            with client._body:
                await era.connect(client, name)
                await link.connected()
                yield client
        except BaseException as raised:  # noqa: BLE001, ASYNC103  # raised again below
            error = raised
        client.drop()
        await link.close()
        nursery.cancel_scope.cancel(reason="the client left")
    if error is None:
        error = client._crash
    if error is not None:
        raise error
