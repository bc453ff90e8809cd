"""What the official TypeScript clients see of a server that has everything."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.interop.cells import MATRIX
from tests.interop.everything.schemas import OMITTED
from tests.interop.everything.watching import LEGACY, MODERN, Seen
from tests.interop.node import install
from tests.interop.typescript_runs import SOURCES

HERE: Final = Path(__file__).parent
HANG_GUARD: Final = 60.0
REVISIONS: Final = {"legacy": LEGACY, "modern": MODERN}
CLIENTS: Final[Mapping[str, str]] = {
    client: REVISIONS[era]
    for client, era in MATRIX["clients"].items()
    if client.startswith("typescript")
}
"""Each client in each of its modes, and the revision that it speaks with these servers."""


def installed(node_modules: Path) -> Path:
    """Put the program where Node finds the clients' packages, and return that folder.

    It is for this program alone: what others need may be copied at any time, while this one starts.
    """
    folder = install(SOURCES / "package.json", node_modules) / HERE.name
    folder.mkdir(exist_ok=True)
    for source in (HERE / "watching.mjs", SOURCES / "sdk1.mjs", SOURCES / "sdk2.mjs"):
        shutil.copy(source, folder)
    return folder


def look(client: str, folder: Path, server: Sequence[str]) -> Seen:
    """Let a client use all that a server has, and return what was seen, as JSON has it.

    Args:
        client: The client, with its mode.
        folder: Where the program is.
        server: The URL of the server, or its command.
    """
    command = ["node", "watching.mjs", client, CLIENTS[client], ",".join(OMITTED), *server]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, check=True, timeout=HANG_GUARD
    )
    seen: Seen = json.loads(done.stdout)
    return seen
