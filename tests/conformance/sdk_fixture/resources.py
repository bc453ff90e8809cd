"""Resources."""

from __future__ import annotations

import json

from .answering import PNG
from .app import app


@app.resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    return "The text of a static resource."


@app.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return PNG


@app.resource("test://watched-resource", mime_type="text/plain")
async def watched_resource() -> str:
    return "Nothing has changed."


@app.resource("test://template/{id}/data", mime_type="application/json")
async def template(id: str) -> str:  # noqa: A002  # the suite's name for it
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})
