"""Where a client sees something else of our server than of theirs, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import attrs

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
MCP: Final = "mcp_app"
FASTMCP: Final = "fastmcp_app"


@final
@attrs.frozen
class Difference:
    """Something that is seen otherwise."""

    what: str
    """What was looked at."""
    apps: Sequence[str]
    revisions: Sequence[str]
    reason: str


NO_DATA: Final = "the error of an unknown method has no data"
ASKED: Final = "their server cannot ask clients of this revision: a gain"
CRASH: Final = "the text of an exception is not sent to clients"
FED: Final = "sessions get what the application publishes: a gain"
NOTHING: Final = "a subscription to nothing is acknowledged as such; it could be to tasks"

IN_SHORT: Final = {
    ASKED: "asks",
    CRASH: "no text",
    FED: "tells",
    NO_DATA: "no data",
    NOTHING: "accepts",
}
"""The reasons, as the table in docs/sdk-apps.md has them."""

DIFFERENCES: Final = (
    *(
        Difference(what, [MCP], [MODERN], ASKED)
        for what in ("elicit", "elicit by URL", "elicit twice", "sample", "roots")
    ),
    Difference("prompt unknown", [MCP], [LEGACY, MODERN], CRASH),
    Difference("prompt without argument", [MCP], [LEGACY, MODERN], CRASH),
    Difference("capabilities", [MCP], [LEGACY], FED),
    Difference("subscribe", [MCP], [LEGACY], FED),
    Difference("after change", [MCP], [LEGACY], FED),
    Difference("set level", [MCP], [LEGACY], NO_DATA),
    Difference("subscribe", [FASTMCP], [LEGACY], NO_DATA),
    Difference("complete prompt", [FASTMCP], [MODERN], NO_DATA),
    Difference("complete template", [FASTMCP], [MODERN], NO_DATA),
    Difference("subscribe", [FASTMCP], [MODERN], NOTHING),
)


def different(app: str, revision: str) -> dict[str, str]:
    """Return what differs for an application and a revision, with the reason."""
    return {
        one.what: one.reason for one in DIFFERENCES if app in one.apps and revision in one.revisions
    }
