"""Limits for each user: so many calls a minute, and a daily budget of an expensive tool.

The rate is a setting of the library, and refuses a call before the handler runs. The budget is
middleware of one tool, because only the server knows what a call costs.
"""

from __future__ import annotations

import collections
import datetime as dt

from trio_mcp_session import (
    CallNext,
    RateLimit,
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    ToolError,
    run_stdio,
)

# Ten calls at once after a pause, and then one every two seconds: for each user, or, where users
# are not known, for each address or connection.
CONFIG = SessionConfig(limits=SessionLimits(method_rates={"tools/call": RateLimit(0.5, burst=10)}))
BUDGET = 100

router = Router("translator", "1.0")
spent: collections.Counter[tuple[str, dt.date]] = collections.Counter()


async def within_budget(ctx: RequestContext, call_next: CallNext) -> object:
    """Count the characters of each user, and refuse what is above the budget of the day."""
    user = ctx.principal.subject if ctx.principal else "anonymous"
    today = dt.datetime.now(dt.UTC).date()
    cost = len(str(ctx.params.get("arguments", {}).get("text", "")))
    # Nothing runs between the check and the booking, so two calls cannot pass together.
    if spent[user, today] + cost > BUDGET:
        raise ToolError(f"Your budget of {BUDGET} characters is used up until tomorrow")
    spent[user, today] += cost
    for key in [key for key in spent if key[1] != today]:
        del spent[key]
    return await call_next()


@router.tool(middleware=[within_budget])
async def translate(text: str) -> str:
    """Translate a text into capital letters."""
    return text.upper()


if __name__ == "__main__":
    run_stdio(router, config=CONFIG)
