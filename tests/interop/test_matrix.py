"""That the matrix is what is run: a cell without a check fails, and so does a check without one."""

from __future__ import annotations

import pytest

from tests.interop import test_python_client, test_typescript_client
from tests.interop.cells import MATRIX, SERVERS, cells_of, checks_of

pytestmark = pytest.mark.interop

ALL = {check for server in SERVERS for check in checks_of(server)}


def test_every_client_has_its_tests() -> None:
    assert list(MATRIX["clients"]) == [
        *test_python_client.CLIENTS,
        *test_typescript_client.CLIENTS,
    ]


@pytest.mark.parametrize("client", MATRIX["clients"])
def test_every_client_is_run_with_every_server(client: str) -> None:
    assert {server for _, server, _ in cells_of(client)} == set(SERVERS)


def test_every_check_is_made_in_some_era() -> None:
    legacy, modern = MATRIX["not in"]["legacy"], MATRIX["not in"]["modern"]
    assert not legacy.keys() & modern.keys()


@pytest.mark.parametrize("group", ["not in", "not by"])
def test_what_is_left_out_is_a_check(group: str) -> None:
    for left_out in MATRIX[group].values():
        assert left_out.keys() <= ALL
