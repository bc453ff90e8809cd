"""Tools that answer at once."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Annotated, Any

import mcp_types as types
from mcp.server.mcpserver import Audio, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools.base import Tool
from pydantic import Field

from .app import app

# one grey pixel, and a millisecond of silence
PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)
WAV = b64decode("UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA==")

Region = Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]


def embedded(uri: str, mime_type: str, words: str) -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return types.EmbeddedResource(resource=contents)


def picture() -> types.ImageContent:
    return types.ImageContent(data=b64encode(PNG).decode(), mime_type="image/png")


@app.tool(description="A text.")
async def test_simple_text() -> str:
    return "This is a simple text response for testing."


@app.tool(description="An image.")
async def test_image_content() -> Image:
    return Image(data=PNG, format="png")


@app.tool(description="A sound.")
def test_audio_content() -> Audio:
    return Audio(data=WAV, format="wav")


@app.tool(description="A resource inside of the result.")
async def test_embedded_resource() -> list[types.EmbeddedResource]:
    words = "This is an embedded resource content."
    return [embedded("test://embedded-resource", "text/plain", words)]


@app.tool(description="A text, an image and a resource.")
async def test_multiple_content_types() -> list[Any]:
    data = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", "application/json", data)
    return ["Multiple content types test:", picture(), resource]


@app.tool(description="Always fails.")
async def test_error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


@app.tool(description="Has an argument that a header repeats.")
async def test_x_mcp_header(region: Region) -> str:
    return f"region={region}"


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


async def json_schema_2020_12_tool() -> str:
    return "It is the schema that matters."


described = Tool.from_function(
    json_schema_2020_12_tool,
    description="Has a schema with all that JSON Schema 2020-12 is known for.",
)
# Their schemas come from signatures, which cannot say all of this.
described.parameters = SCHEMA
app._tool_manager._tools[described.name] = described
