"""Authentication: the principal of each request.

Every request is authenticated, also within a session: a session id proves nothing. A session is
bound to the *subject* that opened it, not to its token, which is refreshed now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeAlias, TypeGuard

from ...core.identity import Principal
from ...core.scopes import as_scopes
from ...protocol.error_codes import INTERNAL_ERROR
from ...sessions.error_log import write_log
from ...sessions.interrupts import run_user_code
from ..asgi import Scope
from .headers import as_mapping
from .http_error import HttpError
from .json_response import Header

Authenticate: TypeAlias = Callable[[Scope, Mapping[str, str]], Awaitable[Principal | None]]
"""Returns the principal of a request, from its ASGI scope and its headers by lower-case name; None
for an anonymous client. It raises `AuthenticationFailed` to refuse."""


class AuthenticationFailed(Exception):
    """Raise it in an ``authenticate`` hook: the request is refused.

    Args:
        message: One sentence for the client.
        status: 401 for missing or bad credentials, 403 for insufficient ones, 400 for malformed
            ones, 503 if they cannot be checked now (the answer has ``Retry-After`` then).
        www_authenticate: The challenge, such as
            ``Bearer resource_metadata="https://...", scope="..."``.
    """

    def __init__(
        self,
        message: str = "Authentication required",
        *,
        status: int = 401,
        www_authenticate: str | None = None,
    ) -> None:
        super().__init__(message)
        if not 400 <= status < 600:  # noqa: PLR2004  # what refuses
            raise ValueError(f"status must refuse the request, not be {status}")
        if www_authenticate is not None and any(char in www_authenticate for char in "\r\n\0"):
            raise ValueError("www_authenticate must be one line")
        self.message = message
        self.status = status
        self.www_authenticate = www_authenticate


async def principal_of(
    scope: Scope, authenticate: Authenticate | None, *, retry_after: Header | None = None
) -> Principal | None:
    """Authenticate a request. A checkpoint if the hook is one.

    Args:
        scope: The request.
        authenticate: The application's own hook; without one, what ASGI middleware left in
            ``scope["user"]`` counts.
        retry_after: The header of answers with status 503.

    Raises:
        HttpError: The hook refused, or failed.
    """
    try:
        if authenticate is None:
            user = scope.get("user")
            return None if user is None else principal_of_user(user, scope.get("auth"))
        found = await run_user_code(authenticate, scope, as_mapping(scope["headers"]))
        return checked_principal(found, "authenticate")
    except AuthenticationFailed as failure:
        challenge = failure.www_authenticate
        headers: list[Header] = []
        if challenge is not None:
            headers.append((b"www-authenticate", challenge.encode("latin-1", "replace")))
        if retry_after is not None and failure.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append(retry_after)
        raise HttpError(failure.status, failure.message, headers=headers) from failure
    except Exception as error:
        write_log(logging.ERROR, "authentication raised; the request is refused", error=error)
        raise HttpError(500, "Internal error", code=INTERNAL_ERROR) from error


def checked_principal(principal: object, hook: str) -> Principal | None:
    """Return what a hook has returned, if it is a principal or None. Not a checkpoint.

    Raises:
        TypeError: It is something else. With False, for example, all rejected clients would share
            one principal.
    """
    if principal is None or isinstance(principal, Principal):
        return principal
    raise TypeError(f"{hook} must return a Principal or None, not a {type(principal).__name__}")


def principal_of_user(user: Any, auth: Any = None) -> Principal | None:
    """Read what authentication middleware says of the user.

    It understands text, mappings with the claims of a token (``sub``, ``iss``), Starlette's users
    (``identity``, ``username`` or ``display_name``) and users of the official SDK, whose
    ``access_token`` names subject and client. The scopes come from the token, or else from
    ``auth``.

    Args:
        user: ``scope["user"]``.
        auth: ``scope["auth"]``, where Starlette has the scopes.

    Raises:
        TypeError: The user is authenticated, but has no name.
    """
    held = getattr(auth, "scopes", ())
    if isinstance(user, str):
        if user:
            return Principal(user, scopes=held)
    elif _is_mapping(user):
        subject = user.get("sub")
        if isinstance(subject, str) and subject:
            issuer = str(user.get("iss") or "")
            return Principal(subject, issuer, claims=user, scopes=scopes_of_claims(user) or held)
    elif not getattr(user, "is_authenticated", True):
        return None
    else:
        token = getattr(user, "access_token", None)
        if token is not None:
            return _principal_of_token(token)
        for name in ("identity", "username", "display_name"):
            with suppress(NotImplementedError):  # Starlette's base class, for what it does not know
                subject = getattr(user, name, None)
                if isinstance(subject, str) and subject:
                    return Principal(subject, scopes=held)
    raise TypeError(f"scope['user'] is a {type(user).__name__} without a name")


def scopes_of_claims(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes of a token: ``scope`` (RFC 9068) or ``scp``, as text or as a list."""
    for name in ("scope", "scp"):
        found = claims.get(name)
        if isinstance(found, str):
            return as_scopes(found)
        if _is_list(found):
            return frozenset(map(str, found))
    return frozenset()


def _principal_of_token(token: Any) -> Principal:
    found = getattr(token, "claims", None)
    claims: Mapping[str, Any] = found if _is_mapping(found) else {}
    issuer = str(claims.get("iss") or "")
    scopes = getattr(token, "scopes", None) or ()
    subject, client_id = getattr(token, "subject", None), getattr(token, "client_id", None)
    if isinstance(subject, str) and subject:
        return Principal(subject, issuer, claims=claims, scopes=scopes)
    if isinstance(client_id, str) and client_id:
        return principal_of_client(client_id, issuer, claims, scopes)
    raise TypeError("scope['user'] has a token that names neither subject nor client")


def principal_of_client(
    client_id: str, issuer: str, claims: Mapping[str, Any], scopes: Iterable[str]
) -> Principal:
    """Return the principal of a program that acts for itself.

    A user can have the name of a program: these are different principals.
    """
    return Principal(client_id, f"clients of {issuer}", claims=claims, scopes=scopes)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)
