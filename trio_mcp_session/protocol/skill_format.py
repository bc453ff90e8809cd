"""Skills (SEP-2640, ``io.modelcontextprotocol/skills``): names, URIs, entries and limits.

A skill is a folder of files with a ``SKILL.md``. Clients read the files as resources, by URIs that
begin with the folder's; an entry of ``skills/list`` says which files there are, with their digests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote, unquote

import attrs

from .front_matter import FrontMatterInvalid, read_front_matter
from .jsonrpc import is_object

EXTENSION: Final = "io.modelcontextprotocol/skills"
"""The name of the extension in the capabilities."""

LIST: Final = "skills/list"
GET: Final = "skills/get"
READ_DIRECTORY: Final = "resources/directory/read"

SETTINGS: Final[Mapping[str, Any]] = {"directoryRead": True}
"""What a server declares of the extension."""

SKILL_FILE: Final = "SKILL.md"
"""The file that each skill has."""

DYNAMIC: Final = "dynamic"
"""What an entry has instead of its files, if their digests cannot be known."""

DIRECTORY_TYPE: Final = "inode/directory"
"""The media type of a folder."""

SCHEME: Final = "skill://"

_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MAX_NAME: Final = 64
_MAX_DESCRIPTION: Final = 1024
_RESERVED: Final = "io.modelcontextprotocol/"
_SAFE: Final = "!$&'()*+,;="
"""Characters that URIs may have in each place: what else is not a letter or digit is encoded."""

_REFUSED: Final = re.compile(r"[\\/:\0-\x1f\x7f]")
_IGNORED: Final = "__pycache__"


@final
class SkillInvalid(ValueError):
    """A skill does not conform to the specification, or exceeds a limit."""


def _at_least_one(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number from 1 on, not {value!r}")


@final
@attrs.frozen(kw_only=True)
class SkillLimits:
    """Limits of the skills in one folder."""

    max_skills: int = attrs.field(default=1_000, validator=_at_least_one)
    """Skills in the folder. Each one is an entry of a list that clients read as a whole."""

    max_files: int = attrs.field(default=512, validator=_at_least_one)
    """Files of one skill: clients need not load a skill with more (SEP-2640)."""

    max_bytes: int = attrs.field(default=16_777_216, validator=_at_least_one)
    """Bytes of all files of one skill: clients need not load a skill with more (SEP-2640)."""

    max_file_bytes: int = attrs.field(default=4_194_304, validator=_at_least_one)
    """Bytes of one file: it is read, and sent, as a whole."""

    max_depth: int = attrs.field(default=16, validator=_at_least_one)
    """Folders inside each other, from the folder of all skills on."""


DEFAULT_LIMITS: Final = SkillLimits()


@final
@attrs.frozen
class SkillFile:
    """One file of a skill."""

    path: tuple[str, ...]
    """Its path in the folder of the skill."""

    digest: str
    """The digest of its bytes, as in an entry."""

    size: int
    """Its bytes."""


@final
@attrs.frozen
class SkillContents:
    """What a skill consists of at one moment."""

    front_matter: Mapping[str, Any]
    """The front matter of its ``SKILL.md``."""

    files: Sequence[SkillFile] | None
    """Its files; None if their digests cannot be known."""

    def write(self, root: str) -> dict[str, Any]:
        """Return the entry of the skill (``Skill``). Not a checkpoint.

        Args:
            root: The URI of its folder.
        """
        files: object = DYNAMIC
        if self.files is not None:
            files = [
                {"uri": root + encode_path(one.path), "digest": one.digest, "size": one.size}
                for one in self.files
            ]
        return {
            "uri": f"{root}/{SKILL_FILE}",
            "frontmatter": self.front_matter,
            "resources": files,
        }


@final
@attrs.frozen
class Child:
    """A file or folder, as a folder shows it."""

    name: str
    """Its name."""

    size: int | None
    """Bytes of a file; None for a folder."""

    def write(self, parent: str, mime_type: str | None) -> dict[str, Any]:
        """Return the object of the protocol (``Resource``). Not a checkpoint.

        Args:
            parent: The URI of the folder that it is in.
            mime_type: The media type of a file; None if it is unknown.
        """
        written: dict[str, Any] = {"uri": f"{parent}/{_encode(self.name)}", "name": self.name}
        if self.size is None:
            return {**written, "mimeType": DIRECTORY_TYPE}
        if mime_type is not None:
            written["mimeType"] = mime_type
        return {**written, "size": self.size}


def digest_of(data: bytes) -> str:
    """Return the digest of a file, as entries have it. Not a checkpoint."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def root_of(uri: str) -> str:
    """Return the URI of the folder of a ``SKILL.md``. Not a checkpoint."""
    return uri.removesuffix(f"/{SKILL_FILE}")


