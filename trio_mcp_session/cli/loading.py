"""Loads the application ``MODULE:APP`` of the command line."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..adapters import recognise
from ..adapters.cannot_serve import CannotServe, UnsupportedVersion
from ..adapters.recognise import as_application
from ..core.identity import ServerInfo
from .failure import CommandFailed

if TYPE_CHECKING:
    from ..server.application import Application

CALL: Final = "()"
"""What a reference to a function that makes the application ends with."""


def load_application(reference: str) -> Application:
    """Import a module, the current directory included, and return the application in it.

    Args:
        reference: ``MODULE:APP``; both can have dots. ``MODULE:MAKE_APP()`` calls a function
            without arguments, which returns the application.

    Raises:
        CommandFailed: The module or the name in it does not exist, or is not an application.
            If the module itself or the function fails, the message has the traceback. Or the
            application is one of another library that cannot be served here.
    """
    is_called = reference.endswith(CALL)
    found = load_object(reference.removesuffix(CALL), "MODULE:APP", _suggest)
    if is_called:
        found = _call(reference, found)
    if not is_application(found):
        raise CommandFailed(
            f"{reference} is {describe(found)}, not an application such as a Router, an MCPServer "
            f"or a FastMCP{_suggest(reference.partition(':')[0])}",
            status=2,
        )
    try:
        return as_application(found)
    except (CannotServe, UnsupportedVersion) as error:
        raise CommandFailed(f"{reference}: {error}") from error


def _call(reference: str, function: object) -> Any:
    """Call the function that makes the application."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise CommandFailed(f"{reference} does not name a function without async", status=2)
    try:
        return function()
    except Exception as error:
        what = f"{reference} failed"
        raise CommandFailed(_failed(what, error)) from error


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
    """Return whether an object looks like an application that can be served."""
    if recognise.is_foreign(found):
        return True
    return recognise.is_application(found) and isinstance(
        getattr(found, "server_info", None), ServerInfo
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
        raise CommandFailed(_failed(_not_imported(name), error)) from error
    except Exception as error:
        raise CommandFailed(_failed(_not_imported(name), error)) from error


def _not_imported(name: str) -> str:
    return f"module {name!r} cannot be imported"


def _failed(what: str, error: Exception) -> str:
    """Return a module's traceback, without the frames of this file and the import system."""
    failure = traceback.TracebackException.from_exception(error)
    while failure.stack and (
        "importlib" in failure.stack[0].filename or failure.stack[0].filename == __file__
    ):
        del failure.stack[0]
    return f"{what}:\n{''.join(failure.format()).rstrip()}"


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
