"""How tests start the programs of this package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_START: Final = (
    "import runpy, sys\n"
    # Behind all others: what is tested is the package as installed.
    "sys.path.append(sys.argv.pop(1))\n"
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
)


def command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return what runs a module of the tests as a program."""
    return [python, "-P", "-c", _START, str(ROOT), f"tests.interruption.{module}", *arguments]
