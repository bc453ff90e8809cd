"""Resources and resource templates: functions that return what a URI names."""

from __future__ import annotations

import inspect
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import chain
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs
import trio

from ..core.errors import McpError, shown
from ..protocol.error_codes import INVALID_PARAMS, RESOURCE_NOT_FOUND
from ..protocol.jsonrpc import encode_json
from ..protocol.uri_template import UriTemplate, Value
from .arguments import Arguments, ArgumentsInvalid
from .content import ResourceContents
from .conversion import to_json
from .metadata import Annotations, Icon
from .middleware import HandlerCall
from .pagination import Listed, list_page
from .question_types import InputRequired
from .signature import Signature
from .skills import Skill, Skills

if TYPE_CHECKING:
    from ..protocol.revisions import Revision
    from .context import RequestContext


@final
@attrs.frozen(kw_only=True, eq=False)
class Resource:
    """One registered resource, or one template of resources."""

    uri: str
    """Its URI, or its URI template."""

    name: str
    """Its programmatic name."""

    title: str | None
    """Its name for people; sent from 2025-06-18 on."""

    description: str | None
    """What it is, for the model."""

    mime_type: str | None
    """The media type of its contents; by default it follows from the return value."""

    size: int | None
    """Its size in bytes, before encoding."""

    annotations: Annotations | None
    """For which reader it is, and how important."""

    icons: Sequence[Icon]
    """Its icons; sent from 2025-11-25 on."""

    meta: Mapping[str, Any] | None
    """Its ``_meta``; sent from 2025-06-18 on."""

    signature: Signature
    """Its function."""

    arguments: Arguments
    """The variables of its template."""

    _template: UriTemplate = attrs.field(alias="template")
    _any_path: frozenset[str] = attrs.field(alias="any_path")

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        size: int | None = None,
        annotations: Annotations | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
        any_path: Collection[str] = (),
        limiter: trio.CapacityLimiter | None = None,
    ) -> Resource:
        """Make a resource of a function.

        Raises:
            TypeError: The function's parameters are not the variables of the template.
            ValueError: The URI is not a URI template.
        """
        what = f"resource {uri!r}"
        template = UriTemplate.parse(uri)
        signature = Signature.of(function, what, limiter=limiter)
        arguments = Arguments.of(signature, what)
        name = name or getattr(function, "__name__", None)
        if name is None:
            raise TypeError(f"{what}: {function!r} has no __name__: pass name=")
        taken = {one.name for one in signature.parameters}
        required = set(arguments.schema.get("required", ()))
        given = set(template.variables)
        if unknown := taken - given:
            raise TypeError(f"{what} has no variable for the parameter {min(unknown)!r}")
        if unused := given - taken:
            raise TypeError(f"{what}: the function does not take the variable {min(unused)!r}")
        if missing := required & template.optional:
            raise TypeError(
                f"{what}: the parameter {min(missing)!r} needs a default, because the query may"
                " leave it out"
            )
        if unknown := set(any_path) - given:
            raise ValueError(f"{what}: any_path= names {min(unknown)!r}, which is not a variable")
        return cls(
            uri=uri,
            name=name,
            title=title,
            description=inspect.getdoc(function) if description is None else description,
            mime_type=mime_type,
            size=size,
            annotations=annotations,
            icons=tuple(icons),
            meta=meta,
            signature=signature,
            arguments=arguments,
            template=template,
            any_path=frozenset(any_path),
        )

    @property
    def is_template(self) -> bool:
        """Whether it stands for many resources."""
        return bool(self._template.variables)

    def match(self, uri: str) -> dict[str, Value] | None:
        """Return the values of the variables in a URI; None if it is not one of this resource.

        A value that leads out of a folder does not match, unless ``any_path`` allows it: not even
        encoded.
        """
        values = self._template.match(uri)
        if values is None:
            return None
        for name, value in values.items():
            parts = [value] if isinstance(value, str) else value
            if name not in self._any_path and any(map(_leads_out, parts)):
                return None
        return values

    def invoke(self, context: RequestContext, values: Mapping[str, Value]) -> Awaitable[Any]:
        """Check the values of its variables, and call the function.

        A checkpoint if the function is one.

        Raises:
            McpError: -32602, the values do not fit.
        """
        try:
            arguments = self.arguments.check(cast("dict[str, Any]", values))
        except ArgumentsInvalid as error:
            raise McpError(INVALID_PARAMS, f"Invalid URI: {error}") from error
        return self.signature.call(context, arguments)

    def write(self, returned: object, revision: Revision, uri: str) -> dict[str, Any]:
        """Return the result of ``resources/read`` for a return value. Not a checkpoint."""
        return {
            "contents": [
                part.write(revision, uri=uri, mime_type=self.mime_type)
                for part in _contents(returned)
            ]
        }

    def describe(self, revision: Revision, uri: str | None = None) -> dict[str, Any]:
        """Return it as the lists show it, perhaps by the URI that another router gives."""
        described: dict[str, Any] = {
            "uriTemplate" if self.is_template else "uri": self.uri if uri is None else uri,
            "name": self.name,
        }
        if self.title is not None and revision.structured_content:
            described["title"] = self.title
        if self.description is not None:
            described["description"] = self.description
        if self.mime_type is not None:
            described["mimeType"] = self.mime_type
        if self.size is not None and not self.is_template:
            described["size"] = self.size
        if self.annotations is not None:
            described["annotations"] = self.annotations.write(revision)
        if self.icons and revision.icons:
            described["icons"] = [icon.write() for icon in self.icons]
        if self.meta is not None and revision.resource_links:
            described["_meta"] = self.meta
        return described


