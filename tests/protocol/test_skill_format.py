"""Names, URIs, entries and limits of skills."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.protocol.skill_format import (
    Child,
    SkillContents,
    SkillFile,
    SkillInvalid,
    SkillLimits,
    check_fields,
    check_name,
    decode_path,
    digest_of,
    encode_path,
    folders_above,
    is_served,
    problem_of,
    read_fields,
    root_of,
    skill_uri,
    split_prefix,
)


@pytest.mark.parametrize("name", ["a", "1", "git-workflow", "a-1-b", "a" * 64])
def test_names_of_skills(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "-a", "a-", "a--b", "a b", "é", "a" * 65, "a/b", "..", "a\n"]
)
def test_names_that_skills_cannot_have(name: str) -> None:
    with pytest.raises(SkillInvalid, match="must be 1 to 64 characters"):
        check_name(name)


def test_the_uri_of_a_skill() -> None:
    assert skill_uri(("refunds",)) == "skill://refunds/SKILL.md"
    assert skill_uri(("Über uns", "refunds")) == "skill://%C3%9Cber%20uns/refunds/SKILL.md"
    assert root_of("skill://a/refunds/SKILL.md") == "skill://a/refunds"


def test_prefixes() -> None:
    assert split_prefix("") == ()
    assert split_prefix("acme/Billing v2") == ("acme", "Billing v2")


@pytest.mark.parametrize("prefix", ["/", "/a", "a/", "a//b", "..", "a/../b", "a:b", "a\\b", "a\0"])
def test_prefixes_that_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"the prefix .* has "):
        split_prefix(prefix)


@pytest.mark.parametrize(
    "path, text",
    [
        ((), ""),
        (("a", "b.md"), "/a/b.md"),
        (("a b", "50%", "é", "日本"), "/a%20b/50%25/%C3%A9/%E6%97%A5%E6%9C%AC"),
        (("a+b (1), c=d!$&'*;~",), "/a+b%20(1),%20c=d!$&'*;~"),
        (("x?y#z@[w]",), "/x%3Fy%23z%40%5Bw%5D"),
    ],
)
def test_paths_in_uris(path: tuple[str, ...], text: str) -> None:
    assert encode_path(path) == text
    assert decode_path(text) == path


@given(st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_each_path_has_one_text(path: list[str]) -> None:
    if all(problem_of(name) is None for name in path):
        assert decode_path(encode_path(path)) == tuple(path)


@given(st.text(st.sampled_from("/\\.:%2fFeEcC05aA\0é"), max_size=12))
def test_a_text_stands_for_the_path_that_it_encodes_or_for_none(text: str) -> None:
    path = decode_path(text)
    if path is not None:
        assert encode_path(path) == text
        assert all(problem_of(name) is None for name in path)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "/",
        "//",
        "/a/",
        "/a//b",
        "/.",
        "/..",
        "/../a",
        "/a/../b",
        "/a/./b",
        "/...",
        "/.env",
        "/%2e%2e/a",
        "/%2E%2E/a",
        "/%2e./a",
        "/a%2fb",
        "/a%2F..%2Fb",
        "/..%2f..%2fetc%2fpasswd",
        "/a%5cb",
        "/a\\b",
        "/..\\..\\a",
        "/C:/a",
        "/c:%5ca",
        "/%43:",
        "/a%00.md",
        "/a\0.md",
        "/a\n",
        "/%61",
        "/a b",
        "/é",
        "/%c3%a9",
        "/%C3",
        "/%C0%AE%C0%AE/a",
        "/%252e%252e/../a",
        "/a%",
        "/a%zz",
        "/\ud800",
        "/__pycache__/a",
        "/" + "../" * 3_000 + "a",
        "/" + "%2e%2e%2f" * 1_000,
    ],
)
def test_texts_that_stand_for_no_path(text: str) -> None:
    assert decode_path(text) is None


@pytest.mark.parametrize(
    "name, problem",
    [
        ("", "not a name of a file or folder that is served"),
        (".git", "not a name of a file or folder that is served"),
        ("a\\b", "must not have slashes, backslashes, colons"),
        ("C:", "must not have slashes, backslashes, colons"),
        ("a\x7f", "control characters"),
        ("a\udcff", "must be UTF-8"),
    ],
)
def test_names_of_files_that_are_refused(name: str, problem: str) -> None:
    found = problem_of(name)
    assert found is not None
    assert problem in found


def test_what_is_served_of_a_folder() -> None:
    assert all(map(is_served, ("a", "a.md", "__init__.py")))
    assert not any(map(is_served, (".env", "__pycache__")))


def test_entries() -> None:
    data = b"text"
    digest = digest_of(data)
    assert digest == f"sha256:{sha256(data).hexdigest()}"
    fields = {"name": "a", "description": "b"}
    contents = SkillContents(
        fields, [SkillFile(("SKILL.md",), digest, 4), SkillFile(("é",), digest, 4)]
    )
    assert contents.write("skill://x/a") == {
        "uri": "skill://x/a/SKILL.md",
        "frontmatter": fields,
        "resources": [
            {"uri": "skill://x/a/SKILL.md", "digest": digest, "size": 4},
            {"uri": "skill://x/a/%C3%A9", "digest": digest, "size": 4},
        ],
    }
    assert SkillContents(fields, None).write("skill://a")["resources"] == "dynamic"


def test_children() -> None:
    assert Child("a b.md", 3).write("skill://a/x", "text/markdown") == {
        "uri": "skill://a/x/a%20b.md",
        "name": "a b.md",
        "mimeType": "text/markdown",
        "size": 3,
    }
    assert Child("LICENSE", 0).write("skill://a", None) == {
        "uri": "skill://a/LICENSE",
        "name": "LICENSE",
        "size": 0,
    }
    assert Child("x", None).write("skill://a", None) == {
        "uri": "skill://a/x",
        "name": "x",
        "mimeType": "inode/directory",
    }


def test_folders_that_skills_are_in() -> None:
    roots = ["skill://acme/billing/a", "skill://acme/billing/b", "skill://acme/c%20d", "skill://e"]
    assert list(folders_above("skill://acme", roots)) == ["billing", "c d"]
    assert list(folders_above("skill://acme/billing", roots)) == ["a", "b"]
    assert list(folders_above("skill://ac", roots)) == []
    assert list(folders_above("skill:", roots)) == []
    assert list(folders_above("skill://", roots)) == []
    assert list(folders_above("skill://e", roots)) == []


FIELDS: dict[str, Any] = {"name": "a", "description": "b"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"license": "MIT", "metadata": {"version": "1.0", "com.example/x": "y"}},
        {"allowed-tools": ["Read"], "metadata": "text", "own": None},
        {"description": "b" * 1024},
    ],
)
def test_front_matter_that_conforms(more: dict[str, Any]) -> None:
    check_fields({**FIELDS, **more}, "a")


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"description": "b"}, "needs a text 'name'"),
        ({**FIELDS, "name": 1}, "needs a text 'name'"),
        ({**FIELDS, "name": "A"}, "must be 1 to 64 characters"),
        ({**FIELDS, "name": "c"}, "the name 'c' must be the name of its folder, 'a'"),
        ({"name": "a"}, "needs a text 'description'"),
        ({**FIELDS, "description": " \n"}, "needs a text 'description'"),
        ({**FIELDS, "description": "b" * 1025}, "has 1025 characters, more than 1024"),
        ({**FIELDS, "metadata": {"io.modelcontextprotocol/x": 1}}, "reserved for extensions"),
    ],
)
def test_front_matter_that_does_not_conform(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(SkillInvalid, match=error):
        check_fields(fields, "a")


def test_fields_are_read_from_a_file() -> None:
    assert read_fields(b"---\nname: a\ndescription: b\n---\n", "a") == FIELDS
    with pytest.raises(SkillInvalid, match=r"SKILL\.md is not UTF-8"):
        read_fields(b"---\nname: \xff", "a")
    with pytest.raises(SkillInvalid, match=r"SKILL\.md: the first line must be"):
        read_fields(b"# Title", "a")


def test_limits_have_defaults_and_are_checked() -> None:
    limits = SkillLimits()
    assert (limits.max_skills, limits.max_files, limits.max_bytes) == (1_000, 512, 16_777_216)
    assert (limits.max_file_bytes, limits.max_depth) == (4_194_304, 16)
    for wrong in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="max_depth must be a whole number from 1 on"):
            SkillLimits(max_depth=wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
