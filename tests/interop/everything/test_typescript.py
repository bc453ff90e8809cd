"""The same servers as the official TypeScript clients see them: version 1, and all modes of 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.everything.expected import (
    CLIENT_DIFFERENCES,
    client_differences,
    differences,
    expected,
)
from tests.interop.everything.libraries import LIBRARIES
from tests.interop.everything.typescript import CLIENTS, installed, look

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def folder(node_modules: Path) -> Path:
    """Where the program is."""
    return installed(node_modules)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_typescript_clients_see_the_same_as_the_python_client_but_for_the_listed_differences(
    name: str, client: str, environments: Path, folder: Path
) -> None:
    library = LIBRARIES[name]
    revision = CLIENTS[client]
    usual = expected(revision) | differences(name, revision) | client_differences(client)
    seen = look(client, folder, [library.python(environments), str(library.server)])
    # JSON has no tuples.
    assert seen == json.loads(json.dumps(usual))


def test_each_listed_difference_of_a_client_is_one(figure: Callable[[str], None]) -> None:
    for one in CLIENT_DIFFERENCES:
        assert expected(CLIENTS[one.client])[one.what] != one.seen
        figure(f"{one.client}, {one.what}: {one.reason}")
