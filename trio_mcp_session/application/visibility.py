"""Visibility: which tools, prompts and resources a request sees.

Lists and calls ask the same question, so they agree: what is hidden does not exist for the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final
from weakref import WeakSet

import attrs

from ..core.errors import NoChannel, SessionTerminated
from ..protocol.subscription_messages import list_changed
from ..sessions.state_keys import StateKey
from .signature import is_async, takes

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from .context import RequestContext
    from .prompts import Prompt
    from .resources import Resource
    from .skills import Skill
    from .tools import Tool

Feature: TypeAlias = Literal["tools", "prompts", "resources"]
"""The lists that clients see."""

Item: TypeAlias = "Tool | Prompt | Resource | Skill"

FEATURES: Final[tuple[Feature, ...]] = ("tools", "prompts", "resources")

Names: TypeAlias = Mapping[Feature, Iterable[str]]
"""Some tools, prompts and resources."""


_NOTHING: Final[dict[tuple[Feature, str], bool]] = {}


@final
@attrs.frozen
class Component:
    """A tool, prompt or resource that a request may see or not."""

    feature: Feature
    """In which list it is."""

    name: str
    """Its name, its URI, or its URI template, as clients see it."""

    item: Item
    """What was registered."""


Visible: TypeAlias = "Callable[[RequestContext, Component], bool]"
"""Returns whether a request sees a component. It must not wait."""


@final
class Visibility:
    """What a router shows: to all, to single sessions, and by the predicates of its program."""

    def __init__(self) -> None:
        self._disabled: Final[set[tuple[Feature, str]]] = set()
        self._predicates: Final[list[Visible]] = []
        self._managers: Final[WeakSet[SessionManager]] = WeakSet()
        self._outer: Final[WeakSet[Visibility]] = WeakSet()
        # A key of its own: another router may have a tool of the same name.
        self._key: Final = StateKey[dict[tuple[Feature, str], bool]]("visibility")

    @property
    def is_private(self) -> bool:
        """Whether lists depend on the request: no other client may get them from a cache."""
        return bool(self._predicates)

    def shows(
        self, context: RequestContext | None, feature: Feature, name: str, item: Item
    ) -> bool:
        """Return whether a request sees a component. Not a checkpoint.

        Args:
            context: The request; without it only what is disabled for all is hidden.
            feature: In which list it is.
            name: Its name, its URI or its URI template, in this router.
            item: What was registered.
        """
        enabled = (feature, name) not in self._disabled
        if context is None:
            return enabled
        session = context._request.session
        if session is not None:
            enabled = session.get_state(self._key, _NOTHING).get((feature, name), enabled)
        if not enabled:
            return False
        return all(one(context, Component(feature, name, item)) for one in self._predicates)

    def add_predicate(self, predicate: Visible) -> None:
        """Hide what a function returns False for.

        Raises:
            TypeError: It is an ``async def``, or takes other arguments.
        """
        if is_async(predicate) or not takes(predicate, 2):
            raise TypeError(
                f"{predicate!r} must be a def that takes the context and a Component, and returns"
                " whether the request sees it"
            )
        self._predicates.append(predicate)
        self._notify(FEATURES)

    def choose(self, names: Names, session: Session | None, *, enabled: bool) -> None:
        """Enable or disable components, for one session or for all, and notify clients."""
        changed = list(self._choose(names, session, enabled=enabled))
        if session is None:
            self._notify(changed)
            return
        for feature in changed:
            # A session that ends, or has no client, needs no notification.
            with suppress(NoChannel, SessionTerminated):
                session.notify_nowait(list_changed(feature))

    def _choose(self, names: Names, session: Session | None, *, enabled: bool) -> Iterator[Feature]:
        """Store what was chosen, and return in which lists something has changed."""
        for feature, some in names.items():
            keys: set[tuple[Feature, str]] = {(feature, name) for name in some}
            if session is None:
                changed = keys & self._disabled if enabled else keys - self._disabled
                self._disabled.symmetric_difference_update(changed)
            else:
                chosen = session.get_state(self._key, _NOTHING)
                changed = {
                    key for key in keys if chosen.get(key, key not in self._disabled) is not enabled
                }
                session.set_state(self._key, {**chosen, **dict.fromkeys(keys, enabled)})
            if changed:
                yield feature

    # Notifications.

    def add_manager(self, manager: SessionManager) -> None:
        """Notify the clients of a manager of changes. Not a checkpoint."""
        self._managers.add(manager)

    def add_outer(self, outer: Visibility) -> None:
        """Notify the clients of a router that this one is mounted on. Not a checkpoint."""
        self._outer.add(outer)

    def _notify(self, features: Iterable[Feature]) -> None:
        managers = {one for outer in self._all_outer() for one in outer._managers}
        for feature in features:
            for manager in managers:
                manager.notify_list_changed(feature)

    def _all_outer(self) -> Iterator[Visibility]:
        yield self
        for outer in self._outer:
            yield from outer._all_outer()
