"""Tools that ask by returning their questions: they are called again with the answers."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context

from .app import NAME, app, asks_model, asks_user, form, said, told

COLOR = form({"color": {"type": "string"}}, required=True)
CONFIRMATION = form({"ok": {"type": "boolean"}}, required=True)


def asking(state: str | None = None, **questions: Any) -> types.InputRequiredResult:
    """Return the result that asks these questions, by key."""
    return types.InputRequiredResult(input_requests=questions, request_state=state)


def answer_to(ctx: Context, key: str, kind: type[Any]) -> Any:
    """Return the answer to a question; None if it has none that fits."""
    found = (ctx.input_responses or {}).get(key)
    return found if isinstance(found, kind) else None


@app.tool(description="Asks the user for a name.")
async def test_input_required_result_elicitation(ctx: Context) -> Any:
    answer = answer_to(ctx, "user_name", types.ElicitResult)
    if answer is None:
        return asking(user_name=asks_user("What is your name?", NAME))
    return f"Hello, {(answer.content or {}).get('name')}!"


@app.tool(description="Asks the client's model for a capital.")
async def test_input_required_result_sampling(ctx: Context) -> Any:
    reply = answer_to(ctx, "capital_question", types.CreateMessageResult)
    if reply is None:
        return asking(capital_question=asks_model("What is the capital of France?", 100))
    return said(reply)


@app.tool(description="Asks for the folders that the client works in.")
async def test_input_required_result_list_roots(ctx: Context) -> Any:
    found = answer_to(ctx, "client_roots", types.ListRootsResult)
    if found is None:
        return asking(client_roots=types.ListRootsRequest())
    return f"Roots: {', '.join(str(root.uri) for root in found.roots)}"


@app.tool(description="Asks the user, the client's model and the client at the same time.")
async def test_input_required_result_multiple_inputs(ctx: Context) -> Any:
    name = answer_to(ctx, "user_name", types.ElicitResult)
    greeting = answer_to(ctx, "greeting", types.CreateMessageResult)
    roots = answer_to(ctx, "client_roots", types.ListRootsResult)
    if name is None or greeting is None or roots is None:
        return asking(
            "asked",
            user_name=asks_user("What is your name?", NAME),
            greeting=asks_model("Generate a greeting", 50),
            client_roots=types.ListRootsRequest(),
        )
    return f"{told(name)}, {said(greeting)}, {len(roots.roots)} roots"


@app.tool(description="Asks the user one thing after the other.")
async def test_input_required_result_multi_round(ctx: Context) -> Any:
    known = json.loads(ctx.request_state or "{}")
    name = answer_to(ctx, "step1", types.ElicitResult)
    color = answer_to(ctx, "step2", types.ElicitResult)
    if "name" in known and color is not None:
        return f"First {known['name']}, then {told(color)}"
    if name is not None:
        state = json.dumps({"name": told(name)})
        return asking(state, step2=asks_user("Step 2: What is your favorite color?", COLOR))
    return asking(json.dumps({"step": 1}), step1=asks_user("Step 1: What is your name?", NAME))


@app.tool(description="Asks the user to confirm, and does not believe what comes back changed.")
async def test_input_required_result_tampered_state(ctx: Context) -> Any:
    if ctx.request_state is None:
        return asking("round 1", confirm=asks_user("Please confirm", CONFIRMATION))
    return f"state-ok: {ctx.request_state}"


@app.tool(description="Asks the user to confirm, and can be called elsewhere with the answer.")
async def test_input_required_result_request_state(ctx: Context) -> Any:
    answer = answer_to(ctx, "confirm", types.ElicitResult)
    if answer is None or ctx.request_state != "step 1":
        return asking("step 1", confirm=asks_user("Please confirm", CONFIRMATION))
    return f"state-ok: {told(answer)}"


@app.tool(description="Asks the user, or else the client's model.")
async def test_input_required_result_capabilities(ctx: Context) -> Any:
    capabilities = ctx.client_capabilities
    if capabilities is not None and capabilities.elicitation is not None:
        return asking("asked", ask=asks_user("What is your name?", NAME))
    return asking("asked", sample=asks_model("Make a name up", 50))
