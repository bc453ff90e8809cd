"""Which task an event loop runs, and where: also asked from another thread, while it is blocked.

Only public interfaces are read: the frames of threads, and the tasks below the root task. All of
it can change while it is read, except where the loop is blocked.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType
from typing import Final, final

import attrs
import trio

_STDLIB: Final = sysconfig.get_path("stdlib")
_INSTALLED: Final = ("site-packages", "dist-packages")
_PACKAGE: Final = __name__.partition(".")[0]
_TRIO: Final = "trio"

MOST_FRAMES: Final = 12
"""Most frames of one stack in a report: the innermost ones."""


@final
@attrs.frozen
class Running:
    """What an event loop runs."""

    task: trio.lowlevel.Task | None
    """The task; None for Trio's own code and its callbacks."""

    where: str
    """The function, file and line: the innermost one outside of the standard library."""

    stack: str
    """The stack of the task, or of the thread, as text."""


def walk_tasks(root: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """Return a task and all tasks below it."""
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def find_running(root: trio.lowlevel.Task | None, thread: int) -> Running:
    """Return what the event loop in a thread runs. Not a checkpoint.

    Args:
        root: The root task of the event loop.
        thread: The identity of its thread.
    """
    frames = list(_outward(sys._current_frames().get(thread)))
    places = {id(frame): place for place, frame in enumerate(frames)}
    running: trio.lowlevel.Task | None = None
    for task in walk_tasks(root):
        place = places.get(id(getattr(task.coro, "cr_frame", None)))
        if place is not None:
            running, frames = task, frames[: place + 1]
            break
    summary = traceback.StackSummary.extract(
        ((frame, frame.f_lineno) for frame in reversed(frames[:MOST_FRAMES])), lookup_lines=True
    )
    return Running(running, where_of(frames), "".join(summary.format()).rstrip())


def where_of(frames: list[FrameType]) -> str:
    """Return a place as text: of the frames, the innermost outside of the standard library."""
    named = next((frame for frame in frames if not _is_stdlib(frame)), None)
    return "unknown code" if named is None else place_of(named)


def place_of(frame: FrameType) -> str:
    """Return the function, file and line of a frame."""
    code = frame.f_code
    return f"{code.co_name} ({PurePath(code.co_filename).name}:{frame.f_lineno})"


def where_waiting(task: trio.lowlevel.Task) -> str:
    """Return where a task waits: the innermost place of the application, or else of this library.

    A task that has only Trio's frames waits in one of these.
    """
    frames = [frame for frame, _ in task.iter_await_frames()][::-1]
    for ours in ((_TRIO, _PACKAGE), (_TRIO,)):
        others = [frame for frame in frames if _package_of(frame) not in ours]
        if others:
            return where_of(others)
    return where_of(frames)


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_stdlib(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith((_STDLIB, "<frozen ")) and not any(part in name for part in _INSTALLED)


def _package_of(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]
