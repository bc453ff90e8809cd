"""Streamable HTTP (2025-03-26 to 2025-11-25) as an ASGI application, and `serve_http`."""
