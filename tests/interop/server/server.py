"""What real clients are run against: one tool for each thing they must be able to do.

All of them are served by this, whatever revision they speak; its handlers know nothing of that.
Those that have to be caught in the middle are steered by other calls (`give_turn`, `wait_started`,
`outcome`), never by sleeping, so that no check depends on the machine's speed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import trio

from trio_mcp_session import (
    Elicitation,
    ElicitResult,
    HandleKind,
    InputRequired,
    McpError,
    RequestContext,
    Roots,
    Router,
    Sampling,
    ToolError,
)

router = Router(
    name="interop",
    version="1.0",
    title="Interoperability server",
    instructions="Call anything.",
    resource_subscriptions=True,
    page_size=10,
)

NAME: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}

Region = Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})]

# Each check has a server of its own, so what the handlers share may live in the module.
turns: defaultdict[str, trio.Event] = defaultdict(trio.Event)
started: defaultdict[str, trio.Event] = defaultdict(trio.Event)
ended: defaultdict[str, trio.Event] = defaultdict(trio.Event)
outcomes: dict[str, str] = {}


@contextmanager
def outcome_noted(key: str) -> Iterator[None]:
    outcomes[key] = "crashed"
    try:
        yield
        outcomes[key] = "completed"
    except trio.Cancelled:
        outcomes[key] = "cancelled"
        raise
    finally:
        ended[key].set()


def said_by_user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": {"type": "text", "text": text}}


@router.tool(description="Return the text as it came.")
async def echo(text: str) -> str:
    return text


@router.tool()
async def add(a: int, b: int = 0) -> dict[str, Any]:
    return {"sum": a + b}


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ToolError("this tool always fails")


@router.tool()
async def crash(ctx: RequestContext) -> str:
    raise RuntimeError("a detail that is nobody's business")


@router.tool()
async def fail_late(ctx: RequestContext) -> str:
    await ctx.progress(1)
    raise McpError(1, "too late")


@router.tool()
async def stray_print(ctx: RequestContext) -> str:
    print("this line is not for the client", flush=True)
    return "printed"


@router.tool(description="Report the steps, then wait for the turn before returning.")
async def progress(ctx: RequestContext, steps: int, turn: str) -> str:
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, f"step {step}")
    await turns[turn].wait()
    return "done"


@router.tool()
async def wait_turn(ctx: RequestContext, turn: str) -> str:
    await turns[turn].wait()
    return turn


@router.tool()
async def give_turn(ctx: RequestContext, turn: str) -> str:
    turns[turn].set()
    return turn


@router.tool(description="Run until cancelled, and keep note of how it ended.")
async def hang(ctx: RequestContext, key: str) -> None:
    await ctx.progress(1)
    started[key].set()
    with outcome_noted(key):
        await trio.sleep_forever()


@router.tool(description="Wait until the hanging call runs.")
async def wait_started(ctx: RequestContext, key: str) -> str:
    await started[key].wait()
    return key


@router.tool(description="Wait until something is over, and tell how that came, where it is known.")
async def outcome(ctx: RequestContext, key: str) -> str:
    await ended[key].wait()
    return outcomes.get(key, key)


@router.tool(description="Report progress in parts; each but the first waits for its turn.")
async def count(ctx: RequestContext, parts: int, size: int) -> str:
    number = 0
    for part in range(parts):
        if part:
            await turns[f"part {part}"].wait()
        for _ in range(size):
            number += 1
            await ctx.progress(number, parts * size, f"step {number}")
        ended[f"part {part}"].set()
    await turns["answer"].wait()
    ended["answer"].set()
    return f"counted to {number}"


@router.tool(description="Let the client go, and have the answer when it is back.")
async def poll(ctx: RequestContext) -> str:
    await ctx.progress(1)
    closed = ctx.close_stream(retry=0.05)
    await ctx.progress(2)
    await turns["answer"].wait()
    await ctx.progress(3)
    return "let go" if closed else "held"


@router.tool()
async def route(ctx: RequestContext, region: Region) -> str:
    return region


@router.tool(description="Tell this session of numbered changes, which do not belong to this call.")
async def announce(ctx: RequestContext, first: int, last: int) -> str:
    for number in range(first, last + 1):
        await ctx.session.notify("notifications/resources/updated", {"uri": f"memo://{number}"})
    return str(last)


@router.tool(description="Messages of this session that have come in so far, this call included.")
async def received(ctx: RequestContext) -> str:
    return str(ctx.session.metrics.messages_received)


@router.tool()
async def log(ctx: RequestContext, text: str) -> str:
    await ctx.log("debug", text, "interop")
    await ctx.log("info", text, "interop")
    await ctx.log("warning", {"text": text}, "interop")
    await ctx.log("error", [text], "interop")
    return "logged"


@router.tool()
async def sample(ctx: RequestContext, prompt: str) -> str:
    reply = await ctx.sample([said_by_user(prompt)], max_tokens=50)
    return f"{reply['model']}: {reply['content']['text']}"


@router.tool()
async def elicit(ctx: RequestContext, question: str) -> dict[str, Any]:
    answer = await ctx.elicit(question, NAME)
    return {"action": answer.action, "answer": answer.content}


@router.tool()
async def roots(ctx: RequestContext) -> dict[str, Any]:
    return {"uris": [root["uri"] for root in await ctx.list_roots()]}


@router.tool(description="Ask three things at once.")
async def interview(ctx: RequestContext) -> dict[str, Any]:
    name, reply, folders = await ctx.ask_all(
        Elicitation("Who?", NAME, key="name"),
        Sampling([said_by_user("hello")], max_tokens=50),
        Roots(),
    )
    return {
        "name": name.content,
        "reply": reply["content"]["text"],
        "uris": [root["uri"] for root in folders],
    }


async def name_asked(ctx: RequestContext, question: str) -> str:
    return name_in(await ctx.elicit(question, NAME))


def name_in(answer: ElicitResult[Mapping[str, Any]]) -> str:
    assert answer.content is not None
    return str(answer.content["name"])


@router.tool(description="Ask, and ask again, with the answer.")
async def talk(ctx: RequestContext) -> str:
    first = await name_asked(ctx, "Who?")
    second = await name_asked(ctx, f"And besides {first}?")
    return f"{first} and {second}"


@router.tool(description="The same, as steps that any process could make: nothing waits in this.")
async def talk_in_steps(ctx: RequestContext) -> str | InputRequired:
    known = ctx.request_state
    if known is None:
        question = Elicitation("Who?", NAME, key="first")
        if (answer := ctx.answer_to(question)) is None:
            return InputRequired(question)
        known = {"first": name_in(answer)}
    question = Elicitation(f"And besides {known['first']}?", NAME, key="second")
    if (answer := ctx.answer_to(question)) is None:
        return InputRequired(question, state=known)
    return f"{known['first']} and {name_in(answer)}"


@router.tool(description="Ask, and keep note of how the waiting for it ended.")
async def wait_answer(ctx: RequestContext, key: str) -> dict[str, Any]:
    with outcome_noted(key):
        return {"answer": {"name": await name_asked(ctx, "Who?")}}


async def newcomer(ctx: RequestContext) -> str:
    return "here I am"


@router.tool()
async def add_tool(ctx: RequestContext) -> str:
    router.tool("newcomer")(newcomer)
    ctx.notify_list_changed("tools")
    return "added"


@router.tool(description="Tell whoever wants to know that a resource has changed, or their list.")
async def change(ctx: RequestContext, uri: str = "") -> str:
    if uri:
        ctx.notify_resource_updated(uri)
    else:
        ctx.notify_list_changed("resources")
    return uri


@dataclass
class Notes:
    title: str
    lines: list[str] = field(default_factory=list)


@asynccontextmanager
async def take_notes(title: str) -> AsyncIterator[Notes]:
    try:
        yield Notes(title)
    finally:
        ended[title].set()


NOTES = HandleKind[Notes]("notes", take_notes)
BRIEF_NOTES = HandleKind[Notes]("brief", take_notes, idle_timeout=0.2)


def kind_of(notes_id: str) -> HandleKind[Notes]:
    return BRIEF_NOTES if notes_id.startswith("brief_") else NOTES


@router.tool(description=f"Open a notebook. {NOTES.expiry} A brief one: {BRIEF_NOTES.expiry}")
async def open_notes(ctx: RequestContext, title: str, brief: bool = False) -> dict[str, Any]:
    return {"notes_id": await ctx.open_handle(BRIEF_NOTES if brief else NOTES, title)}


@router.tool()
async def note(ctx: RequestContext, notes_id: str, line: str) -> dict[str, Any]:
    async with ctx.use_handle(kind_of(notes_id), notes_id) as notes:
        notes.lines.append(line)
        return {"title": notes.title, "lines": notes.lines}


@router.tool(description="Hold the notebook until the turn is given.")
async def hold_notes(ctx: RequestContext, notes_id: str, turn: str) -> str:
    async with ctx.use_handle(kind_of(notes_id), notes_id):
        started[turn].set()
        await turns[turn].wait()
        return turn


@router.tool()
async def list_notes(ctx: RequestContext) -> dict[str, Any]:
    return {"titles": {one.handle_id: one.value.title for one in ctx.list_handles(NOTES)}}


@router.tool()
async def close_notes(ctx: RequestContext, notes_id: str) -> dict[str, Any]:
    return {"closed": await ctx.close_handle(kind_of(notes_id), notes_id)}


@router.resource("memo://one", name="one", mime_type="text/plain")
async def first_memo() -> str:
    return "the first memo"


@router.resource("memo://{name}", mime_type="text/plain")
async def memo(ctx: RequestContext, name: str) -> str:
    if name != "yours":
        raise McpError(-32002, "Resource not found", {"uri": f"memo://{name}"})
    return f"a memo to {await name_asked(ctx, 'Whose memo?')}"
