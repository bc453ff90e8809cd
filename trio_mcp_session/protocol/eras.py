"""The two eras of the protocol, and which of them a server serves.

Revisions up to 2025-11-25 have sessions, which begin with ``initialize``. Requests of 2026-07-28
are stateless. A server may serve both, or refuse one of them.
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

``legacy``: sessions, 2024-11-05 to 2025-11-25. ``modern``: stateless requests, 2026-07-28.
``both``: the client chooses.
"""


@final
@attrs.frozen(kw_only=True)
class ServedEras:
    """What a connection or an endpoint serves: `BOTH`, `LEGACY` or `MODERN`."""

    legacy: bool
    """Whether clients may open sessions."""

    modern: bool
    """Whether clients may send stateless requests."""

    supported: tuple[str, ...]
    """The revisions that the error for an unsupported revision in an envelope lists."""

    served: tuple[str, ...]
    """All revisions that are served, with sessions and without."""

    hint: str
    """What the client can do instead, for people."""

    def unsupported(self, requested: str) -> McpError:
        """Return the error for an unsupported revision: -32022."""
        return unsupported_version(requested, self.supported, self.hint)

    def unsupported_header(self, requested: str) -> McpError:
        """Return the error for an unsupported revision in the header of a request: -32022.

        Such a request may belong to a session. So the error lists the revisions of both eras.
        """
        return unsupported_version(requested, self.served, self.hint)

    def check_stateless(self, version: str) -> None:
        """Check that stateless requests of a revision are served.

        Raises:
            McpError: -32022, they are not.
        """
        if not self.modern or version not in STATELESS_REVISIONS:
            raise self.unsupported(version)

    def no_session(self) -> McpError:
        """Return the error for a request with neither an envelope nor a session."""
        if not self.legacy:
            return missing_envelope(self.supported)
        return not_initialized(stateless_allowed=self.modern)

    def no_envelope(self, request: Request) -> McpError:
        """Return the error for a request without an envelope, if sessions are not served."""
        requested = request.params.get("protocolVersion")
        if request.method == "initialize" and isinstance(requested, str):
            return self.unsupported(requested)
        return self.no_session()


BOTH: Final = ServedEras(
    legacy=True,
    modern=True,
    # A client that named a revision in an envelope can choose one of these.
    supported=tuple(STATELESS_REVISIONS),
    served=(*HANDSHAKE_REVISIONS, *STATELESS_REVISIONS),
    hint="",
)
LEGACY: Final = ServedEras(
    legacy=True,
    modern=False,
    supported=tuple(HANDSHAKE_REVISIONS),
    served=tuple(HANDSHAKE_REVISIONS),
    hint="this server needs a session, send initialize",
)
MODERN: Final = ServedEras(
    legacy=False,
    modern=True,
    supported=tuple(STATELESS_REVISIONS),
    served=tuple(STATELESS_REVISIONS),
    hint="this server has no sessions, each request has to name "
    f"{' or '.join(STATELESS_REVISIONS)} in params._meta",
)
_SERVED: Final[dict[Eras, ServedEras]] = {"both": BOTH, "legacy": LEGACY, "modern": MODERN}
ERAS: Final = tuple(_SERVED)
"""The values of `Eras`."""


def check_eras(eras: object) -> None:
    """Check a value of `Eras`.

    Raises:
        ValueError: It is not a value of `Eras`.
    """
    if eras not in ERAS:
        raise ValueError(f"eras must be 'both', 'legacy' or 'modern', not {eras!r}")


def served_eras(application: object, eras: Eras | None = None) -> ServedEras:
    """Return which eras are served.

    Args:
        application: The application. Its attribute ``eras`` is the default; without that
            attribute, the default is ``both``.
        eras: The setting of the endpoint or the connection, which overrides the application's.

    Raises:
        ValueError: One of them is not a value of `Eras`.
    """
    chosen: Any = eras
    if chosen is None:
        chosen = getattr(application, "eras", None)
    if chosen is None:
        return BOTH
    check_eras(chosen)
    return _SERVED[chosen]
