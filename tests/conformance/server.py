"""The server that the official conformance suite is run against.

The suite calls tools, prompts and resources by name and judges what comes; the names, arguments
and texts are those that its scenarios ask for.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from trio_mcp_session import (
    ElicitResult,
    HttpOptions,
    McpError,
    RequestContext,
    Router,
    SessionManager,
    ToolError,
    open_session_manager,
    serve_http,
)

PATH = "/mcp"
STEP = 0.05
"""Seconds between messages. The suite's client loses those that arrive together with the result."""
AWAY = 0.2
"""Seconds for which an answer waits, so that the client has to come back for it."""

INVALID_PARAMS = -32602
RESOURCE_NOT_FOUND = -32002

# one grey pixel, and a millisecond of silence
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
WAV = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA=="

router = Router(
    name="conformance", version="1.0", title="Conformance server", resource_subscriptions=True
)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image() -> dict[str, Any]:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def embedded(uri: str, mime_type: str, words: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


# Tools that answer at once. The first one listed takes no arguments: the suite calls it blindly.


@router.tool(description="A text.")
async def test_simple_text(ctx: RequestContext) -> str:
    return "This is a simple text response for testing."


@router.tool(description="An image.")
async def test_image_content(ctx: RequestContext) -> dict[str, Any]:
    return {"content": [image()]}


@router.tool(description="A sound.")
async def test_audio_content(ctx: RequestContext) -> dict[str, Any]:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


@router.tool(description="A resource inside of the result.")
async def test_embedded_resource(ctx: RequestContext) -> dict[str, Any]:
    words = "This is an embedded resource content."
    return {"content": [embedded("test://embedded-resource", "text/plain", words)]}


@router.tool(description="A text, an image and a resource.")
async def test_multiple_content_types(ctx: RequestContext) -> dict[str, Any]:
    data = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", "application/json", data)
    return {"content": [text("Multiple content types test:"), image(), resource]}


@router.tool(description="Always fails.")
async def test_error_handling(ctx: RequestContext) -> str:
    raise ToolError("This tool intentionally returns an error for testing")


@router.tool(
    description="Has a schema with all that JSON Schema 2020-12 is known for.",
    input_schema={
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
    },
)
async def json_schema_2020_12_tool(ctx: RequestContext, arguments: dict[str, Any]) -> str:
    return json.dumps(arguments)


# Tools that say something before they answer.


@router.tool(description="Logs three times.")
async def test_tool_with_logging(ctx: RequestContext) -> str:
    for doing in ("execution started", "processing data", "execution completed"):
        await ctx.log("info", f"Tool {doing}", "conformance")
        await trio.sleep(STEP)
    return "Logged three times."


@router.tool(description="Reports progress three times.")
async def test_tool_with_progress(ctx: RequestContext) -> str:
    for done in (0, 50, 100):
        await ctx.progress(done, 100, f"{done} of 100")
        await trio.sleep(STEP)
    return "Reported three times."


@router.tool(description="Ends the connection before it answers: the client comes back for it.")
async def test_reconnection(ctx: RequestContext) -> str:
    closed = ctx.close_stream(retry=STEP)
    await trio.sleep(AWAY)
    return "Answered to the second connection." if closed else "There was no connection to end."


# Tools that ask.


@router.tool(description="Asks the client's model.")
async def test_sampling(ctx: RequestContext, prompt: str) -> str:
    reply = await ctx.sample([{"role": "user", "content": text(prompt)}], max_tokens=100)
    return f"LLM response: {reply['content']['text']}"


def told(answer: ElicitResult) -> str:
    return f"action={answer.action}, content={json.dumps(answer.content)}"


def form(properties: Mapping[str, Any], *, required: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": list(properties)} if required else schema


@router.tool(description="Asks the user.")
async def test_elicitation(ctx: RequestContext, message: str) -> str:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {told(await ctx.elicit(message, form(fields, required=True)))}"


@router.tool(description="Asks the user, with a default for each type.")
async def test_elicitation_sep1034_defaults(ctx: RequestContext) -> str:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    }
    return f"Elicitation completed: {told(await ctx.elicit('Who are you?', form(fields)))}"


@router.tool(description="Asks the user, with each kind of choice.")
async def test_elicitation_sep1330_enums(ctx: RequestContext) -> str:
    plain = ["option1", "option2", "option3"]
    titled = [
        {"const": "value1", "title": "First"},
        {"const": "value2", "title": "Second"},
        {"const": "value3", "title": "Third"},
    ]
    fields = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return f"Elicitation completed: {told(await ctx.elicit('Which ones?', form(fields)))}"


# Resources.

RESOURCES = {
    "test://static-text": {"mimeType": "text/plain", "text": "The text of a static resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Nothing has changed."},
}
TEMPLATE = "test://template/{id}/data"


@router.request("resources/list")
async def list_resources(ctx: RequestContext) -> dict[str, Any]:
    return {
        "resources": [
            {"uri": uri, "name": uri.removeprefix("test://"), "mimeType": content["mimeType"]}
            for uri, content in RESOURCES.items()
        ]
    }


@router.request("resources/templates/list")
async def list_templates(ctx: RequestContext) -> dict[str, Any]:
    template = {"uriTemplate": TEMPLATE, "name": "template", "mimeType": "application/json"}
    return {"resourceTemplates": [template]}


@router.request("resources/read")
async def read_resource(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    uri = params.get("uri")
    content = RESOURCES.get(uri) if isinstance(uri, str) else None
    if content is None and (found := re.fullmatch(r"test://template/([^/]+)/data", str(uri))):
        data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
        content = {"mimeType": "application/json", "text": json.dumps(data)}
    if content is None:
        raise McpError(RESOURCE_NOT_FOUND, "Resource not found", {"uri": uri})
    return {"contents": [{"uri": uri, **content}]}


# Prompts.

PROMPTS: dict[str, tuple[str, list[str]]] = {
    "test_simple_prompt": ("A prompt.", []),
    "test_prompt_with_arguments": ("A prompt with its arguments.", ["arg1", "arg2"]),
    "test_prompt_with_embedded_resource": ("A prompt with a resource.", ["resourceUri"]),
    "test_prompt_with_image": ("A prompt with an image.", []),
}


@router.request("prompts/list")
async def list_prompts(ctx: RequestContext) -> dict[str, Any]:
    return {
        "prompts": [
            {
                "name": name,
                "description": description,
                "arguments": [{"name": argument, "required": True} for argument in arguments],
            }
            for name, (description, arguments) in PROMPTS.items()
        ]
    }


@router.request("prompts/get")
async def get_prompt(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    match params:
        case {"name": "test_simple_prompt"}:
            content = [text("This is a simple prompt for testing.")]
        case {
            "name": "test_prompt_with_arguments",
            "arguments": {"arg1": str(one), "arg2": str(two)},
        }:
            content = [text(f"Prompt with arguments: arg1='{one}', arg2='{two}'")]
        case {
            "name": "test_prompt_with_embedded_resource",
            "arguments": {"resourceUri": str(uri)},
        }:
            resource = embedded(uri, "text/plain", "Embedded resource content for testing.")
            content = [resource, text("Please process the embedded resource above.")]
        case {"name": "test_prompt_with_image"}:
            content = [image(), text("Please analyze the image above.")]
        case _:
            raise McpError(INVALID_PARAMS, "Unknown prompt, or its arguments are missing")
    return {"messages": [{"role": "user", "content": block} for block in content]}


@router.request("completion/complete")
async def complete(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    begun = params["argument"]["value"]
    values = [word for word in ("paris", "park", "party") if word.startswith(begun)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


async def drain_at_signal(
    manager: SessionManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        await anext(signals)
        await manager.drain()


async def main(options: argparse.Namespace) -> None:
    """Serve until a signal comes, and end by draining."""
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        await nursery.start(drain_at_signal, manager)
        serve = partial(
            serve_http,
            path=PATH,
            server=options.server,
            options=HttpOptions(answers=options.answers),
        )
        (address,) = await nursery.start(serve, manager, f"127.0.0.1:{options.port}")
        print(f"listening on {address.url}{PATH}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--answers", choices=["auto", "sse"], default="auto")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    trio.run(main, parser.parse_args())
