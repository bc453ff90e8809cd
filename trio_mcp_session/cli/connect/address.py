"""Where the shared server is: a Unix socket, a TCP port, or an HTTP endpoint."""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from typing import Final, final
from urllib.parse import urlsplit

import attrs
import trio

from ...transports.tcp import notice_vanished

FORMS: Final = "unix:PATH, tcp:HOST:PORT, http://..., https://... or http+unix:PATH"
DEFAULT_PATH: Final = "/mcp"
"""The path of the endpoint, where an address of HTTP has none: that of the command ``serve``."""

_PORTS: Final = {"http": 80, "https": 443}
_UNIX: Final = "unix:"
_HTTP_UNIX: Final = "http+unix:"
_TCP: Final = "tcp:"
_MAX_PORT: Final = 0xFFFF


@final
@attrs.frozen(kw_only=True)
class ServerAddress:
    """Where a server is reached, and how it is spoken to."""

    text: str
    """The address as it was given."""

    unix_path: str | None = None
    """The path of the Unix socket; None for TCP."""

    host: str = ""
    """The host of TCP."""

    port: int = 0
    """The port of TCP."""

    url: str | None = None
    """The URL of the endpoint; None where the protocol goes over the socket as it is."""

    def __str__(self) -> str:
        return self.text

    async def connect(self) -> trio.SocketStream:
        """Connect to the socket of the server. A checkpoint.

        Raises:
            OSError: Nothing listens there.
        """
        if self.unix_path is not None:
            return await trio.open_unix_socket(self.unix_path)
        stream = await trio.open_tcp_stream(self.host, self.port)
        notice_vanished(stream.socket, float("inf"))
        return stream

    async def probe(self) -> None:
        """Check that something listens there. A checkpoint.

        Raises:
            OSError: Nothing listens there.
        """
        await trio.aclose_forcefully(await self.connect())

    @property
    def lock_path(self) -> str:
        """Where the lock is that a process holds while it starts the server."""
        if self.unix_path is not None:
            return f"{self.unix_path}.lock"
        name = hashlib.sha256(f"{self.host}:{self.port}".encode()).hexdigest()[:16]
        folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return os.path.join(folder, f"trio-mcp-session-{os.geteuid()}-{name}.lock")


def parse_server_address(text: str) -> ServerAddress:
    """Read where a server is.

    Raises:
        argparse.ArgumentTypeError: It is in none of the forms.
    """
    if text.startswith(_UNIX) and text != _UNIX:
        return ServerAddress(text=text, unix_path=text.removeprefix(_UNIX))
    if text.startswith(_HTTP_UNIX) and text != _HTTP_UNIX:
        path, url = text.removeprefix(_HTTP_UNIX), f"http://localhost{DEFAULT_PATH}"
        return ServerAddress(text=text, unix_path=path, url=url)
    try:
        if text.startswith(_TCP):
            host, port = _host_and_port(f"//{text.removeprefix(_TCP)}", None)
            return ServerAddress(text=text, host=host, port=port)
        parts = urlsplit(text)
        if parts.scheme in _PORTS and not (parts.username or parts.query or parts.fragment):
            host, port = _host_and_port(text, _PORTS[parts.scheme])
            path = parts.path.rstrip("/") and parts.path
            url = f"{parts.scheme}://{parts.netloc}{path or DEFAULT_PATH}"
            return ServerAddress(text=text, host=host, port=port, url=url)
    except ValueError:
        pass  # A port that is not a number, or brackets that do not close.
    raise argparse.ArgumentTypeError(f"must be {FORMS}, not {text!r}")


def _host_and_port(url: str, default: int | None) -> tuple[str, int]:
    """Return host and port of a URL.

    Raises:
        ValueError: It has no host, or no port and there is no default.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or default
    if not host or port is None:
        raise ValueError("a host or a port is missing")
    return host, port
