"""An environment for each client or library of others, made once and kept between runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_of(folder: Path, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment with these packages; it is made if need be."""
    python = folder / "bin" / "python"
    note = folder / "requirements.txt"
    wanted = "\n".join([*requirements, sys.version, ""])
    if note.exists() and note.read_text("utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")
    if uv is not None:
        run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements])
    else:
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", *requirements])
    note.write_text(wanted, "utf-8")
    return python


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)
