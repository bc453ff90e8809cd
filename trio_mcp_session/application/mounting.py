"""Mounting: a router that serves the parts of others, under a prefix.

Nothing is copied. Each list and each call looks into the mounted routers, so what is added to them
later is there, too. A router's own parts come first, then those of the mounted routers, in the
order of mounting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import attrs

from ..protocol import skill_format
from .completions import COMPLETE
from .middleware import Middleware
from .skills import check_apart
from .visibility import FEATURES, Feature, Item, Visibility

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..protocol.eras import Eras
    from ..protocol.results import CacheHint
    from ..protocol.uri_template import Value
    from ..sessions.manager import ServerLifespan
    from ..sessions.session import Lifespan, Session
    from .binding import Binding
    from .completions import Completions
    from .context import RequestContext
    from .prompts import Prompts
    from .resources import Resources
    from .tools import Tools

Table: TypeAlias = "dict[str, Binding]"
"""Handlers, by method."""

ItemKind: TypeAlias = Literal["tools", "resources", "skills", "prompts", "completions"]
"""What has handlers of the library as soon as a router registers one of it."""

SEPARATOR: Final = "_"
"""Between the prefix and the name of a tool or prompt, as in FastMCP."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://)?|")


@final
@attrs.frozen(eq=False)
class Mount:
    """One mounted router: its parts, and how clients see their names."""

    parts: Parts
    """What it consists of."""

    prefix: str
    """The prefix; empty for none."""

    def outer(self, feature: Feature, name: str) -> str:
        """Return a name or URI of the mounted router as clients see it. Not a checkpoint."""
        if not self.prefix:
            return name
        if feature != "resources":
            return f"{self.prefix}{SEPARATOR}{name}"
        scheme = _scheme_of(name)
        return f"{scheme}{self.prefix}/{name[len(scheme) :]}"

    def inner(self, feature: Feature, name: str) -> str | None:
        """Return the name in the mounted router; None if it is not one of its names."""
        if not self.prefix:
            return name
        scheme = "" if feature != "resources" else _scheme_of(name)
        separator = SEPARATOR if feature != "resources" else "/"
        rest = name[len(scheme) :]
        start = f"{self.prefix}{separator}"
        return f"{scheme}{rest[len(start) :]}" if rest.startswith(start) else None


