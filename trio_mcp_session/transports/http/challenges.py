"""Challenges: what ``WWW-Authenticate`` tells a client that is refused (RFC 6750, RFC 9728)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class ProtectedResource(Protocol):
    """A hook that knows about its protected resource. `BearerAuth` is one."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that every request needs."""
        ...

    @property
    def metadata_url(self) -> str | None:
        """Where clients find the metadata of the resource."""
        ...

    @property
    def documents(self) -> Mapping[str, bytes]:
        """The documents that the endpoint serves without authentication, by path."""
        ...


def challenge(
    *,
    metadata_url: str | None,
    scopes: Iterable[str],
    error: str | None = None,
    description: str | None = None,
) -> str:
    """Return a challenge of the Bearer scheme. Not a checkpoint.

    Args:
        metadata_url: The address of the metadata of the protected resource.
        scopes: All scopes that the request needs.
        error: The error code of RFC 6750; None if the request had no credentials.
        description: One sentence for people, in ASCII.
    """
    values = {
        "error": error,
        "error_description": description,
        "resource_metadata": metadata_url,
        "scope": " ".join(scopes) or None,
    }
    shown = ", ".join(f'{name}="{value}"' for name, value in values.items() if value is not None)
    return f"Bearer {shown}".rstrip()


def challenge_of(
    authenticate: object,
    scopes: Iterable[str],
    *,
    error: str | None,
    description: str | None,
) -> str:
    """Return the challenge of a hook for a request that needs further scopes."""
    metadata_url, basic = None, tuple[str, ...]()
    if isinstance(authenticate, ProtectedResource):
        metadata_url, basic = authenticate.metadata_url, authenticate.scopes
    return challenge(
        metadata_url=metadata_url,
        scopes=dict.fromkeys((*basic, *scopes)),
        error=error,
        description=description,
    )
