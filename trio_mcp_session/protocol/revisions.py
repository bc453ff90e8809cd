"""The protocol's revisions and what changed between them.

Code asks a revision what it may do (``revision.batches``) and never compares dates.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Revision:
    """What one revision of the protocol has, as far as a server must tell them apart."""

    version: str
    """The date that names it on the wire."""

    batches: bool
    """Messages may come in arrays."""

    progress_messages: bool
    """``notifications/progress`` may carry ``message``."""

    completions: bool
    """There is a ``completions`` capability."""

    audio: bool
    """Content may be audio."""

    structured_content: bool
    """Tools may answer with ``structuredContent``, and have titles and output schemas."""

    elicitation: bool
    """Servers may ask the user, with ``elicitation/create``."""

    polling: bool
    """A stream of events may begin with an empty one, and be closed before its answer."""

    stateless: bool
    """Each request says all that is to be known of it: no handshake, no session on the wire."""

    argument_errors_as_results: bool
    """Bad arguments of a tool are a result with ``isError``, for the model to correct itself."""


V2024_11_05: Final = Revision(
    version="2024-11-05",
    batches=False,
    progress_messages=False,
    completions=False,
    audio=False,
    structured_content=False,
    elicitation=False,
    polling=False,
    stateless=False,
    argument_errors_as_results=False,
)
V2025_03_26: Final = attrs.evolve(
    V2024_11_05,
    version="2025-03-26",
    batches=True,
    progress_messages=True,
    completions=True,
    audio=True,
)
V2025_06_18: Final = attrs.evolve(
    V2025_03_26,
    version="2025-06-18",
    batches=False,
    structured_content=True,
    elicitation=True,
)
V2025_11_25: Final = attrs.evolve(
    V2025_06_18,
    version="2025-11-25",
    polling=True,
    argument_errors_as_results=True,
)

V2026_07_28: Final = attrs.evolve(
    V2025_11_25,
    version="2026-07-28",
    polling=False,
    stateless=True,
)

STATELESS_REVISIONS: Final = {V2026_07_28.version: V2026_07_28}
"""The revisions whose requests stand for themselves, by version, oldest first."""

HANDSHAKE_REVISIONS: Final = {
    revision.version: revision for revision in (V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25)
}
"""The revisions that begin with ``initialize``, by version, oldest first."""

LATEST_HANDSHAKE: Final = V2025_11_25
"""What the server offers to a client that asks for a revision it does not know."""


def negotiate(requested: str) -> Revision:
    """Return the revision to answer ``initialize`` with (each revision, *Lifecycle*).

    The one that was asked for where it is known, else the latest that has a handshake: the
    client decides whether it can live with that.
    """
    return HANDSHAKE_REVISIONS.get(requested, LATEST_HANDSHAKE)
