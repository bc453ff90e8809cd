"""Public servers, unchanged: clients see the same of them on their library and on this one."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from mcp.client.stdio import StdioServerParameters

from tests.interop.existing.looking import HANG_GUARD, MODES, Seen, Using, look
from tests.interop.existing.servers import (
    HTTP,
    STDIO,
    Existing,
    issuing,
    make_repository,
    token_for,
)
from tests.interop.node import install
from tests.interop.typescript_runs import SOURCES

pytestmark = pytest.mark.interop

HERE: Final = Path(__file__).parent
TYPESCRIPT: Final = ("typescript 1, legacy", "typescript 2, auto")
CLIENTS: Final = (*MODES, *TYPESCRIPT)

EVERYTHING: Final = "everything"
AUTH: Final = "auth"
GIT: Final = "git"
TIME: Final = "time"
CELLS: Final = [
    *((name, transport) for name in (EVERYTHING, GIT, TIME) for transport in (STDIO, HTTP)),
    (AUTH, HTTP),  # Tokens are for HTTP.
]

ASKED: Final = "their server cannot ask clients of 2026-07-28: a gain"
FED: Final = "clients up to 2025-11-25 are told what the application publishes: a gain"
CRASH: Final = "the text of an exception is not sent to clients"
ASYNCIO: Final = "the tool calls asyncio.sleep, which is not there under Trio"
Differences: TypeAlias = Mapping[str, str]


def using(name: str, repository: Path) -> Using:
    """Return what is used of a server."""
    match name:
        case "everything":
            plain = ("simple_text", "image_content", "audio_content", "embedded_resource")
            rounds = ("elicitation", "sampling", "list_roots", "multi_round", "request_state")
            return Using(
                calls=[
                    *((f"test_{one}", {}) for one in plain),
                    ("test_multiple_content_types", {}),
                    ("test_error_handling", {}),
                    ("test_tool_with_progress", {}),
                    ("test_tool_with_logging", {}),
                    ("test_sampling", {"prompt": "Hi"}),
                    ("test_elicitation", {"message": "Who?"}),
                    *((f"test_input_required_result_{one}", {}) for one in rounds),
                    ("test_simple_text", {"more": 1}),
                    ("test_sampling", {}),
                    ("missing", {}),
                ],
                resources=["test://template/7/data", "test://missing"],
                prompts=[
                    ("test_simple_prompt", {}),
                    ("test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
                    ("test_prompt_with_embedded_resource", {"resourceUri": "test://x"}),
                    ("test_prompt_with_image", {}),
                    ("test_prompt_with_arguments", {}),
                    ("missing", {}),
                ],
            )
        case "git":
            here = {"repo_path": str(repository)}
            return Using(
                calls=[
                    ("git_status", here),
                    ("git_diff_unstaged", here),
                    ("git_diff_staged", here),
                    ("git_diff", here | {"target": "HEAD~1"}),
                    ("git_log", here | {"max_count": 5}),
                    ("git_show", here | {"revision": "HEAD"}),
                    ("git_branch", here | {"branch_type": "local"}),
                    ("git_status", {"repo_path": "/"}),
                    ("git_show", here | {"revision": "missing"}),
                    ("git_log", here | {"max_count": "many"}),
                    ("git_log", {}),
                    ("missing", {}),
                ],
            )
        case "time":
            rome = {"source_timezone": "Europe/Rome", "target_timezone": "Asia/Tokyo"}
            return Using(
                calls=[
                    ("get_current_time", {"timezone": "Europe/Rome"}),
                    ("convert_time", rome | {"time": "12:30"}),
                    ("convert_time", rome | {"time": "noon"}),
                    ("get_current_time", {"timezone": "Mars/Olympus"}),
                    ("get_current_time", {}),
                    ("missing", {}),
                ],
                changing=["get_current_time", "convert_time"],
            )
        case _:
            return Using(calls=[("get_time", {}), ("missing", {})], changing=["get_time"])


def differences(name: str, client: str) -> Differences:
    """Return what a client sees otherwise, and why."""
    if name == AUTH and client.endswith("legacy"):
        return {"capabilities": FED}
    if name != EVERYTHING:
        return {}
    found = {
        "test_tool_with_progress #6": ASYNCIO,
        "test_tool_with_logging #7": ASYNCIO,
        "prompt test_prompt_with_arguments #4": CRASH,
        "prompt missing #5": CRASH,
    }
    if client.endswith("legacy"):
        return found | {"capabilities": FED}
    return found | {"test_sampling #8": ASKED, "test_elicitation #9": ASKED}


@pytest.fixture(scope="module")
def existing(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> Existing:
    """The servers, installed."""
    return Existing.install(environments, tmp_path_factory.mktemp("existing"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository that one of the servers works in."""
    folder = tmp_path_factory.mktemp("work")
    make_repository(folder / "repository")
    return folder


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """The authorization server of the protected one."""
    with issuing() as url:
        yield url


