"""Media types of files by their names, the same on all machines."""

from __future__ import annotations

import mimetypes
from functools import cache
from typing import Final
from urllib.parse import quote

MARKDOWN: Final = "text/markdown"

_MORE: Final = {
    ".md": MARKDOWN,
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""What the table of Python lacks, at least in some versions."""


def file_type(name: str) -> str | None:
    """Return the media type of a file; None if its name does not tell it. Not a checkpoint."""
    found, encoding = _types().guess_type(f"file:/{quote(name)}")
    return None if encoding is not None else found


@cache
def _types() -> mimetypes.MimeTypes:
    # It has the table of Python only, without the files of the system.
    types = mimetypes.MimeTypes()
    for suffix, kind in _MORE.items():
        types.add_type(kind, suffix)
    return types
