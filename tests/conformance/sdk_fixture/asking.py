"""Tools that ask their client and wait, as clients up to 2025-11-25 know it."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context

from .app import app, form, said, told


async def sample(ctx: Context, words: str, max_tokens: int) -> str:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=words))
    return said(await ctx.session.create_message([message], max_tokens=max_tokens))


async def ask_user(ctx: Context, message: str, schema: dict[str, Any]) -> str:
    return told(await ctx.session.elicit_form(message, schema, ctx.request_id))


@app.tool(description="Asks the client's model.")
async def test_sampling(ctx: Context, prompt: str) -> str:
    return await sample(ctx, prompt, 100)


@app.tool(description="Asks the client's model, whatever the client can do.")
async def test_missing_capability(ctx: Context) -> str:
    return await sample(ctx, "Say hello", 50)


@app.tool(description="Asks the user.")
async def test_elicitation(ctx: Context, message: str) -> str:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {await ask_user(ctx, message, form(fields, required=True))}"


@app.tool(description="Reports progress before and after it asks the user.")
async def test_streaming_elicitation(ctx: Context) -> str:
    await ctx.report_progress(0, 2, "about to ask")
    answer = await ask_user(ctx, "Shall it go on?", form({"ok": {"type": "boolean"}}))
    await ctx.report_progress(1, 2, "answered")
    return answer


@app.tool(description="Asks the user, with a default for each type.")
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
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
    return f"Elicitation completed: {await ask_user(ctx, 'Who are you?', form(fields))}"


@app.tool(description="Asks the user, with each kind of choice.")
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
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
    return f"Elicitation completed: {await ask_user(ctx, 'Which ones?', form(fields))}"
