"""Which files `serve --reload` watches, and what counts as a change."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from trio_mcp_session.cli.source_files import QUIET, SourceFiles


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("module", ["server.py", "server/__init__.py", "missing.py"])
def test_an_application_here_is_watched_with_all_its_neighbours(module: str, here: Path) -> None:
    write(here / module)
    assert SourceFiles.of_application("server:router").root == here
    assert SourceFiles.of_application("server.deep:router").root == here


def test_of_an_application_elsewhere_only_its_own_files_are_watched(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib"), *sys.path])
    write(tmp_path / "lib" / "package" / "__init__.py")
    write(tmp_path / "lib" / "other.py")
    lone = write(tmp_path / "lib" / "lone.py")
    assert SourceFiles.of_application("package.app:router").root == tmp_path / "lib" / "package"
    files = SourceFiles.of_application("lone:router")
    assert list(files.snapshot()) == [str(lone)]


@pytest.mark.parametrize("reference", ["", ":router", "missing:router", "sys:router"])
def test_without_a_file_the_current_directory_is_watched(reference: str, here: Path) -> None:
    assert SourceFiles.of_application(reference).root == here


def test_only_python_files_of_the_application_count(here: Path) -> None:
    watched = [write(here / "server.py"), write(here / "tools" / "deep" / "add.py")]
    for name in (
        "notes.txt",
        ".hidden/a.py",
        "__pycache__/b.py",
        "node_modules/c.py",
        "env/lib/d.py",
    ):
        write(here / name)
    write(here / "env" / "pyvenv.cfg")
    (here / "broken.py").symlink_to(here / "nowhere")
    assert sorted(SourceFiles(here).snapshot()) == sorted(map(str, watched))


@pytest.mark.parametrize("how", ["changed", "touched", "new", "deleted"])
async def test_a_change_is_found(how: str, here: Path) -> None:
    path = write(here / "tools" / "add.py", "one")
    files = SourceFiles(here)
    known = files.snapshot()
    with trio.move_on_after(0.05) as scope:
        await files.wait_changed(known)
    assert scope.cancelled_caught
    match how:
        case "changed":
            write(path, "three")
        case "touched":
            os.utime(path, ns=(1, 1))
        case "new":
            path = write(here / "tools" / "new.py")
        case _:
            path.unlink()
    with trio.fail_after(10):
        changed, now = await files.wait_changed(known)
    assert changed == str(path.relative_to(here))
    assert now == files.snapshot()


async def test_several_changes_are_one(here: Path) -> None:
    files = SourceFiles(here)
    known = files.snapshot()
    write(here / "a.py")
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            await trio.sleep(QUIET / 2)
            write(here / "b.py")

        nursery.start_soon(go_on)
        with trio.fail_after(10):
            _, now = await files.wait_changed(known)
    assert len(now) == 2


async def test_the_change_of_a_file_that_is_watched_alone(here: Path) -> None:
    path = write(here / "lone.py")
    files = SourceFiles(path)
    known = files.snapshot()
    write(path, "more")
    with trio.fail_after(10):
        changed, _ = await files.wait_changed(known)
    assert changed == "lone.py"
