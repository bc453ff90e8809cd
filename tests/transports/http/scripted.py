"""A site for tests of streams: its one handler does, step by step, what the request says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import leftovers, notification, request
from tests.transports.http.asgi_client import Client, Event, Response
from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    open_session_manager,
)
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.transports.http.endpoint import Endpoint
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore
from trio_mcp_session.transports.http.session_streams import SessionStreams, streams_of

B, C, D = VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")


@final
class Script:
    """An application with one request, ``do``, and one notification that does the same."""

    def __init__(self) -> None:
        self.router = Router("script")
        self.gates: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.log: list[object] = []
        self.router.request("do")(self.do)
        self.router.notification("notifications/do")(self.do_unasked)

    async def do_unasked(self, ctx: RequestContext, params: dict[str, Any]) -> None:
        await self.do(ctx, params)

    async def do(self, ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        outcomes: list[object] = []
        try:
            for step in params["steps"]:
                outcome = await self.take(ctx, *step)
                if outcome is not None:
                    outcomes.append(outcome)
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        self.log.append("did")
        return {"did": outcomes}

    async def take(  # noqa: PLR0912  # a list of what can be told
        self, ctx: RequestContext, step: str, value: Any = None
    ) -> object:
        match step:
            case "say":
                await ctx.notify("notifications/said", {"n": value})
            case "shout":
                await ctx.notify("notifications/said", {"n": "x" * value})
            case "progress":
                await ctx.progress(value)
            case "broadcast":
                return ctx.session.notify_nowait("notifications/said", {"n": value})
            case "tell":
                await ctx.session.notify("notifications/said", {"n": value})
            case "sleep":
                await trio.sleep(value)
            case "wait":
                await self.gates[value].wait()
            case "ask":
                return await ctx.list_roots(timeout=value)
            case "let go":
                return ctx.close_stream(retry=value)
            case "talk to the last":
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        for _ in range(3):
                            await ctx.notify("notifications/said", {"n": value})
                            await ctx.progress(value)
                            self.log.append(ctx.close_stream())
                            await trio.sleep(0.25)
            case _:
                assert step == "crash"
                ctx.session.start_soon(self.crash)
                await trio.sleep_forever()
        return None

    async def crash(self) -> None:
        raise ValueError("as told")


def do(request_id: object, *steps: Any) -> dict[str, Any]:
    return request(request_id, "do", {"steps": steps, "_meta": {"progressToken": "t"}})


def did(request_id: object, *outcomes: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": {"did": list(outcomes)}}


def said(value: object) -> dict[str, Any]:
    return notification("notifications/said", {"n": value})


def progressed(value: float) -> dict[str, Any]:
    return notification("notifications/progress", {"progressToken": "t", "progress": value})


def messages(events: Sequence[Event]) -> list[Any]:
    """What events carry; those that carry nothing are left out."""
    return [event.json for event in events if event.data]


def parse(written: bytes) -> list[Event]:
    """Read the events of one write: each is whole."""
    *texts, rest = written.replace(b":\r\n\r\n", b"").decode().split("\n\n")
    assert not rest
    found = []
    for text in texts:
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        retry = fields.get("retry")
        found.append(
            Event(
                fields.get("id"),
                fields.get("event"),
                None if retry is None else int(retry),
                fields.get("data"),
            )
        )
    return found


@final
@attrs.define(eq=False)
class Site:
    """A manager with one HTTP endpoint."""

    manager: SessionManager
    app: Endpoint
    script: Script
    sessions: list[Session] = attrs.field(factory=list[Session])

    async def client(self, version: str = D) -> Client:
        """Open a session."""
        client = await Client(self.app).initialize(version)
        session_id = client.headers["mcp-session-id"]
        # It may be ending already: then it is unknown to clients, but listed.
        self.sessions += self.manager.sessions(lambda one: one.session_id == session_id)
        return client

    def session_of(self, client: Client) -> Session:
        session = self.manager.get_session(
            client.headers["mcp-session-id"], kind=SessionKind.HEADER
        )
        assert session is not None
        return session

    def streams_of(self, client: Client) -> SessionStreams:
        return streams_of(self.session_of(client))

    @property
    def store(self) -> MemoryEventStore:
        store = self.app.options.event_store
        assert isinstance(store, MemoryEventStore)
        return store

    def left(self) -> list[str]:
        """What is left of sessions that have ended: nothing, it is hoped."""
        found = leftovers(self.manager, *self.sessions)
        for session in self.sessions:
            if session._connection is None:
                continue  # It is dropped only if nothing of it is left.
            streams = streams_of(session)
            log = streams._log
            what: dict[object, object] = {
                "responses": streams._responses,
                "deliveries": streams._sse_responses,
                "unfinished streams": streams._unfinished,
                "listeners": streams.listeners,
                "log": log is not None
                and (log._log, log._streams, log._look_ups, log._running) != (None, {}, set(), 0),
            }
            found += [f"{session!r} {name}: {value!r}" for name, value in what.items() if value]
        store = self.app.options.event_store
        kept = store if isinstance(store, MemoryEventStore) else None
        what = {
            **stateless_leftovers(self.app),
            "members of the ticker": self.app.ticker._members,
            "events": kept and len(kept),
            "bytes of events": kept and kept.size,
        }
        return found + [f"{name}: {value!r}" for name, value in what.items() if value]


def stateless_leftovers(app: Endpoint) -> dict[object, object]:
    """What is left of stateless requests, after their manager has gone.

    Their responses may still be written then, and are the servers' business.
    """
    owner = server_of(app.manager).stateless
    gate = owner.queue
    return {
        "stateless requests": owner._busy,
        "stateless requests in tables": gate is not None and (gate._active or gate._waiting),
        "stateless workers": gate is not None and gate._idle,
    }


@asynccontextmanager
async def site(
    *,
    limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
    **options: Any,
) -> AsyncIterator[Site]:
    """Serve; when the block is left, nothing is left of its sessions."""
    script = Script()
    config = SessionConfig(limits=limits or SessionLimits(), cleanup=cleanup or CleanupConfig())
    opened: list[Site] = []
    try:
        with trio.fail_after(5_000):
            async with open_session_manager(script.router, config=config) as manager:
                app = http_app(manager, options=HttpOptions(**options))
                assert isinstance(app, Endpoint)
                opened.append(Site(manager, app, script))
                yield opened[0]
    finally:
        for one in opened:
            left = one.left()
            assert left == []
            assert one.manager.statistics().bytes_held == 0


async def settle() -> None:
    """Wait until all tasks are blocked, while time stands still."""
    await wait_all_tasks_blocked()


def is_over(session: Session) -> bool:
    """Return whether nothing of a session is left. (A type checker would remember an attribute.)"""
    return session._finished


async def reply(client: Client, question: Mapping[str, Any], result: object) -> None:
    """Answer a question of the server."""
    message = {"jsonrpc": "2.0", "id": question["id"], "result": result}
    assert (await client.request("POST", message)).status == 202


async def until_heard(response: Response, count: int) -> list[Any]:
    """Read so many messages of a stream that stays open."""
    found: list[Any] = []
    while len(found) < count:
        found += messages([await response.event()])
    return found
