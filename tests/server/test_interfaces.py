"""The engine's interfaces: the server has what they name, and all of it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

import trio_mcp_session
from trio_mcp_session import Router, SessionManager, connect_memory, open_session_manager
from trio_mcp_session.server.client_connection import ClientConnection, client_of
from trio_mcp_session.server.mcp_server import McpServer
from trio_mcp_session.sessions.host import SessionHost
from trio_mcp_session.sessions.manager_server import ManagerServer
from trio_mcp_session.sessions.session_client import SessionClient

ROOT = Path(trio_mcp_session.__file__).parent
USES = "".join(
    path.read_text("utf-8")
    for room in ("sessions", "server")
    for path in (ROOT / room).glob("*.py")
)


@pytest.mark.parametrize(
    "interface, implementation",
    [
        (SessionClient, ClientConnection),
        (ManagerServer, McpServer),
        (SessionHost, SessionManager),
    ],
)
def test_an_interface_names_what_exists_and_is_used(
    interface: type[object], implementation: type[object]
) -> None:
    names = {
        name
        for name in {*vars(interface), *interface.__annotations__}
        if not name.startswith(("__", "_abc", "_is_protocol", "_is_runtime", "_non"))
    }
    assert len(names) > 5
    for name in names:
        assert hasattr(implementation, name), name
        assert f".{name}" in USES, name


async def test_a_session_of_the_application_has_no_connection() -> None:
    async with open_session_manager() as manager, manager.open_session() as session:
        with pytest.raises(LookupError, match="no connection"):
            client_of(session)


async def test_a_connection_shows_its_session() -> None:
    async with open_session_manager(Router("r")) as manager:
        await connect_memory(manager)
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        assert repr(client_of(session)) == f"<ClientConnection of {session!r}>"
