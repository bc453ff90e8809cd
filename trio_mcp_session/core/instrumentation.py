"""The interface for tracing and metrics: called when requests and sessions begin and end.

An `Instrumentation` is called when a request or a session begins, with its details, and returns
what to call when it ends, with the outcome. It works alike in both eras and on every transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from .identity import Principal, Transport
from .ids import SessionId, SessionKind
from .reasons import TerminationReason


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

SessionFinished: TypeAlias = Callable[[SessionOutcome], object]
"""Called once, when nothing of a session is left. Not a checkpoint."""


class Instrumentation:
    """Watches requests and sessions. Base class: override what you need.

    All of it is called in the event loop's thread and must not wait. The first error of each
    instrumentation is logged; errors change nothing else.
    """

    def request_begun(
        self,
        details: RequestDetails,  # noqa: ARG002  # for subclasses
    ) -> RequestFinished | None:
        """Called when a request is received and has been checked, before it runs or waits.

        It is not called for ``initialize`` (see `session_begun`), for pings, and for requests that
        are refused before: they break the protocol, or the session or the manager shuts down.

        Args:
            details: What is known of it.

        Returns:
            The function to call when it ends; None for no call.
        """
        return None

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
