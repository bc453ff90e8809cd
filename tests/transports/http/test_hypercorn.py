"""Hypercorn: TLS, HTTP/2, its settings, its logs, and what has to be kept from it."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import final

import attrs
import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
import trio
from hypercorn.config import Config
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import initialize, notification, request
from tests.transports.http.live import (
    Caller,
    Toy,
    Wire,
    call,
    live,
    write_request,
)
from trio_mcp_session import CleanupConfig, open_session_manager, serve_http
from trio_mcp_session.transports.asgi import Receive, Scope, Send


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings with a certificate that only the tests trust."""
    folder = tmp_path_factory.mktemp("certificate")
    openssl = shutil.which("openssl")
    if openssl is None:  # pragma: no cover  # the machine decides
        pytest.skip("no openssl on this machine")
    config = Config()
    config.certfile, config.keyfile = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=127.0.0.1"),
            # Python 3.13 looks at what a certificate may be used for.
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-days", "2", "-keyout", config.keyfile, "-out", config.certfile),
        ],
        check=True,
        capture_output=True,
    )
    config.errorlog = logging.getLogger("trio_mcp_session.tests")
    return config


async def encrypt(wire: Wire, config: Config, *protocols: str) -> None:
    """Do the TLS handshake, and trust only the server that has the certificate."""
    context = ssl.create_default_context(cafile=config.certfile)
    context.set_alpn_protocols(protocols)
    stream = trio.SSLStream(
        wire.stream, context, server_hostname="127.0.0.1", https_compatible=True
    )
    await stream.do_handshake()
    assert stream.selected_alpn_protocol() == protocols[0]
    wire.stream = stream


async def test_hypercorn_serves_over_tls_and_drains(certificate: Config) -> None:
    async with live(server="hypercorn", hypercorn_config=certificate) as it:
        assert it.address.secure
        assert it.address.url == f"https://127.0.0.1:{it.address.port}"
        async with await it.connect() as wire:
            await encrypt(wire, certificate, "http/1.1")
            own = await it.open_session(wire=wire)
            # The scheme is not compared, and the server's own is fine.
            origin = {"Host": str(it.address), "Origin": it.address.url}
            answer = await wire.request("POST", request(1, "ping"), {**own.headers, **origin})
            assert (answer.status, answer.json["id"]) == (200, 1)
            async with await it.connect() as other:
                await encrypt(other, certificate, "http/1.1")
                listening = await other.begin("GET", headers=own.headers)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(it.manager.drain)
                    await other.to_the_end(listening)
        await it.served.returned.wait()


async def test_a_client_without_tls(certificate: Config) -> None:
    async with live(server="hypercorn", hypercorn_config=certificate) as it:
        async with await it.connect() as wire:
            await wire.send(write_request("POST", initialize(0)))
            assert b"HTTP/1.1" not in await wire.rest()
        assert it.manager.sessions() == []


