"""Completions: values for the arguments of prompts and templates, while a user types them.

An argument with a fixed set of values is completed without a function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS
from ..protocol.jsonrpc import is_object
from .conversion import allowed_values
from .middleware import HandlerCall
from .signature import Signature

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from .arguments import Arguments
    from .context import RequestContext
    from .prompts import Prompts
    from .resources import Resources

COMPLETE: Final = "completion/complete"

MAX_VALUES: Final = 100
"""Values that the protocol allows in one completion."""

_TAKEN: Final = {"value", "arguments"}


@final
@attrs.frozen
class Completion:
    """Some values, and how many there are: for a function that knows more than it returns."""

    values: Sequence[str]
    """The values, best first; the first 100 are sent."""

    total: int | None = attrs.field(default=None, kw_only=True)
    """How many values there are."""

    has_more: bool | None = attrs.field(default=None, kw_only=True)
    """Whether there are more than these."""

    def write(self) -> dict[str, Any]:
        """Return the result of ``completion/complete``."""
        sent = list(self.values[:MAX_VALUES])
        cut = len(sent) < len(self.values)
        total = len(self.values) if cut and self.total is None else self.total
        completion: dict[str, Any] = {"values": sent}
        if total is not None:
            completion["total"] = total
        if cut or self.has_more is not None:
            completion["hasMore"] = cut or self.has_more
        return {"completion": completion}


@final
class Completions:
    """The functions that complete arguments, and the handler of ``completion/complete``.

    Args:
        prompts: The prompts of the router.
        resources: Its resources.
    """

    def __init__(self, prompts: Prompts, resources: Resources) -> None:
        self._prompts: Final = prompts
        self._resources: Final = resources
        self._functions: Final[dict[tuple[str, str], Signature]] = {}

    def add(
        self,
        of: str | Callable[..., Any],
        argument: str,
        function: Callable[..., Any],
        *,
        limiter: trio.CapacityLimiter | None = None,
    ) -> None:
        """Add the function that completes an argument.

        Args:
            of: The name of a prompt, a URI template, or the function of one of them.
            argument: The name of the argument, or of the variable.
            function: The function.
            limiter: Limits the threads of a ``def``; Trio's default limiter by default.

        Raises:
            ValueError: The argument does not exist, or is completed already.
            TypeError: The function takes other parameters.
        """
        found = self._find(of)
        if found is None:
            raise ValueError(
                f"completion of {of!r}: no prompt or resource template has this name, URI or"
                " function: register it first"
            )
        key, arguments = found
        if argument not in arguments.schema["properties"]:
            raise ValueError(f"completion: {key!r} has no argument {argument!r}")
        if (key, argument) in self._functions:
            raise ValueError(f"the argument {argument!r} of {key!r} is completed already")
        signature = Signature.of(function, f"completion of {argument!r}", limiter=limiter)
        if unknown := {one.name for one in signature.parameters} - _TAKEN:
            raise TypeError(
                f"completion of {argument!r} must not take {min(unknown)!r}: it takes value, the"
                " text so far, and may take arguments and the context"
            )
        self._functions[key, argument] = signature

    def _find(self, of: str | Callable[..., Any]) -> tuple[str, Arguments] | None:
        """Return the key and the arguments of a prompt or template."""
        for name, prompt in self._prompts.all.items():
            if of in (name, prompt.signature.function):
                return name, prompt.arguments
        for uri, resource in self._resources.all.items():
            if resource.is_template and of in (uri, resource.signature.function):
                return uri, resource.arguments
        return None

    async def complete(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``completion/complete``."""
        found = self._find(reference_in(context.params))
        if found is None:
            raise unknown_reference()
        return _write(await self._invoke(context, *found))

    def begin(self, context: RequestContext, key: str, arguments: Arguments) -> HandlerCall:
        """Return the completion of an argument in steps. Not a checkpoint.

        Args:
            context: The request.
            key: The name of the prompt, or the URI template, in this router.
            arguments: Its arguments.
        """
        return HandlerCall(lambda: self._invoke(context, key, arguments), write=_write)

    def _invoke(
        self, context: RequestContext, key: str, arguments: Arguments
    ) -> Awaitable[Completion | Sequence[str]]:
        params = context.params
        name, value = _argument_in(params)
        signature = self._functions.get((key, name))
        if signature is None:
            return _listed(arguments, name, value)
        context._request.handler_name = f"completion of {name!r}"
        known = params.get("context")
        resolved = known.get("arguments") if is_object(known) else None
        given = {"value": value, "arguments": resolved if is_object(resolved) else {}}
        wanted = {one.name: given[one.name] for one in signature.parameters}
        return signature.call(context, wanted)


def _write(returned: Completion | Sequence[str]) -> dict[str, Any]:
    return (returned if isinstance(returned, Completion) else Completion(returned)).write()


def _argument_in(params: Params) -> tuple[str, str]:
    """Return the name of the argument, and the text so far.

    Raises:
        McpError: One of them is missing.
    """
    argument = params.get("argument")
    name = argument.get("name") if is_object(argument) else None
    value = argument.get("value") if is_object(argument) else None
    if not isinstance(name, str) or not isinstance(value, str):
        raise McpError(INVALID_PARAMS, "argument must have a name and a value")
    return name, value


def unknown_reference() -> McpError:
    """Return the error for a reference to something that does not exist."""
    return McpError(INVALID_PARAMS, "ref does not match a prompt or a resource template")


def reference_in(params: Params) -> str:
    """Return the name or URI in the ``ref`` of a request.

    Raises:
        McpError: It is malformed.
    """
    reference = params.get("ref")
    kind = reference.get("type") if is_object(reference) else None
    member = {"ref/prompt": "name", "ref/resource": "uri"}.get(str(kind))
    value = reference.get(member) if is_object(reference) and member is not None else None
    if not isinstance(value, str):
        raise McpError(INVALID_PARAMS, "ref must be a ref/prompt with name, or a ref/resource")
    return value


def completes_itself(arguments: Arguments) -> bool:
    """Return whether one of some arguments has a fixed set of values."""
    definitions = arguments.schema.get("$defs", {})
    schemas = arguments.schema["properties"].values()
    return any(allowed_values(schema, definitions) for schema in schemas)


async def _listed(arguments: Arguments, name: str, value: str) -> list[str]:
    """Return the values of a fixed set that begin with a text. A checkpoint."""
    await trio.lowlevel.checkpoint()
    schema: Mapping[str, Any] = arguments.schema["properties"].get(name, {})
    values = allowed_values(schema, arguments.schema.get("$defs", {})) or ()
    return [one for one in map(str, values) if one.casefold().startswith(value.casefold())]
