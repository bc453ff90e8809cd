"""The servers that a new user starts first, used by the official Python client in every mode.

Those of the README, over standard input and output and over HTTP, and all examples. In its
default mode the client works with each of them: a server that needs sessions declines 2026-07-28,
and the client does a handshake. A client that insists on 2026-07-28 is told what is served.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import mcp_types as types
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError

pytestmark = [
    pytest.mark.interop,
    # It leaves the streams that it reads as they are, which Trio complains about.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLEST, WITH_HANDLES, WITH_SESSIONS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
HANG_GUARD = 30.0
SESSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]

MODES = {"default": None, "auto": "auto", "legacy": "legacy", "2026-07-28": "2026-07-28"}
BACKENDS = ["asyncio", "trio"]


async def accept(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={})


def make_client(transport: Any, mode: str | None) -> Client:
    chosen: dict[str, Any] = {} if mode is None else {"mode": mode}
    return Client(transport, elicitation_callback=accept, **chosen)


async def call(client: Client, tool: str, **arguments: object) -> Any:
    """Call a tool; return its data, or its text."""
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    assert not result.is_error, content.text
    data = result.structured_content
    return content.text if data is None or "result" in data else data


# What is done with each of them.


async def use_smallest(client: Client) -> None:
    assert await call(client, "add", a=1, b=2) == "3"


async def use_handles(client: Client) -> None:
    opened = await call(client, "open_notebook", title="Plans")
    assert await call(client, "write", **opened, note="sleep") == "Plans has 1."
    assert await call(client, "close_notebook", **opened) == "accept"


async def use_session(client: Client) -> None:
    assert await call(client, "remember", note="milk") == "That makes 1."
    assert await call(client, "remember", note="bread") == "That makes 2."


async def use_minimal(client: Client) -> None:
    assert await call(client, "greet", name="Ada") == "Hello, Ada."


async def use_stateful(client: Client) -> None:
    assert await call(client, "add_note", text="one") == {"count": 1}
    assert await call(client, "add_note", text="two") == {"count": 2}
    (resource,) = (await client.list_resources()).resources
    assert (await client.read_resource(resource.uri)).contents


async def use_databases(client: Client) -> None:
    opened = await call(client, "open_database", statements=["CREATE TABLE notes (text)"])
    assert await call(client, "execute", **opened, sql="SELECT text FROM notes") == {"rows": []}


async def use_composed(client: Client) -> None:
    assert await call(client, "set_step", step=5) == {"old": 1}
    (resource,) = (await client.list_resources()).resources
    assert (await client.read_resource(resource.uri)).contents


async def use_authenticated(client: Client) -> None:
    assert await call(client, "who_am_i") == {"subject": "ada"}
    assert await call(client, "sign_out") == {"ended": 0}


async def use_everything(client: Client) -> None:
    assert await call(client, "divide", a=7, b=2, by="//") == "3.0"


async def use_mounted(client: Client) -> None:
    assert await call(client, "who_am_i") == {"subject": "ada"}


async def use_shell(client: Client) -> None:
    opened = await call(client, "start_shell")
    await call(client, "run_command", **opened, command="A=1; cd /")
    assert await call(client, "run_command", **opened, command="echo $A; pwd") == "1\n/\nstatus 0"


async def use_browser(client: Client) -> None:
    opened = await call(client, "open_browser")
    page = "data:text/html,<title>Hello</title><p>world"
    assert await call(client, "visit", **opened, url=page) == "Hello\n\nworld"
    (picture,) = (await client.call_tool("screenshot", opened)).content
    assert isinstance(picture, types.ImageContent)
    assert picture.mime_type == "image/png"


async def use_transaction(client: Client) -> None:
    opened = await call(client, "begin_transaction")
    await call(client, "execute", **opened, sql="CREATE TABLE IF NOT EXISTS orders (product)")
    assert await call(client, "commit", **opened) == "saved"


async def use_gateway(client: Client) -> None:
    assert await call(client, "greet", name="Ada") == "Hello, Ada."


async def use_rate_limit(client: Client) -> None:
    assert await call(client, "translate", text="tea") == "TEA"


async def use_timing(client: Client) -> None:
    assert await call(client, "look_up", word="tea") == "tea is a word"
    assert (await call(client, "show_timing"))["look_up"]["calls"] == 1


async def use_json_logs(client: Client) -> None:
    assert await call(client, "order", product="tea") == "tea is on its way"


# How they are started.


@attrs.frozen
class Server:
    """One that a new user starts."""

    use: Callable[[Client], Awaitable[None]]
    command: list[str]
    token: str | None = None
    """It is served over HTTP then, if it is not None; empty where none is needed."""
    source: str = ""
    """What notes.py is, in the folder where it is started."""
    needs_sessions: bool = False


def example(name: str) -> str:
    return str(ROOT / "examples" / name)


HTTP = ["--http", "127.0.0.1:0"]
SERVE = ["-m", "trio_mcp_session", "serve", "notes:router"]
BIND = ["--bind", "127.0.0.1:0"]
ADA = "--token=ada=one"

SERVERS = {
    "README, smallest, stdio": Server(use_smallest, ["notes.py"], source=SMALLEST),
    "README, handles, stdio": Server(use_handles, ["notes.py"], source=WITH_HANDLES),
    "README, handles, HTTP": Server(use_handles, [*SERVE, *HTTP], "", WITH_HANDLES),
    "README, sessions, stdio": Server(
        use_session, ["notes.py"], source=WITH_SESSIONS, needs_sessions=True
    ),
    "README, sessions, HTTP": Server(
        use_session, [*SERVE, *HTTP], "", WITH_SESSIONS, needs_sessions=True
    ),
    "minimal.py": Server(use_minimal, [example("minimal.py")]),
    "stateful.py": Server(use_stateful, [example("stateful.py")], needs_sessions=True),
    "databases.py, stdio": Server(use_databases, [example("databases.py")]),
    "databases.py, HTTP": Server(use_databases, [example("databases.py"), *HTTP, ADA], "one"),
    "composed.py": Server(use_composed, [example("composed.py")]),
    "authenticated.py": Server(
        use_authenticated, [example("authenticated.py"), *BIND, ADA], "one", needs_sessions=True
    ),
    "everything.py": Server(use_everything, [example("everything.py")]),
    "recipe: shell": Server(use_shell, [example("recipes/shell.py")]),
    "recipe: transaction": Server(use_transaction, [example("recipes/transaction.py")]),
    "recipe: gateway": Server(
        use_gateway, [example("recipes/gateway.py"), sys.executable, example("minimal.py")]
    ),
    "recipe: rate limit": Server(use_rate_limit, [example("recipes/rate_limit.py")]),
    "recipe: timing": Server(use_timing, [example("recipes/timing.py")]),
    "recipe: JSON logs": Server(use_json_logs, [example("recipes/json_logs.py")]),
    "mounted.py": Server(use_mounted, [example("mounted.py"), *BIND], "secret-of-ada"),
}
if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
    SERVERS["recipe: browser"] = Server(use_browser, [example("recipes/browser.py")])


def test_each_example_is_used() -> None:
    used = {Path(part).name for one in SERVERS.values() for part in one.command}
    used.add("build.py")  # in test_build_example.py
    used.add("browser.py")  # where a browser is installed
    examples = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "recipes").glob("*.py")]
    assert {path.name for path in examples} <= used


@asynccontextmanager
async def listening(command: list[str], folder: Path) -> AsyncIterator[str]:
    """Run a server over HTTP; yield where it listens."""
    async with await anyio.open_process(
        [sys.executable, *command], stdin=None, stdout=None, stderr=subprocess.PIPE, cwd=folder
    ) as process:
        assert process.stderr is not None
        said = BufferedByteReceiveStream(process.stderr)
        try:
            while b"listening on " not in (line := await said.receive_until(b"\n", 1000)):
                pass
            yield line.decode().partition("listening on ")[2].strip()
        finally:
            process.terminate()
        assert await process.wait() == 0


@asynccontextmanager
async def connected(server: Server, mode: str | None, folder: Path) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        transport: Any
        if server.token is None:
            parameters = StdioServerParameters(
                command=sys.executable, args=server.command, cwd=folder
            )
            errlog = stack.enter_context((folder / "stderr").open("w", encoding="utf-8"))
            transport = stdio_client(parameters, errlog=errlog)
        else:
            url = await stack.enter_async_context(listening(server.command, folder))
            headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
            web = await stack.enter_async_context(create_mcp_http_client(headers=headers))
            transport = streamable_http_client(url, http_client=web)
        yield await stack.enter_async_context(make_client(transport, mode))


def failure_of(main: Callable[[], Awaitable[None]], backend: str) -> BaseException | None:
    """Run it; return the one error that comes out, in whatever groups."""
    try:
        anyio.run(main, backend=backend)
    except (MCPError, BaseExceptionGroup) as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        return error
    return None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SERVERS)
def test_a_first_server(
    name: str, mode: str, backend: str, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    server = SERVERS[name]
    (tmp_path / "notes.py").write_text(server.source, encoding="utf-8")
    spoken: list[str] = []

    async def main() -> None:
        with anyio.fail_after(HANG_GUARD):
            async with connected(server, MODES[mode], tmp_path) as client:
                spoken.append(client.protocol_version)
                await server.use(client)

    if server.needs_sessions and mode == "2026-07-28":
        error = failure_of(main, backend)
        assert isinstance(error, MCPError)
        assert error.code == -32022
        assert error.error.data == {"supported": SESSIONS, "requested": "2026-07-28"}
        assert "this server needs a session, send initialize" in str(error)
        figure(f"{name}, {mode}, on {backend}: {error.code} {error}")
        return
    anyio.run(main, backend=backend)
    alone = not server.needs_sessions and mode != "legacy"
    assert spoken == ["2026-07-28" if alone else "2025-11-25"]
    figure(f"{name}, {mode}, on {backend}: works, as {spoken[0]}")
