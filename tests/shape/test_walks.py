"""What is counted of a walk, and that each walk is the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from . import walks
from .figures import CHECKOUT
from .tracing import Counts, Trace, count
from .walks import WALKS

HERE = Path(__file__)


class Part:
    def method(self) -> None:
        def inner() -> None:
            """Count as the class's."""

        inner()


def function() -> None:
    def inner() -> None:
        """Count as no class's."""

    inner()


async def resumed() -> None:
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


def test_calls_functions_and_classes_of_the_folder_are_counted() -> None:
    trace = Trace(HERE.parent)
    with trace.recording():
        Part().method()
        function()
        function()
    assert trace.counts() == Counts(calls=6, functions=4, modules=1, classes=1, changes=0)
    assert trace.calls[:2] == [
        (HERE.name, "Part.method"),
        (HERE.name, "Part.method.<locals>.inner"),
    ]


async def test_a_coroutine_is_counted_once_however_often_it_is_resumed() -> None:
    trace = Trace(HERE.parent)
    with trace.recording():
        await resumed()
    assert trace.calls == [(HERE.name, "resumed")]


def test_calls_of_other_modules_are_changes() -> None:
    calls = [("a.py", "f"), ("a.py", "g"), ("b.py", "f"), ("a.py", "f")]
    assert count(calls) == Counts(calls=4, functions=3, modules=2, classes=0, changes=2)


def test_recording_restores_the_profiler_that_was_set_before() -> None:
    def profiler(*_: object) -> None:
        """Do nothing."""

    sys.setprofile(profiler)
    try:
        with Trace().recording():
            assert sys.getprofile() is not profiler
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_is_counted_the_same_twice(name: str) -> None:
    first = walks.counts(name)
    assert min(first.calls, first.functions, first.modules, first.classes, first.changes) > 0
    assert walks.counts(name) == first


def test_the_command_prints_the_counts_of_each_walk() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shape.walks"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(WALKS)


def test_the_option_prints_each_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walks, "WALKS", {"handle use": walks.handle_use})
    walks.main(["--calls"])
    first, *calls = capsys.readouterr().out.splitlines()
    assert first == f"handle use: {walks.counts('handle use')}"
    assert len(calls) == walks.counts("handle use").calls
