"""One JSON object for each log record, with the session, the request and the user that it is of.

Records of your own code have them, too: the library knows in which request a record is made.
"""

from __future__ import annotations

import logging

from trio_mcp_session import RequestContext, Router, run_stdio

log = logging.getLogger("shop")
router = Router("shop", "1.0")


@router.tool()
async def order(ctx: RequestContext, product: str) -> str:
    """Order a product."""
    log.info("ordered %s", product)
    return f"{product} is on its way"


if __name__ == "__main__":
    run_stdio(router, log_format="json", log_level="info")
