"""A metaclass for classes that only the library makes objects of."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, TypeVar

T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """Metaclass of classes that only the library instantiates, with ``Class._create(...)``.

    Calling such a class raises `TypeError`: an object made by the user would have no manager.
    """

    def __call__(cls, *_args: object, **_kwargs: object) -> None:
        """Raise `TypeError`."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: Any, **kwargs: Any) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc,no-any-return]  # type's own
