"""Requests that come again, with what an earlier one asked for (2026-07-28)."""

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
    "The server does not wait for this call any more: it has been carried on before, or was given "
    "up. To have it done from the beginning, call again"
)


def resume(queue: RequestQueue, request: InFlightRequest) -> InFlightRequest | None:
    """Find out what a request goes on with. Not a checkpoint.

    Returns:
        The request that is in flight now, or that has its answer. None where the handler is to be
        called, as for any other.
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
        request.owner.violation("a request that comes again with what is none of its own")
        request.fail(error.code, error.message)
        return request
    except FAILURES as error:  # the wall clock is the application's
        request.crash(contain(error))
        return request


def _wake(queue: RequestQueue, request: InFlightRequest, state: ParkedState) -> InFlightRequest:
    store = request.owner.manager.store
    session = store.get(state.session_id, SessionKind.PARKED)
    # Whose it is has been signed; that it is still that principal's is asked again all the same.
    if session is None or session.principal != request.principal:
        _say_gone(request)
        return request
    handler = parked_handler(session)
    return handler.request if handler.resume_with(queue, request, state.round_number) else request


def _say_gone(request: InFlightRequest) -> None:
    if request.method == "tools/call":
        # For the model, which can do something about it.
        request.answer({"content": [{"type": "text", "text": GONE}], "isError": True})
    else:
        request.fail(INVALID_PARAMS, GONE)
