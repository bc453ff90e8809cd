"""The application of the admin address: checks of the request, then one of its pages.

All pages stand behind the same checks, in this order: ``Host`` and ``Origin``, as for web pages of
others on this machine, then the token. A page is an ASGI application for one path; it needs no
checks of its own.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Final, final

from ..transports.asgi import ASGIApplication, Receive, Scope, Send
from ..transports.http.headers import read_headers, values_of
from ..transports.http.http_error import HttpError
from ..transports.http.json_response import Header, respond
from ..transports.http.origin import OriginPolicy

PLAIN: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
)
READING: Final = ("GET", "HEAD")
"""Methods that change nothing."""


@final
class AdminApp:
    """An ASGI 3 application.

    Args:
        pages: The pages by their paths.
        token: What clients send as ``Authorization: Bearer``; None if they need nothing.
        allowed_hosts: What ``Host`` may be, as for `http_app`.
    """

    def __init__(
        self,
        pages: Mapping[str, ASGIApplication],
        *,
        token: str | None = None,
        allowed_hosts: Collection[str] | None = None,
    ) -> None:
        self._pages: Final = dict(pages)
        self._token: Final = None if token is None else token.encode()
        self._policy: Final = OriginPolicy(allowed_hosts, ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. A checkpoint if the server's ``send`` is one."""
        if scope["type"] != "http":
            return
        try:
            self._policy.check(scope, read_headers(scope["headers"]))
        except HttpError as error:
            await respond(send, error.status, _line("Host or Origin is not allowed"), PLAIN)
            return
        page = self._pages.get(scope["path"])
        if not self._knows(scope):
            challenge = (b"www-authenticate", b"Bearer")
            await respond(send, 401, _line("A bearer token is needed"), (*PLAIN, challenge))
        elif page is None:
            await respond(send, 404, _line("Not found"), PLAIN)
        else:
            await page(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        """Return whether a request has the token."""
        if self._token is None:
            return True
        given = list(values_of(scope["headers"], b"authorization"))
        if len(given) != 1:
            return False
        kind, _, token = given[0].partition(" ")
        # In a time that does not depend on how much of it is right.
        return kind.lower() == "bearer" and hmac.compare_digest(
            token.strip(" ").encode("latin-1"), self._token
        )


def _line(text: str) -> bytes:
    return text.encode() + b"\n"
