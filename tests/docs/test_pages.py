"""The examples of a page, copied into one file, run and print what the page shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CODE = re.compile(r"^```\{testcode\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^```\{testoutput\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(DOCS.glob("*.md")) if CODE.search(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_as_copied(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without what Sphinx adds: its import path, and the names that its setup defines.
    text = page.read_text("utf-8")
    program = "\n\n".join(CODE.findall(text))
    namespace: dict[str, Any] = {"__name__": "page"}
    code = compile(program, page.name, "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102  # it is ours
    assert capsys.readouterr().out.split() == " ".join(OUTPUT.findall(text)).split()
