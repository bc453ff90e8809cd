"""The two eras of the protocol, and which of them a server serves.

Revisions up to 2025-11-25 have sessions, which begin with ``initialize``. Requests of 2026-07-28
stand for themselves. A server may serve both, or decline one of them.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, final

import attrs

from ..core.errors import McpError
from .envelope import missing_envelope, unsupported_version
from .handshake import not_initialized
from .jsonrpc import Request
from .revisions import HANDSHAKE_REVISIONS, STATELESS_REVISIONS

Eras: TypeAlias = Literal["both", "legacy", "modern"]
"""Which revisions a server serves.

``legacy``: sessions, of 2024-11-05 to 2025-11-25. ``modern``: requests that stand for themselves,
of 2026-07-28. ``both``: the client chooses.
"""


@final
@attrs.frozen(kw_only=True)
class ServedEras:
    """What a connection or an endpoint serves. There are three of them, which all share."""

    legacy: bool
    """Whether clients may open sessions."""

    modern: bool
    """Whether requests may stand for themselves."""

    supported: tuple[str, ...]
    """The revisions that a client is told of, where it asked for one that is not served."""

    hint: str
    """What a client can do about that, for people."""

    def unsupported(self, requested: str) -> McpError:
        """Return the error for a revision that is not served: -32022."""
        return unsupported_version(requested, self.supported, self.hint)

    def check_stateless(self, version: str) -> None:
        """Check that requests of a revision may stand for themselves here.

        Raises:
            McpError: -32022.
        """
        if not self.modern or version not in STATELESS_REVISIONS:
            raise self.unsupported(version)

    def no_session(self) -> McpError:
        """Return the error for a request that has neither an envelope nor a session."""
        if not self.legacy:
            return missing_envelope(self.supported)
        return not_initialized(may_stand_alone=self.modern)

    def no_envelope(self, request: Request) -> McpError:
        """Return the error for a request without an envelope, where there are no sessions."""
        requested = request.params.get("protocolVersion")
        if request.method == "initialize" and isinstance(requested, str):
            return self.unsupported(requested)
        return self.no_session()


BOTH: Final = ServedEras(
    legacy=True,
    modern=True,
    # A client that asks by an envelope, or by a header, chooses among these.
    supported=tuple(STATELESS_REVISIONS),
    hint="",
)
LEGACY: Final = ServedEras(
    legacy=True,
    modern=False,
    supported=tuple(HANDSHAKE_REVISIONS),
    hint="this server needs a session, send initialize",
)
MODERN: Final = ServedEras(
    legacy=False,
    modern=True,
    supported=tuple(STATELESS_REVISIONS),
    hint="this server has no sessions, each request has to name "
    f"{' or '.join(STATELESS_REVISIONS)} in params._meta",
)
_SERVED: Final[dict[Eras, ServedEras]] = {"both": BOTH, "legacy": LEGACY, "modern": MODERN}
ERAS: Final = tuple(_SERVED)
"""The values of `Eras`."""


def check_eras(eras: object) -> None:
    """Check a value of `Eras`.

    Raises:
        ValueError: It is none.
    """
    if eras not in ERAS:
        raise ValueError(f"eras must be 'both', 'legacy' or 'modern', not {eras!r}")


def served_eras(application: object, eras: Eras | None = None) -> ServedEras:
    """Return what is served.

    Args:
        application: The application that is served; its attribute ``eras`` says what it is made
            for, and one without that attribute is made for both.
        eras: What the endpoint or the connection says, which comes first.

    Raises:
        ValueError: One of them is no value of `Eras`.
    """
    chosen: Any = eras
    if chosen is None:
        chosen = getattr(application, "eras", None)
    if chosen is None:
        return BOTH
    check_eras(chosen)
    return _SERVED[chosen]