@pytest.fixture(scope="module")
def folder(node_modules: Path) -> Path:
    """Where the TypeScript program is."""
    folder = install(SOURCES / "package.json", node_modules) / "existing"
    folder.mkdir(exist_ok=True)
    for source in (HERE / "look.mjs", SOURCES / "sdk1.mjs", SOURCES / "sdk2.mjs"):
        shutil.copy(source, folder)
    return folder


@contextmanager
def reached(
    existing: Existing, which: str, name: str, transport: str, environment: dict[str, str]
) -> Iterator[list[str]]:
    """What a client connects to: a URL, or a command."""
    log = Path(environment["HOME"]) / f"{which}.log"
    if transport == HTTP:
        with existing.serving_http(which, name, environment, log) as url:
            yield [url]
    else:
        yield existing.command(which, name)


def headers_for(name: str, server: list[str]) -> dict[str, str]:
    """Return the headers of a client that may use a server."""
    return {"Authorization": f"Bearer {token_for(server[0])}"} if name == AUTH else {}


def look_with(
    client: str, server: list[str], used: Using, name: str, environment: dict[str, str], node: Path
) -> Seen:
    headers = headers_for(name, server)
    if client in TYPESCRIPT:
        command = ["node", "look.mjs", client, used.as_json(), json.dumps(headers), *server]
        done = subprocess.run(
            command,
            cwd=node,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            timeout=HANG_GUARD,
        )
        seen: Seen = json.loads(done.stdout)
        return seen
    over_http = server[0].startswith("http:")
    parameters = StdioServerParameters(command=server[0], args=server[1:], env=environment)
    return look(client, server[0] if over_http else parameters, used, headers)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name, transport", CELLS)
def test_clients_see_the_same_of_a_public_server_on_its_library_and_on_this_one(
    name: str,
    transport: str,
    client: str,
    existing: Existing,
    work: Path,
    issuer: str,
    folder: Path,
    figure: Callable[[str], None],
) -> None:
    environment = existing.environment(work, issuer)
    used = using(name, work / "repository")
    seen: list[Seen] = []
    for which in ("theirs", "ours"):
        with reached(existing, which, name, transport, environment) as server:
            found = look_with(client, server, used, name, environment, folder)
            seen.append(used.steady(found))
    theirs, ours = seen
    allowed = differences(name, client)
    assert theirs.keys() == ours.keys()
    other = {what for what in theirs if theirs[what] != ours[what]}
    assert {what: (theirs[what], ours[what]) for what in other - allowed.keys()} == {}
    assert other == allowed.keys()
    equal = f"{len(theirs) - len(other)} of {len(theirs)} equal"
    figure(f"{name}, {transport}, {client}: {equal}")
    for what, reason in allowed.items():
        figure(f"{name}, {transport}, {client}, {what}: {reason}")


@pytest.mark.parametrize("token", [None, "bad", token_for("http://127.0.0.1:1/mcp")])
def test_both_refuse_a_client_without_a_token_that_is_for_them(
    token: str | None, existing: Existing, work: Path, issuer: str
) -> None:
    environment = existing.environment(work, issuer)
    told: list[Any] = []
    for which in ("theirs", "ours"):
        with reached(existing, which, AUTH, HTTP, environment) as [url]:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            request = urllib.request.Request(url, b"{}", headers)  # noqa: S310  # it is http
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=20)  # noqa: S310
            challenge = refused.value.headers["WWW-Authenticate"]
            refused.value.close()
            told.append((refused.value.code, "resource_metadata=" in challenge))
    assert told == [(401, True), (401, True)]
