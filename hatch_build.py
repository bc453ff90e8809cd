"""Adds to the metadata of the package what follows from `release/addresses.py`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class AddressesHook(MetadataHookInterface):
    """The links of the project, and a description with absolute links."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the members that `pyproject.toml` calls dynamic."""
        root = Path(self.root)
        made = runpy.run_path(str(root / "release" / "metadata.py"))
        addresses = made["read_addresses"](root)
        text = (root / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = made["urls"](addresses)
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": made["with_absolute_links"](text, addresses["REPOSITORY"]),
        }
