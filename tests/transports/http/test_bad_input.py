"""Bad input over real sockets: one server gets it, answers as it should, and forgets it.

While each of it comes in, a bystander on the same server listens on a stream, waits for the answer
of a call and makes others. It must not notice anything, and nothing may be left: no session,
no stream, no task, no socket. What the endpoint refuses, it counts.

Sockets are real, time is virtual: it passes where a test says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    brief,
    cancelled,
    error,
    initialize,
    notification,
    request,
    result,
)
from tests.transports.http.live import (
    SERVERS,
    Caller,
    Headers,
    Live,
    ServerName,
    Wire,
    call,
    live,
    watched,
    write_request,
)
from trio_mcp_session import (
    CleanupConfig,
    HttpOptions,
    Principal,
    Session,
    SessionKind,
    SessionLimits,
    SessionState,
    TerminationReason,
    connect_memory,
)

PARSE, INVALID, PARAMS, UNKNOWN = -32700, -32600, -32602, -32601
UNSUPPORTED_VERSION = -32022
DEEP = 10_000

on_both_servers = pytest.mark.parametrize("server", SERVERS)


# Bodies of POST.


@attrs.frozen
class Bad:
    """A malformed body, and what comes of it."""

    what: str
    sent: Any
    status: int
    answer: Any = None
    bad: int = 0
    """How much of it reached the session and was counted there."""

    def __str__(self) -> str:
        return self.what


WITHOUT_A_SESSION = [
    Bad("a request before initialize", request(5, "tools/list"), 400, error(5, PARAMS)),
    Bad("the same, of the session itself", request(5, "logging/setLevel"), 400, error(5, PARAMS)),
    Bad("a ping", request(5, "ping"), 400, error(5, PARAMS)),
    Bad("not JSON", b"{", 400, error(None, PARSE)),
    Bad("nothing", b"", 400, error(None, PARSE)),
    Bad("a batch", [request(5, "ping")], 400, error(None, INVALID)),
    Bad("a batch with initialize", [initialize(5)], 400, error(None, INVALID)),
    Bad("initialize without parameters", request(5, "initialize"), 200, error(5, PARAMS)),
    Bad("initialize without an id", notification("initialize"), 400, error(None, INVALID)),
    Bad("a cancellation", cancelled("hello"), 400, error(None, INVALID)),
    Bad("a notification", notification("notifications/initialized"), 400, error(None, INVALID)),
    Bad("a reply", result(5), 400, error(None, INVALID)),
]

IN_A_SESSION = [
    Bad("not JSON", b"GET / HTTP/1.1\r\n", 400, error(None, PARSE)),
    Bad("nothing", b"", 400, error(None, PARSE)),
    Bad("half of a message", b'{"jsonrpc":"2.0","id":5,"method":"p', 400, error(None, PARSE)),
    Bad("most of a message", b'{"jsonrpc":"2.0","id":5,"method":"p"', 400, error(5, PARSE)),
    Bad(
        "two messages",
        b'{"jsonrpc":"2.0","id":5,"method":"ping"}\n{"jsonrpc":"2.0","id":6,"method":"ping"}',
        400,
        error(5, PARSE),
    ),
    Bad("bad UTF-8", b'{"jsonrpc":"2.0","id":5,"method":"\xff\xfe"}', 400, error(5, PARSE)),
    Bad(
        "bad UTF-8 in an id",
        b'{"jsonrpc":"2.0","id":"\xc3","method":"ping"}',
        400,
        error(None, PARSE),
    ),
    Bad(
        "10,000 deep",
        b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":%b%b}}'
        % (b"[" * DEEP, b"]" * DEEP),
        400,
        error(5, INVALID),
    ),
    Bad("10,000 deep, and nothing else", b"[" * DEEP + b"]" * DEEP, 400, error(None, INVALID)),
    Bad("10,000 deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400, error(None, INVALID)),
    Bad(
        "a lone surrogate",
        b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"\\ud800"}}',
        200,
        result(5),
    ),
    Bad("NUL bytes", b"\0\0\0", 400, error(None, PARSE)),
    Bad(
        "a NUL in the middle",
        b'{"jsonrpc":"2.0","id":5,\0"method":"ping"}',
        400,
        error(None, PARSE),
    ),
    Bad("UTF-16", '{"jsonrpc":"2.0","id":5}'.encode("utf-16"), 400, error(None, PARSE)),
    Bad("id null", request(None, "ping"), 400, error(None, INVALID)),
    Bad("id true", request(True, "ping"), 400, error(None, INVALID)),
    Bad("id 1.5", request(1.5, "ping"), 400, error(None, INVALID)),
    Bad("id an object", request({"a": 1}, "ping"), 400, error(None, INVALID)),
    Bad("a text", "ping", 400, error(None, INVALID)),
    Bad("a batch where none may be", [request(5, "ping")], 400, error(None, INVALID)),
    Bad("an empty batch", [], 400, error(None, INVALID)),
    Bad("no method", {"jsonrpc": "2.0", "id": 5}, 400, error(5, INVALID)),
    Bad("params a string", request(5, "ping", "text"), 400, error(5, INVALID)),
    Bad("jsonrpc 1.0", {"jsonrpc": "1.0", "id": 5, "method": "ping"}, 400, error(5, INVALID)),
    Bad("a second initialize", initialize(5), 400, error(5, INVALID)),
    Bad("a malformed notification", {"jsonrpc": "2.0", "method": 5}, 400, error(None, INVALID)),
    Bad("a cancellation of nothing", cancelled(12345), 202),
    Bad("a cancellation of initialize", cancelled("hello"), 202),
    Bad("a cancellation of another session's request", cancelled(5), 202),
    Bad("a cancellation without an id", notification("notifications/cancelled"), 202),
    Bad("a reply nobody asked for", result(5), 202, bad=1),
    Bad(
        "an error nobody asked for",
        {**error(5, 1), "error": {"code": 1, "message": "no"}},
        202,
        bad=1,
    ),
    Bad("control characters in a method", request(5, "\x1b[31m\r\n"), 200, error(5, UNKNOWN)),
    Bad("an unknown notification", notification("notifications/\x1b[31m"), 202),
    Bad("params null", request(5, "ping", {}) | {"params": None}, 200, result(5)),
    Bad(
        "a notification with params null",
        notification("notifications/initialized") | {"params": None},
        202,
    ),
    Bad(
        "a notification with id null, too",
        notification("notifications/initialized") | {"params": None, "id": None},
        202,
    ),
    Bad(
        "a byte order mark",
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":5,"method":"ping"}',
        200,
        result(5),
    ),
]


async def assert_answered(wire: Wire, item: Bad, headers: Headers) -> None:
    answer = await wire.request("POST", item.sent, headers)
    assert answer.status == item.status
    if item.answer is None:
        assert answer.body == b""
    else:
        assert answer.headers["content-type"] == "application/json"
        assert brief(answer.json) == item.answer
    assert "mcp-session-id" not in answer.headers


@on_both_servers
@pytest.mark.parametrize("item", WITHOUT_A_SESSION, ids=str)
async def test_bodies_without_a_session(
    item: Bad, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it, it.undisturbed({item.status: 1}):
        async with await it.connect() as wire:
            await assert_answered(wire, item, {})


@on_both_servers
@pytest.mark.parametrize("item", IN_A_SESSION, ids=str)
async def test_bodies_in_a_session(item: Bad, server: ServerName, mock_clock: MockClock) -> None:
    async with watched(server) as it:
        caller = await it.open_session()
        await caller.echo("before")
        async with it.undisturbed({item.status: 1} if item.status >= 400 else None):
            async with await it.connect() as wire:
                await assert_answered(wire, item, caller.headers)
            await caller.echo("after")
        assert caller.session.metrics.bad_input == item.bad
        assert caller.session.metrics.cancelled == 0


@on_both_servers
@pytest.mark.parametrize("has_session", [False, True])
async def test_a_body_of_5_mib_is_refused_with_413(
    has_session: bool, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it:
        caller = await it.open_session()
        async with it.undisturbed({413: 1}), await it.connect() as wire:
            headers = caller.headers if has_session else {}
            ping = request(5, "ping", {"x": "y" * 5 * 2**20})
            with suppress(trio.BrokenResourceError):
                await wire.send(write_request("POST", ping, headers))
            await it.quiet()
            heard = await wire.rest()
            # Hypercorn closes the connection before all is read, and the answer may be lost.
            bodies = [heard.partition(b"\r\n\r\n")[2]] if heard else []
            assert [brief(json.loads(body)) for body in bodies] in ([], [error(5, INVALID)])
            assert re.match(
                rb"HTTP/1.1 413 " if server == "builtin" else rb"HTTP/1.1 413 |$", heard
            )
        await caller.echo("after")


@on_both_servers
async def test_too_large_without_saying_so(server: ServerName, mock_clock: MockClock) -> None:
    """In chunks, the length is not announced."""
    async with watched(server, session_limits=SessionLimits(max_message_size=1000)) as it:
        caller = await it.open_session()
        async with it.undisturbed({413: 1}), await it.connect() as wire:
            headers = {**caller.headers, "Content-Length": None, "Transfer-Encoding": "chunked"}
            await wire.send(write_request("POST", b"", headers))
            await wire.send(b"3e8\r\n" + b" " * 1000 + b"\r\n")
            await wire.send(b"1\r\n \r\n")
            answer = await wire.answer()
            assert (answer.status, brief(answer.json)) == (413, error(None, INVALID))


# Heads.


@attrs.frozen
class Case:
    """A request with a malformed head. ``{names}`` stand for `ids_of`."""

    what: str
    status: int
    headers: Mapping[str, Any] = attrs.field(factory=dict)
    method: str = "POST"
    path: str = "/mcp"
    answer: Any = attrs.field(factory=lambda: error(None, INVALID))
    has: Mapping[str, str] = attrs.field(factory=dict)
    """Headers of the answer."""
    by_server: ServerName | None = None
    """The server that refuses it itself, so that it is not the endpoint that counts it."""
    as_server: int = 0
    """The status of that."""

    def __str__(self) -> str:
        return f"{self.method} {self.what}"


SID: Final = "Mcp-Session-Id"
ALLOW: Final = {"allow": "POST, GET, DELETE"}

BAD_IDS = {
    "unknown": "x" * 32,
    "that of a handle": "{handle}",
    "that of a connection": "{connection}",
    "that of a session that has ended": "{ended}",
    "10 KiB": "x" * 10 * 1024,
    "not ASCII": "sessi\u00f6n".encode("latin-1"),
    "UTF-8": "{own}\u00e9",
    "a space in it": "{own} x",
    "an escaped line end": "{own}%0d%0aX-Evil: 1",
    "a comma": "{own},{own}",
    "quoted": '"{own}"',
    "other letters": "{own_swapped}",
    "a prefix": "{own_prefix}",
}

HEADS = [
    *(
        Case(f"id: {what}", 404, {SID: value}, method)
        for method in ("POST", "GET", "DELETE")
        for what, value in BAD_IDS.items()
    ),
    *(
        Case(f"id: {what}", 400, {SID: value}, method, answer=error(id_answered, code))
        for method in ("GET", "DELETE", "POST")
        for what, value, id_answered, code in [
            (
                "missing",
                None,
                5 if method == "POST" else None,
                PARAMS if method == "POST" else INVALID,
            ),
            ("twice the same", ["{own}", "{own}"], None, INVALID),
            ("two", ["{own}", "{bystander}"], None, INVALID),
        ]
    ),
    *(
        Case("as a verb", 405, {SID: "{own}"}, method, has=ALLOW)
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE")
    ),
    Case(
        "as a verb",
        405,
        {SID: "{own}"},
        "SMUGGLE",
        has=ALLOW,
        by_server="builtin",
        as_server=501,
    ),
    Case("at another path", 404, {SID: "{own}"}, path="/mcp/elsewhere"),
    Case("at the root", 404, {SID: "{own}"}, path="/"),
    Case("around the corner", 404, {SID: "{own}"}, path="/x/../mcp"),
    *(
        Case(f"Origin: {origin}", 403, {SID: "{own}", "Origin": origin}, method)
        for method in ("POST", "GET", "DELETE")
        for origin in (
            "http://evil.example",
            "null",
            "http://127.0.0.1.evil.example",
            "http://evil.example#127.0.0.1",
            "http://[",
            "",
        )
    ),
    Case("two Origins", 403, {SID: "{own}", "Origin": ["http://localhost", "http://evil.example"]}),
    *(
        Case(f"Host: {host}", 403, {SID: "{own}", "Host": host}, method)
        for method in ("POST", "GET", "DELETE")
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1")
    ),
    Case(
        "an Origin like its foreign Host",
        403,
        {SID: "{own}", "Host": "evil.example", "Origin": "http://evil.example"},
    ),
    *(
        Case(
            f"version {version!r}",
            *(400, {SID: "{own}", "MCP-Protocol-Version": version}, method),
            answer=error(None, UNSUPPORTED_VERSION),
        )
        for method in ("POST", "GET", "DELETE")
        for version in ("2042-01-01", "1.0", "", ["2025-11-25", "2025-06-18"])
    ),
    Case(
        "a long version",
        *(400, {SID: "{own}", "MCP-Protocol-Version": "x" * 5000}),
        answer=error(None, UNSUPPORTED_VERSION),
    ),
    Case("reads only HTML", 406, {SID: "{own}", "Accept": "text/html"}),
    Case("reads only JSON", 406, {SID: "{own}", "Accept": "application/json"}, "GET"),
    *(
        Case(f"encoded: {coding}", 415, {SID: "{own}", "Content-Encoding": coding})
        for coding in ("gzip", "br", "identity, gzip", ["identity", "deflate"], "x" * 2000)
    ),
    Case("no type", 415, {SID: "{own}", "Content-Type": None}),
    Case("a form", 415, {SID: "{own}", "Content-Type": "application/x-www-form-urlencoded"}),
    Case("text", 415, {SID: "{own}", "Content-Type": "text/plain"}),
    *(
        Case(f"Last-Event-ID: {what}", 400, {SID: "{own}", "Last-Event-ID": value}, "GET")
        for what, value in {
            "unknown": "{tag_swapped}.1.0",
            "of another session": "{foreign_event}",
            "of no stream": "{tag}.99.0",
            "of the stream 0": "{tag}.0.0",
            "not there yet": "{tag}.1.99999",
            "nothing": "",
            "a word": "x",
            "no numbers": "{tag}.x.y",
            "negative": "{tag}.1.-1",
            "in other digits": "{tag}.1.\u0661",
            "very long": "{tag}.1." + "1" * 5000,
            "an escaped line end": "{tag}.1.0%0d%0a",
            "twice": ["{tag}.1.0", "{tag}.1.0"],
        }.items()
    ),
]


async def ids_of(it: Live, own: Caller) -> dict[str, str]:
    """What the cases name."""
    ended = await it.open_session()
    assert (await ended.wire.request("DELETE", headers=ended.headers)).status == 204
    await ended.session.wait_terminated()
    await ended.wire.aclose()
    handle = await it.manager.create_session(kind=SessionKind.HANDLE)
    known = set(it.manager.sessions())
    await connect_memory(it.manager)
    await wait_all_tasks_blocked()
    (connection,) = set(it.manager.sessions()) - known
    return {
        "own": own.session.session_id,
        "own_swapped": own.session.session_id.swapcase(),
        "own_prefix": own.session.session_id[:-1],
        "bystander": it.bystander.session.session_id,
        "handle": handle.session_id,
        "connection": connection.session_id,
        "ended": ended.session.session_id,
    }


def fill_in(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [fill_in(one, ids) for one in value]
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], value)
    return value


async def first_event_of(caller: Caller, wire: Wire) -> str:
    """Open the stream of GET, read what it begins with, and leave."""
    answer = await wire.begin("GET", headers=caller.headers)
    event = await wire.event(answer)
    await wire.aclose()
    await wait_all_tasks_blocked()
    return event["id"]


@on_both_servers
@pytest.mark.parametrize("case", HEADS, ids=str)
async def test_malformed_request_heads_are_refused_and_sessions_are_unharmed(
    case: Case, server: ServerName, mock_clock: MockClock
) -> None:
    by_server = case.by_server == server
    async with watched(server) as it:
        own, other = await it.open_session(), await it.open_session()
        await own.echo("before")
        event = await first_event_of(own, await it.connect())
        foreign = await first_event_of(other, await it.connect())
        tag = event.partition(".")[0]
        ids = {
            **await ids_of(it, own),
            "tag": tag,
            "tag_swapped": tag.swapcase(),
            "foreign_event": foreign,
        }
        headers = {name: fill_in(value, ids) for name, value in case.headers.items()}
        ping = request(5, "ping")
        async with it.undisturbed(None if by_server else {case.status: 1}):
            async with await it.connect() as wire:
                answer = await wire.request(
                    case.method, ping if case.method == "POST" else b"", headers, path=case.path
                )
                if by_server:
                    assert answer.status == case.as_server
                    assert await wire.rest() == b""
                else:
                    assert answer.status == case.status
                    # What is refused after the body was decoded carries its id.
                    was_read = (case.method, case.path) == ("POST", "/mcp")
                    id_known = {"id": 5} if was_read and case.status in {400, 404} else {}
                    assert brief(answer.json) == {**case.answer, **id_known}
                    assert case.has.items() <= answer.headers.items()
            # It was not even deleted.
            await own.echo("after")
            await other.echo("after that")


@on_both_servers
async def test_a_head_without_a_body(server: ServerName, mock_clock: MockClock) -> None:
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed({405: 1}), await it.connect() as wire:
            answer = await wire.request("HEAD", headers=own.headers)
            assert (answer.status, answer.headers["allow"]) == (405, "POST, GET, DELETE")
            # No body, or the next answer would not be where it is looked for.
            await Caller(wire, own.session, own.headers).echo("next")


# The session of another principal.


async def by_name(scope: Any, headers: Mapping[str, str]) -> Principal | None:
    return Principal(headers["authorization"]) if "authorization" in headers else None


@on_both_servers
@pytest.mark.parametrize("who", ["mallory", None])
async def test_the_session_of_another_principal_is_answered_like_an_unknown_one(
    who: str | None, server: ServerName, mock_clock: MockClock
) -> None:
    """Another principal gets the same answer, to the letter, as for an unknown session."""
    async with watched(server, by={"Authorization": "ben"}, authenticate=by_name) as it:
        own = await it.open_session(headers={"Authorization": "ada"})
        event = await first_event_of(own, await it.connect())
        waiting = request(7, "tools/call", call("wait", name="ada", say=True))
        async with await it.connect() as busy:
            stream = await busy.begin("POST", waiting, own.headers)
            assert await busy.message(stream) == notification("notifications/begun")
            attempts: list[tuple[str, object, dict[str, str]]] = [
                ("POST", request(7, "ping"), {}),
                ("POST", notification("notifications/initialized"), {}),
                ("POST", cancelled(7), {}),
                ("POST", result(1), {}),
                ("POST", [request(7, "ping")], {}),
                ("GET", b"", {}),
                ("GET", b"", {"Last-Event-ID": event}),
                ("DELETE", b"", {}),
            ]
            async with it.undisturbed({404: 2 * len(attempts)}), await it.connect() as wire:
                for method, body, more in attempts:
                    headers = {**own.headers, **more, "Authorization": who}
                    answers = [
                        await wire.request(method, body, {**headers, SID: session_id})
                        for session_id in (own.session.session_id, "unknown")
                    ]
                    told, expected = (
                        (one.status, one.body, sorted(set(one.headers) - {"date"}))
                        for one in answers
                    )
                    assert told == expected
                    assert told[0] == 404
            # Its own call was neither cancelled nor sent to another client.
            it.toy.release("ada")
            assert (await busy.message(stream))["id"] == 7
        assert own.session.metrics.bad_input == 0
        await own.echo("still there")


# HTTP that is none.


def post(body: bytes, *fields: bytes, line: bytes = b"POST /mcp HTTP/1.1") -> bytes:
    """A request with the head as given, for what `write_request` would not write."""
    head = [line, b"Host: 127.0.0.1", b"Accept: */*", b"Content-Type: application/json", *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


PING: Final = msgspec.json.encode(request(5, "ping"))
LENGTH: Final = b"Content-Length: %d" % len(PING)
CHUNKED: Final = b"Transfer-Encoding: chunked"
IN_CHUNKS: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PING), PING)

# What each is followed by: nothing of it may ever be taken for a request.
SMUGGLED: Final = post(
    PING.replace(b"ping", b"evil"), LENGTH, b"Mcp-Session-Id: {own}", b"X-Smuggled: yes"
)

MALFORMED: dict[str, bytes] = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "JSON-RPC without HTTP": PING + b"\n",
    "an SSH client": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"POST /mcp\r\n\r\n",
    "HTTP/1.2": post(PING, LENGTH, b"Mcp-Session-Id: {own}", line=b"POST /mcp HTTP/1.2"),
    "HTTP/2.0": post(PING, LENGTH, b"Mcp-Session-Id: {own}", line=b"POST /mcp HTTP/2.0"),
    "both framings": post(IN_CHUNKS, LENGTH, CHUNKED, b"Mcp-Session-Id: {own}"),
    "both framings, the other first": post(
        IN_CHUNKS, CHUNKED, b"Content-Length: 0", b"Mcp-Session-Id: {own}"
    ),
    "two lengths": post(PING, LENGTH, b"Content-Length: 0", b"Mcp-Session-Id: {own}"),
    "a list of lengths": post(PING, b"Content-Length: 0, 40", b"Mcp-Session-Id: {own}"),
    "a length with a sign": post(PING, b"Content-Length: +40", b"Mcp-Session-Id: {own}"),
    "a length in hexadecimal": post(PING, b"Content-Length: 0x28", b"Mcp-Session-Id: {own}"),
    "a negative length": post(PING, b"Content-Length: -1", b"Mcp-Session-Id: {own}"),
    "a length of nothing": post(PING, b"Content-Length: ", b"Mcp-Session-Id: {own}"),
    "another coding": post(
        IN_CHUNKS, b"Transfer-Encoding: gzip, chunked", b"Mcp-Session-Id: {own}"
    ),
    "a coding that looks like one": post(
        IN_CHUNKS, b"Transfer-Encoding: xchunked", b"Mcp-Session-Id: {own}"
    ),
    "chunked twice": post(IN_CHUNKS, CHUNKED, CHUNKED, b"Mcp-Session-Id: {own}"),
    "an obsolete folded line": post(
        PING, LENGTH, b"X-Folded: a", b" Transfer-Encoding: chunked", b"Mcp-Session-Id: {own}"
    ),
    "a folded id": post(PING, LENGTH, b"Mcp-Session-Id:", b"\t{own}"),
    "a space before the colon": post(
        PING, LENGTH, b"Transfer-Encoding : chunked", b"Mcp-Session-Id: {own}"
    ),
    "a line without a colon": post(PING, LENGTH, b"Mcp-Session-Id {own}"),
    "a NUL in an id": post(PING, LENGTH, b"Mcp-Session-Id: {own}\0"),
    "a bare CR in an id": post(PING, LENGTH, b"Mcp-Session-Id: {own}\rX-Evil: 1"),
    "two Hosts": post(PING, LENGTH, b"Host: evil.example", b"Mcp-Session-Id: {own}"),
    "no Host": b"POST /mcp HTTP/1.1\r\n%b\r\nMcp-Session-Id: {own}\r\n\r\n%b" % (LENGTH, PING),
    "junk in a chunk's size": post(
        IN_CHUNKS.replace(b"\r\n", b" x\r\n", 1), CHUNKED, b"Mcp-Session-Id: {own}"
    ),
    "a chunk's size with a sign": post(b"+" + IN_CHUNKS, CHUNKED, b"Mcp-Session-Id: {own}"),
    "a chunk's size in other digits": post(b"0x" + IN_CHUNKS, CHUNKED, b"Mcp-Session-Id: {own}"),
    "a huge chunk": post(b"f" * 17 + b"\r\n", CHUNKED, b"Mcp-Session-Id: {own}"),
    "a chunk that is longer than it says": post(
        IN_CHUNKS.replace(b"\r\n0", b"xx\r\n0"), CHUNKED, b"Mcp-Session-Id: {own}"
    ),
    "a space in the path": post(
        PING, LENGTH, b"Mcp-Session-Id: {own}", line=b"POST /mcp /x HTTP/1.1"
    ),
}

# Hypercorn's parser, h11, takes these in another way, and as safely.
LENIENT: Final = {
    # It joins folded lines: the second is a part of the first's value, and no framing.
    "an obsolete folded line",
    "a folded id",
    # It would speak HTTP/2.
    "the preface of HTTP/2",
    "HTTP/2.0",
    # The chunks count, as the standard has it. It does not close the connection, as that has it,
    # too: a proxy in front of it must not let these through.
    "both framings",
    "both framings, the other first",
    # It waits for all of it, until the endpoint has waited long enough.
    "a huge chunk",
    # It answers any version that begins with 1 like 1.1.
    "HTTP/1.2",
    # One length that comes twice is one length.
    "a list of lengths",
}


def own_id_in(data: bytes, own: Caller) -> bytes:
    return data.replace(b"{own}", own.session.session_id.encode())


@pytest.mark.parametrize("what", MALFORMED)
async def test_malformed_http_is_refused_and_closes_the_connection(
    what: str, mock_clock: MockClock
) -> None:
    """It is answered at most once, by the server itself, and the connection is closed."""
    async with watched() as it:
        own = await it.open_session()
        await own.echo("before")
        received = own.session.metrics.messages_received
        async with it.undisturbed(), await it.connect() as wire:
            await wire.send(own_id_in(MALFORMED[what] + SMUGGLED, own))
            answer = await wire.answer()
            assert 400 <= answer.status < 600
            assert answer.headers["connection"] == "close"
            assert answer.headers["content-type"] == "text/plain"
            assert own.session.session_id not in answer.body.decode()
            assert await wire.rest() == b""
        assert own.session.metrics.messages_received == received
        await own.echo("after")


@pytest.mark.parametrize("what", [what for what in MALFORMED if what not in LENIENT])
async def test_malformed_http_on_hypercorn(what: str, mock_clock: MockClock) -> None:
    async with watched("hypercorn") as it:
        own = await it.open_session()
        await own.echo("before")
        received = own.session.metrics.messages_received
        async with it.undisturbed(), await it.connect() as wire:
            await wire.send(own_id_in(MALFORMED[what] + SMUGGLED, own))
            await it.quiet()
            heard = await wire.rest()
            assert heard == b"" or re.match(rb"HTTP/1.1 [45]\d\d ", heard)
            assert heard.count(b"HTTP/1.1 ") <= 1
        assert own.session.metrics.messages_received == received
        await own.echo("after")


@pytest.mark.parametrize("server", SERVERS)
async def test_100000_bytes_of_headers(server: ServerName, mock_clock: MockClock) -> None:
    async with watched(server) as it:
        own = await it.open_session()
        many: list[Headers] = [
            {"X-Long": "x" * 100_000},
            {"X-Long": ["x" * 1000] * 100},
            {"X-Many": ["x"] * 20_000},
            {"Mcp-Session-Id": "x" * 100_000},
        ]
        for fields in many:
            async with it.undisturbed(), await it.connect() as wire:
                with suppress(trio.BrokenResourceError):
                    await wire.send(write_request("POST", PING, {**own.headers, **fields}))
                await it.quiet()
                heard = await wire.rest()
                # Hypercorn closes the connection before all is read, and the answer may be lost.
                assert re.match(
                    rb"HTTP/1.1 431 " if server == "builtin" else rb"HTTP/1.1 4\d\d |$", heard
                )
                assert heard.count(b"HTTP/1.1 ") <= 1
        await own.echo("after")


@on_both_servers
async def test_a_length_that_is_too_small(server: ServerName, mock_clock: MockClock) -> None:
    """What is left of the body is not parsed as a request."""
    async with watched(server) as it:
        own = await it.open_session()
        received = own.session.metrics.messages_received
        async with it.undisturbed({400: 1}), await it.connect() as wire:
            headers = {**own.headers, "Content-Length": str(len(PING) - 2)}
            await wire.send(write_request("POST", PING, headers) + own_id_in(SMUGGLED, own))
            answer = await wire.answer()
            assert (answer.status, brief(answer.json)) == (400, error(None, PARSE))
            rest = await wire.rest()
            assert rest == b"" or re.match(rb"HTTP/1.1 400 ", rest)
            assert rest.count(b"HTTP/1.1 ") <= 1
        assert own.session.metrics.messages_received == received
        await own.echo("after")


CUT = {
    "a length that is too large": write_request("POST", PING, {"Content-Length": "1000"}),
    "no chunk at all": post(b"", CHUNKED),
    "half of a chunk's size": post(b"2", CHUNKED),
    "half of a chunk": post(IN_CHUNKS[:10], CHUNKED),
    "a chunk without its end": post(IN_CHUNKS[:-7], CHUNKED),
    "no last chunk": post(IN_CHUNKS[:-5], CHUNKED),
    "no end of the trailers": post(IN_CHUNKS[:-2], CHUNKED),
    "nothing": b"",
    "a letter": b"P",
    "half of a line": b"POST /mc",
    "half of a head": post(b"", LENGTH)[:-10],
    "a head without its end": post(b"", LENGTH)[:-1],
    "a head without a body": post(b"", LENGTH),
    "half of a body": post(PING[:10], LENGTH),
}


@on_both_servers
@pytest.mark.parametrize("how", ["closes", "resets", "shuts down"])
@pytest.mark.parametrize("what", CUT)
async def test_a_request_that_is_cut_short(
    what: str, how: str, server: ServerName, mock_clock: MockClock
) -> None:
    """Its client leaves before it is complete: it never was one, whatever came of it."""
    async with watched(server) as it:
        own = await it.open_session()
        received = own.session.metrics.messages_received
        async with it.undisturbed():
            head, *rest = CUT[what].split(b"\r\n")
            named = b"\r\n".join(
                [head, *([own_id_in(b"Mcp-Session-Id: {own}", own)] * bool(rest)), *rest]
            )
            wire = await it.connect()
            await wire.send(named)
            await wait_all_tasks_blocked()
            if how == "closes":
                await wire.aclose()
            elif how == "resets":
                await wire.reset()
            else:
                assert isinstance(wire.stream, trio.SocketStream)
                await wire.stream.send_eof()
                await it.quiet()
                heard = await wire.rest()
                assert heard == b"" or heard.startswith(b"HTTP/1.1 400 ")
                await wire.aclose()
        assert own.session.metrics.messages_received == received
        await own.echo("after")


# Requests ahead of their answers.


@on_both_servers
async def test_pipelined_requests_are_answered_in_order(
    server: ServerName, mock_clock: MockClock
) -> None:
    """They are answered one after the other, in their order."""
    async with watched(server) as it:
        own = await it.open_session()
        texts = [f"text {number}" for number in range(20)]
        async with it.undisturbed(), await it.connect() as wire:
            await wire.send(
                b"".join(
                    write_request(
                        "POST", request(text, "tools/call", call("echo", text=text)), own.headers
                    )
                    for text in texts
                )
            )
            for text in texts:
                assert (await wire.answer()).json["id"] == text
        assert [text for text in it.toy.echoed if text in texts] == texts


async def test_a_bad_one_among_pipelined_requests(mock_clock: MockClock) -> None:
    """What came before it is answered, what comes after it was never there."""
    async with watched() as it:
        own = await it.open_session()
        good = [
            write_request("POST", request(text, "tools/call", call("echo", text=text)), own.headers)
            for text in ("one", "two", "three")
        ]
        bad = own_id_in(MALFORMED["both framings"], own)
        async with it.undisturbed(), await it.connect() as wire:
            await wire.send(good[0] + good[1] + bad + good[2])
            assert (await wire.answer()).json["id"] == "one"
            assert (await wire.answer()).json["id"] == "two"
            assert (await wire.answer()).status == 400
            assert await wire.rest() == b""
        assert "three" not in it.toy.echoed
        assert {"one", "two"} < set(it.toy.echoed)


@on_both_servers
async def test_requests_behind_one_that_takes_its_time(
    server: ServerName, mock_clock: MockClock
) -> None:
    """They wait, within bounds; when the client leaves, nothing of them is left."""
    async with watched(server) as it:
        own = await it.open_session()
        waiting = write_request(
            "POST", request(1, "tools/call", call("wait", name="long")), own.headers
        )
        behind = write_request("POST", request(2, "ping", {"x": "y" * 50_000}), own.headers)
        received = own.session.metrics.messages_received
        async with it.undisturbed():
            wire = await it.connect()
            await wire.send(waiting)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.send, behind * 400)
                await wait_all_tasks_blocked()
                # It is not read on and on.
                assert nursery.child_tasks
                nursery.cancel_scope.cancel()
            assert own.session.metrics.messages_received == received + 1
            await wire.aclose()
            it.toy.release("long")
        await own.echo("after")


# Clients that take their time.


@pytest.mark.parametrize("part", ["line", "fields"])
async def test_a_head_of_one_byte_a_second(part: str, mock_clock: MockClock) -> None:
    async with watched() as it:
        async with it.undisturbed(), await it.connect() as wire:
            head = write_request("POST", PING)
            at = 0 if part == "line" else head.index(b"Accept")
            await wire.send(head[:at])
            for number in range(at, at + 9):
                await wire.send(head[number : number + 1])
                await it.pass_time(1)
            assert wire.is_silent()
            await it.pass_time(3)
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (408, "close")
            assert await wire.rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_of_one_byte_a_second(framing: str, mock_clock: MockClock) -> None:
    async with watched(options=HttpOptions(body_timeout=20)) as it:
        own = await it.open_session()
        async with it.undisturbed({408: 1}), await it.connect() as wire:
            field = LENGTH if framing == "length" else CHUNKED
            await wire.send(own_id_in(post(b"", field, b"Mcp-Session-Id: {own}"), own))
            for number in range(19):
                byte = PING[number : number + 1]
                await wire.send(byte if framing == "length" else b"1\r\n%b\r\n" % byte)
                await it.pass_time(1)
            assert wire.is_silent()
            await it.pass_time(2)
            answer = await wire.answer()
            assert (answer.status, brief(answer.json)) == (408, error(None, INVALID))
            assert answer.headers["connection"] == "close"
            assert await wire.rest() == b""
        await own.echo("after")


async def test_a_silent_new_connection_is_closed_at_the_header_timeout(
    mock_clock: MockClock,
) -> None:
    async with watched() as it:
        async with it.undisturbed(), await it.connect() as wire:
            await it.pass_time(9)
            assert wire.is_silent()
            await it.pass_time(3)
            assert await wire.rest() == b""


async def test_an_idle_connection_is_closed_and_its_session_continues(
    mock_clock: MockClock,
) -> None:
    """Its connection is closed without an answer; the session continues."""
    async with live() as it:
        own = await it.open_session()
        await it.pass_time(74)
        assert own.wire.is_silent()
        await it.pass_time(3)
        assert await own.wire.rest() == b""
        own.wire = await it.connect()
        await own.echo("again")


async def test_a_client_that_does_not_read_an_answer(mock_clock: MockClock) -> None:
    """Its connection is cut in the middle. The session is not to blame."""
    async with watched() as it:
        own = await it.open_session()
        async with it.undisturbed(), await it.connect() as wire:
            many = request(1, "tools/call", call("many", size=20_000_000))
            await wire.send(write_request("POST", many, own.headers))
            await it.pass_time(35)
            answer = await wire.head()
            with pytest.raises(EOFError):
                await wire.to_the_end(answer)
            assert 0 < len(answer.body) < 20_000_000
        await own.echo("after")


async def test_a_client_that_does_not_read_its_stream(mock_clock: MockClock) -> None:
    """It can be helped neither with this connection nor with this session."""
    settings: dict[str, Any] = {
        "cleanup": CleanupConfig(send_timeout=10),
        "session_limits": SessionLimits(max_output=1000),
    }
    async with watched(**settings) as it, it.undisturbed():
        async with await it.connect() as own_wire, await it.connect() as wire:
            own = await it.open_session(wire=own_wire)
            answer = await wire.begin("GET", headers=own.headers)

            async def talk() -> None:
                while True:
                    await own.session.notify("notifications/much", {"x": "y" * 100_000})

            own.session.start_soon(talk)
            await it.pass_time(8)
            assert own.session.state is SessionState.ACTIVE
            await it.pass_time(4)
            assert own.session.termination_reason is TerminationReason.UNRESPONSIVE
            await own.session.wait_terminated()
            with pytest.raises(EOFError):
                await wire.to_the_end(answer)


# Clients that vanish.


async def leave(wire: Wire, how: str) -> None:
    await wait_all_tasks_blocked()
    if how == "closes":
        await wire.aclose()
    else:
        await wire.reset()
    await wait_all_tasks_blocked()


vanishing = pytest.mark.parametrize("how", ["closes", "resets"])


@on_both_servers
@vanishing
async def test_while_initialize_is_answered(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    """No client knows the session. At the latest it ends at the handshake timeout."""
    may_open = trio.Event()
    may_open.set()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await may_open.wait()
        yield

    async with watched(server, lifespan=lifespan) as it, it.undisturbed():
        may_open = trio.Event()
        wire = await it.connect()
        await wire.send(write_request("POST", initialize(0)))
        await leave(wire, how)
        assert len(it.manager.sessions()) == 2
        may_open.set()
        await wait_all_tasks_blocked()
        if how == "resets" and server == "builtin":
            # The server was told that the client has left, and cannot be given the session's id.
            assert len(it.manager.sessions()) == 1
        else:
            await it.pass_time(70)


@on_both_servers
@vanishing
async def test_a_connection_lost_during_a_call_does_not_cancel_it(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    """The call continues: a lost connection is not a cancellation."""
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed():
            wire = await it.connect()
            waiting = request(1, "tools/call", call("wait", name="own"))
            await wire.send(write_request("POST", waiting, own.headers))
            await leave(wire, how)
            assert own.session.metrics.in_flight == 1
            await own.echo("meanwhile")
            it.toy.release("own")
            await wait_all_tasks_blocked()
            assert "own" in it.toy.finished
            assert own.session.metrics.cancelled == 0
        await own.echo("after")


@on_both_servers
@vanishing
async def test_while_a_stream_is_open(how: str, server: ServerName, mock_clock: MockClock) -> None:
    """The answer waits for the client, which resumes on another connection."""
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed():
            wire = await it.connect()
            waiting = request(1, "tools/call", call("wait", name="own", say=True))
            answer = await wire.begin("POST", waiting, own.headers)
            event = await wire.event(answer)
            assert await wire.message(answer) == notification("notifications/begun")
            await leave(wire, how)
            it.toy.release("own")
            await wait_all_tasks_blocked()
            assert "own" in it.toy.finished
            async with await it.connect() as again:
                back = {**own.headers, "Last-Event-ID": event["id"]}
                answer = await again.begin("GET", headers=back)
                assert await again.message(answer) == notification("notifications/begun")
                assert (await again.message(answer))["id"] == 1
                await again.to_the_end(answer)
        await own.echo("after")


@on_both_servers
@vanishing
async def test_a_connection_lost_on_the_get_stream_frees_the_stream(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed():
            wire = await it.connect()
            await wire.event(await wire.begin("GET", headers=own.headers))
            await leave(wire, how)
        # There is room for the next one: the lost stream no longer counts.
        async with await it.connect() as wire:
            assert (await wire.begin("GET", headers=own.headers)).status == 200


@on_both_servers
@vanishing
async def test_in_the_middle_of_an_answer(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed():
            wire = await it.connect()
            many = request(1, "tools/call", call("many", size=20_000_000))
            await wire.begin("POST", many, own.headers)
            await leave(wire, how)
        await own.echo("after")


@on_both_servers
@vanishing
async def test_a_connection_lost_between_two_requests_keeps_the_session(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it:
        own = await it.open_session()
        async with it.undisturbed():
            wire = await it.connect()
            await Caller(wire, own.session, own.headers).echo("first")
            await leave(wire, how)
        await own.echo("after")


@on_both_servers
@vanishing
async def test_a_connection_lost_during_delete_still_ends_the_session(
    how: str, server: ServerName, mock_clock: MockClock
) -> None:
    async with watched(server) as it, it.undisturbed():
        async with await it.connect() as wire, await it.connect() as listening:
            own = await it.open_session(wire=wire)
            stream = await listening.begin("GET", headers=own.headers)
            deleting = await it.connect()
            await deleting.send(write_request("DELETE", headers=own.headers))
            if how == "closes":
                await deleting.aclose()
            else:
                await deleting.reset()
            await own.session.wait_terminated()
            await listening.to_the_end(stream)
