"""Not an MCP server: a loop that rewrites requests into answers, the fastest that a pipe allows.

It shows how much of a figure is the load generator itself.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

CALL = re.compile(
    rb'\{"jsonrpc":"2.0","id":(\d+),"method":"tools/call",'
    rb'"params":\{"name":"echo","arguments":\{"text":"([^"\\]*)"\}(?:,"_meta":.*)?\}\}'
)
INITIALIZED = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n'
ANSWER = rb'{"jsonrpc":"2.0","id":\1,"result":{"content":[{"type":"text","text":"\2"}]}}'
MODERN_ANSWER = ANSWER.replace(rb'"content"', rb'"resultType":"complete","content"')


def welcome(hello: dict[str, Any]) -> bytes:
    result = {
        "protocolVersion": hello["params"]["protocolVersion"],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "floor", "version": "1.0"},
    }
    answer = {"jsonrpc": "2.0", "id": hello["id"], "result": result}
    return json.dumps(answer).encode() + b"\n"


def main() -> None:
    line = os.read(0, 1 << 16)
    opening = json.loads(line)
    answer = ANSWER if opening["method"] == "initialize" else MODERN_ANSWER
    os.write(1, welcome(opening) if answer is ANSWER else CALL.sub(answer, line))
    rest = b""
    while chunk := os.read(0, 1 << 16):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        os.write(1, CALL.sub(answer, (whole + newline).replace(INITIALIZED, b"")))


if __name__ == "__main__":
    main()
