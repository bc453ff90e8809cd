"""Messages of ``subscriptions/listen``: its filter, and its notifications (2026-07-28).

A notification may go to thousands of subscriptions, and the messages differ only in the id of each
subscription's request. So a notification is encoded once, with a gap for the id: see `Notice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeGuard, cast, final

import attrs

from ..core.errors import McpError
from .envelope import SUBSCRIPTION_ID
from .error_codes import INVALID_PARAMS
from .jsonrpc import Params, RequestId, encode_json, is_object

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
RESOURCE_UPDATED: Final = "notifications/resources/updated"
TASK_CHANGED: Final = "notifications/tasks"

LISTS: Final[Mapping[str, str]] = {
    "tools": "toolsListChanged",
    "prompts": "promptsListChanged",
    "resources": "resourcesListChanged",
}
"""The features that have a list, and the member of a filter for changes of each list."""

Topic: TypeAlias = tuple[str, str | None]
"""What a notification is about: its method, and the URI of the resource or the id of the task."""

_ABOUT: Final = {RESOURCE_UPDATED: "uri", TASK_CHANGED: "taskId"}
"""The parameter that says what a notification is about, by method."""


def list_changed(feature: str) -> str:
    """Return the method of the notification that a list has changed."""
    return f"notifications/{feature}/list_changed"


CHANGES: Final = frozenset({RESOURCE_UPDATED, *map(list_changed, LISTS)})
"""The methods of the notifications that can be subscribed to."""


@final
@attrs.frozen
class Filter:
    """The notifications that a client subscribes to, or that the server agrees to send."""

    lists: tuple[str, ...]
    """The features whose list changes are included, in the order of `LISTS`."""

    uris: tuple[str, ...] | None
    """The URIs of the resources, each once; None if the filter has no list of resources."""

    task_ids: tuple[str, ...] | None = None
    """The ids of the tasks, each once; None if the filter has no list of tasks."""

    def honoured(self, capabilities: Mapping[str, Any]) -> Filter:
        """Return the part of it that a server with these capabilities can send, without tasks."""
        return Filter(
            tuple(one for one in self.lists if _offers(capabilities, one, "listChanged")),
            self.uris if _offers(capabilities, "resources", "subscribe") else None,
        )

    def topics(self) -> Iterator[Topic]:
        """Iterate over the topics of the notifications that it includes."""
        for feature in self.lists:
            yield list_changed(feature), None
        for uri in self.uris or ():
            yield RESOURCE_UPDATED, uri
        for task_id in self.task_ids or ():
            yield TASK_CHANGED, task_id

    def described(self) -> dict[str, Any]:
        """Return it in the form of the protocol."""
        described: dict[str, Any] = {LISTS[feature]: True for feature in self.lists}
        if self.uris is not None:
            described["resourceSubscriptions"] = self.uris
        if self.task_ids is not None:
            described["taskIds"] = self.task_ids
        return described


def read_filter(params: Params, max_uris: int) -> Filter:
    """Read the filter of a request. Unknown members are ignored.

    Args:
        params: The request's parameters.
        max_uris: The most resources that it may list.

    Raises:
        McpError: -32602, a member is of the wrong type, or there are too many resources.
    """
    wanted = params.get("notifications")
    if not is_object(wanted):
        raise McpError(INVALID_PARAMS, "notifications must be an object")
    lists: list[str] = []
    for feature, member in LISTS.items():
        asked = wanted.get(member, False)
        if not isinstance(asked, bool):
            raise McpError(INVALID_PARAMS, f"{member} must be true or false")
        if asked:
            lists.append(feature)
    if "resourceSubscriptions" not in wanted:
        return Filter(tuple(lists), None)
    return Filter(tuple(lists), _names(wanted, "resourceSubscriptions", "resources", max_uris))


def asks_for_tasks(params: Params) -> bool:
    """Return whether the filter of a request has a list of tasks. Call `read_filter` first."""
    return "taskIds" in params["notifications"]


def read_task_ids(params: Params, max_ids: int) -> tuple[str, ...]:
    """Return the ids of the tasks in the filter of a request, each once.

    Args:
        params: The request's parameters, for which `asks_for_tasks` holds.
        max_ids: The most tasks that it may list.

    Raises:
        McpError: -32602, it is not a list of texts, or too long.
    """
    return _names(params["notifications"], "taskIds", "tasks", max_ids)


def _names(wanted: dict[str, Any], member: str, what: str, most: int) -> tuple[str, ...]:
    names = wanted[member]
    if not _is_list(names) or not all(isinstance(one, str) for one in names):
        raise McpError(INVALID_PARAMS, f"{member} must be a list of strings")
    if len(names) > most:
        raise McpError(INVALID_PARAMS, f"No more than {most} {what} can be subscribed to")
    return tuple(dict.fromkeys(names))


@final
@attrs.frozen
class Notice:
    """A notification for many subscriptions, encoded except for the id of their request."""

    topic: Topic
    _before: bytes
    _after: bytes

    @classmethod
    def of(cls, method: str, params: Mapping[str, Any] | None) -> Notice:
        """Encode a notification. The ``_meta`` of its parameters is kept."""
        members = dict(params or {})
        meta = members.pop("_meta", None)
        about = members.get(_ABOUT[method]) if method in _ABOUT else None
        kept = {k: v for k, v in meta.items() if k != SUBSCRIPTION_ID} if is_object(meta) else {}
        return cls(
            (method, about if isinstance(about, str) else None),
            b'{"jsonrpc":"2.0","method":%b,"params":{"_meta":{%b%b:'
            % (encode_json(method), _members(kept, after=b","), encode_json(SUBSCRIPTION_ID)),
            b"}%b}}" % _members(members, before=b","),
        )

    def tagged(self, tag: bytes) -> bytes:
        """Return the message for one subscription; ``tag`` is its request's id as JSON."""
        return self._before + tag + self._after


def acknowledgement(honoured: Filter) -> Notice:
    """Return the first notification of a subscription: the filter that the server agrees to."""
    return Notice.of(ACKNOWLEDGED, {"notifications": honoured.described()})


def tag_of(request_id: RequestId) -> bytes:
    """Return the id of a subscription's request as JSON, in its exact type."""
    return encode_json(request_id)


def listen_result(request_id: RequestId) -> dict[str, Any]:
    """Build the result of a subscription that the server ends, before `complete_result`."""
    return {"_meta": {SUBSCRIPTION_ID: request_id}}


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _offers(capabilities: Mapping[str, Any], feature: str, what: str) -> bool:
    offered = capabilities.get(feature)
    return isinstance(offered, Mapping) and cast("Mapping[str, Any]", offered).get(what) is True


def _members(of: Mapping[str, Any], *, before: bytes = b"", after: bytes = b"") -> bytes:
    """Encode the members of an object without its braces; with a comma if there are any."""
    return before + encode_json(of)[1:-1] + after if of else b""
