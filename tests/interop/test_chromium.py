"""Pages in a real browser, with the module that docs/production.md gives them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import attrs
import pytest
import trio

from tests.cli.programs import Program, guarded, running
from trio_mcp_session import BoundAddress, Router, http_app, open_session_manager, serve_http
from trio_mcp_session.transports.asgi import Receive, Scope, Send

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

PAGE = Path(__file__).parents[2] / "docs" / "production.md"
(MODULE, EXAMPLE) = re.findall(r"```js\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

HTML = """<!doctype html><meta charset="utf-8"><script type="module">
const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });
const seen = [];
console.log = (text) => seen.push(text);
window.onerror = (event, file, line, column, error) => report({ error: String(error ?? event) });
window.onunhandledrejection = (event) => report({ error: String(event.reason) });
try {
  %s
} catch (error) {
  await report({ error: String(error) });
}
</script>"""

PROGRAM = """
from trio_mcp_session import RequestContext, Router

router = Router("demo", "1.0")


@router.tool()
async def count(ctx: RequestContext, to: int) -> str:
    for number in range(1, to + 1):
        await ctx.progress(number, to)
    return "done"
"""


@final
class Pages:
    """An ASGI application with a page and its module, to which the page reports."""

    def __init__(self, script: str) -> None:
        # Nothing may stand before imports but blank lines.
        imports = "".join(re.findall(r"^import .*\n", script, re.MULTILINE))
        rest = re.sub(r"^import .*\n", "", script, flags=re.MULTILINE)
        html = (HTML % rest).replace('type="module">\n', f'type="module">\n{imports}')
        self._files = {
            "/": (b"text/html", html.encode()),
            "/mcp.js": (b"text/javascript", MODULE.encode()),
        }
        self.reported, self._reports = trio.open_memory_channel[Any](1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        if scope["path"] == "/report":
            data, more = b"", True
            while more:
                message = await receive()
                data += message["body"]
                more = message["more_body"]
            self.reported.send_nowait(json.loads(data))
        kind, body = self._files.get(scope["path"], (b"text/plain", b""))
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def report(self) -> Any:
        """What the page reports."""
        return await self._reports.receive()


@asynccontextmanager
async def browser(url: str, folder: Path) -> AsyncIterator[None]:
    """Show a page in Chromium for the length of a block."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",  # a container has none, and its pages are these
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP *.example 127.0.0.1",
        url,
    ]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )
    async with guarded(process):
        try:
            yield
        finally:
            # Its helpers, too.
            os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[tuple[Program, str]]:
    """Run the command; the URL of its endpoint."""
    (folder / "demo.py").write_text(PROGRAM, "utf-8")
    command = ["-m", "trio_mcp_session", "serve", "demo:router", "--http", *options]
    async with running(command, folder) as program:
        yield program, (await program.stderr.until("listening")).removeprefix("listening on ")


async def shown(pages: Pages, folder: Path, host: str) -> Any:
    """Show a page of some host; what it reports."""
    async with open_session_manager(Router("pages")) as manager, trio.open_nursery() as nursery:
        serve = partial(serve_http, app=pages)
        (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
        async with browser(f"http://{host}:{address.port}/", folder):
            report = await pages.report()
        nursery.cancel_scope.cancel()
    return report


def example(url: str) -> str:
    """The example of the documentation, which reports what it got."""
    script = EXAMPLE.replace("http://127.0.0.1:8000/mcp", url)
    assert script != EXAMPLE
    return f"{script}\nawait report({{ content, seen }});"


async def test_a_page_of_an_allowed_origin_works_with_the_server(tmp_path: Path) -> None:
    options = ["127.0.0.1:0", "--http-origin", "http://app.example:*"]
    async with serving(tmp_path, *options) as (program, url):
        assert await shown(Pages(example(url)), tmp_path, "app.example") == {
            "content": [{"type": "text", "text": "done"}],
            "seen": ["notifications/progress"] * 3,
        }
        # Its DELETE has ended the session.
        assert (await program.stderr.until("ended")).endswith("page, client closed")


async def test_a_page_reads_why_it_is_refused(tmp_path: Path) -> None:
    options = ["127.0.0.1:0", "--http-origin", "http://app.example:*"]
    script = """
      const send = (headers) => fetch("URL", {
        method: "DELETE", headers: { "Mcp-Session-Id": "gone", ...headers }
      });
      const response = await send({ "X-Of-The-Application": "1" });
      await report({ status: response.status, text: await response.text() });
    """
    async with serving(tmp_path, *options) as (_, url):
        report = await shown(Pages(script.replace("URL", url)), tmp_path, "app.example")
    assert report["status"] == 404
    assert "Session not found" in report["text"]


@pytest.mark.parametrize(
    "options", [[], ["--http-origin", "http://other.example:*"]], ids=["default", "another origin"]
)
async def test_a_page_of_another_origin_gets_nothing(options: list[str], tmp_path: Path) -> None:
    async with serving(tmp_path, "127.0.0.1:0", *options) as (program, url):
        report = await shown(Pages(example(url)), tmp_path, "evil.example")
        assert report == {"error": "TypeError: Failed to fetch"}
        record = await program.stderr.until("HTTP 403 for OPTIONS /mcp")
        assert "'http://evil.example:" in record
        assert record.endswith("; to accept it: allowed_origins, --http-origin")


@attrs.frozen
class BesidePages:
    """The endpoint at ``/mcp`` of the same server as a page: one origin for a browser."""

    endpoint: Any
    pages: Pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.endpoint if scope.get("path") == "/mcp" else self.pages
        await app(scope, receive, send)


@pytest.mark.parametrize(
    "bind, host, status",
    [
        # DNS rebinding: the site's name resolves to the server, so it is the server's own page.
        ("0.0.0.0:0", "evil.example", 403),
        ("127.0.0.1:0", "evil.example", 403),
        ("0.0.0.0:0", "127.0.0.1", 200),
        ("0.0.0.0:0", "localhost", 200),
        ("127.0.0.1:0", "localhost", 200),
    ],
)
async def test_a_page_that_rebinds_its_name_to_the_server_is_refused(
    bind: str, host: str, status: int, tmp_path: Path
) -> None:
    pages = Pages("""
      const response = await fetch("/mcp", {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          Accept: "application/json, text/event-stream",
        },
        body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize", params: {
          protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "x", version: "1" },
        } }),
      });
      await report(response.status);
    """)
    async with open_session_manager(Router("demo")) as manager, trio.open_nursery() as nursery:
        serve = partial(serve_http, app=BesidePages(http_app(manager), pages))
        address: BoundAddress
        (address,) = await nursery.start(serve, manager, bind)
        async with browser(f"http://{host}:{address.port}/", tmp_path):
            assert await pages.report() == status
        nursery.cancel_scope.cancel()
