"""The protocol of applications: `Router` is one, and so is any object of that shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.helpers import (
    brief,
    connect,
    error,
    initialize,
    modern,
    modern_result,
    notification,
    result,
    serving,
    told,
)
from trio_mcp_session import Application, CacheHint, Lifespan, McpError, Router, ServerInfo

if TYPE_CHECKING:
    from trio_mcp_session.protocol.jsonrpc import Params
    from trio_mcp_session.protocol.revisions import Revision
    from trio_mcp_session.server.request import InFlightRequest


class Echo:
    """A server program without a router."""

    server_info = ServerInfo(name="echo", version="7")
    instructions: str | None = None
    lifespan: Lifespan | None = None

    def __init__(self) -> None:
        self.notified: list[str] = []

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        return {"experimental": {"version": revision.version}}

    def handles_request(self, method: str) -> bool:
        return method == "echo"

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        return {}  # pragma: no cover  # for HTTP

    def cache_hint(self, method: str) -> CacheHint:
        return CacheHint(max_age=60)

    def handles_notification(self, method: str) -> bool:
        return method == "notifications/known"

    async def handle(self, request: InFlightRequest) -> object:
        if request.method.startswith("notifications/"):
            self.notified.append(request.method)
            return None
        if request.method == "echo":
            return request.params
        raise McpError(-32601, "Method not found")


async def test_any_object_of_the_shape_is_served() -> None:
    application = Echo()
    served: Application = application
    async with serving(served) as manager:
        client = await connect(manager)
        await client.send(initialize())
        answer = await client.receive()
        assert answer["result"]["serverInfo"] == {"name": "echo", "version": "7"}
        assert answer["result"]["capabilities"] == {"experimental": {"version": "2025-11-25"}}
        await client.send(
            notification("notifications/initialized"),
            notification("notifications/known"),
            notification("notifications/unknown"),
        )
        assert await client.ask(1, "echo", {"a": [1]}) == result(1, {"a": [1]})
        assert brief(await client.ask(2, "shout")) == error(2, -32601)
        assert application.notified == ["notifications/known"]


async def test_stateless_requests_are_served_by_a_foreign_application() -> None:
    async with serving(Echo()) as manager:
        client = await connect(manager)
        await client.send(modern(1, "echo"), modern(2, "shout"), modern(3, "server/discover"))
        answers = {one["id"]: told(one) for one in await client.waiting()}
        assert answers[1] == modern_result(1, {})
        assert answers[2] == error(2, -32601)
        discovered = answers[3]["result"]["modern"]
        assert discovered["capabilities"] == {"experimental": {"version": "2026-07-28"}}
        assert (discovered["ttlMs"], discovered["cacheScope"]) == (60_000, "private")


def test_router_is_an_application() -> None:
    router: Application = Router("test", "3", instructions="Use it.")
    assert router.server_info == ServerInfo(name="test", version="3")
    assert router.instructions == "Use it."
    assert router.lifespan is None
    assert not router.handles_notification("notifications/known")