@final
@attrs.define(eq=False)
class Http2:
    """A connection that carries several requests at the same time."""

    wire: Wire
    _connection: h2.connection.H2Connection = attrs.field(
        factory=lambda: h2.connection.H2Connection(h2.config.H2Configuration()), init=False
    )
    status: dict[int, int] = attrs.field(factory=dict, init=False)
    headers: dict[int, dict[str, str]] = attrs.field(factory=dict, init=False)
    body: dict[int, bytes] = attrs.field(factory=dict, init=False)
    ended: set[int] = attrs.field(factory=set, init=False)

    async def start(self) -> None:
        self._connection.initiate_connection()
        await self._flush()

    async def send(self, method: str, body: bytes = b"", **fields: str) -> int:
        number = self._connection.get_next_available_stream_id()
        headers = {
            ":method": method,
            ":scheme": "https",
            ":authority": "127.0.0.1",
            ":path": "/mcp",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        self._connection.send_headers(number, list(headers.items()), end_stream=not body)
        if body:
            self._connection.send_data(number, body, end_stream=True)
        self.body[number] = b""
        await self._flush()
        return number

    async def read(self) -> None:
        data = await self.wire.stream.receive_some()
        assert data
        for event in self._connection.receive_data(bytes(data)):
            match event:
                case h2.events.ResponseReceived(stream_id=number, headers=headers):
                    fields = {
                        bytes(name).decode(): bytes(value).decode() for name, value in headers
                    }
                    self.status[number] = int(fields.pop(":status"))
                    self.headers[number] = fields
                case h2.events.DataReceived(stream_id=number, data=piece):
                    self.body[number] += bytes(piece)
                    self._connection.acknowledge_received_data(event.flow_controlled_length, number)
                case h2.events.StreamEnded(stream_id=number):
                    self.ended.add(number)
                case _:
                    pass
        await self._flush()

    async def whole(self, number: int) -> bytes:
        while number not in self.ended:
            await self.read()
        return self.body[number]

    async def _flush(self) -> None:
        await self.wire.send(self._connection.data_to_send())


async def test_hypercorn_serves_calls_and_streams_over_one_http2_connection(
    certificate: Config,
) -> None:
    """One connection carries it all: calls, a call that is streamed, and what GET listens to."""
    async with live(server="hypercorn", hypercorn_config=certificate) as it:
        wire = await it.connect()
        await encrypt(wire, certificate, "h2", "http/1.1")
        client = Http2(wire)
        await client.start()
        number = await client.send("POST", msgspec.json.encode(initialize(0)))
        assert msgspec.json.decode(await client.whole(number))["id"] == 0
        session_id = client.headers[number]["mcp-session-id"]
        session = it.manager.get_session(session_id)
        assert session is not None
        assert session.transport.name == "http"

        async def post(message: object) -> int:
            return await client.send(
                "POST", msgspec.json.encode(message), mcp_session_id=session_id
            )

        number = await post(notification("notifications/initialized"))
        assert (await client.whole(number), client.status[number]) == (b"", 202)
        listening = await client.send("GET", mcp_session_id=session_id)
        waiting = await post(request(1, "tools/call", call("wait", name="own", say=True)))
        for text in ("one", "two"):
            number = await post(request(text, "tools/call", call("echo", text=text)))
            assert msgspec.json.decode(await client.whole(number))["id"] == text
        await session.notify("notifications/tools/list_changed")
        async with trio.open_nursery() as nursery:
            it.toy.release("own")
            nursery.start_soon(it.manager.drain)
            assert b'"id":1' in await client.whole(waiting)
            assert b"tools/list_changed" in await client.whole(listening)
        await it.served.returned.wait()


async def test_hypercorn_logs_to_the_logger_of_the_library_without_an_access_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        async with live(server="hypercorn") as it:
            await (await it.open_session()).echo("no access log")
    told = [record for record in caplog.records if "Running on" in record.getMessage()]
    assert {record.name for record in told} == {"trio_mcp_session.http"}
    assert str(it.address) in told[0].getMessage()
    assert not any("POST" in record.getMessage() for record in caplog.records)


async def test_an_application_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("a bug")

    async with live() as it:
        served = await it.serve(app=app, server="hypercorn")
        async with await it.connect(served.addresses[0]) as wire:
            assert (await wire.request("GET")).status == 500
    failed = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {record.name for record in failed} == {"trio_mcp_session.http"}


async def test_the_settings_of_hypercorn_are_used_and_not_changed() -> None:
    """They are used, and left as they are."""
    config = Config()
    config.bind = ["192.0.2.1:1"]
    config.errorlog = logging.getLogger("trio_mcp_session.tests")
    config.include_server_header = False
    config.alt_svc_headers = ["clear"]
    before = dict(vars(config))
    async with live(server="hypercorn", hypercorn_config=config) as it:
        own = await it.open_session()
        answer = await own.post(request(1, "ping"))
        assert (answer.status, answer.headers["alt-svc"]) == (200, "clear")
        assert "server" not in answer.headers
    assert vars(config) == before


async def test_a_missing_certificate_raises_and_leaves_no_open_files(tmp_path: Path) -> None:
    config = Config()
    config.certfile = config.keyfile = str(tmp_path / "missing")
    async with open_session_manager(Toy().router()) as manager:
        files = os.listdir("/dev/fd")
        with pytest.RaisesGroup(FileNotFoundError, flatten_subgroups=True):
            await serve_http(manager, "127.0.0.1:0", server="hypercorn", hypercorn_config=config)
        assert os.listdir("/dev/fd") == files


async def test_an_application_that_does_not_start() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    async with open_session_manager(Toy().router()) as manager:
        files = os.listdir("/dev/fd")
        with pytest.RaisesGroup(Exception, flatten_subgroups=True):
            await serve_http(manager, "127.0.0.1:0", server="hypercorn", app=app)
        assert os.listdir("/dev/fd") == files


async def test_a_connection_after_a_stream(mock_clock: MockClock) -> None:
    """Hypercorn sees the stream's end: the connection stays open, and is not kept for ever."""
    async with live(server="hypercorn", cleanup=CleanupConfig(max_session_time=5)) as it:
        own = await it.open_session()
        streaming = await it.connect()
        stream = await streaming.begin("GET", headers=own.headers)
        own.session.terminate()
        await streaming.to_the_end(stream)
        assert (await streaming.request("GET", headers=own.headers)).status == 404
        await it.pass_time(6)
        assert await streaming.rest() == b""


@pytest.mark.parametrize("how", ["drained", "cancelled"])
async def test_a_client_that_does_not_read(how: str) -> None:
    """Nothing can interrupt Hypercorn's writes, so the system has to."""
    if not hasattr(trio.socket, "TCP_USER_TIMEOUT"):  # pragma: no cover  # the system decides
        pytest.skip("no such thing on this system")
    cleanup = CleanupConfig(send_timeout=0.1, flush_budget=0.1)
    async with live(server="hypercorn", cleanup=cleanup) as it:
        own = await it.open_session()
        wire = await it.connect()
        many = request(1, "tools/call", call("many", size=20_000_000))
        await wire.send(write_request("POST", many, own.headers))
        await wait_all_tasks_blocked()
        if how == "drained":
            await it.manager.drain()
        else:
            it.served.scope.cancel()
        await it.served.returned.wait()
        assert len(await wire.rest()) < 20_000_000


async def test_patience_beyond_all_bounds() -> None:
    async with live(server="hypercorn", cleanup=CleanupConfig(send_timeout=float("inf"))) as it:
        own = await it.open_session()
        await Caller(await it.connect(), own.session, own.headers).echo("hello")
