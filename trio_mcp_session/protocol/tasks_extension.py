"""The tasks extension, ``io.modelcontextprotocol/tasks`` (2026-07-28): members and messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, final

import attrs
import msgspec

from ..core.errors import McpError
from ..core.identity import ClientInfo
from ..core.task_info import TaskStatus
from .error_codes import INVALID_PARAMS, MISSING_CLIENT_CAPABILITY
from .jsonrpc import Params, encode_json, is_object
from .subscription_messages import TASK_CHANGED, Notice

TASKS: Final = "io.modelcontextprotocol/tasks"
"""The name of the extension in the capabilities of clients and servers."""


def are_offered(capabilities: Mapping[str, Any]) -> bool:
    """Return whether a server with these capabilities has the extension."""
    extensions = capabilities.get("extensions")
    return isinstance(extensions, Mapping) and TASKS in extensions


def are_declared(client: ClientInfo | None) -> bool:
    """Return whether a client has declared the extension, with this request."""
    return client is not None and is_object(client.extensions.get(TASKS))


def not_declared() -> McpError:
    """Return the error for a request that needs the extension, from a client without it."""
    return McpError(
        MISSING_CLIENT_CAPABILITY,
        f"The client did not declare the extension {TASKS}",
        {"requiredCapabilities": {"extensions": {TASKS: {}}}},
    )


def unknown_task() -> McpError:
    """Return the one error for ids that are unknown, have expired, or belong to another client."""
    return McpError(INVALID_PARAMS, "Unknown task: it does not exist, or has expired")


def read_task_id(params: Params) -> str:
    """Return the id of the task that a request is about.

    Raises:
        McpError: -32602, it has no ``taskId`` that is a string.
    """
    task_id = params.get("taskId")
    if not isinstance(task_id, str):
        raise McpError(INVALID_PARAMS, "taskId must be a string")
    return task_id


def read_answers(params: Params) -> dict[str, Any]:
    """Return the answers in ``tasks/update``, by the keys of the questions. They are not checked.

    Raises:
        McpError: -32602, ``inputResponses`` is not an object.
    """
    answers = params.get("inputResponses")
    if not is_object(answers):
        raise McpError(INVALID_PARAMS, "inputResponses must be an object")
    return answers


@final
@attrs.frozen(kw_only=True)
class TaskSnapshot:
    """A task at one moment, as clients see it."""

    task_id: str
    status: TaskStatus
    message: str | None
    created: datetime
    """Wall-clock time, UTC."""
    changed: datetime
    """Wall-clock time, UTC."""
    time_to_live: float
    """Seconds from ``created`` on for which clients can ask for it."""
    poll_interval: float
    """Seconds between two requests of a client for it."""
    questions: Mapping[str, msgspec.Raw]
    """The open questions, encoded, by their keys."""
    result: msgspec.Raw | None
    """The result, encoded."""
    error: msgspec.Raw | None
    """The JSON-RPC error, encoded."""

    def creation(self) -> dict[str, Any]:
        """Return the result of the request whose handler has become a task."""
        return {"resultType": "task", **self._members()}

    def details(self) -> dict[str, Any]:
        """Return what ``tasks/get`` and ``notifications/tasks`` say of it."""
        members = self._members()
        if self.status is TaskStatus.INPUT_REQUIRED:
            members["inputRequests"] = self.questions
        if self.result is not None:
            members["result"] = self.result
        if self.error is not None:
            members["error"] = self.error
        return members

    def notice(self) -> Notice:
        """Return the notification of it for subscriptions."""
        return Notice.of(TASK_CHANGED, self.details())

    def _members(self) -> dict[str, Any]:
        members: dict[str, Any] = {
            "taskId": self.task_id,
            "status": self.status.value,
            "createdAt": _text_of(self.created),
            "lastUpdatedAt": _text_of(self.changed),
            "ttlMs": max(1, round(self.time_to_live * 1000)),
            "pollIntervalMs": max(1, round(self.poll_interval * 1000)),
        }
        if self.message is not None:
            members["statusMessage"] = self.message
        return members


def encode_error(code: int, message: str, data: Any) -> msgspec.Raw:
    """Encode the error of a task.

    Raises:
        TypeError: The data does not encode to JSON.
    """
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return msgspec.Raw(encode_json(error))


def _text_of(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")[: len("2026-07-28T12:00:00.000")] + "Z"
