"""Lists in pages (all revisions, *Pagination*).

A cursor contains the key of the last item of a page, and nothing else. The server keeps no state
for it, so it works on every connection, and in every process that has the same list. Items that are
added to a list do not move the pages that follow.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, final

import attrs
import trio

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from ..protocol.revisions import Revision
    from .context import RequestContext

T = TypeVar("T")

AFTER: Final = b">"
"""The first byte of a cursor before encoding: a cursor for an empty key is not empty."""


@final
@attrs.frozen(kw_only=True)
class Page(Generic[T]):
    """One page of a list, and the cursor of the next one. `paginate` makes it."""

    items: Sequence[T]
    """The items of this page."""

    next_cursor: str | None
    """The ``cursor`` that requests the next page; None at the end of the list."""

    def result(self, member: str, items: Iterable[object] | None = None) -> dict[str, Any]:
        """Return the result of a request for the page.

        Args:
            member: The name of the list in the protocol, for example ``resources``.
            items: The items in the form in which to send them; `items` unchanged by default.
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
        items: The whole list, in an order that does not change.
        params: The request's parameters; ``cursor`` says where the page begins.
        page_size: Items on a page; None for all that follow the cursor.
        key: Returns the key of an item, which must be unique in the list.

    Raises:
        McpError: -32602, the cursor is not from this list, or its item has been removed. The
            client has to begin again.
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


class Listed(Protocol):
    """What lists show: a tool, prompt, resource or template."""

    def describe(self, revision: Revision, name: str | None, /) -> dict[str, Any]:
        """Return it as its list shows it, by a name or URI."""
        ...


async def list_page(
    context: RequestContext,
    named: Iterable[tuple[str, Listed]],
    member: str,
    page_size: int | None,
) -> dict[str, Any]:
    """Answer the request for a list with a page of it. A checkpoint.

    Args:
        context: The request.
        named: The whole list, by the names or URIs that clients see.
        member: The name of the list in the protocol.
        page_size: Items on a page; None for all that follow the cursor.
    """
    await trio.lowlevel.checkpoint()
    revision = context._request.revision
    assert revision is not None
    page = paginate(named, context.params, page_size, _name_of)
    return page.result(member, [one.describe(revision, name) for name, one in page.items])


def _name_of(named: tuple[str, Listed]) -> str:
    return named[0]


def _write(name: str) -> str:
    return base64.urlsafe_b64encode(AFTER + name.encode()).decode()


def _read(cursor: object) -> str | None:
    """Return the key in a cursor; None if `paginate` did not make it."""
    if not isinstance(cursor, str):
        return None
    try:
        said = base64.b64decode(cursor, altchars=b"-_", validate=True)
        return said.removeprefix(AFTER).decode() if said.startswith(AFTER) else None
    except ValueError:  # Not Base64, or not UTF-8.
        return None
