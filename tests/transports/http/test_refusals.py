"""Every refused request leaves a record: what was refused, and how to accept it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.helpers import initialize, request
from tests.transports.http.live import live
from tests.transports.http.site import bearer, site, token
from trio_mcp_session import HttpOptions, HttpServerLimits, SessionLimits
from trio_mcp_session.transports.asgi import Scope


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "trio_mcp_session.http")
    return caplog


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "trio_mcp_session.http"
    ]
    caplog.clear()
    return found


@attrs.frozen
class Case:
    """A request that is refused, and the record of it."""

    status: int
    level: str
    record: str
    headers: Mapping[str, str | None] = attrs.field(factory=dict)
    method: str = "POST"
    path: str = "/mcp"
    body: bytes | None = None


HOST = {"host": "notes.example.com"}
CASES = [
    Case(400, "WARNING", "notification is malformed", body=b"{}"),
    Case(400, "WARNING", "", body=b"{"),
    Case(
        403,
        "WARNING",
        "Host is not allowed (option of the server: allowed_hosts, --http-host): "
        "'notes.example.com'; to accept it: allowed_hosts, --http-host",
        HOST,
    ),
    Case(
        403,
        "WARNING",
        "Origin is not allowed (option of the server: allowed_origins, --http-origin): "
        "'https://app.example'; to accept it: allowed_origins, --http-origin",
        {"origin": "https://app.example"},
    ),
    Case(404, "INFO", "Not found; MCP is served at /mcp", path="/elsewhere"),
    Case(
        404,
        "INFO",
        "Session not found: 'of a s'; it has ended, or belongs to another process",
        {"mcp-session-id": "of a session that was"},
        method="DELETE",
    ),
    Case(405, "INFO", "Method not allowed; allowed: POST, GET, DELETE", method="PUT"),
    Case(
        405,
        "INFO",
        "Method not allowed: 'http://localhost:5173'; "
        "to accept its pages: allowed_origins, --http-origin",
        {"origin": "http://localhost:5173", "access-control-request-method": "POST"},
        method="OPTIONS",
    ),
    Case(
        406,
        "WARNING",
        "Not acceptable: the client must accept text/event-stream: 'text/html'",
        {"accept": "text/html"},
        method="GET",
    ),
    Case(
        413,
        "WARNING",
        "The request's body is larger than 1000 bytes: '1001'; "
        "to accept it: SessionLimits.max_message_size, --max-message-size",
        {"content-length": "1001"},
        body=b"x" * 1001,
    ),
    Case(
        415,
        "WARNING",
        "Content-Type must be application/json: 'text/plain'",
        {"content-type": "text/plain"},
    ),
]


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{at} {case.status}" for at, case in enumerate(CASES)]
)
async def test_a_refused_request_is_logged_once_with_the_reason(
    case: Case, records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(limits=SessionLimits(max_message_size=1000)) as place:
        for _ in range(3):
            answer = await place.client().request(
                case.method, headers=case.headers, path=case.path, body=case.body
            )
            assert answer.status == case.status
        ((level, record),) = told(records)
    assert level == case.level
    assert record.startswith(f"HTTP {case.status} for {case.method} {case.path} from 192.0.2.1: ")
    if case.record:
        assert record.endswith(f"192.0.2.1: {case.record}")


async def test_the_log_says_why_a_session_is_not_found(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(authenticate=bearer) as place:
        client, session = await place.open("ada")
        stranger = await client.request("DELETE", headers=token("ben"))
        nobody = await place.client().request("DELETE")
        assert (stranger.status, nobody.status) == (404, 401)
        # The client learns nothing of it, and the log contains no whole id.
        assert "another" not in (await stranger.read()).decode()
        assert told(records) == [
            (
                "INFO",
                (
                    f"HTTP 404 for DELETE /mcp from 192.0.2.1: Session not found: "
                    f"{session.session_id[:6]!r}; it belongs to another principal"
                ),
            ),
            ("INFO", "HTTP 401 for DELETE /mcp from 192.0.2.1: Authentication required"),
        ]


async def test_a_busy_server_says_which_limit_is_reached(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_sessions=1)
    async with site(limits=limits) as place:
        await place.open()
        assert (await place.client().request(json=initialize())).status == 503
        ((level, record),) = told(records)
        assert level == "WARNING"
        assert "HTTP 503" in record
        assert "limit: 1" in record


async def test_a_slow_body_is_logged(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(options=HttpOptions(body_timeout=5)) as place:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "headers": [(b"host", b"localhost")],
        }
        await place.app(scope, trio.sleep_forever, send)
        assert sent[0]["status"] == 408
    assert told(records) == [
        (
            "WARNING",
            (
                "HTTP 408 for POST /mcp: The request's body took too long; "
                "the option: HttpOptions.body_timeout"
            ),
        )
    ]


async def test_a_failed_authentication_hook_is_logged_with_its_traceback_only(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def broken(scope: Scope, headers: Mapping[str, str]) -> None:
        raise ValueError("no database")

    async with site(authenticate=broken) as place:
        assert (await place.client().request(json=initialize())).status == 500
    assert told(records) == []


async def test_the_own_server_logs_what_it_refuses(
    records: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    bind = ["127.0.0.1:0", f"unix:{tmp_path}/socket"]
    async with live(bind, limits=HttpServerLimits(max_header_size=200, max_body_size=300)) as it:
        tcp, local = it.served.addresses
        for address, data in [
            (tcp, b"\x16\x03\x01 hello\r\n\r\n"),
            (local, b"nonsense\r\n\r\n"),
            (tcp, b"GET /mcp HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 200),
            (
                tcp,
                (
                    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"not a number\r\n"
                ),
            ),
        ]:
            async with await it.connect(address) as wire:
                await wire.send(data)
                await wire.answer()
        assert told(records) == [
            ("WARNING", "HTTP 400 for a request from 127.0.0.1: the request line is malformed"),
            (
                "WARNING",
                (
                    "HTTP 431 for a request from 127.0.0.1: the head is too large; "
                    "the options of HttpServerLimits: max_header_size, max_headers"
                ),
            ),
            ("WARNING", "HTTP 400 for POST /mcp from 127.0.0.1: the size of a chunk is malformed"),
        ]
        assert it.manager.statistics().http_refused == {}


async def test_a_version_that_is_not_served_is_logged_as_info(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(eras="legacy") as place:
        client, _ = await place.open()
        answer = await client.request(
            json=request(1, "ping"), headers={"mcp-protocol-version": "2030-01-01"}
        )
        assert answer.status == 400
        ((level, record),) = told(records)
    assert level == "INFO"
    assert "2030-01-01" in record
