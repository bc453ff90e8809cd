"""`sdk_application`: an application of the official SDK or FastMCP for several managers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..application.task_support import TaskMode
    from ..server.application import Application
    from .recognise import ForeignApplication


@asynccontextmanager
async def sdk_application(
    app: ForeignApplication, *, tasks: Mapping[str, TaskMode] | None = None
) -> AsyncIterator[Application]:
    """Serve an application of the official SDK or FastMCP with the sessions of this library.

    ::

        async with sdk_application(app, tasks={"crawl": "optional"}) as application:
            async with open_session_manager(application) as manager:
                ...

    Only needed for ``tasks``, or to serve one application with several managers: `run_stdio`,
    `run_http` and `open_session_manager` take ``app`` itself, too.

    Entering is a checkpoint: it enters the lifespan of the application, once. Leaving leaves that,
    so leave the block of each manager before. When cancelled while entering, the lifespan is left.

    Args:
        app: An ``MCPServer``, a ``FastMCP``, or a low-level ``Server``, as it is.
        tasks: When calls of a tool become tasks, by the name of the tool: ``never``, ``optional``
            or ``required``, as in `Router.tool`. ``"*"`` stands for all tools that are not named.

    Raises:
        TypeError: It is something else.
        UnsupportedVersion: The installed version of their library is not supported.
        CannotServe: A part of the application needs asyncio.
        ValueError: A value of ``tasks`` is unknown.
        Exception: What the lifespan of the application raised.
    """
    # Imports what it needs of that library.
    from .sdk_application import SdkApplication  # noqa: PLC0415

    served = SdkApplication.of(app, tasks)
    async with served._entered():
        yield served
