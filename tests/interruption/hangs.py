"""A program that hangs in two ways, and says whether that was noticed."""

from __future__ import annotations

import trio

from .watchdog import run_watched


async def wait_for_nothing() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def wait_again_and_again() -> None:
    while True:  # noqa: ASYNC110  # there is nothing to wait for
        await trio.sleep(5)


if __name__ == "__main__":
    print(run_watched(wait_for_nothing).hung, run_watched(wait_again_and_again).hung, flush=True)
