"""What an application of the official SDK publishes on its bus reaches the clients of a manager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..application.visibility import Feature

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from .sdk_server import SdkServer


@contextmanager
def feeding(server: SdkServer, manager: SessionManager) -> Iterator[None]:
    """Pass on the changes that their handlers publish, for the length of a block.

    Clients of 2026-07-28 get what they have subscribed to. Up to 2025-11-25, sessions get changes
    of lists, and of the resources that they have subscribed to. Not a checkpoint.
    """
    bus = server.bus
    if bus is None:
        yield
        return
    unsubscribe: Callable[[], object] = bus.subscribe(_listener(server, manager))
    try:
        yield
    finally:
        unsubscribe()


def _listener(server: SdkServer, manager: SessionManager) -> Callable[[Any], None]:
    sdk = server.sdk
    lists: dict[Any, Feature] = {
        sdk.tools_changed: "tools",
        sdk.prompts_changed: "prompts",
        sdk.resources_changed: "resources",
    }

    def listen(event: Any) -> None:
        if isinstance(event, sdk.resource_updated):
            manager.notify_resource_updated(str(event.uri))
        elif (what := lists.get(type(event))) is not None:
            manager.notify_list_changed(what)

    return listen
