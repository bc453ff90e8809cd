"""Requests to a router with structure: with mounted routers, middleware, or hidden parts.

Each table here has the interface of a plain router's table. A router exchanges its tables when it
gets structure, so requests to other routers are not slower.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from ..core.errors import McpError
from ..protocol import skill_format
from ..protocol.results import NO_CACHE, CacheHint
from .completions import COMPLETE, reference_in, unknown_reference
from .middleware import HandlerCall, Middleware, refusing, run
from .mounting import Found, Parts, entries, find, names_shown, owner_of
from .pagination import list_page
from .prompts import Prompt, unknown_prompt
from .resources import Resource, unknown_resource
from .skills import (
    Skill,
    check_revision,
    get_skill,
    list_skills,
    read_folder,
    read_folder_above,
    unknown_skill,
)
from .tools import Tool, unknown_tool
from .visibility import Feature, Item

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from .binding import Binding
    from .context import RequestContext


@final
@attrs.frozen(eq=False)
class StructuredRequests:
    """The handlers of all requests that a router and what is mounted on it serve."""

    _parts: Parts

    def __contains__(self, method: object) -> bool:
        return any(method in one.requests for one in self._parts.tree())

    def __iter__(self) -> Iterator[str]:
        for one in self._parts.tree():
            yield from one.requests

    def get(self, method: str) -> Binding | None:
        """Return the handler of a method; None without one. Not a checkpoint."""
        if method not in self:
            return None

        def handle(context: RequestContext) -> Awaitable[object]:
            call, chain = self._begin(method, context)
            _tell_owner(context, chain)
            return run(context, middleware_of(chain), call)

        return handle

    def _begin(self, method: str, context: RequestContext) -> tuple[HandlerCall, tuple[Parts, ...]]:
        """Return the call of a handler, and the routers whose middleware is around it."""
        parts = self._parts
        chain = owner_of(parts, method, notification=False)
        if chain and (len(chain) == 1 or method not in parts.item_handlers):
            handler = chain[-1].requests[method]
            return HandlerCall(lambda: handler(context)), chain
        if method in _ABOUT:
            found = found_by(parts, method, context.params, context)
            if found is None:
                return refusing(_unknown(method, context.params)), (parts,)
            return _begin_item(found, context), found.chain
        if method == COMPLETE:
            return self._begin_completion(context)
        if method in _OF_SKILLS:
            return self._begin_skills(method, context)
        return HandlerCall(lambda: self._list(method, context)), (parts,)

    def _begin_completion(self, context: RequestContext) -> tuple[HandlerCall, tuple[Parts, ...]]:
        parts = self._parts
        try:
            name = reference_in(context.params)
        except McpError as error:
            return refusing(error), (parts,)
        found = find(parts, "prompts", name, context)
        if found is None:
            found = find(parts, "resources", name, context, exact=True)
        match None if found is None else found.item:
            case Prompt() as item:
                key = item.name
            case Resource(is_template=True) as item:
                key = item.uri
            case _:
                return refusing(unknown_reference()), (parts,)
        assert found is not None
        return found.owner.completions.begin(context, key, item.arguments), found.chain

    def _begin_skills(
        self, method: str, context: RequestContext
    ) -> tuple[HandlerCall, tuple[Parts, ...]]:
        parts = self._parts
        try:
            check_revision(context)
        except McpError as error:
            return refusing(error), (parts,)
        if method == skill_format.LIST:
            listed = skills_seen(parts, context)
            return HandlerCall(lambda: list_skills(context, listed, parts.page_size)), (parts,)
        uri = context.params.get("uri")
        exact = method == skill_format.GET
        found = None
        if isinstance(uri, str):
            found = find(parts, "resources", uri, context, exact=exact)
        if found is not None and isinstance(found.item, Skill):
            return _begin_skill(found, found.item, context, exact=exact), found.chain
        if exact:
            return refusing(unknown_skill(uri)), (parts,)
        uris = dict(skills_seen(parts, context))
        call = HandlerCall(lambda: read_folder_above(context, uris, parts.page_size))
        return call, (parts,)

    def _list(self, method: str, context: RequestContext) -> Awaitable[dict[str, Any]]:
        """Answer the request for a list."""
        parts = self._parts
        feature, member = _LISTS[method]
        shown: Iterable[tuple[str, Item]] = entries(parts, feature, context)
        if feature == "resources":
            templates = member == "resourceTemplates"
            shown = [
                (uri, one)
                for uri, one in shown
                if isinstance(one, (Resource, Skill)) and one.is_template is templates
            ]
        return list_page(context, shown, member, parts.page_size)


@final
@attrs.frozen(eq=False)
class StructuredNotifications:
    """The handlers of all notifications that a router and what is mounted on it take."""

    _parts: Parts

    def __contains__(self, method: object) -> bool:
        return any(method in one.notifications for one in self._parts.tree())

    def get(self, method: str) -> Binding | None:
        """Return the handler of a method; None without one. Not a checkpoint."""
        chain = owner_of(self._parts, method, notification=True)
        if not chain:
            return None
        handler = chain[-1].notifications[method]

        def handle(context: RequestContext) -> Awaitable[object]:
            _tell_owner(context, chain)
            return run(context, middleware_of(chain), HandlerCall(lambda: handler(context)))

        return handle


@final
@attrs.frozen(eq=False)
class StructuredHints:
    """How long results may be kept, where they may come from several routers."""

    _parts: Parts

    def get(self, method: str, default: CacheHint) -> CacheHint:
        """Return the hint that suits the results of all routers that serve a method.

        That is the shortest time of theirs; ``private`` if one is, or if lists depend on the
        request.
        """
        serving = [one for one in self._parts.tree() if method in one.requests]
        hints = [one.cache_hints.get(method, default) for one in serving or (self._parts,)]
        private = is_private(self._parts) or any(one.scope == "private" for one in hints)
        return CacheHint(
            max_age=min(one.max_age for one in hints), scope="private" if private else "public"
        )


def is_private(parts: Parts) -> bool:
    """Return whether lists of a router depend on the request. Not a checkpoint."""
    return any(one.visibility.is_private for one in parts.tree())


def skills_seen(parts: Parts, context: RequestContext) -> Iterator[tuple[str, Skill]]:
    """Iterate over the skills that a request sees, by the URIs that clients see."""
    for uri, item in entries(parts, "resources", context):
        if isinstance(item, Skill):
            yield uri, item


def _tell_owner(context: RequestContext, chain: tuple[Parts, ...]) -> None:
    """Tell a request which router answers it, if that is a mounted one.

    Args:
        context: The request.
        chain: The routers from the outermost one to the one that answers.
    """
    outermost, owner = chain[0], chain[-1]
    if owner is not outermost:
        context._answered_by_mounted(lambda uri: names_shown(outermost, owner, "resources", uri))


def middleware_of(chain: Iterable[Parts]) -> list[Middleware]:
    """Return the middleware of some routers, the outermost first."""
    return [middleware for parts in chain for middleware in parts.middleware]


def found_by(
    parts: Parts, method: str, params: Params, context: RequestContext | None = None
) -> Found | None:
    """Return the tool, prompt or resource that a request is about; None without one."""
    feature, member = _ABOUT[method]
    name = params.get(member)
    return find(parts, feature, name, context) if isinstance(name, str) else None


def tool_called(parts: Parts, params: Params) -> Tool | None:
    """Return the tool that ``tools/call`` calls, if it is not disabled for all."""
    found = found_by(parts, "tools/call", params)
    return found.item if found is not None and isinstance(found.item, Tool) else None


def scopes_of(parts: Parts, method: str) -> tuple[str, ...]:
    """Return the scopes that all requests of a method need. Not a checkpoint."""
    chain = owner_of(parts, method, notification=False)
    return chain[-1].scopes.get(method, ()) if chain else ()


_ABOUT: Final[dict[str, tuple[Feature, str]]] = {
    "tools/call": ("tools", "name"),
    "prompts/get": ("prompts", "name"),
    "resources/read": ("resources", "uri"),
}

_OF_SKILLS: Final = (skill_format.LIST, skill_format.GET, skill_format.READ_DIRECTORY)

_LISTS: Final[dict[str, tuple[Feature, str]]] = {
    "tools/list": ("tools", "tools"),
    "prompts/list": ("prompts", "prompts"),
    "resources/list": ("resources", "resources"),
    "resources/templates/list": ("resources", "resourceTemplates"),
}


def _unknown(method: str, params: Params) -> Exception:
    match method:
        case "tools/call":
            return unknown_tool(params.get("name"))
        case "prompts/get":
            return unknown_prompt(params.get("name"))
        case _:
            return unknown_resource(params.get("uri"))


def _begin_item(found: Found, context: RequestContext) -> HandlerCall:
    owner = found.owner
    match found.item:
        case Tool() as tool:
            return owner.tools.begin(context, tool, found.name)
        case Prompt() as prompt:
            return owner.prompts.begin(context, prompt, found.name)
        case resource:
            call = owner.resources.begin(context, resource, found.name, found.values)

            def write(value: Any) -> dict[str, Any]:
                return _kept(call.write(value), found, context)

            return attrs.evolve(call, write=write)


def _begin_skill(
    found: Found, skill: Skill, context: RequestContext, *, exact: bool
) -> HandlerCall:
    """Return the call for an entry, or else for a folder."""
    if exact:
        return HandlerCall(lambda: get_skill(context, skill, found.name))
    page_size = found.chain[0].page_size
    return HandlerCall(lambda: read_folder(context, skill, found.values, page_size))


def _kept(result: dict[str, Any], found: Found, context: RequestContext) -> dict[str, Any]:
    """Add how long the router of a resource lets clients keep it (from 2026-07-28 on)."""
    request = context._request
    if not request.is_modern:
        return result
    # A result that depends on answers of this client must not be kept.
    keepable = request.params.keys().isdisjoint(("inputResponses", "requestState"))
    hints = found.owner.cache_hints
    hint = hints.get("resources/read", NO_CACHE) if keepable else NO_CACHE
    private = hint.scope == "private" or is_private(found.chain[0])
    scope = "private" if private else "public"
    return {**result, "ttlMs": round(hint.max_age * 1000), "cacheScope": scope}
