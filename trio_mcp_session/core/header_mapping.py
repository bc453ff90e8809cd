"""The headers of a request, for handlers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, final


@final
class Headers(Mapping[str, str]):
    """The headers of a request: read-only, found by a name in any case.

    Headers that came more than once are joined: with commas, cookies with semicolons (RFC 9110,
    section 5.3; RFC 9113, section 8.2.3). ``repr`` shows the names only, since values can be
    secrets.
    """

    __slots__ = ("_values",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        values: dict[str, str] = {}
        for raw_name, raw_value in raw:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name in values:
                value = f"{values[name]}{'; ' if name == 'cookie' else ', '}{value}"
            values[name] = value
        self._values: Final = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self._values)}>"


NO_HEADERS: Final = Headers()
"""The headers of requests on transports that have none."""
