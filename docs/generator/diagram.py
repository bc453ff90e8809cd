"""Drawing states and moves as SVG: a row of boxes, and arrows between them.

The row has the order in which the states are given. Moves to the next state are straight; those
that skip states go above the row, those that go back below it. So any table can be drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

BOX = 112
GAP = 40
HEIGHT = 36
RISE = 34
"""How far above the row an arrow goes for each state that it passes."""


def svg(states: Sequence[str], moves: Iterable[tuple[str, str]]) -> str:
    """Return the picture. Its one colour can be read on light and on dark pages."""
    order = {state: number for number, state in enumerate(states)}
    spans = sorted((order[old], order[new]) for old, new in moves)
    top = max((new - old - 1 for old, new in spans), default=0) * RISE + 10
    bottom = max((old - new for old, new in spans), default=0) * RISE + 10
    width = len(states) * (BOX + GAP) - GAP + 4
    total = top + HEIGHT + bottom
    told = "; ".join(f"{states[old]} to {states[new]}" for old, new in spans)
    boxes = [_box(name, 2 + number * (BOX + GAP), top) for name, number in order.items()]
    arrows = [_arrow(old, new, top) for old, new in spans]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" role="img" '
        f'aria-label="Moves between states: {escape(told)}" '
        'style="width: 100%; height: auto; color: #808080" '
        'fill="none" stroke="currentColor" stroke-width="1.3">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor" '
        f'stroke="none"/></marker></defs>{"".join(boxes)}{"".join(arrows)}</svg>'
    )


def _box(name: str, x: int, y: int) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="8"/>'
        f'<text x="{x + BOX / 2:g}" y="{y + HEIGHT / 2:g}" text-anchor="middle" '
        f'dominant-baseline="central" font-size="14" fill="currentColor" stroke="none">'
        f"{escape(name)}</text>"
    )


def _arrow(old: int, new: int, top: int) -> str:
    step = BOX + GAP
    if new == old + 1:
        path = f"M{2 + old * step + BOX},{top + HEIGHT / 2:g} h{GAP - 1}"
    elif new > old:
        rise = (new - old - 1) * RISE
        # The longer it is the farther out it lies, at both ends: so no two arrows cross.
        start = 2 + old * step + BOX / 2
        end = 2 + new * step + BOX / 2 + (new - old - 2) * 14
        path = f"M{start:g},{top} v{-rise + 8} q0,-8 8,-8 H{end - 8:g} q8,0 8,8 V{top - 1}"
    else:
        drop = (old - new) * RISE
        start, end = 2 + old * step + BOX * 0.35, 2 + new * step + BOX * 0.65
        base = top + HEIGHT
        path = f"M{start:g},{base} v{drop - 8} q0,8 -8,8 H{end + 8:g} q-8,0 -8,-8 V{base + 1}"
    return f'<path d="{path}" marker-end="url(#tip)"/>'
