"""Which libraries of others are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

HAS_MCP: Final = find_spec("mcp") is not None
HAS_FASTMCP: Final = HAS_MCP and find_spec("fastmcp") is not None
