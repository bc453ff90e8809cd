"""`RequestContext`: the argument by which a handler uses its request, client and handles.

The class is in one file, although that is longer than 600 lines: most of them are the
signatures and docstrings of what handlers may call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final, overload

import attrs
import msgspec
import trio
from msgspec import UNSET

from ..core.errors import NoSession
from ..core.handle_kind import HandleKind
from ..core.header_mapping import NO_HEADERS
from ..core.log_level import SEVERITY, LogLevel
from ..core.metrics import BroadcastReport
from ..handles import access as handles
from ..protocol import jsonrpc
from ..protocol.input_required import AskedFor, check_answer, input_required
from ..protocol.jsonrpc import encode_json, is_object
from ..protocol.methods import MAY_ASK
from ..protocol.request_state import CarriedState
from ..protocol.revisions import LATEST_HANDSHAKE
from ..server.request_source import source_of
from ..sessions.handle import Handle
from .question_types import (
    Elicitation,
    ElicitResult,
    InputRequired,
    Question,
    Roots,
    Sampling,
    ToolChoice,
)
from .url_elicitation import COMPLETE, UrlElicitation, UrlElicitationRequired

if TYPE_CHECKING:
    from ..core.identity import ClientInfo, Principal
    from ..core.task_info import TaskInfo
    from ..protocol.jsonrpc import Params, RequestId
    from ..server.asking import MethodAndParams
    from ..server.ending import Ending
    from ..server.request import InFlightRequest
    from ..sessions.manager import SessionManager
    from ..sessions.server_lifespans import ContextOf
    from ..sessions.session import Session
    from .forms import Form

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")

_current: ContextVar[RequestContext] = ContextVar("trio_mcp_session.request")


@final
class RequestContext:
    """One request, as its handler sees it.

    Valid while the handler runs. Its messages are sent on this request's own stream, if the
    transport has one.
    """

    __slots__ = (
        "_brought",
        "_last_progress",
        "_remembered",
        "_request",
        "_uris_shown",
    )

    def __init__(self, request: InFlightRequest) -> None:
        self._request = request
        self._last_progress: float = -inf
        # Up to 2025-11-25, and in a task, the request does not bring answers and a state: they are
        # kept here while a handler that returned `InputRequired` is called again.
        self._brought: Mapping[str, Any] | None = None
        self._remembered: Any = None
        # Where a mounted router answers: the URIs by which clients see a URI of that router.
        self._uris_shown: Callable[[str], Iterable[str]] | None = None

    def __repr__(self) -> str:
        return f"<RequestContext {self._request.method!r}>"

    def _answered_by_mounted(self, uris_shown: Callable[[str], Iterable[str]]) -> None:
        """Let the handler name resources as its own router does, which is mounted."""
        self._uris_shown = uris_shown

    # The request and its client.

    @property
    def session(self) -> Session:
        """The session that the request belongs to.

        Raises:
            NoSession: The request has no session: from 2026-07-28 on, and before where sessions
                are not served over HTTP (`HttpOptions.stateless`). The first time, the log
                says so too: a server that needs sessions can decline such clients
                (``Router(eras="legacy")``).
        """
        session = self._request.session
        if session is None:
            request = self._request
            called = request.params.get("name") if request.method == "tools/call" else None
            request.owner.session_missed(request.method, called)
            whose = "of this revision" if request.is_modern else "of this endpoint"
            raise NoSession(f"a request {whose} has no session; use a handle instead")
        return session

    @property
    def manager(self) -> SessionManager:
        """The session manager that the request is served by."""
        return self._request.owner.manager

    def server_state(self, lifespan: ContextOf[T]) -> T:
        """Return the value of the server's lifespan, with and without a session.

        Args:
            lifespan: The function that was given to `Router` as ``server_lifespan``. Type checkers
                take the type of the value from it.

        Raises:
            LookupError: It is not the server's lifespan.
        """
        return self.manager.server_state(lifespan)

    @property
    def principal(self) -> Principal | None:
        """The principal that the request is made for; None if there is none.

        Without authentication, a connection has a principal of its own, and so has a session that
        a client opened over HTTP: what is held under it ends with it. Requests of 2026-07-28 over
        HTTP have no principal then.

        Claims and scopes belong to this request, also within a session that another token of
        the same user has opened.
        """
        return self._request.principal

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the HTTP request, read-only, by name in any case.

        Empty where the transport has none. Headers that came more than once are joined with
        commas. Do not send the client's ``Authorization`` to other services: the protocol forbids
        it.
        """
        source = source_of(self._request.sink)
        return NO_HEADERS if source is None else source.headers

    @property
    def asgi_scope(self) -> Mapping[str, Any] | None:
        """The ASGI scope of the HTTP request; None where the transport is not HTTP.

        Middleware and ``authenticate`` can hand on values in ``scope["state"]``. Do not change it
        here.
        """
        source = source_of(self._request.sink)
        return None if source is None else source.asgi_scope

    @property
    def method(self) -> str:
        """The request's method."""
        return self._request.method

    @property
    def params(self) -> Params:
        """The request's parameters, as sent; ``{}`` if there were none."""
        return self._request.params

    @property
    def request_id(self) -> RequestId | None:
        """The request's JSON-RPC id; None in the handler of a notification."""
        return None if self._request.id is UNSET else self._request.id

    @property
    def client(self) -> ClientInfo | None:
        """The name, version and capabilities that the client declared.

        None where sessions are not served (`HttpOptions.stateless`): nothing is kept of
        ``initialize``.
        """
        return self._request.client

    @property
    def protocol_version(self) -> str | None:
        """The revision that the client speaks."""
        revision = self._request.revision
        return None if revision is None else revision.version

    @property
    def progress_token(self) -> RequestId | None:
        """The token for progress notifications; None if the client asked for none."""
        meta = self._request.params.get("_meta")
        token = meta.get("progressToken") if is_object(meta) else None
        return token if isinstance(token, (int, str)) and not isinstance(token, bool) else None

    @property
    def time_left(self) -> float:
        """Seconds until the handler is cancelled, as far as that is known; infinite if it is not.

        That is the nearest of: `CleanupConfig.request_timeout` (this clock is stopped while the
        client is asked a question), the end of the session's lifetime (`Session.time_left`), and
        the end of the grace of a drain. 0 if the session ends now.
        """
        return self._request.time_left

    @property
    def suspended_for(self) -> float:
        """Seconds for which the handler has waited for answers of its client; 0 without questions.

        Middleware that measures the time of a handler subtracts it, in both eras. Time in which
        several questions are open at once counts once.
        """
        return self._request.suspended_for

    @property
    def ending(self) -> Ending:
        """An event that announces the end of the handler: check it, or wait for it.

        ::

            while not ctx.ending.is_set():
                await work_on_the_next_part()
            await store_what_was_reached()

        It is set `CleanupConfig.ending_notice` before `time_left` is over, at the beginning of a
        drain, when the session begins to end, and when the client has left.
        """
        return self._request.ending

    @property
    def answered(self) -> bool:
        """Whether the request has been answered, or its client has cancelled it."""
        return self._request.has_answer

    # Tasks.

    @property
    def task(self) -> TaskInfo | None:
        """The task that the call has become, as it is now; None if it has not (2026-07-28)."""
        task = self._request.task
        return None if task is None else task.info()

    async def become_task(self) -> bool:
        """Make a task of the call now: the client gets its id, and asks for the result later.

        ::

            answer = await ctx.elicit("Which branch?", Branch)  # the client waits for this
            await ctx.become_task()
            await build(answer.content)  # this may take hours

        For tools with ``task="optional"`` or ``"required"`` (see `Router.tool`). From then on
        questions, progress and the result are parts of the task, and the call may take
        `CleanupConfig.task_timeout`. A checkpoint. When cancelled, the call is as before.

        Returns:
            Whether the call is a task. False for clients up to 2025-11-25, and for those that did
            not declare the extension: they wait for the result. Also if the client has left.

        Raises:
            RuntimeError: The tool has no tasks, or a question of the handler is open.
            SessionLimitReached: The limit on tasks was reached.
            ShuttingDown: The manager drains or is closed.
            AccessRevoked: `SessionManager.revoke` was called for the request's principal.
            SessionVetoed: An ``on_session_created`` hook refused the session of the task.
            SessionTerminated: The task was ended while it was opened.
        """
        promotion = self._request.promotion
        if promotion is None:
            raise RuntimeError(
                "this call cannot become a task: register the tool with task='optional' or "
                "task='required'"
            )
        if promotion.task is None and self._request.has_open_questions:
            raise RuntimeError("a call cannot become a task while the client is asked a question")
        self._request.check_access()
        return await promotion.become_task() is not None

    # Notifications.

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress to the client (``notifications/progress``).

        A checkpoint; it waits while the client's buffer is full. Nothing is sent if the client
        did not ask for progress, if the request has been answered, or if ``progress`` is not
        finite or not higher than before: the protocol requires that it increases (all revisions,
        *Progress*). Of several calls at the same time, only the highest is certain to be sent.

        In a task it sets the status message, whether or not the client asked for progress: the
        message, shortened to 1,024 characters, or else how much is done.

        Args:
            progress: How much is done.
            total: How much there is, if known.
            message: What is happening, for people; sent from 2025-03-26 on.
        """
        if not self._last_progress < progress < inf:
            await trio.lowlevel.checkpoint()
            return
        self._last_progress = progress
        promotion = self._request.promotion
        if promotion is not None:
            promotion.report_progress(message or _as_text(progress, total))
        token = self.progress_token
        if token is None or self._request.task is not None:
            await trio.lowlevel.checkpoint()
            return
        params: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None and isfinite(total):
            params["total"] = total
        revision = self._request.revision
        if message is not None and revision is not None and revision.progress_messages:
            params["message"] = message
        # While this call waits for room, another task may report more.
        await self._send(
            self._encode("notifications/progress", params),
            lambda: self._last_progress == progress,
        )

    async def log(self, level: LogLevel, data: Any, logger: str | None = None) -> None:
        """Send the client a log message (``notifications/message``).

        A checkpoint; it waits while the client's buffer is full. Nothing is sent if the client
        has set no level, or a higher one, or if the call has become a task. Do not log secrets or
        personal data.

        Args:
            level: One of the eight levels of RFC 5424.
            data: Anything that encodes to JSON.
            logger: Name of the part of the server that logs.

        Raises:
            ValueError: ``level`` is not one of the eight.
        """
        if level not in SEVERITY:
            raise ValueError(f"level must be one of {', '.join(SEVERITY)}, not {level!r}")
        wanted = self._request.log_severity
        if wanted is None or SEVERITY[level] < wanted:
            await trio.lowlevel.checkpoint()
            return
        params = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        await self.notify("notifications/message", params)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification that belongs to this request.

        A checkpoint; it waits while the client's buffer is full. Nothing is sent after the
        request has been answered.
        """
        await self._send(self._encode(method, params), lambda: True)

    def _encode(self, method: str, params: Mapping[str, Any] | None) -> bytes:
        """Encode a notification to the client, as instrumentation completes it."""
        if self._request.observed is not None:
            instruments = self._request.owner.manager._instruments
            params = instruments.notification_sent(method, params)
        return jsonrpc.encode_notification(method, params)

    def notify_list_changed(
        self,
        what: Literal["tools", "prompts", "resources"],
        *,
        principal: Principal | None = None,
    ) -> BroadcastReport:
        """Notify clients that a list has changed: see `SessionManager.notify_list_changed`.

        ``principal=ctx.principal`` notifies only the clients of the one that sent this request. All
        are notified if it has no principal.
        """
        return self.manager.notify_list_changed(what, principal=principal)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """Notify the subscribers of a resource: see `SessionManager.notify_resource_updated`.

        Args:
            uri: The URI of the resource, in the router that answers the request. If that is mounted
                on another one, the subscribers of the URI that clients see are notified: of each,
                if it is mounted several times.
        """
        uris = (uri,) if self._uris_shown is None else self._uris_shown(uri)
        reports = [self.manager.notify_resource_updated(one) for one in uris]
        return BroadcastReport(
            sent=sum(report.sent for report in reports),
            dropped=sum(report.dropped for report in reports),
            listeners=sum(report.listeners for report in reports),
        )

    def close_stream(self, *, retry: float | None = None) -> bool:
        """Close the request's stream; the client reconnects for the answer (2025-11-25).

        Not a checkpoint. Messages for this request are kept until then. Use it where an answer
        takes longer than connections should stay open (*Streamable HTTP*).

        Args:
            retry: Seconds after which the client should reconnect; by default what the transport
                has told it before.

        Returns:
            Whether the stream was closed. False where the transport is not HTTP, the client's
            revision cannot reconnect, messages would not be kept, or the request has been
            answered.

        Raises:
            ValueError: ``retry`` is negative, or not finite.
        """
        if retry is not None and not 0 <= retry < inf:
            raise ValueError(f"retry must be 0 or more seconds, and finite, not {retry!r}")
        return self._is_open() and self._request.sink.close_stream(retry)

    # Questions to the client: typed fronts of `InFlightRequest.ask_all`.

    @overload
    async def elicit(
        self,
        message: str,
        schema: Mapping[str, Any],
        *,
        key: str | None = ...,
        timeout: float | None = ...,
    ) -> ElicitResult[Mapping[str, Any]]: ...
    @overload
    async def elicit(
        self,
        message: str,
        schema: type[T] | Form[T],
        *,
        key: str | None = ...,
        timeout: float | None = ...,
    ) -> ElicitResult[T]: ...

    async def elicit(
        self,
        message: str,
        schema: Mapping[str, Any] | type[Any] | Form[Any],
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> ElicitResult[Any]:
        """Ask the user to fill in a form (``elicitation/create``, from 2025-06-18 on).

        ::

            answer = await ctx.elicit("A table for how many?", Booking)
            if answer.content is None:  # `answer.action` tells "decline" from "cancel"
                return "No booking."
            return f"A table for {answer.content.seats}."

        A checkpoint. The request's own clock stands still meanwhile. When cancelled, the question
        is taken back: up to 2025-11-25 the client is told so. Never ask for secrets in this way:
        see `elicit_url`.

        Args:
            message: Text for the user.
            schema: The form: a msgspec struct, attrs class, dataclass, TypedDict or pydantic model
                (see `Form.of`), whose object the answer becomes; or a JSON schema of an object of
                plain values, whose answer is not checked.
            key: Identifies the answer, from 2026-07-28 on: a request that brings an answer with
                this key is not asked again. Chosen by default.
            timeout: Seconds. By default `CleanupConfig.question_timeout` up to 2025-11-25, and
                `CleanupConfig.request_state_timeout` from 2026-07-28 on.

        Raises:
            CapabilityMissing: The client cannot ask its user. Nothing was sent.
            NoChannel: The request has been answered, or cannot be answered with a question
                (2026-07-28: only ``tools/call``, ``prompts/get`` and ``resources/read``), or its
                client is served without a session (`HttpOptions.stateless`) or accepts JSON only.
                Nothing was sent.
            QuestionTimeout: No answer in time; the question was taken back.
            TooManyQuestions: `SessionLimits.max_questions` are open. Nothing was sent.
            McpError: The client answered with this error, or with a malformed result.
            SessionRejected: A limit allows no further handler to wait (2026-07-28).
            SessionTerminated: The session ends or has ended.
            ValueError: A question with this key is open.
            FormInvalid: The answer does not fit the class. If a tool does not catch it, the model
                gets its text.
            TypeError: The class has a field that forms cannot have. Nothing was sent.
        """
        question: Elicitation[Any] = Elicitation(message, schema, key=key)
        (answer,) = await self.ask_all(question, timeout=timeout)
        return answer

    async def elicit_url(
        self,
        message: str,
        url: str,
        *,
        elicitation_id: str | None = None,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> ElicitResult[None]:
        """Ask the user to open a URL (``elicitation/create`` in mode ``url``, from 2025-11-25 on).

        For what must not pass through the client, such as passwords and payments. ``accept`` says
        that the user agreed to open it; only your web page knows what is done there. Make sure that
        the user that opens the URL is the user that was asked.

        Checkpoint, cancellation and errors: as for `elicit`; `CapabilityMissing` also if the client
        knows forms only.

        Args:
            message: Text for the user: why to open the URL.
            url: The URL. Without secrets: the client and its logs see it.
            elicitation_id: For `notify_elicitation_complete`; random by default.
            key: As for `elicit`.
            timeout: As for `elicit`.

        Raises:
            ValueError: It is not a URL.
        """
        question = UrlElicitation(message, url, key=key)
        if elicitation_id is not None:
            question = attrs.evolve(question, elicitation_id=elicitation_id)
        (answer,) = await self.ask_all(question, timeout=timeout)
        return answer

    async def notify_elicitation_complete(self, elicitation_id: str) -> None:
        """Notify the client that its user is done with a URL, so that it can close its dialog.

        A checkpoint; it waits while the client's buffer is full. Nothing is sent where the revision
        does not have it (``notifications/elicitation/complete`` is in 2025-11-25 only), and after
        the request has been answered: see the function `notify_elicitation_complete`.

        Args:
            elicitation_id: What `elicit_url` was given, or `UrlElicitation.elicitation_id`.
        """
        revision = self._request.revision
        if revision is not None and revision.elicitation_ids:
            await self.notify(COMPLETE, {"elicitationId": elicitation_id})
        else:
            await trio.lowlevel.checkpoint()

    async def sample(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
        **params: Any,
    ) -> dict[str, Any]:
        """Ask the client's model for a message (``sampling/createMessage``).

        Checkpoint, cancellation and errors: as for `elicit`.

        Args:
            messages: The conversation so far.
            max_tokens: The greatest length of the answer, in tokens.
            tools: The tools that the model may call, each with ``name``, ``description`` and
                ``inputSchema`` (from 2025-11-25 on). Its calls are in the result, which has the
                ``stopReason`` ``toolUse`` then; send their results with the next question.
                `CapabilityMissing` is raised if the client did not declare ``sampling.tools``.
            tool_choice: Whether the model may use tools (``auto``), must (``required``), or must
                not (``none``); by default the client decides. Needs the same as ``tools``.
            key: As for `elicit`.
            timeout: As for `elicit`.
            **params: Further parameters of the request, under their names in the protocol.

        Returns:
            The result, as sent.
        """
        question = Sampling(
            messages,
            max_tokens=max_tokens,
            tools=tools,
            tool_choice=tool_choice,
            params=params,
            key=key,
        )
        (answer,) = await self.ask_all(question, timeout=timeout)
        return answer

    async def list_roots(
        self,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> list[dict[str, Any]]:
        """Ask the client which folders it works in (``roots/list``).

        Checkpoint, cancellation, arguments and errors: as for `elicit`.
        """
        (answer,) = await self.ask_all(Roots(key=key), timeout=timeout)
        return answer

    @overload
    async def ask_all(self, _1: Question[T1], /, *, timeout: float | None = ...) -> tuple[T1]: ...
    @overload
    async def ask_all(
        self, _1: Question[T1], _2: Question[T2], /, *, timeout: float | None = ...
    ) -> tuple[T1, T2]: ...
    @overload
    async def ask_all(
        self,
        _1: Question[T1],
        _2: Question[T2],
        _3: Question[T3],
        /,
        *,
        timeout: float | None = ...,
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def ask_all(
        self, *questions: Question[T], timeout: float | None = ...
    ) -> tuple[T, ...]: ...

    async def ask_all(
        self,
        *questions: Question[Any],
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> tuple[Any, ...]:
        """Ask several things at once, and wait for all answers.

        Checkpoint, cancellation and errors: as for `elicit`. The first question that fails
        cancels the others, and its error is raised.

        Args:
            *questions: `Elicitation`, `Sampling`, `Roots`.
            timeout: As for `elicit`, for all of them together.

        Returns:
            The answers, in the order of the questions.
        """
        request = self._request
        to_ask = [self._to_ask(question) for question in questions]
        # First: questions that fail use no keys.
        request.questions.check_capabilities(to_ask)
        keyed: dict[str, Question[Any]] = {}
        for question in questions:
            key = question.key
            if key is None:
                key = request.questions.new_key(question._method)
            if key in keyed:
                raise ValueError(f"two questions have the key {key!r}")
            keyed[key] = question
        answers = await request.ask_all(dict(zip(keyed, to_ask, strict=True)), timeout=timeout)
        return tuple(question._read(answers[key]) for key, question in keyed.items())

    # Questions without waiting: the handler returns `InputRequired`, and is called again.

    @property
    def request_state(self) -> Any:
        """The ``state`` of the `InputRequired` that the handler returned last; None before."""
        return self._request.carried if self._brought is None else self._remembered

    def answer_to(self, question: Question[T]) -> T | None:
        """Return the answer to a question if the request brings it; None if not.

        For handlers that return `InputRequired`. Not a checkpoint.

        Raises:
            McpError: The request brings something else than an answer to this question.
            ValueError: The question has no key.
        """
        key = question.key
        if key is None:
            raise ValueError("the question needs a key, which identifies its answer")
        brought = self._brought
        if brought is not None:  # Checked when it arrived.
            return question._read(brought[key]) if key in brought else None
        answers = self._request.answers
        if key not in answers:
            return None
        check_answer(key, question._method, answers[key])
        return question._read(answers[key])

    @property
    def _is_called_again(self) -> bool:
        """Whether a handler that returns `InputRequired` is called again for the same request."""
        return not self._request.is_modern or self._request.task is not None

    async def _ask_for_next_call(
        self, asked: InputRequired | UrlElicitationRequired
    ) -> Mapping[str, Any] | None:
        """Ask the questions of a handler that wants to be called again.

        A checkpoint up to 2025-11-25, and in a task.

        Returns:
            The result to answer the request with; its client sends the request again. None up to
            2025-11-25 and in a task, where the answers are there by now.
        """
        request = self._request
        if isinstance(asked, UrlElicitationRequired):
            if not request.is_modern:
                request.questions.check_capabilities(map(self._to_ask, asked.elicitations))
                raise asked
            asked = asked._as_input_required()
        if request.method not in MAY_ASK:
            raise TypeError(f"InputRequired is not a valid result of {request.method}")
        to_ask = {key: self._to_ask(question) for key, question in asked.questions.items()}
        if self._is_called_again:
            self._brought = await request.ask_all(to_ask)
            # As in later revisions, the state is what remains of it after JSON.
            self._remembered = msgspec.json.decode(encode_json(asked.state))
            return None
        request.questions.check_capabilities(to_ask.values())
        questions = {key: AskedFor(*one).encode() for key, one in to_ask.items()}
        state = None if asked.state is None else request.seal(CarriedState(value=asked.state))
        return input_required(questions, state)

    # State handles. They belong to the request's principal, which finds only its own.

    async def open_handle(self, kind: HandleKind[T], /, *args: Any, **kwargs: Any) -> str:
        """Open a handle, and return its id for the client to keep.

        The opener of the kind runs in a session of its own: it outlives the request. A checkpoint.
        When cancelled, the opening is undone, clean-up included, before the call raises.

        Args:
            kind: The kind of handle.
            *args: Positional arguments of the kind's opener.
            **kwargs: Its keyword arguments.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            AccessRevoked: `SessionManager.revoke` was called for the request's principal.
            SessionVetoed: An ``on_session_created`` hook refused it.
            SessionTerminated: It ended while it was being opened.
            Exception: What the opener raised.
        """
        request = self._request
        request.check_access()
        handle = await handles.open_handle(self.manager, request.principal, kind, args, kwargs)
        # If the client's connection has ended meanwhile, its handles end too: this one included.
        request.owner.end_late_sessions()
        return handle.handle_id

    def use_handle(self, kind: HandleKind[T], handle_id: str, /) -> AbstractAsyncContextManager[T]:
        """Use a handle's value for the length of an ``async with`` block.

        ::

            async with ctx.use_handle(BROWSERS, browser_id) as browser:
                await browser.open(url)

        One use at a time, in the order of the calls, unless the kind allows several. A handle in
        use is not idle, is never evicted, and may finish in a drain. Entering is a checkpoint;
        leaving is not. When cancelled while it waits for its turn, it leaves the queue.

        Args:
            kind: The kind of handle.
            handle_id: The handle's id, as the client sent it.

        Raises:
            UnknownHandle: The handle does not exist, has expired, or has another kind or owner.
                Also raised if the handle ends while the block runs: the block is cancelled then.
            RuntimeError: The calling task uses the handle already, and would wait for itself.
        """
        return handles.use_handle(self.manager, self._request.principal, kind, handle_id)

    def get_handle(self, kind: HandleKind[T], handle_id: str, /) -> Handle[T]:
        """Look a handle up, without using it. Not a checkpoint; the handle stays idle.

        Args:
            kind: The kind of handle.
            handle_id: The handle's id, as the client sent it.

        Raises:
            UnknownHandle: The handle does not exist, has expired, or has another kind or owner.
        """
        return handles.get_handle(self.manager, self._request.principal, kind, handle_id)

    def list_handles(self, kind: HandleKind[T], /) -> list[Handle[T]]:
        """Return the caller's own handles of a kind, the oldest first. Not a checkpoint.

        Raises:
            NoPrincipal: The caller is unknown (2026-07-28 over HTTP without authentication).
        """
        return handles.list_handles(self.manager, self._request.principal, kind)

    async def close_handle(
        self, kind: HandleKind[T], handle_id: str, /, *, after_work: bool = False
    ) -> bool:
        """Close a handle, and wait until its clean-up is done. A checkpoint.

        Blocks that use the handle are cancelled, and raise `UnknownHandle`. When cancelled, the
        call stops waiting; the handle is closed all the same.

        With ``after_work``, blocks that have begun are not cancelled, and the call does not wait:
        it may be made within such a block. The handle is closed when the last of them is left, and
        when other work of its session is done. Until then no new block can begin; see
        `Session.terminate`.

        Args:
            kind: The kind of handle.
            handle_id: The handle's id, as the client sent it.
            after_work: Whether to close it when the uses that have begun are over.

        Returns:
            Whether there was such a handle; False where `use_handle` would raise `UnknownHandle`.

        Raises:
            RuntimeError: Without ``after_work``: the calling task uses the handle, or belongs to
                it; nothing was changed.
        """
        return await handles.close_handle(
            self.manager, self._request.principal, kind, handle_id, after_work=after_work
        )

    # Helpers.

    def _to_ask(self, question: Question[Any]) -> MethodAndParams:
        """Return a question as `InFlightRequest.ask_all` takes it."""
        # Without a revision the session has no client: the check of the question raises that.
        revision = self._request.revision or LATEST_HANDSHAKE
        return question._method, question._params(revision)

    def _is_open(self) -> bool:
        """Return whether messages may still be sent for this request."""
        return not self._request.handler_has_ended and not self._request.has_answer

    async def _send(self, frame: bytes, is_wanted: Callable[[], bool]) -> None:
        """Send a message as soon as there is room, unless it is out of date by then."""
        request = self._request
        on_behalf_of = request.params
        await trio.lowlevel.checkpoint()
        # Meanwhile the request may have been sent again, by a client that did not ask for this
        # message: then it has other params.
        while self._is_open() and request.params is on_behalf_of and is_wanted():
            if request.owner.send_message(request.sink, frame) is not False:
                return  # Sent; or the transport failed, which was reported.
            if not request.sink.reachable:
                request.owner.counters.dropped += 1
                return  # There will never be room.
            await request.sink.wait_writable()


def _as_text(progress: float, total: float | None) -> str:
    return f"{progress:g}" if total is None else f"{progress:g} of {total:g}"


def current_request() -> RequestContext:
    """Return the context of the request whose handler runs. Not a checkpoint.

    It is set in handlers, and in the tasks that they start in nurseries of their own. It is not set
    in other tasks of a session, such as those of `Session.start_soon`: they may outlive the
    request.

    Raises:
        LookupError: The caller is not part of a handler.
    """
    return _current.get()


def running_request() -> RequestContext | None:
    """Return the context of the request whose handler runs; None outside of handlers."""
    return _current.get(None)
