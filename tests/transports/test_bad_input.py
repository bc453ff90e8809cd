"""Bad input over a real pipe: one process gets it all, one after the other, and continues.

Each gets what section 16 of the checklist says, is counted in the session's metrics, and the next
well-formed request is answered.
"""

from __future__ import annotations

from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import brief, cancelled, error, initialize, notification, request, result
from tests.transports.processes import ServerProcess, started

PARSE, INVALID, PARAMS, INTERNAL = -32700, -32600, -32602, -32603
DEEP = 10_000


@attrs.frozen
class Bad:
    """Something bad, and what comes of it."""

    what: str
    sent: Any
    answers: list[Any] = attrs.field(factory=list)
    bad: int = 1


BEFORE_THE_HANDSHAKE = [
    Bad("a request before initialize", request(5, "tools/list"), [error(5, PARAMS)]),
    Bad("the same, of the session itself", request(5, "logging/setLevel"), [error(5, PARAMS)]),
    Bad("not JSON, even now", b"{", [error(None, PARSE)]),
    Bad("a batch, even now", [request(5, "ping")], [error(None, INVALID)]),
    Bad("initialize without parameters", request(5, "initialize"), [error(5, PARAMS)]),
    Bad("a cancellation, even now", cancelled("hello"), bad=0),
    Bad("a notification, even now", notification("notifications/initialized"), bad=0),
]

IN_THE_SESSION = [
    Bad("not JSON", b"GET / HTTP/1.1\r", [error(None, PARSE)]),
    Bad("half of a message", b'{"jsonrpc":"2.0","id":5,"met', [error(None, PARSE)]),
    Bad("most of a message", b'{"jsonrpc":"2.0","id":5,"method":"ping"', [error(5, PARSE)]),
    Bad("bad UTF-8", b'{"jsonrpc":"2.0","id":5,"method":"\xff\xfe"}', [error(5, PARSE)]),
    Bad(
        "bad UTF-8 in an id", b'{"jsonrpc":"2.0","id":"\xc3","method":"ping"}', [error(None, PARSE)]
    ),
    Bad("5 MiB", request(5, "ping", {"x": "y" * 5 * 2**20}), [error(5, PARSE)]),
    Bad(
        "5 MiB, with the id at the end, as official clients write it",
        b'{"method":"ping","params":{"x":"%b"},"jsonrpc":"2.0","id":5}' % (b"y" * 5 * 2**20),
        [error(5, PARSE)],
    ),
    Bad("5 MiB of nothing", b"y" * 5 * 2**20, [error(None, PARSE)]),
    Bad("a response of 5 MiB", result(1, {"x": "y" * 5 * 2**20})),
    Bad("a notification of 5 MiB", notification("notifications/x", {"x": "y" * 5 * 2**20})),
    Bad(
        "10,000 deep",
        b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":%b%b}}'
        % (b"[" * DEEP, b"]" * DEEP),
        [error(5, INVALID)],
    ),
    Bad("10,000 deep, and nothing else", b"[" * DEEP + b"]" * DEEP, [error(None, INVALID)]),
    Bad("10,000 deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, [error(None, INVALID)]),
    Bad(
        "a lone surrogate",
        b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"\\ud800"}}',
        [result(5)],
        bad=0,
    ),
    Bad(
        "a byte order mark", b'\xef\xbb\xbf{"jsonrpc":"2.0","id":5,"method":"ping"}', [result(5)], 0
    ),
    Bad("params null", request(5, "ping", {}) | {"params": None}, [result(5)], 0),
    Bad("NUL bytes", b"\0\0\0", [error(None, PARSE)]),
    Bad("a NUL in the middle", b'{"jsonrpc":"2.0","id":5,\0"method":"ping"}', [error(None, PARSE)]),
    Bad("id null", request(None, "ping"), [error(None, INVALID)]),
    Bad("id true", request(True, "ping"), [error(None, INVALID)]),
    Bad("id 1.5", request(1.5, "ping"), [error(None, INVALID)]),
    Bad("id an object", request({"a": 1}, "ping"), [error(None, INVALID)]),
    Bad("a batch where none may be", [request(5, "ping")], [error(None, INVALID)]),
    Bad("an empty batch", [], [error(None, INVALID)]),
    Bad("no method", {"jsonrpc": "2.0", "id": 5}, [error(5, INVALID)]),
    Bad("params a string", request(5, "ping", "text"), [error(5, INVALID)]),
    Bad("jsonrpc 1.0", {"jsonrpc": "1.0", "id": 5, "method": "ping"}, [error(5, INVALID)]),
    Bad("a second initialize", initialize(5), [error(5, INVALID)]),
    Bad("a cancellation of nothing", cancelled(12345), bad=0),
    Bad("a cancellation of initialize", cancelled("hello"), bad=0),
    Bad("a cancellation of another session's request", cancelled(77), bad=0),
    Bad("a cancellation without an id", notification("notifications/cancelled"), bad=0),
    Bad("a reply nobody asked for", result(5)),
    Bad("an error nobody asked for", {**error(5, 1), "error": {"code": 1, "message": "no"}}),
    Bad("a malformed notification", {"jsonrpc": "2.0", "method": 5}),
    Bad("control characters in a method", request(5, "\x1b[31m\r\n"), [error(5, -32601)], bad=0),
    Bad("an unknown notification", notification("notifications/\x1b[31m"), bad=0),
]


