"""Request smuggling through real nginx and HAProxy: each request is answered once, to its client.

An attacker sends requests whose end servers have disagreed about, with another request, or the
beginning of one, behind that end. Other clients then use the connections that the proxy shares.
Each of them gets its own answer, its call is counted once, and what was hidden runs once at most,
and is answered to the attacker.

The same is done without a proxy. nginx and HAProxy are Debian's packages of these names; what is
missing is skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fuzz.corpus import ENVELOPE

PATIENCE: Final = 5.0
"""Seconds that a client waits for its answer."""
LINGERING: Final = 0.5
"""Seconds in which an attacker's last answers come, when it has ended its side."""
VICTIMS: Final = 3
HERE: Final = Path(__file__).parent
numbers: Final = count()


def call(tool: str, **arguments: str) -> bytes:
    """Write the body of a call; its id is the token."""
    params = {"name": tool, "arguments": arguments, "_meta": ENVELOPE}
    number = arguments.get("token", tool)
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(message).encode()


def head(tool: str, *lines: bytes, first: bytes = b"POST /mcp HTTP/1.1") -> bytes:
    fields = [
        first,
        b"Host: 127.0.0.1",
        b"Accept: application/json, text/event-stream",
        b"Content-Type: application/json",
        b"Mcp-Protocol-Version: 2026-07-28",
        b"Mcp-Method: tools/call",
        b"Mcp-Name: " + tool.encode(),
        *lines,
    ]
    return b"\r\n".join(fields) + b"\r\n\r\n"


def whole(tool: str, **arguments: str) -> bytes:
    body = call(tool, **arguments)
    return head(tool, b"Content-Length: %d" % len(body)) + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# Attacks: `@` stands for the length of all that follows the head, `#` for that of its own body.

CHUNKED: Final = {
    "plain": b"Transfer-Encoding: chunked",
    "white space before the colon": b"Transfer-Encoding : chunked",
    "a tab": b"Transfer-Encoding:\tchunked",
    "a vertical tab": b"Transfer-Encoding:\x0bchunked",
    "a vertical tab behind": b"Transfer-Encoding: chunked\x0b",
    "a NUL": b"Transfer-Encoding: chunked\x00",
    "a folded line": b"X: y\r\n Transfer-Encoding: chunked",
    "folded itself": b"Transfer-Encoding:\r\n chunked",
    "behind LF": b"X: y\nTransfer-Encoding: chunked",
    "behind CR": b"X: y\rTransfer-Encoding: chunked",
    "a name cut in two": b"Transfer-Encoding\r\n: chunked",
    "a prefix": b"Transfer-Encoding: xchunked",
    "cow": b"Transfer-Encoding: chunked, cow",
    "identity first": b"Transfer-Encoding: identity, chunked",
    "identity behind": b"Transfer-Encoding: chunked, identity",
    "twice, identity first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "twice, identity behind": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "quoted": b'Transfer-Encoding: "chunked"',
    "a parameter": b"Transfer-Encoding: chunked;a=b",
    "an underscore": b"Transfer_Encoding: chunked",
    "empty": b"Transfer-Encoding:",
    "in capitals": b"TRANSFER-ENCODING: CHUNKED",
    "a byte behind the name": b"Transfer-Encoding\xa0: chunked",
    "named by Connection": b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
}
LENGTHS: Final = {
    "twice, the shorter first": b"Content-Length: #\r\nContent-Length: @",
    "twice, the longer first": b"Content-Length: @\r\nContent-Length: #",
    "a list": b"Content-Length: #, @",
    "a sign": b"Content-Length: +@\r\nContent-Length: #",
    "white space before the colon": b"Content-Length : @",
    "white space before the colon, and another": b"Content-Length: #\r\nContent-Length : @",
    "folded": b"Content-Length: #\r\nX: y\r\n Content-Length: @",
    "behind LF": b"Content-Length: #\r\nX: y\nContent-Length: @",
    "hexadecimal": b"Content-Length: 0x#",
    "an underscore": b"Content_Length: @\r\nContent-Length: #",
    "a vertical tab": b"Content-Length:\x0b@\r\nContent-Length: #",
    "named by Connection": b"Content-Length: @\r\nConnection: Content-Length",
    "expected": b"Content-Length: @\r\nExpect: 100-continue",
    "expected, oddly": b"Content-Length: #\r\nExpect: y 100-continue",
    "an upgrade": b"Content-Length: @\r\nConnection: upgrade\r\nUpgrade: websocket",
    "an upgrade to HTTP/2": b"Content-Length: #\r\nConnection: upgrade\r\nUpgrade: h2c",
    "none": b"X: y",
}
CHUNKS: Final = {
    "LF in an extension": b"%x;\n",
    "CR in an extension": b"%x;\r",
    "LF behind the size": b"%x\n",
    "white space behind the size": b"%x \r\n",
    "a sign": b"+%x\r\n",
    "hexadecimal": b"0x%x\r\n",
    "an underscore": b"0_%x\r\n",
    "zeros": b"00000000000000000000%x\r\n",
    "too large for 64 bits": b"1000000000000000%x\r\n",
    "a quoted extension": b'%x;a="\r\n',
    "CR behind the size": b"%x\r\r\n",
}
FOOTERS: Final = {
    "nothing behind a chunk": b"",
    "LF behind a chunk": b"\n",
    "CR behind a chunk": b"\r",
    "two bytes behind a chunk": b"xx",
    "a longer chunk than its size": b"yy\r\n",
}
FIRSTS: Final = {
    "HTTP/1.0": b"POST /mcp HTTP/1.0",
    "GET": b"GET /mcp HTTP/1.1",
    "HEAD": b"HEAD /mcp HTTP/1.1",
    "OPTIONS": b"OPTIONS * HTTP/1.1",
    "an absolute target": b"POST http://127.0.0.1/mcp HTTP/1.1",
    "another host in the target": b"POST http://elsewhere/mcp HTTP/1.1",
    "HTTP/1.2": b"POST /mcp HTTP/1.2",
    "two spaces": b"POST  /mcp HTTP/1.1",
    "an empty line before": b"\r\nPOST /mcp HTTP/1.1",
}


