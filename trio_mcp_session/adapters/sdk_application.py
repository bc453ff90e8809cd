"""Applications of the official SDK and FastMCP, with the sessions of this library.

It is an `Application`, as `Router` is. Their server object has the handlers; this library has the
sessions, requests, clocks and limits. Each request goes to their ``ServerRunner``, which checks it,
calls their middleware and handler, and shapes the result.

Up to 2025-11-25 a session has one connection of theirs, from its opening to its end. From
2026-07-28 on each request has one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast, final

from msgspec import UNSET

from ..application.context import RequestContext, _current
from ..application.task_support import NEVER
from ..application.tools import error_for_model
from ..core.errors import SessionRejected, shown
from ..protocol.envelope import CLIENT_CAPABILITIES, CLIENT_INFO
from ..protocol.input_required import read_questions
from ..protocol.methods import DISCOVER, LISTEN
from ..protocol.request_state import CarriedState
from ..protocol.results import NO_CACHE, CacheHint
from ..protocol.revisions import LATEST_HANDSHAKE, STATELESS_REVISIONS
from ..protocol.tasks_extension import TASKS
from ..server.client_connection import client_of
from ..server.request_source import source_of
from ..server.session_methods import SESSION_METHODS, serve
from ..sessions.failures import is_cancellation
from ..sessions.state_keys import StateKey
from .sdk_auth import authentication_of
from .sdk_channels import EnvelopeChannel, RequestChannel
from .sdk_errors import Errors
from .sdk_feed import feeding
from .sdk_refusals import check_background_tasks, check_parts
from .sdk_server import SdkServer
from .sdk_sessions import SdkSession, open_sdk_session
from .sdk_tasks import TaskRules
from .sdk_transports import TransportFacts

if TYPE_CHECKING:
    from ..application.task_support import TaskMode
    from ..core.identity import ServerInfo
    from ..protocol.jsonrpc import Params
    from ..protocol.revisions import Revision
    from ..server.request import InFlightRequest
    from ..sessions.manager import ServerLifespan, SessionManager
    from ..sessions.session import Lifespan, Session
    from ..transports.http.authentication import Authenticate

OWN_METHODS: Final = frozenset({DISCOVER, *SESSION_METHODS})
"""Methods that the library answers for other applications, and an application of theirs itself."""

INPUT_REQUIRED: Final = "input_required"


@final
class SdkApplication:
    """An application of the official SDK or FastMCP, as an `Application` of this library."""

    needs_sessions: Final = False

    def __init__(self, server: SdkServer, tasks: TaskRules) -> None:
        self._sdk_server: Final = server
        self._tasks: Final = tasks
        self._errors: Final = Errors(server.sdk)
        self._facts: Final = TransportFacts(server.sdk, server.fastmcp)
        self._sessions: Final = StateKey[SdkSession]("connection of the official SDK")
        self._state: Any = None
        self._is_entered = False

    def __repr__(self) -> str:
        return f"<SdkApplication {self._sdk_server.server.name!r}>"

    @classmethod
    def of(cls, app: object, tasks: Mapping[str, TaskMode] | None) -> SdkApplication:
        """Check an application, and return it as one of this library. Not a checkpoint.

        Raises:
            TypeError: It cannot be served.
            UnsupportedVersion: The installed version of their library is not supported.
            CannotServe: A part of the application needs asyncio.
            ValueError: A value of ``tasks`` is unknown.
        """
        server = SdkServer.of(app)
        check_parts(server)
        return cls(server, TaskRules.of(tasks))

    # How it describes itself.

    @property
    def server_info(self) -> ServerInfo:
        """The name and version of the server."""
        return self._sdk_server.server_info

    @property
    def instructions(self) -> str | None:
        """How to use the server, for the model."""
        found: str | None = self._sdk_server.server.instructions
        return found

    @property
    def own_methods(self) -> Collection[str]:
        """The methods that it answers, and that the library answers for others."""
        return OWN_METHODS | {LISTEN} if self._sdk_server.answers_subscriptions else OWN_METHODS

    @property
    def authenticate(self) -> Authenticate | None:
        """The hook of HTTP endpoints: its token verifier, if it has one.

        Raises:
            CannotServe: Its authentication cannot run here.
        """
        return authentication_of(self._sdk_server)

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        """Return what their server declares, and what it gains here."""
        found = self._sdk_server.capabilities(revision.version)
        if revision.version not in STATELESS_REVISIONS:
            return self._with_feed(found)
        return _with_tasks(found) if self._tasks.have_tasks else found

    def _with_feed(self, capabilities: Mapping[str, Any]) -> dict[str, Any]:
        """Add the notifications of changes: the bus of the application feeds sessions, too."""
        found = dict(capabilities)
        if self._sdk_server.bus is None:
            return found
        for feature in ("tools", "prompts", "resources"):
            if feature in found:
                found[feature] = {**found[feature], "listChanged": True}
        if "resources" in found:
            found["resources"]["subscribe"] = True
        return found

    def initialize_result(self, session: Session) -> Mapping[str, Any]:
        """Return the result of ``initialize``: that of their middleware, and what it gains."""
        theirs = session.get_state(self._sessions).take_result()
        return {**theirs, "capabilities": self._with_feed(theirs.get("capabilities") or {})}

    def cache_hint(self, method: str) -> CacheHint:
        """Return no hint: their server adds its own to its results."""
        del method
        return NO_CACHE

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        """Return which arguments of a tool HTTP headers must repeat (from 2026-07-28 on)."""
        return self._sdk_server.header_parameters(
            params.get("name") if method == "tools/call" else None
        )

    def handles_request(self, method: str) -> bool:
        """Return whether their server has a handler for requests of a method."""
        return self._sdk_server.handles_request(method)

    def handles_notification(self, method: str) -> bool:
        """Return True: their middleware sees all notifications."""
        del method
        return True

    # Its lifespans.

    @property
    def lifespan(self) -> Lifespan:
        """Their connection, for each session of a client up to 2025-11-25."""
        return self._open_session

    @property
    def server_lifespans(self) -> Sequence[ServerLifespan[Any]]:
        """The lifespan of the application, unless it was entered before; and its notifications."""
        return (self._feed,) if self._is_entered else (self._run_app, self._feed)

    @asynccontextmanager
    async def _entered(self) -> AsyncIterator[None]:
        """Enter the lifespan of the application for all managers."""
        async with self._open_app() as self._state:
            self._is_entered = True
            try:
                yield
            finally:
                self._is_entered = False

    @asynccontextmanager
    async def _run_app(self, manager: SessionManager) -> AsyncIterator[Any]:
        """Enter the lifespan of the application for one manager."""
        del manager
        async with self._open_app() as state:
            yield state

    @asynccontextmanager
    async def _open_app(self) -> AsyncIterator[Any]:
        if self._sdk_server.fastmcp is not None:
            await check_background_tasks(self._sdk_server.app)
        lifespan: AbstractAsyncContextManager[Any] = self._sdk_server.server.lifespan(
            self._sdk_server.server
        )
        async with lifespan as state:
            yield state

    @asynccontextmanager
    async def _feed(self, manager: SessionManager) -> AsyncIterator[None]:
        with feeding(self._sdk_server, manager):
            yield

    def _state_for(self, manager: SessionManager) -> Any:
        """Return the value of the lifespan of the application."""
        return self._state if self._is_entered else manager.server_state(self._run_app)

    @asynccontextmanager
    async def _open_session(self, session: Session) -> AsyncIterator[None]:
        state = self._state_for(client_of(session).manager)
        opening = open_sdk_session(self._sdk_server, state, session, self._errors, self._facts)
        async with opening as opened:
            if opened is not None:
                session.set_state(self._sessions, opened)
            yield

    # Its requests.

    async def handle(self, request: InFlightRequest) -> object:
        """Call their handler of a request or notification. The server calls this.

        Raises:
            McpError: Their handler or their middleware raised this error.
        """
        context = RequestContext(request)
        _current.set(context)
        source = source_of(request.sink)
        close = context.close_stream if request.session is not None else None
        with self._facts.told(source, request.principal, close) as metadata:
            channel = RequestChannel(context, metadata, self._sdk_server.sdk, self._errors)
            try:
                return await self._answer(channel)
            except BaseException as error:
                answer = self._errors.for_client(error)
                if answer is not None:
                    raise answer from error  # noqa: ASYNC104  # not a cancellation
                if is_cancellation(error):
                    channel.handler_was_cancelled()
                else:  # A result would hide that it failed.
                    request.describe_handler(request.handler_name, None)
                raise

    async def _answer(self, channel: RequestChannel) -> object:
        request = channel.request
        if request.id is UNSET:
            async with self._runner(channel) as runner:
                await runner.on_notify(channel, request.method, request.params)
            return None
        method = request.method
        if method in SESSION_METHODS:
            return await self._serve_session_method(channel)
        if method == DISCOVER:
            return self._described(await self._run(channel, request.params))
        if method == "tools/call":
            refused = await self._prepare_call(channel)
            if refused is not None:
                return refused
        return await self._call(channel)

    async def _call(self, channel: RequestChannel) -> object:
        """Call their handler; again if it needs input of the client, and the call is a task."""
        request = channel.request
        params = request.params
        if request.carried is not None:
            params = {**params, "requestState": request.carried}
        while True:
            result = await self._run(channel, params)
            if not request.is_modern or result.get("resultType") != INPUT_REQUIRED:
                return result
            asked = read_questions(result)
            state = result.get("requestState")
            if request.task is None:
                # Their state travels within ours, which is bound to this request.
                request.questions.check_capabilities(asked.values())
                if state is None:
                    return result
                return {**result, "requestState": request.seal(CarriedState(value=state))}
            # A task is asked in place, and the handler is called again.
            answers = await request.ask_all(asked)
            params = {**request.params, "inputResponses": answers}
            if state is not None:
                params["requestState"] = state

    async def _run(self, channel: RequestChannel, params: Params) -> dict[str, Any]:
        """Call their handler, and return the result as they shape it for the client."""
        async with self._runner(channel) as runner:
            result: dict[str, Any] = await runner.on_request(
                channel, channel.request.method, params
            )
        return result

    @asynccontextmanager
    async def _runner(self, channel: RequestChannel) -> AsyncIterator[Any]:
        """Return the runner of a request: that of its session, or one for this request only."""
        request = channel.request
        session = request.session
        if session is not None:
            yield session.get_state(self._sessions).runner
            return
        connection = self._connection_of(channel)
        state = self._state_for(request.owner.manager)
        try:
            yield self._sdk_server.sdk.runner(self._sdk_server.server, connection, state)
        finally:
            await self._sdk_server.sdk.close_connection(connection)  # noqa: ASYNC102  # shields itself

    def _connection_of(self, channel: RequestChannel) -> Any:
        """Return a connection of theirs for one request without a session."""
        request = channel.request
        revision = request.revision or LATEST_HANDSHAKE
        outbound = EnvelopeChannel(channel)
        kind = self._sdk_server.sdk.connection
        if request.is_modern:
            meta = cast("Mapping[str, Any]", request.params.get("_meta"))
            return kind.from_envelope(
                revision.version,
                meta.get(CLIENT_INFO),
                meta.get(CLIENT_CAPABILITIES),
                outbound=outbound,
            )
        connection = kind.for_loop(outbound, protocol_version_hint=revision.version)
        connection.initialized.set()
        return connection

    async def _prepare_call(self, channel: RequestChannel) -> Mapping[str, Any] | None:
        """Let the call of a tool become a task, if the rule says so.

        Returns:
            The result if there is no place for a task that is required; None otherwise.
        """
        request = channel.request
        name = request.params.get("name")
        called = shown(name) if isinstance(name, str) else "without a name"
        request.describe_handler(f"tool {called}", _took_too_long)
        support = self._tasks.of_tool(name)
        if support is NEVER:
            return None
        support.prepare(request)
        if support.at_once:
            try:
                await channel.context.become_task()
            except SessionRejected as error:
                return error_for_model(error, request)
        return None

    def _described(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return their result of ``server/discover`` with what it gains here."""
        result["supportedVersions"] = list(STATELESS_REVISIONS)
        if self._tasks.have_tasks:
            result["capabilities"] = _with_tasks(result.get("capabilities"))
        return result

    async def _serve_session_method(self, channel: RequestChannel) -> object:
        """Do what a session does for a log level or subscription, and call their handler, if any.

        If that fails, the session is as before.
        """
        request = channel.request
        assert request.session is not None  # Others are refused before.
        client = client_of(request.session)
        undo = serve(client, request)
        if not self._sdk_server.handles_request(request.method):
            return {}
        try:
            return await self._run(channel, request.params)
        except BaseException:
            undo()
            raise


def _with_tasks(capabilities: dict[str, Any] | None) -> dict[str, Any]:
    """Return capabilities with the extension for tasks."""
    found = capabilities or {}
    extensions: dict[str, Any] = found.get("extensions") or {}
    return {**found, "extensions": {**extensions, TASKS: {}}}


def _took_too_long(request: InFlightRequest, error: Exception | None) -> Mapping[str, Any]:
    """Return the result of a tool that took too long: the model sees it."""
    del error
    text = f"The {request.handler_name} took too long, and was cancelled"
    return {"content": [{"type": "text", "text": text}], "isError": True}
