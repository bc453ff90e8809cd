"""What is checked before a release, on packages with one fault each."""

from __future__ import annotations

import importlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import pytest

import trio_mcp_session

ROOT = Path(__file__).parents[2]
KNOWN = {
    "REPOSITORY": "https://code.example/owner/name",
    "DOCUMENTATION": "https://docs.example",
    "SECURITY_CONTACT": "security@example.org",
    "CONDUCT_CONTACT": "https://code.example/report",
}


def load(name: str) -> Any:
    """Import a script of the release, which is not installed."""
    sys.path.insert(0, str(ROOT / "release"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "release"))


check, metadata = load("check"), load("metadata")
PROJECT: dict[str, Any] = check.read_project()
VERSION = PROJECT["version"]
INFO = f"trio_mcp_session-{VERSION}.dist-info"


def wheel_files() -> dict[str, str]:
    extras = "".join(f"Provides-Extra: {extra}\n" for extra in PROJECT["optional-dependencies"])
    return {
        "trio_mcp_session/__init__.py": "",
        "trio_mcp_session/py.typed": "",
        f"{INFO}/licenses/LICENSE": "",
        f"{INFO}/entry_points.txt": "[console_scripts]\n"
        f"trio-mcp-session = {PROJECT['scripts']['trio-mcp-session']}\n",
        f"{INFO}/METADATA": f"Name: {PROJECT['name']}\nVersion: {VERSION}\n"
        f"Summary: {PROJECT['description']}\nLicense-Expression: MIT\n"
        f"Requires-Python: {PROJECT['requires-python']}\nClassifier: Typing :: Typed\n{extras}"
        "Description-Content-Type: text/markdown\n\n# Title\n\n## More\n",
    }


def problems_of(tmp_path: Path, files: dict[str, str]) -> list[str]:
    path = tmp_path / "one.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return list(check.wheel_problems(path, PROJECT))


def test_a_good_wheel_has_no_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, wheel_files()) == []


Change = Callable[[dict[str, str]], object]
METADATA = f"{INFO}/METADATA"


def replaced(name: str, old: str, new: str) -> Change:
    return lambda files: files.update({name: files[name].replace(old, new)})


@pytest.mark.parametrize(
    "change,expected",
    [
        (lambda files: files.pop("trio_mcp_session/py.typed"), "lacks trio_mcp_session/py.typed"),
        (lambda files: files.pop(f"{INFO}/licenses/LICENSE"), "licenses/LICENSE"),
        (lambda files: files.update({"tests/a.py": ""}), "has tests/a.py"),
        (lambda files: files.update({"trio_mcp_session/__pycache__/a.pyc": ""}), "__pycache__"),
        (replaced(f"{INFO}/entry_points.txt", "trio-mcp", "mcp"), "lacks the script"),
        (replaced(METADATA, f"Version: {VERSION}", "Version: 7"), "Version: '7'"),
        (replaced(METADATA, "MIT", "Other"), "License-Expression: 'Other'"),
        (replaced(METADATA, "Provides-Extra: http\n", ""), "has the extras"),
        (replaced(METADATA, "Typing :: Typed", "Topic :: Other"), "lacks the classifier"),
        (replaced(METADATA, "## More", ""), "has no description"),
    ],
)
def test_a_fault_of_a_wheel_is_named(tmp_path: Path, change: Change, expected: str) -> None:
    files = wheel_files()
    change(files)
    (problem,) = problems_of(tmp_path, files)
    assert expected in problem


def sdist_of(tmp_path: Path, names: list[str]) -> list[str]:
    path = tmp_path / "one.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"trio_mcp_session-1.0/{name}"), io.BytesIO())
    return list(check.sdist_problems(path, "1.0"))


def test_faults_of_an_sdist_are_named(tmp_path: Path) -> None:
    assert sdist_of(tmp_path, [*check.IN_SDIST]) == []
    (lacking,) = sdist_of(tmp_path, [name for name in check.IN_SDIST if "typed" not in name])
    assert lacking == "the sdist lacks trio_mcp_session/py.typed"
    (more,) = sdist_of(tmp_path, [*check.IN_SDIST, "docs/_build/a.html"])
    assert more == "the sdist has trio_mcp_session-1.0/docs/_build/a.html"


def test_every_file_that_the_sdist_must_have_is_in_the_repository() -> None:
    assert [name for name in check.IN_SDIST if not (ROOT / name).exists()] == []


