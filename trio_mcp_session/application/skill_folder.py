"""The files of a skill in a folder, read so that nothing outside of the folder can be read.

A name that a client sends is never used as a path. It is compared with the names that a folder
lists, and opened in that folder only: one folder after the other, from open folder to open folder,
and never through a symbolic link. So it does not matter what a name looks like, and neither
whether a file or folder is exchanged between two steps.

All functions block while they read: call them in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import attrs

from ..protocol.skill_format import (
    SKILL_FILE,
    Child,
    SkillContents,
    SkillFile,
    SkillInvalid,
    SkillLimits,
    check_name,
    digest_of,
    is_served,
    problem_of,
    read_fields,
)

Path = tuple[str, ...]

_CAN_READ: Final = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""What `os.open` fails with if there is no file or folder, but perhaps a link or a socket."""

SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a second change of a file has another time than the first one, on all
file systems."""


@final
@attrs.frozen
class _Known:
    """The digest of a file, and what told that the file is unchanged."""

    stamp: tuple[int, ...]
    file: SkillFile


@final
@attrs.define(eq=False, kw_only=True)
class SkillFolder:
    """One skill in a folder. `find_skills` makes it."""

    folder: str
    """The absolute path of the folder that all of its skills are in."""

    path: Path
    """The folders from there to that of the skill."""

    name: str
    """The name of the skill, and of its folder."""

    limits: SkillLimits
    """What bounds it."""

    _known: dict[Path, _Known] = attrs.field(factory=dict[Path, _Known], init=False)
    _fields: tuple[str, dict[str, Any]] | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<SkillFolder {os.path.join(self.folder, *self.path)!r}>"

    def contents(self) -> SkillContents:
        """Return its front matter, and all files with their digests.

        Raises:
            SkillInvalid: It does not conform, or exceeds a limit.
            OSError: A file cannot be read.
        """
        known: dict[Path, _Known] = {}
        total = 0
        with self._open(()) as opened:
            if opened is None:
                raise self._invalid("the folder is gone")
            for path, directory in _walk(opened, (), self.limits.max_depth - len(self.path), self):
                if len(known) == self.limits.max_files:
                    raise self._invalid(f"it has more than {self.limits.max_files} files")
                known[path] = found = self._digest(directory, path)
                total += found.file.size
                if total > self.limits.max_bytes:
                    raise self._invalid(f"its files have more than {self.limits.max_bytes} bytes")
        fields = self._read_fields(known)
        self._known = known
        files = sorted((one.file for one in known.values()), key=lambda one: one.path)
        return SkillContents(fields, files)

    def _read_fields(self, known: dict[Path, _Known]) -> dict[str, Any]:
        found = known.get((SKILL_FILE,))
        if found is None:
            raise self._invalid(f"it has no {SKILL_FILE}")
        digest = found.file.digest
        if self._fields is not None and self._fields[0] == digest:
            return self._fields[1]
        data = self.read((SKILL_FILE,))
        if data is None or digest_of(data) != digest:
            raise self._invalid(f"{SKILL_FILE} has changed while it was read")
        try:
            fields = read_fields(data, self.name)
        except SkillInvalid as error:
            raise self._invalid(str(error)) from error
        self._fields = digest, fields
        return fields

    def read(self, path: Path) -> bytes | None:
        """Return the bytes of a file; None without one.

        Raises:
            SkillInvalid: The file is larger than the limit.
            OSError: It cannot be read.
        """
        if not path:
            return None
        with self._open(path[:-1]) as opened:
            if opened is None or not _lists(opened, path[-1]):
                return None
            file = _open_file(opened, path[-1])
        if file is None:
            return None
        try:
            return self._read(file, path)[0]
        finally:
            os.close(file)

    def children(self, path: Path) -> list[Child] | None:
        """Return what is in a folder of the skill, sorted by name; None without one.

        Raises:
            SkillInvalid: Something in the folder is neither a file nor a folder.
            OSError: The folder cannot be read.
        """
        with self._open(path) as opened:
            if opened is None:
                return None
            return sorted(
                (
                    Child(name, None if stat.S_ISDIR(found.st_mode) else found.st_size)
                    for name, found in _entries(opened, path, self)
                ),
                key=lambda child: child.name,
            )

    @contextmanager
    def _open(self, path: Path) -> Iterator[int | None]:
        """Open a folder of the skill; None without one."""
        opened: int | None = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in (*self.path, *path):
                assert opened is not None
                inner = None
                if _lists(opened, name):
                    inner = _open_at(opened, name, os.O_RDONLY | os.O_DIRECTORY)
                os.close(opened)
                opened = inner
                if opened is None:
                    break
            yield opened
        finally:
            if opened is not None:
                os.close(opened)

    def _digest(self, directory: int, path: Path) -> _Known:
        """Return the digest of a file: the one that is known, if the file has not changed."""
        file = _open_file(directory, path[-1])
        if file is None:
            raise self._invalid(f"{'/'.join(path)!r} has changed while it was read")
        try:
            before = self._known.get(path)
            stamp = _stamp(file)
            if before is not None and before.stamp == stamp:
                return before
            data, stamp = self._read(file, path)
        finally:
            os.close(file)
        return _Known(stamp, SkillFile(path, digest_of(data), len(data)))

    def _read(self, file: int, path: Path) -> tuple[bytes, tuple[int, ...]]:
        """Return the bytes of an open file, and its stamp; that is empty if it is too young."""
        limit = self.limits.max_file_bytes
        stamp = _stamp(file)
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(limit + 1)
        if len(data) > limit:
            raise self._invalid(f"{'/'.join(path)!r} has more than {limit} bytes")
        # A file that changes again at once may keep its times.
        settled = time.time_ns() - max(stamp[:2]) > SETTLED and _stamp(file) == stamp
        return data, stamp if settled else ()

    def _invalid(self, problem: str) -> SkillInvalid:
        return SkillInvalid(f"the skill in {os.path.join(self.folder, *self.path)!r}: {problem}")


def find_skills(folder: str, limits: SkillLimits) -> list[SkillFolder]:
    """Return the skills of a folder: each folder in it with a ``SKILL.md``, or the folder itself.

    They are sorted by path, and checked.

    Args:
        folder: An absolute path.
        limits: What bounds them.

    Raises:
        SkillInvalid: A skill does not conform, there is none, or a limit is exceeded.
        OSError: Something cannot be read.
        NotImplementedError: This system cannot read files of an open folder (Windows).
    """
    if not _CAN_READ:
        raise NotImplementedError(
            "this system cannot open files inside of an open folder: return the files from a"
            " function with Router.skill instead"
        )
    name = os.path.basename(folder)
    own = SkillFolder(folder=folder, path=(), name=name, limits=limits)
    found: list[SkillFolder] = []
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, _ in _walk(opened, (), limits.max_depth, own):
            *parts, last = path
            if last != SKILL_FILE:
                if last.lower() == SKILL_FILE.lower():
                    raise own._invalid(f"{'/'.join(path)!r} must have the name {SKILL_FILE!r}")
                continue
            if len(found) == limits.max_skills:
                raise own._invalid(f"it has more than {limits.max_skills} skills")
            check_name(parts[-1] if parts else name)
            found.append(
                SkillFolder(
                    folder=folder,
                    path=tuple(parts),
                    name=parts[-1] if parts else name,
                    limits=limits,
                )
            )
    finally:
        os.close(opened)
    if not found:
        raise SkillInvalid(
            f"no folder in {folder!r} has a {SKILL_FILE}: a skill is a folder with that file"
        )
    found.sort(key=lambda one: one.path)
    return found


def _walk(directory: int, path: Path, depth: int, skill: SkillFolder) -> Iterator[tuple[Path, int]]:
    """Iterate over all files in an open folder: their paths, and the open folders they are in."""
    for name, found in _entries(directory, path, skill):
        inner = (*path, name)
        if not stat.S_ISDIR(found.st_mode):
            yield inner, directory
            continue
        if depth < 1:
            raise skill._invalid(f"{'/'.join(inner)!r} is deeper than the limit of folders")
        opened = _open_at(directory, name, os.O_RDONLY | os.O_DIRECTORY)
        if opened is None:
            raise skill._invalid(f"{'/'.join(inner)!r} has changed while it was read")
        try:
            yield from _walk(opened, inner, depth - 1, skill)
        finally:
            os.close(opened)


def _entries(
    directory: int, path: Path, skill: SkillFolder
) -> Iterator[tuple[str, os.stat_result]]:
    """Iterate over the files and folders in an open folder that are served."""
    for name in sorted(filter(is_served, os.listdir(directory))):
        shown = "/".join((*path, name))
        problem = problem_of(name)
        if problem is not None:
            raise skill._invalid(f"it {problem}")
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(found.st_mode):
            raise skill._invalid(
                f"{shown!r} is a symbolic link, which is not followed: put the file itself there"
            )
        if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            raise skill._invalid(f"{shown!r} is neither a file nor a folder")
        yield name, found


def _lists(directory: int, name: str) -> bool:
    """Return whether an open folder has a file or folder of this name that is served."""
    return is_served(name) and name in os.listdir(directory)


def _open_file(directory: int, name: str) -> int | None:
    """Open a file that a folder lists; None if it is gone, or something else."""
    # Opening a pipe would wait for its writer.
    file = _open_at(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    if file is not None and not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    return file


def _open_at(directory: int, name: str, flags: int) -> int | None:
    """Open what a folder lists by a name; None if it is gone, or a link."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def _stamp(file: int) -> tuple[int, ...]:
    """Return what changes with a file: its times first."""
    found = os.fstat(file)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
