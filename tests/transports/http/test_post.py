"""POST: how a session is opened, what is left when that fails, and what its messages bring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from hypothesis import given
from trio.testing import MockClock, wait_all_tasks_blocked

from tests import strategies
from tests.helpers import (
    LATEST,
    at_every_step,
    brief,
    cancelled,
    cancelled_at_step,
    error,
    initialize,
    notification,
    request,
    result,
)
from tests.transports.http.asgi_client import Client
from tests.transports.http.site import Server, Site, bearer, json_of, site, works
from trio_mcp_session import (
    AdmissionPolicy,
    McpError,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionKind,
    SessionLimits,
    TerminationReason,
)
from trio_mcp_session.sessions.session import Lifespan
from trio_mcp_session.transports.http.http_options import HttpOptions

BATCHES = "2025-03-26"
INVALID, PARAMS, INTERNAL = -32600, -32602, -32603


def note(number: int) -> dict[str, Any]:
    return notification("notifications/progress", {"progressToken": number, "progress": 1})


# Opening a session.


@pytest.mark.parametrize("version", ["2024-11-05", BATCHES, "2025-06-18", LATEST])
async def test_a_session_is_opened(version: str, autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        response = await place.client("alice").request(json=initialize("a", version))
        assert response.status == 200
        assert json_of(response)["id"] == "a"
        assert json_of(response)["result"]["protocolVersion"] == version
        (session,) = place.headers()
        assert session.session_id == response.headers["mcp-session-id"]
        assert session.kind is SessionKind.HEADER
        assert session.principal == Principal("alice")
        assert session.protocol_version == version
        assert (session.transport.name, session.transport.peer) == ("http", "192.0.2.1:1234")
        assert session.client is not None
        assert session.client.client_id == "tester"
        # The first message of a session counts as such.
        assert session.metrics.messages_received == 1
        assert session.metrics.bytes_received == len(msgspec.json.encode(initialize("a", version)))


async def test_an_unknown_revision_is_answered_with_the_latest(autojump_clock: MockClock) -> None:
    async with site() as place:
        for asked in ("2026-07-28", "1900-01-01", ""):
            answer = await place.client().post(initialize(0, asked))
            assert answer["result"]["protocolVersion"] == LATEST


async def test_ids_are_visible_and_cannot_be_guessed(autojump_clock: MockClock) -> None:
    async with site(limits=SessionLimits(max_sessions=300)) as place:
        ids = set()
        for _ in range(200):
            response = await place.client().request(json=initialize())
            ids.add(response.headers["mcp-session-id"])
        assert len(ids) == 200
        for one in ids:
            assert all("\x21" <= char <= "\x7e" for char in one)
            # Each letter of URL-safe base64 tells 6 bits.
            assert len(one) * 6 >= 128
        # No letter says anything of the ids before and after.
        for place_of_letter in zip(*ids, strict=True):
            assert len(set(place_of_letter)) > 30


async def test_only_the_opening_names_the_session(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, _ = await place.open()
        for body in (request(1, "echo"), note(1), result(1), request(1, "ping")):
            assert "mcp-session-id" not in (await client.request(json=body)).headers
        async with client.stream("GET") as response:
            assert "mcp-session-id" not in (await response.started()).headers


async def test_requests_before_initialized_are_served(autojump_clock: MockClock) -> None:
    async with site() as place:
        response = await place.client().request(json=initialize())
        named = {"mcp-session-id": response.headers["mcp-session-id"]}
        assert await place.client(headers=named).post(request(1, "echo")) == result(1)
        # One that says nothing more has a limited time.
        silent = await place.client().request(json=initialize())
        await trio.sleep(place.manager.config.cleanup.handshake_timeout + 10)
        (alive,) = place.headers()
        assert alive.session_id == named["mcp-session-id"]
        assert alive.session_id != silent.headers["mcp-session-id"]


# Openings that fail: nothing is left of them.

ALICE, MALLORY = Principal("alice"), Principal("mallory")


async def refuse_mallory(session: Session) -> None:
    if session.principal == MALLORY:
        raise PermissionError("not you")


def lifespan_of_mallory(fail: Callable[[], Awaitable[object]]) -> Lifespan:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        if session.principal == MALLORY:
            await fail()
        yield

    return lifespan


async def no_database() -> None:
    raise OSError("no database")


@attrs.frozen
class Failure:
    """A way in which an opening fails."""

    name: str
    status: int
    code: int
    who: str = "mallory"
    params: Mapping[str, Any] = attrs.field(factory=dict)
    """What of the parameters is not as it should be."""
    lifespan: Lifespan | None = None
    site: Mapping[str, Any] = attrs.field(factory=dict)
    sessions: int = 0
    """How many sessions were begun for it."""
    refused: Mapping[str, int] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return self.name


def no_room(name: str, who: str = "mallory", **limits: Any) -> Failure:
    return Failure(
        *(name, 503, INTERNAL, who),
        site={"limits": SessionLimits(**limits)},
        refused={"SessionLimitReached": 1},
        headers={"retry-after": "7"},
    )


VETO = SessionHooks(on_session_created=refuse_mallory)
FAILURES = [
    Failure(
        *("vetoed", 200, INTERNAL),
        site={"hooks": VETO},
        sessions=1,
        refused={"SessionVetoed": 1},
    ),
    Failure(
        "broken lifespan", 200, INTERNAL, lifespan=lifespan_of_mallory(no_database), sessions=1
    ),
    Failure(
        *("endless lifespan", 200, INTERNAL),
        lifespan=lifespan_of_mallory(trio.sleep_forever),
        sessions=1,
    ),
    *(
        Failure(f"bad {name}", 200, PARAMS, params={name: value})
        for name, value in [
            ("protocolVersion", 1),
            ("capabilities", []),
            ("clientInfo", {"name": "x"}),
        ]
    ),
    no_room("too many", max_sessions=1),
    no_room("too many of the kind", max_sessions_of={SessionKind.HEADER: 1}),
    no_room("too many of the principal", "alice", max_sessions_per_principal=1),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_a_failed_initialize_is_answered_with_its_error_and_leaves_no_session(
    failure: Failure, autojump_clock: MockClock
) -> None:
    ended: list[Session] = []

    async def terminated(session: Session, reason: TerminationReason) -> None:
        ended.append(session)

    # Hooks that come before the one that refuses are called at the end.
    hooks = [SessionHooks(on_session_terminated=terminated)]
    options: dict[str, Any] = {**failure.site}
    if "hooks" in options:
        hooks.append(options.pop("hooks"))
    async with site(
        Server(lifespan=failure.lifespan).router,
        authenticate=bearer,
        options=HttpOptions(retry_after=7),
        hooks=hooks,
        **options,
    ) as place:
        client, session = await place.open("alice")
        message = initialize(7)
        body = {**message, "params": {**message["params"], **failure.params}}
        async with place.client(failure.who).stream(json=body) as response:
            await wait_all_tasks_blocked()
            place.look()
            await response.read()
        assert response.status == failure.status
        assert brief(json_of(response)) == error(7, failure.code)
        headers = dict(response.headers)
        assert headers.pop("content-type") == "application/json"
        assert headers.pop("content-length") == str(len(response.body))
        assert headers == failure.headers
        await wait_all_tasks_blocked()
        assert place.headers() == [session]
        assert len(ended) == failure.sessions
        assert place.manager.statistics().opened == 1 + failure.sessions
        assert place.manager.statistics().refused == failure.refused
        assert await works(client)


async def test_a_client_that_leaves_before_its_session_is_open(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await trio.sleep(1)
        yield

    async with site(Server(lifespan=lifespan).router) as place:
        async with place.client().stream(json=initialize()) as response:
            await wait_all_tasks_blocked()
            (session,) = place.headers()
        assert not response.status
        await session.wait_terminated()
        place.seen.append(session)
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED
        assert place.headers() == []


@pytest.mark.parametrize("evicting", [False, True])
async def test_an_opening_that_is_cancelled_anywhere(
    evicting: bool, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    complete: list[bool] = []

    async def attempt(step: int) -> bool:
        async with site(
            Server(lifespan=lifespan).router,
            limits=SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE),
        ) as place:
            if evicting:
                await place.open()
            with cancelled_at_step(step) as scope:
                async with place.client().stream(json=initialize()) as response:
                    await response.read()
            place.look()
            complete.append(response.complete)
            if not response.complete:
                # No client knows the session: it is gone, or was never there.
                await trio.sleep(2)
                assert len(place.headers()) <= evicting
            # There is room again for the next one.
            assert await works((await place.open())[0])
            return not scope.cancelled_caught

    assert await at_every_step(attempt) > 5
    assert not complete[0]
    assert complete[-1]


async def test_the_servers_end_ends_an_opening(autojump_clock: MockClock) -> None:
    async with site(
        Server(lifespan=lifespan_of_mallory(trio.sleep_forever)).router, authenticate=bearer
    ) as place:
        with trio.move_on_after(1) as scope:
            async with place.client("mallory").stream(json=initialize()) as response:
                await response.read()
        assert scope.cancelled_caught
        place.look()
        (session,) = place.headers()
        await session.wait_terminated()
        assert session.termination_reason is TerminationReason.CANCELLED


# Messages of a session.


@final
class Patient:
    """An application whose requests end one by one, when the test says so."""

    def __init__(self) -> None:
        self.router = Router("patient", resource_subscriptions=True)
        self.router.request("echo")(self.echo)
        self.router.request("resources/list")(self.echo)  # there are some to subscribe to
        self.router.request("wait")(self.wait)
        self.router.request("progress")(self.progress)
        self.may_end: dict[str, trio.Event] = {}
        self.router.request("sleep")(self.sleep)
        self.begun = 0
        self.ended = 0
        self.cancelled: list[str] = []

    async def sleep(self, ctx: RequestContext) -> None:
        self.begun += 1
        await trio.sleep(10)
        self.ended += 1

    async def echo(self, ctx: RequestContext) -> dict[str, Any]:
        return ctx.params

    async def wait(self, ctx: RequestContext) -> dict[str, Any]:
        key = ctx.params["key"]
        self.may_end[key] = trio.Event()
        try:
            await self.may_end[key].wait()
        except trio.Cancelled:
            self.cancelled.append(key)
            raise
        return ctx.params

    async def progress(self, ctx: RequestContext) -> None:
        await ctx.progress(1)


@asynccontextmanager
async def patient(
    version: str = LATEST, **limits: Any
) -> AsyncIterator[tuple[Patient, Client, Site]]:
    server = Patient()
    options = HttpOptions(stream_after=1000)
    async with site(server.router, limits=SessionLimits(**limits), options=options) as place:
        client, _ = await place.open(version=version)
        yield server, client, place


def wait_for(request_id: object, key: str) -> dict[str, Any]:
    return request(request_id, "wait", {"key": key})


async def test_two_requests_of_one_id_get_their_own_answers(autojump_clock: MockClock) -> None:
    async with patient() as (server, client, _):
        async with (
            client.stream(json=wait_for(1, "a")) as a,
            client.stream(json=wait_for(1, "b")) as b,
        ):
            await wait_all_tasks_blocked()
            # Neither an answer to another one, nor to one that the session itself answers.
            assert await client.post(request(1, "echo", {"c": 1})) == result(1, {"c": 1})
            assert await client.post(request(1, "ping")) == result(1)
            for own in (
                request(1, "logging/setLevel", {"level": "info"}),
                request(1, "resources/subscribe", {"uri": "x:y"}),
                request(1, "resources/unsubscribe", {"uri": "x:y"}),
            ):
                assert await client.post(own) == result(1)
            server.may_end["b"].set()
            assert await b.json() == result(1, {"key": "b"})
            assert not a.complete
            server.may_end["a"].set()
            assert await a.json() == result(1, {"key": "a"})


async def test_requests_of_one_id_wait_in_line_too(autojump_clock: MockClock) -> None:
    async with patient(max_in_flight=1, max_queued=2) as (server, client, _):
        async with AsyncExitStack() as open_ones:
            responses = {}
            for key in ("a", "b", "c"):
                stream = client.stream(json=wait_for(1, key))
                responses[key] = await open_ones.enter_async_context(stream)
                await wait_all_tasks_blocked()
            # No room for a fourth one.
            assert brief(await client.post(wait_for(1, "d"))) == error(1, INTERNAL)
            # Neither the running one nor those in line are meant for sure.
            assert (await client.request(json=cancelled(1))).status == 202
            for key, response in responses.items():
                await wait_all_tasks_blocked()
                assert list(server.may_end)[-1] == key
                server.may_end[key].set()
                assert await response.json() == result(1, {"key": key})
        assert server.cancelled == []


async def test_a_cancellation_that_may_mean_either_is_ignored(autojump_clock: MockClock) -> None:
    async with patient() as (server, client, place):
        async with (
            client.stream(json=wait_for(1, "a")) as a,
            client.stream(json=wait_for(1, "b")) as b,
        ):
            await wait_all_tasks_blocked()
            (session,) = place.headers()
            assert (await client.request(json=cancelled(1))).status == 202
            await wait_all_tasks_blocked()
            assert session.metrics.cancelled == 0
            server.may_end["a"].set()
            assert await a.json() == result(1, {"key": "a"})
            # Now there is one only.
            assert (await client.request(json=cancelled("1"))).status == 202
            assert session.metrics.cancelled == 0
            assert (await client.request(json=cancelled(1))).status == 202
            assert brief(await b.json()) == error(1, INTERNAL)
            assert session.metrics.cancelled == 1
            await wait_all_tasks_blocked()
            assert server.cancelled == ["b"]


async def test_a_cancelled_request_with_nothing_sent_is_answered(
    autojump_clock: MockClock,
) -> None:
    async with patient() as (server, client, _):
        async with client.stream(json=wait_for("x", "a")) as response:
            await wait_all_tasks_blocked()
            assert (await client.request(json=cancelled("x"))).status == 202
            # There is a response to be written, and one of nothing would say nothing.
            answer = error("x", INTERNAL, "Request was cancelled")
            assert (await response.json(), response.status) == (answer, 200)
        await wait_all_tasks_blocked()
        assert server.cancelled == ["a"]


async def test_a_question_is_answered_by_another_post(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        async with client.stream(json=request(1, "roots")) as response:
            await response.event()
            question = (await response.event()).json
            assert question["method"] == "roots/list"
            roots = {"roots": [{"uri": "file:///x"}]}
            taken = await client.request(json=result(question["id"], roots))
            assert (taken.status, taken.body, taken.headers) == (202, b"", {"content-length": "0"})
            assert (await response.event()).json == result(1, roots)
        # It was answered; once more, and no client waits for it.
        again = await client.request(json=result(question["id"], roots))
        assert (again.status, again.body) == (202, b"")
        assert await works(client)
        assert session.metrics.errors == 0


async def test_notifications_reach_the_application(autojump_clock: MockClock) -> None:
    server = Server()
    async with site(server.router) as place:
        client, session = await place.open()
        before = session.metrics
        response = await client.request(json=note(1))
        assert (response.status, response.body, response.headers) == (
            202,
            b"",
            {"content-length": "0"},
        )
        await wait_all_tasks_blocked()
        assert server.noted == ["notifications/initialized", "notifications/progress"]
        assert session.metrics.messages_received == before.messages_received + 1
        size = len(msgspec.json.encode(note(1)))
        assert session.metrics.bytes_received == before.bytes_received + size


async def test_errors_of_handlers_are_results_as_far_as_http_goes(
    autojump_clock: MockClock,
) -> None:
    router = Server().router

    @router.request("fails")
    async def fails(ctx: RequestContext) -> None:
        raise McpError(PARAMS, "no such thing", {"uri": "x:y"})

    @router.request("crashes")
    async def crashes(ctx: RequestContext) -> None:
        raise ZeroDivisionError

    async with site(router) as place:
        client, _ = await place.open()
        failed = await client.post(request(1, "fails"))
        assert failed["error"] == {
            "code": PARAMS,
            "message": "no such thing",
            "data": {"uri": "x:y"},
        }
        assert await client.post(request(2, "crashes")) == error(2, INTERNAL, "Internal error")
        assert place.refused == {}


async def test_a_client_that_leaves_cancels_nothing(autojump_clock: MockClock) -> None:
    async with patient() as (server, client, _):
        async with client.stream(json=request(1, "sleep")) as response:
            await wait_all_tasks_blocked()
        # The block is left when the server has tried to answer.
        assert not response.complete
        assert (server.begun, server.ended) == (1, 1)
        assert await works(client)


async def test_a_request_whose_task_is_cancelled_anywhere(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        async with patient() as (server, client, _):
            with cancelled_at_step(step) as scope:
                await client.post(request(1, "sleep"))
            await trio.sleep(20)
            # Once begun, the handler runs to its end, with or without a client that waits.
            assert server.ended == server.begun
            assert await works(client)
            return not scope.cancelled_caught

    assert await at_every_step(attempt) > 3


@given(body=strategies.frames)
async def test_whatever_is_posted_is_answered_and_ends_nothing(
    body: bytes, autojump_clock: MockClock
) -> None:
    async with patient(BATCHES) as (_, client, _):
        for version in (None, BATCHES):
            headers = {"mcp-protocol-version": version}
            async with client.stream(body=body, headers=headers) as response:
                await response.read()
            assert response.complete
            if response.status == 202:
                assert response.body == b""
            else:
                assert response.status in {200, 400}
                assert json_of(response)
        assert await works(client)


# Batches.


async def test_a_batch_is_answered_by_one_array(autojump_clock: MockClock) -> None:
    async with patient(BATCHES) as (server, client, place):
        batch = [
            note(1),
            wait_for(1, "a"),
            request(1, "ping"),
            result("nobody asked"),
            request("1", "no such method"),
            wait_for(1, "b"),
        ]
        (session,) = place.headers()
        before = session.metrics
        async with client.stream(json=batch) as response:
            await wait_all_tasks_blocked()
            server.may_end["b"].set()
            await wait_all_tasks_blocked()
            assert not response.complete
            server.may_end["a"].set()
            await response.read()
        assert (response.status, response.headers["content-type"]) == (200, "application/json")
        assert [brief(one) for one in json_of(response)] == [
            result(1),
            error("1", -32601),
            result(1, {"key": "b"}),
            result(1, {"key": "a"}),
        ]
        assert session.metrics.bytes_received == before.bytes_received + len(
            msgspec.json.encode(batch)
        )


async def test_a_batch_with_progress_is_answered_by_a_stream(autojump_clock: MockClock) -> None:
    async with patient(BATCHES) as (_, client, _):
        batch = [
            request(1, "progress", {"_meta": {"progressToken": "p"}}),
            request(2, "echo"),
        ]
        async with client.stream(json=batch) as response:
            progress, answers = await response.events()
        assert response.headers["content-type"] == "text/event-stream"
        assert progress.json["params"] == {"progressToken": "p", "progress": 1}
        assert sorted(answers.json, key=lambda answer: int(answer["id"])) == [result(1), result(2)]


async def test_a_batch_whose_requests_are_cancelled(autojump_clock: MockClock) -> None:
    async with patient(BATCHES) as (server, client, _):
        async with client.stream(json=[wait_for(1, "a"), wait_for(2, "b")]) as response:
            await wait_all_tasks_blocked()
            await client.request(json=[cancelled(1), note(1)])
            server.may_end["b"].set()
            assert await response.json() == [result(2, {"key": "b"})]
        async with client.stream(json=[wait_for(1, "a"), wait_for(2, "b")]) as response:
            await wait_all_tasks_blocked()
            await client.request(json=[cancelled(1), cancelled(2)])
            assert brief(await response.json()) == error(None, INTERNAL)


async def test_a_question_is_answered_in_a_batch(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, _ = await place.open(version=BATCHES)
        async with client.stream(json=[request(1, "roots")]) as response:
            question = (await response.event()).json
            taken = await client.request(json=[result(question["id"], {"roots": []})])
            assert (taken.status, taken.body) == (202, b"")
            assert (await response.event()).json == [result(1, {"roots": []})]


async def test_the_length_of_a_batch_is_limited(autojump_clock: MockClock) -> None:
    async with patient(BATCHES, max_batch=3) as (_, client, _):
        batch = [request(number, "echo") for number in range(4)]
        assert len(await client.post(batch[:3])) == 3
        refused = await client.request(json=batch)
        assert (refused.status, brief(json_of(refused))) == (400, error(None, INVALID))


async def test_a_batch_is_refused_as_a_whole(autojump_clock: MockClock) -> None:
    async with patient(BATCHES) as (server, client, _):
        wrong_ones: list[Any] = [initialize(9), {"jsonrpc": "2.0", "id": 9}, 9, []]
        for wrong in wrong_ones:
            batch = [wait_for(1, "never"), wrong]
            refused = await client.request(json=batch)
            assert (refused.status, brief(json_of(refused))) == (400, error(None, INVALID))
        await wait_all_tasks_blocked()
        assert server.may_end == {}
