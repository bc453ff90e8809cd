"""Users of trio-typing: our startable functions and `trio_typing.TaskStatus` fit together.

Not collected by default: trio-typing must not be installed beside the other tests, because its
stubs shadow trio's own types. `nox -s typing_compat` checks the types in here and runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import trio
import trio_typing

from trio_mcp_session import Router, open_session_manager, serve_tcp, serve_unix

TASK_STATUS: type = trio_typing.TaskStatus  # its stubs say that no instance can be asked


async def test_started_by_a_nursery() -> None:
    async def serve(  # noqa: ASYNC128 - handed on to what is tested
        *, task_status: trio_typing.TaskStatus[object]
    ) -> None:
        assert isinstance(task_status, TASK_STATUS)
        await serve_tcp(manager, 0, host="127.0.0.1", task_status=task_status)

    async with open_session_manager(Router(name="demo", version="1.0")) as manager:
        async with trio.open_nursery() as nursery:
            started: object = await nursery.start(serve)
            nursery.cancel_scope.cancel()
    assert started


@pytest.mark.parametrize("function", [serve_tcp, serve_unix])
def test_not_started_by_a_nursery(function: Callable[..., object]) -> None:
    default = inspect.signature(function).parameters["task_status"].default
    assert isinstance(default, TASK_STATUS)
