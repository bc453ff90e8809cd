"""Loads the application ``MODULE:APP`` of the command line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.identity import ServerInfo
from .failure import CommandFailed

if TYPE_CHECKING:
    from ..server.application import Application


def load_application(reference: str) -> Application:
    """Import a module, the current directory included, and return the application in it.

    Args:
        reference: ``MODULE:APP``; both can have dots.

    Raises:
        CommandFailed: The module or the name in it does not exist, or is not an application.
            If the module itself fails, the message has the traceback.
    """
    found = load_object(reference, "MODULE:APP", _suggest)
    if not is_application(found):
        raise CommandFailed(
            f"{reference} is {describe(found)}, not an application such as a Router"
            f"{_suggest(reference.partition(':')[0])}",
            status=2,
        )
    application: Application = found
    return application


def load_object(
    reference: str, form: str, suggest: Callable[[str], str] = lambda _module_name: ""
) -> Any:
    """Import a module, the current directory included, and return an object in it.

    Args:
        reference: The module and the name in it; both can have dots.
        form: The form of the reference, for the error.
        suggest: Returns a suggestion for a name that the module does not have.

    Raises:
        CommandFailed: The module does not exist, or does not have the name. If the module itself
            fails, the message has the traceback.
    """
    module_name, _, name = reference.partition(":")
    is_file = module_name.endswith(".py") or "/" in module_name
    if is_file or not module_name or not name:
        hint = f"; for a file, name its module: {Path(module_name).stem}:{name}" if is_file else ""
        raise CommandFailed(f"expected {form}, not {reference!r}{hint}", status=2)
    found: Any = _import(module_name)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandFailed(
                f"module {module_name!r} has no {name!r}{suggest(module_name)}", status=2
            ) from None
    return found


def is_application(found: object) -> bool:
    """Return whether an object looks like an `Application`."""
    return isinstance(getattr(found, "server_info", None), ServerInfo) and all(
        callable(getattr(found, name, None))
        for name in ("capabilities", "handles_notification", "handle")
    )


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Any other missing module is an import of the module itself.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise CommandFailed(
                f"no module named {error.name!r}, neither in {here} nor installed", status=2
            ) from None
        raise CommandFailed(_failed(name, error)) from error
    except Exception as error:
        raise CommandFailed(_failed(name, error)) from error


def _failed(name: str, error: Exception) -> str:
    """Return a module's traceback, without the frames of this file and the import system."""
    failure = traceback.TracebackException.from_exception(error)
    while failure.stack and (
        "importlib" in failure.stack[0].filename or failure.stack[0].filename == __file__
    ):
        del failure.stack[0]
    return f"module {name!r} cannot be imported:\n{''.join(failure.format()).rstrip()}"


def _suggest(module_name: str) -> str:
    """Return a suggestion that names the applications in a module."""
    names = [
        name for name, value in vars(sys.modules[module_name]).items() if is_application(value)
    ]
    return (
        f"; did you mean {' or '.join(f'{module_name}:{name}' for name in names)}?" if names else ""
    )


def describe(found: object) -> str:
    """Return what an object is, for an error."""
    return (
        f"the class {found.__name__}"
        if isinstance(found, type)
        else f"of type {type(found).__name__}"
    )
