"""The modules of the package and what they import, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

PACKAGE: Final = "trio_mcp_session"


@attrs.frozen
class Module:
    """One file of the package."""

    name: str
    """Its dotted name without the package's own; the empty string for the package itself."""
    source: str
    is_package: bool = False
    tree: ast.Module = attrs.field(init=False, repr=False, eq=False)

    @tree.default
    def _parse(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str:
        """The folder, or the file, at the top of the package that it belongs to."""
        return self.name.partition(".")[0]

    @property
    def full_name(self) -> str:
        """Its dotted name as Python imports it."""
        return f"{PACKAGE}.{self.name}" if self.name else PACKAGE


@attrs.frozen(order=True)
class Import:
    """One module names another. Modules of the package are named as `Module.name`."""

    source: str
    target: str
    typing_only: bool = False
    inside: bool = True
    """Whether the target belongs to the package."""


def read_package(root: Path) -> dict[str, Module]:
    """Return every module below a folder by name.

    Args:
        root: The folder of the package, or the one in which it lies.
    """
    if (root / PACKAGE).is_dir():
        root = root / PACKAGE
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
    return found


def made_up(**sources: str) -> dict[str, Module]:
    """Return modules for tests: ``a__b`` is the module ``b`` in the folder ``a``."""
    names = {name.replace("__", "."): source for name, source in sources.items()}
    folders = {"", *(name.rpartition(".")[0] for name in names)}
    packages = {name: Module(name, names.pop(name, ""), is_package=True) for name in folders}
    return packages | {name: Module(name, source) for name, source in names.items()}


def targets(
    module: Module, statement: ast.Import | ast.ImportFrom, modules: Mapping[str, Module]
) -> Iterator[tuple[str, str, str | None]]:
    """Yield what an import statement binds: local name, module, and the name in that module.

    The module is the longest dotted name that is one, with the package's own name; the last is
    None where a module itself is bound.
    """
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.asname or alias.name, alias.name, None
        return
    parents = module.full_name.split(".")
    if not module.is_package:
        parents.pop()
    base = parents[: len(parents) - statement.level + 1] if statement.level else []
    origin = ".".join([*base, *filter(None, [statement.module])])
    for alias in statement.names:
        full = f"{origin}.{alias.name}"
        if inner_name(full) in modules:
            yield alias.asname or alias.name, full, None
        else:
            yield alias.asname or alias.name, origin, alias.name


def inner_name(full: str) -> str | None:
    """Return the name within the package of a dotted name; None for one of other packages."""
    top, _, rest = full.partition(".")
    return rest if top == PACKAGE else None


def import_statements(
    node: ast.AST, *, typing_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports of a module, also those inside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, typing_only
        elif isinstance(child, ast.stmt):
            guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from import_statements(child, typing_only=typing_only or guard)


def imports(modules: Mapping[str, Module]) -> list[Import]:
    """Return what the modules import, each pair of modules once for each kind of import."""
    found = set()
    for module in modules.values():
        for statement, typing_only in import_statements(module.tree):
            for _, target, _ in targets(module, statement, modules):
                inner = inner_name(target)
                inside = inner is not None
                found.add(
                    Import(module.name, target if inner is None else inner, typing_only, inside)
                )
    return sorted(found)
