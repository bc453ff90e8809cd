"""Contents of results and messages: text, images, audio, resources and links to them.

A content writes itself for one revision of the protocol. Where that revision does not know its
kind, a text takes its place, so that the model learns what the client could not show.
"""

from __future__ import annotations

import mimetypes
from base64 import b64encode
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs

from .metadata import Annotations, Icon

if TYPE_CHECKING:
    from ..protocol.revisions import Revision


@attrs.frozen(kw_only=True)
class _Described:
    """What every content may have."""

    annotations: Annotations | None = None
    """For which reader it is, and how important."""

    meta: Mapping[str, Any] | None = None
    """Its ``_meta``; sent from 2025-06-18 on."""

    def _write_onto(self, written: dict[str, Any], revision: Revision) -> dict[str, Any]:
        if self.annotations is not None:
            written["annotations"] = self.annotations.write(revision)
        if self.meta is not None and revision.resource_links:
            written["_meta"] = self.meta
        return written


@final
@attrs.frozen
class TextContent(_Described):
    """Text for the model."""

    text: str
    """The text."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol."""
        return self._write_onto({"type": "text", "text": self.text}, revision)


@final
@attrs.frozen
class ImageContent(_Described):
    """An image for the model."""

    data: bytes = attrs.field(repr=False)
    """The image file, not encoded."""

    mime_type: str
    """Its media type, such as ``image/png``."""

    @classmethod
    def from_path(cls, path: str | PathLike[str], mime_type: str | None = None) -> ImageContent:
        """Read an image from a file. Not a checkpoint: it blocks while it reads.

        Args:
            path: The file.
            mime_type: Its media type; by default it follows from the file's name.

        Raises:
            OSError: The file cannot be read.
            ValueError: The name does not tell an image's media type, and none was passed.
        """
        return cls(Path(path).read_bytes(), mime_type or _media_type(path, "image"))

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol."""
        written = {"type": "image", "data": _base64(self.data), "mimeType": self.mime_type}
        return self._write_onto(written, revision)


@final
@attrs.frozen
class AudioContent(_Described):
    """A recording for the model (from 2025-03-26 on)."""

    data: bytes = attrs.field(repr=False)
    """The audio file, not encoded."""

    mime_type: str
    """Its media type, such as ``audio/wav``."""

    @classmethod
    def from_path(cls, path: str | PathLike[str], mime_type: str | None = None) -> AudioContent:
        """Read a recording from a file. Not a checkpoint: it blocks while it reads.

        Args:
            path: The file.
            mime_type: Its media type; by default it follows from the file's name.

        Raises:
            OSError: The file cannot be read.
            ValueError: The name does not tell an audio media type, and none was passed.
        """
        return cls(Path(path).read_bytes(), mime_type or _media_type(path, "audio"))

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol; a text up to 2024-11-05."""
        if not revision.audio:
            text = f"[audio: {self.mime_type}, {len(self.data)} bytes]"
            return self._write_onto({"type": "text", "text": text}, revision)
        written = {"type": "audio", "data": _base64(self.data), "mimeType": self.mime_type}
        return self._write_onto(written, revision)


@final
@attrs.frozen
class ResourceContents:
    """What a resource contains: text, or bytes."""

    data: str | bytes = attrs.field(repr=False)
    """The text, or the bytes, not encoded."""

    uri: str | None = attrs.field(default=None, kw_only=True)
    """Its URI. In the result of a resource's function by default it is taken from the request."""

    mime_type: str | None = attrs.field(default=None, kw_only=True)
    """Its media type. In the result of a resource's function it is the resource's by default, and
    else ``default_mime_type``."""

    default_mime_type: str | None = attrs.field(default=None, kw_only=True)
    """The media type if neither this nor the resource has one."""

    meta: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    """Its ``_meta``; sent from 2025-06-18 on."""

    def write(
        self, revision: Revision, *, uri: str | None = None, mime_type: str | None = None
    ) -> dict[str, Any]:
        """Return the object of the protocol.

        Args:
            revision: The revision of the client.
            uri: The URI if it has none of its own.
            mime_type: The media type if it has none of its own.

        Raises:
            ValueError: There is no URI.
        """
        uri = uri if self.uri is None else self.uri
        mime_type = self.mime_type or mime_type or self.default_mime_type
        if uri is None:
            raise ValueError("the contents of an embedded resource need a uri")
        written: dict[str, Any] = {"uri": uri}
        if mime_type is not None:
            written["mimeType"] = mime_type
        if isinstance(self.data, str):
            written["text"] = self.data
        else:
            written["blob"] = _base64(self.data)
        if self.meta is not None and revision.resource_links:
            written["_meta"] = self.meta
        return written