@final
class Resources:
    """The resources of a router, and the handlers of their methods."""

    def __init__(self, page_size: int | None = None) -> None:
        self._static: Final[dict[str, Resource]] = {}
        self._templates: Final[dict[str, Resource]] = {}
        self._page_size: Final = page_size
        self.skills: Final = Skills(page_size)
        """The skills, whose files are resources, too."""

    @property
    def all(self) -> Mapping[str, Resource]:
        """All of them, by URI or template: resources before templates; without skills."""
        return {**self._static, **self._templates}

    @property
    def items(self) -> Mapping[str, Resource | Skill]:
        """All of them, by URI or template, and the skills behind them."""
        return {**self._static, **self._templates, **self.skills.all}

    def add(self, resource: Resource) -> None:
        """Add a resource.

        Raises:
            ValueError: There is one with this URI, or a skill.
        """
        table = self._templates if resource.is_template else self._static
        if resource.uri in table or resource.uri in self.skills.all:
            raise ValueError(f"a resource {resource.uri!r} exists already")
        table[resource.uri] = resource

    def add_skills(self, skills: Collection[Skill]) -> None:
        """Add skills: all of them, or none.

        Raises:
            ValueError: One exists already, or there is a resource with its URI, or it would be
                inside of another skill.
        """
        for skill in skills:
            if skill.uri in self._static:
                raise ValueError(f"a resource {skill.uri!r} exists already")
        self.skills.add(skills)

    def remove(self, uri: str) -> None:
        """Remove a resource by its URI or template.

        Raises:
            KeyError: There is none.
        """
        del (self._static if uri in self._static else self._templates)[uri]

    def find(self, uri: str) -> tuple[Resource | Skill, dict[str, Value]] | None:
        """Return the resource of a URI, and the values of its variables. Not a checkpoint."""
        return next(self.matches(uri), None)

    def matches(self, uri: str) -> Iterator[tuple[Resource | Skill, dict[str, Value]]]:
        """Return all resources that a URI stands for: the first one is read."""
        static = self._static.get(uri)
        if static is not None:
            yield static, {}
        yield from self.skills.matches(uri)
        for template in self._templates.values():
            values = template.match(uri)
            if values is not None:
                yield template, values

    async def list(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``resources/list``, in the order of registration."""
        listed = chain[tuple[str, Listed]](self._static.items(), self.skills.all.items())
        return await list_page(context, listed, "resources", self._page_size)

    async def list_templates(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``resources/templates/list``, in the order of registration."""
        return await list_page(
            context, self._templates.items(), "resourceTemplates", self._page_size
        )

    async def read(self, context: RequestContext) -> Mapping[str, Any] | InputRequired:
        """Answer ``resources/read``."""
        request = context._request
        revision = request.revision
        assert revision is not None
        uri = context.params.get("uri")
        if not isinstance(uri, str) or (found := self.find(uri)) is None:
            raise unknown_resource(uri)
        resource, values = found
        request.handler_name = f"resource {resource.uri!r}"
        returned = await resource.invoke(context, values)
        if isinstance(returned, InputRequired):
            return returned
        return resource.write(returned, revision, uri)

    def begin(
        self,
        context: RequestContext,
        resource: Resource | Skill,
        name: str,
        values: Mapping[str, Value],
    ) -> HandlerCall:
        """Return the reading of a resource in steps, by its URI for clients. Not a checkpoint."""
        request = context._request
        revision = request.revision
        assert revision is not None
        request.handler_name = f"resource {name!r}"
        uri: str = context.params["uri"]
        return HandlerCall(
            lambda: resource.invoke(context, values),
            write=lambda value: resource.write(value, revision, uri),
        )


def unknown_resource(uri: object) -> McpError:
    """Return the error for a URI that stands for no resource."""
    if not isinstance(uri, str):
        return McpError(INVALID_PARAMS, "uri must be a string")
    return McpError(RESOURCE_NOT_FOUND, f"Resource not found: {shown(uri)}", {"uri": uri})


def _contents(returned: object) -> list[ResourceContents]:
    """Return the contents that a return value stands for."""
    value = returned  # The checks below narrow the type of the other name.
    if isinstance(returned, ResourceContents):
        return [returned]
    if isinstance(returned, (str, bytes)):
        kind = "text/plain" if isinstance(returned, str) else "application/octet-stream"
        return [ResourceContents(returned, default_mime_type=kind)]
    if isinstance(returned, (list, tuple)):
        parts = cast("Sequence[object]", returned)
        if parts and all(isinstance(one, (ResourceContents, bytes)) for one in parts):
            return [content for part in parts for content in _contents(part)]
    text = encode_json(to_json(value)).decode()
    return [ResourceContents(text, default_mime_type="application/json")]


def _leads_out(value: str) -> bool:
    """Return whether a value would lead out of a folder, if it were used as a path."""
    path = PureWindowsPath(value)  # It knows both kinds of separators, and drives.
    return "\0" in value or bool(path.anchor) or ".." in path.parts
