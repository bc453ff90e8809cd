"""What a modern request says of itself in ``params._meta`` (2026-07-28, *Basic*, ``_meta``).

A request is modern when it names its protocol version there, and by nothing else: not by its
method, not by a header, not by having a ``_meta``. Nothing of one request is remembered for the
next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from ..core.errors import McpError
from ..core.identity import ClientInfo
from .error_codes import INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION
from .jsonrpc import Params, is_object
from .log_levels import SEVERITY
from .revisions import STATELESS_REVISIONS, Revision

PREFIX: Final = "io.modelcontextprotocol/"
PROTOCOL_VERSION: Final = f"{PREFIX}protocolVersion"
CLIENT_CAPABILITIES: Final = f"{PREFIX}clientCapabilities"
CLIENT_INFO: Final = f"{PREFIX}clientInfo"
LOG_LEVEL: Final = f"{PREFIX}logLevel"
SERVER_INFO: Final = f"{PREFIX}serverInfo"
SUBSCRIPTION_ID: Final = f"{PREFIX}subscriptionId"

MAX_ECHO: Final = 64
"""Characters of a peer's own words that an error repeats, at most."""


@attrs.define(kw_only=True)  # One for each request, and frozen ones take four times as long.
class Envelope:
    """What one request says of its client."""

    version: str
    """The revision that it names, served or not."""

    capabilities: dict[str, Any]
    """What the client can do."""

    info: Any
    """What the client says of itself: anything."""

    log_severity: int | None
    """The least severe messages that it wants to hear for this request; None for none."""

    _client: ClientInfo | None = attrs.field(default=None, init=False, eq=False, repr=False)

    @property
    def client(self) -> ClientInfo:
        """What the client says of itself and of what it can do; few ask for it."""
        if self._client is None:
            self._client = _client(self.info, self.capabilities)
        return self._client

    @property
    def revision(self) -> Revision:
        """The revision that the request is served in.

        Raises:
            McpError: -32022, it is not served to requests that stand for themselves.
        """
        revision = STATELESS_REVISIONS.get(self.version)
        if revision is None:
            raise unsupported_version(self.version)
        return revision


def is_modern(params: Params) -> bool:
    """Tell whether a request stands for itself: a half-built envelope is modern, too."""
    meta = params.get("_meta")
    return is_object(meta) and PROTOCOL_VERSION in meta


def read_envelope(params: Params, supported: Iterable[str] = STATELESS_REVISIONS) -> Envelope:
    """Read the envelope of a request, modern or meant to be.

    Args:
        params: The request's parameters.
        supported: The revisions that the error tells of.

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
    """Return the error for a request that has to have an envelope, and has not or half of one."""
    return McpError(
        INVALID_PARAMS,
        f"params._meta must have {PROTOCOL_VERSION} (a string) and {CLIENT_CAPABILITIES} "
        "(an object)",
        {"supported": list(supported)},
    )


def unsupported_version(
    requested: str, supported: Iterable[str] = STATELESS_REVISIONS, hint: str = ""
) -> McpError:
    """Return the error for a request of a revision that is not served.

    Args:
        requested: The revision.
        supported: Those that are served.
        hint: What can be done about it, for people.
    """
    return McpError(
        UNSUPPORTED_PROTOCOL_VERSION,
        f"Unsupported protocol version{hint and ': '}{hint}",
        {"supported": list(supported), "requested": requested[:MAX_ECHO]},
    )


def _client(info: Any, capabilities: dict[str, Any]) -> ClientInfo:
    # It is for people only: whatever it is, it refuses nothing.
    said = dict(info) if is_object(info) else {}
    name, version = said.pop("name", ""), said.pop("version", "")
    return ClientInfo(
        client_id=name if isinstance(name, str) else "",
        client_version=version if isinstance(version, str) else "",
        capabilities=capabilities,
        metadata=said,
    )


def _severity(level: Any) -> int | None:
    if level is None:
        return None
    if not isinstance(level, str) or level not in SEVERITY:
        raise McpError(INVALID_PARAMS, f"{LOG_LEVEL} must be one of {', '.join(SEVERITY)}")
    return SEVERITY[level]
