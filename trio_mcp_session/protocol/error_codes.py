"""Error codes of JSON-RPC and MCP (``schema.ts`` of each revision)."""

from __future__ import annotations

from typing import Final

PARSE_ERROR: Final = -32700
"""The bytes are not JSON."""

INVALID_REQUEST: Final = -32600
"""It is JSON, but not a valid message, or not one that is allowed here."""

METHOD_NOT_FOUND: Final = -32601
"""The method does not exist, or is not available."""

INVALID_PARAMS: Final = -32602
"""The method exists, but its parameters are wrong."""

INTERNAL_ERROR: Final = -32603
"""The server failed, is busy, or is shutting down."""

HEADER_MISMATCH: Final = -32020
"""The HTTP headers do not agree with the message (from 2026-07-28 on)."""

MISSING_CLIENT_CAPABILITY: Final = -32021
"""The request needs a client capability that is not declared (from 2026-07-28 on)."""

UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
"""The request names an unsupported revision (from 2026-07-28 on)."""

URL_ELICITATION_REQUIRED: Final = -32042
"""The user has to open a URL first (2025-11-25 only)."""

RESOURCE_NOT_FOUND: Final = -32002
"""``resources/read`` of a resource that does not exist (up to 2025-11-25)."""
