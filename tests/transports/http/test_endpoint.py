"""From a request to its session: the decision table, and which client may reach which session."""

from __future__ import annotations

import base64
import enum
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from typing import Annotated, Any

import attrs
import msgspec
import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    acknowledged,
    brief,
    cancelled,
    connect,
    error,
    initialize,
    listening,
    notification,
    request,
    result,
    serving,
)
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import (
    CAPABILITIES,
    MODERN,
    PREFIX,
    VERSION,
    complete,
    headers_of,
    modern,
)
from tests.transports.http.site import (
    Server,
    Site,
    bearer,
    json_of,
    never,
    site,
    token,
    works,
)
from trio_mcp_session import (
    McpError,
    Principal,
    RequestContext,
    Router,
    SessionLimits,
    TerminationReason,
    ToolError,
)
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions

OLDEST, BATCHES, SPRING, LATEST = "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"
SUPPORTED = [OLDEST, BATCHES, SPRING, LATEST]
STATELESS = [MODERN]
SERVED = [*SUPPORTED, MODERN]
PARSE, INVALID, METHOD, PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
MISMATCH, INCAPABLE, VERSIONS = -32020, -32021, -32022


class Names(enum.Enum):
    """Which session a request names in ``Mcp-Session-Id``."""

    MINE = "a live session of whoever asks"
    NONE = "none"
    UNKNOWN = "one that never was"
    DEAD = "one that has ended"
    FOREIGN = "a live one of somebody else"
    EMPTY = "an empty value"


class Before(enum.Enum):
    """What went before the request."""

    NOTHING = "nothing"
    LISTENING = "a GET of the session is open"
    FULL = "as many sessions as there may be"
    CROWDED = "as many streams as there may be"
    DEAF = "no subscriptions may be at all"


EVENT_OF_MINE = "the id of an event that the session has sent"
EVENT_OF_OTHER = "the id of an event that another session of the same client has sent"
NO_VERSION: Mapping[str, str | None] = {"mcp-protocol-version": None}
UNSUPPORTED: Mapping[str, str | None] = {"mcp-protocol-version": "1900-01-01"}
OLD: Mapping[str, str] = {"requested": "1900-01-01"}
MODERN_VERSION: Mapping[str, str | None] = {"mcp-protocol-version": MODERN}
CALL = request(7, "echo", {"a": 1})
ANSWER = result(7, {"a": 1})
NOTE = notification("notifications/progress", {"progressToken": 1, "progress": 1})
REPLY = result(99)
ALLOW = {"allow": "POST, GET, DELETE"}
ALLOW_POST = {"allow": "POST"}
RETRY = {"retry-after": "5"}
PLAIN = {"accept-encoding": "identity"}
CHALLENGE = {"www-authenticate": 'Bearer scope="mcp"'}
SSE = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
NEW_SESSION = {"mcp-session-id": "(another one)"}
ANYTHING: Any = object()


@attrs.frozen
class Row:
    """One row of the table: what is asked, and what comes of it."""

    line: str
    """The table's first column, or the row's condition where it has none."""
    verb: str
    body: Any
    """What is sent: bytes as they are, anything else as JSON."""
    names: Names
    headers: Mapping[str, str | None]
    """Headers besides the usual ones, or in their place; None leaves one out."""
    status: int
    code: int | None = None
    """The error's code; None where there is none."""
    id: object = UNSET
    """The id that an error echoes."""
    gives: Any = None
    """The body, where it is not an error."""
    has: Mapping[str, str] = {}
    """Headers of the response besides those of its body."""
    version: str = LATEST
    """What the session has negotiated."""
    before: Before = Before.NOTHING
    supported: Sequence[str] | None = None
    """The revisions that are spoken here, where the error names them."""
    data: Mapping[str, Any] = {}
    """What else it says to programs."""
    reaches: bool = False
    """Whether it is a handler that refuses it."""

    def __str__(self) -> str:
        return f"{self.line}, {self.names.name}"


def any_but(status: int, code: int, line: str, body: Any, *names: Names, **more: Any) -> list[Row]:
    return [Row(line, "POST", body, one, {}, status, code, **more) for one in names]


MINE, NONE, UNKNOWN, DEAD, FOREIGN, EMPTY = Names
LOST = (UNKNOWN, DEAD, FOREIGN)


def table_router() -> Router:
    """What the table's requests are made to."""
    router = Server().router

    @router.tool(structured=False)
    async def region(
        ctx: RequestContext,
        place: Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})] = "-",
    ) -> str:
        return place

    @router.tool()
    async def fail(ctx: RequestContext) -> str:
        raise ToolError("no")

    @router.request("crash")
    async def crash(ctx: RequestContext) -> None:
        raise ZeroDivisionError

    @router.request("refuse")
    async def refuse(ctx: RequestContext) -> None:
        raise McpError(ctx.params["code"], "no")

    return router


def asked(
    line: str,
    message: Mapping[str, Any],
    status: int,
    code: int | None = None,
    *names: Names,
    headers: Mapping[str, str | None] = {},
    **more: Any,
) -> list[Row]:
    """Rows of a request of 2026-07-28: the session that it names is nothing to it."""
    return [
        Row(
            line,
            "POST",
            message,
            one,
            {**headers_of(message), **headers},
            status,
            code,
            message["id"] if code is not None else UNSET,
            **more,
        )
        for one in names or (NONE,)
    ]


