"""One application, one client, their server and ours: all answers and notifications are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.adapters.contract.differences import ASKED, FASTMCP, LEGACY, MCP, different
from tests.adapters.contract.documented import cell, documented
from tests.adapters.contract.watching import MODES, SERVERS, TRANSPORTS, Seen, Watcher
from tests.adapters.installed import HAS_FASTMCP

HANG_GUARD = 60.0
APPS = [MCP, *([FASTMCP] if HAS_FASTMCP else [])]


@pytest.fixture(params=APPS, scope="module")
def app(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def look(which: str, app: str, transport: str, revision: str, log: Path) -> Seen:
    async def watch() -> Seen:
        watcher = Watcher()
        with anyio.fail_after(HANG_GUARD):
            async with watcher.connected(which, app, transport, MODES[revision], log):
                return await watcher.look()

    return anyio.run(watch)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("\n".join(["", "feature × revision × transport, unless equal:", *rows]))


@pytest.mark.parametrize("revision", MODES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_sees_the_same_of_both_servers_but_for_the_listed_differences(
    app: str, transport: str, revision: str, tmp_path: Path, table: list[str]
) -> None:
    theirs, ours = (
        look(which, app, transport, revision, tmp_path / f"{which}.log") for which in SERVERS
    )
    allowed = different(app, revision)
    assert theirs.keys() == ours.keys()
    found = {what for what in theirs if theirs[what] != ours[what]}
    for what in sorted(found):
        reason = allowed.get(what, "NOT LISTED")
        table.append(f"{app}: {what} × {revision} × {transport}: {reason}")
    unlisted = {what: (theirs[what], ours[what]) for what in found - allowed.keys()}
    assert unlisted == {}
    assert found == allowed.keys()
    assert documented(app, revision) == {what: cell(app, revision, what) for what in theirs}
    table.append(
        f"{app}: {len(theirs) - len(found)} of {len(theirs)} equal × {revision} × {transport}"
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_of_the_modern_revision_can_be_asked(
    transport: str, tmp_path: Path, without: Callable[[Any], Any]
) -> None:
    old = look("theirs", MCP, transport, LEGACY, tmp_path / "theirs.log")
    new = look("ours", MCP, transport, "2026-07-28", tmp_path / "ours.log")
    for what, reason in different(MCP, "2026-07-28").items():
        if reason == ASKED:
            assert without(new[what]) == without(old[what]), what


@pytest.fixture
def without() -> Callable[[Any], Any]:
    """Return a function that removes what only one revision has."""
    only = {"_meta", "resultType", "elicitationId"}

    def remove(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: remove(one) for name, one in value.items() if name not in only}
        return [remove(one) for one in value] if isinstance(value, list) else value

    return remove
