"""That the matrix is what is run: a cell without a check fails, and so does a check without one."""

from __future__ import annotations

import pytest

from tests.interop import test_python_client, test_typescript_client
from tests.interop.cells import HTTP_SERVERS, MATRIX, cells_of

pytestmark = pytest.mark.interop


def test_every_client_has_its_tests() -> None:
    assert list(MATRIX["clients"]) == [
        *test_python_client.CLIENTS,
        test_typescript_client.CLIENT,
    ]


@pytest.mark.parametrize("client", MATRIX["clients"])
def test_every_client_is_run_on_every_transport(client: str) -> None:
    assert {server for _, server, _ in cells_of(client)} == {"stdio", *HTTP_SERVERS}
