"""The table of methods, and what is declared."""

from __future__ import annotations

import pytest

from trio_mcp_session.protocol.methods import METHODS, RESERVED, ServedBy, is_declared
from trio_mcp_session.server.session_methods import SESSION_METHODS


def test_the_session_answers_the_methods_that_the_table_gives_it() -> None:
    assert {
        name for name, one in METHODS.items() if one.served_by is ServedBy.SESSION
    } == SESSION_METHODS


def test_an_application_cannot_answer_what_the_library_answers() -> None:
    assert not {name for name in RESERVED if METHODS[name].served_by is ServedBy.APPLICATION}
    assert "tasks/list" not in RESERVED


def test_each_method_belongs_to_an_era() -> None:
    assert all(one.legacy or one.modern for one in METHODS.values())
    assert not any(one.may_ask and not one.modern for one in METHODS.values())


@pytest.mark.parametrize(
    "capability, declared",
    [
        ((), True),
        (("logging",), True),
        (("tools",), False),
        (("resources", "subscribe"), True),
        (("resources", "listChanged"), False),
        (("resources", "none"), False),
        (("resources", "missing"), False),
        (("logging", "deeper"), False),
        (("resources", "subscribe", "deeper"), False),
    ],
)
def test_a_capability_is_declared_by_an_object_or_a_true_member(
    capability: tuple[str, ...], declared: bool
) -> None:
    capabilities = {
        "logging": {},
        "resources": {"subscribe": True, "listChanged": False, "none": None},
    }
    assert is_declared(capability, capabilities) is declared
