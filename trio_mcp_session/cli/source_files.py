"""The Python files of an application, and when they change."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final, TypeAlias, final

import attrs
import trio

INTERVAL: Final = 0.5
"""Seconds between two looks at the files."""

QUIET: Final = 0.2
"""Seconds without a change after which several changes count as done."""

SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Folders that are skipped, beside those that begin with a dot, and virtual environments."""

Snapshot: TypeAlias = dict[str, tuple[int, int]]
"""The time of the last change, in ns, and the size of each file, by path."""


@final
@attrs.frozen
class SourceFiles:
    """The Python files of an application."""

    root: Path
    """The folder that they are in; or one file."""

    @classmethod
    def of_application(cls, reference: str) -> SourceFiles:
        """Return the files of ``MODULE:APP``, without importing it. Not a checkpoint.

        That is the current directory, if the module is in it or cannot be found; else the folder
        of its package, or the file of the module.
        """
        here = Path.cwd()
        top = reference.partition(":")[0].partition(".")[0]
        spec = PathFinder.find_spec(top, [str(here), *sys.path]) if top else None
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        if not places and spec is not None and spec.has_location and spec.origin is not None:
            places = [spec.origin]
        root = Path(places[0]).resolve() if places else here
        return cls(here if root.is_relative_to(here.resolve()) else root)

    def snapshot(self) -> Snapshot:
        """Return the state of all files. It reads folders, so call it in a thread."""
        found: Snapshot = {}
        for path in self._paths():
            try:
                status = os.stat(path)  # a text is enough
            except OSError:
                continue  # It was deleted meanwhile, or is a broken link.
            found[path] = (status.st_mtime_ns, status.st_size)
        return found

    async def wait_changed(self, since: Snapshot) -> tuple[str, Snapshot]:
        """Wait until files are changed, new or deleted, and then unchanged for a moment.

        A checkpoint. When cancelled, nothing happens.

        Args:
            since: The state to compare with.

        Returns:
            One of the changed files, relative to the folder; and the state of all files.
        """
        while (now := await self._look()) == since:  # noqa: ASYNC110  # files cause no event
            await trio.sleep(INTERVAL)
        changed = next(path for path in sorted({*since, *now}) if since.get(path) != now.get(path))
        before: Snapshot = {}
        while before != now:
            before = now
            await trio.sleep(QUIET)
            now = await self._look()
        folder = self.root if self.root.is_dir() else self.root.parent
        return str(Path(changed).relative_to(folder)), now

    async def _look(self) -> Snapshot:
        return await trio.to_thread.run_sync(self.snapshot)

    def _paths(self) -> Iterator[str]:
        if not self.root.is_dir():
            yield str(self.root)
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if _is_looked_into(folder, name)]
            for name in files:
                if name.endswith(".py"):
                    yield f"{folder}{os.sep}{name}"


def _is_looked_into(parent: str, name: str) -> bool:
    if name in SKIPPED or name.startswith("."):
        return False
    return not Path(parent, name, "pyvenv.cfg").exists()
