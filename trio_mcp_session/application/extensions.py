"""Extensions that the library does not know: what a server declares of them (2026-07-28)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from ..protocol.jsonrpc import encode_json

_LABEL: Final = "[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*/[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def checked_extensions(extensions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ``extensions`` of a server's capabilities. Not a checkpoint.

    Args:
        extensions: The settings of each extension, by name.

    Raises:
        ValueError: A name has no vendor, or is malformed.
        TypeError: Settings are not a mapping, or do not encode to JSON.
    """
    return {name: _settings(name, extensions[name]) for name in extensions}


def _settings(name: str, settings: object) -> Any:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the extension {name!r} needs a name with a vendor, such as 'com.example/search'"
        )
    if not isinstance(settings, Mapping):
        raise TypeError(f"the settings of the extension {name!r} must be a mapping: {settings!r}")
    try:
        # A copy, as the client will see it.
        return msgspec.json.decode(encode_json(dict(cast("Mapping[str, object]", settings))))
    except TypeError as error:
        raise TypeError(f"the settings of the extension {name!r} are not JSON: {error}") from error
