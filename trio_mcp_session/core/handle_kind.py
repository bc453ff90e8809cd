"""Kinds of state handles: what the handles of a kind stand for, how many, and for how long."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, Final, Generic, TypeVar, final

import attrs
from attrs.validators import instance_of, optional

from .config import AdmissionPolicy, CleanupConfig, at_least_one, positive_seconds
from .context_functions import check_context_function

T = TypeVar("T")

_PREFIX: Final = re.compile("[a-z][a-z0-9]{0,15}")
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def _prefix(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise ValueError(
            f"{attribute.name} must be 1 to 16 small letters and digits, a letter first, "
            f"not {value!r}"
        )


def _opener(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_context_function(value, attribute.name)


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.frozen)
class HandleKind(Generic[T]):
    """What one kind of state handles stands for, and for how long.

    Declare one for each type of state that tools keep between calls, at the top of a module::

        BROWSERS = HandleKind[Browser]("brw", open_browser, idle_timeout=900.0)

    and pass it to `RequestContext.open_handle`, `RequestContext.use_handle` and so on. Each handle
    is a session, which owns what the opener opened. Kinds are told apart by identity, whatever
    their prefixes are, and may be used under any number of managers.

    A kind in the annotation of a tool's argument says that the argument is a handle of it::

        async def goto(ctx: RequestContext, browser: Annotated[str, BROWSERS], url: str) -> str: ...

    Clients of 2026-07-28 then repeat the handle in the header ``Mcp-Param-Handle``, by which a
    proxy finds the process that has it: see `SessionConfig.node`. Of several handles, the first one
    is repeated. The argument is a ``str`` without None; one that may be missing has the default
    ``""``.

    Raises:
        ValueError: The prefix is malformed, or a number is not positive.
        TypeError: The opener cannot return an async context manager: it is an async generator
            function without ``@asynccontextmanager``, or a coroutine function.
    """

    prefix: str = attrs.field(validator=_prefix)
    """What the ids begin with, for people and models to tell kinds apart: ``brw`` for ``brw_…``."""

    opener: Callable[..., AbstractAsyncContextManager[T]] = attrs.field(validator=_opener)
    """Makes the ``async with`` that a handle lives in, from the arguments of
    `RequestContext.open_handle`; its value is what the handle stands for.

    It is called, entered and left in the task of the handle's session, where `current_session`
    works."""

    idle_timeout: float = attrs.field(default=1800.0, validator=positive_seconds, kw_only=True)
    """Seconds without use after which a handle ends; `math.inf` for never."""

    lifetime: float = attrs.field(default=inf, validator=positive_seconds, kw_only=True)
    """Seconds after which it ends, used or not. Off by default."""

    max_handles: int = attrs.field(default=1_000, validator=at_least_one, kw_only=True)
    """Handles of this kind in one manager. `SessionLimits` hold for all handles together."""

    max_per_principal: int = attrs.field(default=100, validator=at_least_one, kw_only=True)
    """Handles of this kind that one principal may hold."""

    concurrent: bool = attrs.field(default=False, validator=instance_of(bool), kw_only=True)
    """Whether one handle may be used by several at the same time; they take turns otherwise."""

    admission: AdmissionPolicy | None = attrs.field(
        default=None, validator=optional(instance_of(AdmissionPolicy)), kw_only=True
    )
    """What happens at a limit. With a policy of its own, a kind is left alone by all others: its
    handles make room for each other only. By default it is `SessionLimits.admission`."""

    # The clocks of its handles, and what they were made of: a manager has the same all the time.
    _clocks: tuple[CleanupConfig, CleanupConfig] | None = attrs.field(
        default=None, init=False, on_setattr=attrs.setters.NO_OP
    )

    def __repr__(self) -> str:
        return f"HandleKind({self.prefix!r})"

    @property
    def expiry(self) -> str:
        """How long a handle lives: a sentence for the description of the tool that opens it.

        Models read descriptions and not documentation, so tell them there.
        """
        idle = f"after {_in_words(self.idle_timeout)} without use"
        end = f"{_in_words(self.lifetime)} after it was opened"
        if self.lifetime == inf:
            return "Lives until it is closed." if self.idle_timeout == inf else f"Expires {idle}."
        if self.lifetime <= self.idle_timeout:
            return f"Expires {end}."
        return f"Expires {idle}, and {end} at the latest."

    def _clocks_beside(self, clocks: CleanupConfig) -> CleanupConfig:
        """Return a manager's clocks with those that this kind sets itself."""
        if self._clocks is None or self._clocks[0] is not clocks:
            own = attrs.evolve(
                clocks, max_idle_time=self.idle_timeout, max_session_time=self.lifetime
            )
            self._clocks = (clocks, own)
        return self._clocks[1]


def _in_words(seconds: float) -> str:
    """Return a duration in the largest unit of which it is a whole number."""
    for length, unit in _UNITS:
        if seconds % length == 0:
            return _count(seconds / length, unit)
    return _count(seconds, "second")


def _count(number: float, unit: str) -> str:
    return f"1 {unit}" if number == 1 else f"{number:.10g} {unit}s"
