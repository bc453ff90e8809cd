"""An interrupt wherever CPython may deliver one: a run of a scenario for each of these points.

Python runs signal handlers at the beginning of calls, after calls and at backward jumps. There a
trace function calls the handler that Trio has installed for SIGINT, with the frame that runs. It
uses the bytecode of CPython 3.11, and the trace hook that coverage uses too: so tests run it in a
process of its own.

::

    python -m tests.interruption.injector failing-body                 every point
    python -m tests.interruption.injector failing-body --every 20      a sample
    python -m tests.interruption.injector failing-body --at 117        one point, with its traceback
    python -m tests.interruption.injector failing-body --pairs 200     two interrupts, at random
"""

from __future__ import annotations

import argparse
import contextlib
import dis
import functools
import logging
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, final

import attrs
import trio

import trio_mcp_session

from . import scenarios
from .scenarios import EXPECTED_IN_BODY, LONGEST, SCENARIOS, BodyError, Record, Scenario
from .watchdog import Outcome, leaves, run_watched

PACKAGE: Final = os.path.dirname(trio_mcp_session.__file__) + os.sep
FILES: Final = {contextlib.__file__, scenarios.__file__}
MARKING: Final = {"mark", "fail", "watch", "problems"}
"""Functions of the scenarios' own books: not a part of what is tested."""
CALLS: Final = {"CALL", "CALL_FUNCTION_EX"}


@functools.cache
def points_in(code: CodeType) -> frozenset[int]:
    """Return the offsets in a function's code where CPython 3.11 may run a signal handler.

    A call of a Python function has none behind it, only one at its own beginning. Which calls are
    of such ones cannot be seen: what is awaited at once counts as one. In contextlib that is a
    method of a generator, which is not written in Python.
    """
    found: set[int] = set()
    previous = ""
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        begins = name == "RESUME" and instruction.arg in (0, 1)
        loops = "JUMP_BACKWARD" in name and not name.endswith("NO_INTERRUPT")
        awaits = name == "GET_AWAITABLE" and code.co_filename != contextlib.__file__
        if begins or loops or (previous in CALLS and not awaits):
            found.add(instruction.offset)
        previous = name
    return frozenset(found)


@functools.cache
def is_traced(code: CodeType) -> bool:
    name = code.co_filename
    return (name.startswith(PACKAGE) or name in FILES) and code.co_name not in MARKING


