"""Lists in pages: complete, in order, whatever happens to the list between two pages."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from trio.testing import MockClock

from tests import strategies
from tests.application.client import ERAS, connected
from tests.helpers import brief, connect, error, modern, serving
from trio_mcp_session import CacheHint, McpError, Page, RequestContext, Router, paginate


def name(item: str) -> str:
    return item


def all_pages(items: list[str], page_size: int | None) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        params = {} if cursor is None else {"cursor": cursor}
        page = paginate(items, params, page_size, name)
        pages.append(list(page.items))
        cursor = page.next_cursor
        if cursor is None:
            return pages


@given(st.lists(strategies.texts, unique=True, max_size=8), st.none() | st.integers(1, 10))
@example(["", ">", ">>"], 1)
def test_pages_together_are_the_list(items: list[str], page_size: int | None) -> None:
    pages = all_pages(items, page_size)
    assert [item for page in pages for item in page] == items
    # All are full but the last, which is empty only where all is.
    assert all(len(page) == page_size for page in pages[:-1])
    assert page_size is None or len(pages[-1]) <= page_size
    assert pages[-1] or not items


@given(
    items=st.lists(strategies.texts, unique=True, min_size=1, max_size=8),
    more=st.lists(strategies.texts, unique=True, max_size=4),
    page_size=st.integers(1, 4),
    seed=st.randoms(use_true_random=False),
)
def test_added_items_do_not_move_pages(
    items: list[str], more: list[str], page_size: int, seed: Any
) -> None:
    """What was there all the time is shown once, wherever something is added meanwhile."""
    current = list(items)
    to_add = [one for one in more if one not in items]
    shown: list[str] = []
    cursor: str | None = None
    while True:
        page = paginate(current, {} if cursor is None else {"cursor": cursor}, page_size, name)
        shown += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        if to_add:
            current.insert(seed.randint(0, len(current)), to_add.pop())
    assert [one for one in shown if one in items] == items
    assert len(set(shown)) == len(shown)


def test_removed_items_do_not_move_pages() -> None:
    page = paginate("abcdef", {}, 2, name)
    assert (page.items, page.next_cursor is None) == (["a", "b"], False)
    cursor = {"cursor": page.next_cursor}
    assert paginate("bdef", cursor, 2, name).items == ["d", "e"]
    # But where the place itself is gone, its position is unknown.
    with pytest.raises(McpError):
        paginate("acdef", cursor, 2, name)


def test_paging_ends_with_duplicate_keys() -> None:
    assert all_pages(["a", "a", "b"], 1) == [["a"], ["b"]]


def test_page_result_has_items_and_next_cursor() -> None:
    first = paginate(["a", "b"], {}, 1, name)
    assert first.result("things") == {"things": ["a"], "nextCursor": first.next_cursor}
    assert first.result("things", [{"name": "a"}])["things"] == [{"name": "a"}]
    last = paginate(["a", "b"], {"cursor": first.next_cursor}, 1, name)
    assert last.result("things") == {"things": ["b"]}
    assert last == Page(items=["b"], next_cursor=None)


def test_cursor_works_in_every_process() -> None:
    """It names its place and holds nothing else: it is good for the next process, too."""
    (one, other) = (paginate("abc", {}, 1, name).next_cursor for _ in range(2))
    assert one == other
    assert one is not None
    assert paginate("abc", {"cursor": one}, None, name).items == ["b", "c"]


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode()


UNKNOWN: list[object] = [
    "",
    "a",
    ">a",
    encoded(b"a"),
    encoded(b">A"),
    encoded(b">z"),
    encoded(b">"),
    encoded(b">a").rstrip("="),
    encoded(b">a") + "\n",
    encoded(b">\xff"),
    "é",
    0,
    1,
    True,
    False,
    [],
    {},
    1.5,
]


@pytest.mark.parametrize("cursor", UNKNOWN)
@pytest.mark.parametrize("page_size", [None, 1])
def test_unknown_cursor_is_invalid_params(cursor: object, page_size: int | None) -> None:
    with pytest.raises(McpError) as caught:
        paginate("abc", {"cursor": cursor}, page_size, name)
    assert (caught.value.code, caught.value.message) == (-32602, "Unknown cursor")


@given(strategies.json_values)
@example(None)
@example("")
def test_any_foreign_cursor_is_invalid_params(cursor: Any) -> None:
    if cursor is None:
        assert paginate("abc", {"cursor": cursor}, 1, name).items == ["a"]
        return
    with pytest.raises(McpError) as caught:
        paginate("abc", {"cursor": cursor}, 1, name)
    assert caught.value.code == -32602


def test_without_a_cursor_it_is_the_first_page() -> None:
    several: list[dict[str, Any]] = [{}, {"cursor": None}, {"other": 1}]
    for params in several:
        assert paginate("abc", params, 2, name).items == ["a", "b"]
    assert paginate([], {}, 2, name) == Page(items=[], next_cursor=None)


@pytest.mark.parametrize("page_size", [0, -1])
def test_page_size_below_one_is_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match="page_size must be at least 1"):
        paginate("abc", {}, page_size, name)
    with pytest.raises(ValueError, match="page_size must be at least 1"):
        Router("test", page_size=page_size)


# The tools of a router.


async def nothing(ctx: RequestContext) -> None: ...


def with_tools(names: str, **settings: Any) -> Router:
    router = Router("test", **settings)
    for one in names:
        router.tool(name=one)(nothing)
    return router


def names_of(result: Any) -> str:
    return "".join(tool["name"] for tool in result["tools"])


@pytest.mark.parametrize("version", ERAS)
async def test_tools_list_in_pages(version: str, autojump_clock: MockClock) -> None:
    router = with_tools("dacb", page_size=2)
    async with connected(router, version) as client:
        first = await client.request("tools/list")
        assert names_of(first) == "da"
        router.tool(name="e")(nothing)
        second = await client.request("tools/list", {"cursor": first["nextCursor"]})
        assert names_of(second) == "cb"
        third = await client.request("tools/list", {"cursor": second["nextCursor"]})
        assert names_of(third) == "e"
        assert "nextCursor" not in third
        for unknown in ("", "a", 5):
            refused = await client.refused("tools/list", {"cursor": unknown})
            assert refused["code"] == -32602
        router.remove_tool("b")
        gone = await client.refused("tools/list", {"cursor": second["nextCursor"]})
        assert gone == {"code": -32602, "message": "Unknown cursor"}


@pytest.mark.parametrize("version", ERAS)
async def test_tools_list_without_page_size_is_one_page(
    version: str, autojump_clock: MockClock
) -> None:
    async with connected(with_tools("dacb"), version) as client:
        listed = await client.request("tools/list")
        assert names_of(listed) == "dacb"
        assert "nextCursor" not in listed
        assert (await client.refused("tools/list", {"cursor": ""}))["code"] == -32602


async def test_all_pages_have_the_same_cache_hint(autojump_clock: MockClock) -> None:
    hints = {"tools/list": CacheHint(max_age=5, scope="public")}
    async with serving(with_tools("abc", page_size=1, cache_hints=hints)) as manager:
        peer = await connect(manager)
        cursor: dict[str, Any] = {}
        for number in range(3):
            answer = await peer.ask(number, "tools/list", modern(0, "", cursor)["params"])
            said = answer["result"]
            assert (said["ttlMs"], said["cacheScope"]) == (5000, "public")
            cursor = {"cursor": said.get("nextCursor")}
        assert cursor == {"cursor": None}
        # An error says nothing of that.
        unknown = await peer.ask(9, "tools/list", modern(0, "", {"cursor": ""})["params"])
        assert brief(unknown) == error(9, -32602)
        await peer.channel.aclose()
