"""The keys that a server signs the ``requestState`` of its clients with."""

from __future__ import annotations

import hmac
import secrets
from typing import Final, final

KEY_BYTES: Final = 32
"""Bytes of a random key. A key that the user passes has at least half as many."""


@final
class RequestStateKeys:
    """The keys that ``requestState`` is signed with (2026-07-28).

    If clients of one process may reach another one, both need the same keys.

    Args:
        *keys: At least 16 bytes each. The first one signs, all of them are recognised. By default
            one random key.

    Raises:
        ValueError: A key is too short.
        TypeError: A key is not made of bytes.
    """

    def __init__(self, *keys: bytes) -> None:
        self._keys: tuple[bytes, ...] = tuple(map(_checked, keys)) or (_new_key(),)

    def __repr__(self) -> str:
        return f"<RequestStateKeys: {len(self._keys)}>"

    def rotate(self, key: bytes | None = None, *, keep: int = 1) -> None:
        """Sign with another key from now on. Not a checkpoint.

        Args:
            key: The new key; a random one by default.
            keep: How many of the previous keys are still recognised. One is enough if
                `CleanupConfig.request_state_timeout` passes between two rotations.

        Raises:
            ValueError: The key is too short, or ``keep`` is negative.
            TypeError: The key is not made of bytes.
        """
        if keep < 0:
            raise ValueError(f"keep must be at least 0, not {keep!r}")
        newest = _new_key() if key is None else _checked(key)
        self._keys = (newest, *self._keys[:keep])

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``. Not a checkpoint."""
        return _signature(self._keys[0], data)

    def recognise(self, signature: bytes, data: bytes) -> bool:
        """Return whether ``signature`` of ``data`` is from one of the keys. Not a checkpoint."""
        return any(hmac.compare_digest(signature, _signature(key, data)) for key in self._keys)


def _signature(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _checked(key: bytes) -> bytes:
    if not isinstance(key, bytes):
        raise TypeError(f"keys must be bytes, not {type(key).__name__}")
    if len(key) < KEY_BYTES // 2:
        raise ValueError(f"keys must have at least {KEY_BYTES // 2} bytes, not {len(key)}")
    return key
