"""``initialize``: read its parameters, build its result.

Sections *Lifecycle* of the revisions 2024-11-05 to 2025-11-25.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from ..core.errors import McpError
from ..core.identity import ClientInfo, ServerInfo
from .error_codes import INVALID_PARAMS
from .jsonrpc import Params
from .message_size import measure
from .revisions import HANDSHAKE_REVISIONS, Revision, negotiate
from .server_description import describe_server
from .undecoded import UndecodedObject

USUAL_SIZE: Final = 4096
"""Bytes in memory up to which a client's description is kept decoded. A larger one is kept as text,
which takes less, and is counted.
"""


class _Implementation(msgspec.Struct):
    name: str
    version: str


class _InitializeParams(msgspec.Struct, rename="camel"):
    protocol_version: str
    capabilities: dict[str, Any]
    client_info: dict[str, Any]


@attrs.frozen(kw_only=True)
class Handshake:
    """What ``initialize`` has agreed on for the session."""

    revision: Revision
    """The revision that both sides use from now on."""

    client: ClientInfo
    """The name, version and capabilities that the client declared."""

    size: int = 0
    """Bytes that ``client`` takes while the session lives, if they are more than usual; 0
    otherwise."""


def read_initialize(params: Params) -> Handshake:
    """Read the parameters of ``initialize``, and choose the revision.

    Raises:
        McpError: -32602, a required member is missing or of the wrong type.
    """
    try:
        asked = msgspec.convert(params, _InitializeParams)
        implementation = msgspec.convert(asked.client_info, _Implementation)
    except msgspec.ValidationError as error:
        raise McpError(INVALID_PARAMS, f"Invalid initialize parameters: {error}") from error
    metadata = {
        key: value for key, value in asked.client_info.items() if key not in {"name", "version"}
    }
    names = implementation.name, implementation.version
    size = measure(*names, asked.capabilities, metadata)
    capabilities: Mapping[str, Any] = asked.capabilities
    others: Mapping[str, Any] = metadata
    if size <= USUAL_SIZE:
        size = 0
    else:
        capabilities, others = UndecodedObject.of(capabilities), UndecodedObject.of(others)
        size = sum(map(len, names)) + capabilities.size + others.size
    return Handshake(
        revision=negotiate(asked.protocol_version),
        client=ClientInfo(
            client_id=implementation.name,
            client_version=implementation.version,
            capabilities=capabilities,
            metadata=others,
        ),
        size=size,
    )


def initialize_too_large(limit: int) -> McpError:
    """Return the error for an ``initialize`` of more bytes than the limit."""
    return McpError(INVALID_PARAMS, f"initialize is larger than {limit} bytes")


def initialize_result(
    revision: Revision,
    server: ServerInfo,
    capabilities: Mapping[str, Any],
    instructions: str | None,
) -> dict[str, Any]:
    """Build the result of ``initialize``."""
    result: dict[str, Any] = {
        "protocolVersion": revision.version,
        "capabilities": capabilities,
        "serverInfo": describe_server(server, revision),
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result


def not_initialized(*, stateless_allowed: bool = True) -> McpError:
    """Return the error for a request before ``initialize``.

    Args:
        stateless_allowed: Whether stateless requests are served too: then the error names both
            ways to begin, because the client may be of either era.
    """
    other_way = ", or name a protocol version in params._meta" if stateless_allowed else ""
    return McpError(
        INVALID_PARAMS,
        f"No session: send initialize first{other_way}",
        {"supported": list(HANDSHAKE_REVISIONS)},
    )
