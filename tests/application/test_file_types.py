"""Media types of files."""

from __future__ import annotations

import pytest

from trio_mcp_session.application.file_types import file_type


@pytest.mark.parametrize(
    "name, kind",
    [
        ("SKILL.md", "text/markdown"),
        ("a.yaml", "application/yaml"),
        ("a.png", "image/png"),
        ("a b;c.py", "text/x-python"),
        ("a.tar.gz", None),
        ("LICENSE", None),
    ],
)
def test_media_types(name: str, kind: str | None) -> None:
    assert file_type(name) == kind
