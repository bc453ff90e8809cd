"""One server with everything, on three libraries, as the official Python client sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from tests.interop.everything.expected import DIFFERENCES, differences, expected
from tests.interop.everything.libraries import LIBRARIES, OURS
from tests.interop.everything.watching import MODES, Seen, Watcher

pytestmark = [
    pytest.mark.interop,
    # The client deprecates what the modern revision removed: logging and subscriptions.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

HANG_GUARD = 60.0
MOST_LINES = 100


@pytest.mark.parametrize("revision", MODES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_client_sees_the_same_of_each_library_but_for_the_listed_differences(
    name: str, revision: str, environments: Path, tmp_path: Path
) -> None:
    library = LIBRARIES[name]
    python = library.python(environments)
    watcher = Watcher()

    async def look() -> Seen:
        with anyio.fail_after(HANG_GUARD):
            async with watcher.connected(python, library.server, MODES[revision], tmp_path / "log"):
                return await watcher.look(revision)

    assert anyio.run(look) == expected(revision) | differences(name, revision)


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_listed_difference_is_one(name: str, figure: Callable[[str], None]) -> None:
    for revision in MODES:
        usual = expected(revision)
        for what, seen in differences(name, revision).items():
            assert usual[what] != seen, what
    for one in DIFFERENCES:
        if one.library == name:
            figure(f"{name}, {' and '.join(one.revisions)}, {one.what}: {one.reason}")


def test_no_library_needs_fewer_lines_for_the_server(figure: Callable[[str], None]) -> None:
    lines = {name: library.count_lines() for name, library in LIBRARIES.items()}
    for name, count in lines.items():
        figure(f"a server with everything, on {name}: {count} lines")
    assert lines[OURS] <= MOST_LINES
    assert lines[OURS] == min(lines.values())