@final
@attrs.define(eq=False)
class Run:
    """One run of a scenario, with interrupts at some of its points."""

    scenario: Scenario
    at: frozenset[int]
    points: int = 0
    hits: list[str] = attrs.field(factory=list[str], init=False)
    """Where interrupts were delivered."""
    in_main: bool = attrs.field(default=True, init=False)
    """Whether all went to the main task."""
    error: BaseException | None = attrs.field(default=None, init=False)
    """What came out of it all."""
    raised: list[BaseException] = attrs.field(factory=list[BaseException], init=False)
    """What came out of the scenario."""
    record: Record = attrs.field(factory=Record, init=False)
    problems: list[str] = attrs.field(factory=list[str], init=False)

    def go(self) -> None:
        sys.settrace(self._trace_call)
        outcome = run_watched(self._main)
        sys.settrace(None)
        self.problems += self._judge(outcome)

    async def _main(self) -> None:
        try:
            await self.scenario(self.record)
        except BaseException as error:
            self.raised = list(leaves(error))
            raise
        finally:
            sys.settrace(None)
            self.problems += self.record.problems()

    def _judge(self, outcome: Outcome) -> Iterator[str]:
        self.error = outcome.error
        if outcome.hung:
            yield "it hangs"
            return
        if outcome.seconds > LONGEST:
            yield "it takes too long"
        if self.record.body_failed and not any(isinstance(one, BodyError) for one in self.raised):
            yield "the error of the body is lost"
        # One that comes at the very end is raised by Trio itself, in the place of all others.
        found = list(leaves(self.error))
        interrupts = sum(isinstance(one, KeyboardInterrupt) for one in found)
        # Trio holds back one at a time.
        if not min(1, len(self.hits)) <= interrupts <= len(self.hits):
            yield f"{len(self.hits)} interrupts, {interrupts} came out"
        if self.in_main and len(found) == 1 and found[0] is not self.error:
            yield "a group of one"
        yield from (f"out came {one!r}" for one in found if not isinstance(one, EXPECTED_IN_BODY))

    # Tracing.

    def _trace_call(self, frame: FrameType, event: str, arg: object) -> Any:
        if not is_traced(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._trace_opcode

    def _trace_opcode(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and frame.f_lasti in points_in(frame.f_code):
            self.points += 1
            if self.points in self.at:
                self._interrupt(frame)
        return self._trace_opcode

    def _interrupt(self, frame: FrameType) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if handler is signal.default_int_handler or not callable(handler):
            return  # Trio is through.
        path = frame.f_code.co_filename
        file = path.removeprefix(PACKAGE) if path.startswith(PACKAGE) else os.path.basename(path)
        self.hits.append(f"{file}:{frame.f_lineno} {frame.f_code.co_name}")
        if self.points == max(self.at):
            sys.settrace(None)
        try:
            handler(signal.SIGINT, frame)
        except KeyboardInterrupt:
            self.in_main &= is_main_task()
            raise
        self.hits[-1] += ", held back"


def is_main_task() -> bool:
    try:
        task = trio.lowlevel.current_task()
    except RuntimeError:
        return True  # between two steps
    root = trio.lowlevel.current_root_task()
    return root is not None and task.parent_nursery is not None and task.name.endswith("_main")


def run_all(scenario: Scenario, sets: Iterable[frozenset[int]]) -> tuple[list[Run], int]:
    """Run it with each set of points; return the runs that found something, and all interrupts."""
    found: list[Run] = []
    interrupts = 0
    for at in sets:
        run = Run(scenario, at)
        run.go()
        interrupts += len(run.hits)
        if run.problems:
            found.append(run)
    return found, interrupts


def report(failed: Iterable[Run]) -> str:
    """Return what was found, the most frequent first, with points to begin with."""
    lines: list[str] = []
    by_problem: dict[str, list[Run]] = {}
    for run in failed:
        for problem in run.problems:
            by_problem.setdefault(problem[:100], []).append(run)
    for problem, runs in sorted(by_problem.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(runs):5} × {problem}")
        where = Counter(" and ".join(run.hits) for run in runs)
        first = {" and ".join(run.hits): min(run.at) for run in reversed(runs)}
        lines += [f"         {n:3} at {w}  (--at {first[w]})" for w, n in where.most_common(5)]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--at", type=int)
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args()
    # A shell that starts it in the background has it ignore SIGINT; Trio leaves that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    logging.disable()
    sys.unraisablehook = lambda _: None  # Runs that hang leave coroutines behind.
    scenario = SCENARIOS[options.scenario]
    clean = Run(scenario, frozenset())
    clean.go()
    sets = [frozenset({n}) for n in range(1 + options.offset, clean.points + 1, options.every)]
    if options.at is not None:
        sets = [frozenset({options.at})]
    if options.pairs is not None:
        dice = random.Random(options.offset)  # noqa: S311
        firsts = [dice.randrange(1, clean.points) for _ in range(options.pairs)]
        sets = [frozenset({first, first + dice.randrange(1, 500)}) for first in firsts]
    began = time.monotonic()
    failed, interrupts = run_all(scenario, sets)
    took = time.monotonic() - began
    if clean.problems:
        print(f"without any interrupt: {clean.problems}")
    print(f"{options.scenario}: {clean.points} points, {len(sets)} runs in {took:.0f} s: ", end="")
    print(f"{interrupts} interrupts, {len(failed)} failed")
    print(report(failed))
    if options.at is not None and failed and failed[0].error is not None:
        traceback.print_exception(failed[0].error)
    return 1 if failed or clean.problems or not interrupts else 0


if __name__ == "__main__":
    sys.exit(main())
