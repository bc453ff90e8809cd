"""Programs from npm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from threading import Lock
from typing import Final

import pytest

_INSTALLING: Final = Lock()
"""Clients that run in the background are installed then, too, and may be the same."""


def install(package_json: Path, node_modules: Path) -> Path:
    """Install what a package.json says into a folder of its own, unless it is there; return it."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not on the PATH, and these tests were asked for")
    package = json.loads(package_json.read_text("utf-8"))
    folder = node_modules / str(package["name"])
    with _INSTALLING:
        if any(_version(folder, name) != it for name, it in package["dependencies"].items()):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(package_json, folder / "package.json")
            command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=folder, check=True)
    return folder


def _version(folder: Path, name: str) -> str | None:
    file = folder / "node_modules" / name / "package.json"
    return str(json.loads(file.read_text("utf-8"))["version"]) if file.exists() else None
