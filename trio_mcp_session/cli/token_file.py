"""Reads ``--token-file``: the tokens of a small server, without an authorization server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

import attrs

from ..core.identity import Principal
from ..core.scopes import checked_scopes
from .failure import CommandFailed

MIN_LENGTH: Final = 16
"""The fewest characters of a token: with 16 random ones, 96 bits cannot be guessed."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_ISSUER: Final = "token file"


@final
@attrs.frozen
class TokenFile:
    """Knows the tokens of a file: ``verify`` of `BearerAuth`. It keeps their hashes only."""

    _principals: Mapping[bytes, Principal]

    async def __call__(self, token: str) -> Principal | None:
        """Return the principal of a token; None for an unknown one. Not a checkpoint."""
        return self._principals.get(_digest(token))


def read_token_file(path: str) -> TokenFile:
    """Read a file with a token on each line, and perhaps its subject and its scopes.

    Raises:
        CommandFailed: It cannot be read, has no token, or a line is malformed. No error shows a
            token.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandFailed(f"--token-file: cannot read {path}: {why}") from error
    found: dict[bytes, Principal] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            digest, principal = _read_line(*words)
        except ValueError as error:
            raise CommandFailed(f"--token-file: line {number} of {path}: {error}") from error
        if digest in found:
            raise CommandFailed(f"--token-file: line {number} of {path} repeats a token")
        found[digest] = principal
    if not found:
        raise CommandFailed(f"--token-file: {path} has no token")
    return TokenFile(found)


def _read_line(token: str, subject: str = "", *scopes: str) -> tuple[bytes, Principal]:
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token has letters, digits and -._~+/ only, and may end with =")
    if len(token) < MIN_LENGTH:
        raise ValueError(f"a token needs at least {MIN_LENGTH} characters")
    digest = _digest(token)
    # Tokens without a subject are different principals.
    name = subject or f"token-{digest.hex()[:8]}"
    return digest, Principal(name, _ISSUER, scopes=checked_scopes(scopes))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
