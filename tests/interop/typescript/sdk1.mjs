// The client of the official SDK before it was split (`@modelcontextprotocol/sdk`).

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  EmptyResultSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  PingRequestSchema,
  ProgressNotificationSchema,
  ResourceListChangedNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

export { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
export { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const SCHEMAS = {
  'elicitation/create': ElicitRequestSchema,
  'notifications/message': LoggingMessageNotificationSchema,
  'notifications/progress': ProgressNotificationSchema,
  'notifications/resources/list_changed': ResourceListChangedNotificationSchema,
  'notifications/resources/updated': ResourceUpdatedNotificationSchema,
  'notifications/tools/list_changed': ToolListChangedNotificationSchema,
  ping: PingRequestSchema,
  'roots/list': ListRootsRequestSchema,
  'sampling/createMessage': CreateMessageRequestSchema,
};

// What errors have for `code`: the client's own, and those that it makes something else of.
export const TIMEOUT = -32001;
export const UNKNOWN_RESOURCE = -32002;

export const makeClient = (mode, info, capabilities) => new Client(info, { capabilities });

export function onRequest(client, method, handler) {
  client.setRequestHandler(SCHEMAS[method], ({ params }, { signal }) => handler(params, signal));
}

export function onNotification(client, method, handler) {
  client.setNotificationHandler(SCHEMAS[method], ({ params }) => handler(params));
}

export const callTool = (client, params, options) => client.callTool(params, undefined, options);

export const requestAny = (client, request) => client.request(request, EmptyResultSchema);

// The status of an answer that was an error of HTTP.
export const statusOf = ({ code }) => code;
