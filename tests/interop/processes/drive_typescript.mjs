// The official TypeScript client under random load, as drive_python.py:
//     node drive_typescript.mjs URL ERA SECONDS SEED

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, era, seconds, seed] = process.argv.slice(2);
const PREFIX = 'io.modelcontextprotocol/';
const MODERN = '2026-07-28';
const ABLE = { elicitation: {}, extensions: { [`${PREFIX}tasks`]: {} } };
const now = () => Date.now() / 1000;
const END = now() + Number(seconds);

// The same load each time.
let state = Number(seed) + 1;
function random() {
  state = (state * 48271) % 2147483647;
  return state / 2147483647;
}
const between = (low, high) => low + Math.floor(random() * (high - low + 1));
const pause = () => sleep(20 + random() * 280);

async function until(condition) {
  const end = now() + 10;
  while (!condition()) {
    if (now() > end) throw new Error('nothing came');
    await sleep(10);
  }
}

async function use(kind, work) {
  const it = { kind, name: null, began: now(), uses: 0, pid: undefined };
  it.same = (result) => {
    if (result.isError) throw new Error(result.content[0].text);
    const found = result.structuredContent;
    const text = `another process: ${JSON.stringify(found)} after ${it.pid}`;
    assert.ok(it.pid === undefined || it.pid === found.pid, text);
    it.pid = found.pid;
    it.uses += 1;
    return found;
  };
  let error = null;
  try {
    await work(it);
  } catch (caught) {
    error = `${caught.name}: ${caught.message} ${caught.cause ?? ''}`.slice(0, 300);
  }
  const { name, began, uses } = it;
  console.log(JSON.stringify({ kind, name, began, ended: now(), uses, error }));
  return error === null;
}

async function connect() {
  const versionNegotiation = { mode: era === 'legacy' ? 'legacy' : { pin: MODERN } };
  const info = { name: 'typescript', version: '1.0' };
  const client = new Client(info, { capabilities: { elicitation: {} }, versionNegotiation });
  client.onerror = () => {};
  const heard = [];
  client.setRequestHandler('elicitation/create', async ({ params }) => {
    await pause();
    return { action: 'accept', content: { name: params.message } };
  });
  client.setNotificationHandler('notifications/resources/updated', ({ params }) =>
    heard.push(params.uri),
  );
  const transport = new StreamableHTTPClientTransport(new URL(url));
  await client.connect(transport);
  // It repeats arguments in headers for tools that it has listed.
  await client.listTools();
  const call = (name, args = {}) =>
    client.callTool({ name, arguments: args }, { timeout: 30_000 });
  return { client, transport, call, heard };
}

const session = ({ client, transport, call, heard }) =>
  use('session', async (it) => {
    it.name = transport.sessionId;
    await client.subscribeResource({ uri: 'memo://one' });
    const count = between(5, 40);
    for (let number = 1; number < count && now() < END; number += 1) {
      const what = between(0, 5);
      if (what === 0) {
        heard.splice(0);
        it.same(await call('change'));
        await until(() => heard.length > 0);
      } else if (what === 1) {
        it.same(await call('steps'));
      } else if (what === 2) {
        assert.deepEqual(it.same(await call('ask')).names, ['Who?', 'And?']);
      }
      assert.equal(it.same(await call('count')).count, number);
      await pause();
    }
  });

const cart = ({ call }) =>
  use('handle', async (it) => {
    it.name = it.same(await call('open_it')).cart;
    const count = between(5, 40);
    for (let number = 1; number < count && now() < END; number += 1) {
      assert.equal(it.same(await call('add', { cart: it.name })).count, number);
      await pause();
    }
  });

const question = ({ call }) =>
  use('question', async (it) => {
    assert.deepEqual(it.same(await call('ask')).names, ['Who?', 'And?']);
  });

const plain = ({ call }) =>
  use('plain', async (it) => {
    it.same(await call('echo', { text: 'x' }));
  });

// Requests of the tasks extension, which this client does not have.
function post(method, params, name, signal) {
  const meta = {
    [`${PREFIX}protocolVersion`]: MODERN,
    [`${PREFIX}clientCapabilities`]: ABLE,
    [`${PREFIX}clientInfo`]: { name: 'raw', version: '1' },
  };
  const message = { jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: meta } };
  const headers = {
    Accept: 'application/json, text/event-stream',
    'Content-Type': 'application/json',
    'MCP-Protocol-Version': MODERN,
    'Mcp-Method': method,
    ...(name === undefined ? {} : { 'Mcp-Name': name }),
  };
  return fetch(url, { method: 'POST', headers, body: JSON.stringify(message), signal });
}

async function raw(method, params, name) {
  const answer = await (await post(method, params, name)).json();
  if (answer.error) throw new Error(answer.error.message);
  return answer.result;
}

async function listen(taskId, heard, signal) {
  const params = { notifications: { taskIds: [taskId] } };
  const response = await post('subscriptions/listen', params, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (text + value).split('\n');
    text = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data:') && line.includes('tasks'))
        heard.push(JSON.parse(line.slice(5)).params?.status);
    }
  }
}

const task = () =>
  use('task', async (it) => {
    let result = await raw('tools/call', { name: 'work', arguments: {} }, 'work');
    const { taskId } = result;
    it.name = taskId;
    const heard = [];
    const stop = new AbortController();
    const listening = listen(taskId, heard, stop.signal).catch(() => {});
    try {
      while (result.status === 'working') {
        await pause();
        result = await raw('tasks/get', { taskId }, taskId);
        it.uses += 1;
      }
      assert.equal(result.status, 'completed');
      await until(() => heard.includes('completed'));
    } finally {
      stop.abort();
      await listening;
    }
  });

async function oneClient() {
  const connection = await connect();
  try {
    if (era === 'legacy') {
      if (await session(connection)) await connection.transport.terminateSession();
      return;
    }
    while (now() < END) {
      const kinds = [cart, question, plain, task];
      await kinds[between(0, 3)](connection);
      await pause();
    }
  } finally {
    await connection.client.close().catch(() => {});
  }
}

async function keepGoing() {
  while (now() < END) {
    const began = now();
    try {
      await oneClient();
    } catch (error) {
      const text = `${error.name}: ${error.message}`.slice(0, 300);
      const line = { kind: 'client', name: null, began, ended: now(), uses: 0, error: text };
      console.log(JSON.stringify(line));
      await pause();
    }
  }
}

process.on('unhandledRejection', (error) => console.error(error));
await Promise.all([1, 2, 3, 4].map(keepGoing));
process.exit(0);
