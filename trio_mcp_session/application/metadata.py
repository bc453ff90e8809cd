"""What describes tools, resources, prompts and contents: annotations and hints, beside icons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import attrs

from ..core.icon import Icon as Icon  # noqa: PLC0414  # for those that describe something

if TYPE_CHECKING:
    from ..protocol.revisions import Revision

Role: TypeAlias = Literal["user", "assistant"]
"""The sender of a message, or the reader of a content."""


def _fraction(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ValueError(f"{attribute.name} must be a number from 0 to 1, not {value!r}")


@final
@attrs.frozen(kw_only=True)
class Annotations:
    """For which reader a content or resource is, and how important it is (MCP ``annotations``)."""

    audience: Sequence[Role] | None = None
    """The readers that it is made for."""

    priority: float | None = attrs.field(default=None, validator=_fraction)
    """How important it is: 1 for required, 0 for entirely optional."""

    last_modified: str | None = None
    """When it was last changed, in ISO 8601; sent from 2025-06-18 on."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol."""
        written: dict[str, Any] = {}
        if self.audience is not None:
            written["audience"] = list(self.audience)
        if self.priority is not None:
            written["priority"] = self.priority
        if self.last_modified is not None and revision.resource_links:
            written["lastModified"] = self.last_modified
        return written


@final
@attrs.frozen(kw_only=True)
class ToolAnnotations:
    """Hints about a tool (MCP ``ToolAnnotations``). Clients must not rely on them."""

    title: str | None = None
    """Name for people."""

    read_only: bool | None = None
    """Whether the tool changes nothing in its environment (``readOnlyHint``)."""

    destructive: bool | None = None
    """Whether its changes may destroy something (``destructiveHint``)."""

    idempotent: bool | None = None
    """Whether a second call with the same arguments changes nothing (``idempotentHint``)."""

    open_world: bool | None = None
    """Whether it works with things outside of the server, such as the web (``openWorldHint``)."""

    def write(self) -> dict[str, Any]:
        """Return the object of the protocol."""
        members = {
            "title": self.title,
            "readOnlyHint": self.read_only,
            "destructiveHint": self.destructive,
            "idempotentHint": self.idempotent,
            "openWorldHint": self.open_world,
        }
        return {name: value for name, value in members.items() if value is not None}
