"""The public names as user code has them, for type checkers only: nothing in here is run.

`nox -s typing` reads it with mypy and pyright, `nox -s typing_compat` with the mypy that users of
trio-typing have. `test_api.py` looks after that no public name is missing.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
    Set as AbstractSet,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, assert_type

import attrs
import msgspec
import trio

from trio_mcp_session import (
    ABSENT,
    DURATION_BUCKETS,
    TRANSITIONS,
    Absent,
    AccessRevoked,
    AdmissionPolicy,
    Annotations,
    Application,
    ASGIApplication,
    AudioContent,
    Authenticate,
    AuthenticationFailed,
    BatchChannel,
    BearerAuth,
    BoundAddress,
    BroadcastReport,
    CacheHint,
    CallNext,
    CannotServe,
    CapabilityMissing,
    CleanupConfig,
    CleanupFailed,
    ClientInfo,
    Completion,
    Component,
    Connected,
    Content,
    Depends,
    Disconnected,
    DrainReport,
    Elicitation,
    ElicitResult,
    EmbeddedResource,
    Ending,
    EndingReason,
    Eras,
    Error,
    Event,
    EventLog,
    EventLoopBlocked,
    EventsPurged,
    EventStore,
    EventStoreFailed,
    EventStream,
    ExitRequested,
    ForeignApplication,
    Form,
    FormInvalid,
    Handle,
    HandleError,
    HandleKind,
    HandlerCrashed,
    HeldContextEnded,
    HookFailed,
    HttpOptions,
    HttpServerLimits,
    Icon,
    ImageContent,
    InFlightRequest,
    InputRequired,
    Instrumentation,
    InsufficientScope,
    InvalidSession,
    InvalidTransition,
    JsonLogFormatter,
    JwtVerifier,
    Lagged,
    Lifespan,
    LifespanFailed,
    LifetimeExpiring,
    LogContextFilter,
    LogLevel,
    ManagerStatistics,
    McpError,
    MemoryChannel,
    MemoryEventStore,
    MessageSink,
    Middleware,
    NoChannel,
    NoPrincipal,
    NoSession,
    OnDisconnect,
    OpeningRateExceeded,
    OpenTelemetry,
    Page,
    PeerViolation,
    Principal,
    PrometheusMetrics,
    Prompt,
    PromptMessage,
    PromptResult,
    Question,
    QuestionDetails,
    QuestionError,
    QuestionFinished,
    QuestionOutcome,
    QuestionTimeout,
    RateLimit,
    RequestContext,
    RequestDetails,
    RequestFailed,
    RequestFinished,
    RequestObserver,
    RequestOutcome,
    RequestSource,
    RequestStateKeys,
    Resource,
    ResourceContents,
    ResourceLink,
    Revision,
    Role,
    Roots,
    Router,
    Sampling,
    SendFailed,
    ServerInfo,
    ServerLifespan,
    ServerLifespanFailed,
    Session,
    SessionConfig,
    SessionDetails,
    SessionError,
    SessionEvent,
    SessionFinished,
    SessionHealth,
    SessionHooks,
    SessionId,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionMetrics,
    SessionOutcome,
    SessionRejected,
    SessionSink,
    SessionState,
    SessionStore,
    SessionTerminated,
    SessionVetoed,
    ShuttingDown,
    Skill,
    SkillFiles,
    SkillLimits,
    SlowReader,
    StateChanged,
    StateKey,
    TaskChanged,
    TaskCrashed,
    TaskDetails,
    TaskInfo,
    TaskMode,
    TaskObserver,
    TaskOutcome,
    TaskResultLost,
    TaskStatus,
    TerminationReason,
    TextContent,
    Tool,
    ToolAnnotations,
    ToolError,
    ToolResult,
    TooManyQuestions,
    Transport,
    UnknownEvent,
    UnknownHandle,
    UnsupportedVersion,
    UrlElicitation,
    UrlElicitationRequired,
    VerifyToken,
    accept,
    authenticate_unix_peer,
    bounded_stderr,
    check_session_health,
    cleanup_resources,
    cleanup_session,
    connect_memory,
    current_request,
    current_session,
    http_app,
    monitor_session,
    notify_elicitation_complete,
    open_session_manager,
    paginate,
    receive,
    run_cleanup,
    run_http,
    run_stdio,
    sdk_application,
    serve_admin,
    serve_channel,
    serve_http,
    serve_listeners,
    serve_stdio,
    serve_stream,
    serve_tcp,
    serve_unix,
    unix_peer,
    update_session_state,
    validate_sessions,
    with_health_pages,
)

# State and lifespan.

DATABASE = StateKey[sqlite3.Connection]("database")
COUNT: StateKey[int] = StateKey("count")


def is_missing(count: int | None) -> bool:
    return count is None


@asynccontextmanager
async def lifespan(session: Session) -> AsyncIterator[None]:
    session.set_state(DATABASE, sqlite3.connect(":memory:"))
    session.set_state(COUNT, "one")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # an int
    assert_type(session.get_state(DATABASE), sqlite3.Connection)
    assert_type(session.get_state(COUNT, 0), int)
    assert_type(session.get_state(COUNT, None), int | None)
    session.set_state(COUNT, 1, ttl=5)
    assert_type(session.update_state(COUNT, lambda count: count + 1, 0), int)
    session.update_state(COUNT, str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an int
    expected: int | Absent = ABSENT
    assert_type(session.compare_and_set(COUNT, expected, 1, ttl=5), bool)
    assert_type(session.delete_state(COUNT), bool)
    assert_type(await session.wait_state(COUNT, lambda count: count > 1), int)
    assert_type(await session.wait_state(COUNT, is_missing, None), int | None)
    yield


@asynccontextmanager
async def server_lifespan(manager: SessionManager) -> AsyncIterator[sqlite3.Connection]:
    yield sqlite3.connect(":memory:")


as_lifespan: Lifespan = lifespan
as_server_lifespan: ServerLifespan[sqlite3.Connection] = server_lifespan
router = Router(
    "demo",
    "1.0",
    title="Demo",
    instructions="Ask.",
    lifespan=lifespan,
    server_lifespan=server_lifespan,
    eras="both",
    logging=True,
    resource_subscriptions=True,
    cache_hints={"tools/list": CacheHint(max_age=60)},
    page_size=50,
)
assert_type(router.eras, Eras)
eras: Eras = "modern"
Router("demo", eras="old")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no era
first_page = paginate([1, 2], {"cursor": None}, 1, key=str)
assert_type(first_page, Page[int])
assert_type(first_page.items, Sequence[int])
assert_type(first_page.next_cursor, str | None)
assert_type(first_page.result("numbers"), dict[str, Any])
application: Application = router
assert_type(application.server_info, ServerInfo)
assert_type(application.server_info.icons, tuple[Icon, ...])
Router("own", icons=[Icon("data:,")], website_url="https://x.org/", extensions={"acme/x": {}})
assert_type(router.instructions, str | None)

# Handlers keep their types.


@attrs.frozen
class Found:
    names: list[str]


class Where(msgspec.Struct):
    cursor: str | None = None


class Booking(msgspec.Struct):
    guests: int


@dataclass
class Point:
    x: float


@router.tool()
async def add(ctx: RequestContext, a: int, b: int = 0) -> str:
    return str(a + b)


@router.tool("find", title="Find", description="Find.", annotations={"readOnlyHint": True})
async def find(ctx: RequestContext, at: Point, *, limit: int | None = None) -> Found:
    raise ToolError("nothing is there")


choice: OnDisconnect = "finish"


@router.tool(input_schema={"type": "object"}, scopes=["files:read"], on_disconnect=choice)
async def anything(ctx: RequestContext, arguments: dict[str, Any]) -> None:
    pass


@router.request("resources/list")
async def resources(ctx: RequestContext, params: Where) -> Mapping[str, object]:
    raise McpError(-32602, "Invalid cursor", {"cursor": params.cursor})


@router.request("resources/read")
async def read(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    return {"contents": []}


@router.request("x/status")
async def status(ctx: RequestContext) -> None:
    pass


@router.notification("notifications/roots/list_changed")
async def roots_changed(ctx: RequestContext) -> None:
    pass


async def call_handlers(ctx: RequestContext) -> None:
    assert_type(await add(ctx, 1), str)
    assert_type(await find(ctx, Point(1.0), limit=3), Found)
    assert_type(await resources(ctx, Where()), Mapping[str, object])
    await add(ctx, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an int


class Methods:
    """Handlers may be methods, too."""

    async def tool(self, ctx: RequestContext, a: int) -> str:
        return str(a)

    def register(self) -> None:
        router.tool()(self.tool)
        router.remove_tool("tool")


def not_async(ctx: RequestContext) -> str:
    return ""


async def no_context(a: int) -> str:
    return ""


router.tool()(not_async)
router.tool()(no_context)
router.request("x")(no_context)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.notification("x")(not_async)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.tool(add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no parentheses

# The context.


async def use_context(ctx: RequestContext) -> None:
    assert_type(ctx.session, Session)
    assert_type(ctx.method, str)
    assert_type(ctx.params, dict[str, Any])
    assert_type(ctx.request_id, int | str | None)
    assert_type(ctx.client, ClientInfo | None)
    assert_type(ctx.protocol_version, str | None)
    assert_type(ctx.progress_token, int | str | None)
    assert_type(ctx.time_left, float)
    assert_type(ctx.ending, Ending)
    assert_type(ctx.ending.is_set(), bool)
    assert_type(ctx.ending.reason, EndingReason | None)
    assert_type(await ctx.ending.wait(), EndingReason)
    assert_type(ctx.answered, bool)
    await ctx.progress(1)
    await ctx.progress(1.5, total=3, message="half")
    level: LogLevel = "info"
    await ctx.log(level, {"a": 1}, logger="part")
    await ctx.log("loud", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no level
    await ctx.notify("x/told", {"a": 1})
    assert_type(ctx.notify_list_changed("prompts"), BroadcastReport)
    assert_type(ctx.notify_list_changed("tools", principal=ctx.principal), BroadcastReport)
    assert_type(ctx.notify_resource_updated("x:"), BroadcastReport)
    answer = await ctx.elicit("Name?", {"type": "object"}, timeout=10)
    assert_type(answer, ElicitResult[Mapping[str, Any]])
    assert_type(answer.action, Literal["accept", "decline", "cancel"])
    assert_type(answer.content, Mapping[str, Any] | None)
    booked = await ctx.elicit("Table?", Booking)
    assert_type(booked, ElicitResult[Booking])
    assert_type(booked.content, Booking | None)
    assert_type(await ctx.elicit("Table?", Form.of(Booking)), ElicitResult[Booking])
    assert_type(await ctx.elicit_url("Pay", "https://x.org/"), ElicitResult[None])
    assert_type(await ctx.notify_elicitation_complete("1"), None)
    assert_type(await notify_elicitation_complete(ctx.session, "1"), None)
    pay = UrlElicitation("Pay", "https://x.org/", key="pay")
    assert_type(UrlElicitationRequired(pay).elicitations, tuple[UrlElicitation, ...])
    booking, paid = await ctx.ask_all(Elicitation("Table?", Booking), pay)
    assert_type(booking, ElicitResult[Booking])
    assert_type(paid, ElicitResult[None])
    await ctx.sample([{}], max_tokens=5, tools=[{}], tool_choice="required")
    assert_type(await ctx.sample([{}], max_tokens=5, systemPrompt="?"), dict[str, Any])
    assert_type(await ctx.list_roots(), list[dict[str, Any]])
    name, poem, roots = await ctx.ask_all(
        Elicitation("Name?", {}, key="name"), Sampling([{}], max_tokens=5), Roots(), timeout=5
    )
    assert_type(name, ElicitResult[Mapping[str, Any]])
    assert_type(poem, dict[str, Any])
    assert_type(roots, list[dict[str, Any]])
    question: Question[ElicitResult[Mapping[str, Any]]] = Elicitation("Age?", {}, key="age")
    assert_type(ctx.answer_to(question), ElicitResult[Mapping[str, Any]] | None)
    asked = InputRequired(question, state={"name": 1})
    assert_type(asked.questions, dict[str, Question[Any]])
    assert_type(ctx.request_state, Any)
    assert_type(ctx.close_stream(), bool)
    assert_type(ctx.close_stream(retry=30), bool)
    assert_type(current_request(), RequestContext)
    assert_type(current_session(), Session)


# Handles.


class Browser:
    async def open(self, url: str) -> None:
        """Show a page."""


@asynccontextmanager
async def open_browser(size: int, *, dark: bool = False) -> AsyncIterator[Browser]:
    yield Browser()


BROWSERS = HandleKind[Browser](
    "brw",
    open_browser,
    idle_timeout=900,
    lifetime=3600,
    max_handles=50,
    max_per_principal=5,
    concurrent=True,
    admission=AdmissionPolicy.EVICT_IDLE,
)
INFERRED = HandleKind("brw", open_browser)
HandleKind[int]("brw", open_browser)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no int


@router.tool("open", description=f"Open a browser. {BROWSERS.expiry}")
async def use_handles(ctx: RequestContext, browser_id: Annotated[str, BROWSERS]) -> str:
    assert_type(browser_id, str)
    assert_type(ctx.principal, Principal | None)
    assert ctx.principal is not None
    assert_type(ctx.principal.claims, Mapping[str, Any])
    assert_type(ctx.principal.scopes, frozenset[str])
    assert_type(ctx.principal.identity, Principal)
    assert_type(ctx.headers, Mapping[str, str])
    assert_type(ctx.asgi_scope, Mapping[str, Any] | None)
    assert_type(await ctx.open_handle(BROWSERS, 800, dark=True), str)
    async with ctx.use_handle(BROWSERS, browser_id) as browser:
        assert_type(browser, Browser)
        await browser.open("x:")
    async with ctx.use_handle(INFERRED, browser_id) as browser:
        assert_type(browser, Browser)
    handle = ctx.get_handle(BROWSERS, browser_id)
    assert_type(handle, Handle[Browser])
    assert_type(handle.value, Browser)
    assert_type(handle.kind, HandleKind[Browser])
    assert_type(handle.session, Session)
    assert_type(handle.session.handle, Handle[Any] | None)
    assert_type(handle.handle_id, SessionId)
    assert_type(ctx.list_handles(BROWSERS), list[Handle[Browser]])
    assert_type(await ctx.close_handle(BROWSERS, handle.handle_id), bool)
    return handle.handle_id


# Sessions.


class Status(Protocol):
    """What `trio.TaskStatus` is, also with trio-typing, which does not have that name."""

    def started(self, value: str) -> None: ...


async def work(number: int, *, task_status: Status) -> None:  # noqa: ASYNC114  # never run
    task_status.started("up")


async def use_session(session: Session, channel: AsyncIterator[int]) -> None:
    assert_type(session.session_id, SessionId)
    assert_type(session.kind, SessionKind)
    assert_type(session.client, ClientInfo | None)
    assert_type(session.transport, Transport)
    assert_type(session.principal, Principal | None)
    assert_type(session.state, SessionState)
    assert_type(session.termination_reason, TerminationReason | None)
    assert_type(session.error, Exception | None)
    assert_type(session.protocol_version, str | None)
    assert_type(session.subscribed_resources, AbstractSet[str])
    assert_type(session.busy, bool)
    assert_type(session.idle_time + session.age + session.time_left, float)
    metrics = session.metrics
    assert_type(metrics, SessionMetrics)
    assert_type(metrics.created, datetime)
    assert_type(metrics.messages_received, int)

    session.start_soon(work, 1, name="work", service=True)
    started: str = await session.start(work, 1, name="work")
    held = await session.enter_async_context(trio.open_nursery())
    assert_type(held, trio.Nursery)
    with session.lease():
        session.touch()
    session.renew()
    session.renew(60)
    session.terminate(TerminationReason.EVICTED)
    assert_type(await session.wait_terminated(), TerminationReason)
    assert_type(await session.drain(grace=1), DrainReport)
    with session.subscribe(max_buffer=8) as events:
        assert_type(events, EventStream)
    await session.notify("x/told")
    assert_type(session.notify_nowait("x/told", {"a": started}), bool)
    await session.ask("ping", timeout=1)

    assert_type(await check_session_health(session), SessionHealth)
    assert_type(await monitor_session(session, SessionHooks()), TerminationReason)
    update_session_state(session, SessionState.IDLE, reason=TerminationReason.REQUESTED)
    assert_type(await cleanup_session(session, TerminationReason.REQUESTED), TerminationReason)
    await cleanup_resources(session)


# The manager.


async def on_created(session: Session) -> None:
    pass


async def on_terminated(session: Session, reason: TerminationReason) -> None:
    pass


async def on_state_changed(session: Session, old: SessionState, new: SessionState) -> None:
    pass


async def on_error(session: Session, error: Exception) -> None:
    pass


hooks = SessionHooks(
    on_session_created=on_created,
    on_session_terminated=on_terminated,
    on_state_changed=on_state_changed,
    on_error=on_error,
)
keys = RequestStateKeys(b"0123456789abcdef")
keys.rotate(b"fedcba9876543210", keep=2)
config = SessionConfig(
    request_state_keys=keys,
    node="n1",
    limits=SessionLimits(
        max_sessions_of={SessionKind.HANDLE: 5},
        admission=AdmissionPolicy.EVICT_IDLE,
        opening_rate=RateLimit(10, burst=100),
        method_rates={"tools/call": RateLimit(0.5)},
    ),
    cleanup=CleanupConfig(max_idle_time=60, request_timeout=30),
)


async def use_manager() -> None:
    async with open_session_manager(router, config=config, hooks=hooks) as manager:
        assert_type(manager, SessionManager)
        assert_type(manager.server_state(server_lifespan), sqlite3.Connection)
        assert_type(manager.server_state(as_server_lifespan), sqlite3.Connection)
        assert_type(manager.config, SessionConfig)
        session = await manager.create_session(
            ClientInfo(client_id="me"),
            kind=SessionKind.HANDLE,
            transport=Transport("application"),
            principal=Principal("me", "here"),
            lifespan=lifespan,
            clocks=CleanupConfig(),
        )
        assert_type(session, Session)
        async with manager.open_session(lifespan=lifespan) as other:
            assert_type(other, Session)
        assert_type(manager.get_session("id", kind=SessionKind.HANDLE), Session | None)
        assert_type(manager.sessions(lambda session: session.busy), list[Session])
        assert_type(manager.list_sessions(), list[Session])
        assert_type(manager.terminate_session("id", TerminationReason.IDLE), bool)
        assert_type(manager.revoke(Principal("me")), int)
        report = manager.broadcast("x/told", {}, where=lambda session: session.busy)
        assert_type(report, BroadcastReport)
        assert_type(manager.notify_resource_updated("x:").sent, int)
        assert_type(manager.notify_list_changed("tools").listeners, int)
        statistics = manager.statistics()
        assert_type(manager.describe_tasks(), str)
        assert_type(statistics, ManagerStatistics)
        assert_type(statistics.ended, Mapping[TerminationReason, int])
        store = manager.store
        assert_type(store, SessionStore)
        assert_type(store.active_sessions, Mapping[SessionId, Session])
        assert_type(validate_sessions(store), list[SessionError])
        drained = await manager.drain(grace=5)
        assert_type(drained.overran, Mapping[SessionId, tuple[str, ...]])
        await manager.wait_drained()
        assert_type(manager.statistics().http_refused, Mapping[int, int])
    async with open_session_manager(hooks=[hooks, hooks]):
        pass


async def use_events(manager: SessionManager) -> None:
    with manager.subscribe() as events:
        async for event in events:
            describe(event)
        assert_type(events.missed, int)


def describe(event: Event) -> str:  # noqa: PLR0911  # one for each event
    """A match over all events is complete, and checkers know."""
    match event:
        case Connected():
            return event.client.client_id
        case Disconnected():
            return event.reason.value
        case StateChanged():
            return f"{event.old} {event.new}"
        case Error():
            return str(event.error)
        case LifetimeExpiring():
            return f"{event.seconds_left}"
        case TaskChanged():
            return assert_type(event.status, TaskStatus).value
        case EventLoopBlocked():
            assert_type(event.seconds, float)
            assert_type(event.session_id, SessionId | None)
            assert_type(event.task, str)
            return assert_type(event.where, str)
        case RequestFailed():
            return f"{event.time} {event.error}"
        case Lagged():
            return f"{event.missed}"


def when(event: SessionEvent) -> float:
    return event.time


# Serving.


async def use_transports(
    manager: SessionManager,
    stream: trio.abc.Stream,
    channel: trio.abc.Channel[bytes],
    listeners: Sequence[trio.SocketListener],
) -> None:
    assert_type(await serve_stdio(manager), TerminationReason)
    assert_type(await serve_stream(manager, stream, principal=Principal("me")), TerminationReason)
    assert_type(
        await serve_channel(manager, channel, transport=Transport("mine")), TerminationReason
    )
    client = await connect_memory(manager, capacity=8)
    assert_type(client, MemoryChannel)
    frames: BatchChannel = client
    await frames.send(b"{}")
    assert_type(await frames.receive(), bytes)

    def who(stream: trio.SocketStream) -> Principal | None:
        return None

    async with trio.open_nursery() as nursery:
        listening = await nursery.start(serve_tcp, manager, 0)
        nursery.start_soon(serve_unix, manager, "/run/demo.sock")
        nursery.start_soon(run_cleanup, manager.store)
        await serve_tcp(manager, 0, host=None, principal_of=who, handler_nursery=nursery)
        await serve_unix(manager, "/run/demo.sock", mode=0o600, principal_of=who)
        await serve_unix(manager, "/run/x", owner="me", group=7, principal_of=unix_peer)
        await serve_listeners(manager, listeners or listening, principal_of=who)


# Over HTTP.


async def authenticate(scope: MutableMapping[str, Any], headers: Mapping[str, str]) -> Principal:
    if "authorization" not in headers:
        raise AuthenticationFailed("No token", status=401, www_authenticate="Bearer")
    return Principal(headers["authorization"])


async def verify(token: str) -> Principal | None:
    return Principal("me", claims={"role": ["a"]}, scopes="a b") if token else None


def protect(manager: SessionManager) -> None:
    known: VerifyToken = verify
    signed = JwtVerifier(issuer="https://i", audience="https://r", jwks_url="https://i/keys")
    bearer = BearerAuth(known, resource="https://r", authorization_servers=["https://i"])
    assert_type(bearer.scopes, tuple[str, ...])
    assert_type(bearer.metadata_url, str | None)
    http_app(manager, authenticate=bearer)
    http_app(manager, authenticate=BearerAuth(signed, scopes=["a"]))
    http_app(manager, authenticate=authenticate_unix_peer)
    http_app(manager, authenticate=signed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(InsufficientScope(["a"]).scopes, tuple[str, ...])
    source = RequestSource(Principal("me"), {"headers": []})
    assert_type(source.headers, Mapping[str, str])


async def maybe(scope: MutableMapping[str, Any], headers: Mapping[str, str]) -> Principal | None:
    return None


def not_awaited(scope: MutableMapping[str, Any], headers: Mapping[str, str]) -> None:
    pass


async def page(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    await send({"type": "http.response.start", "status": 200})


class OwnLog:
    """Keeps nothing."""

    def append(self, stream: int, number: int, message: bytes) -> None:
        pass

    def after(self, stream: int, number: int) -> list[tuple[int, bytes]]:
        raise EventsPurged if stream else UnknownEvent

    def close(self) -> None:
        pass


class OwnStore:
    """A store of events."""

    def open_log(self, name: str) -> EventLog:
        return OwnLog()


class OwnAsyncLog:
    """Keeps nothing, and takes its time."""

    async def append(self, stream: int, number: int, message: bytes) -> None:
        pass

    async def after(self, stream: int, number: int) -> list[tuple[int, bytes]]:
        return []

    async def close(self) -> None:
        pass


class OwnAsyncStore:
    """A store of events that waits."""

    def open_log(self, name: str) -> EventLog:
        return OwnAsyncLog()


async def use_http(manager: SessionManager) -> None:
    hook: Authenticate = authenticate
    store: EventStore = OwnStore()
    waiting: EventStore = OwnAsyncStore()
    for kept in (store, waiting, MemoryEventStore(max_bytes=2**20, max_age=60), None):
        HttpOptions(event_store=kept, event_store_timeout=2)
    options = HttpOptions(
        answers="sse",
        stream_after=1,
        keep_alive=10,
        slow_reader=SlowReader.END_STREAM,
        trusted_proxies=["10.0.0.0/8", "unix"],
    )
    HttpOptions(answers="json")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app = http_app(
        manager,
        path=None,
        authenticate=hook,
        allowed_hosts=["notes.example.com"],
        allowed_origins={"https://*.example.com"},
        options=options,
    )
    assert_type(app, ASGIApplication)
    assert_type(with_health_pages(manager, app), ASGIApplication)
    http_app(manager, authenticate=maybe)
    http_app(manager, authenticate=not_awaited)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mounted: ASGIApplication = page
    await serve_http(manager)
    await serve_http(manager, "[::1]:0", options=options, limits=HttpServerLimits(max_headers=50))
    await serve_http(manager, ["127.0.0.1:80", "unix:/run/x"], app=mounted, server="hypercorn")
    await serve_http(manager, health_pages=True, reuse_port=True)
    await serve_http(manager, server="nginx")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with trio.open_nursery() as nursery:
        address: BoundAddress
        (address,) = await nursery.start(serve_http, manager, "127.0.0.1:0")
        assert_type(address.url, str)
        assert_type(address.host, str)
        assert_type(address.port, int)
        assert_type(address.secure, bool)
        assert_type(address.unix_path, str | None)


def main() -> None:
    run_stdio(router, config=config, hooks=[hooks])
    run_stdio(router, log_level="debug", log_format="json", report_tasks=True, gc_freeze=True)
    run_stdio(router, log_format="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with bounded_stderr(max_bytes=1000):
        run_http(router, log_level="error", log_format="text", report_tasks=True, gc_freeze=True)
    handler = logging.StreamHandler()
    handler.addFilter(LogContextFilter())
    handler.setFormatter(JsonLogFormatter())
    run_http(router, ["127.0.0.1:0"], path="/", allowed_hosts=["*"], config=config, hooks=[hooks])


# Errors, by whose fault they are.


def explain(error: Exception) -> object:  # noqa: PLR0911, PLR0912  # there are that many
    match error:
        case SessionTerminated():
            return assert_type(error.reason, TerminationReason)
        case SessionLimitReached():
            assert_type(error.prefix, str | None)
            return assert_type(error.limit, int)
        case OpeningRateExceeded():
            return assert_type(error.retry_after, float)
        case ShuttingDown() | SessionVetoed() | AccessRevoked():
            rejected: SessionRejected = error
            return rejected
        case InvalidTransition():
            return assert_type(error.old, SessionState)
        case TaskCrashed():
            return assert_type(error.task, str)
        case TaskResultLost():
            return assert_type(error.name, str)
        case HandlerCrashed():
            assert_type(error.name, str | None)
            return assert_type(error.method, str)
        case EventStoreFailed() | ExitRequested():
            return assert_type(str(error), str)
        case HeldContextEnded():
            return assert_type(error.context, str)
        case ServerLifespanFailed():
            return assert_type(error.opening, bool)
        case LifespanFailed():
            return assert_type(error.what, str)
        case CleanupFailed() | PeerViolation():
            return assert_type(error.what, str)
        case HookFailed():
            return assert_type(error.overran, bool)
        case UnknownHandle() | NoPrincipal():
            handle_error: HandleError = error
            return handle_error
        case NoSession() | InvalidSession() | SendFailed():
            session_error: SessionError = error
            return session_error
        case FormInvalid():
            assert_type(error, FormInvalid)
            return None
        case CapabilityMissing():
            return assert_type(error.capability, str)
        case QuestionTimeout():
            return assert_type(error.seconds, float)
        case TooManyQuestions():
            return assert_type(error.limit, int)
        case NoChannel():
            question_error: QuestionError = error
            return question_error
        case McpError():
            return assert_type(error.code, int)
        case _:
            return None


assert_type(DURATION_BUCKETS[0], float)
assert_type(TRANSITIONS[SessionState.ACTIVE], frozenset[SessionState])


class OwnApplication:
    """A program without a `Router`."""

    server_info = ServerInfo(name="own", version="1")
    instructions = None
    lifespan = None

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        return {"tools": {}} if assert_type(revision.completions, bool) else {}

    def handles_notification(self, method: str) -> bool:
        return method == "notifications/initialized"

    def handles_request(self, method: str) -> bool:
        return method == "tools/list"

    def header_parameters(
        self, method: str, params: Mapping[str, Any]
    ) -> Mapping[str, tuple[str, ...]]:
        return {"Region": ("region",)} if method == params.get("name") else {}

    def cache_hint(self, method: str) -> CacheHint:
        return CacheHint(max_age=60, scope="public")

    async def handle(self, request: InFlightRequest) -> object:
        await trio.lowlevel.checkpoint()
        assert_type(request.client, ClientInfo | None)
        assert_type(request.revision, Revision | None)
        if (session := request.session) is not None:
            assert_type(session, Session)
        return {"method": assert_type(request.method, str)}


own: Application = OwnApplication()


def describe_tool(tool: Tool) -> str:
    assert_type(router.tools, Mapping[str, Tool])
    return f"{tool.name}: {tool.description}"


async def transport_of_your_own(manager: SessionManager, sink: SessionSink) -> None:
    session = await accept(manager, sink, transport=Transport("pigeons"), handshake_timeout=60)
    assert_type(session, Session)
    only_for_this_frame: MessageSink = sink
    assert_type(receive(session, b"{}", only_for_this_frame), None)


class Spans(Instrumentation):
    def request_begun(self, details: RequestDetails) -> RequestFinished:
        assert_type(details.method, str)

        def finished(outcome: RequestOutcome) -> None:
            assert_type(outcome.error_code, int | None)

        return finished

    def session_begun(self, details: SessionDetails) -> SessionFinished | None:
        assert_type(details.kind, SessionKind)

        def finished(outcome: SessionOutcome) -> None:
            assert_type(outcome.reason, TerminationReason)

        return finished


class TaskSpan(TaskObserver):
    def finished(self, outcome: TaskOutcome) -> None:
        assert_type(outcome.status, TaskStatus)


class RequestSpan(RequestObserver):
    def continues(self, first: RequestObserver) -> None:
        assert_type(first, RequestObserver)

    def task_begun(self, details: TaskDetails) -> TaskSpan:
        assert_type(details.task_id, str)
        return TaskSpan()


class MoreSpans(Instrumentation):
    def request_begun(self, details: RequestDetails) -> RequestSpan:
        assert_type(details.target, str | None)
        return RequestSpan()

    def question_begun(self, details: QuestionDetails, meta: dict[str, Any]) -> QuestionFinished:
        assert_type(details.method, str)

        def finished(outcome: QuestionOutcome) -> None:
            assert_type(outcome.cancelled, bool)

        return finished


open_session_manager(instrumentation=[Spans(), MoreSpans()])
open_session_manager(instrumentation=[OpenTelemetry(capture_content=True), PrometheusMetrics()])


async def watch_over(manager: SessionManager) -> None:
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(serve_admin, manager, "[::1]:9000")
        assert_type(bound, Any)


# What the decorators of a server take and return.


async def pool_of(ctx: RequestContext) -> sqlite3.Connection:
    return sqlite3.connect(":memory:")


Database = Annotated[sqlite3.Connection, Depends(pool_of)]
READER: Role = "user"


@router.tool(annotations=ToolAnnotations(read_only=True), structured=False)
def picture(name: str, database: Database) -> list[Content | str]:
    noted = Annotations(audience=[READER], priority=1)
    return [
        name,
        TextContent(name, annotations=noted),
        ImageContent(b"", "image/png"),
        AudioContent(b"", "audio/wav"),
        EmbeddedResource(ResourceContents("text", uri="notes://a")),
        ResourceLink("notes://a", "a"),
    ]


@router.tool()
async def by_hand(ctx: RequestContext) -> ToolResult:
    return ToolResult(["text"], is_error=True)


@router.resource("notes://{name}")
async def one_note(name: str) -> ResourceContents:
    return ResourceContents(name)


@router.prompt()
def summary(topic: str) -> PromptResult:
    return PromptResult([PromptMessage(topic, "assistant")])


@router.completion(summary, "topic")
async def topics(value: str) -> Completion:
    return Completion([value], total=1)


@router.middleware
async def timing(ctx: RequestContext, call_next: CallNext) -> Any:
    return await call_next()


around: Middleware = timing


@router.visible
def public(ctx: RequestContext, component: Component) -> bool:
    return not component.name.startswith("_")


assert_type(router.prompts, Mapping[str, Prompt])
assert_type(router.resources, Mapping[str, Resource])
router.mount(Router("other"), prefix="other")


# Tasks and skills.

mode: TaskMode = "optional"


@router.tool(task=mode, promote_after=1.5)
async def crawl(ctx: RequestContext) -> str:
    assert_type(await ctx.become_task(), bool)
    if ctx.task is not None:
        assert_type(ctx.task, TaskInfo)
        assert_type(ctx.task.status, TaskStatus)
    assert_type(ctx.manager.list_tasks(), list[TaskInfo])
    return ""


router.tool(task="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@router.skill(description="How this team writes commits.")
def git_workflow() -> SkillFiles:
    return {"SKILL.md": "# Commits"}


assert_type(router.skills_from("skills", limits=SkillLimits()), tuple[str, ...])
assert_type(router.skills, Mapping[str, Skill])


class TheirApplication:
    """What type checkers know of an application of another library."""

    name = "theirs"
    instructions: str | None = None


async def serve_theirs() -> None:
    theirs: ForeignApplication = TheirApplication()
    try:
        async with sdk_application(theirs, tasks={"crawl": "optional"}) as application:
            assert_type(application, Application)
        async with open_session_manager(theirs) as manager:
            assert_type(manager, SessionManager)
    except (CannotServe, UnsupportedVersion) as refused:
        assert_type(refused, CannotServe | UnsupportedVersion)
