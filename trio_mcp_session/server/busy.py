"""Refusals of requests that the server could serve later."""

from __future__ import annotations

from typing import Final

BUSY: Final = "Server is busy: too many requests are in flight"
NO_MEMORY: Final = "Server is busy: too many bytes of this client are in memory"

OVERHEAD: Final = 2048
"""Bytes of a request without its message, by estimate: its object, its share of a task."""
