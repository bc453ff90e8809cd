"""Not an MCP server: a loop that rewrites HTTP requests into answers by a regular expression.

It shows how much of a figure is the load generator itself.
"""

from __future__ import annotations

import re
import selectors
import signal
import socket

CALL = re.compile(
    rb'"id":(\d+),"method":"tools/call",'
    rb'"params":\{"name":"echo","arguments":\{"text":"([^"\\]*)"\}(,"_meta":.*)?\}\}$'
)
ANSWER = rb'{"jsonrpc":"2.0","id":\1,"result":{"content":[{"type":"text","text":"\2"}]}}'
MODERN_ANSWER = ANSWER.replace(rb'"content"', rb'"resultType":"complete","content"')
JSON = (b"content-type", b"application/json")
HELLO = (
    b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25",'
    b'"capabilities":{"tools":{}},"serverInfo":{"name":"floor","version":"1.0"}}}'
)
SESSION = re.compile(rb"\r\nMcp-Session-Id: ([^\r]*)")
REASONS = {200: b"OK", 202: b"Accepted", 404: b"Not Found"}


class Floor:
    def __init__(self) -> None:
        self._opened = 0
        self._closed: set[bytes] = set()

    def respond(
        self, method: bytes, session: bytes | None, body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        found = CALL.search(body)
        if found:
            return 200, [JSON], found.expand(MODERN_ANSWER if found[3] else ANSWER)
        if session is None:
            self._opened += 1
            return 200, [JSON, (b"mcp-session-id", b"%d" % self._opened)], HELLO
        if session in self._closed:
            return 404, [], b""
        if method == b"DELETE":
            self._closed.add(session)
        return 202, [], b""

    def answer(self, request: bytes) -> bytes:
        session = SESSION.search(request)
        method, _, _ = request.partition(b" ")
        status, headers, body = self.respond(method, session and session[1], request)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n%b" % (
            *(status, REASONS[status], lines, len(body)),
            body,
        )


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    floor = Floor()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                if peer is listener:
                    accepted, _ = listener.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(accepted, selectors.EVENT_READ)
                elif request := peer.recv(1 << 16):
                    peer.sendall(floor.answer(request))
                else:
                    selector.unregister(peer)
                    peer.close()


if __name__ == "__main__":
    main()
