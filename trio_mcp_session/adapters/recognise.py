"""Recognises the application that a program wants to serve; imports only what is in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    from ..application.task_support import TaskMode
    from ..server.application import Application


class ForeignApplication(Protocol):
    """An ``MCPServer``, a ``FastMCP`` or a low-level ``Server``: what type checkers know of it."""

    @property
    def name(self) -> str:
        """The name of the server."""
        ...

    @property
    def instructions(self) -> str | None:
        """How to use the server, for the model."""
        ...


AnyApplication: TypeAlias = "Application | ForeignApplication"
"""An `Application`, such as a `Router`; or an application of another library, as it is."""

LIBRARIES: Final = frozenset({"fastmcp", "mcp"})
"""The top-level packages of other libraries whose applications are served."""


def is_application(found: object) -> bool:
    """Return whether an object looks like an `Application`. Not a checkpoint."""
    return not isinstance(found, type) and all(
        callable(getattr(found, name, None))
        for name in ("capabilities", "handles_notification", "handle")
    )


def is_foreign(found: object) -> bool:
    """Return whether an object looks like an application of another library. Not a checkpoint."""
    return any(
        kind.__module__.partition(".")[0] in LIBRARIES
        and kind.__name__ in ("FastMCP", "MCPServer", "Server")
        for kind in type(found).__mro__
    )


def as_application(given: object, *, tasks: Mapping[str, TaskMode] | None = None) -> Application:
    """Return what a program wants to serve as an `Application`. Not a checkpoint.

    Args:
        given: An `Application`, or an application of another library.
        tasks: As for `sdk_application`.

    Raises:
        TypeError: It is neither.
        UnsupportedVersion: The installed version of the other library is not supported.
        CannotServe: A part of the application of the other library does not run on Trio.
    """
    if is_application(given):
        return cast("Application", given)
    if not is_foreign(given):
        raise TypeError(
            "expected an application, such as a Router, an MCPServer or a FastMCP, not "
            f"{describe(given)}"
        )
    # Imports what it needs of that library.
    from .sdk_application import SdkApplication  # noqa: PLC0415

    return SdkApplication.of(given, tasks)


def describe(found: object) -> str:
    """Return what an object is, for an error. Not a checkpoint."""
    return (
        f"the class {found.__name__}"
        if isinstance(found, type)
        else f"an object of type {type(found).__name__}"
    )
