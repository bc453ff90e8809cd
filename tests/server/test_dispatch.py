"""What a client says and what comes of it: the decision table, the handshake, the own methods."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf
from types import SimpleNamespace
from typing import Any, cast, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    LATEST,
    LISTEN,
    MODERN,
    PREFIX,
    SUBSCRIPTION_ID,
    Peer,
    acknowledged,
    brief,
    cancelled,
    connect,
    ended,
    error,
    errors_of,
    initialize,
    listening,
    modern,
    modern_result,
    notification,
    request,
    result,
    serving,
    talking,
    told,
)
from trio_mcp_session import (
    CleanupConfig,
    Connected,
    Event,
    EventStream,
    McpError,
    PeerViolation,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
)
from trio_mcp_session.protocol.jsonrpc import Invalid
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.dispatch import receive, refuse_frame

OLDEST, BATCHES = "2024-11-05", "2025-03-26"
VERSIONS = [OLDEST, BATCHES, "2025-06-18", LATEST]


@final
class Server:
    """An application whose sessions open when the test says so."""

    def __init__(self) -> None:
        self.router = Router(
            "server", "1.2", lifespan=self.lifespan, instructions="Be kind.", title="The Server"
        )
        self.may_open = trio.Event()
        self.may_answer = trio.Event()
        self.noted: list[str] = []
        self.router.request("wait")(self.wait)
        self.router.request("roots")(self.roots)
        self.router.request("echo")(self.echo)
        self.router.request("square")(self.square)
        self.router.request("prompts/list")(self.echo)
        for method in ("initialized", "progress", "roots/list_changed"):
            self.router.notification(f"notifications/{method}")(self.note)

    @asynccontextmanager
    async def lifespan(self, session: Session) -> AsyncIterator[None]:
        await self.may_open.wait()
        yield

    async def wait(self, ctx: RequestContext) -> None:
        await self.may_answer.wait()

    async def roots(self, ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots(timeout=inf)}

    async def echo(self, ctx: RequestContext) -> dict[str, Any]:
        return ctx.params

    async def square(self, ctx: RequestContext) -> dict[str, Any]:
        return {"x": ctx.params["x"] ** 2}

    async def note(self, ctx: RequestContext) -> None:
        self.noted.append(ctx.method)


@pytest.fixture
def server() -> Server:
    return Server()


# The decision table for byte streams.


class State(enum.Enum):
    """What went before the line."""

    FRESH = "nothing"
    OPENING = "initialize, which is not answered yet"
    BATCHING = "a handshake in 2025-03-26, request 7 that runs, question 1 that is open"
    DONE = "a handshake in the latest revision, request 7 that runs, question 1 that is open"
    ALONE = "modern request 9 that runs, subscription 6 that is open"
    BOTH = "as DONE, and modern request 9 that runs, subscription 6 that is open"


ANY = frozenset(State)
BEFORE = frozenset({State.FRESH, State.ALONE})
OPENING = frozenset({State.OPENING})
SESSION = frozenset({State.BATCHING, State.DONE, State.BOTH})
BESIDE = frozenset({State.ALONE, State.BOTH})
PENDING = BEFORE | OPENING
NO_BATCHES = ANY - {State.BATCHING}
ROOTS: dict[str, Any] = {"roots": []}


@attrs.frozen
class Row:
    """One row of the table: what is sent in which state, and what comes of it."""

    line: str
    """The table's first column."""

    states: frozenset[State]
    """The table's second column."""

    sent: object
    """Such a line; bytes are sent as they are."""

    answers: list[Any] = attrs.field(factory=list)
    """What is answered at once."""

    later: list[Any] = attrs.field(factory=list)
    """What is answered as soon as the session is open."""

    noted: list[str] = attrs.field(factory=list)
    """Notifications that reach the application, now or when the session is open."""

    bad: bool = False
    """Whether it counts as bad input."""

    ends: int | None = None
    """The request (7 or 9) or subscription (6) that is cancelled, or the question (1) that is
    answered."""

    def __str__(self) -> str:
        sent = self.sent if isinstance(self.sent, bytes) else msgspec.json.encode(self.sent)
        return f"{self.line}: {sent.replace(PREFIX.encode(), b'')[:90].decode('ascii', 'replace')}"


def bad(line: str, states: frozenset[State], sent: object, *answers: Any) -> Row:
    return Row(line, states, sent, list(answers), bad=True)