def test_empty_addresses_are_the_reason_why_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    addresses = {**KNOWN, "REPOSITORY": "", "CONDUCT_CONTACT": ""}
    assert check.conclude(addresses, ["not installed here: Python 3.99"], ["demo"]) == 1
    told = capsys.readouterr().out
    assert "All other checks passed." in told
    assert "are empty: REPOSITORY, CONDUCT_CONTACT." in told
    assert "not installed here: Python 3.99" in told
    assert "left out, as you said: demo" in told
    assert "1. Choose the version" in told


def test_known_addresses_let_it_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.conclude(KNOWN, ["not installed here: Python 3.99"], []) == 0
    assert "this can be released" in capsys.readouterr().out


def test_a_check_that_was_left_out_does_not_let_it_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check.conclude(KNOWN, [], ["conformance"]) == 1
    assert "Run those that were left out" in capsys.readouterr().out


def test_the_addresses_of_the_repository_are_read_by_name() -> None:
    assert check.read_addresses().keys() == KNOWN.keys()
    assert list(check.address_problems(check.read_addresses())) == []


@pytest.mark.parametrize(
    "name,value",
    [
        ("REPOSITORY", "https://code.example/owner/"),
        ("DOCUMENTATION", "docs.example"),
        ("SECURITY_CONTACT", "nobody"),
        ("CONDUCT_CONTACT", "http://code.example"),
    ],
)
def test_a_malformed_address_is_named(name: str, value: str) -> None:
    assert list(check.address_problems(KNOWN)) == []
    (problem,) = check.address_problems({**KNOWN, name: value})
    assert problem.startswith(name)
    assert repr(value) in problem


def test_a_check_that_fails_shows_what_the_program_said(tmp_path: Path) -> None:
    code = "print('what went wrong'); raise SystemExit(3)"
    with pytest.raises(check.CheckFailed, match=r"status 3\nwhat went wrong"):
        check.run(sys.executable, "-c", code, cwd=tmp_path)
    with pytest.raises(check.CheckFailed, match=r"the wheel:\n  one\n  two"):
        check.refuse("the wheel", ["one", "two"])


def test_pythons_are_found_by_what_they_say_of_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for folder, version in (("shims", "3.11"), ("versions/3.99.1/bin", "3.99")):
        program = tmp_path / folder / "python3.99"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
        program.chmod(0o755)
    assert check.find_python("3.99") == str(tmp_path / "versions/3.99.1/bin/python3.99")
    assert check.find_python("3.98") is None


def test_the_version_of_the_package_is_the_installed_one() -> None:
    assert trio_mcp_session.__version__ == installed.version("trio-mcp-session") == VERSION


def test_supported_versions_come_from_the_classifiers() -> None:
    assert check.versions(PROJECT["classifiers"])[0] == "3.11"
    assert check.versions(["Programming Language :: Python :: 3 :: Only"]) == []


def test_links_of_the_description_lead_to_the_repository() -> None:
    text = (
        "[a](docs/a.md#b) ![c](docs/c.svg) [d](https://d.example) [e](#f)\n"
        "```\n[code](docs/a.md)\n```\n[g](LICENSE)\n"
    )
    assert metadata.with_absolute_links(text, "https://code.example/o/n") == (
        "[a](https://code.example/o/n/blob/main/docs/a.md#b) "
        "![c](https://code.example/o/n/raw/main/docs/c.svg) [d](https://d.example) [e](#f)\n"
        "```\n[code](docs/a.md)\n```\n[g](https://code.example/o/n/blob/main/LICENSE)\n"
    )
    assert metadata.with_absolute_links(text, "") == text


def test_the_readme_has_no_relative_link_in_the_description() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = metadata.with_absolute_links(readme, KNOWN["REPOSITORY"])
    assert metadata.LINK.findall(metadata.BLOCK.sub("", readme))
    assert metadata.LINK.findall(metadata.BLOCK.sub("", made)) == []


def test_urls_follow_from_the_addresses() -> None:
    assert metadata.urls(dict.fromkeys(KNOWN, "")) == {}
    assert metadata.urls(KNOWN) == {
        "Documentation": "https://docs.example",
        "Source": "https://code.example/owner/name",
        "Issues": "https://code.example/owner/name/issues",
        "Changelog": "https://code.example/owner/name/blob/main/CHANGELOG.md",
        "Security": "https://code.example/owner/name/blob/main/SECURITY.md",
    }
