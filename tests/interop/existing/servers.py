"""Servers that others have published, unchanged, in an environment of their own.

All come from PyPI: two of the reference servers, and two that the official SDK ships in its source
distribution.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any, Final, final
from urllib.parse import parse_qs

import attrs

import trio_mcp_session
from tests.interop.third_party.environments import python_of
from tests.interop.third_party.servers import free_port

HERE: Final = Path(__file__).parent
SDK: Final = "2.3.0"
PUBLISHED: Final = (
    f"mcp=={SDK}",
    "mcp-server-git==2026.10.19",
    "mcp-server-time==2026.10.19",
    "pydantic-settings>=2.5.2",  # of `simple-auth`
)
"""The packages of the servers, with what they need."""
OURS_NEEDS: Final = ("attrs", "httptools", "msgspec", "trio")
IN_SOURCES: Final = ("everything-server", "simple-auth")
"""Servers in the source distribution of the official SDK."""

GOOD_TOKEN: Final = "good"  # noqa: S105  # it is one of the test
STDIO: Final = "stdio"
HTTP: Final = "http"
PATIENCE: Final = 30.0
"""Seconds for a server to start, or to end. Only a hang takes as long."""

DATE: Final = "2026-01-02T03:04:05+00:00"
"""Of all commits: their ids are the same in each run."""


@final
@attrs.frozen
class Existing:
    """The servers, installed."""

    python: Path
    sources: Path
    """Where the source distribution of the official SDK is unpacked."""
    ours: Path
    """A folder that holds nothing but this library."""

    @classmethod
    def install(cls, environments: Path, folder: Path) -> Existing:
        """Install the servers into an environment that is kept between runs.

        Args:
            environments: The folder of environments.
            folder: An empty folder for this run.
        """
        needs = [f"{name}=={version(name)}" for name in OURS_NEEDS]
        python = python_of(environments / "existing-servers", [*PUBLISHED, *needs, "pip"])
        sources = python.parents[1] / f"mcp-{SDK}"
        if not sources.exists():
            command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", "mcp", "--dest", str(folder), f"mcp=={SDK}"]
            subprocess.run(command, check=True)
            with tarfile.open(folder / f"mcp-{SDK}.tar.gz") as archive:
                archive.extractall(sources.parent, filter="data")
        ours = folder / "ours"
        ours.mkdir()
        (ours / "trio_mcp_session").symlink_to(Path(trio_mcp_session.__file__).parent)
        return cls(python, sources, ours)

    def environment(self, work: Path, issuer: str) -> dict[str, str]:
        """Return the environment variables of a server."""
        paths = [self.ours, *(self.sources / "examples" / "servers" / one for one in IN_SOURCES)]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "EXISTING_REPOSITORY": str(work / "repository"),
            "EXISTING_ISSUER": issuer,
        }

    def command(self, which: str, name: str, port: int | None = None) -> list[str]:
        """Return the command that serves a server, by their library or ours."""
        more = [] if port is None else [str(port)]
        return [str(self.python), str(HERE / "serve.py"), which, name, *more]

    @contextmanager
    def serving_http(
        self, which: str, name: str, environment: Mapping[str, str], log: Path
    ) -> Iterator[str]:
        """Serve over HTTP for the length of a block; its URL."""
        # Some of them have to know their own URL.
        port = free_port()
        command = self.command(which, name, port)
        with (
            log.open("w", encoding="utf-8") as output,
            subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
        ):
            try:
                if not _listens(port, process):
                    raise RuntimeError(log.read_text("utf-8"))
                yield f"http://127.0.0.1:{port}/mcp"
                process.terminate()
                process.wait(PATIENCE)
            finally:
                process.kill()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a server listens; return whether it does."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def make_repository(folder: Path) -> None:
    """Make a repository with two commits, and a change that is not staged."""
    folder.mkdir()
    names = ("AUTHOR", "COMMITTER")
    identity = {f"GIT_{name}_NAME": "Ada" for name in names}
    identity |= {f"GIT_{name}_EMAIL": "ada@example.com" for name in names}
    identity |= {f"GIT_{name}_DATE": DATE for name in names}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **identity}

    def run(*arguments: str) -> None:
        command = ["git", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True)

    run("init", "--quiet", "--initial-branch", "main")
    notes = folder / "notes.txt"
    for text in ("one\n", "one\ntwo\n"):
        notes.write_text(text, "utf-8")
        run("add", "notes.txt")
        run("commit", "--quiet", "--message", f"Write {len(text)} characters")
    notes.write_text("one\ntwo\nthree\n", "utf-8")


def token_for(url: str) -> str:
    """Return a token for a resource, of characters that RFC 6750 allows."""
    return f"{GOOD_TOKEN}.{url.encode().hex()}"


class _Introspection(BaseHTTPRequestHandler):
    """Tells what a token is good for (RFC 7662)."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        [token] = parse_qs(body)["token"]
        name, _, resource = token.partition(".")
        found: dict[str, Any] = {"active": False}
        if name == GOOD_TOKEN:
            audience = bytes.fromhex(resource).decode()
            found = {"active": True, "client_id": "test", "scope": "user", "aud": audience}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # their name
        """Say nothing."""


@contextmanager
def issuing() -> Iterator[str]:
    """Run an authorization server that knows its tokens; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Introspection) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
