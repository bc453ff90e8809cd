"""What requests belong to, and where they run: who promises that, keeps it."""

from __future__ import annotations

import inspect

import attrs
import pytest

from trio_mcp_session import Session
from trio_mcp_session.sessions.owner import RequestOwner, Room
from trio_mcp_session.sessions.stateless_requests import StatelessRequests
from trio_mcp_session.sessions.stateless_room import StatelessRoom


def promised(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("kind", [Session, StatelessRequests, StatelessRoom])
def test_rooms(kind: type) -> None:
    for name in ("_spawn", "_context"):
        assert name in promised(Room)
        assert signature(kind, name) == signature(Room, name)


@pytest.mark.parametrize("kind", [Session, StatelessRequests])
def test_owners(kind: type) -> None:
    names = [name for name in promised(RequestOwner) if not name.startswith("__")]
    assert len(names) == 8
    for name in names:
        assert signature(kind, name) == signature(RequestOwner, name)
    assert "_counters" in attrs.fields_dict(kind)


def signature(kind: type, name: str) -> list[str]:
    return list(inspect.signature(getattr(kind, name)).parameters)
