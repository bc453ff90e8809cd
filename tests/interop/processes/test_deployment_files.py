"""The files in docs/deploy: what the programs that read them say of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parents[3] / "docs" / "deploy"
SYSTEMD = shutil.which("systemd-analyze")
KUBERNETES = "1.31"

pytestmark = pytest.mark.interop


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert SYSTEMD is not None
    text = (FILES / "mcp@.service").read_text("utf-8")
    # It looks for the program of the unit.
    unit = tmp_path / "mcp@.service"
    unit.write_text(text.replace("/srv/notes/bin/python", sys.executable), "utf-8")
    command = [SYSTEMD, "verify", str(unit)]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_kubernetes_knows_each_field_of_the_manifests() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    yaml = pytest.importorskip("yaml")
    text = (FILES / "statefulset.yaml").read_text("utf-8")
    found: list[Any] = list(yaml.safe_load_all(text))
    assert [one["kind"] for one in found] == ["Service", "StatefulSet"]
    for one in found:
        validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", ["mcp@.service", "statefulset.yaml"])
def test_the_command_knows_each_option_of_the_files(file: str) -> None:
    lines = (FILES / file).read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    words = text.replace('"', " ").replace("=", " ").split()
    described = subprocess.run(
        [sys.executable, "-m", "trio_mcp_session", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    known = {word.strip(",") for word in described.split()}
    options = [word for word in words if word.startswith("--") and word != "---"]
    assert len(options) > 5
    assert [one for one in options if one not in known] == []
