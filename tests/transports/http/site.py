"""A server with an endpoint for tests, and what its answers look like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any, final

import attrs
import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import leftovers, request, result, serving
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.scripted import stateless_leftovers
from trio_mcp_session import (
    Application,
    CleanupConfig,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionLimits,
    SessionManager,
)
from trio_mcp_session.core.ids import SessionKind
from trio_mcp_session.transports.asgi import Scope
from trio_mcp_session.transports.http.authentication import AuthenticationFailed
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app

LOCAL = {"host": "localhost:8000"}


async def bearer(scope: Scope, headers: Mapping[str, str]) -> Principal:
    """Authenticate by a token that is made of a subject and anything behind a dot."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme != "Bearer":
        raise AuthenticationFailed(www_authenticate='Bearer scope="mcp"')
    return Principal(token.partition(".")[0])


def token(subject: str) -> dict[str, str]:
    return {"authorization": f"Bearer {subject}"}


@final
class Server:
    """An application whose handlers wait until the test says so."""

    def __init__(self, **router: Any) -> None:
        self.router = Router("server", **router)
        self.may_answer = trio.Event()
        self.started: list[object] = []
        self.noted: list[str] = []
        self.router.request("echo")(self.echo)
        self.router.request("wait")(self.wait)
        self.router.request("roots")(self.roots)
        self.router.notification("notifications/initialized")(self.note)
        self.router.notification("notifications/progress")(self.note)

    async def echo(self, ctx: RequestContext) -> dict[str, Any]:
        return ctx.params

    async def wait(self, ctx: RequestContext) -> dict[str, Any]:
        self.started.append(ctx.request_id)
        await self.may_answer.wait()
        return ctx.params

    async def roots(self, ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots(timeout=inf)}

    async def note(self, ctx: RequestContext) -> None:
        self.noted.append(ctx.method)


@final
@attrs.define(eq=False)
class Site:
    """An endpoint and its manager."""

    manager: SessionManager
    app: Endpoint
    seen: list[Session] = attrs.field(factory=list)
    """Every session that was open when the test looked."""

    def client(
        self, subject: str | None = None, *, headers: Mapping[str, str] = {}, **scope: Any
    ) -> Client:
        """A client without a session; of a principal where the site knows any."""
        given = {**LOCAL, **headers, **({} if subject is None else token(subject))}
        return Client(self.app, given, {"server": ("127.0.0.1", 8000), **scope})

    async def open(
        self, subject: str | None = None, *, version: str = "2025-11-25"
    ) -> tuple[Client, Session]:
        """A client with a session."""
        client = await self.client(subject).initialize(version)
        session = self.manager.get_session(client.headers["mcp-session-id"])
        assert session is not None
        self.look()
        await wait_all_tasks_blocked()
        return client, session

    def headers(self) -> list[Session]:
        """The sessions that were opened over HTTP."""
        return self.manager.sessions(lambda session: session.kind is SessionKind.HEADER)

    def look(self) -> None:
        """Remember the sessions, to look into what is left of them."""
        self.seen += [one for one in self.manager.sessions() if one not in self.seen]

    @property
    def refused(self) -> Mapping[int, int]:
        return self.manager.statistics().http_refused


@asynccontextmanager
async def site(
    application: Application | None = None,
    *,
    limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    node: str | None = None,
    **options: Any,
) -> AsyncIterator[Site]:
    """An endpoint that has left nothing behind when the block is left."""
    application = Server().router if application is None else application
    async with serving(
        application, limits=limits, cleanup=cleanup, hooks=hooks, node=node
    ) as manager:
        app = http_app(manager, **options)
        assert isinstance(app, Endpoint)
        here = Site(manager, app)
        yield here
        here.look()
    assert leftovers(manager, *here.seen) == []
    assert not any(stateless_leftovers(app).values())
    assert len(app.ticker) == 0
    # A connection is dropped only if nothing of it is left.
    assert [one for one in here.seen if one._connection is not None] == []


async def works(client: Client) -> bool:
    """Whether the session of a client answers, as it should."""
    request_id, params = "does it work?", {"yes": "it does"}
    answer = await client.post(request(request_id, "echo", params))
    return bool(answer == result(request_id, params))


def json_of(response: Response) -> Any:
    """A body as JSON; None for an empty one."""
    return msgspec.json.decode(response.body) if response.body else None


async def never(*message: Any) -> Any:
    """What must not be called, in the place of ``receive`` or ``send``."""
    raise AssertionError(message)  # pragma: no cover  # that is the point
