"""Rate limits: token buckets, one for each party or for each party and method."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import ceil, inf
from typing import Any, Final, final

import attrs

MAX_BUCKETS: Final = 100_000
"""How many buckets are kept that are not full. Above that, the one used least recently is dropped:
a limit is then less strict, and the memory stays bounded."""


def _rate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{attribute.name} must be a number above 0, not {value!r}")


def _burst(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


@final
@attrs.frozen
class RateLimit:
    """A token bucket: how often something may happen.

    The bucket begins full. Each time takes one token; without a token it is refused.
    """

    per_second: float = attrs.field(validator=_rate)
    """Tokens that are added each second; `math.inf` turns the limit off."""

    burst: int = attrs.field(default=1, validator=_burst)
    """Tokens that the bucket holds: how often it may happen at once after a pause."""

    def __str__(self) -> str:
        return "inf" if self.is_off else f"{self.per_second:g}:{self.burst}"

    @property
    def is_off(self) -> bool:
        """Whether the limit is off."""
        return self.per_second == inf

    def buckets(self) -> TokenBuckets | None:
        """Return buckets for this limit; None if it is off."""
        return None if self.is_off else TokenBuckets(self)


@final
@attrs.define(eq=False)
class TokenBuckets:
    """The buckets of one limit, by key. A full bucket takes no memory.

    A bucket is stored as the moment at which it will be full (the *generic cell rate algorithm*).
    """

    limit: RateLimit
    _full_at: OrderedDict[Hashable, float] = attrs.field(
        factory=OrderedDict[Hashable, float], init=False
    )

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable, now: float) -> float:
        """Take a token.

        Args:
            key: The key of the bucket.
            now: The time in seconds, on a clock that never goes back.

        Returns:
            0 if a token was taken; otherwise the seconds until the next one.
        """
        self._drop_full(now)
        interval = 1 / self.limit.per_second
        full_at = max(self._full_at.get(key, now), now) + interval
        wait = full_at - now - self.limit.burst * interval
        if wait > interval * 1e-6:  # The rest is rounding.
            return wait
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        return 0.0

    def _drop_full(self, now: float) -> None:
        """Drop at most two full buckets, so that each call costs the same."""
        for _ in range(2):
            if not self._full_at:
                return
            key, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) < MAX_BUCKETS:
                return
            del self._full_at[key]


def whole_seconds(wait: float) -> int:
    """Return a wait as the header ``Retry-After`` has it: whole seconds, at least 1."""
    return max(1, ceil(wait))
