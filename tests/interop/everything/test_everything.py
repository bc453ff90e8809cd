"""One server with everything, on three libraries, as the official Python client sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.interop.everything import typescript
from tests.interop.everything.expected import (
    CLIENT_DIFFERENCES,
    DIFFERENCES,
    client_differences,
    differences,
    expected,
)
from tests.interop.everything.libraries import HTTP, LIBRARIES, OURS, TRANSPORTS, Library
from tests.interop.everything.watching import CLIENTS, LEGACY, MODERN, Seen, Watcher

pytestmark = [
    pytest.mark.interop,
    # The client deprecates what the modern revision removed: logging and subscriptions.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

HANG_GUARD = 60.0
MOST_LINES = 100


@contextmanager
def reached(library: Library, transport: str, environments: Path, log: Path) -> Iterator[Any]:
    """What the client connects to: a URL, or a program."""
    if transport == HTTP:
        with library.serving_http(environments) as url:
            yield url
        return
    parameters = StdioServerParameters(
        command=library.python(environments), args=[str(library.server)]
    )
    with log.open("w", encoding="utf-8") as errlog:
        yield stdio_client(parameters, errlog=errlog)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_client_sees_the_same_of_each_library_but_for_the_listed_differences(
    name: str, client: str, transport: str, environments: Path, tmp_path: Path
) -> None:
    revision = CLIENTS[client]
    usual = (
        expected(revision)
        | differences(name, revision)
        | client_differences(client, name, transport)
    )
    watcher = Watcher()
    with reached(LIBRARIES[name], transport, environments, tmp_path / "log") as server:

        async def look() -> Seen:
            with anyio.fail_after(HANG_GUARD):
                async with watcher.connected(server, client.removeprefix("python, ")):
                    return await watcher.look(revision)

        assert anyio.run(look) == usual


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_listed_difference_is_one(name: str, figure: Callable[[str], None]) -> None:
    for revision in (LEGACY, MODERN):
        usual = expected(revision)
        for what, seen in differences(name, revision).items():
            assert usual[what] != seen, what
    for one in DIFFERENCES:
        if one.library == name:
            figure(f"{name}, {' and '.join(one.revisions)}, {one.what}: {one.reason}")


def test_each_listed_difference_of_a_client_is_one(figure: Callable[[str], None]) -> None:
    clients = {**CLIENTS, **typescript.CLIENTS}
    for one in CLIENT_DIFFERENCES:
        assert expected(clients[one.client])[one.what] != one.seen
        figure(f"{one.client}, {one.what}: {one.reason}")


def test_no_library_needs_fewer_lines_for_the_server(figure: Callable[[str], None]) -> None:
    lines = {name: library.count_lines() for name, library in LIBRARIES.items()}
    for name, count in lines.items():
        figure(f"a server with everything, on {name}: {count} lines")
    assert lines[OURS] <= MOST_LINES
    assert lines[OURS] == min(lines.values())
