"""``tasks/get``, ``tasks/update`` and ``tasks/cancel`` (2026-07-28, tasks extension)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..core.errors import McpError
from ..core.ids import SessionKind
from ..protocol.methods import TASKS_CANCEL, TASKS_GET, TASKS_UPDATE
from ..protocol.tasks_extension import (
    are_declared,
    not_declared,
    read_answers,
    read_task_id,
    unknown_task,
)
from ..sessions.failures import FAILURES, contain
from .task import ServerTask, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..core.identity import Principal
    from ..sessions.manager import SessionManager
    from .request import InFlightRequest


def find_task(
    manager: SessionManager, task_id: str, principal: Principal | None
) -> ServerTask | None:
    """Return the task of this id, if it belongs to the principal. Not a checkpoint."""
    session = manager.store.get(task_id, SessionKind.TASK)
    if session is None or session.principal != principal:
        return None
    return task_of(session)


def serve_task_method(request: InFlightRequest) -> None:
    """Answer a request about a task. Not a checkpoint."""
    try:
        if not are_declared(request.client):
            raise not_declared()
        task_id = read_task_id(request.params)
        task = find_task(request.owner.manager, task_id, request.principal)
        if task is None:
            raise unknown_task()
        result = _SERVED[request.method](task, request)
    except McpError as error:
        request.fail(error.code, error.message, error.data)
    except FAILURES as error:  # a principal is the application's
        request.crash(contain(error))
    else:
        request.answer(result)


def _get(task: ServerTask, _: InFlightRequest) -> Mapping[str, Any]:
    task.was_told()
    return task.snapshot().details()


def _update(task: ServerTask, request: InFlightRequest) -> None:
    task.take_answers(read_answers(request.params), request.memory)


def _cancel(task: ServerTask, _: InFlightRequest) -> None:
    task.cancel()


_SERVED: Final[Mapping[str, Callable[[ServerTask, InFlightRequest], Mapping[str, Any] | None]]] = {
    TASKS_GET: _get,
    TASKS_UPDATE: _update,
    TASKS_CANCEL: _cancel,
}
"""How each method is answered. None is an empty result."""
