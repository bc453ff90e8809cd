"""The same servers as the official TypeScript clients see them: version 1, and all modes of 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.everything.expected import client_differences, differences, expected
from tests.interop.everything.libraries import HTTP, LIBRARIES, TRANSPORTS, Library
from tests.interop.everything.typescript import CLIENTS, installed, look

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def folder(node_modules: Path) -> Path:
    """Where the program is."""
    return installed(node_modules)


@contextmanager
def reached(library: Library, transport: str, environments: Path) -> Iterator[list[str]]:
    """What the client connects to: a URL, or a program with its arguments."""
    if transport == HTTP:
        with library.serving_http(environments) as url:
            yield [url]
        return
    yield [library.python(environments), str(library.server)]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_typescript_clients_see_the_same_as_the_python_client_but_for_the_listed_differences(
    name: str, client: str, transport: str, environments: Path, folder: Path
) -> None:
    revision = CLIENTS[client]
    usual = (
        expected(revision)
        | differences(name, revision)
        | client_differences(client, name, transport)
    )
    with reached(LIBRARIES[name], transport, environments) as server:
        seen = look(client, folder, server)
    # JSON has no tuples.
    assert seen == json.loads(json.dumps(usual))
