"""The public names of the library."""

from __future__ import annotations

from types import ModuleType
from typing import Final

import trio_mcp_session
import trio_mcp_session.testing

PUBLIC: Final = {
    name: f"{module.__name__}.{name}"
    for module in (trio_mcp_session.testing, trio_mcp_session)
    for name, value in vars(module).items()
    if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
}
"""The full name of each public one."""
