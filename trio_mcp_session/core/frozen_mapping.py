"""Read-only copies of JSON values, for values that several requests share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard, final


@final
class FrozenMapping(Mapping[str, Any]):
    """A mapping that nothing can change. Unlike `types.MappingProxyType`, it can be copied."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items: Final = {name: _frozen_value(value) for name, value in items.items()}

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items!r})"


EMPTY: Final = FrozenMapping({})
"""The mapping without items."""


def frozen(items: Mapping[str, Any]) -> FrozenMapping:
    """Return a read-only copy of a mapping, with the mappings and lists in it. Not a checkpoint.

    Lists become tuples. Other values, such as objects, are kept as they are.
    """
    return items if isinstance(items, FrozenMapping) else FrozenMapping(items)


def _frozen_value(value: object) -> object:
    if _is_dict(value):
        return frozen(value)
    if _is_list(value):
        return tuple(_frozen_value(one) for one in value)
    return value


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
