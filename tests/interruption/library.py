"""A program with a manager of its own, to be interrupted: ``library three|many SEED``.

On standard output it says ``ready``, and at its end, as JSON, what came out and what was lost.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio
from trio.lowlevel import disable_ki_protection as unprotected, enable_ki_protection as protected

from trio_mcp_session import Session, SessionConfig, SessionManager, open_session_manager

from .scenarios import CLOCKS, BodyError, Record
from .watchdog import leaves


@unprotected
async def user_code(seconds: float) -> None:
    """Work, half of the time in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _ = sum(range(20_000))
        await trio.sleep(0.001)


@protected
async def work(record: Record, owner: str) -> None:
    record.mark("entered", owner, "work")
    try:
        await user_code(1e6)
    finally:
        record.mark("left", owner, "work")


async def three(record: Record, manager: SessionManager) -> None:
    """Three sessions with all that they can own."""
    for owner in ("a", "b", "c"):
        life = record.context(owner, "life")
        session = await manager.create_session(lifespan=partial(_given, life))
        await session.enter_async_context(record.context(owner, "first"))
        await session.enter_async_context(record.context(owner, "second"))
        session.start_soon(work, record, owner)


def _given(
    context: AbstractAsyncContextManager[object], _: Session
) -> AbstractAsyncContextManager[object]:
    return context


async def many(record: Record, manager: SessionManager) -> None:
    """Three thousand sessions, each with something that it holds."""
    async with trio.open_nursery() as nursery:
        for number in range(3_000):  # pragma: no branch  # the signals come first, or they do not
            owner = str(number)
            session = await manager.create_session()
            context = record.context(owner, "held")
            nursery.start_soon(session.enter_async_context, context)


@protected
async def main(mode: str, seed: int, record: Record, raised: list[BaseException]) -> None:
    """Run it, and keep what came out: an interrupt at the very end takes its place in Trio."""
    try:
        await program(mode, seed, record)
    except BaseException as error:
        raised += leaves(error)
        raise


@unprotected
async def program(mode: str, seed: int, record: Record) -> None:
    print("ready", flush=True)
    async with open_session_manager(config=SessionConfig(cleanup=CLOCKS)) as manager:
        record.watch(manager)
        await (three if mode == "three" else many)(record, manager)
        await user_code(random.Random(seed).uniform(0.05, 0.5))  # noqa: S311  # no secret
        record.fail()


def run() -> None:
    # A shell that starts it in the background has it ignore SIGINT; Trio leaves that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    record = Record()
    errors: list[BaseException] = []
    raised: list[BaseException] = []
    mode, seed = sys.argv[1:]
    try:
        try:
            trio.run(partial(main, mode, int(seed), record, raised))
        except BaseException as error:  # noqa: ASYNC103  # it is told below
            errors.append(error)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt as late:  # pragma: no cover  # in one of some lines above
        errors.append(late)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.monotonic()
    kinds = [type(one).__name__ for error in errors for one in leaves(error)]
    problems = record.problems()
    if record.body_failed and not any(isinstance(one, BodyError) for one in raised):
        problems.append("the error of the body is lost")  # pragma: no cover  # it is not
    print(json.dumps({"end": end, "kinds": kinds, "problems": problems}), flush=True)


if __name__ == "__main__":
    run()
