"""Dependencies: values that a function needs, and that no client gives.

A parameter ``db: Annotated[Db, Depends(get_db)]`` gets what ``get_db`` returns. It is made for the
request, or once for the session, and closed at the end of the same. Functions of dependencies may
have dependencies themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, final, get_args, get_origin

import attrs
import trio

from ..sessions.state_keys import StateKey

if TYPE_CHECKING:
    from types import TracebackType

    from ..sessions.session import Session
    from .context import RequestContext


@final
@attrs.frozen(eq=False)
class Depends:
    """Marks a parameter as a dependency: ``db: Annotated[Db, Depends(get_db)]``.

    The function may be an ``async def``, or a plain function that must not block. If it returns
    a context manager, as one decorated with `contextlib.asynccontextmanager` does, that is entered,
    and left at the end. Within one request it is called once, however many parameters need it.

    Args:
        function: Returns the value, or a context manager for it. It may take the `RequestContext`
            and dependencies of its own; with ``scope="session"``, the `Session` instead.
        scope: Until when the value is kept: for the request, or for the session.
        without_session: What happens with ``scope="session"`` to a request without a session (from
            2026-07-28 on): `NoSession` is raised, or the value is kept for the request.

    Raises:
        ValueError: ``scope`` or ``without_session`` is unknown.
    """

    function: Callable[..., Any]
    """Returns the value, or a context manager for it."""

    scope: Literal["request", "session"] = attrs.field(
        default="request", kw_only=True, validator=attrs.validators.in_(("request", "session"))
    )
    """Until when the value is kept."""

    without_session: Literal["error", "request"] = attrs.field(
        default="error", kw_only=True, validator=attrs.validators.in_(("error", "request"))
    )
    """What happens to a request without a session."""


@final
@attrs.frozen(eq=False)
class Dependency:
    """A function of `Depends` with its own parameters read."""

    mark: Depends
    """What the parameter was marked with."""

    _context: str | None
    _session: str | None
    _inner: Mapping[str, Dependency]

    @classmethod
    def of(cls, mark: Depends, what: str, read: Reader) -> Dependency:
        """Read the function of a dependency.

        Args:
            mark: The mark of the parameter.
            what: The function that needs it, for error messages.
            read: Reads the parameters of a function.

        Raises:
            TypeError: The function takes a parameter that is neither the context nor a dependency.
        """
        what = f"{what}, dependency {getattr(mark.function, '__name__', mark.function)!r}"
        context: str | None = None
        session: str | None = None
        inner: dict[str, Dependency] = {}
        for name, annotation, has_default in read(mark.function):
            own = mark_in(annotation)
            if own is not None:
                if mark.scope == "session" and own.scope == "request":
                    raise TypeError(f"{what}: what is kept for the session needs {name!r} for one")
                inner[name] = cls.of(own, what, read)
            elif _is_named(annotation, "RequestContext"):
                if mark.scope == "session":
                    raise TypeError(
                        f"{what}: what is kept for the session must not take the context of a"
                        " request: annotate the parameter with Session"
                    )
                context = name
            elif _is_named(annotation, "Session") and mark.scope == "session":
                session = name
            elif not has_default:
                raise TypeError(f"{what}: the parameter {name!r} is not a dependency itself")
        return cls(mark, context, session, inner)

    async def resolve(self, resolving: Resolving) -> Any:
        """Return the value for a request. A checkpoint if its function is one, or has to wait."""
        mark = self.mark
        if mark.scope == "session":
            session = resolving.session_for(mark)
            if session is not None:
                return await self._for_session(session, resolving)
        return await resolving.once(self)

    async def arguments(self, resolving: Resolving) -> dict[str, Any]:
        """Return what its function takes. A checkpoint as `resolve`."""
        arguments = {name: await one.resolve(resolving) for name, one in self._inner.items()}
        if self._context is not None:
            arguments[self._context] = resolving.context
        if self._session is not None:
            arguments[self._session] = resolving.context.session
        return arguments

    async def open(self, arguments: dict[str, Any], stack: AsyncExitStack) -> Any:
        """Call its function; what that opens is closed with the stack."""
        made = self.mark.function(**arguments)
        if inspect.isawaitable(made):
            made = await made
        manager: Any = made  # The checks below narrow the type of the other name.
        if isinstance(made, AbstractAsyncContextManager):
            return await stack.enter_async_context(manager)
        if isinstance(made, AbstractContextManager):
            return stack.enter_context(manager)
        return manager

    async def _for_session(self, session: Session, resolving: Resolving) -> Any:
        """Return the value that is kept for a session; several requests may need it at once."""
        kept = session.get_state(_KEPT, None)
        if kept is None:
            kept = dict[Callable[..., Any], _ForSession]()
            session.set_state(_KEPT, kept)
        value = kept.setdefault(self.mark.function, _ForSession())
        return await value.get(self, session, resolving)


@final
@attrs.define(eq=False)
class _ForSession:
    """One value that is kept for a session."""

    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _made: list[Any] = attrs.field(factory=list[Any], init=False)
    """The value, once it is made."""

    async def get(self, dependency: Dependency, session: Session, resolving: Resolving) -> Any:
        if not self._made:
            # The first request that needs it makes it. If that fails, the next one tries again.
            async with self._lock:
                await self._make(dependency, session, resolving)
        return self._made[0]

    async def _make(self, dependency: Dependency, session: Session, resolving: Resolving) -> None:
        """Make the value, unless another request has made it while this one waited."""
        if self._made:
            return
        # First what it depends on: that is closed after it.
        arguments = await dependency.arguments(resolving)
        self._made.append(await session.enter_async_context(_Opened(dependency, arguments)))


@final
@attrs.define(eq=False)
class _Opened(AbstractAsyncContextManager[Any]):
    """What a session holds for one of its dependencies."""

    _dependency: Dependency
    _arguments: dict[str, Any]
    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack, init=False)

    async def __aenter__(self) -> Any:
        arguments, self._arguments = self._arguments, {}
        async with self._stack:
            value = await self._dependency.open(arguments, self._stack)
            self._stack = self._stack.pop_all()
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return bool(await self._stack.__aexit__(kind, error, traceback))  # noqa: ASYNC102  # what it leaves decides


_KEPT: Final = StateKey[dict[Callable[..., Any], _ForSession]]("dependencies")
"""The values of a session, by function."""


@final
@attrs.frozen(eq=False)
class Resolving:
    """The dependencies of one request."""

    context: RequestContext
    """The request."""

    _stack: AsyncExitStack
    _made: dict[Callable[..., Any], Any] = attrs.field(
        factory=dict[Callable[..., Any], Any], init=False
    )

    async def once(self, dependency: Dependency) -> Any:
        """Return a value that is kept for the request."""
        function = dependency.mark.function
        if function not in self._made:
            arguments = await dependency.arguments(self)
            self._made[function] = await dependency.open(arguments, self._stack)
        return self._made[function]

    def session_for(self, mark: Depends) -> Session | None:
        """Return the session to keep a value for; None to keep it for the request.

        Raises:
            NoSession: There is none.
        """
        if mark.without_session == "request" and self.context._request.session is None:
            return None
        return self.context.session


Reader = Callable[[Callable[..., Any]], Iterator[tuple[str, Any, bool]]]
"""Yields the name, the annotation and whether there is a default for each parameter."""


def mark_in(annotation: Any) -> Depends | None:
    """Return the `Depends` in an annotation, if there is one."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((one for one in get_args(annotation)[1:] if isinstance(one, Depends)), None)


def _is_named(annotation: Any, name: str) -> bool:
    """Return whether an annotation is a class of this library, which may be imported late."""
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == name
    module = str(getattr(annotation, "__module__", ""))
    return getattr(annotation, "__name__", None) == name and module.startswith("trio_mcp_session.")
