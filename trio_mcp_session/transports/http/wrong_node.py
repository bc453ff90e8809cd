"""Requests that name another node: 421, and a header by which a proxy finds that node.

A proxy sends most requests to the right node by itself: it reads the node in the names that headers
repeat. Some names it does not see, such as a ``requestState`` in the body. Then the node that gets
the request says where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs

from ...core.node import node_of
from ...protocol.header_agreement import value_at
from ...protocol.header_annotations import HANDLE
from ...protocol.jsonrpc import is_object
from ...protocol.methods import LISTEN, TASK_METHODS
from .headers import values_of
from .http_error import HttpError

if TYPE_CHECKING:
    from ...protocol.jsonrpc import Request
    from .http_request import HttpRequest

NODE: Final = "{node}"
"""Stands for the label in the value of `HttpOptions.wrong_node_header`."""

GONE: Final = b"x-node-gone"
"""The header by which a proxy says that a node does not answer: another one answers for it, that
the session or the handle is unknown."""


@final
@attrs.frozen
class NodeCheck:
    """Refuses requests that name another node than this one."""

    _node: str
    _header: tuple[str, str] | None

    def check_session(self, request: HttpRequest, session_id: str) -> None:
        """Refuse a request whose session belongs to another node. Not a checkpoint.

        Raises:
            HttpError: 421.
        """
        self._check(request, [session_id])

    def check_message(
        self, request: HttpRequest, message: Request, repeated: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Refuse a request without a session that names something of another node.

        Not a checkpoint. A retry belongs to the node of its ``requestState``, whatever else it
        names.

        Args:
            request: The HTTP request.
            message: Its message.
            repeated: The path of each argument that a header repeats, by the name of the header.

        Raises:
            HttpError: 421.
        """
        self._check(request, _names_in(message, repeated))

    def _check(self, request: HttpRequest, names: Iterable[object]) -> None:
        nodes = {node_of(name) for name in names if isinstance(name, str)}
        # With several nodes, each of them knows only its own part.
        node = nodes.pop() if len(nodes) == 1 else None
        if node is None or node == self._node:
            return
        if node in values_of(request.scope["headers"], GONE):
            return
        headers = []
        if self._header is not None:
            name, value = self._header
            headers = [(name.lower().encode(), value.replace(NODE, node).encode())]
        raise HttpError(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"This is not the node {node} that the request names",
            headers=headers,
            hint="a proxy that sends it to that node",
        )


def _names_in(message: Request, repeated: Mapping[str, tuple[str, ...]]) -> Iterable[object]:
    params = message.params
    if "requestState" in params:
        return [params["requestState"]]
    if message.method in TASK_METHODS:
        return [params.get("taskId")]
    if message.method == LISTEN:
        tasks: object = value_at(params, ("notifications", "taskIds"))
        return cast("list[object]", tasks) if isinstance(tasks, list) else ()
    if HANDLE in repeated:
        arguments: Any = params.get("arguments")
        return [value_at(arguments, repeated[HANDLE])] if is_object(arguments) else ()
    return ()