CAPABILITIES: dict[str, Any] = {"logging": {}, "prompts": {"listChanged": True}}
DISCOVERED: dict[str, Any] = {
    "supportedVersions": [MODERN],
    "capabilities": CAPABILITIES,
    "instructions": "Be kind.",
    "ttlMs": 0,
    "cacheScope": "private",
}
PARSE, INVALID, METHOD, PARAMS = -32700, -32600, -32601, -32602
CAPABILITY, VERSION = -32021, -32022
NOISE = [
    b"hello",
    b"{",
    b"\xff\xfe",
    b"\x00",
    b"[",
]
INVALID_WITHOUT_ID: list[object] = [
    1,
    "text",
    None,
    request(None, "ping"),
    request(True, "ping"),
    request(1.5, "ping"),
    request({}, "ping"),
    request([1], "ping"),
]
INVALID_WITH_ID: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "id": 5},
    {"jsonrpc": "1.0", "id": 5, "method": "ping"},
    {"id": 5, "method": "ping"},
    {"jsonrpc": "2.0", "id": 5, "method": 1},
    request(5, "ping", "text"),
    request(5, "ping", [1]),
    {**request(5, "ping"), "result": {}},
]
INVALID_AND_DROPPED: list[dict[str, Any]] = [
    {},
    {"jsonrpc": "2.0"},
    {"jsonrpc": "2.0", "method": 5},
    notification("notifications/initialized", "text"),
    {"jsonrpc": "2.0", "result": {}},
    {"jsonrpc": "2.0", "id": None, "error": {}},
    {"jsonrpc": "2.0", "id": 5, "result": {}, "error": {}},
]
WANTED: dict[str, Any] = {
    "promptsListChanged": True,
    "toolsListChanged": True,  # which is not offered
    "resourceSubscriptions": ["x:y"],  # nor is this
    "unknown": 1,
}
GIVEN: dict[str, Any] = {"promptsListChanged": True}
HALF_AN_ENVELOPE: list[dict[str, Any]] = [
    request(5, "echo", {"_meta": {f"{PREFIX}protocolVersion": MODERN}}),
    request(5, "echo", {"_meta": {f"{PREFIX}protocolVersion": None}}),
    request(5, "initialize", initialize()["params"] | {"_meta": {f"{PREFIX}protocolVersion": 1}}),
    modern(5, "echo", capabilities=[]),
    modern(5, "echo", capabilities="roots"),
    modern(5, "echo", version=20260728),
    modern(5, "echo", version=["2026-07-28"]),
    modern(5, "echo", logLevel="loud"),
    modern(5, "echo", logLevel=1),
    modern(5, "server/discover", capabilities=0),
    # What is looked at first is told first.
    modern(5, "unknown", version="1999-01-01", capabilities=0),
    modern(5, "unknown", version=0),
]
REFUSED_METHODS = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "tasks/list",
    "unknown",
    "",
    "notifications/cancelled",
]
TABLE: list[Row] = [
    *(bad("undecodable, or not JSON", ANY, sent, error(None, PARSE)) for sent in NOISE),
    Row(
        "array, in a session of 2025-03-26",
        frozenset({State.BATCHING}),
        [request(5, "ping"), request(6, "echo", {"x": 1})],
        [[result(5), result(6, {"x": 1})]],
    ),
    bad(
        "array, in a session of 2025-03-26, with initialize inside",
        frozenset({State.BATCHING}),
        [request(5, "ping"), initialize(6)],
        error(None, INVALID),
    ),
    bad("array, otherwise", NO_BATCHES, [request(5, "ping")], error(None, INVALID)),
    bad("array, otherwise", NO_BATCHES, [initialize(5)], error(None, INVALID)),
    bad("array, empty", ANY, [], error(None, INVALID)),
    *(
        bad("invalid, no id to read", ANY, sent, error(None, INVALID))
        for sent in INVALID_WITHOUT_ID
    ),
    *(bad("invalid, with an id", ANY, sent, error(5, INVALID)) for sent in INVALID_WITH_ID),
    *(bad("invalid, like a response or notification", ANY, sent) for sent in INVALID_AND_DROPPED),
    *(bad("modern, half an envelope", ANY, sent, error(5, PARAMS)) for sent in HALF_AN_ENVELOPE),
    *(
        Row("modern, not served", ANY, modern(5, method, version=version), [error(5, VERSION)])
        for version in (LATEST, OLDEST, "1999-01-01", "", "2026-07-28 ")
        for method in ("echo", "server/discover", "initialize", "unknown")
    ),
    *(
        Row("modern, no such method", ANY, modern(5, method), [error(5, METHOD)])
        for method in REFUSED_METHODS
    ),
    Row("modern, capability", ANY, modern(5, "roots"), [error(5, CAPABILITY)]),
    Row("modern", ANY, modern(5, "square", {"x": 3}), [modern_result(5, {"x": 9})]),
    Row("modern", ANY, modern("", "square", {"x": 3}), [modern_result("", {"x": 9})]),
    Row("modern", ANY, modern("9", "square", {"x": 3}), [modern_result("9", {"x": 9})]),
    Row("modern", ANY, modern(5, "server/discover"), [modern_result(5, DISCOVERED)]),
    Row(
        "modern, in an array of a session of 2025-03-26",
        frozenset({State.BATCHING}),
        [modern(5, "square", {"x": 3}), request(6, "ping"), modern(10, "ping")],
        [[result(6), error(10, METHOD), modern_result(5, {"x": 9})]],
    ),
    *(
        Row("subscriptions/listen", ANY, listening(id_, **WANTED), [acknowledged(id_, **GIVEN)])
        for id_ in (5, "5", "", 0, "6")
    ),
    Row("subscriptions/listen, to nothing", ANY, listening(5), [acknowledged(5)]),
    *(
        bad("subscriptions/listen, bad filter", ANY, sent, error(5, PARAMS))
        for sent in (
            modern(5, LISTEN),
            listening(5, promptsListChanged="yes"),
            listening(5, resourceSubscriptions="x:y"),
        )
    ),
    bad(
        "subscriptions/listen, in an array of a session of 2025-03-26",
        frozenset({State.BATCHING}),
        [request(5, "ping"), listening(5)],
        error(None, INVALID),
    ),
    Row("subscriptions/listen, not modern", SESSION, request(5, LISTEN), [error(5, METHOD)]),
    bad("subscriptions/listen, not modern", BEFORE, request(5, LISTEN), error(5, PARAMS)),
    bad("server/discover", ANY, request(5, "server/discover"), error(5, PARAMS)),
    bad("server/discover", ANY, request(5, "server/discover", {"_meta": {}}), error(5, PARAMS)),
    bad(
        "server/discover",
        ANY,
        request(5, "server/discover", {"_meta": {f"{PREFIX}clientCapabilities": {}}}),
        error(5, PARAMS),
    ),
    Row("initialize", BEFORE, initialize(5), later=[{**result(5), "result": "of initialize"}]),
    bad("initialize", OPENING | SESSION, initialize(5), error(5, INVALID)),
    bad("initialize, bad parameters", BEFORE, request(5, "initialize"), error(5, PARAMS)),
    Row("ping", ANY, request(5, "ping"), [result(5)]),
    Row("ping", ANY, request("", "ping", {"_meta": {}}), [result("")]),
    Row("other request", SESSION, request(5, "echo", {"x": 1}), [result(5, {"x": 1})]),
    Row("other request", SESSION, request(5, "unknown"), [error(5, -32601)]),
    Row("other request", OPENING, request(5, "echo", {"x": 1}), later=[result(5, {"x": 1})]),
    bad("other request", BEFORE, request(5, "echo"), error(5, PARAMS)),
    bad("other request", BEFORE, request(5, "logging/setLevel"), error(5, PARAMS)),
    Row("cancelled, in flight", SESSION, cancelled(7), ends=7),
    Row("cancelled, in flight", BESIDE, cancelled(9), ends=9),
    Row("cancelled, open subscription", BESIDE, cancelled(6), ends=6),
    Row("cancelled, never initialize", OPENING, cancelled("hello")),
    Row("cancelled, unknown", ANY, cancelled(99)),
    Row("cancelled, of another type", ANY, cancelled("7")),
    Row("cancelled, of another type", ANY, cancelled("9")),
    Row("cancelled, of another type", ANY, cancelled("6")),
    Row("cancelled, malformed", ANY, cancelled(None)),
    Row("cancelled, malformed", ANY, cancelled({})),
    Row("cancelled, malformed", ANY, notification("notifications/cancelled")),
    *(
        Row("known notification", states, notification(method), noted=noted)
        for method in (
            "notifications/initialized",
            "notifications/progress",
            "notifications/roots/list_changed",
        )
        for states, noted in ((SESSION | OPENING, [method]), (BEFORE, []))
    ),
    Row("unknown notification", ANY, notification("notifications/unknown")),
    Row("unknown notification", ANY, notification("tools/call", {"name": "x"})),
    Row("response, to an open question", SESSION, result(1, ROOTS), [result(8, ROOTS)], ends=1),
    bad("response, otherwise", PENDING, result(1, ROOTS)),
    bad("response, otherwise", ANY, result(99, ROOTS)),
    bad("response, otherwise", ANY, result("1", ROOTS)),
    bad("response, otherwise", ANY, {**error(99, 1), "error": {"code": 1, "message": ""}}),
    bad("id in flight", SESSION, request(7, "echo"), error(7, INVALID)),
    bad(
        "id in flight",
        SESSION,
        request(7, "logging/setLevel", {"level": "info"}),
        error(7, INVALID),
    ),
    *(
        bad("id in flight, of a modern request", BESIDE, sent, error(9, INVALID))
        for sent in (
            request(9, "square", {"x": 3}),
            request(9, "logging/setLevel", {"level": "info"}),
            initialize(9),
            modern(9, "square", {"x": 3}),
            modern(9, "server/discover"),
        )
    ),
    *(
        bad("id in flight, of a subscription", BESIDE, sent, error(6, INVALID))
        for sent in (
            request(6, "square", {"x": 3}),
            request(6, "logging/setLevel", {"level": "info"}),
            initialize(6),
            modern(6, "square", {"x": 3}),
            modern(6, "server/discover"),
            listening(6, **WANTED),
        )
    ),
    bad("id in flight, of a modern request", BESIDE, listening(9), error(9, INVALID)),
    Row("id in flight, pings", BESIDE, request(9, "ping"), [result(9)]),
    bad("id in flight, and modern", SESSION, modern(7, "square", {"x": 3}), error(7, INVALID)),
    bad("id in flight, and modern", SESSION, modern(7, "server/discover"), error(7, INVALID)),
    bad("id in flight, and modern", SESSION, listening(7), error(7, INVALID)),
    bad("id of initialize", OPENING, modern("hello", "square", {"x": 3}), error("hello", INVALID)),
]
"""Section 16 of the checklist, in its order; for end of file and shutdown see below."""


