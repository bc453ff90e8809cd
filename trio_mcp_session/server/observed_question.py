"""Requests to a client, reported to the instrumentation (up to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import McpError
from ..core.instrumentation import QuestionDetails, QuestionOutcome

if TYPE_CHECKING:
    from ..sessions.instruments import Instruments
    from .outgoing import OutgoingRequests
    from .sink import MessageSink


async def ask_observed(
    instruments: Instruments,
    outgoing: OutgoingRequests,
    method: str,
    params: Mapping[str, Any] | None,
    sink: MessageSink,
    timeout: float,  # noqa: ASYNC109  # the client is told when it is over
) -> Any:
    """Ask as `OutgoingRequests.ask` does, and report how that begins and ends. A checkpoint."""
    session = outgoing.session
    details = QuestionDetails(
        method=method,
        request_id=outgoing.next_id,
        protocol_version=session.protocol_version,
        session_id=session.session_id,
        transport=session.transport,
        principal=session.principal,
    )
    params, finished = instruments.question_begun(details, params)
    outcome = QuestionOutcome(cancelled=True)
    try:
        result = await outgoing.ask(method, params, sink, timeout)
        outcome = QuestionOutcome()
        return result
    except McpError as error:
        outcome = QuestionOutcome(error_code=error.code, error=error)
        raise
    except Exception as error:
        outcome = QuestionOutcome(error=error)
        raise
    finally:
        if finished is not None:
            finished(outcome)
