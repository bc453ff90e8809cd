"""The official TypeScript clients on Node: version 1, and version 2 in its three modes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.cells import SERVERS, cells_of, checks_of
from tests.interop.typescript_runs import ANY_TYPESCRIPT, Runs

pytestmark = pytest.mark.interop

CLIENTS = (
    ANY_TYPESCRIPT,
    "typescript 2, legacy",
    "typescript 2, auto",
    "typescript 2, 2026-07-28",
)


@pytest.mark.parametrize("client, server, check", cells_of(*CLIENTS))
def test_typescript_client(
    client: str, server: str, check: str, typescript_runs: Runs, figure: Callable[[str], None]
) -> None:
    report = typescript_runs[client, server].report(check)
    if text := report.get("figure"):
        figure(f"{client}, {server}: {text}")
    assert report["ok"], report["error"]


@pytest.mark.parametrize("server", SERVERS)
def test_typescript_checks_are_the_matrix(server: str, typescript_runs: Runs) -> None:
    assert typescript_runs[ANY_TYPESCRIPT, server].known() == checks_of(server)