@final
@attrs.define(eq=False, kw_only=True)
class Parts:
    """What a router consists of: its own parts, and the routers that are mounted on it."""

    tools: Tools
    resources: Resources
    prompts: Prompts
    completions: Completions
    requests: Table
    notifications: Table
    scopes: Mapping[str, tuple[str, ...]]
    """The scopes that a request needs, by method."""
    cache_hints: Mapping[str, CacheHint]
    lifespan: Lifespan | None
    server_lifespan: ServerLifespan[Any] | None
    eras: Eras
    resource_subscriptions: bool
    page_size: int | None
    middleware: list[Middleware] = attrs.field(factory=list[Middleware], init=False)
    visibility: Visibility = attrs.field(factory=Visibility, init=False)
    mounts: list[Mount] = attrs.field(factory=list[Mount], init=False)
    has_skills: bool = attrs.field(default=False, init=False)
    """Whether a skill has ever been registered: clients know then that the server has skills."""
    handlers_of: Mapping[ItemKind, Table] = attrs.field(init=False)
    """The handlers for registered tools and others, by kind and method."""
    item_handlers: Table = attrs.field(init=False)
    """All of them, by method."""

    def __attrs_post_init__(self) -> None:
        resources: Table = {
            "resources/list": self.resources.list,
            "resources/templates/list": self.resources.list_templates,
            "resources/read": self.resources.read,
        }
        self.handlers_of = {
            "tools": {"tools/list": self.tools.list, "tools/call": self.tools.call},
            "resources": resources,
            "skills": {
                **resources,  # The files of a skill are resources.
                skill_format.LIST: self.resources.skills.list,
                skill_format.GET: self.resources.skills.get,
                skill_format.READ_DIRECTORY: self.resources.skills.read_directory,
            },
            "prompts": {"prompts/list": self.prompts.list, "prompts/get": self.prompts.get},
            "completions": {COMPLETE: self.completions.complete},
        }
        self.item_handlers = {
            method: handler
            for table in self.handlers_of.values()
            for method, handler in table.items()
        }

    def handler_of(self, method: str) -> Binding | None:
        """Return the handler that was registered for a method by its name."""
        handler = self.requests.get(method)
        return None if handler is self.item_handlers.get(method) else handler

    def items(self, feature: Feature) -> Mapping[str, Item]:
        """Return its own tools, prompts or resources, by name, URI or URI template."""
        match feature:
            case "tools":
                return self.tools.all
            case "prompts":
                return self.prompts.all
            case _:
                return self.resources.items

    def tree(self) -> Iterator[Parts]:
        """Iterate over itself and everything that is mounted below it, each once."""
        seen: dict[Parts, None] = {}
        waiting = [self]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen[one] = None
                waiting += [mount.parts for mount in reversed(one.mounts)]
        yield from seen

    def mount(self, other: Parts, prefix: str) -> None:
        """Mount the parts of another router. Not a checkpoint.

        Raises:
            ValueError: The prefix is malformed, the routers would be mounted in a circle, they are
                made for different clients, or one name or method would have two meanings.
        """
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(
                f"prefix must be letters, digits, '_', '-' and '.', not {prefix!r}: it becomes a"
                " part of names and URIs"
            )
        if any(one is self for one in other.tree()):
            raise ValueError("a router must not be mounted on itself, or in a circle")
        for one in other.tree():
            if one.eras not in ("both", self.eras):
                raise ValueError(
                    f"a router with eras={one.eras!r} must not be mounted on one with"
                    f" eras={self.eras!r}: some clients of the outer one could not use it;"
                    " create both with the same eras"
                )
        mount = Mount(other, prefix)
        self._check_clashes(mount)
        self.mounts.append(mount)
        other.visibility.add_outer(self.visibility)

    def _check_clashes(self, mount: Mount) -> None:
        """Refuse a mount that would give one name or method two meanings."""
        other = mount.parts
        for feature in FEATURES:
            taken = set(names(self, feature))
            for name in names(other, feature):
                shown = mount.outer(feature, name)
                if shown in taken:
                    raise ValueError(
                        f"both routers have {shown!r} in their {feature}: mount with another prefix"
                    )
        for uri in _skills_in(other):
            for taken_uri in _skills_in(self):
                check_apart(mount.outer("resources", uri), taken_uri)
        mine, theirs = requests_in(self), requests_in(other)
        joined = other.item_handlers.keys()
        for name in theirs.keys() & joined:
            raise ValueError(
                f"a router with a handler of its own for {name} cannot be mounted: register its"
                " tools, resources and prompts with their decorators"
            )
        for name in mine.keys() & joined:
            if any(name in one.requests for one in other.tree()):
                raise ValueError(
                    f"{name} has a handler of its own, which would not show what is mounted:"
                    " register tools, resources and prompts with their decorators instead"
                )
        _check_same(mine, theirs)
        _check_same(notifications_in(self), notifications_in(other))


def _skills_in(parts: Parts) -> Iterator[str]:
    """Iterate over the URIs of all skills that clients would see if nothing was hidden."""
    yield from parts.resources.skills.all
    for mount in parts.mounts:
        for uri in _skills_in(mount.parts):
            yield mount.outer("resources", uri)


def _check_same(mine: Table, theirs: Table) -> None:
    for name in mine.keys() & theirs.keys():
        if mine[name] is not theirs[name]:  # One router may be mounted in several places.
            raise ValueError(
                f"both routers have a handler of {name}: register it in one of them only"
            )


@final
@attrs.frozen(eq=False)
class Found:
    """What a name or a URI stands for."""

    item: Item
    """The tool, prompt or resource."""

    name: str
    """Its name, URI or URI template, as the outermost router shows it."""

    values: Mapping[str, Value]
    """The values of the variables of a URI template."""

    chain: tuple[Parts, ...]
    """The routers from the outermost one to the one that it belongs to."""

    @property
    def owner(self) -> Parts:
        """The parts of the router that it belongs to."""
        return self.chain[-1]


def find(
    parts: Parts,
    feature: Feature,
    name: str,
    context: RequestContext | None = None,
    *,
    exact: bool = False,
) -> Found | None:
    """Return what a name or URI stands for; None if it is hidden, or does not exist.

    Args:
        parts: The outermost router.
        feature: Which kind.
        name: The name or URI, as clients see it.
        context: The request; without it only what is disabled for all is hidden.
        exact: Whether to look for URI templates by their text, instead of for what a URI matches.
    """
    return next(_candidates(parts, feature, name, context, exact=exact), None)


