"""Skills in a folder: what is found, and that nothing outside of the folder can be read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trio_mcp_session.application import skill_folder
from trio_mcp_session.application.skill_folder import SETTLED, SkillFolder, find_skills
from trio_mcp_session.protocol.skill_format import SkillInvalid, SkillLimits, digest_of

LIMITS = SkillLimits()


def skill(folder: Path, **files: str | bytes) -> Path:
    """Make a skill, with the name of its folder. ``__`` in the names of files is a slash."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"---\nname: {folder.name}\ndescription: Does things.\n---\n\n# Text\n"
    (folder / "SKILL.md").write_text(text, encoding="utf-8")
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def find(folder: Path, **limits: int) -> list[SkillFolder]:
    return find_skills(str(folder), SkillLimits(**limits))


def find_one(folder: Path, **limits: int) -> SkillFolder:
    (found,) = find(folder, **limits)
    return found


def paths(one: SkillFolder) -> list[str]:
    files = one.contents().files
    assert files is not None
    return ["/".join(file.path) for file in files]


@pytest.fixture
def refunds(tmp_path: Path) -> Path:
    """A skill in a folder beside a secret."""
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "skills-too").mkdir()
    return skill(tmp_path / "skills" / "refunds", a="one", references__b="two")


def test_skills_are_found_in_a_folder(tmp_path: Path) -> None:
    skill(tmp_path / "skills" / "b")
    skill(tmp_path / "skills" / "acme" / "a")
    skill(tmp_path / "skills" / "acme" / "a" / "inner" / "c")
    (tmp_path / "skills" / "README.md").write_text("No skill.", encoding="utf-8")
    found = find(tmp_path / "skills")
    assert [one.path for one in found] == [("acme", "a"), ("acme", "a", "inner", "c"), ("b",)]
    assert [one.name for one in found] == ["a", "c", "b"]
    assert paths(found[0]) == ["SKILL.md", "inner/c/SKILL.md"]
    assert paths(found[1]) == ["SKILL.md"]
    assert repr(found[2]) == f"<SkillFolder {str(tmp_path / 'skills' / 'b')!r}>"


def test_a_folder_may_be_a_skill_itself(tmp_path: Path) -> None:
    one = find_one(skill(tmp_path / "refunds"))
    assert (one.name, one.path) == ("refunds", ())
    assert one.contents().front_matter == {"name": "refunds", "description": "Does things."}


def test_digests_and_sizes_belong_to_the_bytes(refunds: Path) -> None:
    files = find_one(refunds.parent).contents().files
    assert files is not None
    for file in files:
        data = refunds.joinpath(*file.path).read_bytes()
        assert (file.digest, file.size) == (digest_of(data), len(data))


def test_files_and_folders_are_read(refunds: Path) -> None:
    one = find_one(refunds.parent)
    assert one.read(("a",)) == b"one"
    assert one.read(("references", "b")) == b"two"
    root = one.children(())
    assert root is not None
    assert [(child.name, child.size) for child in root] == [
        ("SKILL.md", (refunds / "SKILL.md").stat().st_size),
        ("a", 3),
        ("references", None),
    ]
    inner = one.children(("references",))
    assert inner is not None
    assert [child.name for child in inner] == ["b"]
    (refunds / "empty").mkdir()
    assert one.children(("empty",)) == []


