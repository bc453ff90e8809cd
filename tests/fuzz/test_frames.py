"""JSON-RPC frames: each request whose id can be read gets one answer, and nothing ends.

What a line holds is decided by Python's `json`, which the library does not use. Lines that this
refuses, or takes although RFC 8259 or the limits do not, are counted as unreadable: they may be
answered, with an id that stands in them or without one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests import strategies
from tests.fuzz.corpus import CORPUS, HELLO, frame
from trio_mcp_session import (
    RequestContext,
    Router,
    SessionLimits,
    SessionState,
    ToolError,
    open_session_manager,
    serve_stream,
)
from trio_mcp_session.core.config import SessionConfig

LIMITS: Final = SessionLimits(max_message_size=20_000, max_nesting=64)
SURROGATE: Final = re.compile("[\ud800-\udfff]")
LAST: Final = "the last"
MAYBE: Final = frozenset({"subscriptions/listen"})
"""Requests that are answered when what they began is over."""

router = Router("fuzzed", "1.0", resource_subscriptions=True)


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    return text


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ToolError("it always fails")


class Key:
    """An id with its type: 1 and "1" are two, and so are 1 and true."""

    @staticmethod
    def of(value: object) -> str | None:
        """Return what to count; None for a value that cannot be an id."""
        if isinstance(value, str):
            return f"text {value}"
        if isinstance(value, int) and not isinstance(value, bool):
            return f"number {value}"
        return None


def refuse_constant(name: str) -> Any:
    raise ValueError(name)


def depth_of(text: str) -> int:
    """Return an upper bound of the nesting, which does not look at strings."""
    return max(text.count("[") + text.count("{"), 0)


class Expected:
    """What has to come for some lines, and what may."""

    def __init__(self, lines: Iterable[bytes], *, batches: bool) -> None:
        self.must: Counter[str] = Counter()
        self.may: set[str] = set()
        self.unreadable: list[str] = []
        for line in lines:
            self._add_line(line, batches=batches)

    def _add_line(self, line: bytes, *, batches: bool) -> None:
        try:
            text = line.decode()
            value = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            self.unreadable.append(line.decode(errors="replace"))
            return
        if (
            depth_of(text) > LIMITS.max_nesting
            or len(line) > LIMITS.max_message_size
            or SURROGATE.search(json.dumps(value, ensure_ascii=False))
        ):
            self.unreadable.append(text)
        elif isinstance(value, list) and batches:
            self._add_batch(text, value)
        else:
            self._add_message(value)

    def _add_batch(self, text: str, messages: list[Any]) -> None:
        initializes = [
            one for one in messages if isinstance(one, dict) and one.get("method") == "initialize"
        ]
        if initializes or not messages or len(messages) > LIMITS.max_batch:
            self.unreadable.append(text)
        else:
            for one in messages:
                self._add_message(one)

    def _add_message(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        key = Key.of(message.get("id"))
        if message.get("method") == "notifications/cancelled":
            params = message.get("params")
            named = Key.of(params.get("requestId")) if isinstance(params, dict) else None
            self.may |= {named} if named else set()
        if key is None:
            return
        response = "result" in message or "error" in message
        if response or message.get("method") in MAYBE:
            self.may.add(key)
        else:
            self.must[key] += 1

    def check(self, answers: Iterable[Any]) -> None:
        came: Counter[str] = Counter()
        for answer in answers:
            assert ("result" in answer) != ("error" in answer), answer
            key = Key.of(answer.get("id"))
            if key is None:
                assert "error" in answer, answer
                assert "id" not in answer or answer["id"] is None, answer
            else:
                came[key] += 1
        for key in came.keys() | self.must.keys():
            if key in self.may or self._may_stand_in_unreadable(key):
                continue
            assert came[key] == self.must[key], (key, came, self.must)

    def _may_stand_in_unreadable(self, key: str) -> bool:
        value = key.partition(" ")[2]
        return any(value in text or json.dumps(value)[1:-1] in text for text in self.unreadable)


def messages_of(data: bytes) -> Iterator[Any]:
    """Return what a server has said, outside of batches or in them, without its notifications."""
    for line in data.splitlines():
        value = json.loads(line)
        for message in value if isinstance(value, list) else [value]:
            if "method" not in message:
                yield message


async def converse(revision: str, sent: bytes) -> list[Any]:
    """Send bytes in a session, and a ping behind them; return the answers before its answer."""
    config = SessionConfig(limits=LIMITS)
    async with (
        open_session_manager(router, config=config) as manager,
        trio.open_nursery() as nursery,
    ):
        client, server = memory_stream_pair()
        nursery.start_soon(serve_stream, manager, server)
        hello = frame(id=LAST, method="initialize", params=HELLO | {"protocolVersion": revision})
        await client.send_all(hello + b"\n" + frame(method="notifications/initialized") + b"\n")
        await client.receive_some()
        (session,) = manager.sessions()
        await client.send_all(sent + b"\n")
        await wait_all_tasks_blocked()
        await client.send_all(frame(id=LAST, method="ping") + b"\n")
        await wait_all_tasks_blocked()
        said = bytes(await client.receive_some())
        *answers, last = messages_of(said)
        assert last == {"jsonrpc": "2.0", "id": LAST, "result": {}}
        assert session.state in {SessionState.ACTIVE, SessionState.IDLE}
        await client.aclose()
    return answers


def check(revision: str, sent: bytes) -> None:
    answers = trio.run(converse, revision, sent, clock=MockClock(autojump_threshold=0))
    Expected(sent.split(b"\n"), batches=revision == "2025-03-26").check(answers)


lines = st.one_of(
    strategies.frames,
    st.sampled_from(CORPUS),
    strategies.mutated(st.sampled_from(CORPUS)),
    st.tuples(st.sampled_from(CORPUS), st.sampled_from(CORPUS), st.floats(0, 1)).map(
        lambda two: two[0][: int(len(two[0]) * two[2])] + two[1][int(len(two[1]) * two[2]) :]
    ),
)
"""Whatever a peer may send, frames that clients send, damaged ones, and two halves of such."""

revisions = st.sampled_from(["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])


@given(revisions, st.lists(lines, min_size=1, max_size=6))
def test_each_readable_request_gets_one_answer_and_nothing_ends(
    revision: str, sent: list[bytes]
) -> None:
    check(revision, b"\n".join(sent))


@given(revisions, st.lists(lines, min_size=1, max_size=4).map(b"\n".join), st.binary(max_size=8))
def test_the_same_with_bytes_put_in_anywhere(revision: str, sent: bytes, more: bytes) -> None:
    check(revision, sent[: len(sent) // 2] + more + sent[len(sent) // 2 :])


HARD = {
    "half an emoji": frame(id="it", method="ping", params={"x": "\ud83d"}),
    "a message that is too large": frame(id="it", method="ping", params={"x": "x" * 30_000}),
    "the same with the id at its end": b'{"jsonrpc":"2.0","method":"ping","params":{"x":"%b"},'
    b'"id":"it"}' % (b"x" * 30_000),
    "a byte order mark": b"\xef\xbb\xbf" + frame(id="it", method="ping"),
    "deep nesting": b'{"jsonrpc":"2.0","id":"it","method":"ping","params":{"x":%b%b}}'
    % (b"[" * 100, b"]" * 100),
}


@pytest.mark.parametrize("name", HARD)
def test_what_cannot_be_decoded_is_refused_with_its_id(name: str) -> None:
    answers = trio.run(converse, "2025-11-25", HARD[name], clock=MockClock(autojump_threshold=0))
    assert [answer.get("id") for answer in answers] == ["it"]