async def bring_to(state: State, manager: SessionManager, server: Server) -> Peer:
    peer = await connect(manager)
    if state is State.OPENING:
        await peer.send(initialize("hello"))
        await wait_all_tasks_blocked()
    elif state in SESSION:
        server.may_open.set()
        version = BATCHES if state is State.BATCHING else LATEST
        await peer.send(initialize("hello", version, {"roots": {}}))
        await peer.receive()
        await peer.send(request(7, "wait"), request(8, "roots"))
        assert [one["id"] for one in await peer.waiting()] == [1]
    if state in BESIDE:
        await peer.send(modern(9, "wait"), listening(6, **WANTED))
        assert await peer.waiting() == [acknowledged(6, **GIVEN)]
    return peer


def heard(events: EventStream) -> list[Event]:
    """What happened so far."""
    happened: list[Event] = []
    with suppress(trio.WouldBlock):
        while True:
            happened.append(events.receive_nowait())
    return happened


def of_initialize(message: Any) -> Any:
    """The same answer, shorter: what ``initialize`` is answered has tests of its own."""
    if isinstance(message, list):
        return [of_initialize(one) for one in message]
    if isinstance(message, dict) and "protocolVersion" in message.get("result", ()):
        return {**message, "result": "of initialize"}
    return told(message)


