"""Keys of an issuer (JWKS, RFC 7517): fetched in a thread, kept for a while, fetched again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard, final
from urllib.parse import urlsplit

import attrs
import trio

from ...protocol.jsonrpc import is_object
from ...sessions.error_log import write_log
from .authentication import AuthenticationFailed

MAX_BYTES: Final = 1_048_576
"""The largest document: a hundred keys with certificates take a tenth of it."""

MAX_KEYS: Final = 100
"""The most keys of a document: more than issuers have while they rotate them."""

_CHUNK: Final = 65_536
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

Key = Mapping[str, Any]
"""One key, as the document has it."""


class KeysUnavailable(Exception):
    """The keys could not be fetched: the address did not answer, or its answer has no keys."""


def check_url(url: str) -> None:
    """Refuse an address that keys must not come from. Not a checkpoint.

    Raises:
        ValueError: It is not ``https``, nor ``http`` on this machine.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise ValueError(f"keys must come from an https URL (http for this machine only), not {url!r}")


def fetch(url: str, timeout: float) -> tuple[Key, ...]:
    """Fetch keys. It blocks: call it in a thread.

    Raises:
        KeysUnavailable: There was no answer within the time, or it has no keys.
    """
    # On first use: they take as long to import as half of the library.
    import urllib.request  # noqa: PLC0415
    from http.client import HTTPException  # noqa: PLC0415
    from urllib.error import HTTPError  # noqa: PLC0415

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        """Keys come from the address that was configured only."""

        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    end = time.monotonic() + timeout
    opener = urllib.request.build_opener(NoRedirects)
    body = b""
    try:
        # The scheme was checked by `check_url`.
        with opener.open(url, timeout=timeout) as response:
            while chunk := response.read1(_CHUNK):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise KeysUnavailable(f"{url} sends more than {MAX_BYTES} bytes")
                if time.monotonic() > end:
                    raise KeysUnavailable(f"{url} took longer than {timeout:g} s")
        return read_keys(json.loads(body), url)
    except HTTPError as error:
        error.close()
        raise KeysUnavailable(f"{url} answers with status {error.code}") from error
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise KeysUnavailable(f"{url} sends no keys: {error}") from error


def read_keys(document: object, url: str) -> tuple[Key, ...]:
    """Return the keys of a document that sign. Not a checkpoint.

    Raises:
        KeysUnavailable: It is not a set of keys, or there are too many.
    """
    found = document.get("keys") if is_object(document) else None
    if not _is_list(found) or len(found) > MAX_KEYS:
        raise KeysUnavailable(f"{url} does not have a set of up to {MAX_KEYS} keys")
    return tuple(key for key in found if is_object(key) and key.get("use", "sig") == "sig")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list)


@final
@attrs.define(eq=False)
class KeySet:
    """The keys at one address. Tasks that need them at the same time share one fetch."""

    url: str
    max_age: float
    """Seconds after which keys are fetched again."""
    cooldown: float
    """Seconds between two attempts, whether for an unknown key or after a failure."""
    timeout: float
    """Seconds for one attempt."""
    _keys: tuple[Key, ...] | None = attrs.field(default=None, init=False)
    _fetched: float = attrs.field(default=0.0, init=False)
    _tried: float | None = attrs.field(default=None, init=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    generation: int = attrs.field(default=0, init=False)
    """Changes when the keys do."""

    async def find(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys with an id; all without one. A checkpoint if they must be fetched.

        Keys that are too old are used on while new ones cannot be fetched, for ``max_age`` more.

        Raises:
            AuthenticationFailed: 503, the keys cannot be fetched, and no older ones may be used.
        """
        found = _with_id(self._keys, kid)
        if self._must_fetch(found) and not (found and self._lock.locked()):
            async with self._lock:
                # Another task may have fetched them meanwhile.
                await self._fetch_unless(kid)
            found = _with_id(self._keys, kid)
        if self._keys is None or not self._is_younger_than(2 * self.max_age):
            raise AuthenticationFailed("Tokens cannot be checked now", status=503)
        return found

    def _must_fetch(self, found: tuple[Key, ...]) -> bool:
        if found and self._is_younger_than(self.max_age):
            return False
        tried = self._tried
        return tried is None or not 0 <= trio.current_time() - tried < self.cooldown

    def _is_younger_than(self, age: float) -> bool:
        # The clock begins anew with each run of Trio.
        return 0 <= trio.current_time() - self._fetched < age

    async def _fetch_unless(self, kid: str | None) -> None:
        """Fetch the keys, unless there is a fresh one with this id, or it is too early."""
        if not self._must_fetch(_with_id(self._keys, kid)):
            return
        # Also if this is cancelled: the thread may still wait, and there must not be many.
        self._tried = trio.current_time()
        try:
            keys = await trio.to_thread.run_sync(
                fetch, self.url, self.timeout, abandon_on_cancel=True
            )
        except KeysUnavailable as error:
            write_log(
                logging.WARNING,
                "keys cannot be fetched; the next attempt is made in %g s at the earliest",
                self.cooldown,
                error=error,
            )
        else:
            self._keys, self._fetched = keys, trio.current_time()
            self.generation += 1


def _with_id(keys: tuple[Key, ...] | None, kid: str | None) -> tuple[Key, ...]:
    if keys is None or kid is None:
        return keys or ()
    return tuple(key for key in keys if key.get("kid") == kid)
