"""Which libraries of others are installed, beside the official SDK."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

HAS_FASTMCP: Final = find_spec("fastmcp") is not None
