// How the client connects, what it is told, and how it leaves.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { openProxy } from './proxy.mjs';

const [server, command, ...serverArguments] = process.argv.slice(2);
const isHttp = server !== 'stdio';

// What the transport says of a client that goes on as it should.
const HARMLESS = [
  // The answer to a call that was cancelled: over HTTP there has to be one.
  /^Received a response for an unknown message ID/,
  // Streams that were open when the client left.
  /AbortError/,
];

const open = [];
const servers = [];

// A client, with a server process of its own unless it is `served` already. `handlers`: request
// schema -> answer.
export async function connect({
  capabilities = {},
  handlers = [],
  options = [],
  served = undefined,
  sessionId = undefined,
} = {}) {
  const client = new Client({ name: 'typescript', version: '1.0' }, { capabilities });
  const connection = { client, logs: [], changed: [], changes: 0, faults: [], unasked: [], wire: [] };
  client.onerror = (error) => connection.faults.push(error);
  client.fallbackRequestHandler = async (request) => {
    connection.unasked.push(request.method);
    return {};
  };
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
    connection.logs.push(params);
  });
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
    connection.changed.push(Number(params.uri.replace('memo://', '')));
  });
  client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
    connection.changes += 1;
  });
  for (const [schema, handler] of handlers) client.setRequestHandler(schema, handler);
  connection.call = async (name, args = {}, options = undefined) => {
    const result = await client.callTool({ name, arguments: args }, undefined, options);
    assert.ok(!result.isError, JSON.stringify(result));
    return result.content[0].text;
  };
  if (isHttp) await connectHttp(connection, served ?? (await serve(options)), sessionId);
  else await connectStdio(connection, options);
  open.push(connection);
  return connection;
}

async function connectStdio(connection, options) {
  const transport = new StdioClientTransport({
    command,
    args: [...serverArguments, ...options],
    env: process.env,
    stderr: 'inherit',
  });
  await connection.client.connect(transport);
  // The transport does not tell how its process ends, and the exit status is wanted.
  connection.process = transport._process;
  connection.exited = exit(connection.process);
}

async function connectHttp(connection, served, sessionId) {
  const { wire } = connection;
  const transport = new StreamableHTTPClientTransport(served.proxy.url, {
    sessionId,
    fetch: async (url, init) => {
      const exchange = {
        method: init.method,
        lastEventId: new Headers(init.headers).get('last-event-id'),
      };
      wire.push(exchange);
      const response = await fetch(url, init);
      exchange.status = response.status;
      return response;
    },
  });
  connection.served = served;
  connection.transport = transport;
  connection.comebacks = () => wire.filter(({ lastEventId }) => lastEventId);
  await connection.client.connect(transport);
}

function exit(child) {
  return new Promise((resolve) => {
    child.once('exit', (status, signal) => resolve(signal ?? status));
  });
}

// A server that listens, behind a proxy that loses what it is told to.
export async function serve(options = [], proxy = undefined) {
  const args = [...serverArguments, '--http', server, ...options];
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const served = { process: child, exited: exit(child) };
  servers.push(served);
  for await (const line of createInterface({ input: child.stdout })) {
    served.port = Number(new URL(line).port);
    break;
  }
  served.proxy = proxy ?? (await openProxy(served.port));
  served.proxy.serverPort = served.port;
  return served;
}

// A request of a client's session, past the client and the proxy; its status.
export async function request({ served, transport }, sessionId, method, message = undefined) {
  const response = await fetch(`http://127.0.0.1:${served.port}/mcp`, {
    method,
    headers: {
      accept: 'application/json, text/event-stream',
      'content-type': 'application/json',
      'mcp-session-id': sessionId,
      'mcp-protocol-version': transport.protocolVersion,
    },
    body: message && JSON.stringify(message),
  });
  await response.body?.cancel();
  return response.status;
}

// Leave as this client leaves any server, which must then end by itself, or when it is told to.
export async function closeAll() {
  for (const connection of open.splice(0)) {
    await connection.client.close();
    if (!isHttp) assert.equal(await connection.exited, 0, 'exit status');
    const harmless = ({ message }) => isHttp && HARMLESS.some((text) => text.test(message));
    assert.deepEqual(connection.faults.filter((fault) => !harmless(fault)), []);
    assert.deepEqual(connection.unasked, []);
  }
  for (const { process: child, exited, proxy, killed } of servers.splice(0)) {
    child.kill('SIGTERM');
    assert.equal(await exited, killed ? 'SIGKILL' : 0, 'exit status');
    proxy.close();
  }
}

// Leave somehow.
export async function abandonAll() {
  await Promise.allSettled(open.splice(0).map(({ client }) => client.close()));
  for (const { process: child, proxy } of servers.splice(0)) {
    child.kill('SIGKILL');
    proxy?.close();
  }
}

export async function until(condition) {
  while (!condition()) await sleep(5);
}
