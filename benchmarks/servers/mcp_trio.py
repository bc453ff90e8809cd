"""The echo server on the low-level server of the official Python SDK, under Trio."""

from __future__ import annotations

import anyio
from mcp_asyncio import serve

if __name__ == "__main__":
    anyio.run(serve, backend="trio")
