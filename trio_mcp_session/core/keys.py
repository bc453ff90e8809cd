"""The keys by which a server knows again what it gave its clients to carry."""

from __future__ import annotations

import hmac
import secrets
from typing import Final, final

KEY_BYTES: Final = 32
"""Random bytes of a key; no key of one's own may be shorter than half of that."""


@final
class RequestStateKeys:
    """The keys that ``requestState`` is signed with (2026-07-28).

    Processes that serve each other's clients have to be given the same keys.

    Args:
        *keys: At least 16 bytes each. The first one signs, all of them are recognised. Without
            any, a random one.

    Raises:
        ValueError: A key is too short.
    """

    def __init__(self, *keys: bytes) -> None:
        self._keys: tuple[bytes, ...] = tuple(map(_checked, keys)) or (_new_key(),)

    def __repr__(self) -> str:
        return f"<RequestStateKeys: {len(self._keys)}>"

    def rotate(self, key: bytes | None = None, *, keep: int = 1) -> None:
        """Sign with another key from now on. Not a checkpoint.

        Args:
            key: The new key; a random one by default.
            keep: How many of the keys so far are still recognised. Who rotates twice within
                `CleanupConfig.request_state_timeout` needs two.

        Raises:
            ValueError: The key is too short, or ``keep`` is negative.
        """
        if keep < 0:
            raise ValueError(f"keep must be at least 0, not {keep!r}")
        newest = _new_key() if key is None else _checked(key)
        self._keys = (newest, *self._keys[:keep])

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``. Not a checkpoint."""
        return _signature(self._keys[0], data)

    def recognise(self, signature: bytes, data: bytes) -> bool:
        """Tell whether one of the keys signed ``data`` so. Not a checkpoint."""
        return any(hmac.compare_digest(signature, _signature(key, data)) for key in self._keys)


def _signature(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _checked(key: bytes) -> bytes:
    if len(key) < KEY_BYTES // 2:
        raise ValueError(f"keys must have at least {KEY_BYTES // 2} bytes, not {len(key)}")
    return key
