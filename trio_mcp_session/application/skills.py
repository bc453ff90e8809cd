"""Skills (SEP-2640): folders of instructions for the model, which clients read as resources.

A skill is one item in the list of resources, by the URI of its ``SKILL.md``. That item answers for
all of its files. So a list of skills, an entry, and the reading of a file always agree about which
skills a request sees, by which URIs, and through which routers.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast, final

import attrs
import trio

from ..core.errors import McpError, shown
from ..protocol.error_codes import INVALID_PARAMS, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND
from ..protocol.front_matter import write_front_matter
from ..protocol.skill_format import (
    DEFAULT_LIMITS,
    SKILL_FILE,
    Child,
    SkillContents,
    SkillFile,
    SkillInvalid,
    SkillLimits,
    check_fields,
    check_name,
    decode_path,
    digest_of,
    folders_above,
    problem_of,
    root_of,
    skill_uri,
    split_prefix,
)
from ..sessions.error_log import log_error
from ..sessions.seldom_log import SeldomLog
from .content import ResourceContents
from .file_types import MARKDOWN, file_type
from .pagination import paginate
from .signature import Signature
from .skill_folder import SkillFolder, find_skills

if TYPE_CHECKING:
    from ..protocol.revisions import Revision
    from ..protocol.uri_template import Value
    from .context import RequestContext

SkillFiles: TypeAlias = Mapping[str, "str | bytes"]
"""The files of a skill, by their paths: ``SKILL.md`` without front matter, and others."""

Path: TypeAlias = tuple[str, ...]

_PATH: Final = "path"
"""What `Skills.matches` says of a URI: the rest of it behind the skill's folder."""


class SkillSource(Protocol):
    """Where the files of a skill come from."""

    async def contents(self, context: RequestContext) -> SkillContents:
        """Return what the skill consists of now."""
        ...

    async def read(self, context: RequestContext, path: Path) -> bytes | None:
        """Return the bytes of a file; None without one."""
        ...

    async def children(self, context: RequestContext, path: Path) -> list[Child] | None:
        """Return what is in a folder, sorted by name; None without one."""
        ...


