"""The interface for tracing and metrics: called when requests and sessions begin and end.

An `Instrumentation` is called when a request, a question to a client or a session begins, with its
details, and returns what to call when it ends, with the outcome. For a request this may be a
`RequestObserver`, which also sees its handler, its retries and the task that it becomes. It works
alike in both eras and on every transport.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import attrs

from .identity import Principal, Transport
from .ids import SessionId, SessionKind
from .metrics import ManagerStatistics
from .reasons import TerminationReason
from .task_info import TaskStatus


@attrs.frozen(kw_only=True)
class RequestDetails:
    """What is known of a request, or of a notification that a handler gets, when it begins."""

    method: str
    """Its method."""

    request_id: int | str | None
    """Its JSON-RPC id; None for a notification."""

    params: Mapping[str, Any]
    """Its parameters, as sent. They may hold secrets, and context in ``_meta``."""

    protocol_version: str | None
    """The protocol version that its client speaks; None before the handshake."""

    session_id: SessionId | None
    """The session that it belongs to; None from 2026-07-28 on, and with `HttpOptions.stateless`."""

    transport: Transport | None
    """The transport of its client; None for requests over HTTP that belong to no session."""

    principal: Principal | None
    """The principal that it is made for; None if there is none."""

    is_known: bool = True
    """Whether the server serves its method. Otherwise the method is any text of the client: do
    not use it as a name in metrics."""

    target: str | None = None
    """The name of the tool or prompt that it is for, if there is one of this name. It is a name for
    metrics: clients cannot invent it."""

    asgi_scope: Mapping[str, Any] | None = attrs.field(default=None, eq=False, repr=False)
    """The ASGI scope that it came with; None where the transport is not HTTP."""


@attrs.frozen(kw_only=True)
class RequestOutcome:
    """How a request ended."""

    error_code: int | None = None
    """The code of the JSON-RPC error that it was answered with; None for a result."""

    is_tool_error: bool = False
    """Whether the result says ``isError``."""

    needs_input: bool = False
    """Whether the result asks the client for input (2026-07-28): a retry of it will follow."""

    cancelled: bool = False
    """Whether it got no answer, because its client cancelled it or has left."""

    error_message: str | None = attrs.field(default=None, eq=False)
    """The message of the JSON-RPC error; None for a result."""

    result: object = attrs.field(default=None, eq=False, repr=False)
    """The result that it was answered with. It may hold secrets."""


@attrs.frozen(kw_only=True)
class QuestionDetails:
    """What is known of a request to a client when it begins (up to 2025-11-25)."""

    method: str
    """Its method, such as ``elicitation/create`` or ``ping``."""

    request_id: int | str
    """Its JSON-RPC id."""

    protocol_version: str | None
    """The protocol version that the client speaks; None before the handshake."""

    session_id: SessionId
    """The session of the client."""

    transport: Transport
    """The transport of the client."""

    principal: Principal | None
    """The principal of the session; None if there is none."""


@attrs.frozen(kw_only=True)
class QuestionOutcome:
    """How a request to a client ended."""

    error_code: int | None = None
    """The code of the JSON-RPC error that the client answered with; None for a result."""

    error: Exception | None = attrs.field(default=None, eq=False)
    """The error that the call raises, such as `QuestionTimeout`; None for a result and when it was
    cancelled."""

    cancelled: bool = False
    """Whether the call was cancelled."""


@attrs.frozen(kw_only=True)
class TaskDetails:
    """What is known of a task (2026-07-28) when it begins."""

    task_id: str
    """Its id. Treat it as a secret where there is no authentication."""

    name: str
    """What runs in it, such as ``tool 'build'``."""

    principal: Principal | None
    """The principal that it runs for; None if there is none."""


@attrs.frozen(kw_only=True)
class TaskOutcome:
    """How a task ended."""

    status: TaskStatus
    """Its final status."""

    error_code: int | None = None
    """The code of the JSON-RPC error that it failed with; None if it has a result or was
    cancelled."""

    error_message: str | None = attrs.field(default=None, eq=False)
    """Its status message, if it has no result."""

    is_tool_error: bool = False
    """Whether its result says ``isError``."""


@attrs.frozen(kw_only=True)
class SessionDetails:
    """What is known of a session when it begins."""

    session_id: SessionId
    """Its id. Treat it as a secret where there is no authentication."""

    kind: SessionKind
    """How it is reached."""

    transport: Transport
    """By what its client is connected."""

    principal: Principal | None
    """On whose behalf it was opened; None without authentication."""


@attrs.frozen(kw_only=True)
class SessionOutcome:
    """How a session ended."""

    reason: TerminationReason
    """Why it ended."""

    error: Exception | None
    """What went wrong in it for good: one error, or a group of several."""

    protocol_version: str | None
    """The protocol version that was agreed on; None without a handshake."""


RequestFinished: TypeAlias = Callable[[RequestOutcome], object]
"""Called once, when a request has its answer, or gets none. Not a checkpoint."""

QuestionFinished: TypeAlias = Callable[[QuestionOutcome], object]
"""Called once, when a request to a client has its answer, or gets none. Not a checkpoint."""

SessionFinished: TypeAlias = Callable[[SessionOutcome], object]
"""Called once, when nothing of a session is left. Not a checkpoint."""


class TaskObserver:
    """Watches one task, from the answer to its request to its outcome. Override what you need."""

    def enter_handler(self) -> None:
        """Called when it begins, in the context of its handler: see `RequestObserver`."""

    def waits_for_input(self) -> None:
        """Called when it begins to wait for answers of its client (``input_required``)."""

    def finished(self, outcome: TaskOutcome) -> None:
        """Called once, when it has its final status."""


class RequestObserver:
    """Watches one request. Base class: override what you need. Nothing of it is a checkpoint."""

    def enter_handler(self) -> None:
        """Called in the context of the handler, when it begins to work for this request.

        Context variables that it sets are the handler's, and those of the tasks that it starts. It
        is called before the handler is called; and when a handler that waited for its client
        continues with this request.
        """

    def continues(self, first: RequestObserver) -> None:
        """Called when it is the retry of an earlier request (2026-07-28), before it is answered.

        Args:
            first: What the same instrumentation returned for the request that the handler was
                called for.
        """

    def task_begun(
        self,
        details: TaskDetails,  # noqa: ARG002  # for subclasses
    ) -> TaskObserver | None:
        """Called when its handler becomes a task (2026-07-28), before it is answered with that."""
        return None

    def finished(self, outcome: RequestOutcome) -> None:
        """Called once, when it has its answer, or gets none."""


class Instrumentation:
    """Watches requests, questions and sessions. Base class: override what you need.

    All of it is called in the event loop's thread and must not wait. The first error of each
    instrumentation is logged; errors change nothing else.
    """

    def is_active(self) -> bool:
        """Called when a manager opens: whether it wants to be called. If not, it costs nothing."""
        return True

    def opened(
        self,
        statistics: Callable[[], ManagerStatistics],  # noqa: ARG002  # for subclasses
    ) -> Callable[[], Awaitable[object]] | None:
        """Called when a manager opens, before any session.

        Args:
            statistics: `SessionManager.statistics`. Call it in the event loop's thread only.

        Returns:
            An async function that runs until the last session of the manager has ended, when it is
            cancelled; None for none.
        """
        return None

    def request_begun(
        self,
        details: RequestDetails,  # noqa: ARG002  # for subclasses
    ) -> RequestFinished | RequestObserver | None:
        """Called when a request is received and has been checked, before it runs or waits.

        It is not called for requests that are refused before: they break the protocol, or the
        session or the manager shuts down. Nor is it for notifications without a handler.

        Args:
            details: What is known of it.

        Returns:
            The function to call when it ends, or an observer, which sees more of it; None for no
            call.
        """
        return None

    def question_begun(
        self,
        details: QuestionDetails,  # noqa: ARG002  # for subclasses
        meta: dict[str, Any],  # noqa: ARG002
    ) -> QuestionFinished | None:
        """Called when a request to a client begins (up to 2025-11-25), pings included.

        It is called in the task that asks. From 2026-07-28 on a question is a part of an answer:
        see `RequestOutcome.needs_input` and `TaskObserver.waits_for_input`.

        Args:
            details: What is known of it.
            meta: What it adds here is sent in ``_meta``, except for keys that are there already.

        Returns:
            The function to call when it ends; None for no call.
        """
        return None

    def notification_sent(self, method: str, meta: dict[str, Any]) -> None:
        """Called when a notification is sent to one client, in the task that sends it.

        It is not called for broadcasts and subscriptions, which many clients get.

        Args:
            method: Its method.
            meta: As for `question_begun`.
        """

    def session_begun(
        self,
        details: SessionDetails,  # noqa: ARG002  # for subclasses
    ) -> SessionFinished | None:
        """Called when a session enters the table, before it is open.

        Args:
            details: What is known of it.

        Returns:
            The function to call when it ends; None for no call.
        """
        return None
