"""What a test client returns for the results of its requests."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from ..core.errors import McpError
from ..core.task_info import TaskStatus


class TaskCancelled(Exception):
    """The task was cancelled, by its client or by the server, so it has no result."""


@attrs.frozen(kw_only=True)
class ToolAnswer:
    """The result of a tool call."""

    content: Sequence[Mapping[str, Any]]
    """The content blocks, as sent."""

    structured: Mapping[str, Any] | None
    """``structuredContent``, if there is any."""

    is_error: bool
    """Whether the tool failed, for the model to see."""

    @property
    def text(self) -> str:
        """The text of all text blocks."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")

    @classmethod
    def _read(cls, result: Mapping[str, Any]) -> ToolAnswer:
        return cls(
            content=result["content"],
            structured=result.get("structuredContent"),
            is_error=result.get("isError", False),
        )


@attrs.frozen(kw_only=True)
class ResourceAnswer:
    """The contents of a resource."""

    contents: Sequence[Mapping[str, Any]]
    """The contents, as sent."""

    @property
    def text(self) -> str:
        """The text of all contents that are text."""
        return "".join(one["text"] for one in self.contents if "text" in one)

    @property
    def data(self) -> bytes:
        """The bytes of all contents that are bytes."""
        return b"".join(base64.b64decode(one["blob"]) for one in self.contents if "blob" in one)


@attrs.frozen(kw_only=True)
class PromptAnswer:
    """A prompt with its arguments filled in."""

    messages: Sequence[Mapping[str, Any]]
    """The messages, as sent: each has a ``role`` and a ``content``."""

    description: str | None
    """Its description, if the server sent one."""

    @property
    def text(self) -> str:
        """The text of all messages that are text."""
        contents = [message["content"] for message in self.messages]
        return "".join(content["text"] for content in contents if content["type"] == "text")


@attrs.frozen(kw_only=True)
class CompletionAnswer:
    """The values that complete an argument."""

    values: Sequence[str]
    """The values, best first."""

    total: int | None
    """How many values there are in all, if the server sent it."""

    has_more: bool
    """Whether there are more values than these."""


@attrs.frozen(kw_only=True)
class TaskAnswer:
    """What a server says of a task at one moment (2026-07-28)."""

    task_id: str
    """Its id."""

    status: TaskStatus
    """Its status."""

    message: str | None
    """The status message, for people."""

    questions: Mapping[str, Mapping[str, Any]]
    """The open questions by their keys: each has a ``method`` and ``params``."""

    result: ToolAnswer | None
    """The result, of a completed task."""

    error: McpError | None
    """The error, of a failed task."""

    time_to_live: float
    """Seconds from its beginning for which the server keeps it."""

    poll_interval: float
    """Seconds that the client is asked to wait before it asks again."""

    created: datetime
    """When it became a task, by the clock of the server."""

    updated: datetime
    """When it changed last."""

    @classmethod
    def _read(cls, task: Mapping[str, Any]) -> TaskAnswer:
        result, error = task.get("result"), task.get("error")
        return cls(
            task_id=task["taskId"],
            status=TaskStatus(task["status"]),
            message=task.get("statusMessage"),
            questions=task.get("inputRequests", {}),
            result=None if result is None else ToolAnswer._read(result),
            error=None
            if error is None
            else McpError(error["code"], error["message"], error.get("data")),
            time_to_live=task["ttlMs"] / 1000,
            poll_interval=task["pollIntervalMs"] / 1000,
            created=datetime.fromisoformat(task["createdAt"]),
            updated=datetime.fromisoformat(task["lastUpdatedAt"]),
        )

    def _outcome(self) -> ToolAnswer:
        """Return the result of a task that has ended.

        Raises:
            McpError: It has failed.
            TaskCancelled: It was cancelled.
        """
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise TaskCancelled(self.message or "the task was cancelled")
        return self.result