def _candidates(
    parts: Parts, feature: Feature, name: str, context: RequestContext | None, *, exact: bool
) -> Iterator[Found]:
    shows = parts.visibility.shows
    if feature == "resources" and not exact:
        for resource, values in parts.resources.matches(name):
            if shows(context, feature, resource.uri, resource):
                yield Found(resource, resource.uri, values, (parts,))
    else:
        item = parts.items(feature).get(name)
        if item is not None and shows(context, feature, name, item):
            yield Found(item, name, {}, (parts,))
    for mount in parts.mounts:
        inner = mount.inner(feature, name)
        if inner is None:
            continue
        for found in _candidates(mount.parts, feature, inner, context, exact=exact):
            shown = mount.outer(feature, found.name)
            if shows(context, feature, shown, found.item):
                yield Found(found.item, shown, found.values, (parts, *found.chain))


def entries(
    parts: Parts, feature: Feature, context: RequestContext | None = None
) -> Iterator[tuple[str, Item]]:
    """Iterate over what `find` finds, by the names that clients see. Not a checkpoint."""
    seen: set[str] = set()
    for name, item in _all_entries(parts, feature, context):
        if name not in seen:
            seen.add(name)
            yield name, item


def _all_entries(
    parts: Parts, feature: Feature, context: RequestContext | None
) -> Iterator[tuple[str, Item]]:
    shows = parts.visibility.shows
    for name, item in parts.items(feature).items():
        if shows(context, feature, name, item):
            yield name, item
    for mount in parts.mounts:
        for name, item in _all_entries(mount.parts, feature, context):
            shown = mount.outer(feature, name)
            if shows(context, feature, shown, item):
                yield shown, item


def names(parts: Parts, feature: Feature) -> Iterator[str]:
    """Iterate over the names that clients would see if nothing was hidden. Not a checkpoint."""
    yield from parts.items(feature)
    for mount in parts.mounts:
        for name in names(mount.parts, feature):
            yield mount.outer(feature, name)


def names_shown(parts: Parts, owner: Parts, feature: Feature, name: str) -> dict[str, None]:
    """Return the names by which clients see a name of one of several routers. Not a checkpoint.

    There are several where that router is mounted more than once, in the order of mounting.

    Args:
        parts: The outermost router.
        owner: The router that the name belongs to: this one, or one that is mounted on it.
        feature: Which kind of name.
        name: The name or URI; nothing needs to have it now.
    """
    if parts is owner:
        return {name: None}
    return {
        mount.outer(feature, inner): None
        for mount in parts.mounts
        for inner in names_shown(mount.parts, owner, feature, name)
    }


def requests_in(parts: Parts) -> Table:
    """Return the handlers that were registered for requests by their method. Not a checkpoint."""
    return {
        name: handler
        for one in parts.tree()
        for name, handler in one.requests.items()
        if one.handler_of(name) is not None
    }


def notifications_in(parts: Parts) -> Table:
    """Return the handlers that were registered for notifications. Not a checkpoint."""
    return {name: one for part in parts.tree() for name, one in part.notifications.items()}


def owner_of(parts: Parts, method: str, *, notification: bool) -> tuple[Parts, ...]:
    """Return the routers from the outermost one to the one that handles a method.

    Empty if none of them does.
    """
    own = method in parts.notifications if notification else parts.handler_of(method) is not None
    if own:
        return (parts,)
    for mount in parts.mounts:
        chain = owner_of(mount.parts, method, notification=notification)
        if chain:
            return (parts, *chain)
    return ()


def lifespan_of(parts: Parts) -> Lifespan | None:
    """Return one lifespan for all lifespans of a router and what is mounted on it.

    They are entered in the order of mounting, the router's own first, and left in reverse order.
    """
    if not parts.mounts:  # The walk below is long for what every stateless request asks.
        return parts.lifespan
    lifespans = [one.lifespan for one in parts.tree() if one.lifespan is not None]
    if not lifespans[1:]:
        return lifespans[0] if lifespans else None
    return lambda session: _all_lifespans(lifespans, session)


@asynccontextmanager
async def _all_lifespans(lifespans: Iterable[Lifespan], session: Session) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            await stack.enter_async_context(lifespan(session))
        yield


def _scheme_of(uri: str) -> str:
    """Return the beginning of a URI or URI template: its scheme, perhaps with ``//``."""
    found = _SCHEME.match(uri)
    assert found is not None  # It also matches nothing.
    return found.group()
