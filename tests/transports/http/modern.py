"""Requests of 2026-07-28, which are stateless, and what is answered to them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tests.helpers import request

MODERN = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
VERSION, CAPABILITIES = f"{PREFIX}protocolVersion", f"{PREFIX}clientCapabilities"
TASKS: Mapping[str, Any] = {"extensions": {f"{PREFIX}tasks": {}}}
"""The capabilities of a client that can be given tasks."""
NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}


def modern(
    request_id: object,
    method: str,
    params: Mapping[str, Any] | None = None,
    *,
    version: object = MODERN,
    capabilities: object = None,
    **meta: object,
) -> dict[str, Any]:
    """A request with an envelope; ``meta`` is what else stands there."""
    envelope = {VERSION: version, CAPABILITIES: capabilities or {}, **meta}
    return request(request_id, method, {**(params or {}), "_meta": envelope})


def headers_of(message: Mapping[str, Any], **more: str | None) -> dict[str, str | None]:
    """The headers that agree with a message; ``more`` with underscores for dashes."""
    method, params = message["method"], message["params"]
    version = params["_meta"][VERSION]
    named = NAMED_BY.get(method, "")
    return {
        "mcp-protocol-version": version if isinstance(version, str) else None,
        "mcp-method": method,
        "mcp-name": name_in_header(params.get(named)),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def name_in_header(name: object) -> str | None:
    """The header ``Mcp-Name`` for a name; None for values that are not texts."""
    if not isinstance(name, str):
        return None
    if name.isascii() and name.isprintable():
        return name
    return f"=?base64?{base64.b64encode(name.encode()).decode()}?="


def complete(request_id: object, server: str, **members: object) -> dict[str, Any]:
    """The answer to a request, from a server of this name."""
    info = {"name": server, "version": "0"}
    result = {"resultType": "complete", "_meta": {f"{PREFIX}serverInfo": info}, **members}
    return {"jsonrpc": "2.0", "id": request_id, "result": result}
