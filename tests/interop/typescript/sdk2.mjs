// The client of the official SDK since it was split (`@modelcontextprotocol/client`).

import { Client, SdkErrorCode } from '@modelcontextprotocol/client';

export { StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
export { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const ANY = { '~standard': { version: 1, vendor: 'interop', validate: (value) => ({ value }) } };

// What errors have for `code`: the client's own, and those that it makes something else of.
export const TIMEOUT = SdkErrorCode.RequestTimeout;
export const UNKNOWN_RESOURCE = -32602;

export function makeClient(mode, info, capabilities) {
  const pinned = { pin: mode };
  const versionNegotiation = { mode: ['legacy', 'auto'].includes(mode) ? mode : pinned };
  return new Client(info, { capabilities, versionNegotiation });
}

export function onRequest(client, method, handler) {
  client.setRequestHandler(method, ({ params }, { mcpReq: { signal } }) => handler(params, signal));
}

export function onNotification(client, method, handler) {
  client.setNotificationHandler(method, ({ params }) => handler(params));
}

export const callTool = (client, params, options) => client.callTool(params, options);

export const requestAny = (client, request) => client.request(request, ANY);

// The status of an answer that was an error of HTTP.
export const statusOf = ({ status }) => status;
