"""The harness of the leak machine: it has to fail where it should, and to end in any case."""

from __future__ import annotations

import pytest
import trio

from .guest import Guest


def test_jobs_return_and_raise() -> None:
    guest = Guest()

    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return 2 * number

    async def fail() -> None:
        raise ValueError("job")

    assert guest.run(double, 2) == 4
    with pytest.raises(ValueError, match="job"):
        guest.run(fail)
    assert guest.run(double, 3) == 6
    guest.close()
    guest.close()


def test_time_stands_still_until_a_job_lets_it_pass() -> None:
    guest = Guest()
    woken: list[float] = []

    async def sleep() -> None:
        await trio.sleep(5)
        woken.append(trio.current_time())

    async def begin() -> None:
        assert guest.nursery is not None
        guest.nursery.start_soon(sleep)

    async def jump() -> None:
        guest.clock.jump(5)

    guest.run(begin)
    assert not woken
    guest.run(jump)
    assert woken == [5]
    guest.close()


def test_closing_waits_for_what_refuses_to_end() -> None:
    guest = Guest()
    woken: list[float] = []

    async def sleep() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        woken.append(trio.current_time())

    async def begin() -> None:
        assert guest.nursery is not None
        guest.nursery.start_soon(sleep)

    guest.run(begin)
    guest.close()
    assert woken == [5]


def test_a_crash_of_the_run_reaches_the_test() -> None:
    guest = Guest()

    async def crash() -> None:
        raise ValueError("background")

    async def begin() -> None:
        assert guest.nursery is not None
        guest.nursery.start_soon(crash)

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="background")):
        guest.run(begin)
    guest.close()
