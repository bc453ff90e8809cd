"""The object in which a server describes itself: ``serverInfo``."""

from __future__ import annotations

from typing import Any

from ..core.identity import ServerInfo
from .revisions import Revision


def describe_server(server: ServerInfo, revision: Revision) -> dict[str, Any]:
    """Return all that a revision can say of a server."""
    described: dict[str, Any] = {"name": server.name, "version": server.version}
    if server.title is not None and revision.structured_content:
        described["title"] = server.title
    if revision.icons:
        if server.description is not None:
            described["description"] = server.description
        if server.website_url is not None:
            described["websiteUrl"] = server.website_url
        if server.icons:
            described["icons"] = [icon.write() for icon in server.icons]
    return described
