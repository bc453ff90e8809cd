"""Lists in pages (all revisions, *Pagination*).

A cursor names the last item of a page, and nothing else: it means the same on every connection and
in every process that has the same list, and nothing is kept for it. What is added to a list does
not move the pages that are still to come.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import attrs

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params

T = TypeVar("T")

AFTER: Final = b">"
"""Begins a cursor before it is encoded, so that even the item with an empty key has one."""


@final
@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """Some items of a list, and how to get at those behind them. `paginate` makes it."""

    items: Sequence[T]
    """The items of this page."""

    next_cursor: str | None
    """What a client sends for the next page; None at the end of the list."""

    def result(self, member: str, items: Iterable[object] | None = None) -> dict[str, Any]:
        """Return the result of a request for the page.

        Args:
            member: What the protocol calls the list, for example ``resources``.
            items: The items as they are to be sent; `items` themselves by default.
        """
        result: dict[str, Any] = {member: list(self.items if items is None else items)}
        if self.next_cursor is not None:
            result["nextCursor"] = self.next_cursor
        return result


def paginate(
    items: Iterable[T], params: Params, page_size: int | None, key: Callable[[T], str]
) -> Page[T]:
    """Return the page of a list that a request asks for. Not a checkpoint.

    Args:
        items: The whole list, in an order that stays.
        params: The request's parameters, of which ``cursor`` says where the page begins.
        page_size: How many items there are on a page; None for all that are left.
        key: What an item is called; no two may be called the same.

    Raises:
        McpError: -32602, the cursor is none of this list, or the item that it names is gone. The
            client begins again.
        ValueError: ``page_size`` is less than 1.
    """
    if page_size is not None and page_size < 1:
        raise ValueError(f"page_size must be at least 1, not {page_size!r}")
    left = list(items)
    cursor = params.get("cursor")
    if cursor is not None:
        name = _read(cursor)
        found = [number for number, item in enumerate(left, 1) if key(item) == name]
        if not found:
            raise McpError(INVALID_PARAMS, "Unknown cursor")
        left = left[found[-1] :]
    shown = left[:page_size]
    more = len(shown) < len(left)
    return Page(items=shown, next_cursor=_write(key(shown[-1])) if more else None)


def _write(name: str) -> str:
    return base64.urlsafe_b64encode(AFTER + name.encode()).decode()


def _read(cursor: object) -> str | None:
    """Return the name in a cursor; None where it cannot be one of ours."""
    if not isinstance(cursor, str):
        return None
    try:
        said = base64.b64decode(cursor, altchars=b"-_", validate=True)
        return said.removeprefix(AFTER).decode() if said.startswith(AFTER) else None
    except ValueError:  # No Base64, or no text.
        return None