def test_hidden_files_are_not_served(refunds: Path) -> None:
    skill(refunds, **{".env": "secret", ".git__config": "x"})
    (refunds / "__pycache__").mkdir()
    (refunds / "__pycache__" / "a.pyc").write_bytes(b"")
    one = find_one(refunds.parent)
    assert paths(one) == ["SKILL.md", "a", "references/b"]
    for path in [(".env",), (".git", "config"), ("__pycache__", "a.pyc"), (".git",)]:
        assert one.read(path) is None
        assert one.children(path) is None


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("b",),
        ("A",),
        ("skill.md",),
        ("references",),
        ("a", "b"),
        ("..", "..", "secret.txt"),
        ("..", "refunds", "a"),
        (".", "a"),
        ("references", "..", "a"),
        ("references/b",),
        ("references\\b",),
        ("../../secret.txt",),
        ("..\\..\\secret.txt",),
        ("/etc/passwd",),
        ("", "etc", "passwd"),
        ("C:", "secret.txt"),
        ("a\0",),
        ("a" * 10_240,),
        ("..",) * 5_000,
        ("é",),
        ("\ud800",),
    ],
)
def test_paths_that_are_not_listed_are_not_read(refunds: Path, path: tuple[str, ...]) -> None:
    one = find_one(refunds.parent)
    assert one.read(path) is None
    if path not in [(), ("references",)]:
        assert one.children(path) is None


def test_the_absolute_path_of_a_file_is_not_read(refunds: Path) -> None:
    one = find_one(refunds.parent)
    secret = refunds.parent.parent / "secret.txt"
    assert one.read((str(secret),)) is None
    assert one.read(secret.parts) is None


@pytest.mark.parametrize("target", ["../../secret.txt", "a", "../../skills-too", "nothing"])
def test_links_are_refused_at_the_start(refunds: Path, target: str) -> None:
    (refunds / "link").symlink_to(target)
    with pytest.raises(SkillInvalid, match="'refunds/link' is a symbolic link"):
        find(refunds.parent)


def test_a_skill_that_is_a_link_is_refused(refunds: Path) -> None:
    (refunds.parent / "other").symlink_to(refunds)
    with pytest.raises(SkillInvalid, match="'other' is a symbolic link"):
        find(refunds.parent)


def test_the_folder_of_all_skills_may_be_a_link(refunds: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(refunds.parent)
    one = find_one(tmp_path / "current")
    assert one.read(("a",)) == b"one"


def test_a_file_that_becomes_a_link_is_not_read(refunds: Path) -> None:
    one = find_one(refunds.parent)
    (refunds / "a").unlink()
    (refunds / "a").symlink_to("../../secret.txt")
    assert one.read(("a",)) is None
    with pytest.raises(SkillInvalid, match="'a' is a symbolic link"):
        one.contents()
    with pytest.raises(SkillInvalid, match="'a' is a symbolic link"):
        one.children(())


@pytest.mark.parametrize("path", ["references", ""])
def test_a_folder_that_becomes_a_link_is_not_entered(refunds: Path, path: str) -> None:
    one = find_one(refunds.parent)
    outside = skill(refunds.parent.parent / "outside" / "refunds", a="secret", b="secret")
    (refunds / path).rename(refunds.parent.parent / "away")
    (refunds / path).symlink_to(outside)
    file = (path, "b") if path else ("a",)
    assert one.read(file) is None
    assert one.children(file[:-1]) is None
    with pytest.raises(SkillInvalid):
        one.contents()


def swap_when_listed(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], object]) -> None:
    """Change the folder behind its first listing: after the check of a name, before its use."""
    listed: Any = os.listdir
    swaps = [swap]

    def listdir(path: Any) -> Any:
        found = listed(path)
        if "a" in found and swaps:
            swaps.pop()()
        return found

    monkeypatch.setattr(os, "listdir", listdir)


def make_link(path: Path, target: str) -> None:
    if path.is_dir():
        path.rename(path.parent.parent.parent / "away")
    else:
        path.unlink()
    path.symlink_to(target)


