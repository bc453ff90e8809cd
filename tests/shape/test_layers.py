"""Imports point down, and what is pure stays so: told from the source, without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trio_mcp_session

from .circles import circles
from .layers import PURE, RANKS, impure, layer, upward
from .modules import Import, Module, imports, made_up, read_package

ROOT = Path(trio_mcp_session.__file__).parent


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_package(ROOT)


@pytest.fixture(scope="module")
def found(modules: dict[str, Module]) -> list[Import]:
    return imports(modules)


def import_circles(found: list[Import]) -> list[tuple[str, ...]]:
    """Return modules that import each other when they are run.

    Parts of one thing, such as a session and its requests, may name each other's types
    (`test_shape` says which do). Pure modules can be understood one after the other, from below.
    """
    return circles(
        one
        for one in found
        if not one.typing_only
        or layer(one.source) != layer(one.target)
        or layer(one.source) in PURE
    )


def test_every_module_has_a_layer(modules: dict[str, Module]) -> None:
    assert {layer(name) for name in modules} <= {"", *RANKS}


def test_the_package_has_no_import_upwards(found: list[Import]) -> None:
    assert Import("protocol.capabilities", "core.errors") in found
    assert upward(found) == []


def test_no_modules_import_each_other_at_run_time(found: list[Import]) -> None:
    assert import_circles(found) == []


def test_core_and_protocol_are_pure(found: list[Import]) -> None:
    assert Import("core.ids", "secrets", inside=False) in found
    assert impure(found) == []


def test_core_and_protocol_work_where_there_is_no_trio(modules: dict[str, Module]) -> None:
    # The package's own `__init__` imports everything: an empty package stands in for it.
    program = """
import importlib, sys, types
package = types.ModuleType("trio_mcp_session")
package.__path__ = [sys.argv[1]]
sys.modules["trio_mcp_session"] = package
sys.modules["trio"] = None
for name in sys.argv[2:]:
    importlib.import_module(name)
print(len(sys.argv[2:]), "imported")
"""
    names = sorted(one.full_name for one in modules.values() if layer(one.name) in PURE)
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), *names],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{len(names)} imported\n"


@pytest.mark.parametrize(
    "line",
    [
        "from ..sessions import session",
        "from ..sessions.session import Session",
        "from .. import sessions",
        "from .. import Session",
        "import trio_mcp_session.sessions.session",
        "from trio_mcp_session.sessions import session",
        "if TYPE_CHECKING:\n    from ..sessions.session import Session",
        "if typing.TYPE_CHECKING:\n    from ..sessions.session import Session",
        "def f():\n    from ..sessions.session import Session",
    ],
)
def test_an_import_upwards_is_found(line: str) -> None:
    modules = made_up(core__ids=line, sessions__session="from ..core import ids")
    (wrong,) = upward(imports(modules))
    assert wrong.source == "core.ids"
    assert wrong.typing_only is ("TYPE_CHECKING" in line)


@pytest.mark.parametrize(
    "upper, lower",
    [
        ("server", "sessions"),
        ("handles", "server"),
        ("application", "handles"),
        ("telemetry", "application"),
        ("adapters", "application"),
        ("transports", "application"),
    ],
)
def test_a_room_may_import_from_one_below_it_only(upper: str, lower: str) -> None:
    down = made_up(**{f"{upper}__a": f"from ..{lower} import b", f"{lower}__b": ""})
    up = made_up(**{f"{lower}__a": f"from ..{upper} import b", f"{upper}__b": ""})
    assert upward(imports(down)) == []
    assert upward(imports(up)) == [Import(f"{lower}.a", f"{upper}.b")]


def test_a_folder_without_a_rank_may_import_nothing_of_others() -> None:
    found = imports(made_up(unknown__a="from ..core import b", core__b=""))
    assert upward(found) == [Import("unknown.a", "core.b")]


def test_the_command_and_the_testing_tools_do_not_import_each_other() -> None:
    found = imports(made_up(cli__demo="from ..testing import client", testing__client=""))
    assert upward(found) == [Import("cli.demo", "testing.client")]


def test_a_circle_is_found_except_of_types_in_one_layer() -> None:
    late = "if TYPE_CHECKING:\n    from . import {}"

    def circles_of(**sources: str) -> list[tuple[str, ...]]:
        return import_circles(imports(made_up(**sources)))

    assert circles_of(sessions__a="from . import b", sessions__b=late.format("a")) == []
    assert circles_of(sessions__a="from . import b", sessions__b="from . import a")
    assert circles_of(core__a="from . import b", core__b=late.format("a"))


@pytest.mark.parametrize(
    "line",
    ["import trio", "from os import path", "import time as clock", "from urllib import request"],
)
def test_an_import_that_is_not_pure_is_found(line: str) -> None:
    assert len(impure(imports(made_up(core__ids=line, sessions__session=line)))) == 1
