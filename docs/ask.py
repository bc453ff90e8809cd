"""The least that a client over HTTP can be. Clients of yours have an SDK for it."""

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any, NamedTuple

import trio

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "pages", "version": "1"},
}

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
}


def modern(params):
    """The parameters of a request of 2026-07-28, which stands for itself."""
    return {**params, "_meta": MODERN}


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def messages(self):
        """What was answered, as JSON or as a stream of events."""
        if self.headers["Content-Type"] == "application/json":
            return [json.loads(self.text)]
        lines = self.text.splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    @property
    def last_event_id(self):
        return [line[4:] for line in self.text.splitlines() if line.startswith("id: ")][-1]


async def ask(
    address,
    verb,
    method=None,
    params=None,
    *,
    path="/mcp",
    task_status=trio.TASK_STATUS_IGNORED,
    **headers,
):
    """Send one request, in a thread, and wait for the whole answer.

    Startable: it counts as started when the answer begins.
    """
    message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message |= {"id": 1, "params": params}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Content-Type"] = "application/json"

    def send():
        with closing(HTTPConnection(address.host, address.port)) as connection:
            connection.request(verb, path, json.dumps(message) if method else None, named)
            response = connection.getresponse()
            trio.from_thread.run_sync(task_status.started)
            return Answer(response.status, response.headers, response.read().decode())

    return await trio.to_thread.run_sync(send, abandon_on_cancel=True)


async def shake_hands(address, **headers):
    """Open a session, and return the headers of further requests."""
    answer = await ask(address, "POST", "initialize", HELLO, **headers)
    named = {**headers, "Mcp_Session_Id": answer.headers["Mcp-Session-Id"]}
    await ask(address, "POST", "notifications/initialized", **named)
    return named


async def call_and_answer(client, name, arguments, answer):
    """Call a tool as clients of 2026-07-28 do, which come back with answers until it is done."""
    call = {"name": name, "arguments": arguments}
    result = await client.request("tools/call", modern(call))
    while result["resultType"] == "input_required":
        asked = result.get("inputRequests", {})
        again = {**call, "inputResponses": {key: await answer(key, asked[key]) for key in asked}}
        if "requestState" in result:
            again["requestState"] = result["requestState"]
        result = await client.request("tools/call", modern(again))
    return result
