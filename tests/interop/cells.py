"""The matrix of checks, from matrix.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeAlias

MATRIX = tomllib.loads((Path(__file__).parent / "matrix.toml").read_text("utf-8"))
HTTP_SERVERS = ("builtin", "hypercorn")

Cell: TypeAlias = tuple[str, str, str]
"""A client, a server, and the name of a check."""


def checks_of(server: str) -> list[str]:
    """Return the names of the checks that are made with a server, in order."""
    transport = "http" if server in HTTP_SERVERS else server
    return [*MATRIX["common"], *MATRIX[transport]]


def cells_of(*clients: str) -> list[Cell]:
    """Return all that these clients have to do."""
    return [
        (client, server, check)
        for client in clients
        for server in MATRIX["clients"][client]
        for check in checks_of(server)
    ]
