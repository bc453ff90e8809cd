"""What the server itself refuses, before an application sees it or while one waits for it."""

from __future__ import annotations

from http import HTTPStatus
from typing import final


@final
class RequestRefused(Exception):
    """A request is not served; its connection is closed after the answer.

    Args:
        status: The status of the answer.
        reason: A sentence for the client's author. It never quotes what was sent.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def bad_request(reason: str) -> RequestRefused:
    """Return the error of a request that is not valid HTTP."""
    return RequestRefused(HTTPStatus.BAD_REQUEST, reason)


def too_large(reason: str) -> RequestRefused:
    """Return the error of a head, of trailers or of chunk extensions beyond their limits."""
    return RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)


def body_too_large() -> RequestRefused:
    """Return the error of a body beyond its limit."""
    return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")


def request_timeout(reason: str) -> RequestRefused:
    """Return the error of a request that did not arrive in time."""
    return RequestRefused(HTTPStatus.REQUEST_TIMEOUT, reason)


def too_many_chunks() -> RequestRefused:
    """Return the refusal of a body in too many small chunks."""
    return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body has too many small chunks")
