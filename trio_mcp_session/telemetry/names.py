"""Names of attributes and instruments, from the semantic conventions for MCP, and our own.

The conventions are open-telemetry/semantic-conventions-genai, ``docs/gen-ai/mcp.md``, status
*Development*: names may change, so all of them are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..core.metrics import DURATION_BUCKETS

SCOPE: Final = "trio_mcp_session"
"""The name of the tracer and of the meter."""

# Attributes of the conventions.
METHOD: Final = "mcp.method.name"
PROTOCOL_VERSION: Final = "mcp.protocol.version"
SESSION_ID: Final = "mcp.session.id"
RESOURCE_URI: Final = "mcp.resource.uri"
REQUEST_ID: Final = "jsonrpc.request.id"
STATUS_CODE: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
TOOL: Final = "gen_ai.tool.name"
PROMPT: Final = "gen_ai.prompt.name"
OPERATION: Final = "gen_ai.operation.name"
ARGUMENTS: Final = "gen_ai.tool.call.arguments"
RESULT: Final = "gen_ai.tool.call.result"
NETWORK_TRANSPORT: Final = "network.transport"
NETWORK_PROTOCOL: Final = "network.protocol.name"
NETWORK_VERSION: Final = "network.protocol.version"
CLIENT_ADDRESS: Final = "client.address"
CLIENT_PORT: Final = "client.port"

# Values of the conventions.
EXECUTE_TOOL: Final = "execute_tool"
OTHER: Final = "_OTHER"
TOOL_ERROR: Final = "tool_error"
TIMEOUT: Final = "timeout"

# Our own.
INPUT_REQUIRED: Final = "mcp.input_required"
"""The event of a request or task that asks its client (2026-07-28)."""
CANCELLED: Final = "trio_mcp_session.cancelled"
"""True for a request that got no answer, because its client cancelled it or left."""
TASK: Final = "trio_mcp_session.task"
"""The short hash of a task's id, as in the log."""

# Instruments of the conventions.
SERVER_OPERATION: Final = "mcp.server.operation.duration"
SERVER_SESSION: Final = "mcp.server.session.duration"
CLIENT_OPERATION: Final = "mcp.client.operation.duration"

OPERATION_BUCKETS: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Bounds in seconds that the conventions advise."""

SESSION_BUCKETS: Final = DURATION_BUCKETS
"""Bounds of session durations: those that the conventions advise end at 5 minutes."""

NO_OPERATIONS: Final = frozenset({"subscriptions/listen"})
"""Requests that last as long as the client likes: they are not counted as operations."""

TARGETS: Final[Mapping[str, str]] = MappingProxyType({"tools/call": TOOL, "prompts/get": PROMPT})
"""The attribute for the name of what a request is for, by its method."""

OF_RESOURCES: Final = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})
"""Methods whose spans have the URI of the resource."""