@pytest.mark.parametrize(
    "row, state",
    [
        pytest.param(row, state, id=f"{number} {row} [{state.name}]")
        for number, row in enumerate(TABLE)
        for state in State
        if state in row.states
    ],
)
async def test_each_message_in_each_state_is_answered_as_the_decision_table_says(
    row: Row, state: State, server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        peer = await bring_to(state, manager, server)
        before = peer.session.metrics
        with peer.session.subscribe() as events:
            await peer.send(row.sent)
            answers = [of_initialize(one) for one in await peer.waiting()]
            assert answers == row.answers
            happened = heard(events)
        # Bad input is counted and reported, and nothing else is.
        assert [type(one) for one in errors_of(happened)] == [PeerViolation] * row.bad
        after = peer.session.metrics
        assert after.bad_input - before.bad_input == row.bad
        assert after.messages_received - before.messages_received == 1
        flat = [one for some in answers for one in (some if isinstance(some, list) else [some])]
        refused = [one for one in flat if "error" in one]
        assert after.errors - before.errors == len(refused)
        assert after.cancelled - before.cancelled == (row.ends in (6, 7, 9))
        # The session continues, with the next message and with all that it had to do.
        assert await peer.ask("next", "ping") == result("next")
        server.may_open.set()
        answers = [of_initialize(one) for one in await peer.waiting()]
        hello = [{**result("hello"), "result": "of initialize"}] * (state is State.OPENING)
        assert answers == hello + row.later
        assert server.noted == row.noted
        if state in SESSION:
            left = {1, 7} - {row.ends}
            assert {number for number in left if number == 1} == set(
                () if (outgoing := client_of(peer.session).outgoing) is None else outgoing._open
            )
        else:
            # It can still be begun, if it was not.
            await peer.send(initialize("again"))
            (answer,) = await peer.waiting()
            begun = state is State.OPENING or bool(row.later)
            assert ("error" in answer) is begun
        # Each subscription is notified, once, and nothing else is.
        manager.notify_list_changed("prompts")
        manager.notify_list_changed("tools")
        told_of = [one["params"]["_meta"] for one in await peer.waiting() if "params" in one]
        listens = [6] * (state in BESIDE and row.ends != 6)
        acknowledgements = [one["params"] for one in row.answers if "params" in one]
        listens += [
            one["_meta"][SUBSCRIPTION_ID] for one in acknowledgements if one["notifications"]
        ]
        assert told_of == [{SUBSCRIPTION_ID: one} for one in listens]
        server.may_answer.set()
        there = [result(7)] * (state in SESSION) + [modern_result(9)] * (state in BESIDE)
        answers = [told(one) for one in await peer.waiting()]
        assert sorted(answers, key=str) == [one for one in there if one["id"] != row.ends]
        assert peer.session.metrics.in_flight == (state in SESSION and row.ends != 1)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("line", ["end of file", "server shutdown"])
async def test_the_last_rows_of_the_table(
    line: str, state: State, server: Server, autojump_clock: MockClock
) -> None:
    """Subscriptions end at once, requests have a grace, and then the connection ends."""
    async with serving(server.router, cleanup=CleanupConfig(eof_grace=5, drain_grace=5)) as manager:
        peer = await bring_to(state, manager, server)
        async with trio.open_nursery() as nursery:
            if line == "end of file":
                await peer.channel.send_eof()
            else:
                nursery.start_soon(manager.drain)
            assert [told(one) for one in await peer.waiting()] == [ended(6)] * (state in BESIDE)
            assert trio.current_time() == 0
            await peer.session.wait_terminated()
            open_ones: dict[State, list[object]] = {
                State.OPENING: ["hello"],
                State.FRESH: [],
                State.ALONE: [9],
            }
            expected = open_ones.get(state, [7, 8] + [9] * (state in BESIDE))
            assert trio.current_time() == (5 if expected else 0)
            answers = [told(one) for one in await peer.waiting() if "method" not in one]
            assert sorted(answers, key=str) == [error(one, -32603) for one in expected]
            with pytest.raises(trio.EndOfChannel):
                await peer.channel.receive()


# The handshake.


@pytest.mark.parametrize(
    "asked, agreed",
    [
        *((version, version) for version in VERSIONS),
        ("2026-07-28", LATEST),
        ("1999-01-01", LATEST),
        ("", LATEST),
        ("latest", LATEST),
    ],
)
async def test_initialize_negotiates_the_protocol_version(
    asked: str, agreed: str, server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with serving(server.router) as manager:
        peer = await connect(manager)
        with manager.subscribe() as events:
            await peer.send(initialize("hello", asked, {"roots": {}}))
            named = {"name": "server", "version": "1.2"}
            titled = {**named, "title": "The Server"}
            assert await peer.receive() == result(
                "hello",
                {
                    "protocolVersion": agreed,
                    "capabilities": CAPABILITIES,
                    "serverInfo": named if agreed in VERSIONS[:2] else titled,
                    "instructions": "Be kind.",
                },
            )
            connected = events.receive_nowait()
        assert isinstance(connected, Connected)
        client = peer.session.client
        assert connected.client is client
        assert client is not None
        assert (client.client_id, client.client_version) == ("tester", "1")
        assert client.capabilities == {"roots": {}}
        assert peer.session.protocol_version == agreed
        assert peer.session.metrics.bad_input == 0
        # The handshake is over with the client's word for it, or with its first request.
        assert peer.session.state is SessionState.INITIALIZING
        await peer.ask(1, "echo")
        assert peer.session.state is SessionState.ACTIVE  # type: ignore[comparison-overlap]  # it moved


async def test_initialized_ends_the_handshake(server: Server, autojump_clock: MockClock) -> None:
    server.may_open.set()
    async with serving(server.router) as manager:
        peer = await connect(manager)
        await peer.send(notification("notifications/initialized"))
        await wait_all_tasks_blocked()
        assert peer.session.state is SessionState.INITIALIZING
        await peer.send(initialize(), request("p", "ping"), notification("notifications/unknown"))
        await peer.waiting()
        assert peer.session.state is SessionState.INITIALIZING
        await peer.send(notification("notifications/initialized"))
        await wait_all_tasks_blocked()
        assert peer.session.state is SessionState.ACTIVE  # type: ignore[comparison-overlap]  # it moved


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"protocolVersion": LATEST},
        {"protocolVersion": 5, "capabilities": {}, "clientInfo": {"name": "", "version": ""}},
        {"protocolVersion": LATEST, "capabilities": [], "clientInfo": {"name": "", "version": ""}},
        {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "x"}},
        {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": None},
    ],
    ids=repr,
)
async def test_bad_parameters_may_be_mended(
    params: object, server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with serving(server.router) as manager:
        peer = await connect(manager)
        assert brief(await peer.ask(1, "initialize", params)) == error(1, PARAMS)
        assert peer.session.client is None
        assert peer.session.metrics.bad_input == 1
        assert (await peer.establish())["protocolVersion"] == LATEST


async def test_a_request_before_initialize_names_both_ways(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        peer = await connect(manager)
        refusal = (await peer.ask(1, "tools/list"))["error"]
        assert "initialize" in refusal["message"]
        assert "_meta" in refusal["message"]
        assert refusal["data"] == {"supported": VERSIONS}


async def test_initialize_may_carry_meta(server: Server, autojump_clock: MockClock) -> None:
    server.may_open.set()
    async with serving(server.router) as manager:
        peer = await connect(manager)
        hello = initialize()
        hello["params"]["_meta"] = {"progressToken": 0}
        await peer.send(hello)
        assert (await peer.receive())["result"]["protocolVersion"] == LATEST


# What is pipelined behind ``initialize``.


async def test_what_is_held_is_taken_in_order(server: Server, autojump_clock: MockClock) -> None:
    order: list[object] = []

    @server.router.request("order")
    async def in_order(ctx: RequestContext) -> None:
        order.append(ctx.request_id)
        await trio.sleep(1)

    async with serving(server.router, limits=SessionLimits(max_in_flight=1)) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize(),
            request(1, "order"),
            notification("notifications/initialized"),
            request(2, "order"),
            request("p", "ping"),
            request(2, "order"),
        )
        assert await peer.waiting() == [result("p")]
        assert order == server.noted == []
        server.may_open.set()
        answers = [brief(await peer.receive()) for _ in range(4)]
        assert answers[1:] == [error(2, INVALID), result(1), result(2)]
        assert order == [1, 2]
        assert peer.session.client is not None


async def test_what_is_held_is_bounded(server: Server, autojump_clock: MockClock) -> None:
    async with serving(server.router, limits=SessionLimits(max_queued=3)) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize(),
            notification("notifications/initialized"),
            request(1, "echo"),
            request(2, "echo"),
            request(3, "echo"),
            notification("notifications/progress"),
        )
        (busy,) = await peer.waiting()
        assert brief(busy) == error(3, -32603)
        assert "busy" in busy["error"]["message"]
        assert peer.session.metrics.dropped == 1
        # One that is cancelled makes room.
        await peer.send(cancelled(1), request(4, "echo"), request(5, "echo"))
        assert [brief(one) for one in await peer.waiting()] == [error(5, -32603)]
        server.may_open.set()
        assert sorted(str(one["id"]) for one in await peer.waiting()) == ["0", "2", "4"]
        assert server.noted == ["notifications/initialized"]


