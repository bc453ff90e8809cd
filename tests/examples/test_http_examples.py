"""The examples that speak HTTP, run as their users run them."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from tests.examples.test_examples import HANG_GUARD, running

INITIALIZE = {
    "method": "initialize",
    "id": 0,
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@attrs.define(eq=False)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def result(self) -> Any:
        assert self.status == 200
        return json.loads(self.body)["result"]


@attrs.define(eq=False)
class HttpClient:
    """A client of the standard library, in threads, with a connection for each request."""

    url: str
    token: str | None = None
    session_id: str | None = None
    more: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Further headers."""

    async def ask(self, verb: str, **message: Any) -> Answer:
        return await trio.to_thread.run_sync(self._ask, verb, message, abandon_on_cancel=True)

    def _ask(self, verb: str, message: dict[str, Any]) -> Answer:
        connection, path = self._connect()
        try:
            body = json.dumps({"jsonrpc": "2.0", **message}) if message else None
            connection.request(verb, path, body, self._headers())
            response = connection.getresponse()
            # What is cut off in the middle raises here.
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        url = urlsplit(self.url)
        assert url.hostname is not None
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=HANG_GUARD)
        return connection, url.path

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **self.more,
        }
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.session_id is not None:
            headers["Mcp-Session-Id"] = self.session_id
        return headers

    async def open(self) -> None:
        answer = await self.ask("POST", **INITIALIZE)
        assert answer.status == 200
        self.session_id = answer.headers["Mcp-Session-Id"]
        accepted = await self.ask("POST", method="notifications/initialized")
        assert (accepted.status, accepted.body) == (202, b"")

    async def call(self, tool: str) -> Answer:
        params = {"name": tool, "arguments": {}}
        return await self.ask("POST", id=1, method="tools/call", params=params)


async def drained_with_an_open_stream(process: trio.Process, client: HttpClient) -> None:
    """SIGTERM: the stream has a proper end, and the program is over."""
    streams: list[Answer] = []
    opened = trio.Event()

    def listen() -> None:
        connection, path = client._connect()
        try:
            connection.request("GET", path, headers=client._headers())
            response = connection.getresponse()
            trio.from_thread.run_sync(opened.set)
            streams.append(Answer(response.status, response.headers, response.read()))
        finally:
            connection.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, listen)
        await opened.wait()
        process.send_signal(signal.SIGTERM)
    (stream,) = streams
    assert stream.status == 200
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert b"retry: 3000\ndata: \n" in stream.body
    assert await process.wait() == 0


@pytest.mark.parametrize(
    "example, arguments, ada, bob",
    [
        pytest.param(
            "authenticated.py",
            ["--token", "ada=one", "--token", "bob=two"],
            "one",
            "two",
            id="authenticated",
        ),
        pytest.param("mounted.py", [], "secret-of-ada", "secret-of-bob", id="mounted"),
    ],
)
async def test_sessions_belong_to_their_owners(
    example: str, arguments: list[str], ada: str, bob: str
) -> None:
    async with running(example, "--bind", "127.0.0.1:0", *arguments) as program:
        url = await program.wait_said("listening on ")

        # No token, no session.
        for token in (None, "nonsense"):
            refused = await HttpClient(url, token).ask("POST", **INITIALIZE)
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"] == 'Bearer realm="notes"'
            assert "Mcp-Session-Id" not in refused.headers

        first, second = HttpClient(url, ada), HttpClient(url, bob)
        await first.open()
        await second.open()
        told = (await first.call("who_am_i")).result
        assert told["structuredContent"] == {"subject": "ada"}

        # For another user a session does not exist.
        for thief in (
            HttpClient(url, bob, first.session_id),
            HttpClient(url, bob, "no such session"),
        ):
            for verb, message in (
                ("POST", {"method": "ping", "id": 1}),
                ("GET", {}),
                ("DELETE", {}),
            ):
                answer = await thief.ask(verb, **message)
                assert answer.status == 404
                assert json.loads(answer.body)["error"]["message"] == "Session not found"

        assert (await second.ask("DELETE")).status == 204
        assert (await second.call("who_am_i")).status == 404
        await drained_with_an_open_stream(program.process, first)
    assert b"Traceback" not in program.said


async def test_signing_out_ends_ones_other_sessions() -> None:
    arguments = ("--bind", "127.0.0.1:0", "--token", "ada=one", "--token", "bob=two")
    async with running("authenticated.py", *arguments) as program:
        url = await program.wait_said("listening on ")
        here, there, other = HttpClient(url, "one"), HttpClient(url, "one"), HttpClient(url, "two")
        for client in (here, there, other):
            await client.open()
        assert (await here.call("sign_out")).result["structuredContent"] == {"ended": 1}
        assert (await there.call("who_am_i")).status == 404
        assert (await other.call("who_am_i")).status == 200
        program.process.send_signal(signal.SIGINT)
        assert await program.process.wait() == 0


async def test_the_web_application_has_pages_of_its_own() -> None:
    async with running("mounted.py", "--bind", "127.0.0.1:0") as program:
        url = await program.wait_said("listening on ")
        health = HttpClient(url.replace("/notes/mcp", "/health"))
        assert json.loads((await health.ask("GET")).body) == {"ready": True, "sessions": 0}
        client = HttpClient(url, "secret-of-ada")
        await client.open()
        assert json.loads((await health.ask("GET")).body) == {"ready": True, "sessions": 1}
        elsewhere = HttpClient(url.replace("/mcp", "/other"), "secret-of-ada")
        assert (await elsewhere.ask("GET")).status == 404
        program.process.send_signal(signal.SIGTERM)
        assert await program.process.wait() == 0
