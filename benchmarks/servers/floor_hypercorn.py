"""The loop of `floor_http.py` on Hypercorn's Trio worker.

It shows the share of Hypercorn in a figure: no application on Hypercorn can be faster.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import trio
from floor_http import Floor
from hypercorn.config import Config
from hypercorn.trio import serve

floor = Floor()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while (message := await receive())["more_body"]:
        body += message["body"]
    session = dict(scope["headers"]).get(b"mcp-session-id")
    status, headers, answer = floor.respond(scope["method"].encode(), session, body)
    length = (b"content-length", b"%d" % len(answer))
    start = {"type": "http.response.start", "status": status, "headers": [*headers, length]}
    await send(start)
    await send({"type": "http.response.body", "body": answer})


async def main() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "ERROR"
    stop = trio.Event()

    async def until_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(aiter(signals))
            stop.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_signal)
        [url] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        print(f"listening on {url}/mcp", flush=True)


if __name__ == "__main__":
    trio.run(main)