@pytest.mark.parametrize("cancelled_id", [1, "1", True, 0, None, 99], ids=repr)
async def test_what_is_held_may_be_cancelled(
    cancelled_id: object, server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize(0),
            notification("notifications/initialized"),
            request(1, "echo"),
            request("2", "echo"),
            cancelled(cancelled_id),
        )
        assert await peer.waiting() == []
        server.may_open.set()
        hits = cancelled_id == 1 and cancelled_id is not True
        assert {one["id"] for one in await peer.waiting()} == {0, "2"} | (set() if hits else {1})
        assert peer.session.metrics.cancelled == hits


async def test_a_client_that_has_said_all_is_answered(
    server: Server, autojump_clock: MockClock
) -> None:
    # As with ``server < conversation.jsonl``: the end comes long before the session is open.
    async with serving(server.router, cleanup=CleanupConfig(eof_grace=10)) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize(0), notification("notifications/initialized"), request(1, "echo")
        )
        await peer.channel.send_eof()
        await trio.sleep(9)
        server.may_open.set()
        assert [one["id"] for one in await peer.waiting()] == [0, 1]
        with pytest.raises(trio.EndOfChannel):
            await peer.channel.receive()
        assert server.noted == ["notifications/initialized"]
        assert peer.session.termination_reason is TerminationReason.CLIENT_CLOSED


