"""What a client should see of the server, and where the libraries differ.

Only what `DIFFERENCES` and `CLIENT_DIFFERENCES` say may be seen instead, and it must be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import attrs

from tests.interop.everything.libraries import FASTMCP, HTTP, LIBRARIES, MCP, TRANSPORTS
from tests.interop.everything.watching import HOME, LEGACY, MODERN, NOTES, Seen

TEXT: Final = {"type": "string"}
NUMBER: Final = {"type": "number"}
INTEGER: Final = {"type": "integer"}
GIF: Final = "R0lGODdhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
ICON: Final = "https://example.com/icon.png"
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
RESOURCE_NOT_FOUND: Final = -32002


def struct(*required: str, **fields: object) -> dict[str, Any]:
    """Return the schema of an object."""
    schema: dict[str, Any] = {"type": "object", "properties": fields}
    return {**schema, "required": list(required)} if required else schema


def value(kind: object) -> dict[str, Any]:
    """Return the schema of a result that is a plain value."""
    return struct("result", result=kind)


def text(shown: str) -> dict[str, str]:
    return {"type": "text", "text": shown}


def result(shown: str, structured: object) -> dict[str, Any]:
    """Return the result of a tool that returns some value."""
    return {"content": [text(shown)], "structured": {"result": structured}, "error": False}


def error(shown: str) -> dict[str, Any]:
    """Return the result of a tool that failed."""
    return {"content": [text(shown)], "structured": None, "error": True}


def expected(revision: str) -> Seen:
    """Return what a client of a revision should see."""
    form = {
        "message": "A table for how many?",
        "schema": struct("name", name=TEXT, seats=INTEGER | {"default": 2}),
    }
    return {
        "server": ("everything", "Everything", "https://example.com", [ICON]),
        "server: version": "0",
        "capabilities": {
            "completions": {},
            "logging": {},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "tools": {"listChanged": True},
        },
        "tool divide": (
            "Divide two numbers.",
            struct(
                *("a", "b"),
                a=NUMBER,
                b=NUMBER | {"description": "Not 0"},
                by=TEXT | {"enum": ["/", "//"], "default": "/"},
            ),
            value(NUMBER),
        ),
        "tool status": (
            "Count the calls of tools, in a thread.",
            struct(),
            struct("calls", "in_thread", calls=INTEGER, in_thread={"type": "boolean"}),
        ),
        "tool attachments": ("Return an image, a resource and a link.", struct(), None),
        "tool countdown": (
            "Report progress and log messages.",
            struct("steps", steps=INTEGER),
            value(TEXT),
        ),
        "tool book": ("Book a table, for the user to fill in.", struct(), value(TEXT)),
        "tool summarise": (
            "Let the client's model summarise a text.",
            struct("text", text=TEXT),
            value(TEXT),
        ),
        "tool add_note": (
            "Write a note.",
            struct("topic", "text", topic=TEXT, text=TEXT),
            value(TEXT),
        ),
        "tool text_shout": ("Write a text in capitals.", struct("text", text=TEXT), value(TEXT)),
        "resource about:server": ("about", None, None),
        "resource pixel:red": ("pixel", None, "image/gif"),
        f"resource {NOTES}": ("notes", None, None),
        "prompt review": (None, [("code", None, True), ("language", None, False)]),
        "divide": result("3.0", 3.0),
        "divide: an error for the model": error("b must not be 0"),
        "divide: wrong arguments": (True, True),
        "attachments": {
            "content": [
                {"type": "image", "data": GIF, "mimeType": "image/gif"},
                {"type": "resource", "resource": {"uri": "about:text", "text": "Embedded."}},
                {"type": "resource_link", "uri": "pixel:red", "name": "pixel"},
            ],
            "structured": None,
            "error": False,
        },
        "text_shout": result("HI", "HI"),
        "a tool that does not exist": {"code": INVALID_PARAMS},
        "countdown": result("lift-off", "lift-off"),
        "countdown: progress": [(1.0, 2.0, "step 1"), (2.0, 2.0, "step 2")],
        "countdown: log": [("info", "logged 1"), ("info", "logged 2")],
        "book: accepted": result("accept: 3", "accept: 3"),
        "book: declined": result("decline: None", "decline: None"),
        "book: form": [form, form],
        "summarise": result("short", "short"),
        "summarise: question": [([("user", "Summarise: long")], 100)],
        "status: calls in between": 10,
        "status: in a thread": True,
        "subscribe": None,
        "add_note": result("written", "written"),
        "updates": [HOME, HOME],
        "read about:server": [
            {"uri": "about:server", "mimeType": "text/plain", "text": "A server with everything."}
        ],
        "read pixel:red": [{"uri": "pixel:red", "mimeType": "image/gif", "blob": GIF}],
        f"read {HOME}": [{"uri": HOME, "mimeType": "text/plain", "text": "milk\nbread"}],
        f"read {HOME}?limit=1": [
            {"uri": f"{HOME}?limit=1", "mimeType": "text/plain", "text": "milk"}
        ],
        "a resource that does not exist": (
            RESOURCE_NOT_FOUND if revision == LEGACY else INVALID_PARAMS
        ),
        "complete topic": ["home", "holidays"],
        "complete language": ["python"],
        "review": [
            ("user", text("Review this rust: x = 1")),
            ("assistant", text("I see a problem.")),
        ],
    }


@final
@attrs.frozen
class Difference:
    """What a client sees of the server on one library, other than expected."""

    library: str
    what: str
    seen: Any
    reason: str
    revisions: Sequence[str] = (LEGACY, MODERN)


def _capabilities(*, changes: bool, subscribe: bool, **more: object) -> dict[str, Any]:
    told = {"listChanged": changes}
    resources = told | {"subscribe": subscribe}
    return {"completions": {}, "prompts": told, "resources": resources, "tools": told, **more}


_NO_SUBSCRIPTIONS: Final = "FastMCP has no subscriptions (PrefectHQ/fastmcp, issue 3641)"
_LANGUAGE_OF_FASTMCP: Final = (
    "Provide a value matching the following JSON schema:"
    ' {"enum":["python","rust"],"type":"string"}. Encode non-string values as JSON.'
)
_TO_THE_CALLER: Final = "it is sent to the client that made the change, subscribed or not"
_GUESSED: Final = (
    "what a function returns is not known before it is called: the server assumes text"
)
_NO_QUESTIONS: Final = (
    "FastMCP asks in sessions only; from 2026-07-28 on a tool must return the question itself, and"
    " be written to be called again"
)
_CANNOT_ASK: Final = error(
    "elicitation via server-initiated requests is unavailable on 2026-07-28 connections."
)
_UNKNOWN_TOOL: Final = (
    "the specification has a JSON-RPC error for unknown tools (Tools, Error Handling); here it is a"
    " result that the model can see"
)
_ONE_NUMBER: Final = "the number that 2026-07-28 brought, also for clients that know another one"

DIFFERENCES: Final[Sequence[Difference]] = [
    # The official SDK.
    Difference(MCP, "server: version", "", "the default"),
    Difference(
        MCP,
        "capabilities",
        _capabilities(changes=False, subscribe=False),
        "without subscriptions/listen it offers no notifications of changes; log messages are sent"
        " without a capability, at all levels",
        [LEGACY],
    ),
    Difference(
        MCP,
        "capabilities",
        _capabilities(changes=True, subscribe=True),
        "log messages are sent without a capability",
        [MODERN],
    ),
    Difference(MCP, "resource about:server", ("about", "", "text/plain"), _GUESSED),
    Difference(MCP, "resource pixel:red", ("pixel", "", "image/gif"), "no description is empty"),
    Difference(MCP, f"resource {NOTES}", ("notes", "", "text/plain"), _GUESSED),
    Difference(
        MCP,
        "prompt review",
        ("", [("code", None, True), ("language", None, False)]),
        "no description is empty",
    ),
    Difference(
        MCP,
        "divide: an error for the model",
        error("Error executing tool divide: b must not be 0"),
        "the text has a prefix that names the tool",
    ),
    Difference(MCP, "a tool that does not exist", error("Unknown tool: missing"), _UNKNOWN_TOOL),
    Difference(
        MCP,
        "status: calls in between",
        13,
        "a call that asks is a new request after each answer, and middleware sees each of them",
        [MODERN],
    ),
    Difference(
        MCP,
        "subscribe",
        METHOD_NOT_FOUND,
        "MCPServer has no resources/subscribe: only the Server below it can have",
        [LEGACY],
    ),
    Difference(MCP, "updates", [HOME, HOME, "notes://work"], _TO_THE_CALLER, [LEGACY]),
    Difference(MCP, "a resource that does not exist", INVALID_PARAMS, _ONE_NUMBER, [LEGACY]),
    # FastMCP.
    Difference(
        FASTMCP,
        "server",
        ("everything", None, "https://example.com", [ICON]),
        "FastMCP has no title of the server",
    ),
    Difference(FASTMCP, "server: version", "4.2.3", "the default is FastMCP's own"),
    Difference(
        FASTMCP,
        "capabilities",
        _capabilities(changes=True, subscribe=False, logging={}),
        _NO_SUBSCRIPTIONS,
        [LEGACY],
    ),
    Difference(
        FASTMCP,
        "capabilities",
        _capabilities(
            changes=False,
            subscribe=False,
            logging={},
            extensions={"io.modelcontextprotocol/ui": {}},
        ),
        f"{_NO_SUBSCRIPTIONS}, and always offers the extension for user interfaces",
        [MODERN],
    ),
    Difference(FASTMCP, "resource about:server", ("about", None, "text/plain"), _GUESSED),
    Difference(FASTMCP, f"resource {NOTES}", ("notes", None, "text/plain"), _GUESSED),
    Difference(
        FASTMCP,
        "prompt review",
        (
            None,
            [
                ("code", None, True),
                (
                    "language",
                    _LANGUAGE_OF_FASTMCP,
                    False,
                ),
            ],
        ),
        "the schema of an argument is told in its description",
    ),
    Difference(
        FASTMCP, "a tool that does not exist", error("Unknown tool: 'missing'"), _UNKNOWN_TOOL
    ),
    Difference(
        FASTMCP,
        "countdown: log",
        [("info", {"msg": f"logged {step}", "extra": None}) for step in (1, 2)],
        "messages are objects, with a place for more",
    ),
    Difference(FASTMCP, "book: accepted", _CANNOT_ASK, _NO_QUESTIONS, [MODERN]),
    Difference(FASTMCP, "book: declined", _CANNOT_ASK, _NO_QUESTIONS, [MODERN]),
    Difference(FASTMCP, "book: form", [], _NO_QUESTIONS, [MODERN]),
    Difference(
        FASTMCP,
        "summarise",
        error(
            "Error calling tool 'summarise': Cannot send 'sampling/createMessage': this transport"
            " context has no back-channel for server-initiated requests."
        ),
        _NO_QUESTIONS,
        [MODERN],
    ),
    Difference(FASTMCP, "summarise: question", [], _NO_QUESTIONS, [MODERN]),
    Difference(FASTMCP, "subscribe", METHOD_NOT_FOUND, _NO_SUBSCRIPTIONS),
    Difference(FASTMCP, "updates", [HOME, HOME, "notes://work"], _TO_THE_CALLER),
    Difference(FASTMCP, "a resource that does not exist", INVALID_PARAMS, _ONE_NUMBER, [LEGACY]),
]


def differences(library: str, revision: str) -> Seen:
    """Return what a client of a revision sees of a library, other than expected."""
    return {
        one.what: one.seen
        for one in DIFFERENCES
        if one.library == library and revision in one.revisions
    }


@final
@attrs.frozen
class ClientDifference:
    """What a client itself makes of what servers send."""

    client: str
    what: str
    seen: Any
    reason: str
    transports: Sequence[str] = TRANSPORTS
    libraries: Sequence[str] = tuple(LIBRARIES)
    """The libraries whose servers send it."""


_DOES_NOT_ASK: Final = "a client that is told the revision does not ask the server what it is"
_PINNED: Final = f"python, {MODERN}"

CLIENT_DIFFERENCES: Final[Sequence[ClientDifference]] = [
    ClientDifference(_PINNED, "server", None, _DOES_NOT_ASK),
    ClientDifference(_PINNED, "server: version", None, _DOES_NOT_ASK),
    ClientDifference(_PINNED, "capabilities", {}, _DOES_NOT_ASK),
    ClientDifference(
        "typescript 2, legacy",
        "a resource that does not exist",
        INVALID_PARAMS,
        "the client makes one error of both numbers (ProtocolError.fromError)",
    ),
    *(
        ClientDifference(
            client,
            "subscribe",
            "CLIENT_HTTP_NOT_IMPLEMENTED",
            "an unknown method has status 404, and the client reads errors of status 400 only",
            [HTTP],
            [FASTMCP],
        )
        for client in ("typescript 2, auto", "typescript 2, 2026-07-28")
    ),
]


def client_differences(client: str, library: str, transport: str) -> Seen:
    """Return what a client makes of a library over a transport, other than expected."""
    return {
        one.what: one.seen
        for one in CLIENT_DIFFERENCES
        if one.client == client and transport in one.transports and library in one.libraries
    }