def test_a_link_that_is_put_between_listing_and_opening(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = find_one(refunds.parent)
    swap_when_listed(monkeypatch, lambda: make_link(refunds / "a", "../../secret.txt"))
    assert one.read(("a",)) is None


def test_a_folder_that_is_exchanged_between_listing_and_opening(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill(refunds.parent.parent / "outside", b="secret")
    one = find_one(refunds.parent)
    swap_when_listed(monkeypatch, lambda: make_link(refunds / "references", "../../outside"))
    assert one.read(("references", "b")) is None


@pytest.mark.parametrize("name", ["a", "references"])
def test_what_becomes_a_link_while_a_skill_is_walked(
    refunds: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = find_one(refunds.parent)
    stat = os.stat
    swaps = [name]

    def swapping(path: Any, **options: Any) -> os.stat_result:
        found = stat(path, **options)
        if path == name and swaps:
            swaps.pop()
            make_link(refunds / name, "../../skills-too")
        return found

    monkeypatch.setattr(os, "stat", swapping)
    with pytest.raises(SkillInvalid, match=f"'{name}' has changed while it was read"):
        one.contents()


def test_a_file_that_goes_while_its_folder_is_walked(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = find_one(refunds.parent)
    swap_when_listed(monkeypatch, (refunds / "a").unlink)
    assert paths(one) == ["SKILL.md", "references/b"]


def test_pipes_are_neither_served_nor_waited_for(refunds: Path) -> None:
    one = find_one(refunds.parent)
    os.mkfifo(refunds / "pipe")
    assert one.read(("pipe",)) is None
    with pytest.raises(SkillInvalid, match="'pipe' is neither a file nor a folder"):
        one.contents()


def test_errors_of_the_system_are_raised(refunds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = find_one(refunds.parent)
    opened = os.open

    def refuse(path: Any, flags: int, **options: Any) -> int:
        if path == "a":
            raise PermissionError(13, "Permission denied", "a")
        return opened(path, flags, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        one.read(("a",))
    with pytest.raises(PermissionError):
        one.contents()


@pytest.mark.parametrize("path", [("a",), ("b",), ("references", "b"), ("references",)])
def test_no_descriptor_stays_open(refunds: Path, path: tuple[str, ...]) -> None:
    one = find_one(refunds.parent)
    before = os.listdir("/dev/fd")
    one.read(path)
    one.children(path)
    one.contents()
    (refunds / "references" / "b").unlink()
    (refunds / "references" / "b").symlink_to("a")
    with pytest.raises(SkillInvalid):
        one.contents()
    assert len(os.listdir("/dev/fd")) == len(before)


# Changes.


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass, so that files count as settled."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 2 * SETTLED)


def count_digests(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    made: list[bytes] = []

    def counting(data: bytes) -> str:
        made.append(data)
        return digest_of(data)

    monkeypatch.setattr(skill_folder, "digest_of", counting)
    return made


def test_digests_of_unchanged_files_are_kept(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = find_one(refunds.parent)
    made = count_digests(monkeypatch)
    later(monkeypatch)
    first = one.contents()
    assert len(made) == 4  # SKILL.md is read a second time for its front matter.
    assert one.contents() == first
    assert len(made) == 4


def test_files_that_have_just_been_written_are_read_again(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second change in the same moment may leave all times as they are.
    one = find_one(refunds.parent)
    one.contents()
    made = count_digests(monkeypatch)
    one.contents()
    assert len(made) == 3


def test_changed_files_are_noticed(refunds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = find_one(refunds.parent)
    later(monkeypatch)
    before = one.contents().files
    (refunds / "a").write_text("ONE", encoding="utf-8")
    (refunds / "c").write_text("three", encoding="utf-8")
    (refunds / "references" / "b").unlink()
    after = one.contents().files
    assert before != after
    assert paths(one) == ["SKILL.md", "a", "c"]
    assert one.read(("a",)) == b"ONE"
    (refunds / "SKILL.md").write_text(
        "---\nname: refunds\ndescription: New.\n---\n", encoding="utf-8"
    )
    assert one.contents().front_matter["description"] == "New."


def test_a_file_that_changes_while_it_is_read_is_read_again_later(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = find_one(refunds.parent)
    later(monkeypatch)
    stamps = iter(range(1_000))

    def stamp(_: int) -> tuple[int, ...]:
        return (0, 0, next(stamps))

    monkeypatch.setattr(skill_folder, "_stamp", stamp)
    one.contents()
    made = count_digests(monkeypatch)
    one.contents()
    assert len(made) == 3


@pytest.mark.parametrize("change", ["gone", "other"])
def test_front_matter_that_changes_while_a_skill_is_read(
    refunds: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    one = find_one(refunds.parent)

    def read(*_: object) -> bytes | None:
        return None if change == "gone" else b"something else"

    monkeypatch.setattr(SkillFolder, "read", read)
    with pytest.raises(SkillInvalid, match=r"SKILL\.md has changed while it was read"):
        one.contents()


def test_a_skill_that_is_gone(refunds: Path) -> None:
    one = find_one(refunds.parent)
    refunds.rename(refunds.parent.parent / "away")
    assert one.read(("a",)) is None
    assert one.children(()) is None
    with pytest.raises(SkillInvalid, match="the folder is gone"):
        one.contents()
    refunds.mkdir()
    with pytest.raises(SkillInvalid, match=r"it has no SKILL\.md"):
        one.contents()


# What is refused.


def test_front_matter_is_checked(refunds: Path) -> None:
    (refunds / "SKILL.md").write_text("# Title\n", encoding="utf-8")
    with pytest.raises(SkillInvalid, match=r"skills/refunds': SKILL\.md: the first line must be"):
        find_one(refunds.parent).contents()


def test_a_folder_without_skills(tmp_path: Path) -> None:
    with pytest.raises(SkillInvalid, match=r"no folder in .* has a SKILL\.md"):
        find(tmp_path)
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        find(tmp_path / "file")


def test_a_skill_file_in_other_letters(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Skill.md").write_bytes(b"")
    with pytest.raises(SkillInvalid, match=r"'a/Skill\.md' must have the name 'SKILL\.md'"):
        find(tmp_path)


def test_a_folder_whose_name_is_not_one_of_a_skill(tmp_path: Path) -> None:
    skill(tmp_path / "My Skill")
    with pytest.raises(SkillInvalid, match="the name 'My Skill' must be"):
        find(tmp_path)


@pytest.mark.parametrize("name", [b"a\\b", b"a:b", b"a\nb", b"a\xff"])
def test_names_that_uris_cannot_have(refunds: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(refunds) + b"/" + name)).write_bytes(b"")
    with pytest.raises(SkillInvalid, match="names must"):
        find(refunds.parent)


def test_limits_hold_at_their_edges(tmp_path: Path) -> None:
    for name in ("a", "b"):
        skill(tmp_path / name, x="12345", y__z="123")
    size = (tmp_path / "a" / "SKILL.md").stat().st_size
    exact = {
        "max_skills": 2,
        "max_files": 3,
        "max_bytes": size + 8,
        "max_file_bytes": size,
        "max_depth": 2,
    }
    for one in find(tmp_path, **exact):
        one.contents()
    for limit, error in {
        "max_skills": "it has more than 1 skills",
        "max_files": "it has more than 2 files",
        "max_bytes": f"its files have more than {size + 7} bytes",
        "max_file_bytes": rf"'SKILL\.md' has more than {size - 1} bytes",
        "max_depth": "'a/y' is deeper than the limit",
    }.items():
        with pytest.raises(SkillInvalid, match=error):
            find(tmp_path, **{**exact, limit: exact[limit] - 1})[0].contents()


def test_a_file_that_grows_beyond_the_limit_is_not_read(refunds: Path) -> None:
    one = find_one(refunds.parent, max_file_bytes=200)
    (refunds / "a").write_bytes(b"x" * 201)
    with pytest.raises(SkillInvalid, match="'a' has more than 200 bytes"):
        one.read(("a",))


def test_systems_that_cannot_open_files_in_an_open_folder(
    refunds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skill_folder, "_CAN_READ", False)
    with pytest.raises(NotImplementedError, match=r"with Router\.skill instead"):
        find(refunds.parent)
