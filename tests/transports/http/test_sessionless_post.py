"""Clients up to 2025-11-25 that are served without sessions: each POST for itself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.helpers import brief, cancelled, error, initialize, notification, request, result
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.live import SERVERS, ServerName, live
from tests.transports.http.modern import MODERN, headers_of, modern
from tests.transports.http.scripted import settle
from tests.transports.http.site import Site, bearer, json_of, site, token
from trio_mcp_session import (
    Application,
    CleanupConfig,
    HandlerCrashed,
    HttpOptions,
    InsufficientScope,
    Principal,
    QuestionError,
    RateLimit,
    RequestContext,
    Router,
    SessionLimits,
)
from trio_mcp_session.core import events
from trio_mcp_session.protocol.capabilities import without_sessions
from trio_mcp_session.protocol.eras import BOTH
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, V2025_06_18
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.sessionless import SessionlessClient

OLDEST, BATCHES, SPRING, LATEST = HANDSHAKE_REVISIONS
WITHOUT_SESSIONS = HttpOptions(stateless=True)
LOGGER = "trio_mcp_session"
VERSION = "mcp-protocol-version"


def call(request_id: object, tool: str, **arguments: Any) -> dict[str, Any]:
    return request(request_id, "tools/call", {"name": tool, "arguments": arguments})


class Toolbox:
    """Tools that need what a session has, and tools that do not."""

    def __init__(self, **router: Any) -> None:
        self.router = Router("toolbox", "1", **router)
        self.may_end = trio.Event()
        self.ended: list[str] = []
        self.noted: list[str] = []
        self.principals: list[Principal | None] = []
        for tool in (self.version, self.wait, self.ask, self.try_to_ask, self.use_session):
            self.router.tool()(tool)
        self.router.request("resources/list")(self.resources)
        self.router.notification("notifications/progress")(self.note)

    async def version(self, ctx: RequestContext) -> str:
        self.principals.append(ctx.principal)
        await ctx.log("error", "not sent")
        return f"{ctx.protocol_version} {ctx.client}"

    async def wait(self, ctx: RequestContext, name: str, *, say: bool = False) -> str:
        if say:
            await ctx.notify("notifications/said")
        try:
            await self.may_end.wait()
            if say:
                await ctx.notify("notifications/said")
        finally:
            self.ended.append(name)
        return name

    async def ask(self, ctx: RequestContext) -> str:
        await ctx.elicit("Name?", {"type": "object", "properties": {}})
        raise AssertionError  # pragma: no cover

    async def try_to_ask(self, ctx: RequestContext) -> str:
        try:
            await ctx.list_roots()
        except QuestionError as failed:
            return f"without roots: {failed}"
        raise AssertionError  # pragma: no cover

    async def use_session(self, ctx: RequestContext) -> str:
        return ctx.session.session_id

    async def resources(self, ctx: RequestContext) -> dict[str, Any]:
        return {"resources": []}

    async def note(self, ctx: RequestContext) -> None:
        await ctx.notify("notifications/said")  # It has nowhere to go.
        self.noted.append(ctx.method)


@asynccontextmanager
async def stateless(
    application: Application | None = None, *, options: Mapping[str, Any] | None = None, **more: Any
) -> AsyncIterator[Site]:
    """An endpoint without sessions, at which there was none in the end."""
    settings = HttpOptions(stateless=True, **(options or {}))
    application = Toolbox().router if application is None else application
    async with site(application, options=settings, **more) as place:
        yield place
        assert place.headers() == []
        assert place.manager.statistics().opened == 0


async def post(place: Site, message: Any, headers: Mapping[str, Any] | None = None) -> Response:
    return await place.client().request("POST", message, headers=headers or {})


async def answer(place: Site, message: Any, headers: Mapping[str, Any] | None = None) -> Any:
    response = await post(place, message, headers)
    assert response.status == 200
    assert "mcp-session-id" not in response.headers
    return json_of(response)


def text_of(answered: Any) -> str:
    (content,) = answered["result"]["content"]
    return cast("str", content["text"])


# From raw bytes.


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("version", HANDSHAKE_REVISIONS)
async def test_any_of_several_servers_answers_each_request_of_a_client(
    version: str, server: ServerName
) -> None:
    """A deployment without stickiness: every POST reaches another process."""
    async with (
        live(server=server, options=WITHOUT_SESSIONS) as one,
        live(server=server, options=WITHOUT_SESSIONS) as two,
        await one.connect() as first,
        await two.connect() as second,
    ):
        opened = await first.request("POST", initialize("hello", version))
        assert (opened.status, opened.headers.get("mcp-session-id")) == (200, None)
        assert opened.headers["content-type"] == "application/json"
        assert opened.json["id"] == "hello"
        assert opened.json["result"] == {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "toy", "version": "1"},
        }
        named = {"MCP-Protocol-Version": version} if version in (SPRING, LATEST) else {}
        for wire in (second, first):
            done = await wire.request("POST", notification("notifications/initialized"), named)
            assert (done.status, done.body) == (202, b"")
            listed = await wire.request("POST", request(1, "tools/list"), named)
            names = [tool["name"] for tool in listed.json["result"]["tools"]]
            assert names == ["echo", "many", "wait"]
            echoed = await wire.request("POST", call(2, "echo", text="hey"), named)
            assert text_of(echoed.json) == "hey"
            for verb in ("GET", "DELETE"):
                refused = await wire.request(verb, headers=named)
                assert (refused.status, refused.headers["allow"]) == (405, "POST")
        # An id of before, or of elsewhere, is not looked at.
        stale = {**named, "Mcp-Session-Id": "x" * 32}
        assert (await first.request("POST", request(3, "ping"), stale)).json == result(3)
        assert (await first.request("POST", initialize(4), stale)).status == 200
        assert one.manager.statistics().opened == two.manager.statistics().opened == 0


# Versions.


@pytest.mark.parametrize("version", [*HANDSHAKE_REVISIONS, None])
async def test_a_request_is_of_the_revision_in_its_header(
    version: str | None, autojump_clock: MockClock
) -> None:
    async with stateless() as place:
        answered = await answer(place, call(1, "version"), {VERSION: version})
        assert text_of(answered) == f"{version or BATCHES} None"


@pytest.mark.parametrize("version", ["1900-01-01", "", "2025-11-26"])
async def test_an_unknown_version_is_refused(version: str, autojump_clock: MockClock) -> None:
    async with stateless() as place:
        response = await post(place, call(1, "version"), {VERSION: version})
        assert response.status == 400
        told = json_of(response)["error"]
        assert told["code"] == -32022
        assert told["data"]["supported"] == [*HANDSHAKE_REVISIONS, MODERN]


async def test_initialize_negotiates_as_ever(autojump_clock: MockClock) -> None:
    async with stateless() as place:
        answered = await answer(place, initialize(1, "1999-01-01"))
        assert answered["result"]["protocolVersion"] == LATEST
        assert brief(await answer(place, request(2, "initialize"))) == error(2, -32602)
        assert server_of(place.manager).stateless.counters.bad_input == 1


async def test_modern_requests_are_served_beside(autojump_clock: MockClock) -> None:
    async with stateless() as place:
        message = modern(1, "tools/call", {"name": "version", "arguments": {}})
        assert MODERN in text_of(await answer(place, message, headers_of(message)))
        refused = await post(place, request(1, "ping"), {VERSION: MODERN})
        assert (refused.status, brief(json_of(refused))) == (400, error(1, -32602))


async def test_where_sessions_are_not_served_at_all_it_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with stateless(Toolbox(eras="modern").router) as place:
        refused = await post(place, initialize(1))
        assert (refused.status, brief(json_of(refused))) == (400, error(1, -32022))


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(TypeError):
        HttpOptions(stateless="yes")  # type: ignore[arg-type]
    assert HttpOptions().stateless is False


# What cannot work.


def test_capabilities_that_need_sessions_are_not_offered() -> None:
    given = {
        "logging": {},
        "tools": {"listChanged": True, "other": 1},
        "resources": {"subscribe": True, "listChanged": True},
        "experimental": 5,
    }
    expected = {"tools": {"other": 1}, "resources": {}, "experimental": 5}
    assert without_sessions(given) == expected


@pytest.mark.parametrize(
    "method", ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"]
)
async def test_methods_that_need_a_session_are_refused_by_name(
    method: str, autojump_clock: MockClock
) -> None:
    async with stateless(Toolbox(resource_subscriptions=True).router) as place:
        capabilities = (await answer(place, initialize(1)))["result"]["capabilities"]
        assert capabilities == {"tools": {}, "resources": {}}
        assert await answer(place, request(3, "resources/list")) == result(3, {"resources": []})
        told = (await answer(place, request(2, method, {"level": "info", "uri": "a:b"})))["error"]
        assert told == {
            "code": -32601,
            "message": f"{method} needs a session, and this endpoint serves requests without "
            "sessions",
        }


async def test_a_question_to_the_client_is_refused_and_the_model_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stateless() as place:
        why = "the client cannot be asked: this endpoint serves requests without sessions"
        answered = await answer(place, call(1, "ask"))
        assert (answered["result"]["isError"], text_of(answered)) == (True, why)
        assert text_of(await answer(place, call(1, "try_to_ask"))) == f"without roots: {why}"
        # Nothing is reported as a crash.
        assert all(record.levelno < logging.WARNING for record in caplog.records)


async def test_a_session_that_a_handler_reads_is_refused_and_the_log_says_so_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with stateless() as place:
        for _ in range(2):
            answered = await answer(place, call(1, "use_session"))
            assert answered["result"]["isError"]
            assert text_of(answered) == (
                "a request of this endpoint has no session; use a handle instead"
            )
    assert [(level, text) for _, level, text in caplog.record_tuples] == [
        (
            logging.INFO,
            (
                "clients up to 2025-11-25 are served without sessions (HttpOptions.stateless): "
                "GET and DELETE, questions to the client, subscriptions, log levels and "
                "ctx.session are refused"
            ),
        ),
        (
            logging.WARNING,
            (
                "tool 'use_session' of 'toolbox' used ctx.session, and sessions are not served "
                "(HttpOptions.stateless); keep what outlives a request behind a handle "
                "(HandleKind), or serve sessions: HttpOptions(stateless=False)"
            ),
        ),
    ]


async def test_a_lifespan_is_not_entered_and_the_log_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def not_entered(_: object) -> AsyncIterator[None]:
        yield  # pragma: no cover  # that is the point

    async with stateless(Toolbox(lifespan=not_entered).router) as place:
        for _ in range(2):
            await answer(place, request(1, "ping"))
    (record,) = caplog.records
    assert record.getMessage() == (
        "sessions are not served (HttpOptions.stateless), so the lifespan of 'toolbox' is not "
        "entered; keep what outlives a request behind a handle (HandleKind), or serve sessions: "
        "HttpOptions(stateless=False)"
    )


async def test_discover_without_an_envelope_and_methods_that_do_not_exist(
    autojump_clock: MockClock,
) -> None:
    async with stateless() as place:
        assert brief(await answer(place, request(1, "server/discover"))) == error(1, -32602)
        assert brief(await answer(place, request(2, "no"))) == error(2, -32601)
    async with stateless(Toolbox(eras="legacy").router) as place:
        assert brief(await answer(place, request(1, "server/discover"))) == error(1, -32601)


async def test_verbs_that_no_endpoint_has(autojump_clock: MockClock) -> None:
    async with stateless() as place:
        for verb in ("PUT", "GET", "DELETE"):
            response = await place.client().request(verb)
            assert (response.status, response.headers["allow"]) == (405, "POST")


# Notifications, responses, batches.


async def test_messages_without_an_answer(autojump_clock: MockClock) -> None:
    box = Toolbox()
    async with stateless(box.router) as place:
        for message in (
            notification("notifications/progress"),
            notification("notifications/unknown"),
            result(1),
            error(1, -1),
        ):
            response = await post(place, message)
            assert (response.status, response.body) == (202, b"")
        await settle()
        assert box.noted == ["notifications/progress"]
        assert server_of(place.manager).stateless.counters.bad_input == 2


async def test_a_request_is_not_cancelled_by_its_id(autojump_clock: MockClock) -> None:
    """Ids of different clients are unrelated, and nothing tells clients apart."""
    box = Toolbox()
    async with stateless(box.router) as place:
        async with place.client().stream("POST", call(7, "wait", name="a")) as response:
            await settle()
            assert (await post(place, cancelled(7))).status == 202
            await settle()
            assert box.ended == []
            box.may_end.set()
            assert text_of(await response.json()) == "a"


@pytest.mark.parametrize("headers", [{}, {VERSION: BATCHES}])
async def test_a_batch_is_served_without_a_session(
    headers: dict[str, str], autojump_clock: MockClock
) -> None:
    box = Toolbox()
    async with stateless(box.router) as place:
        batch = [call(1, "version"), notification("notifications/unknown"), request(2, "ping")]
        first, second = sorted(await answer(place, batch, headers), key=lambda one: one["id"])
        assert text_of(first) == f"{BATCHES} None"
        assert second == result(2)
        only = [notification("notifications/progress"), result(5)]
        assert (await post(place, only, headers)).status == 202
        await settle()
        assert box.noted == ["notifications/progress"]
        for wrong in ([initialize(1)], [request(1, "ping"), {"jsonrpc": "2.0"}]):
            assert (await post(place, wrong, headers)).status == 400


@pytest.mark.parametrize("version", [OLDEST, SPRING, LATEST])
async def test_no_batch_in_other_revisions(version: str, autojump_clock: MockClock) -> None:
    async with stateless() as place:
        assert (await post(place, [request(1, "ping")], {VERSION: version})).status == 400


# Responses.


async def test_what_a_handler_sends_opens_a_stream_without_event_ids(
    autojump_clock: MockClock,
) -> None:
    box = Toolbox()
    box.may_end.set()
    async with stateless(box.router) as place:
        async with place.client().stream("POST", call(1, "wait", name="a", say=True)) as response:
            found = await response.events()
        assert [one.id for one in found] == [None] * 3
        assert [one.json.get("method") for one in found] == ["notifications/said"] * 2 + [None]
        assert text_of(found[-1].json) == "a"
        assert response.complete


async def test_a_silent_request_gets_a_stream_as_in_a_session(autojump_clock: MockClock) -> None:
    box = Toolbox()
    async with stateless(box.router, options={"stream_after": 3}) as place:
        async with place.client().stream("POST", call(1, "wait", name="a")) as response:
            await response.started()
            assert 3 <= trio.current_time() <= 3.2
            box.may_end.set()
            (event,) = await response.events()
            assert text_of(event.json) == "a"


@pytest.mark.parametrize("sse", [True, False])
async def test_always_as_a_stream_where_the_option_says_so(
    sse: bool, autojump_clock: MockClock
) -> None:
    async with stateless(options={"answers": "sse"}) as place:
        accept = {} if sse else {"accept": "application/json"}
        response = await post(place, call(1, "version"), accept)
        kind = "text/event-stream" if sse else "application/json"
        assert response.headers["content-type"] == kind
        assert (await answer(place, initialize(2)))["id"] == 2


@pytest.mark.parametrize("say", [True, False])
async def test_a_client_that_leaves_does_not_cancel_its_request(
    say: bool, autojump_clock: MockClock
) -> None:
    """A disconnect should not be taken for a cancellation (*Streamable HTTP*)."""
    box = Toolbox()
    async with stateless(box.router) as place:
        async with place.client().stream("POST", call(1, "wait", name="a", say=say)):
            await settle()
            await trio.sleep(1)
        await trio.sleep(100)
        assert box.ended == []
        assert server_of(place.manager).stateless.running == 1
        box.may_end.set()
        await settle()
        assert box.ended == ["a"]
        assert server_of(place.manager).stateless.running == 0
        assert server_of(place.manager).stateless.counters.cancelled == 0


async def test_a_server_that_says_within_the_last_write_that_the_client_has_left(
    autojump_clock: MockClock,
) -> None:
    """As Hypercorn does: the answer is not cut."""
    box = Toolbox()
    body = msgspec.json.encode(call(1, "wait", name="a", say=True))
    received = iter([{"type": "http.request", "body": body}])
    left = trio.Event()
    written: list[Any] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        for message in received:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if not message.get("more_body", True):
            left.set()
            await trio.sleep(1)
        written.append(message)

    async with stateless(box.router) as place, trio.open_nursery() as nursery:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
            "server": ("127.0.0.1", 8000),
        }
        nursery.start_soon(place.app, scope, receive, send)
        await trio.sleep(1)
        box.may_end.set()
        await trio.sleep(2)
        assert b'"result"' in written[-1]["body"]


async def test_a_client_that_leaves_before_its_answer_is_written(
    autojump_clock: MockClock,
) -> None:
    async def gone(message: Any) -> None:
        raise OSError("the client has left")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = Client(cast("Any", None), {}, {}).scope
    async with stateless() as place:
        for message in (request(1, "ping"), notification("notifications/unknown")):
            body = msgspec.json.encode(message)
            headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
            await place.app(
                {
                    **scope,
                    "type": "http",
                    "method": "POST",
                    "path": "/mcp",
                    "headers": headers,
                    "server": ("127.0.0.1", 8000),
                },
                receive,
                gone,
            )


# Limits, ends, failures.


async def test_requests_above_the_limit_get_503(autojump_clock: MockClock) -> None:
    box = Toolbox()
    limits = SessionLimits(max_stateless_requests=1, max_queued=1)
    async with stateless(box.router, limits=limits) as place, trio.open_nursery() as nursery:
        for name in ("a", "b"):
            nursery.start_soon(answer, place, call(name, "wait", name=name))
            await settle()
        response = await post(place, call(7, "version"))
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert brief(json_of(response)) == error(7, -32603)
        # What needs no place is answered, and a notification is dropped.
        assert await answer(place, request(8, "ping")) == result(8)
        assert (await answer(place, initialize(9)))["id"] == 9
        assert (await post(place, notification("notifications/progress"))).status == 202
        await settle()
        assert (box.noted, server_of(place.manager).stateless.counters.dropped) == ([], 1)
        box.may_end.set()


async def test_a_request_that_lacks_a_scope_is_refused_when_its_handler_says_so(
    autojump_clock: MockClock,
) -> None:
    router = Router("x")

    @router.tool()
    async def secret(ctx: RequestContext) -> str:
        raise InsufficientScope("notes:secret")

    async def authenticate(scope: Any, headers: Any) -> Principal:
        await trio.lowlevel.checkpoint()
        return Principal("ann")

    async with stateless(router, authenticate=authenticate) as place:
        response = await post(place, call(1, "secret"))
    assert (response.status, json_of(response)["id"]) == (403, 1)
    assert 'scope="notes:secret"' in response.headers["www-authenticate"]


async def test_scopes_are_checked_before_a_batch_runs_and_after_its_rate(
    autojump_clock: MockClock,
) -> None:
    router = Router("x")

    @router.tool(scopes="notes:secret")
    async def secret(ctx: RequestContext) -> str:
        raise AssertionError  # pragma: no cover  # nothing may call it

    limits = SessionLimits(request_rate=RateLimit(0.1, burst=2))
    async with stateless(router, authenticate=bearer, limits=limits) as place:
        client = place.client("ann")
        batch = [request(1, "ping"), call(2, "secret")]
        refused = [await client.request("POST", batch) for _ in range(3)]
    assert [one.status for one in refused] == [403, 403, 429]
    assert 'scope="notes:secret"' in refused[0].headers["www-authenticate"]


async def test_a_drain_waits_for_requests_and_admits_none(autojump_clock: MockClock) -> None:
    box = Toolbox()
    async with stateless(box.router) as place:
        async with place.client().stream("POST", call(1, "wait", name="a")) as response:
            await settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(place.manager.drain)
                await settle()
                for message in (call(2, "version"), request(2, "ping"), initialize(2)):
                    assert (await post(place, message)).status == 503
                box.may_end.set()
            assert text_of(await response.json()) == "a"


async def test_the_end_of_the_manager_answers_what_runs(autojump_clock: MockClock) -> None:
    async with stateless(cleanup=CleanupConfig(drain_grace=1)) as place:
        async with place.client().stream("POST", call(1, "wait", name="a")) as response:
            await settle()
            await place.manager.drain()
            assert brief(await response.json()) == error(1, -32603)


async def test_requests_belong_to_the_principal_that_made_them(
    autojump_clock: MockClock,
) -> None:
    box = Toolbox()
    async with stateless(box.router, authenticate=bearer) as place:
        for subject in ("alice", "bob"):
            await answer(place, call(1, "version"), token(subject))
        assert box.principals == [Principal("alice"), Principal("bob")]
        async with place.client("alice").stream("POST", call(1, "wait", name="a")) as response:
            await settle()
            place.manager.revoke(Principal("alice"))
            assert brief(await response.json()) == error(1, -32603)
        assert box.ended == ["a"]


class Broken:
    """An application that cannot describe itself."""

    def __init__(self, box: Toolbox) -> None:
        self._box = box

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box.router, name)

    def capabilities(self, revision: object) -> Any:
        raise ValueError("as told")

    def handles_notification(self, method: str) -> bool:
        raise ValueError("as told")


async def test_an_application_that_cannot_describe_itself(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stateless(cast("Any", Broken(Toolbox()))) as place:
        with place.manager.subscribe() as stream:
            assert brief(await answer(place, initialize(1))) == error(1, -32603)
            assert (await post(place, notification("notifications/progress"))).status == 202
            names = []
            for _ in range(2):
                event = await stream.receive()
                assert isinstance(event, events.RequestFailed)
                assert isinstance(event.error, HandlerCrashed)
                names.append(event.error.name)
    assert names == [
        "capabilities of the application",
        "handles_notification of the application",
    ]


async def test_the_owner_of_such_requests(autojump_clock: MockClock) -> None:
    async with stateless() as place:
        server = server_of(place.manager)
        budget = place.manager._byte_budgets.manager
        client = SessionlessClient(server, BOTH, V2025_06_18, Principal("alice"), budget)
        assert client.manager is place.manager
        assert client.budget is budget
        assert client.default_principal == Principal("alice")
        assert client.session is None
        assert client.log_severity is None
        assert client.why_it_ends() == "server is shutting down"
        assert client.complete_result("ping", {}, keepable=False)["resultType"] == "complete"
        assert repr(client) == f"<SessionlessClient of {place.manager!r}>"