@final
@attrs.define(eq=False, repr=False)
class Skill:
    """One registered skill: a folder of instructions for the model."""

    uri: str
    """The URI of its ``SKILL.md``."""

    front_matter: Mapping[str, Any]
    """The front matter of its ``SKILL.md``, as it was when that was last read."""

    _source: SkillSource = attrs.field(alias="source")
    _log: SeldomLog = attrs.field(factory=SeldomLog, init=False)

    is_template: Final = False

    def __repr__(self) -> str:
        return f"<Skill {self.uri!r}>"

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.front_matter["name"])

    @property
    def description(self) -> str:
        """What it is for, and when the model should use it."""
        return str(self.front_matter["description"])

    def describe(self, revision: Revision, uri: str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return its ``SKILL.md`` as ``resources/list`` shows it. Not a checkpoint."""
        return {
            "uri": self.uri if uri is None else uri,
            "name": self.name,
            "description": self.description,
            "mimeType": MARKDOWN,
        }

    async def entry(self, context: RequestContext, uri: str) -> dict[str, Any]:
        """Return the entry of ``skills/list`` and ``skills/get``. A checkpoint.

        Args:
            context: The request.
            uri: The URI of its ``SKILL.md``, as clients see it.
        """
        found = await self._source.contents(context)
        self.front_matter = found.front_matter
        return found.write(root_of(uri))

    async def entry_or_none(self, context: RequestContext, uri: str) -> dict[str, Any] | None:
        """Return its entry, or None if that cannot be made: the log says why. A checkpoint."""
        try:
            return await self.entry(context, uri)
        except (SkillInvalid, OSError) as error:
            self._log.write(
                "left out", "the skill %r is left out of skills/list: %s", self.uri, error
            )
        except Exception as error:  # noqa: BLE001  # the function is the program's
            log_error(self, error)
        return None

    async def invoke(self, context: RequestContext, values: Mapping[str, Value]) -> Any:
        """Return the contents of a file, as `Skills.matches` has found it. A checkpoint.

        Raises:
            McpError: -32602, the skill does not have the file.
        """
        text = cast("str", values[_PATH])
        path = decode_path(text)
        data = None if path is None else await self._source.read(context, path)
        if path is None or data is None:
            await trio.lowlevel.checkpoint()
            uri = context.params["uri"]
            raise McpError(RESOURCE_NOT_FOUND, f"Resource not found: {shown(uri)}", {"uri": uri})
        kind = MARKDOWN if path == (SKILL_FILE,) else file_type(path[-1])
        try:
            # Clients compare the bytes with the digest: UTF-8 stays as it was.
            return ResourceContents(data.decode(), mime_type=kind or "text/plain")
        except UnicodeDecodeError:
            return ResourceContents(data, mime_type=kind or "application/octet-stream")

    def write(self, returned: object, revision: Revision, uri: str) -> dict[str, Any]:
        """Return the result of ``resources/read``. Not a checkpoint."""
        contents = cast("ResourceContents", returned)
        return {"contents": [contents.write(revision, uri=uri)]}

    async def children(
        self, context: RequestContext, values: Mapping[str, Value]
    ) -> list[Child] | None:
        """Return what is in a folder of it; None without one. A checkpoint."""
        path = decode_path(cast("str", values[_PATH]))
        if path is None:
            return None
        return await self._source.children(context, path)


@final
class Skills:
    """The skills of a router, and the handlers of their methods."""

    def __init__(self, page_size: int | None = None) -> None:
        self._by_uri: Final[dict[str, Skill]] = {}
        self._page_size: Final = page_size
        self._deepest = 0
        """Parts of the longest URI of a skill's folder."""

    @property
    def all(self) -> Mapping[str, Skill]:
        """All of them, by the URIs of their ``SKILL.md``."""
        return self._by_uri

    def add(self, skills: Iterable[Skill]) -> None:
        """Add skills: all of them, or none.

        Raises:
            ValueError: One exists already, or its folder would be inside of another skill, whose
                files it does not belong to.
        """
        added = {skill.uri: skill for skill in skills}
        for uri in added:
            if uri in self._by_uri:
                raise ValueError(f"a skill {uri!r} exists already")
            for other in self._by_uri:
                check_apart(uri, other)
        self._by_uri.update(added)
        self._deepest = max((self._deepest, *(uri.count("/") for uri in added)))

    def remove(self, uri: str) -> None:
        """Remove a skill by the URI of its ``SKILL.md``.

        Raises:
            KeyError: There is none.
        """
        del self._by_uri[uri]

    def matches(self, uri: str) -> Iterator[tuple[Skill, dict[str, Value]]]:
        """Iterate over the skills that a file or folder with a URI would belong to.

        The innermost one comes first. Not a checkpoint.
        """
        if not self._by_uri:
            return
        parts = uri.split("/", self._deepest)
        for number in range(min(len(parts), self._deepest), 0, -1):
            root = "/".join(parts[:number])
            skill = self._by_uri.get(f"{root}/{SKILL_FILE}")
            if skill is not None:
                yield skill, {_PATH: uri[len(root) :]}

    async def list(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``skills/list``, in the order of registration. A checkpoint."""
        check_revision(context)
        return await list_skills(context, self._by_uri.items(), self._page_size)

    async def get(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``skills/get``. A checkpoint."""
        check_revision(context)
        uri = context.params.get("uri")
        skill = self._by_uri.get(uri) if isinstance(uri, str) else None
        if skill is None:
            await trio.lowlevel.checkpoint()
            raise unknown_skill(uri)
        return await get_skill(context, skill, skill.uri)

    async def read_directory(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``resources/directory/read``. A checkpoint."""
        check_revision(context)
        uri = context.params.get("uri")
        found = next(self.matches(uri), None) if isinstance(uri, str) else None
        if found is None:
            return await read_folder_above(context, self._by_uri, self._page_size)
        return await read_folder(context, *found, self._page_size)


# The answers of routers with and without structure.


def check_revision(context: RequestContext) -> None:
    """Refuse the methods of skills up to 2025-11-25, which has no extensions. Not a checkpoint.

    Raises:
        McpError: -32601.
    """
    if not context._request.is_modern:
        raise McpError(METHOD_NOT_FOUND, "Method not found")


async def list_skills(
    context: RequestContext, named: Iterable[tuple[str, Skill]], page_size: int | None
) -> dict[str, Any]:
    """Return the result of ``skills/list``. A checkpoint.

    Args:
        context: The request.
        named: All skills that it sees, by the URIs that clients see.
        page_size: Skills on a page; None for all that follow the cursor.
    """
    await trio.lowlevel.checkpoint()
    page = paginate(named, context.params, page_size, lambda one: one[0])
    entries = [await skill.entry_or_none(context, uri) for uri, skill in page.items]
    return page.result("skills", [entry for entry in entries if entry is not None])


async def get_skill(context: RequestContext, skill: Skill, uri: str) -> dict[str, Any]:
    """Return the result of ``skills/get``, by the URI that clients see. A checkpoint."""
    context._request.handler_name = f"skill {uri!r}"
    return {"skill": await skill.entry(context, uri)}


async def read_folder(
    context: RequestContext, skill: Skill, values: Mapping[str, Value], page_size: int | None
) -> dict[str, Any]:
    """Return the result of ``resources/directory/read`` for a folder of a skill. A checkpoint.

    Raises:
        McpError: -32602, it does not have the folder.
    """
    context._request.handler_name = f"skill {skill.uri!r}"
    await trio.lowlevel.checkpoint()
    children = await skill.children(context, values)
    if children is None:
        raise _not_a_folder(context.params["uri"])
    return _folder_page(context, children, page_size)


async def read_folder_above(
    context: RequestContext, uris: Iterable[str], page_size: int | None
) -> dict[str, Any]:
    """Return the result of ``resources/directory/read`` for a folder that skills are in.

    A checkpoint.

    Args:
        context: The request.
        uris: The URIs of the ``SKILL.md`` of all skills that it sees, as clients see them.
        page_size: Folders on a page; None for all that follow the cursor.

    Raises:
        McpError: -32602, no skill is in it.
    """
    await trio.lowlevel.checkpoint()
    uri = context.params.get("uri")
    if not isinstance(uri, str):
        raise McpError(INVALID_PARAMS, "uri must be a string")
    children = [Child(name, None) for name in folders_above(uri, map(root_of, uris))]
    if not children:
        raise _not_a_folder(uri)
    return _folder_page(context, children, page_size)


def unknown_skill(uri: object) -> McpError:
    """Return the error for a URI that is not that of a skill."""
    if not isinstance(uri, str):
        return McpError(INVALID_PARAMS, "uri must be a string")
    return McpError(INVALID_PARAMS, f"No skill has the URI {shown(uri)}")


def check_apart(uri: str, other_uri: str) -> None:
    """Refuse two skills of which one would be in the folder of the other, but not in its files.

    Raises:
        ValueError: That is so.
    """
    for outer, inner in ((uri, other_uri), (other_uri, uri)):
        if inner.startswith(f"{root_of(outer)}/"):
            raise ValueError(
                f"the skill {inner!r} would be in the folder of {outer!r}, whose files do not"
                " include it: choose another prefix"
            )


def _not_a_folder(uri: str) -> McpError:
    return McpError(INVALID_PARAMS, f"Not a directory: {shown(uri)}")


def _folder_page(
    context: RequestContext, children: Iterable[Child], page_size: int | None
) -> dict[str, Any]:
    page = paginate(children, context.params, page_size, lambda child: child.name)
    parent: str = context.params["uri"]
    return page.result(
        "resources", [child.write(parent, file_type(child.name)) for child in page.items]
    )


# Skills of a folder.


@final
@attrs.frozen(eq=False)
class FolderSource:
    """The files of a skill in a folder. They are read anew for each request, in a thread."""

    skill: SkillFolder
    limiter: trio.CapacityLimiter | None

    async def contents(self, context: RequestContext) -> SkillContents:  # noqa: ARG002
        """Return what the skill consists of now. A checkpoint."""
        return await trio.to_thread.run_sync(self.skill.contents, limiter=self.limiter)

    async def read(self, context: RequestContext, path: Path) -> bytes | None:  # noqa: ARG002
        """Return the bytes of a file; None without one. A checkpoint."""
        return await trio.to_thread.run_sync(self.skill.read, path, limiter=self.limiter)

    async def children(
        self,
        context: RequestContext,  # noqa: ARG002
        path: Path,
    ) -> list[Child] | None:
        """Return what is in a folder; None without one. A checkpoint."""
        return await trio.to_thread.run_sync(self.skill.children, path, limiter=self.limiter)


def skills_in(
    folder: str | os.PathLike[str],
    *,
    prefix: str,
    limits: SkillLimits,
    limiter: trio.CapacityLimiter | None,
) -> list[Skill]:
    """Return the skills of a folder, checked. Not a checkpoint: it blocks while it reads.

    Raises:
        ValueError: A skill or the prefix is malformed, or a limit is exceeded.
        OSError: Something cannot be read.
        NotImplementedError: This system cannot read files of an open folder.
    """
    path: str = os.path.abspath(os.fspath(folder))
    before = split_prefix(prefix)
    found: list[Skill] = []
    skills = find_skills(path, limits)
    # The folder may be a skill itself: then its name begins all paths.
    above = (skills[0].name,) if not skills[0].path else ()
    for one in skills:
        uri = skill_uri((*before, *above, *one.path))
        found.append(Skill(uri, one.contents().front_matter, FolderSource(one, limiter)))
    return found


# Skills of a function.


@final
@attrs.frozen(eq=False)
class FunctionSource:
    """The files of a skill that a function returns. It is called for each request."""

    what: str
    """What it is, for error messages."""

    front_matter: Mapping[str, Any]
    """The front matter of its ``SKILL.md``."""

    signature: Signature
    """The function."""

    dynamic: bool
    """Whether entries have no digests."""

    async def contents(self, context: RequestContext) -> SkillContents:
        """Return what the skill consists of now. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self.dynamic:
            return SkillContents(self.front_matter, None)
        files = await self._files(context)
        return SkillContents(
            self.front_matter,
            [SkillFile(path, digest_of(data), len(data)) for path, data in sorted(files.items())],
        )

    async def read(self, context: RequestContext, path: Path) -> bytes | None:
        """Return the bytes of a file; None without one. A checkpoint."""
        return (await self._files(context)).get(path)

    async def children(self, context: RequestContext, path: Path) -> list[Child] | None:
        """Return what is in a folder; None without one. A checkpoint."""
        found: dict[str, Child] = {}
        for one, data in (await self._files(context)).items():
            if one[: len(path)] == path and len(one) > len(path):
                name = one[len(path)]
                found[name] = Child(name, len(data) if len(one) == len(path) + 1 else None)
        return [found[name] for name in sorted(found)] or None

    async def _files(self, context: RequestContext) -> dict[Path, bytes]:
        await trio.lowlevel.checkpoint()
        returned = await self.signature.call(context, {})
        given = {SKILL_FILE: returned} if isinstance(returned, str) else returned
        if not isinstance(given, Mapping):
            raise TypeError(f"{self.what} must return a text or a mapping, not {returned!r}")
        files: dict[Path, bytes] = {}
        for name, data in cast("Mapping[object, object]", given).items():
            files[self._path(name)] = self._data(name, data)
        self._check(files)
        return files

    def _path(self, name: object) -> Path:
        path = tuple(name.split("/")) if isinstance(name, str) else ("",)
        for part in path:
            problem = problem_of(part)
            if problem is not None:
                raise SkillInvalid(f"{self.what}: the path {name!r} {problem}")
        return path

    def _data(self, name: object, data: object) -> bytes:
        if not isinstance(data, (str, bytes)):
            raise TypeError(f"{self.what}: the file {name!r} must be str or bytes, not {data!r}")
        if name != SKILL_FILE:
            return data.encode() if isinstance(data, str) else data
        if not isinstance(data, str) or data.startswith("---"):
            raise SkillInvalid(
                f"{self.what}: {SKILL_FILE} must be a text without front matter, which is made from"
                " the arguments of the decorator"
            )
        return f"{write_front_matter(self.front_matter)}\n{data}".encode()

    def _check(self, files: Mapping[Path, bytes]) -> None:
        limits = DEFAULT_LIMITS
        if (SKILL_FILE,) not in files:
            raise SkillInvalid(f"{self.what} returns no {SKILL_FILE}")
        if len(files) > limits.max_files:
            raise SkillInvalid(f"{self.what} returns more than {limits.max_files} files")
        if sum(map(len, files.values())) > limits.max_bytes:
            raise SkillInvalid(f"{self.what} returns more than {limits.max_bytes} bytes")
        for path, data in files.items():
            if len(data) > limits.max_file_bytes:
                raise SkillInvalid(
                    f"{self.what}: {'/'.join(path)!r} has more than {limits.max_file_bytes} bytes"
                )
            if len(path) > limits.max_depth:
                raise SkillInvalid(f"{self.what}: {'/'.join(path)!r} is in too many folders")
            if any(path[:length] in files for length in range(1, len(path))):
                raise SkillInvalid(f"{self.what}: a part of {'/'.join(path)!r} is a file itself")


def skill_of(
    function: Callable[..., Any],
    *,
    name: str | None,
    description: str | None,
    prefix: str,
    front_matter: Mapping[str, Any],
    dynamic: bool,
    limiter: trio.CapacityLimiter | None,
) -> Skill:
    """Make a skill of a function.

    Raises:
        ValueError: Its name, description, prefix or front matter is malformed.
        TypeError: It has no name, or takes something else than the context and dependencies. Or the
            front matter is not JSON.
    """
    if name is None:
        given = getattr(function, "__name__", None)
        if given is None:
            raise TypeError(f"{function!r} has no __name__: pass name= to the decorator")
        name = str(given).replace("_", "-")
    what = f"skill {name!r}"
    check_name(name)
    taken = {"name", "description"} & front_matter.keys()
    if taken:
        raise ValueError(f"{what}: pass {min(taken)}= instead of front_matter[{min(taken)!r}]")
    description = inspect.getdoc(function) if description is None else description
    if description is None:
        raise ValueError(f"{what} needs a description: pass description=, or write a docstring")
    fields = {"name": name, "description": description, **front_matter}
    check_fields(fields, name)
    write_front_matter(fields)  # Raises here, instead of failing each request.
    signature = Signature.of(function, what, limiter=limiter)
    if signature.parameters:
        raise TypeError(
            f"{what} takes {signature.parameters[0].name!r}: its function may take the context and"
            " dependencies only, since clients send no arguments"
        )
    source = FunctionSource(what, fields, signature, dynamic)
    return Skill(skill_uri((*split_prefix(prefix), name)), fields, source)
