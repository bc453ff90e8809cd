"""Circles of imports: modules each of which imports, by some way, all others of the circle."""

from __future__ import annotations

from collections.abc import Iterable

from .modules import Import


def circles(found: Iterable[Import]) -> list[tuple[str, ...]]:
    """Return the largest sets of modules that import each other, the largest first."""
    arrows: dict[str, set[str]] = {}
    for one in found:
        if one.inside and one.source != one.target:
            arrows.setdefault(one.source, set()).add(one.target)
            arrows.setdefault(one.target, set())
    reached = {name: _reached(name, arrows) for name in arrows}
    together = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in arrows
        if name in reached[name]
    }
    return sorted(together, key=lambda circle: (-len(circle), circle))


def _reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """Return what can be reached by at least one arrow."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows[waiting.pop()] - found
        found |= new
        waiting += new
    return found
