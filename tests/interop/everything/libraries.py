"""The three libraries that the same server is written on."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs

from tests.interop.third_party.environments import python_of

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[2]


@final
@attrs.frozen
class Library:
    """A library, and the server that is written on it."""

    server: Path
    """The whole server, in one file."""

    requirements: Sequence[str] = ()
    """What its environment has; it is this one if there are none."""

    def python(self, environments: Path) -> str:
        """Return the Python that runs the server."""
        if not self.requirements:
            return sys.executable
        return str(python_of(environments / self.server.stem, self.requirements))

    def count_lines(self) -> int:
        """Return how many lines of the server are neither blank nor a comment."""
        lines = map(str.strip, self.server.read_text("utf-8").splitlines())
        return sum(bool(line) and not line.startswith("#") for line in lines)


OURS: Final = "trio_mcp_session"
MCP: Final = "mcp"
FASTMCP: Final = "fastmcp"

LIBRARIES: Final[Mapping[str, Library]] = {
    OURS: Library(ROOT / "examples" / "everything.py"),
    MCP: Library(HERE / "mcp_server.py", ["mcp==2.3.0"]),
    FASTMCP: Library(HERE / "fastmcp_server.py", ["fastmcp==4.2.3", "mcp==2.3.0"]),
}
