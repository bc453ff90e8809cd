// An old version of the official SDK whose stream of GET dies without the server's noticing.
//
//     node second_get.mjs URL

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ResourceUpdatedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { createInterface } from 'node:readline';

const tell = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), {
  // As by default, but sooner.
  reconnectionOptions: {
    initialReconnectionDelay: 100,
    maxReconnectionDelay: 30_000,
    reconnectionDelayGrowFactor: 1.5,
    maxRetries: 2,
  },
  fetch: async (url, init) => {
    const answer = await fetch(url, init);
    if (init?.method === 'GET') tell({ get: answer.status });
    return answer;
  },
});
const client = new Client({ name: 'old', version: '1' }, { capabilities: {} });
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
  tell({ heard: params.uri });
});
client.onerror = () => {};
await client.connect(transport);
const call = (name, args) => client.callTool({ name, arguments: args });

// Each line is the number of a notification that is to be sent.
for await (const line of createInterface({ input: process.stdin })) {
  await call('announce', { number: Number(line) });
  tell({ announced: Number(line) });
}
process.exit(0);