def attacks(token: str, hidden: bytes) -> dict[str, bytes]:
    """Write all attacks that hide something."""
    body = call("mark", token=token)
    found: dict[str, bytes] = {}
    for name, line in CHUNKED.items():
        rest = b"0\r\n\r\n" + hidden
        length = b"Content-Length: %d" % len(rest)
        found[f"length, then chunked: {name}"] = head("mark", length, line) + rest
        found[f"chunked, then length: {name}"] = head("mark", line, length) + rest
        # The other way round: by the length the body ends before the chunk does.
        rest = b"%x\r\n" % len(hidden)
        length = b"Content-Length: %d" % len(rest)
        found[f"a short length: {name}"] = (
            head("mark", length, line) + rest + hidden + b"\r\n0\r\n\r\n"
        )
        found[f"only chunked: {name}"] = head("mark", line) + chunked(body) + hidden
    for name, lines in LENGTHS.items():
        rest = body + hidden
        fields = lines.replace(b"@", b"%d" % len(rest)).replace(b"#", b"%d" % len(body))
        found[f"length: {name}"] = head("mark", fields) + rest
    plain = CHUNKED["plain"]
    for name, line in CHUNKS.items():
        found[f"chunk: {name}"] = (
            head("mark", plain) + line % len(body) + body + b"\r\n0\r\n\r\n" + hidden
        )
        found[f"last chunk: {name}"] = (
            head("mark", plain) + b"%x\r\n%b\r\n" % (len(body), body) + line % 0 + b"\r\n" + hidden
        )
    for name, footer in FOOTERS.items():
        chunk = b"%x\r\n%b" % (len(body), body)
        found[f"chunk: {name}"] = head("mark", plain) + chunk + footer + b"0\r\n\r\n" + hidden
    for name, trailer in CHUNKED.items():
        found[f"trailer: {name}"] = (
            head("mark", plain) + chunked(body)[:-2] + trailer + b"\r\n\r\n" + hidden
        )
    for name, first in FIRSTS.items():
        length = b"Content-Length: %d" % len(body + hidden)
        found[f"first line: {name}"] = head("mark", length, first=first) + body + hidden
        found[f"first line, chunked: {name}"] = (
            head("mark", plain, first=first) + chunked(body) + hidden
        )
    return found


NAMES: Final = sorted(attacks("", b""))


# Programs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **more) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            assert process.poll() is None, "the proxy has ended"
            assert time.monotonic() < end, "the proxy does not listen"
            time.sleep(0.05)
        else:
            return


NGINX: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream mcp {{
        server 127.0.0.1:{server};
        keepalive 1;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host 127.0.0.1;
            proxy_buffering off;
            proxy_request_buffering {buffering};
        }}
    }}
}}
"""
HAPROXY: Final = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse always
    {option}
frontend front
    bind 127.0.0.1:{port}
    default_backend mcp
backend mcp
    server one 127.0.0.1:{server}
"""


@contextmanager
def nginx(folder: Path, server: int, buffering: str) -> Iterator[int]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    text = NGINX.format(folder=folder, server=server, port=port, buffering=buffering)
    (folder / "nginx.conf").write_text(text, "utf-8")
    with running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        await_port(port, process)
        yield port


