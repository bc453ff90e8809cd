"""Ranking: which key holds the most of what is counted, in constant time for each change."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar, final

import attrs

K = TypeVar("K", bound=Hashable)


@final
@attrs.define(eq=False)
class Ranking(Generic[K]):
    """Counts by key. A key takes memory only while its count is not 0."""

    _counts: dict[K, int] = attrs.field(factory=dict[K, int], init=False)
    _keys: dict[int, dict[K, None]] = attrs.field(factory=dict[int, dict[K, None]], init=False)
    """The keys by their count, in the order in which they reached it."""
    most: int = attrs.field(default=0, init=False)
    """The highest count; 0 if there is none."""

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, key: K) -> int:
        return self._counts.get(key, 0)

    @property
    def leaders(self) -> Iterable[K]:
        """The keys with the highest count. Do not change the ranking while iterating."""
        return self._keys.get(self.most, {}).keys()

    def add(self, key: K) -> None:
        """Count one more for a key."""
        before = self._counts.get(key, 0)
        if before:
            self._leave(key, before)
        self._counts[key] = before + 1
        self._keys.setdefault(before + 1, {})[key] = None
        self.most = max(self.most, before + 1)

    def remove(self, key: K) -> None:
        """Count one less for a key, which must have a count.

        Raises:
            KeyError: It has none.
        """
        before = self._counts[key]
        self._leave(key, before)
        if before == 1:
            del self._counts[key]
        else:
            self._counts[key] = before - 1
            self._keys.setdefault(before - 1, {})[key] = None
        if before == self.most and before not in self._keys:
            self.most = before - 1  # The key itself has this count, unless nothing is counted.

    def _leave(self, key: K, count: int) -> None:
        del self._keys[count][key]
        if not self._keys[count]:
            del self._keys[count]
