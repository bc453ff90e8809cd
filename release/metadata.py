"""What a package's metadata has of the addresses: its links, and a description that works anywhere.

Standard library only: the build runs it.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LINK: Final = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")
BLOCK: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
BRANCH: Final = "main"


def read_addresses(root: Path = ROOT) -> dict[str, str]:
    """Return the addresses by name."""
    found = runpy.run_path(str(root / "release" / "addresses.py"))
    return {name: value for name, value in found.items() if name.isupper()}


def urls(addresses: dict[str, str]) -> dict[str, str]:
    """Return `[project.urls]`, without those that are not known."""
    repository = addresses["REPOSITORY"]
    found = {"Documentation": addresses["DOCUMENTATION"]}
    if repository:
        found |= {
            "Source": repository,
            "Issues": f"{repository}/issues",
            "Changelog": f"{repository}/blob/{BRANCH}/CHANGELOG.md",
            "Security": f"{repository}/blob/{BRANCH}/SECURITY.md",
        }
    return {label: url for label, url in found.items() if url}


def with_absolute_links(text: str, repository: str) -> str:
    """Return Markdown whose links to files lead to the repository, for a page outside of it.

    Code is left as it is. Without the address of a repository, the text stays the same.
    """
    if not repository:
        return text

    def absolute(match: re.Match[str]) -> str:
        image, label, path = match.groups()
        kind = "raw" if image else "blob"
        return f"{image}{label}({repository}/{kind}/{BRANCH}/{path})"

    made, at = [], 0
    for block in BLOCK.finditer(text):
        made += [LINK.sub(absolute, text[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*made, LINK.sub(absolute, text[at:])])
