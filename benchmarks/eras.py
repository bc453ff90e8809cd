"""The two eras of the protocol, as the load generators speak them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

TEXT: Final = b"a text of sixty-four bytes, never twice the same: %014d"
CALL: Final = (
    b'{"jsonrpc":"2.0","id":%%d,"method":"tools/call",'
    b'"params":{"name":"echo","arguments":{"text":"' + TEXT.replace(b"%", b"%%") + b'"}%b}}'
)
ENVELOPE: Final = (
    b',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientInfo":{"name":"load","version":"1"},'
    b'"io.modelcontextprotocol/clientCapabilities":{}}'
)


@dataclass(frozen=True)
class Era:
    """What calls of the tool `echo` look like, and their answers."""

    name: str
    revision: str
    handshake: bool
    """Whether calls belong to a session, which is opened before them."""
    call: bytes
    """To be filled in: the request's id, and the number in its text."""
    headers: bytes
    """What a call says in its headers, besides its session."""
    result_type: str | None

    def echoed(self, message: dict[str, Any]) -> str | None:
        """Return the text of a correct answer; None for any other answer."""
        match message:
            case {"jsonrpc": "2.0", "result": {"content": [{"type": "text", "text": str(text)}]}}:
                result = message["result"]
                good = result.get("resultType") == self.result_type and not result.get("isError")
                return text if good else None
            case _:
                return None


LEGACY: Final = Era(
    name="legacy",
    revision="2025-11-25",
    handshake=True,
    call=CALL % b"",
    headers=b"Mcp-Protocol-Version: 2025-11-25\r\n",
    result_type=None,
)
MODERN: Final = Era(
    name="modern",
    revision="2026-07-28",
    handshake=False,
    call=CALL % ENVELOPE,
    headers=(b"Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"),
    result_type="complete",
)
ERAS: Final = {era.name: era for era in (LEGACY, MODERN)}
