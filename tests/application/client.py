"""A client of a router over a channel in memory, which speaks plain JSON-RPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import (
    CleanupConfig,
    HandlerCrashed,
    MemoryChannel,
    PeerViolation,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionLimits,
    SessionManager,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.protocol import jsonrpc
from trio_mcp_session.protocol.envelope import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    PROTOCOL_VERSION,
    SERVER_INFO,
    read_envelope,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.request_owner import RequestOwner

A, B, C, D = VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
M = "2026-07-28"
ERAS = (*VERSIONS, M)
"""The revisions with a handshake, and the one without."""


@attrs.define(eq=False)
class Client:
    """One connection. Answers are awaited; what comes in between is kept in ``notes``."""

    channel: MemoryChannel
    manager: SessionManager
    errors: list[Exception]
    """What the server reported and the test has not taken from here: there may be nothing left."""
    notes: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    last_id: int = 0
    greeting: Any = None
    """The result of ``initialize``, or of ``server/discover`` where there is no handshake."""
    envelope: Mapping[str, Any] | None = None
    """What each request says of its client, where there is no handshake."""

    @property
    def server(self) -> str:
        return server_of(self.manager).served.get().server_info.name

    @property
    def session(self) -> Session:
        (session,) = self.manager.sessions()
        return session

    async def send(self, message: Mapping[str, Any]) -> None:
        await self.channel.send(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.channel.receive())
        assert message.pop("jsonrpc") == "2.0"
        return message

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Send a request, and return its id without waiting for the answer."""
        self.last_id += 1
        message: dict[str, Any] = {"id": self.last_id, "method": method}
        if self.envelope is not None:
            params = dict(params or {})
            params["_meta"] = {**self.envelope, **params.get("_meta", {})}
        await self.send(message if params is None else {**message, "params": params})
        return self.last_id

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        await self.send(
            {"method": method} if params is None else {"method": method, "params": params}
        )

    async def answer_to(self, request_id: int) -> dict[str, Any]:
        """Wait for an answer; it is ``{"result": ...}`` or ``{"error": ...}``."""
        while (message := await self.receive()).get("id") != request_id or "method" in message:
            self.notes.append(message)
        del message["id"]
        return message

    async def request(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return its result, without what all results of its era have."""
        result = (await self.answer_to(await self.ask(method, params)))["result"]
        if self.envelope is not None:
            assert result.pop("resultType") == "complete"
            assert result["_meta"].pop(SERVER_INFO)["name"] == self.server
            if not result["_meta"]:
                del result["_meta"]
        return result

    async def refused(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the error that it is answered with."""
        return (await self.answer_to(await self.ask(method, params)))["error"]

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool and return the result."""
        return await self.request("tools/call", {"name": tool, "arguments": arguments})

    async def crash(self) -> BaseException | None:
        """Take the one error that the server reported: a crash of a handler, and why."""
        await wait_all_tasks_blocked()
        (error,) = self.errors
        assert isinstance(error, HandlerCrashed)
        self.errors.clear()
        return error.__cause__

    async def forgive(self) -> None:
        """Take what the server reported of this client's own mistakes, if it did."""
        await wait_all_tasks_blocked()
        self.errors[:] = [one for one in self.errors if not isinstance(one, PeerViolation)]


@asynccontextmanager
async def connected(
    router: Router,
    version: str = D,
    *,
    capabilities: Mapping[str, Any] | None = None,
    cleanup: CleanupConfig | None = None,
    limits: SessionLimits | None = None,
    capacity: int = 1024,
) -> AsyncIterator[Client]:
    """Serve a router for one client that has done the handshake, if its version has one."""
    errors: list[Exception] = []

    async def on_error(_: Session, error: Exception) -> None:
        errors.append(error)

    config = SessionConfig(cleanup=cleanup or CleanupConfig(), limits=limits or SessionLimits())
    hooks = SessionHooks(on_error=on_error)
    async with open_session_manager(router, config=config, hooks=hooks) as manager:
        channel = await connect_memory(manager, capacity=capacity)
        client = Client(channel, manager, errors)
        if version == M:
            client.envelope = envelope_of(capabilities)
            client.greeting = await client.request("server/discover")
        else:
            await _shake_hands(client, version, capabilities or {})
        yield client
        await channel.aclose()
    assert not errors, errors


async def _shake_hands(client: Client, version: str, capabilities: Mapping[str, Any]) -> None:
    client.greeting = await client.request(
        "initialize",
        {
            "protocolVersion": version,
            "capabilities": capabilities,
            "clientInfo": {"name": "client", "version": "9"},
        },
    )
    assert client.greeting["protocolVersion"] == version
    await client.notify("notifications/initialized")


def envelope_of(capabilities: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a request says of its client where there is no handshake."""
    return {
        PROTOCOL_VERSION: M,
        CLIENT_CAPABILITIES: capabilities or {},
        CLIENT_INFO: {"name": "client", "version": "9"},
    }


def context_of(params: dict[str, Any]) -> RequestContext:
    """Return the context of a request that belongs to no session."""
    request = InFlightRequest(
        cast("RequestOwner", None),
        jsonrpc.Request(1, "test", params),
        cast("Any", None),
        read_envelope({"_meta": envelope_of()}),
    )
    return RequestContext(request)
