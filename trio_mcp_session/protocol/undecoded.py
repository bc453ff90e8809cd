"""JSON objects that are kept as text: they take less memory than as Python objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

from .jsonrpc import Params, decode_json, encode_json


@final
class UndecodedObject(Mapping[str, Any]):
    """A JSON object as a mapping. Each use decodes it again, so its values are new each time."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text: Final = text

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> UndecodedObject:
        """Make it from a decoded object."""
        return cls(encode_json(value))

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self._text)

    def __repr__(self) -> str:
        return repr(self._decode())

    def __getitem__(self, key: str) -> Any:
        return self._decode()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decode())

    def __len__(self) -> int:
        return len(self._decode())

    def _decode(self) -> Params:
        value: Params = decode_json(self._text)
        return value
