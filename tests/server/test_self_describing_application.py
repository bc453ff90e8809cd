"""Applications that describe themselves, and answer methods that the library answers for others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from tests.helpers import serving
from trio_mcp_session import (
    CacheHint,
    HttpOptions,
    InFlightRequest,
    McpError,
    Principal,
    Revision,
    ServerInfo,
    Session,
    TerminationReason,
    http_app,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.session_methods import serve
from trio_mcp_session.testing import HttpRefused, connect_client, connect_http_client


@attrs.define(eq=False)
class OwnApplication:
    """An `Application` that is written by hand."""

    own_methods: Collection[str] = ()
    refuses: bool = False
    needs_sessions: bool = True
    handled: list[str] = attrs.field(factory=list[str])

    @property
    def server_info(self) -> ServerInfo:
        return ServerInfo(name="own", version="1")

    instructions: str | None = None

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        return {"logging": {}, "resources": {"subscribe": True}}

    def handles_request(self, method: str) -> bool:
        return True

    def header_parameters(self, method: str, params: Any) -> Mapping[str, tuple[str, ...]]:
        return {}

    def cache_hint(self, method: str) -> CacheHint:
        return CacheHint()

    def handles_notification(self, method: str) -> bool:
        return False

    async def handle(self, request: InFlightRequest) -> object:
        self.handled.append(request.method)
        return {"own": True}

    @property
    def lifespan(self) -> Any:
        return self._lifespan

    @asynccontextmanager
    async def _lifespan(self, session: Session) -> AsyncIterator[None]:
        if self.refuses:
            client_of(session).refuse_initialize(McpError(-32050, "not you"))
        yield

    def initialize_result(self, session: Session) -> Mapping[str, Any]:
        version = session.protocol_version
        return {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "changed"}}


METHODS = ("logging/setLevel", "resources/subscribe", "resources/unsubscribe")


@pytest.mark.parametrize("own", [True, False])
async def test_methods_that_an_application_answers_itself(
    own: bool, autojump_clock: MockClock
) -> None:
    application = OwnApplication(own_methods=METHODS if own else ())
    async with serving(application) as manager, connect_client(manager) as client:
        for method in METHODS:
            params = {"level": "info", "uri": "a:b"}
            result = await client.request(method, params)
            assert result == ({"own": True} if own else {})
        assert application.handled == (list(METHODS) if own else [])


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_discovery_that_an_application_answers_itself(
    connect: Any, autojump_clock: MockClock
) -> None:
    application = OwnApplication(own_methods=("server/discover",))
    async with serving(application) as manager:
        async with connect(manager, era="modern") as client:
            assert client.discover_result["own"]


class Undone(OwnApplication):
    """It does what the library would do, and takes it back."""

    async def handle(self, request: InFlightRequest) -> object:
        assert request.session is not None
        client = client_of(request.session)
        undo = serve(client, request)
        self.handled.append(f"{client.log_severity} {sorted(client.resources or ())}")
        undo()
        self.handled.append(f"{client.log_severity} {sorted(client.resources or ())}")
        request.describe_handler("the undoing", lambda request, error: {"described": True})
        raise ValueError(request.handler_name)


async def test_what_a_session_method_has_changed_is_taken_back(autojump_clock: MockClock) -> None:
    application = Undone(own_methods=METHODS)
    async with serving(application) as manager, connect_client(manager) as client:
        for method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
            result = await client.request(method, {"level": "error", "uri": "a:b"})
            assert result == {"described": True}
        changed = ["4 []", "None []", "None ['a:b']", "None []", "None []", "None []"]
        assert application.handled == changed
        client_of(client.session).resources = {"a:b"}
        await client.request("resources/subscribe", {"uri": "a:b"})
        assert client.session.subscribed_resources == {"a:b"}
        client_of(client.session).resources = None


async def test_an_application_describes_itself_to_a_session(autojump_clock: MockClock) -> None:
    async with serving(OwnApplication()) as manager, connect_client(manager) as client:
        assert client._greeting["serverInfo"] == {"name": "changed"}
        # It has a default of its own for log messages.
        assert client_of(client.session).log_severity is None


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_a_lifespan_refuses_a_client(connect: Any, autojump_clock: MockClock) -> None:
    async with serving(OwnApplication(refuses=True)) as manager:
        with pytest.raises(McpError) as refused:
            await connect(manager).__aenter__()
        assert (refused.value.code, refused.value.message) == (-32050, "not you")
        assert manager.statistics().ended[TerminationReason.REQUESTED] == 1


@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("stateless", [True, False])
async def test_an_application_that_needs_no_sessions_has_no_notice(
    needs: bool,
    stateless: bool,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async with serving(OwnApplication(needs_sessions=needs)) as manager:
        app = http_app(manager, options=HttpOptions(stateless=stateless))
        era: Any = "legacy" if stateless else "modern"
        async with connect_http_client(manager, era=era, app=app) as client:
            await client.request("acme/do")
        async with connect_client(manager, era="modern") as other:
            await other.request("acme/do")
    noticed = [one for one in caplog.records if "lifespan" in one.getMessage()]
    assert len(noticed) == needs


async def test_the_hook_of_an_application_protects_its_endpoints(
    autojump_clock: MockClock,
) -> None:
    @attrs.define(eq=False)
    class Protected(OwnApplication):
        async def authenticate(self, scope: Any, headers: Mapping[str, str]) -> Principal:
            return Principal(headers["x-user"])

    async def refuse(scope: Any, headers: Mapping[str, str]) -> Principal | None:
        return None

    async with serving(Protected()) as manager:
        async with connect_http_client(manager, headers={"x-user": "ada"}) as client:
            assert client.session.principal == Principal("ada")
        with pytest.raises(HttpRefused):  # The hook fails without the header.
            await connect_http_client(manager).__aenter__()
        app = http_app(manager, authenticate=refuse)
        async with connect_http_client(manager, app=app) as other:
            assert other.session.principal is None
