"""Contents, and what describes them, in the words of each revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trio_mcp_session.application.content import (
    AudioContent,
    Content,
    EmbeddedResource,
    ImageContent,
    ResourceContents,
    ResourceLink,
    TextContent,
    ToolResult,
    is_content,
)
from trio_mcp_session.application.metadata import Annotations, Icon, ToolAnnotations
from trio_mcp_session.protocol.revisions import (
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
    Revision,
)

NOTES = ResourceContents("all", uri="notes://all", mime_type="text/plain")
LINK = ResourceLink(
    "notes://all",
    "all",
    title="All notes",
    description="Every note",
    mime_type="text/plain",
    size=3,
    icons=[Icon("https://x/i.png")],
)


@pytest.mark.parametrize(
    "content, written",
    [
        (TextContent("hi"), {"type": "text", "text": "hi"}),
        (
            ImageContent(b"\x89PNG", "image/png"),
            {"type": "image", "data": "iVBORw==", "mimeType": "image/png"},
        ),
        (
            AudioContent(b"RIFF", "audio/wav"),
            {"type": "audio", "data": "UklGRg==", "mimeType": "audio/wav"},
        ),
        (
            EmbeddedResource(NOTES),
            {
                "type": "resource",
                "resource": {"uri": "notes://all", "mimeType": "text/plain", "text": "all"},
            },
        ),
        (
            LINK,
            {
                "type": "resource_link",
                "uri": "notes://all",
                "name": "all",
                "title": "All notes",
                "description": "Every note",
                "mimeType": "text/plain",
                "size": 3,
                "icons": [{"src": "https://x/i.png"}],
            },
        ),
        (
            ResourceLink("a://b", "b"),
            {"type": "resource_link", "uri": "a://b", "name": "b"},
        ),
    ],
)
@pytest.mark.parametrize("revision", [V2025_11_25, V2026_07_28], ids=lambda one: one.version)
def test_a_content_is_written_as_the_protocol_names_it(
    content: Content, written: dict[str, Any], revision: Revision
) -> None:
    assert content.write(revision) == written
    assert is_content(content)


def test_audio_is_a_text_where_the_revision_has_no_audio() -> None:
    audio = AudioContent(b"RIFF", "audio/wav")
    assert audio.write(V2024_11_05) == {"type": "text", "text": "[audio: audio/wav, 4 bytes]"}
    assert audio.write(V2025_03_26)["type"] == "audio"


def test_a_link_is_a_text_where_the_revision_has_no_links() -> None:
    text = "[resource: All notes, notes://all]"
    assert LINK.write(V2025_03_26) == {"type": "text", "text": text}
    assert ResourceLink("a://b", "b").write(V2025_03_26)["text"] == "[resource: b, a://b]"


def test_icons_are_sent_from_2025_11_25_on() -> None:
    assert "icons" not in LINK.write(V2025_06_18)


def test_annotations_and_meta_are_sent_where_the_revision_has_them() -> None:
    annotations = Annotations(audience=["user"], priority=0.5, last_modified="2026-01-01T00:00:00Z")
    content = TextContent("x", annotations=annotations, meta={"a": 1})
    assert content.write(V2024_11_05)["annotations"] == {"audience": ["user"], "priority": 0.5}
    assert "_meta" not in content.write(V2024_11_05)
    assert content.write(V2025_06_18) == {
        "type": "text",
        "text": "x",
        "annotations": {
            "audience": ["user"],
            "priority": 0.5,
            "lastModified": "2026-01-01T00:00:00Z",
        },
        "_meta": {"a": 1},
    }
    assert Annotations().write(V2025_11_25) == {}


@pytest.mark.parametrize("priority", [-0.1, 1.1, "high"])
def test_a_priority_outside_of_0_to_1_is_refused(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority must be a number from 0 to 1"):
        Annotations(priority=priority)


def test_hints_of_a_tool_have_the_names_of_the_protocol() -> None:
    hints = ToolAnnotations(
        title="T", read_only=True, destructive=False, idempotent=True, open_world=False
    )
    assert hints.write() == {
        "title": "T",
        "readOnlyHint": True,
        "destructiveHint": False,
        "idempotentHint": True,
        "openWorldHint": False,
    }
    assert ToolAnnotations().write() == {}


def test_an_icon_is_written_with_what_it_has() -> None:
    icon = Icon("data:x", mime_type="image/svg+xml", sizes=["any"], theme="dark")
    assert icon.write() == {
        "src": "data:x",
        "mimeType": "image/svg+xml",
        "sizes": ["any"],
        "theme": "dark",
    }


def test_bytes_of_a_resource_are_a_blob() -> None:
    contents = ResourceContents(b"\x00\x01", meta={"a": 1})
    assert contents.write(V2025_11_25, uri="a://b", mime_type="x/y") == {
        "uri": "a://b",
        "mimeType": "x/y",
        "blob": "AAE=",
        "_meta": {"a": 1},
    }
    assert "_meta" not in contents.write(V2025_03_26, uri="a://b")


def test_what_resource_contents_say_comes_before_the_defaults() -> None:
    written = NOTES.write(V2025_11_25, uri="a://b", mime_type="x/y")
    assert (written["uri"], written["mimeType"]) == ("notes://all", "text/plain")


def test_an_embedded_resource_without_a_uri_is_refused() -> None:
    with pytest.raises(ValueError, match="need a uri"):
        EmbeddedResource(ResourceContents("x")).write(V2025_11_25)


@pytest.mark.parametrize(
    "kind, name, mime_type",
    [(ImageContent, "a.png", "image/png"), (AudioContent, "a.mp3", "audio/mpeg")],
)
def test_a_file_is_read_with_the_media_type_of_its_name(
    kind: type[ImageContent | AudioContent], name: str, mime_type: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(b"data")
    assert kind.from_path(path) == kind(b"data", mime_type)
    assert kind.from_path(str(path), "x/y") == kind(b"data", "x/y")


@pytest.mark.parametrize("kind", [ImageContent, AudioContent])
@pytest.mark.parametrize("name", ["a", "a.txt"])
def test_a_file_whose_name_tells_no_media_type_is_refused(
    kind: type[ImageContent | AudioContent], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"data")
    with pytest.raises(ValueError, match="pass mime_type="):
        kind.from_path(tmp_path / name)


def test_a_whole_result_is_written_with_all_of_its_parts() -> None:
    result = ToolResult(
        ["text", TextContent("more")],
        structured_content={"a": 1},
        is_error=True,
        meta={"b": 2},
    )
    content = [{"type": "text", "text": "text"}, {"type": "text", "text": "more"}]
    assert result.write(V2025_11_25) == {
        "content": content,
        "structuredContent": {"a": 1},
        "isError": True,
        "_meta": {"b": 2},
    }
    assert "structuredContent" not in result.write(V2025_03_26)
    assert ToolResult().write(V2025_11_25) == {"content": []}


def test_other_values_are_not_content() -> None:
    assert not is_content("text")
    assert not is_content(NOTES)
