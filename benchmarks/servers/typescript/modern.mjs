// The echo server on version 2 of the official TypeScript SDK: its low-level server.

import { Server } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";

const echo = {
  name: "echo",
  description: "Return the text.",
  inputSchema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
};

serveStdio(() => {
  const server = new Server({ name: "echo", version: "1.0" }, { capabilities: { tools: {} } });
  server.setRequestHandler("tools/list", async () => ({ tools: [echo] }));
  server.setRequestHandler("tools/call", async ({ params }) => ({
    content: [{ type: "text", text: params.arguments.text }],
  }));
  return server;
});
