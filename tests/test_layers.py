"""Imports point down, and what is pure stays so: told from the source, without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import attrs
import pytest

import trio_mcp_session

PACKAGE = "trio_mcp_session"
ROOT = Path(trio_mcp_session.__file__).parent

RANKS = {
    "core": 1,
    "protocol": 2,
    "sessions": 3,
    "application": 4,
    "transports": 5,
    "adapters": 6,
    "cli": 7,
    "testing": 7,
    "__main__": 8,  # hands over to `cli`
}
PURE = ("core", "protocol")
WITHOUT_CIRCLES = (*PURE, "transports")
"""Layers whose modules do not import each other, not even for types."""

# Values in, values out. (`secrets` and `datetime` are for ids and for the default wall clock.)
PURE_IMPORTS = {
    "__future__",
    "abc",
    "attrs",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "contextlib",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "math",
    "msgspec",
    "re",
    "secrets",
    "types",
    "typing",
}


@attrs.frozen(order=True)
class Import:
    """One module names another."""

    source: str
    target: str
    typing_only: bool = False


def read_package() -> dict[str, str]:
    """Return the source of every module of the package, by dotted name."""
    modules = {}
    for path in ROOT.rglob("*.py"):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _import_statements(
    node: ast.AST, *, typing_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Find the imports of a module, also those inside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, typing_only
        elif isinstance(child, ast.stmt):
            yield from _import_statements(
                child, typing_only=typing_only or _is_type_checking(child)
            )


def imports(modules: Mapping[str, str], packages: set[str]) -> Iterator[Import]:
    """Yield what each module imports, as the longest dotted name that is a module or foreign."""
    for name, source in modules.items():
        for statement, typing_only in _import_statements(ast.parse(source)):
            if isinstance(statement, ast.Import):
                targets = [alias.name for alias in statement.names]
            else:
                parents = name.split(".")
                if name not in packages:
                    parents.pop()
                base = parents[: len(parents) - statement.level + 1] if statement.level else []
                if statement.module:
                    base.append(statement.module)
                origin = ".".join(base)
                targets = [
                    full if (full := f"{origin}.{alias.name}") in modules else origin
                    for alias in statement.names
                ]
            for target in targets:
                yield Import(name, target, typing_only)


def layer(module: str) -> str:
    """Return the layer of a module of the package; the face above all is no layer."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0]


def wrong_ways(found: list[Import]) -> list[Import]:
    """Return the imports that do not point down."""
    wrong = []
    for one in found:
        inside = one.target.partition(".")[0] == PACKAGE
        source, target = layer(one.source), layer(one.target)
        if not inside or not source or source == target:
            continue
        if not target or RANKS[target] >= RANKS[source]:
            wrong.append(one)
    return wrong


def cycle(found: list[Import]) -> list[str]:
    """Return modules that import each other, if there are some.

    Parts of one thing, such as a session and its requests, may name each other's types. The other
    layers can be read from below, one module after the other.
    """
    sorter = TopologicalSorter[str]()
    for one in found:
        names_a_type = one.typing_only and layer(one.source) == layer(one.target)
        if not names_a_type or layer(one.source) in WITHOUT_CIRCLES:
            sorter.add(one.source, one.target)
    try:
        sorter.prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def impure(found: list[Import]) -> list[Import]:
    """Return the imports of pure layers of anything that is not pure."""
    return [
        one
        for one in found
        if layer(one.source) in PURE
        and (top := one.target.partition(".")[0]) != PACKAGE
        and top not in PURE_IMPORTS
    ]


@pytest.fixture(scope="module")
def found() -> list[Import]:
    modules = read_package()
    packages = {name for name in modules if any(f"{name}." in other for other in modules)}
    return sorted(imports(modules, packages))


def test_every_module_has_a_layer() -> None:
    assert {layer(name) for name in read_package()} <= {"", *RANKS}


def test_imports_point_down(found: list[Import]) -> None:
    assert Import(f"{PACKAGE}.protocol.capabilities", f"{PACKAGE}.core.errors") in found
    assert wrong_ways(found) == []


def test_no_modules_import_each_other(found: list[Import]) -> None:
    assert cycle(found) == []


def test_core_and_protocol_are_pure(found: list[Import]) -> None:
    assert Import(f"{PACKAGE}.core.ids", "secrets") in found
    assert impure(found) == []


def test_core_and_protocol_work_where_there_is_no_trio() -> None:
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
    names = sorted(name for name in read_package() if layer(name) in PURE)
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), *names],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{len(names)} imported\n"


def found_in(**sources: str) -> list[Import]:
    modules = {f"{PACKAGE}.{name.replace('__', '.')}": text for name, text in sources.items()}
    packages = {PACKAGE, *(name.rpartition(".")[0] for name in modules)}
    return sorted(imports(dict.fromkeys(packages, "") | modules, packages))


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
    found = found_in(core__ids=line, sessions__session="from ..core import ids")
    (wrong,) = wrong_ways(found)
    assert wrong.source == f"{PACKAGE}.core.ids"
    assert wrong.typing_only is ("TYPE_CHECKING" in line)


def test_the_two_on_top_do_not_know_each_other() -> None:
    found = found_in(cli__demo="from ..testing import client", testing__client="")
    assert wrong_ways(found) == [Import(f"{PACKAGE}.cli.demo", f"{PACKAGE}.testing.client")]


def test_a_cycle_is_found_except_of_types_in_one_layer() -> None:
    late = "if TYPE_CHECKING:\n    from . import {}"
    assert cycle(found_in(sessions__a="from . import b", sessions__b=late.format("a"))) == []
    assert cycle(found_in(sessions__a="from . import b", sessions__b="from . import a"))
    assert cycle(found_in(core__a="from . import b", core__b=late.format("a")))
    assert cycle(found_in(transports__a="from . import b", transports__b=late.format("a")))


@pytest.mark.parametrize("line", ["import trio", "from os import path", "import time as clock"])
def test_what_is_not_pure_is_found(line: str) -> None:
    assert len(impure(found_in(core__ids=line, sessions__session=line))) == 1
