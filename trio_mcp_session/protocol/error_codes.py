"""Error numbers of JSON-RPC and MCP (``schema.ts`` of each revision)."""

from __future__ import annotations

from typing import Final

PARSE_ERROR: Final = -32700
"""The bytes are not JSON."""

INVALID_REQUEST: Final = -32600
"""It is JSON, but no message that may come here."""

METHOD_NOT_FOUND: Final = -32601
"""Nobody offers the method."""

INVALID_PARAMS: Final = -32602
"""The method is there, its parameters are wrong."""

INTERNAL_ERROR: Final = -32603
"""The server failed, is busy, or is going away."""

HEADER_MISMATCH: Final = -32020
"""The HTTP headers say something else than the message (from 2026-07-28 on)."""

MISSING_CLIENT_CAPABILITY: Final = -32021
"""The client would have to be asked what it cannot do (from 2026-07-28 on)."""

UNSUPPORTED_PROTOCOL_VERSION: Final = -32022
"""The request names a revision that is not served (from 2026-07-28 on)."""

RESOURCE_NOT_FOUND: Final = -32002
"""``resources/read`` of something that is not there (up to 2025-11-25)."""