@final
@attrs.frozen
class EmbeddedResource(_Described):
    """A resource with its contents, as a part of a result or message."""

    resource: ResourceContents
    """The resource; it needs a URI."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol.

        Raises:
            ValueError: The resource has no URI.
        """
        written = {"type": "resource", "resource": self.resource.write(revision)}
        return self._write_onto(written, revision)


@final
@attrs.frozen
class ResourceLink(_Described):
    """A link to a resource, which the client may read or subscribe to (from 2025-06-18 on)."""

    uri: str
    """The resource's URI."""

    name: str
    """Its programmatic name."""

    title: str | None = attrs.field(default=None, kw_only=True)
    """Its name for people."""

    description: str | None = attrs.field(default=None, kw_only=True)
    """What it is, for the model."""

    mime_type: str | None = attrs.field(default=None, kw_only=True)
    """Its media type."""

    size: int | None = attrs.field(default=None, kw_only=True)
    """Its size in bytes, before encoding."""

    icons: Sequence[Icon] = attrs.field(default=(), kw_only=True)
    """Its icons; sent from 2025-11-25 on."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol; a text up to 2025-03-26."""
        if not revision.resource_links:
            text = f"[resource: {self.title or self.name}, {self.uri}]"
            return self._write_onto({"type": "text", "text": text}, revision)
        members = {
            "type": "resource_link",
            "uri": self.uri,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "mimeType": self.mime_type,
            "size": self.size,
        }
        written: dict[str, Any] = {
            name: value for name, value in members.items() if value is not None
        }
        if self.icons and revision.icons:
            written["icons"] = [icon.write() for icon in self.icons]
        return self._write_onto(written, revision)


Content: TypeAlias = TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink
"""A part of the result of a tool, or of the message of a prompt."""


@final
@attrs.frozen
class ToolResult:
    """The whole result of a tool, for a tool that decides about each part of it."""

    content: Sequence[Content | str] = ()
    """What the model reads; a ``str`` stands for `TextContent`."""

    structured_content: Any = attrs.field(default=None, kw_only=True)
    """The result as data: anything that encodes to a JSON object; sent from 2025-06-18 on."""

    is_error: bool = attrs.field(default=False, kw_only=True)
    """Whether the tool failed, so that the model can react."""

    meta: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    """The ``_meta`` of the result, for the client's program."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the result of ``tools/call``."""
        written: dict[str, Any] = {
            "content": [as_content(part).write(revision) for part in self.content]
        }
        if self.structured_content is not None and revision.structured_content:
            written["structuredContent"] = self.structured_content
        if self.is_error:
            written["isError"] = True
        if self.meta is not None:
            written["_meta"] = self.meta
        return written


def as_content(part: Content | str) -> Content:
    """Return a text as content; a content as it is. Not a checkpoint."""
    # A plain ``str``, also where it is of a subclass.
    return TextContent(str.__str__(part)) if isinstance(part, str) else part


def is_content(value: object) -> bool:
    """Return whether a value is one of the kinds of content."""
    return isinstance(
        value, (TextContent, ImageContent, AudioContent, EmbeddedResource, ResourceLink)
    )


def _media_type(path: str | PathLike[str], kind: str) -> str:
    found, _ = mimetypes.guess_type(Path(path).name)
    if found is None or not found.startswith(f"{kind}/"):
        raise ValueError(f"the media type of {str(path)!r} is not known: pass mime_type={kind}/...")
    return found


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
