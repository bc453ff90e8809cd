"""The shape of the package has no exceptions but those in ``allowed.toml``.

When this fails, change the code; or run ``python -m tests.shape --allow``, and give the reason in
the commit message. Exceptions that no longer exist have to be removed from the list.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trio_mcp_session

from . import figures
from .figures import CHECKOUT, compare, describe, measure, read_allowed, write_allowed
from .modules import made_up, read_package

FAULTY = {
    "sessions__a": "from .b import B\nfrom ..server import c\nclass A(B): ...",
    "sessions__b": "from .a import A\nfrom ..server.c import C\nclass B(C): ...",
    "server__c": "class C:\n    _x: int",
    "server__a": "y._x = 1" + "\n" * 601,
}


def test_the_package_has_the_shape_that_is_allowed() -> None:
    modules = read_package(Path(trio_mcp_session.__file__).parent)
    assert compare(measure(modules).findings(), read_allowed()) == []


def test_each_fault_is_measured() -> None:
    found = measure(made_up(**FAULTY))
    assert found.modules == 4 + 3  # with the folders
    assert found.rooms == {"sessions": 2}
    assert found.findings() == {
        "circles": [["sessions.a", "sessions.b"]],
        "chains": ["sessions.a.A from server.c, sessions.b"],
        "foreign_assignments": ["A._x in server.a"],
        "upward_imports": ["sessions.a imports server.c", "sessions.b imports server.c"],
        "shared_names": ["a: server, sessions"],
        "long_files": ["server.a"],
    }


def test_the_report_names_each_finding() -> None:
    report = "\n".join(describe(measure(made_up(**FAULTY))))
    for text in (
        "modules in the largest: 2",
        "largest within sessions: 2",
        "2: sessions.a, sessions.b",
        "sessions.a.A from server.c, sessions.b: 3 files, 3 classes, 1 members",
        "A: 1 fields in 1 modules: server.a",
        "sessions.a imports server.c",
        "a: server, sessions",
        "\n  server.a",
    ):
        assert text in report


def test_a_long_file_may_say_why_it_is_one() -> None:
    reason = '"""One order of ending, in\none file."""'
    assert measure(made_up(a=reason + "\n" * 601)).long_files == []


def test_a_new_finding_is_a_problem() -> None:
    assert compare({"chains": ["x", "y"]}, {"chains": ["x"]}) == ["chains: new: y"]
    assert compare({"chains": ["x"]}, {}) == ["chains: new: x"]


def test_an_allowance_without_need_is_a_problem() -> None:
    assert compare({"chains": ["x"]}, {"chains": ["x", "y"]}) == ["chains: no longer needed: y"]


@pytest.mark.parametrize(
    "circles, news",
    [
        ([["a", "b", "c"]], []),
        ([["a", "b"]], ["no longer needed"]),
        ([["a", "b"], ["c", "d"]], ["new", "no longer needed"]),
        ([["a", "b", "c", "d"]], ["new", "no longer needed"]),
        ([], ["no longer needed"]),
    ],
)
def test_a_circle_may_shrink_but_its_allowance_must_follow(
    circles: list[list[str]], news: list[str]
) -> None:
    problems = compare({"circles": circles}, {"circles": [["a", "b", "c"]]})
    assert [one.split(": ")[1] for one in problems] == news


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    findings = measure(made_up(**FAULTY)).findings()
    write_allowed(findings, tmp_path / "allowed.toml")
    assert read_allowed(tmp_path / "allowed.toml") == findings


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose package has one module."""
    package = tmp_path / "trio_mcp_session"
    package.mkdir()
    (package / "__init__.py").write_text("x._field = 1", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("folder", [".", "trio_mcp_session"])
def test_another_checkout_is_measured(
    folder: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures.main([str(checkout / folder)]) == 0
    assert capsys.readouterr().out.startswith("modules: 1\n")


def test_the_option_writes_the_list(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkout / "allowed.toml"
    monkeypatch.setattr(figures, "ALLOWED", path)
    assert figures.main(["--allow", str(checkout)]) == 0
    assert read_allowed(path)["foreign_assignments"] == ["?._field in "]
    assert "modules: 1\n" in capsys.readouterr().out


def test_a_folder_without_the_package_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures.main([str(tmp_path)]) == 2
    assert "holds no package trio_mcp_session" in capsys.readouterr().out


def test_the_command_measures_a_checkout(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shape", str(checkout)],
        check=True,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    assert done.stdout.startswith("modules: 1\n")