async def test_a_drain_waits_for_an_opening_session(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        peer = await connect(manager)
        await peer.send(initialize(0), request(1, "echo"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                report = await manager.drain(grace=10)
                assert report.completed == (peer.session.session_id,)

            await trio.sleep(5)
            await peer.send(request(2, "echo"))
            assert [brief(one) for one in await peer.waiting()] == [error(2, -32603)]
            server.may_open.set()
        assert [one["id"] for one in await peer.waiting()] == [0, 1]


# Openings that fail.


async def assert_turned_down(manager: SessionManager, peer: Peer) -> list[Any]:
    """The answers to what was sent; nothing is left of the session."""
    answers = []
    with pytest.raises(trio.EndOfChannel):
        while True:
            answers.append(await peer.receive())
    await peer.session.wait_terminated()
    assert manager.sessions() == []
    assert not peer.session.busy
    return answers


@pytest.mark.parametrize("way", ["lifespan raises", "lifespan hangs", "hook vetoes", "hook hangs"])
async def test_an_opening_that_fails(way: str, autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        if way == "lifespan raises":
            raise OSError("secret")
        await trio.sleep(80_000)
        yield  # pragma: no cover  # it fails before, or is not entered at all

    async def created(session: Session) -> None:
        if way == "hook vetoes":
            raise PermissionError("secret")
        if way == "hook hangs":
            await trio.sleep_forever()

    server = Router("r", lifespan=lifespan)
    hooks = SessionHooks(on_session_created=created)
    cleanup = CleanupConfig(connection_handshake_timeout=20, hook_budget=5)
    async with serving(server, hooks=hooks, cleanup=cleanup) as manager:
        peer = await connect(manager)
        start = trio.current_time()
        await peer.send(
            initialize(0), notification("notifications/initialized"), request(1, "echo")
        )
        answers = await assert_turned_down(manager, peer)
        assert [brief(one) for one in answers] == [error(0, -32603), error(1, -32603)]
        assert "secret" not in str(answers)
        reason, seconds = {
            "lifespan raises": (TerminationReason.CRASHED, 0),
            "lifespan hangs": (TerminationReason.HANDSHAKE_TIMEOUT, 20),
            "hook vetoes": (TerminationReason.REQUESTED, 0),
            "hook hangs": (TerminationReason.REQUESTED, 5),
        }[way]
        assert peer.session.termination_reason is reason
        assert seconds <= trio.current_time() - start <= seconds + 5
        # Its requests were never handed on.
        assert peer.session.metrics.requests == 0


@pytest.mark.parametrize(
    "router",
    [Router("r", instructions=cast("str", object())), Router(cast("str", object()))],
    ids=["instructions", "name"],
)
async def test_a_server_whose_description_cannot_be_encoded_ends_the_handshake_with_errors(
    router: Router, autojump_clock: MockClock
) -> None:
    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.send(initialize(0), request(1, "echo"))
        answers = await assert_turned_down(manager, peer)
        assert [brief(one) for one in answers] == [error(0, -32603), error(1, -32603)]
        assert peer.session.termination_reason is TerminationReason.CRASHED
        assert peer.session.error is not None


async def test_the_client_may_leave_while_it_is_being_answered(
    server: Server, autojump_clock: MockClock
) -> None:
    async with serving(server.router) as manager:
        peer = await connect(manager)
        # One by one: the answers to a burst are written together, and later.
        for message in (
            initialize(0),
            notification("notifications/initialized"),
            request(1, "wait"),
        ):
            await peer.send(message)
            await wait_all_tasks_blocked()
        # Its end stays open, but is not read: the answer to ``initialize`` finds that out.
        peer.channel._incoming.unread = True
        server.may_open.set()
        reason = await peer.session.wait_terminated()
        assert reason is TerminationReason.TRANSPORT_FAILED
        assert peer.session.metrics.requests == 0
        assert not peer.session.busy


# Requests that the session answers itself.


async def test_log_messages_are_sent_from_the_requested_level_on(
    server: Server, autojump_clock: MockClock
) -> None:
    @server.router.request("log")
    async def log(ctx: RequestContext) -> None:
        for level in ("debug", "info", "error"):
            await ctx.log(level, level)

    server.may_open.set()
    async with talking(server.router) as peer:

        async def heard() -> list[str]:
            await peer.send(request("log", "log"))
            return [one["params"]["level"] for one in await peer.waiting() if "params" in one]

        assert await heard() == ["info", "error"]  # The default level.
        assert await peer.ask(1, "logging/setLevel", {"level": "debug"}) == result(1)
        assert await heard() == ["debug", "info", "error"]
        assert await peer.ask(1, "logging/setLevel", {"level": "info"}) == result(1)
        assert await heard() == ["info", "error"]
        for params in ({}, {"level": "loud"}, {"level": 3}, {"level": ["info"]}):
            assert brief(await peer.ask(1, "logging/setLevel", params)) == error(1, PARAMS)
        assert await heard() == ["info", "error"]
        assert await peer.ask(1, "logging/setLevel", {"level": "emergency"}) == result(1)
        assert await heard() == []
    router = Router("r", logging=False)
    router.request("log")(log)
    async with talking(router) as peer:
        assert await heard() == []  # It does not declare the capability.
        answer = await peer.ask(1, "logging/setLevel", {"level": "info"})
        assert answer == error(1, -32601, "Method not found")


def readable(*, subscribe: bool) -> Router:
    router = Router("r", resource_subscriptions=subscribe)

    @router.request("resources/list")
    async def resources(ctx: RequestContext) -> None: ...

    return router


async def test_resource_subscriptions_are_limited_checked_and_notified(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_subscriptions=2)
    async with serving(readable(subscribe=True), limits=limits) as manager:
        peer, other = await connect(manager), await connect(manager)
        for one in (peer, other):
            await one.establish()

        async def subscribe(uri: object, verb: str = "subscribe") -> Any:
            return brief(await peer.ask(1, f"resources/{verb}", {"uri": uri}))

        assert await subscribe("a:1", "unsubscribe") == result(1)
        assert await subscribe("a:1") == result(1)
        assert await subscribe("a:2") == result(1)
        # The limit is one of different resources.
        assert await subscribe("a:2") == result(1)
        assert await subscribe("a:3") == error(1, PARAMS)
        assert peer.session.subscribed_resources == {"a:1", "a:2"}
        assert manager.notify_resource_updated("a:1").sent == 1
        assert manager.notify_resource_updated("a:3").sent == 0
        (told,) = await peer.waiting()
        assert told == notification("notifications/resources/updated", {"uri": "a:1"})
        assert await other.waiting() == []
        assert await subscribe("a:1", "unsubscribe") == result(1)
        assert await subscribe("a:3") == result(1)
        assert peer.session.subscribed_resources == {"a:2", "a:3"}
        for uri in (None, 5, ["a:1"]):
            for verb in ("subscribe", "unsubscribe"):
                assert await subscribe(uri, verb) == error(1, PARAMS)


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
async def test_subscriptions_that_are_not_offered(verb: str, autojump_clock: MockClock) -> None:
    for router in (readable(subscribe=False), Router("r", resource_subscriptions=True)):
        async with talking(router) as peer:
            answer = await peer.ask(1, f"resources/{verb}", {"uri": "a:1"})
            assert answer == error(1, -32601, "Method not found")


async def test_metrics_count_messages_bytes_requests_and_errors(
    server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with talking(server.router) as peer:
        before = peer.session.metrics
        sent = [
            request(1, "echo"),
            request(2, "logging/setLevel", {"level": "info"}),
            request(3, "logging/setLevel"),
            request(4, "ping"),
        ]
        frames = [msgspec.json.encode(one) for one in sent]
        await peer.send(*frames)
        answers = await peer.waiting()
        after = peer.session.metrics
        assert after.messages_received - before.messages_received == 4
        assert after.bytes_received - before.bytes_received == sum(map(len, frames))
        assert after.messages_sent - before.messages_sent == len(answers) == 4
        assert after.bytes_sent - before.bytes_sent == sum(
            len(msgspec.json.encode(one)) for one in answers
        )
        assert after.requests - before.requests == 2
        assert after.errors - before.errors == 1


async def test_pings_do_not_postpone_the_idle_timeout(
    server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with talking(server.router) as peer:
        await peer.ask(1, "echo")
        await wait_all_tasks_blocked()
        await trio.sleep(10)
        await peer.ask(2, "ping")
        await peer.send(cancelled(9), b"noise", {"jsonrpc": "2.0", "id": 5, "result": {}})
        await peer.waiting()
        assert peer.session.idle_time == 10
        for message in (
            request(3, "logging/setLevel", {"level": "info"}),
            notification("notifications/unknown"),
        ):
            await peer.send(message)
            await peer.waiting()
            assert peer.session.idle_time == 0
            await trio.sleep(1)


# Nothing waits here, and nothing is taken when the session is over.


async def test_receiving_a_message_is_not_a_checkpoint(
    server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with talking(server.router) as peer:
        outlet = client_of(peer.session).sink
        with assert_no_checkpoints():
            for row in TABLE:
                if isinstance(row.sent, bytes):
                    receive(peer.session, row.sent, outlet)
                else:
                    receive(peer.session, msgspec.json.encode(row.sent), outlet)
            refused = Invalid("message is too long", PARSE)
            refuse_frame(client_of(peer.session), refused, outlet)
        answers = await peer.waiting()
        assert error(None, PARSE, "message is too long") in answers


async def test_a_draining_server_refuses_new_requests_but_answers_pings(
    server: Server, autojump_clock: MockClock
) -> None:
    server.may_open.set()
    async with serving(server.router) as manager:
        peer = await connect(manager)
        await peer.establish(capabilities={"roots": {}})
        fresh = await connect(manager)
        await peer.send(request(7, "wait"), request(8, "roots"))
        assert len(await peer.waiting()) == 1
        async with trio.open_nursery() as nursery:
            with fresh.session.lease():
                nursery.start_soon(manager.drain)
                await wait_all_tasks_blocked()
                await fresh.send(initialize(5))
                assert [brief(one) for one in await fresh.waiting()] == [error(5, -32603)]
            await peer.send(
                request(1, "echo"),
                request(2, "logging/setLevel", {"level": "info"}),
                request(3, "ping"),
                result(1, ROOTS),
            )
            refused = await peer.waiting()
            text = "server is shutting down"
            assert refused == [
                error(1, -32603, text),
                error(2, -32603, text),
                result(3),
                result(8, ROOTS),
            ]
            # Cancellations pass too; the last thing to do is gone with this one.
            await peer.send(cancelled(7))
        assert peer.session.termination_reason is TerminationReason.SHUTDOWN
        assert peer.session.metrics.cancelled == 1


async def test_an_ended_session_takes_nothing(autojump_clock: MockClock) -> None:
    router = Router("r")
    release = trio.Event()

    @router.request("stubborn")
    async def stubborn(ctx: RequestContext) -> None:
        with trio.move_on_after(1000, shield=True):
            await release.wait()

    @router.notification("notifications/note")
    async def note(ctx: RequestContext) -> None: ...

    async with talking(router) as peer:
        await peer.send(request(1, "stubborn"))
        await peer.waiting()
        peer.session.terminate()
        await wait_all_tasks_blocked()
        await peer.waiting()
        requests = peer.session.metrics.requests
        for message in (
            notification("notifications/note"),
            request(2, "echo"),
            initialize(3),
            cancelled(1),
        ):
            receive(peer.session, msgspec.json.encode(message), client_of(peer.session).sink)
        assert [brief(one) for one in await peer.waiting()] == [error(2, -32603), error(3, -32603)]
        assert peer.session.metrics.requests == requests
        release.set()
        await peer.session.wait_terminated()


async def test_a_request_after_the_end_of_its_session_is_refused(
    autojump_clock: MockClock,
) -> None:
    sent: list[Any] = []
    sink: Any = SimpleNamespace(send_result=sent.append)
    async with talking(Router("r")) as peer:
        peer.session.terminate()
        await peer.session.wait_terminated()
        await wait_all_tasks_blocked()
        for message in (
            notification("notifications/note"),
            request(2, "echo"),
            initialize(3),
            cancelled(1),
            modern(4, "echo"),
        ):
            receive(peer.session, msgspec.json.encode(message), sink)
        receive(peer.session, b"{", sink)
        refused = [brief(msgspec.json.decode(frame)) for frame in sent]
        assert refused == [*(error(number, -32603) for number in (2, 3, 4)), error(None, -32700)]


async def test_an_error_of_the_application_keeps_its_data(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("fail")
    async def fail(ctx: RequestContext) -> None:
        raise McpError(-32002, "Resource not found", {"uri": "a:1"})

    async with talking(router) as peer:
        answer = await peer.ask(1, "fail")
        assert answer["error"] == {
            "code": -32002,
            "message": "Resource not found",
            "data": {"uri": "a:1"},
        }
