"""The matrix of checks, from matrix.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeAlias

MATRIX = tomllib.loads((Path(__file__).parent / "matrix.toml").read_text("utf-8"))
HTTP_SERVERS = ("builtin", "hypercorn")
SERVERS = ("stdio", *HTTP_SERVERS)

Cell: TypeAlias = tuple[str, str, str]
"""A client, a server, and the name of a check."""


def checks_of(server: str) -> list[str]:
    """Return the names of the checks that are made with a server, in order."""
    transport = "http" if server in HTTP_SERVERS else server
    return [*MATRIX["common"], *MATRIX[transport]]


def checks_by(client: str, server: str) -> list[str]:
    """Return those of them that a client has to make."""
    missing = MATRIX["not in"][era_of(client)].keys() | MATRIX["not by"].get(client, {}).keys()
    return [check for check in checks_of(server) if check not in missing]


def cells_of(*clients: str) -> list[Cell]:
    """Return all that these clients have to do."""
    return [
        (client, server, check)
        for client in clients
        for server in SERVERS
        for check in checks_by(client, server)
    ]


def era_of(client: str) -> str:
    """Return which of both eras a client speaks with a server that speaks both."""
    return str(MATRIX["clients"][client])
