"""How requests, questions, tasks and sessions failed, and by whose fault."""

from __future__ import annotations

from typing import Final

import attrs

from ..core.errors import QuestionTimeout
from ..core.instrumentation import QuestionOutcome
from ..core.reasons import TerminationReason
from ..protocol import error_codes
from .names import OTHER, TIMEOUT, TOOL_ERROR

SERVER_RANGE: Final = range(-32099, -31999)
"""Codes that JSON-RPC reserves for errors of servers."""

OF_CLIENTS: Final = frozenset(
    {
        error_codes.RESOURCE_NOT_FOUND,
        error_codes.HEADER_MISMATCH,
        error_codes.MISSING_CLIENT_CAPABILITY,
        error_codes.UNSUPPORTED_PROTOCOL_VERSION,
        error_codes.URL_ELICITATION_REQUIRED,
    }
)
"""Codes in that range for what a client did or has to do."""

OF_ANSWERS: Final = frozenset(
    {
        -1,  # a user who declines, in requests for sampling
        error_codes.PARSE_ERROR,
        error_codes.INVALID_REQUEST,
        error_codes.METHOD_NOT_FOUND,
        error_codes.INVALID_PARAMS,
        error_codes.INTERNAL_ERROR,
    }
)
"""Codes of answers of clients that metrics tell apart: a client may send any number."""

FAILED_SESSIONS: Final = frozenset(
    {
        TerminationReason.CRASHED,
        TerminationReason.UNRESPONSIVE,
        TerminationReason.TRANSPORT_FAILED,
        TerminationReason.HANDSHAKE_TIMEOUT,
    }
)
"""Reasons that are errors. All others are the normal end of a session."""


@attrs.frozen
class Fault:
    """An error."""

    type: str
    """The value of ``error.type``."""

    is_ours: bool
    """Whether the server or a tool has failed, rather than its client."""


def fault_of(error_code: int | None, *, is_tool_error: bool) -> Fault | None:
    """Return the fault of a request or task; None if it has not failed."""
    if error_code is not None:
        return Fault(str(error_code), is_ours(error_code))
    return Fault(TOOL_ERROR, is_ours=True) if is_tool_error else None


def is_ours(error_code: int) -> bool:
    """Return whether a JSON-RPC error is the server's fault."""
    return error_code == error_codes.INTERNAL_ERROR or (
        error_code in SERVER_RANGE and error_code not in OF_CLIENTS
    )


def error_type_of_question(outcome: QuestionOutcome) -> str | None:
    """Return the ``error.type`` of a request to a client; None if it has not failed."""
    if outcome.error_code in OF_ANSWERS:
        return str(outcome.error_code)
    match outcome.error:
        case None:
            return None
        case QuestionTimeout():
            return TIMEOUT
        case _:
            return OTHER


def error_type_of_session(reason: TerminationReason) -> str | None:
    """Return the ``error.type`` of a session that ended; None for a normal end."""
    return label_of(reason.value) if reason in FAILED_SESSIONS else None


def label_of(text: str) -> str:
    """Return the name of a reason as monitoring writes it: with underscores."""
    return text.replace(" ", "_")
