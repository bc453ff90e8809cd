"""The arguments of tools that headers repeat, as the server has declared them (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, final

import attrs

from ...protocol.header_annotations import read_annotations
from ...protocol.header_mirroring import mirror_arguments
from ...protocol.jsonrpc import decode_json, is_object

MAX_TOOLS: Final = 10_000
"""Most tools with such arguments that are remembered."""


@final
@attrs.define(eq=False)
class ToolHeaders:
    """What is known of the tools of one server."""

    _declared: dict[str, Mapping[str, tuple[str, ...]]] = attrs.field(
        factory=dict[str, Mapping[str, tuple[str, ...]]], init=False
    )

    def learn(self, schemas: Mapping[str, Any]) -> None:
        """Read what the server has declared. Not a checkpoint.

        Args:
            schemas: The input schemas, by tool.
        """
        for name, schema in schemas.items():
            declared: Mapping[str, tuple[str, ...]] = {}
            with suppress(ValueError):  # Clients ignore such a tool.
                declared = read_annotations(schema) if is_object(schema) else declared
            self._declared.pop(name, None)
            if declared and len(self._declared) < MAX_TOOLS:
                self._declared[name] = declared

    def of_call(self, name: object, arguments: bytes) -> dict[str, str]:
        """Return the headers of a call. Not a checkpoint."""
        declared = self._declared.get(name) if isinstance(name, str) else None
        if not (declared and arguments):
            return {}
        values = decode_json(arguments)
        return mirror_arguments(declared, values) if is_object(values) else {}