def without(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A message with an envelope that lacks something."""
    meta = {name: value for name, value in message["params"]["_meta"].items() if name != key}
    return {**message, "params": {**message["params"], "_meta": meta}}


def call(tool: str = "region", **arguments: object) -> dict[str, Any]:
    return modern(7, "tools/call", {"name": tool, "arguments": arguments})


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def text_of(tool_says: str) -> dict[str, Any]:
    return complete(7, "server", content=[{"type": "text", "text": tool_says}])


ECHO = modern(7, "echo", {"a": 1})
NAMED = headers_of(ECHO)
ECHOED = complete(7, "server", a=1)
ECHOED["result"]["_meta"] |= ECHO["params"]["_meta"]  # What the handler returned.
WANTED: dict[str, Any] = {"toolsListChanged": True, "resourceSubscriptions": ["u"]}
GIVEN: dict[str, Any] = {"toolsListChanged": True}
LISTENING = acknowledged(7, **GIVEN)
ENVELOPE = {"_meta": {VERSION: MODERN}}
READ = modern(7, "prompts/get", {"name": "p"})
NAME_FAULTS: Mapping[str, str | None] = {
    "none": None,
    "other": "fail",
    "other case": "Region",
    "not encoded in Base64": "=?base64?!?=",
    "encoded otherwise": encoded("fail"),
    "encoded with other markers": encoded("region").upper(),
    "encoded without its end": encoded("region")[:-2],
    "encoded without padding": "=?base64?cmVnaW9uCg?=",
    "nothing": "",
}
LOUD: dict[str, Any] = {f"{PREFIX}logLevel": "loud"}
BAD_ENVELOPES: Mapping[str, dict[str, Any]] = {
    "version 1": modern(7, "echo", version=1),
    "no version": modern(7, "echo", version=None),
    "a list": modern(7, "echo", version=[MODERN]),
    "no capabilities": without(ECHO, CAPABILITIES),
    "capabilities []": modern(7, "echo", capabilities=[1]),
    "log level": modern(7, "echo", None, **LOUD),
    "initialize": without(modern(7, "initialize"), CAPABILITIES),
    "discover": without(modern(7, "server/discover"), CAPABILITIES),
}


def envelope_rows() -> Iterator[Row]:
    """The rows P5, P6, P8 and P9."""
    for what, message in BAD_ENVELOPES.items():
        supported = None if what == "log level" else STATELESS
        for headers in ({}, NO_VERSION, UNSUPPORTED, {"mcp-protocol-version": LATEST}):
            yield from asked(
                f"P5 {what}", message, 400, PARAMS, headers=headers, supported=supported
            )
    yield from asked("P5", BAD_ENVELOPES["version 1"], 400, PARAMS, *Names, supported=STATELESS)
    for version in (None, LATEST, UNSUPPORTED["mcp-protocol-version"], f"{MODERN}, {MODERN}", ""):
        for message in (ECHO, modern(7, "server/discover"), modern(7, "initialize"), call()):
            headers = {"mcp-protocol-version": version}
            yield from asked("P6", message, 400, MISMATCH, headers=headers)
    yield from asked("P6", ECHO, 400, MISMATCH, *Names, headers=NO_VERSION)
    old = modern(7, "echo", version="1900-01-01")
    yield from asked("P6 before P8", old, 400, MISMATCH, headers=NO_VERSION)
    for version in ("1900-01-01", "2026-07-29", "", *SUPPORTED, "x" * 100):
        for method in ("echo", "server/discover", "initialize", "nothing"):
            message = modern(7, method, version=version)
            data = {"requested": version[:64]}
            yield from asked("P8", message, 400, VERSIONS, supported=STATELESS, data=data)
    for method in (
        *("initialize", "ping", "logging/setLevel", "resources/subscribe"),
        *("resources/unsubscribe", "tasks/list", "nothing", ""),
    ):
        yield from asked("P9", modern(7, method, {"uri": "u"}), 404, METHOD)
    yield from asked("P9", modern("7", "ping"), 404, METHOD, *Names)
    yield from asked("P9 not offered", READ, 404, METHOD)


def header_rows() -> Iterator[Row]:
    """The rows P7 and P10."""
    for name in (None, "", "Echo", "echo, echo", "ping", encoded("echo")):
        yield from asked("P7 method", ECHO, 400, MISMATCH, headers={"mcp-method": name})
    for what, name in NAME_FAULTS.items():
        yield from asked(f"P7 name {what}", call(), 400, MISMATCH, headers={"mcp-name": name})
    padded = {"mcp-name": " region\t", "mcp-method": "\ttools/call "}
    yield from asked("P7 ok", call(), 200, headers=padded, gives=text_of("-"))
    good = {"mcp-name": encoded("region")}
    yield from asked("P7 ok", call(), 200, headers=good, gives=text_of("-"))
    for argument, header in [
        ("eu", None),
        ("eu", "us"),
        ("eu", "EU"),
        ("eu", "eu, eu"),
        ("eu", encoded("us")),
        ("eu", "=?base64?!?="),
        ("", None),
        (None, "eu"),
        (None, ""),
    ]:
        message = call(place=argument)
        headers = {"mcp-param-region": header}
        yield from asked("P10", message, 400, MISMATCH, headers=headers)
    yield from asked("P10 absent", call(), 400, MISMATCH, headers={"mcp-param-region": "eu"})
    for argument, header in [("eu", "eu"), ("eu", encoded("eu")), ("é", encoded("é")), ("", "")]:
        headers = {"mcp-param-region": header, "mcp-param-other": "ignored"}
        message = call(place=argument)
        yield from asked("P10 ok", message, 200, headers=headers, gives=text_of(argument))
    yield from asked("P10 null", call(place=None), 200, gives=ANYTHING)


def outcome_rows() -> Iterator[Row]:
    """The rows P11 to P14."""
    needed: Any = {"requiredCapabilities": {"roots": {}}}
    yield from asked("P11", modern(7, "roots"), 400, INCAPABLE, data=needed, reaches=True)
    yield from asked("P12", listening(7, **WANTED), 200, None, *Names, has=SSE, gives=LISTENING)
    yield from asked(
        "P12", listening("7", **WANTED), 200, has=SSE, gives=acknowledged("7", **GIVEN)
    )
    yield from asked("P12", listening(7), 200, has=SSE, gives=acknowledged(7))
    for bad in ({"toolsListChanged": 1}, {"resourceSubscriptions": "u"}):
        yield from asked("P12 bad", listening(7, **bad), 200, PARAMS, reaches=True)
    yield from asked("P12 bad", modern(7, "subscriptions/listen"), 200, PARAMS, reaches=True)
    other = {"mcp-method": "subscriptions/Listen"}
    yield from asked("P7 and P12", listening(7, **WANTED), 400, MISMATCH, headers=other)
    full: dict[str, Any] = {"has": RETRY, "before": Before.DEAF}
    yield from asked("P12 full", listening(7, **WANTED), 503, INTERNAL, **full)
    last = {"last-event-id": "1:1"}
    yield from asked("P13", ECHO, 200, None, *Names, headers=last, gives=ECHOED)
    refused = call("fail")
    yield from asked("P13 isError", refused, 200, gives=ANYTHING)
    for message, status, code in [
        (call("nothing"), 200, PARAMS),
        (modern(7, "tools/call"), 200, PARAMS),
        (modern(7, "crash"), 200, INTERNAL),
        (modern(0, "refuse", {"code": INVALID}), 200, INVALID),
        (modern("", "refuse", {"code": PARAMS}), 200, PARAMS),
        (modern(7, "refuse", {"code": METHOD}), 404, METHOD),
        (modern(7, "refuse", {"code": 5}), 200, 5),
    ]:
        yield from asked("P13 error", message, status, code, reaches=True)
    not_found = modern(7, "refuse", {"code": -32002})
    yield from asked("P13 not found", not_found, 200, PARAMS, reaches=True)
    yield from asked("P13", modern(7, "server/discover"), 200, gives=ANYTHING)
    for message in (CALL, initialize(7), request(7, "server/discover"), request(7, "ping")):
        for one in (MINE, NONE, UNKNOWN):
            yield Row(
                *("P14", "POST", message, one, MODERN_VERSION, 400, PARAMS, 7),
                supported=STATELESS,
            )


def dropped_rows() -> Iterator[Row]:
    """The rows P24."""
    told = notification("notifications/progress", ENVELOPE)
    stop = notification("notifications/cancelled", {"requestId": 7, **ENVELOPE})
    for one in Names:
        for body, headers in [
            (NOTE, MODERN_VERSION),
            (told, {}),
            (told, MODERN_VERSION),
            (told, NO_VERSION),
            (stop, MODERN_VERSION),
            (cancelled(7), MODERN_VERSION),
        ]:
            yield Row("P24", "POST", body, one, headers, 202)
    versions: list[Any] = ["1900-01-01", LATEST, 5, None, [], {}, "x" * 100]
    for version in versions:
        bad = notification("notifications/progress", {"_meta": {VERSION: version}})
        data = {"requested": str(version)[:64]}
        for headers in (MODERN_VERSION, {}):
            yield Row(
                *("P24 bad", "POST", bad, MINE, headers, 400, VERSIONS),
                supported=STATELESS,
                data=data,
            )


# Section 15 of the checklist, in its order, by the names that its rows have there.
TABLE = [
    # The steps before: verb, origin, authentication, limits, media types, JSON.
    *(
        Row(f"1 {verb}", verb, b"", MINE, {}, 405, INVALID, has=ALLOW)
        for verb in ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "post")
    ),
    *(
        Row(f"2 {verb} {name}", verb, CALL, MINE, {name: value}, 403, INVALID)
        for verb in ("POST", "GET", "DELETE")
        for name, value in [("host", "evil.example"), ("origin", "http://evil.example")]
    ),
    *(
        Row(f"3 {verb}", verb, CALL, MINE, {"authorization": None}, 401, INVALID, has=CHALLENGE)
        for verb in ("POST", "GET", "DELETE")
    ),
    Row("4", "POST", b" " * 1001, MINE, {}, 413, INVALID),
    Row("4 edge", "POST", msgspec.json.encode(CALL).ljust(1000), MINE, {}, 200, gives=ANSWER),
    Row("5", "POST", CALL, MINE, {"content-type": "text/plain"}, 415, INVALID),
    Row("5", "POST", CALL, MINE, {"content-type": ""}, 415, INVALID),
    Row("5", "POST", CALL, MINE, {"content-encoding": "gzip"}, 415, INVALID, has=PLAIN),
    Row("5", "POST", CALL, MINE, {"accept": "text/html"}, 406, INVALID),
    Row("5", "POST", CALL, MINE, {"accept": "application/json"}, 200, gives=ANSWER),
    Row("5", "POST", CALL, MINE, {"accept": "text/event-stream"}, 200, gives=ANSWER, has=SSE),
    Row("5", "POST", ECHO, MINE, {**NAMED, "accept": "application/json"}, 200, gives=ECHOED),
    Row(
        "5",
        "POST",
        ECHO,
        MINE,
        {**NAMED, "accept": "text/event-stream"},
        200,
        gives=ECHOED,
        has=SSE,
    ),
    Row("5", "POST", CALL, MINE, {"content-encoding": "identity"}, 200, gives=ANSWER),
    Row("5", "GET", None, MINE, {"accept": "application/json"}, 406, INVALID),
    Row("5 any", "POST", CALL, MINE, {"accept": None}, 200, gives=ANSWER),
    Row("5 any", "POST", CALL, MINE, {"accept": "*/*"}, 200, gives=ANSWER),
    Row("6", "POST", b"{", MINE, {}, 400, PARSE),
    Row("6", "POST", b"", MINE, {}, 400, PARSE),
    Row("6", "POST", b"\xff", MINE, {}, 400, PARSE),
    # POST, by its body.
    Row("P1", "POST", 1, MINE, {}, 400, INVALID),
    Row("P1", "POST", {"id": 7, "method": "echo"}, MINE, {}, 400, INVALID, 7),
    Row("P1", "POST", {**CALL, "id": "7", "params": []}, MINE, {}, 400, INVALID, "7"),
    Row("P1", "POST", {**CALL, "id": None}, MINE, {}, 400, INVALID),
    Row("P1", "POST", {**CALL, "id": True}, MINE, {}, 400, INVALID),
    Row("P1", "POST", {**NOTE, "jsonrpc": "1.0"}, MINE, {}, 400, INVALID),
    Row("P1 any", "POST", 1, UNKNOWN, MODERN_VERSION, 400, INVALID),
    *any_but(400, INVALID, "P2 empty", [], MINE, version=BATCHES),
    *any_but(400, INVALID, "P2 initialize", [CALL, initialize(1)], MINE, version=BATCHES),
    *any_but(400, INVALID, "P2 element", [CALL, {"jsonrpc": "2.0"}], MINE, version=BATCHES),
    *any_but(400, INVALID, "P2 modern", [CALL, ECHO], MINE, NONE, version=BATCHES),
    *any_but(400, INVALID, "P2 modern", [{**NOTE, "params": ENVELOPE}], MINE, version=BATCHES),
    Row("P3", "POST", [CALL, NOTE], MINE, {}, 200, gives=[ANSWER], version=BATCHES),
    Row("P3", "POST", [CALL, CALL], MINE, NO_VERSION, 200, gives=[ANSWER] * 2, version=BATCHES),
    Row("P3", "POST", [NOTE, NOTE], MINE, {}, 202, version=BATCHES),
    Row("P3", "POST", [REPLY], MINE, {}, 202, version=BATCHES),
    *any_but(404, INVALID, "P3 lost", [CALL], *LOST, version=BATCHES),
    *any_but(400, INVALID, "P3 none", [CALL], NONE, version=BATCHES),
    *(
        Row("P4", "POST", [CALL], MINE, {}, 400, INVALID, version=version)
        for version in (OLDEST, SPRING, LATEST)
    ),
    Row("P4", "POST", [CALL], MINE, MODERN_VERSION, 400, INVALID, version=BATCHES),
    Row("P4", "POST", [ECHO], MINE, MODERN_VERSION, 400, INVALID, version=BATCHES),
    *envelope_rows(),
    *header_rows(),
    *outcome_rows(),
    *(
        Row(*("P15", "POST", body, one, UNSUPPORTED, 400, VERSIONS), supported=SERVED, data=OLD)
        for body in (CALL, initialize(7), request(7, "server/discover"))
        for one in (MINE, NONE, UNKNOWN)
    ),
    *(
        Row("P16", "POST", initialize(7), NONE, headers, 200, gives=ANYTHING, has=NEW_SESSION)
        for headers in (NO_VERSION, {"mcp-protocol-version": LATEST})
    ),
    Row("P16 bad", "POST", request(7, "initialize", {}), NONE, NO_VERSION, 200, PARAMS, 7),
    Row("P17", "POST", initialize(7), MINE, {}, 400, INVALID, 7),
    *(
        Row("P18", "POST", initialize(7), one, {}, 200, gives=ANYTHING, has=NEW_SESSION)
        for one in (*LOST, EMPTY)
    ),
    Row(
        *("P19", "POST", initialize(7), NONE, NO_VERSION, 503, INTERNAL, 7),
        has=RETRY,
        before=Before.FULL,
    ),
    *(
        Row("P20", "POST", CALL, MINE, headers, 200, gives=ANSWER, version=version)
        for version in SUPPORTED
        for headers in (NO_VERSION, {"mcp-protocol-version": OLDEST})
    ),
    Row("P20 ping", "POST", request("", "ping"), MINE, {}, 200, gives=result("")),
    Row("P20 unknown method", "POST", request(0, "no"), MINE, {}, 200, -32601, 0),
    *any_but(404, INVALID, "P21", CALL, *LOST),
    *any_but(404, INVALID, "P21 ping", request(7, "ping"), *LOST),
    Row("P22", "POST", CALL, NONE, {}, 400, PARAMS, 7, supported=SUPPORTED),
    Row(
        *("P22", "POST", {**CALL, "id": "7"}, NONE, NO_VERSION, 400, PARAMS, "7"),
        supported=SUPPORTED,
    ),
    # P23 is for servers that serve the revisions before without sessions: here it is P22.
    Row(
        "P22 for P23",
        "POST",
        CALL,
        NONE,
        {"mcp-protocol-version": BATCHES},
        400,
        PARAMS,
        7,
        supported=SUPPORTED,
    ),
    *dropped_rows(),
    Row("P24", "POST", NOTE, MINE, UNSUPPORTED, 400, VERSIONS, supported=SERVED, data=OLD),
    Row("P25", "POST", NOTE, MINE, {}, 202),
    Row("P25", "POST", NOTE, MINE, NO_VERSION, 202),
    Row("P25", "POST", notification("notifications/initialized"), MINE, {}, 202),
    Row("P25", "POST", notification("notifications/roots/list_changed"), MINE, {}, 202),
    Row("P25 unknown", "POST", notification("notifications/no"), MINE, {}, 202),
    Row("P25 cancelled", "POST", cancelled("nothing of the kind"), MINE, {}, 202),
    *any_but(404, INVALID, "P26", NOTE, *LOST),
    *any_but(400, INVALID, "P26", NOTE, NONE),
    Row("P27", "POST", REPLY, MINE, {}, 202),
    Row("P27", "POST", {**error(99, -1, "no")}, MINE, {}, 202),
    *any_but(404, INVALID, "P28", REPLY, *LOST),
    *any_but(400, INVALID, "P28", REPLY, NONE),
    *(Row("P28", "POST", REPLY, one, MODERN_VERSION, 400, INVALID) for one in Names),
    # GET.
    *(
        Row("GET modern", "GET", None, o, MODERN_VERSION, 405, INVALID, has=ALLOW_POST)
        for o in Names
    ),
    Row("GET version", "GET", None, MINE, UNSUPPORTED, 400, VERSIONS, supported=SERVED, data=OLD),
    *(Row("GET lost", "GET", None, one, {}, 404, INVALID) for one in LOST),
    Row("GET none", "GET", None, NONE, {}, 400, INVALID),
    Row("GET two", "GET", None, MINE, {}, 200, has=SSE, before=Before.LISTENING),
    Row("GET two", "GET", None, MINE, {}, 200, has=SSE, before=Before.CROWDED),
    Row(
        *("GET many", "GET", None, MINE, {"last-event-id": "1:1"}, 429, INVALID),
        has=RETRY,
        before=Before.CROWDED,
    ),
    Row("GET ok", "GET", None, MINE, {"accept": "text/event-stream"}, 200, has=SSE),
    *(Row("GET ok", "GET", None, MINE, NO_VERSION, 200, has=SSE, version=v) for v in SUPPORTED),
    Row("GET resume", "GET", None, MINE, {"last-event-id": EVENT_OF_MINE}, 200, has=SSE),
    Row("GET resume", "GET", None, MINE, {"last-event-id": EVENT_OF_OTHER}, 400, INVALID),
    Row("GET resume", "GET", None, MINE, {"last-event-id": "1:1"}, 400, INVALID),
    Row("GET resume", "GET", None, MINE, {"last-event-id": ""}, 400, INVALID),
    Row("GET resume", "GET", None, FOREIGN, {"last-event-id": EVENT_OF_MINE}, 404, INVALID),
    # DELETE.
    *(
        Row("DELETE modern", "DELETE", None, one, MODERN_VERSION, 405, INVALID, has=ALLOW_POST)
        for one in Names
    ),
    Row(
        *("DELETE version", "DELETE", None, MINE, UNSUPPORTED, 400, VERSIONS),
        supported=SERVED,
        data=OLD,
    ),
    Row("DELETE none", "DELETE", None, NONE, {}, 400, INVALID),
    *(Row("DELETE lost", "DELETE", None, one, {}, 404, INVALID) for one in LOST),
    Row("DELETE ok", "DELETE", None, MINE, {}, 204),
    Row("DELETE ok", "DELETE", None, MINE, {**NO_VERSION, "accept": "text/plain"}, 204),
]


@attrs.frozen
class Scene:
    """Two sessions of the client that asks, one of another client, and one that has ended."""

    place: Site
    mine: Client
    other: Client
    foreign: Client
    named: Mapping[Names, str]
    events: Mapping[str, str]

    def headers(self, row: Row) -> dict[str, str | None]:
        """The headers of a row's request."""
        values = {
            **self.mine.headers,
            "mcp-protocol-version": row.version,
            "mcp-session-id": self.named.get(row.names),
            **row.headers,
        }
        last = values.get("last-event-id")
        return values if last is None else {**values, "last-event-id": self.events.get(last, last)}


@asynccontextmanager
async def scene(row: Row) -> AsyncIterator[Scene]:
    crowded = row.before is Before.CROWDED
    async with (
        site(
            table_router(),
            authenticate=bearer,
            limits=SessionLimits(
                max_message_size=1000,
                max_sessions=3 if row.before is Before.FULL else 100,
                max_listens=0 if row.before is Before.DEAF else 1,
            ),
            options=HttpOptions(max_streams=1 if crowded else 16, stream_after=1000),
        ) as place,
        trio.open_nursery() as nursery,
    ):
        dead, ended = await place.open("alice")
        assert (await dead.request("DELETE")).status == 204
        await ended.wait_terminated()
        mine, _ = await place.open("alice", version=row.version)
        other, _ = await place.open("alice")
        foreign, _ = await place.open("bob")
        clients = {DEAD: dead, MINE: mine, FOREIGN: foreign}
        named = {names: one.headers["mcp-session-id"] for names, one in clients.items()}
        events = {}
        for what, one in [(EVENT_OF_MINE, mine), (EVENT_OF_OTHER, other)]:
            if row.headers.get("last-event-id") == what:
                async with one.stream("GET") as listening:
                    event_id = (await listening.event()).id
                    assert event_id is not None
                    events[what] = event_id
        if row.before in (Before.LISTENING, Before.CROWDED):
            nursery.start_soon(listen, mine)
            await wait_all_tasks_blocked()
        yield Scene(place, mine, other, foreign, named | {UNKNOWN: "x" * 32, EMPTY: ""}, events)
        nursery.cancel_scope.cancel()


async def listen(client: Client) -> None:
    async with client.stream("GET") as response:
        await response.started()
        await trio.sleep_forever()


async def ask(client: Client, row: Row, headers: Mapping[str, str | None]) -> Response:
    """Send a row's request; a stream of events is not waited for."""
    body = {"body": row.body} if isinstance(row.body, bytes) else {"json": row.body}
    async with client.stream(row.verb, headers=headers, **body) as response:
        await response.started()
        if response.headers.get("content-type") != "text/event-stream":
            await response.read()
        else:
            first = None if row.gives is None else (await response.event()).json
            assert first == row.gives
    return response


@pytest.mark.parametrize("row", TABLE, ids=[f"{n} {row}" for n, row in enumerate(TABLE)])
async def test_each_http_request_is_answered_as_the_decision_table_says(
    row: Row, autojump_clock: MockClock
) -> None:
    async with scene(row) as at:
        place, mine = at.place, at.mine
        before = place.headers()
        response = await ask(mine, row, at.headers(row))
        place.look()

        # The answer.
        assert response.status == row.status
        body = json_of(response)
        given = dict(response.headers)
        length = given.pop("content-length", None)
        if row.code is not None:
            request_id = row.id
            if row.line.startswith(("P15", "P18", "P21")) and isinstance(row.body, dict):
                request_id = row.body.get("id", UNSET)  # The body was decoded before.
            said = body["error"].pop("data", {})
            assert body["error"].pop("message")
            assert body == {
                "jsonrpc": "2.0",
                **({} if request_id is UNSET else {"id": request_id}),
                "error": {"code": row.code},
            }
            names = {} if row.supported is None else {"supported": row.supported}
            assert said == {**names, **row.data}
        elif row.has is not SSE and row.gives is not ANYTHING:
            assert body == row.gives
        if row.has is SSE:
            assert given == SSE
            # A stream of one event has a length, as JSON has.
            assert (length is None) is (row.line != "5")
        else:
            assert length == (None if row.status == 204 else str(len(response.body)))
            assert given.pop("content-type", None) == ("application/json" if body else None)
            assert given.keys() == row.has.keys()
            if row.has is NEW_SESSION:
                assert given["mcp-session-id"] not in at.named.values()
            else:
                assert given == row.has

        # What it changed: what it says, and nothing else.
        reached_no_session = row.line == "P16 bad" or (row.status >= 400 and not row.reaches)
        assert place.refused == ({row.status: 1} if reached_no_session else {})
        opened = [one for one in place.headers() if one not in before]
        assert [one.session_id for one in opened] == (
            [given["mcp-session-id"]] if row.has is NEW_SESSION else []
        )
        await trio.sleep(0.3)  # A client that leaves its stream is noticed at the next look.
        assert place.manager.statistics().listens == 0
        assert await works(at.other)
        assert await works(at.foreign)
        if row.status == 204:
            after = [(await mine.request(verb, CALL)).status for verb in ("DELETE", "GET", "POST")]
            assert after == [404] * 3
        else:
            assert await works(mine)


@attrs.define
class Draft:
    """A request that is being spoilt."""

    verb: str
    headers: dict[str, str | None]
    body: bytes
    path: str = "/mcp"


def elsewhere(draft: Draft) -> None:
    draft.path = "/elsewhere"


def put(draft: Draft) -> None:
    draft.verb = "PUT"


def rebound(draft: Draft) -> None:
    draft.headers["host"] = "evil.example"


def from_a_foreign_page(draft: Draft) -> None:
    draft.headers["origin"] = "https://evil.example"


def without_token(draft: Draft) -> None:
    draft.headers["authorization"] = None


def too_large(draft: Draft) -> None:
    draft.body = draft.body.ljust(1001)


def text(draft: Draft) -> None:
    draft.headers["content-type"] = "text/plain"


def reads_neither(draft: Draft) -> None:
    draft.headers["accept"] = "text/html"


def reads_events_not(draft: Draft) -> None:
    draft.headers["accept"] = "text/event-stream;q=0, */*"


def no_json(draft: Draft) -> None:
    draft.body = b"{".ljust(len(draft.body))


def no_message(draft: Draft) -> None:
    if draft.body.strip() != b"{":
        draft.body = b'{"id": 7}'.ljust(len(draft.body))


def modern_header(draft: Draft) -> None:
    draft.headers["mcp-protocol-version"] = MODERN


def unknown_version(draft: Draft) -> None:
    if draft.headers.get("mcp-protocol-version") != MODERN:
        draft.headers |= UNSUPPORTED


def lost(draft: Draft) -> None:
    draft.headers["mcp-session-id"] = "x" * 32


def unknown_event(draft: Draft) -> None:
    draft.headers["last-event-id"] = "1:1"


Fault = tuple[Callable[[Draft], None], int, int]
# What may be wrong with a request, in the order in which it is noticed; the status and the code.
FAULTS: Mapping[str, list[Fault]] = {
    "POST": [
        (elsewhere, 404, INVALID),
        (put, 405, INVALID),
        (rebound, 403, INVALID),
        (from_a_foreign_page, 403, INVALID),
        (without_token, 401, INVALID),
        (too_large, 413, INVALID),
        (text, 415, INVALID),
        (reads_neither, 406, INVALID),
        (no_json, 400, PARSE),
        (no_message, 400, INVALID),
        (modern_header, 400, PARAMS),
        (unknown_version, 400, VERSIONS),
        (lost, 404, INVALID),
    ],
    "GET": [
        (elsewhere, 404, INVALID),
        (put, 405, INVALID),
        (rebound, 403, INVALID),
        (from_a_foreign_page, 403, INVALID),
        (without_token, 401, INVALID),
        (reads_events_not, 406, INVALID),
        (unknown_version, 400, VERSIONS),
        (lost, 404, INVALID),
        (unknown_event, 400, INVALID),
    ],
    "DELETE": [
        (elsewhere, 404, INVALID),
        (put, 405, INVALID),
        (rebound, 403, INVALID),
        (from_a_foreign_page, 403, INVALID),
        (without_token, 401, INVALID),
        (unknown_version, 400, VERSIONS),
        (lost, 404, INVALID),
    ],
}


@pytest.mark.parametrize("verb", FAULTS)
async def test_of_two_faults_in_a_request_the_first_check_answers(
    verb: str, autojump_clock: MockClock
) -> None:
    async with site(authenticate=bearer, limits=SessionLimits(max_message_size=1000)) as place:
        client, _ = await place.open("alice")

        async def answer(*faults: Fault) -> tuple[int, Any]:
            good = msgspec.json.encode(CALL) if verb == "POST" else b""
            draft = Draft(verb, {}, good)
            for make, _, _ in faults:
                make(draft)
            response = await client.request(
                draft.verb, body=draft.body, headers=draft.headers, path=draft.path
            )
            # What the client reads, to tell one fault from another of the same status.
            return response.status, json_of(response)["error"]

        alone = {fault[0]: await answer(fault) for fault in FAULTS[verb]}
        for make, status, code in FAULTS[verb]:
            assert alone[make][0] == status
            assert alone[make][1]["code"] == code
        for first, second in combinations(FAULTS[verb], 2):
            assert await answer(first, second) == alone[first[0]], (first, second)
            assert await answer(second, first) == alone[first[0]], (second, first)
        assert await works(client)


# Of a request of 2026-07-28, in the order in which it is noticed; the status, the code, and what
# the message names.
MODERN_FAULTS: Mapping[str, tuple[int, int, str]] = {
    "envelope": (400, PARAMS, CAPABILITIES),
    "version header": (400, MISMATCH, "MCP-Protocol-Version"),
    "method header": (400, MISMATCH, "Mcp-Method"),
    "name header": (400, MISMATCH, "Mcp-Name"),
    "version": (400, VERSIONS, "version"),
    "method": (404, METHOD, "Method"),
    "parameter": (400, MISMATCH, "Mcp-Param-Region"),
    "capability": (400, INCAPABLE, "roots"),
}


def spoilt(faults: Sequence[str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """A call with faults, and its headers."""
    message = modern(
        7,
        "prompts/get" if "method" in faults else "tools/call",
        {"name": "needy", "arguments": {"place": "eu", "needs": "capability" in faults}},
        version="1900-01-01" if "version" in faults else MODERN,
    )
    headers = headers_of(message, mcp_param_region="us" if "parameter" in faults else "eu")
    if "envelope" in faults:
        message = without(message, CAPABILITIES)
    for header in ("version", "method", "name"):
        if f"{header} header" in faults:
            name = "mcp-protocol-version" if header == "version" else f"mcp-{header}"
            headers[name] = "another"
    return message, headers


async def test_of_two_faults_of_a_stateless_request_the_first_check_answers(
    autojump_clock: MockClock,
) -> None:
    router = Router("needy")

    @router.tool()
    async def needy(
        ctx: RequestContext,
        place: Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})],
        needs: bool,
    ) -> str:
        return str(await ctx.list_roots()) if needs else place

    async with site(router, authenticate=bearer) as place:
        client = place.client("alice")

        async def answer(*faults: str) -> tuple[int, int, str]:
            message, headers = spoilt(faults)
            response = await client.request(json=message, headers=headers)
            body = json_of(response)
            assert body["id"] == 7
            told = body["error"]
            return response.status, told["code"], told["message"]

        message, headers = spoilt(())
        assert (await client.request(json=message, headers=headers)).status == 200
        for count in (1, 2, 3):
            for faults in combinations(MODERN_FAULTS, count):
                # They are in their order already.
                status, code, named = MODERN_FAULTS[faults[0]]
                found = await answer(*faults)
                assert found[:2] == (status, code), faults
                assert named in found[2], faults
        assert await answer(*MODERN_FAULTS) == await answer("envelope")


