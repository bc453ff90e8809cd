"""Frames that clients send, for the fuzzers to damage."""

from __future__ import annotations

import json
from typing import Any, Final

PREFIX: Final = "io.modelcontextprotocol/"
ENVELOPE: Final[dict[str, Any]] = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": {"name": "fuzz", "version": "1"},
    f"{PREFIX}clientCapabilities": {},
}


def frame(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"name": tool, "arguments": arguments}


def modern(**params: object) -> dict[str, object]:
    return {**params, "_meta": ENVELOPE}


HELLO: Final[dict[str, Any]] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"elicitation": {}, "roots": {"listChanged": True}},
    "clientInfo": {"name": "fuzz", "version": "1"},
}

CORPUS: Final = [
    frame(id=0, method="initialize", params=HELLO),
    frame(method="notifications/initialized"),
    frame(id=1, method="ping"),
    frame(id="two", method="tools/list", params={}),
    frame(id=3, method="tools/call", params=call("echo", text="three")),
    frame(id=-4, method="tools/call", params=call("echo", text="é\u2028\U0001f600")),
    frame(id="5", method="tools/call", params=call("echo", text=5)),
    frame(id=6, method="tools/call", params=call("no such tool")),
    frame(id=7, method="tools/call", params=call("fail")),
    frame(id=2**63, method="logging/setLevel", params={"level": "debug"}),
    frame(id=9, method="resources/subscribe", params={"uri": "memo://one"}),
    frame(id=10, method="completion/complete", params={}),
    frame(id=11, method="server/discover", params=modern()),
    frame(id=12, method="tools/call", params=modern(**call("echo", text="twelve"))),
    frame(id="", method="tools/list", params=modern(cursor=None)),
    frame(method="notifications/cancelled", params={"requestId": 3, "reason": "why"}),
    frame(method="notifications/progress", params={"progressToken": 1, "progress": 0.5}),
    frame(method="notifications/roots/list_changed"),
    frame(id=0, result={}),
    frame(id="two", error={"code": -32601, "message": "no"}),
    b"[%b,%b]" % (frame(id=1, method="ping"), frame(method="notifications/initialized")),
]
"""One of each kind."""
