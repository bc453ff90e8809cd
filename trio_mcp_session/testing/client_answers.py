"""What a test client returns for the results of its requests."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import attrs


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
