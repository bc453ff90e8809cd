"""What to install where an extra is missing: a command that works for this installation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ..protocol.jsonrpc import is_object

DISTRIBUTION: Final = "trio-mcp-session"


class MissingExtra(ModuleNotFoundError):
    """An extra is not installed. The message says how to install it."""


@contextmanager
def needs_extra(extra: str, module: str, what: str) -> Iterator[None]:
    """Translate the error of an import that fails without an extra. Not a checkpoint.

    Args:
        extra: The name of the extra.
        module: The top-level module that comes with it. Other missing modules are left alone.
        what: What needs it, for the message.

    Raises:
        MissingExtra: The module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        raise MissingExtra(
            f"{what} needs the extra {extra!r}, which is not installed: {install_command(extra)}",
            name=error.name,
        ) from error


def install_command(extra: str) -> str:
    """Return a command that installs an extra, from where this package was installed.

    pip records that for folders, archives and repositories (PEP 610). Without a record the package
    came from an index. A checkout on ``PYTHONPATH`` is not installed at all: it can be installed
    from its folder.
    """
    pip = "python -m pip install"
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return f"{pip} '{Path(__file__).parents[2]}[{extra}]'"
    origin = _origin(distribution)
    if origin is None:
        return f"{pip} '{DISTRIBUTION}[{extra}]'"
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        return f"{pip} {editable}'{unquote(urlsplit(url).path)}[{extra}]'"
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}".rstrip("@")
    return f"{pip} '{DISTRIBUTION}[{extra}] @ {url}'"


def _origin(distribution: metadata.Distribution) -> dict[str, Any] | None:
    """Return the record of where a distribution was installed from; None if it has none."""
    with suppress(ValueError, OSError):
        record = json.loads(distribution.read_text("direct_url.json") or "null")
        if is_object(record):
            return record
    return None
