"""All figures of the shape, and the comparison with what is allowed."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from .circles import circles
from .classes import Assignment, Chain, Classes
from .layers import upward
from .modules import PACKAGE, Module, imports, read_package

ALLOWED: Final = Path(__file__).with_name("allowed.toml")
CHECKOUT: Final = Path(__file__).parents[2]

LONGEST: Final = 600
"""Lines that a file may have without a reason."""
REASON: Final = "in one file"
"""The words in the docstring of a longer file that begin its reason."""

HEAD: Final = """\
# Exceptions to the rules for the shape of the package. This list should only get shorter.
# `python -m tests.shape --allow` writes it; tests/shape/figures.py describes its parts.
"""


@attrs.frozen
class Figures:
    """What was measured."""

    modules: int
    circles: list[tuple[str, ...]]
    """Modules that import each other, imports for type checkers included."""
    rooms: Mapping[str, int]
    """The size of the largest circle within each folder at the top."""
    chains: list[Chain]
    assignments: Counter[Assignment]
    upward: list[str]
    """Imports that do not point down."""
    shared_names: list[str]
    """Names that two files in different folders have."""
    long_files: list[str]
    """Files that are too long, and do not say why."""

    def findings(self) -> dict[str, list[list[str]] | list[str]]:
        """Return what has to be allowed, under the name of its part of ``allowed.toml``."""
        return {
            "circles": [list(one) for one in self.circles],
            "chains": [str(one) for one in self.chains],
            "foreign_assignments": sorted(map(str, self.assignments)),
            "upward_imports": self.upward,
            "shared_names": self.shared_names,
            "long_files": self.long_files,
        }


def measure(modules: Mapping[str, Module]) -> Figures:
    """Measure modules as `read_package` returns them."""
    found = imports(modules)
    rooms = sorted({module.room for module in modules.values() if "." in module.name})
    classes = Classes(modules)
    return Figures(
        modules=len(modules),
        circles=circles(found),
        rooms={
            room: max(map(len, circles(one for one in found if _within(one.source, room))))
            for room in rooms
            if circles(one for one in found if _within(one.source, room))
        },
        chains=classes.chains(),
        assignments=classes.foreign_assignments(),
        upward=sorted({f"{one.source} imports {one.target}" for one in upward(found)}),
        shared_names=_shared_names(modules),
        long_files=sorted(one.name for one in modules.values() if _too_long(one)),
    )


def _within(name: str, room: str) -> bool:
    return name.partition(".")[0] == room


def _shared_names(modules: Mapping[str, Module]) -> list[str]:
    folders: dict[str, list[str]] = {}
    for module in modules.values():
        if not module.is_package:
            folder, _, base = module.name.rpartition(".")
            folders.setdefault(base, []).append(folder)
    return sorted(
        f"{base}: {', '.join(sorted(those))}" for base, those in folders.items() if len(those) > 1
    )


def _too_long(module: Module) -> bool:
    docstring = " ".join((ast.get_docstring(module.tree) or "").split())
    return len(module.source.splitlines()) > LONGEST and REASON not in docstring


def compare(
    findings: Mapping[str, list[list[str]] | list[str]],
    allowed: Mapping[str, list[list[str]] | list[str]],
) -> list[str]:
    """Return what is new, and what is allowed without need. A circle may become smaller."""
    problems = []
    for part, found in findings.items():
        those = allowed.get(part, [])
        problems += [
            f"{part}: new: {one}" for one in found if not any(_covers(old, one) for old in those)
        ]
        problems += [f"{part}: no longer needed: {old}" for old in those if old not in found]
    return problems


def _covers(old: list[str] | str, new: list[str] | str) -> bool:
    if isinstance(old, str):
        return old == new
    return set(old) >= set(new)


def read_allowed(path: Path = ALLOWED) -> dict[str, list[list[str]] | list[str]]:
    """Read an allowance list."""
    return dict(tomllib.loads(path.read_text(encoding="utf-8")))


def write_allowed(findings: Mapping[str, list[list[str]] | list[str]], path: Path) -> None:
    """Write an allowance list."""
    lines = [HEAD]
    for part, found in findings.items():
        lines.append(f"{part} = [")
        for one in found:
            if isinstance(one, str):
                lines.append(f'  "{one}",')
            else:
                lines += ["  [", *(f'    "{name}",' for name in one), "  ],"]
        lines.append("]")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe(figures: Figures) -> Iterator[str]:
    """Yield the lines of a report."""
    sizes = [len(one) for one in figures.circles]
    yield f"modules: {figures.modules}"
    yield f"circles of imports: {len(sizes)}, modules in the largest: {max(sizes, default=0)}"
    for room, size in figures.rooms.items():
        yield f"  largest within {room}: {size}"
    for circle in figures.circles:
        yield f"  {len(circle)}: {', '.join(circle)}"
    yield f"mixin chains: {len(figures.chains)}"
    for chain in figures.chains:
        files, classes, members = chain.size
        yield f"  {chain}: {files} files, {classes} classes, {members} members"
    yield (
        f"fields assigned from outside of their class: {len(figures.assignments)} pairs of field "
        f"and module, {figures.assignments.total()} assignments"
    )
    for owner in sorted({one.owner for one in figures.assignments}):
        those = [one for one in figures.assignments if one.owner == owner]
        fields, places = {one.field for one in those}, sorted({one.module for one in those})
        yield f"  {owner}: {len(fields)} fields in {len(places)} modules: {', '.join(places)}"
    yield f"imports that do not point down: {len(figures.upward)}"
    yield from (f"  {one}" for one in figures.upward)
    yield f"file names in more than one folder: {len(figures.shared_names)}"
    yield from (f"  {one}" for one in figures.shared_names)
    yield f'files of more than {LONGEST} lines that do not say why they are "{REASON}": ' + str(
        len(figures.long_files)
    )
    yield from (f"  {one}" for one in figures.long_files)


def main(arguments: list[str]) -> int:
    """Print the figures, or write what is allowed."""
    allow = "--allow" in arguments
    roots = [Path(one) for one in arguments if one != "--allow"] or [CHECKOUT]
    modules = read_package(roots[0])
    if "" not in modules:
        print(f"{roots[0]} holds no package {PACKAGE}: name a checkout, or the package's folder")
        return 2
    figures = measure(modules)
    if allow:
        write_allowed(figures.findings(), ALLOWED)
    print("\n".join(describe(figures)))
    return 0
