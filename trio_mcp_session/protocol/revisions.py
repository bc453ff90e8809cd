"""The protocol's revisions, and the differences between them.

Code reads the features of a revision (``revision.batches``), and never compares dates.
"""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Revision:
    """One revision of the protocol, with the features in which a server must distinguish them."""

    version: str
    """Its date, which is its name in messages."""

    batches: bool
    """Messages may come in arrays."""

    progress_messages: bool
    """``notifications/progress`` may carry ``message``."""

    completions: bool
    """Servers have a ``completions`` capability."""

    audio: bool
    """Content may be audio."""

    structured_content: bool
    """Tools may return ``structuredContent``, and have titles and output schemas."""

    resource_links: bool
    """Tools may return links to resources, and contents may have ``_meta``."""

    icons: bool
    """Servers, tools, prompts and resources may have icons."""

    elicitation: bool
    """Servers may send ``elicitation/create``."""

    multiple_choice: bool
    """Forms of elicitation may ask for several choices at once."""

    url_elicitation: bool
    """Users may be asked to open a URL."""

    elicitation_ids: bool
    """Such questions have ids, a notification of their end, and an error that asks for them."""

    sampling_tools: bool
    """The client's model may be given tools."""

    extensions: bool
    """Servers and clients declare extensions in a capability of their own."""

    polling: bool
    """An event stream may begin with an empty event, and be closed before the answer."""

    stateless: bool
    """Requests are stateless: they need no handshake and no session."""


V2024_11_05: Final = Revision(
    version="2024-11-05",
    batches=False,
    progress_messages=False,
    completions=False,
    audio=False,
    structured_content=False,
    resource_links=False,
    icons=False,
    elicitation=False,
    multiple_choice=False,
    url_elicitation=False,
    elicitation_ids=False,
    sampling_tools=False,
    extensions=False,
    polling=False,
    stateless=False,
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
    resource_links=True,
    elicitation=True,
)
V2025_11_25: Final = attrs.evolve(
    V2025_06_18,
    version="2025-11-25",
    icons=True,
    multiple_choice=True,
    url_elicitation=True,
    elicitation_ids=True,
    sampling_tools=True,
    polling=True,
)

V2026_07_28: Final = attrs.evolve(
    V2025_11_25,
    version="2026-07-28",
    elicitation_ids=False,
    extensions=True,
    polling=False,
    stateless=True,
)

STATELESS_REVISIONS: Final = {V2026_07_28.version: V2026_07_28}
"""The revisions with stateless requests, by version, oldest first."""

HANDSHAKE_REVISIONS: Final = {
    revision.version: revision for revision in (V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25)
}
"""The revisions that begin with ``initialize``, by version, oldest first."""

LATEST_HANDSHAKE: Final = V2025_11_25
"""The revision that the server offers to a client that asks for an unknown one."""


def negotiate(requested: str) -> Revision:
    """Return the revision to answer ``initialize`` with (each revision, *Lifecycle*).

    It is the requested one if that is known, and the latest one with a handshake if not: the client
    closes the connection if it does not support that.
    """
    return HANDSHAKE_REVISIONS.get(requested, LATEST_HANDSHAKE)