def skill_uri(path: Sequence[str]) -> str:
    """Return the URI of the ``SKILL.md`` of the skill with a path. Not a checkpoint."""
    return f"{SCHEME}{encode_path((*path, SKILL_FILE))[1:]}"


def split_prefix(prefix: str) -> tuple[str, ...]:
    """Return the folders that the URIs of some skills begin with. Not a checkpoint.

    Raises:
        ValueError: One of them cannot be a folder of skills.
    """
    parts = tuple(prefix.split("/")) if prefix else ()
    for part in parts:
        problem = problem_of(part)
        if problem is not None:
            raise ValueError(f"the prefix {prefix!r} {problem}")
    return parts


def is_served(name: str) -> bool:
    """Return whether a file or folder is part of a skill: not if its name begins with a dot."""
    return not name.startswith(".") and name != _IGNORED


def problem_of(name: str) -> str | None:
    """Return why a file or folder cannot have a URI, for an error message; None if it can."""
    if not name or not is_served(name):
        return f"has {name!r}, which is not a name of a file or folder that is served"
    if _REFUSED.search(name):
        return (
            f"has {name!r}: names must not have slashes, backslashes, colons or control characters"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"has {name!r}: names must be UTF-8"
    return None


def encode_path(path: Iterable[str]) -> str:
    """Return a path behind the URI of a folder: each name behind a slash. Not a checkpoint."""
    return "".join(f"/{_encode(name)}" for name in path)


def decode_path(text: str) -> tuple[str, ...] | None:
    """Return the path that `encode_path` encodes as a text; None if it encodes none so.

    Each path has one text only. So no encoding of ``..``, of a separator or of anything else gets
    past the checks of names.
    """
    if not text:
        return ()
    first, *names = text.split("/")
    if first:
        return None
    path = tuple(unquote(name, errors="replace") for name in names)
    if any(problem_of(name) is not None for name in path) or encode_path(path) != text:
        return None
    return path


def check_name(name: str) -> None:
    """Check the name of a skill. Not a checkpoint.

    Raises:
        SkillInvalid: It is malformed.
    """
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise SkillInvalid(
            f"the name {name!r} must be 1 to {_MAX_NAME} characters: a-z, 0-9, and single hyphens"
            " between them"
        )


def check_fields(fields: Mapping[str, Any], folder: str) -> None:
    """Check the front matter of a skill. Not a checkpoint.

    Args:
        fields: The front matter.
        folder: The name of the skill's folder.

    Raises:
        SkillInvalid: It lacks a name or description, or one of these is malformed.
    """
    name = fields.get("name")
    if not isinstance(name, str):
        raise SkillInvalid("the front matter needs a text 'name'")
    check_name(name)
    if name != folder:
        raise SkillInvalid(f"the name {name!r} must be the name of its folder, {folder!r}")
    description = fields.get("description")
    if not isinstance(description, str) or not description.strip():
        raise SkillInvalid("the front matter needs a text 'description'")
    if len(description) > _MAX_DESCRIPTION:
        raise SkillInvalid(
            f"the description has {len(description)} characters, more than {_MAX_DESCRIPTION}"
        )
    metadata = fields.get("metadata")
    for key in metadata if is_object(metadata) else ():
        if key.startswith(_RESERVED):
            raise SkillInvalid(f"metadata has {key!r}: such names are reserved for extensions")


def read_fields(data: bytes, folder: str) -> dict[str, Any]:
    """Return the front matter of a ``SKILL.md``, checked. Not a checkpoint.

    Args:
        data: The file.
        folder: The name of the skill's folder.

    Raises:
        SkillInvalid: The file is not UTF-8, or its front matter does not conform.
    """
    try:
        fields = read_front_matter(data.decode())
    except UnicodeDecodeError as error:
        raise SkillInvalid(f"{SKILL_FILE} is not UTF-8") from error
    except FrontMatterInvalid as error:
        raise SkillInvalid(f"{SKILL_FILE}: {error}") from error
    check_fields(fields, folder)
    return fields


def folders_above(uri: str, roots: Iterable[str]) -> Iterator[str]:
    """Return the names of the folders directly in a folder that skills are in.

    Args:
        uri: The URI of the folder, which belongs to no skill.
        roots: The URIs of the folders of all skills.
    """
    start = f"{uri}/"
    if not start.startswith(SCHEME):
        return iter(())
    found = {root[len(start) :].partition("/")[0]: None for root in roots if root.startswith(start)}
    return (unquote(name) for name in found)


def _encode(name: str) -> str:
    return quote(name, safe=_SAFE)
