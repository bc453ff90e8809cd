"""Icons of the server, of tools, prompts and resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import attrs


@final
@attrs.frozen
class Icon:
    """An icon of the server, a tool, a prompt or a resource (from 2025-11-25 on)."""

    src: str
    """An ``https:`` or ``data:`` URI."""

    mime_type: str | None = attrs.field(default=None, kw_only=True)
    """Its media type, if the source does not tell."""

    sizes: Sequence[str] | None = attrs.field(default=None, kw_only=True)
    """The sizes that it can be used at, such as ``48x48``, or ``any``."""

    theme: Literal["light", "dark"] | None = attrs.field(default=None, kw_only=True)
    """The background that it is made for."""

    def write(self) -> dict[str, Any]:
        """Return the object of the protocol."""
        written: dict[str, Any] = {"src": self.src}
        if self.mime_type is not None:
            written["mimeType"] = self.mime_type
        if self.sizes is not None:
            written["sizes"] = list(self.sizes)
        if self.theme is not None:
            written["theme"] = self.theme
        return written
