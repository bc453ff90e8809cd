"""Finds the server in an application of the official SDK or FastMCP, and reads what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import attrs

from ..core.icon import Icon
from ..core.identity import ServerInfo
from ..protocol.header_annotations import read_annotations
from .sdk_names import SERVER_MEMBERS, FastMcp, Sdk

MODERN: Final = "2026-07-28"
NO_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {}


@final
@attrs.define(eq=False, repr=False)
class SdkServer:
    """The low-level server of one application. None of its methods is a checkpoint."""

    app: Any
    """The application: their ``MCPServer``, ``FastMCP`` or low-level ``Server``."""
    server: Any
    """Their low-level server, which has the handlers."""
    sdk: Sdk
    fastmcp: FastMcp | None
    """The names of FastMCP; None for other applications."""
    _headers: dict[str, tuple[object, Mapping[str, tuple[str, ...]]]] = attrs.field(
        factory=dict[str, "tuple[object, Mapping[str, tuple[str, ...]]]"], init=False
    )
    """The schema of each tool that was called, and the headers that it wants repeated."""

    def __repr__(self) -> str:
        return f"<SdkServer {self.server.name!r}>"

    @classmethod
    def of(cls, app: object) -> SdkServer:
        """Find the server of an application.

        Raises:
            UnsupportedVersion: The installed version of their library has not what is needed.
            TypeError: The application has no server.
        """
        sdk = Sdk.load()
        server: Any = app
        fastmcp: FastMcp | None = None
        if not isinstance(app, sdk.server):
            server = getattr(app, "_lowlevel_server", None)
            if server is None:
                server = getattr(app, "_mcp_server", None)
                fastmcp = None if server is None else FastMcp.load()
        if not isinstance(server, sdk.server):
            raise TypeError(
                f"a {type(app).__qualname__} of {type(app).__module__} cannot be served: pass an "
                "MCPServer, a FastMCP or a low-level Server"
            )
        sdk.check_object(server, SERVER_MEMBERS)
        return cls(app, server, sdk, fastmcp)

    @property
    def server_info(self) -> ServerInfo:
        """The name and version of the server."""
        server = self.server
        return ServerInfo(
            name=server.name,
            version=server.version,
            title=server.title,
            description=server.description,
            website_url=server.website_url,
            icons=[_icon(one) for one in server.icons or ()],
        )

    @property
    def bus(self) -> Any:
        """What their handlers publish changes to; None without."""
        handler = self._handler_of("subscriptions/listen")
        if isinstance(handler, self.sdk.listen_handler):
            return getattr(handler, "_bus", None)
        return None

    @property
    def answers_subscriptions(self) -> bool:
        """Whether the application has a handler of its own for ``subscriptions/listen``."""
        handler = self._handler_of("subscriptions/listen")
        return handler is not None and not isinstance(handler, self.sdk.listen_handler)

    def _handler_of(self, method: str) -> Any:
        entry = self.server.get_request_handler(method)
        return None if entry is None else entry.handler

    def handles_request(self, method: str) -> bool:
        """Return whether the application has a handler for requests of a method."""
        return self.server.get_request_handler(method) is not None

    def capabilities(self, version: str) -> dict[str, Any]:
        """Return what their server declares to clients of a revision."""
        if version == MODERN:
            found = self.server.get_capabilities(protocol_version=version)
        else:
            found = self.server.create_initialization_options().capabilities
        written: dict[str, Any] = found.model_dump(by_alias=True, mode="json", exclude_none=True)
        return written

    def header_parameters(self, name: object) -> Mapping[str, tuple[str, ...]]:
        """Return which arguments of a tool HTTP headers must repeat (from 2026-07-28 on).

        It is known from 2.3 on: their earlier versions can only list all tools.
        """
        find: Callable[[str], Any] | None = getattr(self.server, "get_tool_input_schema", None)
        schema = find(name) if find is not None and isinstance(name, str) else None
        if schema is None:
            return NO_HEADERS
        assert isinstance(name, str)
        known = self._headers.get(name)
        if known is None or known[0] is not schema:
            try:
                wanted = read_annotations(schema)
            except ValueError:
                wanted = NO_HEADERS  # Clients drop a tool with such a schema.
            self._headers[name] = known = (schema, wanted)
        return known[1]


def _icon(icon: Any) -> Icon:
    return Icon(icon.src, mime_type=icon.mime_type, sizes=icon.sizes, theme=icon.theme)
