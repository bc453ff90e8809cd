"""Headers of 2026-07-28 that repeat parts of a message: served if and only if they agree.

The rules are written down here a second time, from the specification (*Streamable HTTP* and
*Tools*): from the headers to the values, without anything of the library.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from fractions import Fraction
from typing import Any, Final

import trio
from hypothesis import given, note, strategies as st
from trio.testing import MockClock

from tests.fuzz.corpus import ENVELOPE
from tests.transports.http.asgi_client import Client
from trio_mcp_session import Router, http_app, open_session_manager

Headers = list[tuple[str, bytes]]
NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
MARKED: Final = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)

router = Router("fuzzed", "1.0")
DECLARED: Final = {"region": "Region", "count": "Count", "dry": "Dry-Run"}
SCHEMA: Final = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
    },
}


@router.tool("place", input_schema=SCHEMA)
async def place(arguments: dict[str, Any]) -> str:
    return "served"


@router.tool("plätze")
async def places() -> str:
    return "served"


# The rules


def decoded(raw: bytes) -> str | None:
    """Return what a header value says; None if it must not be there."""
    text = raw.strip(b" \t").decode("latin-1")
    if any(not (c == "\t" or " " <= c <= "~") for c in text):
        return None
    marked = MARKED.fullmatch(text)
    if marked is None:
        return None if text == "=?base64?=" else text
    try:
        data = base64.b64decode(marked[1], validate=True)
        plain = data.decode()
    except (binascii.Error, ValueError):
        return None
    return plain if base64.b64encode(data).decode() == marked[1] else None


def agrees(raw: bytes | None, value: object) -> bool:
    """Return whether a header, or its absence, says the same as a value."""
    if value is None or raw is None:
        return value is raw
    text = decoded(raw)
    if text is None:
        return False
    if isinstance(value, bool):
        return text == json.dumps(value)
    if isinstance(value, int):
        return NUMBER.fullmatch(text) is not None and Fraction(text) == value
    return text == value


def should_be_served(headers: Headers, tool: str, arguments: dict[str, Any]) -> bool:
    found: dict[str, bytes] = {}
    for name, raw in headers:
        if name in found and not name.startswith("mcp-param-"):
            return False
        # One that comes twice is a list (RFC 9110, 5.3).
        found[name] = found[name] + b", " + raw if name in found else raw
    plain = {name: raw.strip(b" \t") for name, raw in found.items()}
    return (
        plain.get("mcp-protocol-version") == b"2026-07-28"
        and plain.get("mcp-method") == b"tools/call"
        and agrees(found.get("mcp-name"), tool)
        and (
            tool != "place"
            or all(
                agrees(found.get(f"mcp-param-{header.lower()}"), arguments.get(name))
                for name, header in DECLARED.items()
            )
        )
    )


# What is sent


def written(value: object) -> bytes:
    """Write a value as a client should."""
    text = value if isinstance(value, str) else json.dumps(value)
    marked = b"=?base64?" + base64.b64encode(text.encode()) + b"?="
    plain = all(" " <= c <= "~" for c in text) and text.strip(" ") == text
    return text.encode() if plain and not text.startswith("=?base64?") else marked


def in_base64(value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", " a", "a ", "=?base64?YQ==?=", "=?base64?=", "é", "true", "1", "\t"]),
)
ODD: Final = [
    *(b"=?base64?YQ==?=", b"=?base64?YQ?=", b"=?base64?YR==?=", b"=?BASE64?YQ==?="),
    *(b"=?base64?=", b"=?base64??=", b"=?base64?//8=?=", b"=?base64?Y Q==?=", b"=?base64?YQ==\n?="),
    *(b"", b"null", b"true", b"True", b"1", b"1.0", b"01", b"+1", b"1_0", b"1e0", b"0x1", b"\xe9"),
    *(b"\xc3\xa9", b"a, a", b"1e400", b"-0", b"\x00", b"a\x7f"),
]

arguments_of = st.fixed_dictionaries(
    {},
    optional={
        "region": st.none() | texts,
        "count": st.none() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
        "dry": st.none() | st.booleans(),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Headers, str, dict[str, Any]]:
    """Draw a call with its headers, after some accidents."""
    tool = draw(st.sampled_from(["place", "place", "plätze"]))
    arguments = draw(arguments_of) if tool == "place" else {}
    write = draw(st.sampled_from([written, written, in_base64]))
    headers: Headers = [
        ("mcp-protocol-version", b"2026-07-28"),
        ("mcp-method", b"tools/call"),
        ("mcp-name", write(tool)),
    ]
    headers += [
        (f"mcp-param-{DECLARED[name].lower()}", write(value))
        for name, value in arguments.items()
        if value is not None
    ]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(headers) - 1))
        name, raw = headers[at]
        headers[at : at + 1] = draw(
            st.sampled_from(
                [
                    [],
                    [(name, raw), (name, raw)],
                    [(name, b" \t" + raw + b"  ")],
                    [(name, raw.swapcase())],
                    [(name, raw[:-1])],
                    [(name, raw + b"\xa0")],
                    [(name, in_base64(raw.decode("latin-1")))],
                    [(name, draw(st.sampled_from(ODD)))],
                    [(name, raw), ("mcp-param-other", b"1")],
                    [(name, raw), ("mcp-param-region", draw(st.sampled_from(ODD)))],
                ]
            )
        )
        if not headers:
            break
    return headers, tool, arguments


async def send(headers: Headers, tool: str, arguments: dict[str, Any]) -> tuple[int, Any]:
    async with open_session_manager(router) as manager:
        client = Client(http_app(manager), {"host": "127.0.0.1"})
        params = {"name": tool, "arguments": arguments, "_meta": ENVELOPE}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        more = [(name.encode(), raw) for name, raw in headers]
        async with client.stream(json=message, more_headers=more) as response:
            await response.started()
            return response.status, await response.json()


@given(requests())
def test_a_call_is_served_if_and_only_if_its_headers_agree(
    request: tuple[Headers, str, dict[str, Any]],
) -> None:
    status, answer = trio.run(send, *request, clock=MockClock(autojump_threshold=0))
    note(f"{status} {answer}")
    if should_be_served(*request):
        assert status == 200
        assert answer["result"]["content"][0]["text"] == "served"
    else:
        assert status == 400
        assert answer["id"] == 1
        versions = [raw.strip(b" \t") for name, raw in request[0] if name == "mcp-protocol-version"]
        # Without a version of this era, or with another one, it is read as one of the other era.
        assert answer["error"]["code"] == -32020 or versions != [b"2026-07-28"]
