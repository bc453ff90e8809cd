"""The methods of the protocol: which part serves each of them, in which eras, with what conditions.

*Legacy* are the revisions with sessions, 2024-11-05 to 2025-11-25; *modern* is 2026-07-28. Methods
that are not in this table are the application's own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from . import skill_format
from .jsonrpc import is_object


class ServedBy(enum.Enum):
    """Which part of the library answers a method."""

    CONNECTION = "connection"
    """The connection of a session, also before the handshake: `server.dispatch`."""

    SESSION = "session"
    """The session, with what it keeps of its client: `server.session_methods`."""

    SERVER = "server"
    """The server, for requests that belong to no session: `server.modern`."""

    APPLICATION = "application"
    """The application, in a handler."""

    NOTHING = "nothing"
    """A method that the library does not serve."""


@attrs.frozen(kw_only=True)
class Method:
    """One method that clients may call."""

    served_by: ServedBy
    """Which part answers it."""

    legacy: bool
    """Whether the revisions with sessions have it."""

    modern: bool
    """Whether 2026-07-28 has it."""

    capability: tuple[str, ...] = ()
    """Where in the server's capabilities it has to be declared; empty if nowhere."""

    may_ask: bool = False
    """Whether its answer may ask the client for input (2026-07-28, *input_required*)."""

    cacheable: bool = False
    """Whether its results say for how long they may be kept (2026-07-28, *Caching*)."""


def _application(*capability: str, may_ask: bool = False, cacheable: bool = False) -> Method:
    return Method(
        served_by=ServedBy.APPLICATION,
        legacy=True,
        modern=True,
        capability=capability,
        may_ask=may_ask,
        cacheable=cacheable,
    )


def _legacy(served_by: ServedBy, *capability: str) -> Method:
    return Method(served_by=served_by, legacy=True, modern=False, capability=capability)


def _of_skills(*, cacheable: bool = False) -> Method:
    return Method(
        served_by=ServedBy.APPLICATION,
        legacy=False,
        modern=True,
        capability=("extensions", skill_format.EXTENSION),
        cacheable=cacheable,
    )


DISCOVER: Final = "server/discover"
LISTEN: Final = "subscriptions/listen"

TASKS_GET: Final = "tasks/get"
TASKS_UPDATE: Final = "tasks/update"
TASKS_CANCEL: Final = "tasks/cancel"
TASK_METHODS: Final = frozenset({TASKS_GET, TASKS_UPDATE, TASKS_CANCEL})
"""The methods of the tasks extension (2026-07-28)."""

SET_LEVEL: Final = _legacy(ServedBy.SESSION, "logging")

METHODS: Final[Mapping[str, Method]] = {
    "initialize": _legacy(ServedBy.CONNECTION),
    "ping": _legacy(ServedBy.CONNECTION),
    DISCOVER: Method(served_by=ServedBy.SERVER, legacy=False, modern=True, cacheable=True),
    LISTEN: Method(served_by=ServedBy.SERVER, legacy=False, modern=True),
    "logging/setLevel": SET_LEVEL,
    "resources/subscribe": _legacy(ServedBy.SESSION, "resources", "subscribe"),
    "resources/unsubscribe": _legacy(ServedBy.SESSION, "resources", "subscribe"),
    "tools/list": _application("tools", cacheable=True),
    "tools/call": _application("tools", may_ask=True),
    "prompts/list": _application("prompts", cacheable=True),
    "prompts/get": _application("prompts", may_ask=True),
    "resources/list": _application("resources", cacheable=True),
    "resources/templates/list": _application("resources", cacheable=True),
    "resources/read": _application("resources", may_ask=True, cacheable=True),
    "completion/complete": _application("completions"),
    TASKS_GET: Method(served_by=ServedBy.SERVER, legacy=False, modern=True),
    TASKS_UPDATE: Method(served_by=ServedBy.SERVER, legacy=False, modern=True),
    TASKS_CANCEL: Method(served_by=ServedBy.SERVER, legacy=False, modern=True),
    skill_format.LIST: _of_skills(cacheable=True),
    skill_format.GET: _of_skills(cacheable=True),
    skill_format.READ_DIRECTORY: _of_skills(),
    "tasks/list": _legacy(ServedBy.NOTHING, "tasks"),
    "tasks/result": _legacy(ServedBy.NOTHING, "tasks"),
}
"""All methods of the protocol that need to be told apart."""

REMOVED: Final = frozenset(name for name, one in METHODS.items() if one.legacy and not one.modern)
"""Methods of the revisions with sessions that stateless requests cannot use."""

RESERVED: Final = frozenset(
    name
    for name, one in METHODS.items()
    if one.served_by in (ServedBy.CONNECTION, ServedBy.SESSION, ServedBy.SERVER)
)
"""Methods that the library answers itself: an application cannot."""

OF_SERVER: Final = frozenset(
    name for name, one in METHODS.items() if one.served_by is ServedBy.SERVER
)
"""Methods that the server answers itself, for requests that belong to no session."""

MAY_ASK: Final = frozenset(name for name, one in METHODS.items() if one.may_ask)
"""Methods whose answer may ask the client for input (2026-07-28)."""

CACHEABLE: Final = frozenset(name for name, one in METHODS.items() if one.cacheable)
"""Methods whose results say for how long they may be kept (2026-07-28)."""


def is_declared(capability: tuple[str, ...], capabilities: Mapping[str, object]) -> bool:
    """Return whether a server declares a capability: an object, or a true member of one.

    Args:
        capability: Where it has to be declared; see `Method.capability`.
        capabilities: What the server declares.
    """
    there: object = capabilities
    for name in capability:
        if not is_object(there) or name not in there:
            return False
        there = there[name]
    return there is not False and there is not None
