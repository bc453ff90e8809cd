"""Errors of test clients: a request has no answer, and will not get one."""

from __future__ import annotations

from collections.abc import Mapping


class ConnectionEnded(Exception):
    """The connection is closed: the request was not answered, and will not be."""


class HttpRefused(ConnectionEnded):
    """An HTTP request was refused, or its response has no answer to the JSON-RPC request.

    JSON-RPC errors with the request's id are raised as `McpError` instead, whatever the status is.
    """

    def __init__(self, what: str, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(f"{what} was not answered: HTTP status {status}, {text or 'no body'}")
        self.status = status
        """The HTTP status: 403, for example."""
        self.headers = headers
        """The headers of the response, with names in lower case."""
        self.text = text
        """The body of the response."""
