"""The envelope of a stateless request: ``params._meta`` (2026-07-28, *Basic*, ``_meta``).

A request is modern if it names its protocol version there. Nothing else makes it modern: no method,
no header, and no other member of ``_meta``. Nothing of it is kept for the next request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from ..core.errors import McpError
from ..core.identity import ClientInfo
from ..core.log_level import SEVERITY
from .error_codes import INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION
from .jsonrpc import Params, is_object
from .revisions import STATELESS_REVISIONS, Revision

PREFIX: Final = "io.modelcontextprotocol/"
PROTOCOL_VERSION: Final = f"{PREFIX}protocolVersion"
CLIENT_CAPABILITIES: Final = f"{PREFIX}clientCapabilities"
CLIENT_INFO: Final = f"{PREFIX}clientInfo"
LOG_LEVEL: Final = f"{PREFIX}logLevel"
SERVER_INFO: Final = f"{PREFIX}serverInfo"
SUBSCRIPTION_ID: Final = f"{PREFIX}subscriptionId"

MAX_ECHO: Final = 64
"""The most characters of a peer's text that an error repeats."""


@attrs.define(kw_only=True)  # One for each request, and a frozen class takes four times as long.
class Envelope:
    """The envelope of one request."""

    version: str
    """The revision that the request names, which may be an unsupported one."""

    capabilities: dict[str, Any]
    """The client's capabilities."""

    info: Any
    """The client's ``clientInfo``, unchecked: it may be of any type."""

    log_severity: int | None
    """The least severity of log messages to send for this request; None to send none."""

    _client: ClientInfo | None = attrs.field(default=None, init=False, eq=False, repr=False)

    @property
    def client(self) -> ClientInfo:
        """The name, version and capabilities of the client, made when they are first read."""
        if self._client is None:
            self._client = _client(self.info, self.capabilities)
        return self._client

    @property
    def revision(self) -> Revision:
        """The revision of the request.

        Raises:
            McpError: -32022, it is not a revision of stateless requests.
        """
        revision = STATELESS_REVISIONS.get(self.version)
        if revision is None:
            raise unsupported_version(self.version)
        return revision


def is_modern(params: Params) -> bool:
    """Return whether a request is stateless; an incomplete envelope counts too."""
    meta = params.get("_meta")
    return is_object(meta) and PROTOCOL_VERSION in meta


def read_envelope(params: Params, supported: Iterable[str] = STATELESS_REVISIONS) -> Envelope:
    """Read the envelope of a stateless request.

    Args:
        params: The request's parameters.
        supported: The revisions that the error lists.

    Raises:
        McpError: -32602, a required member is missing, or one is of the wrong type.
    """
    meta = params.get("_meta")
    if not is_object(meta):
        raise missing_envelope(supported)
    version = meta.get(PROTOCOL_VERSION)
    capabilities = meta.get(CLIENT_CAPABILITIES)
    if not isinstance(version, str) or not is_object(capabilities):
        raise missing_envelope(supported)
    return Envelope(
        version=version,
        capabilities=capabilities,
        info=meta.get(CLIENT_INFO),
        log_severity=_severity(meta.get(LOG_LEVEL)),
    )


def missing_envelope(supported: Iterable[str] = STATELESS_REVISIONS) -> McpError:
    """Return the error for a request whose envelope is missing or incomplete."""
    return McpError(
        INVALID_PARAMS,
        f"params._meta must have {PROTOCOL_VERSION} (a string) and {CLIENT_CAPABILITIES} "
        "(an object)",
        {"supported": list(supported)},
    )


def unsupported_version(
    requested: str, supported: Iterable[str] = STATELESS_REVISIONS, hint: str = ""
) -> McpError:
    """Return the error for a request of an unsupported revision.

    Args:
        requested: The revision of the request.
        supported: The revisions that are served.
        hint: What the client can do, for people.
    """
    return McpError(
        UNSUPPORTED_PROTOCOL_VERSION,
        f"Unsupported protocol version{hint and ': '}{hint}",
        {"supported": list(supported), "requested": requested[:MAX_ECHO]},
    )


def _client(info: Any, capabilities: dict[str, Any]) -> ClientInfo:
    # It is only shown to people, so a malformed one is not an error.
    members = dict(info) if is_object(info) else {}
    name, version = members.pop("name", ""), members.pop("version", "")
    return ClientInfo(
        client_id=name if isinstance(name, str) else "",
        client_version=version if isinstance(version, str) else "",
        capabilities=capabilities,
        metadata=members,
    )


def _severity(level: Any) -> int | None:
    if level is None:
        return None
    if not isinstance(level, str) or level not in SEVERITY:
        raise McpError(INVALID_PARAMS, f"{LOG_LEVEL} must be one of {', '.join(SEVERITY)}")
    return SEVERITY[level]