async def test_modern_requests_pass_the_same_checks_before_their_era_is_read(
    autojump_clock: MockClock,
) -> None:
    """The first of two faults is told, also where the other is in the message."""
    before = FAULTS["POST"][: [make for make, _, _ in FAULTS["POST"]].index(modern_header)]
    async with site(authenticate=bearer, limits=SessionLimits(max_message_size=1000)) as place:
        client = place.client("alice")
        for make, status, code in before:
            for message in (ECHO, without(ECHO, CAPABILITIES), modern(7, "ping")):
                draft = Draft("POST", headers_of(message), msgspec.json.encode(message))
                make(draft)
                response = await client.request(
                    draft.verb, body=draft.body, headers=draft.headers, path=draft.path
                )
                told = json_of(response)["error"]["code"]
                assert (response.status, told) == (status, code), make


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_a_modern_header_is_a_verb_that_is_not_there(
    verb: str, autojump_clock: MockClock
) -> None:
    """It is told before anything that is wrong besides, but for the path and the verb itself."""
    async with site(authenticate=bearer) as place:
        client, _ = await place.open("alice")
        for make, _, _ in FAULTS[verb]:
            draft = Draft(verb, {}, b"")
            modern_header(draft)
            make(draft)
            response = await client.request(draft.verb, headers=draft.headers, path=draft.path)
            if make is elsewhere:
                assert response.status == 404
            else:
                assert response.status == 405
                assert response.headers["allow"] == ("POST, GET, DELETE" if make is put else "POST")
        assert await works(client)


