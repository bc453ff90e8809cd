"""Retries: requests that bring the answers to an earlier one's questions (2026-07-28)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import CapabilityMissing, McpError
from ..core.ids import SessionKind
from ..protocol.error_codes import INVALID_PARAMS
from ..protocol.request_state import CarriedState, ParkedState
from ..sessions.failures import FAILURES, contain
from .parked import parked_handler

if TYPE_CHECKING:
    from .request import InFlightRequest
    from .request_queue import RequestQueue

GONE = (
    "The server no longer waits for this call: another request continued it, or it expired. "
    "To start over, call again"
)


def resume(queue: RequestQueue, request: InFlightRequest) -> InFlightRequest | None:
    """Continue a parked handler with a retry, or reject the retry. Not a checkpoint.

    Returns:
        The request, in flight or answered. None if its handler has to be called, as for any other
        request.
    """
    try:
        state = request.open_state()
        if isinstance(state, CarriedState):
            request.carried = state.value
            return None
        return _wake(queue, request, state)
    except CapabilityMissing as error:
        request.fail_missing_capability(error)
        return request
    except McpError as error:
        request.owner.violation("requestState or inputResponses do not match the request")
        request.fail(error.code, error.message)
        return request
    except FAILURES as error:  # the wall clock is the application's
        request.crash(contain(error))
        return request


def _wake(queue: RequestQueue, request: InFlightRequest, state: ParkedState) -> InFlightRequest:
    store = request.owner.manager.store
    session = store.get(state.session_id, SessionKind.PARKED)
    # The state is signed for its principal; the owner of the handle is checked as well.
    if session is None or session.principal != request.principal:
        _say_gone(request)
        return request
    handler = parked_handler(session)
    request.observe_retry(handler.request)
    return handler.request if handler.resume_with(queue, request, state.round_number) else request


def _say_gone(request: InFlightRequest) -> None:
    if request.method == "tools/call":
        # For the model, which can act on it.
        request.answer({"content": [{"type": "text", "text": GONE}], "isError": True})
    else:
        request.fail(INVALID_PARAMS, GONE)
