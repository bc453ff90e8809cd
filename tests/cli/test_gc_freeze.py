"""Short collections: what has survived a full one is not looked at again; afterwards all is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import trio

from trio_mcp_session import Router, SessionManager, run_http, run_stdio
from trio_mcp_session.cli import command, run as run_module, serve as serve_module
from trio_mcp_session.cli.gc_freeze import THRESHOLDS, short_collections
from trio_mcp_session.cli.shutdown import Shutdown
from trio_mcp_session.cli.signals import run_until_signal
from trio_mcp_session.core.config import SessionConfig


class Node:
    """An object that the collector tracks."""

    def __init__(self) -> None:
        self.other: Node | None = None


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Whatever a test does, the next one has the collector as it was."""
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    assert (gc.get_threshold(), gc.callbacks) == (before, callbacks)
    assert gc.get_freeze_count() == 0


def is_looked_at(node: Node) -> bool:
    return any(one is node for one in gc.get_objects())


def test_what_is_there_at_the_beginning_is_frozen() -> None:
    node = Node()
    with short_collections():
        assert not is_looked_at(node)
        assert gc.get_threshold() == THRESHOLDS
    assert is_looked_at(node)


def test_what_survives_a_full_collection_is_frozen() -> None:
    with short_collections():
        node = Node()
        gc.collect(1)
        assert is_looked_at(node)
        gc.collect()
        assert not is_looked_at(node)


def test_full_collections_find_few_objects_while_many_are_made() -> None:
    found: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if (phase, info["generation"]) == ("start", 2):
            found.append(len(gc.get_objects()))

    with short_collections():
        gc.callbacks.append(count)
        try:
            nodes = [Node() for _ in range(100_000)]
        finally:
            gc.callbacks.remove(count)
    assert len(nodes) == 100_000
    assert len(found) > 3
    # A node and its dictionary are two objects.
    assert max(found) <= 3 * THRESHOLDS[0] * (THRESHOLDS[1] + 1) * (THRESHOLDS[2] + 1)


def test_frozen_objects_are_freed_when_nothing_refers_to_them() -> None:
    with short_collections():
        node = Node()
        gc.collect()
        there = weakref.ref(node)
        del node
        assert there() is None


def test_a_circle_of_new_objects_is_still_found() -> None:
    with short_collections():
        node, other = Node(), Node()
        node.other, other.other = other, node
        there = weakref.ref(node)
        del node, other
        assert there() is not None
        gc.collect()
        assert there() is None


@pytest.mark.parametrize("gc_freeze", [False, True])
async def test_it_begins_when_the_server_is_open_and_ends_with_serving(gc_freeze: bool) -> None:
    during: list[bool] = []

    async def serve(manager: SessionManager, _: Shutdown) -> None:
        await trio.lowlevel.checkpoint()
        during.append(gc.get_freeze_count() > 0)

    config = SessionConfig()
    with Shutdown(config.cleanup) as shutdown:
        await run_until_signal(Router("x"), serve, shutdown=shutdown, gc_freeze=gc_freeze)
    assert during == [gc_freeze]


@pytest.mark.parametrize("gc_freeze", [False, True])
def test_programs_and_the_command_hand_the_option_on(
    gc_freeze: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def run_program(*_: object, **options: Any) -> int:
        given.append(options["gc_freeze"])
        return 0

    for module in (run_module, serve_module):
        monkeypatch.setattr(module, "run_program", run_program)
        monkeypatch.setattr(module, "prepare_process", lambda **_: None)
        monkeypatch.setattr(module, "guard_program_stdio", nullcontext)
    monkeypatch.setattr(run_module, "configure_logging", lambda *_: None)
    monkeypatch.setattr(serve_module, "start_logging", lambda *_: None)
    monkeypatch.setattr(serve_module, "load_application", lambda _: Router("x"))
    run_http(Router("x"), gc_freeze=gc_freeze)
    run_stdio(Router("x"), gc_freeze=gc_freeze)
    command.main(["serve", "toy:app", "--tcp", "0", *(["--gc-freeze"] if gc_freeze else [])])
    assert given == [gc_freeze] * 3