async def test_what_is_refused_is_counted_by_status(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        assert place.refused == {}
        for _ in range(3):
            await client.request("PUT")
        await client.request("POST", body=b"{")
        assert place.refused == {405: 3, 400: 1}
        # What a session answers with an error has reached it.
        await client.post(request(1, "no such method"))
        assert place.refused == {405: 3, 400: 1}
        assert session.metrics.errors == 1


async def test_a_refusal_does_not_touch_the_session(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        client, session = await place.open("alice")
        before = session.metrics
        await trio.sleep(10)
        for headers in (token("bob"), {"accept": "text/plain"}, {"origin": "http://evil.example"}):
            for verb in ("POST", "GET"):
                assert (await client.request(verb, CALL, headers=headers)).status >= 400
        assert session.metrics.messages_received == before.messages_received
        assert session.idle_time == 10


# Sessions of others.


async def opens_anew(client: Client, named: Mapping[str, str]) -> None:
    """Check that ``initialize`` opens another session, whatever session it names."""
    response = await client.request("POST", initialize(7), headers=named)
    assert response.status == 200
    opened = {"mcp-session-id": response.headers["mcp-session-id"]}
    assert opened != named
    assert (await client.request("DELETE", headers=opened)).status == 204


async def answers_of_all_verbs(client: Client, headers: Mapping[str, str]) -> list[Any]:
    found = []
    for verb, body, more in [
        ("POST", CALL, {}),
        ("POST", NOTE, {}),
        ("POST", cancelled(1), {}),
        ("POST", REPLY, {}),
        ("POST", [CALL], {}),
        ("GET", None, {}),
        ("GET", None, {"last-event-id": "1:1"}),
        ("DELETE", None, {}),
    ]:
        response = await client.request(verb, body, headers={**headers, **more})
        found.append((response.status, response.headers, response.body))
    return found


async def test_to_others_a_session_is_as_unknown_as_any(autojump_clock: MockClock) -> None:
    server = Server()
    async with site(server.router, authenticate=bearer) as place:
        alice, session = await place.open("alice")
        bob = place.client("bob")
        foreign = {"mcp-session-id": session.session_id}
        unknown = await answers_of_all_verbs(bob, {"mcp-session-id": "x" * 32})
        assert {status for status, _, _ in unknown} == {404}
        assert await answers_of_all_verbs(bob, foreign) == unknown
        await opens_anew(bob, foreign)
        # Neither has it ended, nor been told anything.
        assert await works(alice)
        assert session.metrics.cancelled == 0
        assert server.noted == ["notifications/initialized"]


async def test_a_question_is_answered_by_its_own_client_only(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        alice, _ = await place.open("alice")
        async with alice.stream("POST", request(1, "roots")) as response:
            await response.event()
            question = (await response.event()).json
            forged = result(question["id"], {"roots": [{"uri": "file:///forged"}]})
            assert (await alice.request(json=forged, headers=token("bob"))).status == 404
            answer = result(question["id"], {"roots": []})
            # The token was refreshed meanwhile; the subject is the same.
            assert (await alice.request(json=answer, headers=token("alice.2"))).status == 202
            assert (await response.event()).json == result(1, {"roots": []})


async def test_a_request_is_cancelled_by_its_own_client_only(autojump_clock: MockClock) -> None:
    server = Server()
    async with site(server.router, authenticate=bearer) as place:
        alice, _ = await place.open("alice")
        bob, _ = await place.open("bob")
        async with alice.stream("POST", request(1, "wait")) as response:
            await wait_all_tasks_blocked()
            # Bob's own session does not have the request; alice's is not his.
            assert (await bob.request(json=cancelled(1))).status == 202
            assert (await alice.request(json=cancelled(1), headers=token("bob"))).status == 404
            server.may_answer.set()
            assert await response.json() == result(1)


async def test_a_stream_is_resumed_by_its_own_client_only(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        alice, session = await place.open("alice")
        bob, _ = await place.open("bob")
        async with alice.stream("GET") as response:
            event_id = (await response.event()).id
            await session.notify("notifications/secret")
            assert (await response.event()).json == notification("notifications/secret")
        last = {"last-event-id": event_id}
        assert (await bob.request("GET", headers=last)).status == 400
        assert (await alice.request("GET", headers={**last, **token("bob")})).status == 404
        async with alice.stream("GET", headers=last) as response:
            await response.event()
            assert (await response.event()).json == notification("notifications/secret")


async def test_a_refreshed_token_keeps_the_session(autojump_clock: MockClock) -> None:
    async with site(authenticate=bearer) as place:
        client, session = await place.open("alice.first")
        assert session.principal == Principal("alice")
        for refreshed in ("alice.second", "alice"):
            assert await works(
                Client(client.app, {**client.headers, **token(refreshed)}, client.scope)
            )
        gone = await client.request("DELETE", headers=token("alice.third"))
        assert gone.status == 204
        await session.wait_terminated()
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED


async def test_without_authentication_the_id_is_all_that_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with site() as place:
        client, session = await place.open()
        assert session.principal is None
        assert await works(client)
        # An owned session is not for clients without a principal.
        owned = await place.client(user="alice").initialize()
        nameless = Client(place.app, owned.headers, client.scope)
        assert (await nameless.request(json=CALL)).status == 404
        assert await works(owned)
        assert (await client.request(json=CALL, user="alice")).status == 404


async def test_ids_of_other_kinds_are_unknown(autojump_clock: MockClock) -> None:
    async with site() as place:
        client = place.client()
        handle = await place.manager.create_session()
        peer = await connect(place.manager)
        await peer.establish()
        unknown = await answers_of_all_verbs(client, {"mcp-session-id": "x" * 32})
        for session in (handle, peer.session):
            named = {"mcp-session-id": session.session_id}
            assert await answers_of_all_verbs(client, named) == unknown
            await opens_anew(client, named)
            assert session.termination_reason is None
        await peer.channel.aclose()
        place.look()


@pytest.mark.parametrize(
    "session_id",
    [b"", b"x" * 10_240, "é".encode(), b"\xff\xfe", b"a b", b"\x00", b"../..", b"%00"],
    ids=repr,
)
async def test_malformed_session_ids_are_answered_like_unknown_ones(
    session_id: bytes, autojump_clock: MockClock
) -> None:
    async with site() as place:
        client, _ = await place.open()
        bare = place.client()
        named = [(b"mcp-session-id", session_id)]
        unknown = {"mcp-session-id": "x" * 32}
        for verb, body in [("POST", CALL), ("GET", None), ("DELETE", None)]:
            response = await bare.request(verb, body, more_headers=named)
            assert response.status == 404
            expected = await bare.request(verb, body, headers=unknown)
            assert (response.headers, response.body) == (expected.headers, expected.body)
        response = await bare.request("POST", initialize(), more_headers=named)
        assert response.status == 200
        opened = {"mcp-session-id": response.headers["mcp-session-id"]}
        assert (await bare.request("DELETE", headers=opened)).status == 204
        assert await works(client)


async def test_an_id_is_compared_whole(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        for wrong in (
            session.session_id[:-1],
            session.session_id + "A",
            session.session_id.swapcase(),
        ):
            assert (
                await client.request(json=CALL, headers={"mcp-session-id": wrong})
            ).status == 404
        # Whitespace around a header's value does not belong to it.
        padded = {"mcp-session-id": f" {session.session_id}\t"}
        assert await client.post(CALL, headers=padded) == ANSWER


@pytest.mark.parametrize(
    "verb, body", [("POST", CALL), ("POST", initialize()), ("GET", None), ("DELETE", None)]
)
async def test_a_request_with_two_session_ids_is_refused(
    verb: str, body: Any, autojump_clock: MockClock
) -> None:
    async with site() as place:
        client, session = await place.open()
        again = [(b"mcp-session-id", session.session_id.encode())]
        response = await client.request(verb, body, more_headers=again)
        request_id = None if body is None else body["id"]
        assert (response.status, brief(json_of(response))) == (400, error(request_id, INVALID))
        assert await works(client)


# Ends.


async def test_after_delete_the_id_is_unknown_forever(autojump_clock: MockClock) -> None:
    server = Server()
    async with site(server.router) as place:
        client, session = await place.open()
        async with client.stream("POST", request(1, "wait")) as response:
            await wait_all_tasks_blocked()
            assert (await client.request("DELETE")).status == 204
            # At once: also while what it ran is being ended.
            unknown = await answers_of_all_verbs(place.client(), {"mcp-session-id": "x" * 32})
            named = {"mcp-session-id": session.session_id}
            assert await answers_of_all_verbs(place.client(), named) == unknown
            await opens_anew(place.client(), named)
            # Each request that waits for an answer gets one.
            assert brief(await response.json()) == error(1, INTERNAL)
        await session.wait_terminated()
        await trio.sleep(10_000)
        assert await answers_of_all_verbs(place.client(), named) == unknown
        assert session.termination_reason is TerminationReason.CLIENT_CLOSED


async def gone(message: Any) -> None:
    raise OSError("the client has left")


@pytest.mark.parametrize(
    "verb, body", [("PUT", b""), ("POST", b"{"), ("POST", NOTE), ("DELETE", b"")]
)
async def test_post_and_delete_take_effect_without_a_client_that_waits(
    verb: str, body: Any, autojump_clock: MockClock
) -> None:
    server = Server()
    async with site(server.router) as place:
        _, session = await place.open()
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content}

        headers = [
            (b"content-type", b"application/json"),
            (b"mcp-session-id", session.session_id.encode()),
        ]
        scope = {"type": "http", "method": verb, "path": "/mcp", "headers": headers}
        # The application has not failed, and what was asked is done all the same.
        await place.app(scope, receive, gone)
        await wait_all_tasks_blocked()
        assert (session.termination_reason is not None) is (verb == "DELETE")
        assert ("notifications/progress" in server.noted) is (body is NOTE)
        assert sum(place.refused.values()) == (body is not NOTE and verb != "DELETE")


async def test_an_expired_session_is_unknown(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        await trio.sleep(place.manager.config.cleanup.max_idle_time + 10)
        assert session.termination_reason is TerminationReason.IDLE
        assert (await client.request(json=CALL)).status == 404
        # The client begins anew, as the protocol tells it to.
        assert await works(await place.client().initialize())


async def test_a_draining_server_refuses_new_sessions_and_finishes_running_requests(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with site(server.router) as place, trio.open_nursery() as nursery:
        client, _ = await place.open()
        async with client.stream("POST", request(1, "wait")) as response:
            await wait_all_tasks_blocked()
            nursery.start_soon(place.manager.drain)
            await wait_all_tasks_blocked()
            refused = await place.client().request(json=initialize(7))
            assert (refused.status, brief(json_of(refused))) == (503, error(7, INTERNAL))
            assert refused.headers["retry-after"] == "5"
            assert place.manager.statistics().refused == {"ShuttingDown": 1}
            assert brief(await client.post(request(2, "echo"))) == error(2, INTERNAL)
            server.may_answer.set()
            assert await response.json() == result(1)


# The server's own life, and what is not HTTP.


async def test_the_lifespan_is_the_managers_business() -> None:
    async with site() as place:
        sent: list[Any] = []
        coming = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, Any]:
            return {"type": next(coming)}

        async def send(message: Any) -> None:
            sent.append(message)

        client, _ = await place.open()
        await place.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
        assert sent == [
            {"type": "lifespan.startup.complete"},
            {"type": "lifespan.shutdown.complete"},
        ]
        assert await works(client)


async def test_websockets_are_not_spoken() -> None:
    async with site() as place:
        with pytest.raises(NotImplementedError, match="websocket"):
            await place.app({"type": "websocket", "path": "/mcp"}, never, never)


async def test_the_repr_of_an_endpoint_names_path_and_manager() -> None:
    async with serving(Server().router) as manager:
        assert repr(http_app(manager)) == "<Endpoint '/mcp' of <SessionManager: 0 sessions>>"
        assert repr(http_app(manager, path=None)).startswith("<Endpoint None of")
