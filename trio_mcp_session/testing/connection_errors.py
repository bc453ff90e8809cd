"""Errors of test clients whose messages get no answer."""

from __future__ import annotations

from collections.abc import Mapping


class ConnectionEnded(Exception):
    """The connection is closed, and the message gets no answer."""


class HttpRefused(ConnectionEnded):
    """The server refused an HTTP request, or its response does not contain the answer.

    A JSON-RPC error with the id of the request is raised as `McpError`, whatever the status is.
    """

    def __init__(self, what: str, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(f"{what} was not answered: HTTP status {status}, {text or 'no body'}")
        self.status = status
        """The HTTP status: 403, for example."""
        self.headers = headers
        """The headers of the response, with names in lower case."""
        self.text = text
        """The body of the response."""
