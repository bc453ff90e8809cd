// The echo server on version 1 of the official TypeScript SDK: its low-level server.

import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { CallToolRequestSchema, ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const echo = {
  name: "echo",
  description: "Return the text.",
  inputSchema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
};

const server = new Server({ name: "echo", version: "1.0" }, { capabilities: { tools: {} } });

server.setRequestHandler(ListToolsRequestSchema, async () => ({ tools: [echo] }));
server.setRequestHandler(CallToolRequestSchema, async ({ params }) => ({
  content: [{ type: "text", text: params.arguments.text }],
}));

await server.connect(new StdioServerTransport());
