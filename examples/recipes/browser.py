"""A headless browser behind each handle: a page stays open from call to call.

Needs Chromium or Chrome. The browser is driven over two pipes, without a port that others could
reach; it ends with the handle.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, final

import trio

from trio_mcp_session import HandleKind, ImageContent, RequestContext, Router, ToolError, run_stdio

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@final
class Page:
    """One page of a browser."""

    def __init__(self, commands: trio.lowlevel.FdStream, answers: trio.lowlevel.FdStream) -> None:
        self._commands, self._answers = commands, answers
        self._numbers = itertools.count(1)
        self._rest = b""
        self._target: str | None = None

    async def open(self) -> None:
        """Open an empty page."""
        target = await self.ask("Target.createTarget", url="about:blank")
        attached = await self.ask(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._target = attached["sessionId"]

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its result."""
        number = next(self._numbers)
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._target is not None:
            command["sessionId"] = self._target
        await self._commands.send_all(json.dumps(command).encode() + b"\0")
        while True:
            message = await self._receive()
            if message.get("id") == number:
                break
        if "error" in message:
            raise ToolError(f"the browser says: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result

    async def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = await self._answers.receive_some()
            if not chunk:
                raise ToolError("the browser has ended: open another one")
            self._rest += chunk
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    async def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; wait for promises."""
        answer = await self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise ToolError(f"the page says: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    """Start a browser with a page; end it with the handle."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise ToolError(f"none of these is installed: {', '.join(PROGRAMS)}")
    (for_browser, commands), (answers, from_browser) = os.pipe(), os.pipe()
    streams = (trio.lowlevel.FdStream(commands), trio.lowlevel.FdStream(answers))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser expects the pipes as 3 and 4. A shell puts them there.
        script = f'exec "$@" 3<&{for_browser} 4>&{from_browser}'
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:  # in containers
            options.append("--no-sandbox")
        process = await trio.lowlevel.open_process(
            ["bash", "-c", script, "browser", program, *options],
            pass_fds=(for_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(for_browser)
        os.close(from_browser)
        try:
            page = Page(*streams)
            await page.open()
            yield page
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in streams:
                    await stream.aclose()


PAGES = HandleKind[Page]("page", open_page, idle_timeout=900, max_per_principal=2, max_handles=20)
router = Router("browser", "1.0")


@router.tool(description=f"Open a page in a browser; returns its page_id. {PAGES.expiry}")
async def open_browser(ctx: RequestContext) -> dict[str, str]:
    return {"page_id": await ctx.open_handle(PAGES)}


@router.tool()
async def visit(ctx: RequestContext, page_id: str, url: str) -> str:
    """Go to an address with a page that open_browser has opened; returns its title and text."""
    async with ctx.use_handle(PAGES, page_id) as page:
        answer = await page.ask("Page.navigate", url=url)
        if "errorText" in answer:
            raise ToolError(f"{url} cannot be opened: {answer['errorText']}")
        loaded = "new Promise(done => document.readyState == 'complete' ? done() : onload = done)"
        with trio.move_on_after(20):
            await page.evaluate(loaded)
        text = await page.evaluate("document.title + '\\n\\n' + document.body.innerText")
        return str(text)[:20_000]


@router.tool()
async def screenshot(ctx: RequestContext, page_id: str) -> ImageContent:
    """Return a picture of a page."""
    async with ctx.use_handle(PAGES, page_id) as page:
        answer = await page.ask("Page.captureScreenshot")
        return ImageContent(base64.b64decode(answer["data"]), "image/png")


if __name__ == "__main__":
    run_stdio(router)
