"""Node labels: which of several processes made a name.

A name is what clients repeat to reach something: a session id, a handle, a task id, a
``requestState``. With a label, each name begins with it, before a full stop. Proxies read it there,
and so does another process that gets the name.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

LABEL: Final = re.compile(r"[a-z0-9-]{1,32}")
"""What a label may be. Neither an underscore nor a full stop: they separate a label from others."""


def node_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for a label, or None."""
    if value is not None and not (isinstance(value, str) and LABEL.fullmatch(value)):
        raise ValueError(
            f"{attribute.name} must be 1 to 32 small letters, digits and hyphens, or None, "
            f"not {value!r}"
        )


def node_of(name: str) -> str | None:
    """Return the label in a name; None if it has none. Not a checkpoint.

    It is ``n2`` in ``n2.Vb1x`` and in ``brw_n2.Vb1x``.
    """
    head, separator, _ = name.partition(".")
    label = head.rpartition("_")[2]
    return label if separator and LABEL.fullmatch(label) else None
