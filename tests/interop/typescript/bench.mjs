// How the client connects, what it is told, and how it leaves.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { openProxy } from './proxy.mjs';

const [name, server, , command, ...serverArguments] = process.argv.slice(2);
const [major, ownMode = 'legacy'] = name.replace('typescript ', '').split(', ');
const isHttp = server !== 'stdio';

export const sdk = await import(`./sdk${major}.mjs`);
export const isModern = ownMode !== 'legacy';

const LOG_LEVEL = 'io.modelcontextprotocol/logLevel';
const SUBSCRIPTION = 'io.modelcontextprotocol/subscriptionId';

// What the transport says of a client that goes on as it should.
const HARMLESS = [
  // The answer to a call that was cancelled: over HTTP there has to be one in a session.
  /^Received a response for an unknown message ID/,
  // Streams that were open when the client left.
  /AbortError|operation was aborted/,
];

const open = [];
const servers = [];

// A client, with a server process of its own unless it is `served` already. `handlers`: method ->
// answer. `user`: who it has a token of.
export async function connect({
  capabilities = {},
  handlers = {},
  mode = ownMode,
  options = [],
  served = undefined,
  sessionId = undefined,
  user = undefined,
} = {}) {
  const client = sdk.makeClient(mode, { name: 'typescript', version: '1.0' }, capabilities);
  const connection = { client, isModern: mode !== 'legacy' };
  Object.assign(connection, { logs: [], changed: [], faults: [], unasked: [], wire: [], listens: 0 });
  client.onerror = (error) => connection.faults.push(error);
  client.fallbackRequestHandler = async (request) => {
    connection.unasked.push(request.method);
    return {};
  };
  sdk.onNotification(client, 'notifications/message', (log) => connection.logs.push(log));
  const hear = (what, params) =>
    connection.changed.push({ what, to: params?._meta?.[SUBSCRIPTION] });
  for (const list of ['tools', 'resources']) {
    const method = `notifications/${list}/list_changed`;
    sdk.onNotification(client, method, (params) => hear(list, params));
  }
  const updated = 'notifications/resources/updated';
  sdk.onNotification(client, updated, (params) => hear(params.uri, params));
  for (const [method, handler] of Object.entries(handlers)) sdk.onRequest(client, method, handler);
  addCalls(connection);
  if (isHttp) await connectHttp(connection, served ?? (await serve(options)), sessionId, user);
  else await connectStdio(connection, options);
  open.push(connection);
  return connection;
}

function addCalls(connection) {
  const { client } = connection;
  const succeed = async (params, options) => {
    const result = await sdk.callTool(client, params, options);
    assert.ok(!result.isError, JSON.stringify(result));
    return result;
  };
  const textOf = ({ content: [{ text }, ...more] }) => {
    assert.equal(more.length, 0);
    return text;
  };
  Object.assign(connection, {
    call: async (name, args = {}, options = undefined) =>
      textOf(await succeed({ name, arguments: args }, options)),
    structured: async (name, args = {}) =>
      (await succeed({ name, arguments: args })).structuredContent,
    // What a call that fails says about that.
    error: async (name, args = {}) => {
      const result = await sdk.callTool(client, { name, arguments: args });
      assert.equal(result.isError, true, JSON.stringify(result));
      return textOf(result);
    },
    // Be sent the call's log messages from a level on.
    callLogged: async (level, name, args) => {
      if (connection.isModern)
        return textOf(await succeed({ name, arguments: args, _meta: { [LOG_LEVEL]: level } }));
      await client.setLoggingLevel(level);
      return connection.call(name, args);
    },
    tools: async () => {
      const tools = [];
      let cursor;
      do {
        const page = await client.listTools({ cursor });
        tools.push(...page.tools);
        cursor = page.nextCursor;
      } while (cursor !== undefined);
      return new Map(tools.map((tool) => [tool.name, tool]));
    },
    // Hear of changes, of the lists and of these resources, as the client's revision has it.
    hearing: async (...uris) => {
      if (connection.isModern) {
        const lists = { toolsListChanged: true, resourcesListChanged: true };
        return listen(connection, { ...lists, resourceSubscriptions: uris });
      }
      connection.changed.splice(0);
      for (const uri of uris) await client.subscribeResource({ uri });
      return {
        heard: () => connection.changed.map(({ what }) => what),
        stop: async () => {
          for (const uri of uris) await client.unsubscribeResource({ uri });
        },
      };
    },
  });
}

// Listen, as modern clients do.
export async function listen(connection, filter) {
  // The client does not tell which of its subscriptions this is: it counts them.
  const id = `listen:${connection.listens++}`;
  const { honoredFilter, closed, close } = await connection.client.listen(filter);
  return {
    honored: honoredFilter,
    closed,
    heard: () => connection.changed.filter(({ to }) => to === id).map(({ what }) => what),
    stop: close,
  };
}

async function connectStdio(connection, options) {
  const transport = new sdk.StdioClientTransport({
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

async function connectHttp(connection, served, sessionId, user) {
  const { wire } = connection;
  const transport = new sdk.StreamableHTTPClientTransport(served.proxy.url, {
    sessionId,
    requestInit: user && { headers: { authorization: `Bearer ${user}` } },
    fetch: async (url, init) => {
      const sent = new Headers(init.headers);
      const exchange = { method: init.method, sent, lastEventId: sent.get('last-event-id') };
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
  assert.ok(served.port, 'the server has ended');
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

// What the transport reports, so far and until it is closed, must be what was done to it.
export function expectFaults(connection, pattern) {
  for (const { message } of connection.faults.splice(0)) assert.match(message, pattern);
  connection.expected = pattern;
}

// Leave as this client leaves any server, which must then end by itself, or when it is told to.
export async function closeAll() {
  for (const connection of open.splice(0)) {
    await connection.client.close();
    if (!isHttp) assert.equal(await connection.exited, 0, 'exit status');
    const harmless = [...(isHttp ? HARMLESS : []), ...[connection.expected].filter(Boolean)];
    const isFault = ({ message }) => !harmless.some((text) => text.test(message));
    assert.deepEqual(connection.faults.filter(isFault), []);
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