async def assert_answered(server: ServerProcess, item: Bad, number: int) -> None:
    """Send something bad; it is answered as it should be, and so is the ping behind it."""
    await server.send(item.sent, request(f"after {number}", "ping"))
    answers = [brief(await server.receive()) for _ in (*item.answers, "pong")]
    # What the application answers comes after the pong, all else before.
    assert sorted(answers, key=str) == sorted(
        [*item.answers, result(f"after {number}")], key=str
    ), item.what


async def test_bad_input_over_a_real_pipe() -> None:
    async with started("serve", {"cleanup": {"drain_grace": 0}}) as server:
        bad = messages = 0
        for number, item in enumerate(BEFORE_THE_HANDSHAKE):
            await assert_answered(server, item, number)
            bad += item.bad
            messages += 2

        # An unknown version is not bad input: the latest one is offered.
        await server.send(initialize("hello", "2042-01-01"))
        assert (await server.receive())["result"]["protocolVersion"] == "2025-11-25"
        counted = await server.call("m", "metrics")
        assert counted["bad_input"] == bad
        assert counted["messages_received"] == messages + 2

        for number, item in enumerate(IN_THE_SESSION):
            before = await server.call("m", "metrics")
            await assert_answered(server, item, number)
            after = await server.call("m", "metrics")
            assert after["bad_input"] - before["bad_input"] == item.bad, item.what
            assert after["messages_received"] - before["messages_received"] == 3, item.what
            errors = [one for one in item.answers if "error" in one]
            assert after["errors"] - before["errors"] == len(errors), item.what
            assert after["cancelled"] == 0
            bad += item.bad

        # The other session's request is still in flight.
        other = await server.call("m", "elsewhere")
        assert (other["in_flight"], other["cancelled"], other["bad_input"]) == (1, 0, 0)

        # Two requests in flight with one id: the second is refused, the first unaffected.
        await server.send(request(9, "wait", {"for": "one"}), request(9, "wait", {"for": "two"}))
        assert brief(await server.receive()) == error(9, INVALID)
        assert (await server.call("m", "metrics"))["bad_input"] == bad + 1
        await server.send(notification("notifications/release", {"for": "one"}))
        assert await server.receive() == result(9, {"waited": "one"})

        # The end in the middle of a line: the last thing that is counted and answered.
        await server.send_raw(b'{"jsonrpc":"2.0","id":5,"method":"pi')
        await server.close_stdin()
        assert [brief(one) for one in await server.rest()] == [error(None, PARSE)]
        status, _ = await server.wait()
    assert status == 0
    assert {one["transport"]: one["reason"] for one in server.reports()} == {
        "stdio": "client closed",
        "memory": "shutdown",
    }
    (mine,) = (one for one in server.reports() if one["transport"] == "stdio")
    assert mine["bad_input"] == bad + 2
    assert (mine["in_flight"], mine["queued"]) == (0, 0)
    # Nothing that a peer sent reached a log.
    assert [line for line in server.complaints.splitlines() if not line.startswith("{")] == []


async def test_a_peer_that_closes_its_read_end() -> None:
    async with started() as server:
        await server.establish()
        await server.close_stdout()
        # It need not write to find out.
        status, (report,) = await server.wait()
        assert status == 0
        assert report["reason"] == "client closed"
        await server.close_stdin()


async def test_a_peer_that_stops_reading() -> None:
    settings: dict[str, dict[str, float]] = {
        "limits": {"max_output": 1000},
        "cleanup": {"send_timeout": 0.2},
    }
    async with started("run", settings) as server:
        await server.establish()
        assert await server.ask(0, "ping") == result(0)
        # More than a pipe holds. It is never read, so the session ends, in its own time.
        for number in range(5):
            await server.send(
                request(number, "tools/call", {"name": "many", "arguments": {"size": 100_000}})
            )
        status, (report,) = await server.wait()
        assert status == 0
        assert report["reason"] == "unresponsive"
        await server.close_stdin()


async def test_a_peer_that_reads_again() -> None:
    async with started("run", {"limits": {"max_output": 1000}}) as server:
        await server.establish()
        calls = [
            request(number, "tools/call", {"name": "many", "arguments": {"size": 100_000}})
            for number in range(20)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, *calls)
            await wait_all_tasks_blocked(0.01)
            # Slow is not gone: every answer is there, whole and once.
            answers = [await server.receive() for _ in calls]
        assert sorted(one["id"] for one in answers) == list(range(20))
        assert {len(one["result"]["content"][0]["text"]) for one in answers} == {100_000}
        await server.close_stdin()
        status, (report,) = await server.wait()
        assert (status, report["reason"]) == (0, "client closed")