@contextmanager
def haproxy(folder: Path, server: int, option: str) -> Iterator[int]:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    port = free_port()
    text = HAPROXY.format(server=server, port=port, option=option)
    (folder / "haproxy.cfg").write_text(text, "utf-8")
    with running([program, "-db", "-q", "-f", str(folder / "haproxy.cfg")]) as process:
        await_port(port, process)
        yield port


WAYS: Final = ["direct", "nginx", "nginx, unbuffered", "HAProxy", "HAProxy, lenient"]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    command = [sys.executable, str(HERE / "smuggling_server.py")]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@pytest.fixture(scope="module", params=WAYS)
def port(
    request: pytest.FixtureRequest, server: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("proxy")
    match request.param:
        case "nginx":
            way = nginx(folder, server, "on")
        case "nginx, unbuffered":
            way = nginx(folder, server, "off")
        case "HAProxy":
            way = haproxy(folder, server, "")
        case "HAProxy, lenient":
            way = haproxy(folder, server, "option accept-invalid-http-request")
        case _:
            yield server
            return
    with way as port:
        yield port


# What is done with each


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def read_answer(sock: socket.socket) -> bytes:
    """Read one answer, and what has come behind it."""
    data = b""
    while True:
        top, separator, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", top, re.IGNORECASE)
        if separator and length is None and b"chunked" in top and body.endswith(b"0\r\n\r\n"):
            return data
        if separator and length is not None and len(body) >= int(length[1]):
            return data
        piece = sock.recv(65536)
        assert piece, f"the end came after {data!r}"
        data += piece


def be_answered(port: int, token: str) -> None:
    """Call over a new connection: the answer is the call's, and nothing is behind it."""
    with closing(connect(port)) as sock:
        sock.sendall(whole("mark", token=token))
        data = read_answer(sock)
    assert data.startswith(b"HTTP/1.1 200"), data
    assert data.count(b"HTTP/1.1 ") == 1, data
    match = re.search(rb"\{.*\}", data)
    assert match is not None, data
    answer = json.loads(match[0])
    assert answer["id"] == token, data
    assert answer["result"]["content"][0]["text"] == token, data


def read_counts(port: int) -> dict[str, int]:
    with closing(connect(port)) as sock:
        sock.sendall(whole("counts"))
        data = read_answer(sock)
    match = re.search(rb"\{.*\}", data)
    assert match is not None, data
    found: dict[str, int] = json.loads(match[0])["result"]["structuredContent"]
    return found


def last_answers(sock: socket.socket) -> bytes:
    """End the attacker's side, and read what comes."""
    data = b""
    sock.settimeout(LINGERING)
    try:
        sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            data += piece
    except OSError:  # The time is over, or the server has reset the connection.
        pass
    return data


def check(server: int, port: int, name: str, hides: str) -> None:
    """Attack, call as other clients, and count what has come to the server."""
    number = next(numbers)
    outer, hidden = f"outer-{number}", f"hidden-{number}"
    smuggled = whole("mark", token=hidden)
    if hides == BEGINNING:
        # What follows in the same connection would become the rest of its body.
        smuggled = head("mark", b"Content-Length: 5000") + call("mark", token=hidden)[:-1]
    victims = [f"victim-{number}-{one}" for one in range(VICTIMS)]
    with closing(connect(port)) as attacker:
        attacker.sendall(attacks(outer, smuggled)[name])
        for token in victims:
            be_answered(port, token)
        told = last_answers(attacker)
    be_answered(port, f"last-{number}")
    counts = read_counts(server)
    assert [counts[token] for token in victims] == [1] * VICTIMS
    assert counts.get(outer, 0) <= 1
    assert counts.get(hidden, 0) <= 1
    for token in (outer, hidden):
        if counts.get(token):
            assert f'"{token}"'.encode() in told, f"{token} ran, and its answer went elsewhere"


BEGINNING: Final = "the beginning of one"
HIDDEN: Final = ["a request", BEGINNING]


@pytest.mark.parametrize("hides", HIDDEN)
@pytest.mark.parametrize("name", NAMES)
def test_no_request_is_smuggled_through_the_proxy(
    server: int, port: int, name: str, hides: str
) -> None:
    check(server, port, name, hides)


@contextmanager
def blind_proxy(server: int) -> Iterator[int]:
    """Run a proxy that takes whatever comes at once for one request, over one connection."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        closing(connect(server)) as upstream,
    ):
        # It waits for ever: giving up would end the client's connection just when the client's own
        # patience is over.
        upstream.settimeout(None)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        upstream.sendall(client.recv(65536))
                        client.sendall(upstream.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            for one in (listener, upstream):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_proxy_that_can_be_smuggled_through_is_found(server: int) -> None:
    with blind_proxy(server) as port, pytest.raises(TimeoutError):
        check(server, port, "only chunked: plain", BEGINNING)
