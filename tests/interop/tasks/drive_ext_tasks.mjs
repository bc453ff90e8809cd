// The official client of the tasks extension, on top of the official client:
//     node drive_ext_tasks.mjs WHERE CHECK ...
// WHERE is {"url": ...} or {"command": [...]} as JSON. It writes a line of JSON for each check.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import {
  createApplicationInputHandler,
  createTaskSessionFromClient,
} from '@modelcontextprotocol/ext-tasks/client';

const HANG_GUARD = 30_000;
const MODERN = '2026-07-28';
const PREFIX = 'io.modelcontextprotocol/';
const TASKS = `${PREFIX}tasks`;
const INFO = { name: 'ext-tasks', version: '1.0' };
const CAPABILITIES = { elicitation: { form: {} }, sampling: {}, roots: {} };
const ABLE = { ...CAPABILITIES, extensions: { [TASKS]: {} } };
const LISTENING = 'listen';
const NAMED_BY = { 'tools/call': 'name' };

const [where, ...wanted] = process.argv.slice(2);
const { url, command } = JSON.parse(where);

const envelope = (capabilities) => ({
  [`${PREFIX}protocolVersion`]: MODERN,
  [`${PREFIX}clientInfo`]: INFO,
  [`${PREFIX}clientCapabilities`]: capabilities,
});

// The requests that the client's own wire format refuses: over HTTP beside it, on pipes through its
// transport.
class Wire {
  #number = 0;
  #waiting = new Map();
  #heard = [];
  #streams = [];

  constructor(transport) {
    this.transport = transport;
  }

  // Takes what belongs to it from the messages that the client gets.
  watch() {
    if (url) return;
    const { onmessage } = this.transport;
    this.transport.onmessage = (message, ...more) => {
      const subscription = message.params?._meta?.[`${PREFIX}subscriptionId`];
      if (this.#waiting.has(message.id)) {
        this.#waiting.get(message.id)(message);
        this.#waiting.delete(message.id);
      } else if (subscription === LISTENING) this.#heard.push(message);
      else onmessage(message, ...more);
    };
  }

  async dispatch({ method, params }, { signal } = {}) {
    const message = { jsonrpc: '2.0', id: `raw ${(this.#number += 1)}`, method, params };
    const answer = url ? await this.#post(message, signal) : await this.#write(message);
    assert.equal(answer.id, message.id);
    return answer.error
      ? { kind: 'error', error: answer.error }
      : { kind: 'result', result: answer.result };
  }

  ask(method, params, capabilities = ABLE) {
    return this.dispatch({ method, params: { ...params, _meta: envelope(capabilities) } });
  }

  // Subscribes to tasks; returns a function that waits for so many messages.
  async listen(taskIds) {
    const params = { notifications: { taskIds }, _meta: envelope(ABLE) };
    const message = { jsonrpc: '2.0', id: LISTENING, method: 'subscriptions/listen', params };
    if (url) {
      const response = await this.#fetch(message);
      this.#read(response, (one) => this.#heard.push(one));
    } else await this.transport.send(message);
    return async (condition) => {
      while (!condition(this.#heard)) await sleep(10);
      return this.#heard;
    };
  }

  async close() {
    for (const reader of this.#streams) await reader.cancel().catch(() => {});
  }

  #fetch(message, signal) {
    const { method, params } = message;
    const name = params[NAMED_BY[method] ?? 'taskId'];
    const headers = {
      Accept: 'application/json, text/event-stream',
      'Content-Type': 'application/json',
      'MCP-Protocol-Version': MODERN,
      'Mcp-Method': method,
      ...(name === undefined ? {} : { 'Mcp-Name': name }),
    };
    return fetch(url, { method: 'POST', headers, body: JSON.stringify(message), signal });
  }

  async #post(message, signal) {
    const response = await this.#fetch(message, signal);
    if (response.headers.get('content-type') === 'application/json') return response.json();
    let answer;
    await this.#read(response, (one) => {
      if (one.id === message.id) answer = one;
    });
    return answer;
  }

  async #read(response, take) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    this.#streams.push(reader);
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split('\n\n');
      text = events.pop();
      for (const event of events) {
        const data = event.split('\n').find((line) => line.startsWith('data: '));
        if (data) take(JSON.parse(data.slice('data: '.length)));
      }
    }
  }

  #write(message) {
    return new Promise((resolve) => {
      this.#waiting.set(message.id, resolve);
      this.transport.send(message);
    });
  }
}

const answers = createApplicationInputHandler({
  elicitation: () => ({ action: 'accept', content: { name: 'Ada' } }),
  sampling: () => ({
    model: 'none',
    role: 'assistant',
    content: { type: 'text', text: 'Paris' },
  }),
  roots: () => ({ roots: [{ uri: 'file:///home' }] }),
});

async function connected(check, { able = true } = {}) {
  const transport = url
    ? new StreamableHTTPClientTransport(new URL(url))
    : new StdioClientTransport({ command: command[0], args: command.slice(1), stderr: 'inherit' });
  const versionNegotiation = { mode: { pin: MODERN } };
  const client = new Client(INFO, { capabilities: ABLE, versionNegotiation });
  await client.connect(transport);
  const wire = new Wire(transport);
  wire.watch();
  const asked = [];
  const onInputRequest = async (request, context) => {
    asked.push([request.kind, context.scope, context.delivery]);
    return answers(request, context);
  };
  const session = createTaskSessionFromClient(client, {
    endpointId: 'tests',
    rawDispatch: (request, options) => wire.dispatch(request, options),
    v2RequestFraming: {
      protocolVersion: MODERN,
      clientInfo: INFO,
      clientCapabilities: CAPABILITIES,
    },
    ...(able ? { onInputRequest } : {}),
  });
  try {
    return await check({ client, session, wire, asked });
  } finally {
    await session.close();
    await wire.close();
    await client.close();
  }
}

// Calls a tool, and tells how the call went.
async function call({ session, asked }, name, params = {}) {
  const execution = await session.callTool(name, params);
  const statuses = [];
  const onEvent = (event) => {
    if (event.type === 'task' && event.task.status !== statuses.at(-1)) {
      statuses.push(event.task.status);
    }
  };
  const { outcome } = await execution.settle({ onEvent });
  const { status, result, error } = outcome;
  return {
    kind: execution.kind,
    statuses,
    status,
    ...(result ? { text: result.content[0].text, isError: result.isError === true } : {}),
    ...(error ? { error: { code: error.code, message: error.message, data: error.data } } : {}),
    asked,
  };
}

async function begun({ wire }, name, params = {}) {
  const { result } = await wire.ask('tools/call', { name, arguments: params });
  assert.equal(result.resultType, 'task');
  return result.taskId;
}

async function until({ wire }, taskId, status) {
  for (;;) {
    const answer = await wire.ask('tasks/get', { taskId });
    if (answer.kind === 'error' || answer.result.status === status) return answer;
    await sleep(20);
  }
}

const checks = {
  immediate: () => connected((it) => call(it, 'add', { a: 1, b: 2 })),
  quick: () => connected((it) => call(it, 'quick', { text: 'at once' })),
  job: () => connected((it) => call(it, 'job', { steps: 5 })),
  fail: () => connected((it) => call(it, 'fail')),
  refuse: () => connected((it) => call(it, 'refuse')),
  elicit: () => connected((it) => call(it, 'elicit')),
  elicit_again: () => connected((it) => call(it, 'elicit_again')),
  unable: () => connected((it) => call(it, 'elicit'), { able: false }),
  sample: () => connected((it) => call(it, 'sample')),
  roots: () => connected((it) => call(it, 'roots')),
  both: () => connected((it) => call(it, 'both')),
  ask_first: () => connected((it) => call(it, 'ask_first')),

  cancel: () =>
    connected(async ({ session }) => {
      const execution = await session.callTool('never', {});
      await execution.cancel();
      const { outcome } = await execution.settle();
      return outcome.status;
    }),

  // The outcome is read again and again, and then it has expired.
  expiry: () =>
    connected(async (it) => {
      const taskId = await begun(it, 'job', { steps: 1 });
      const first = await until(it, taskId, 'completed');
      const again = await it.wire.ask('tasks/get', { taskId });
      assert.deepEqual(again, first);
      const { error } = await until(it, taskId, 'expired');
      return { ttlMs: first.result.ttlMs, code: error.code };
    }),

  // The client leaves, and another one takes the task over: the server does not notice.
  resume: async () => {
    let reference;
    await connected(async ({ session }) => {
      const execution = await session.callTool('job', { steps: 5 });
      await execution.handoff((one) => {
        reference = one;
      });
      // Only then it is not cancelled with its session.
      await execution.result().catch(() => {});
    });
    return connected(async ({ session }) => {
      const resumed = await session.resumeTask(reference);
      const { outcome } = await resumed.settle();
      return outcome.result.content[0].text;
    });
  },

  push: () =>
    connected(async (it) => {
      const taskId = await begun(it, 'job', { steps: 5 });
      const heard = await it.wire.listen([taskId, 'unknown']);
      const isOver = ({ params }) => params?.status === 'completed';
      const [acknowledged, ...snapshots] = await heard((all) => all.some(isOver));
      assert.equal(acknowledged.method, 'notifications/subscriptions/acknowledged');
      assert.deepEqual(acknowledged.params.notifications, { taskIds: [taskId] });
      assert.ok(snapshots.every(({ method }) => method === 'notifications/tasks'));
      const { result } = await it.wire.ask('tasks/get', { taskId });
      const { resultType, _meta: meta, ...got } = result;
      const { _meta: tag, ...pushed } = snapshots.at(-1).params;
      assert.deepEqual(pushed, got);
      return snapshots.map(({ params }) => params.status);
    }),

  // The client's own subscription knows no tasks: it leaves their ids out.
  official_listen: () =>
    connected(async (it) => {
      const taskId = await begun(it, 'job', { steps: 1 });
      const subscription = await it.client.listen({ toolsListChanged: true, taskIds: [taskId] });
      const { honoredFilter } = subscription;
      await subscription.close();
      await until(it, taskId, 'completed');
      return honoredFilter;
    }),

  undeclared: () =>
    connected(async ({ wire }) => {
      const told = [];
      for (const [method, params] of [
        ['tasks/get', { taskId: 'unknown' }],
        ['tools/call', { name: 'fail', arguments: {} }],
        ['tools/call', { name: 'job', arguments: { steps: 1 } }],
      ]) {
        const { error, result } = await wire.ask(method, params, CAPABILITIES);
        told.push(error ? error.code : result.content[0].text);
      }
      return told;
    }),

  // A client of the years before: it gets the results themselves.
  legacy: async () => {
    const transport = url
      ? new StreamableHTTPClientTransport(new URL(url))
      : new StdioClientTransport({ command: command[0], args: command.slice(1) });
    const versionNegotiation = { mode: 'legacy' };
    const client = new Client(INFO, { capabilities: CAPABILITIES, versionNegotiation });
    client.setRequestHandler('elicitation/create', () => ({
      action: 'accept',
      content: { name: 'Ada' },
    }));
    await client.connect(transport);
    const told = {};
    try {
      for (const [name, params] of Object.entries({
        add: { a: 1, b: 2 },
        job: { steps: 2 },
        fail: {},
        elicit: {},
        ask_first: {},
      })) {
        const result = await client.callTool({ name, arguments: params });
        told[name] = result.content[0].text;
      }
      if (url) await transport.terminateSession();
      return told;
    } finally {
      await client.close();
    }
  },
};

for (const name of wanted) {
  const guard = new AbortController();
  const hanging = sleep(HANG_GUARD, undefined, { signal: guard.signal }).then(() => {
    throw new Error(`hangs for ${HANG_GUARD} ms`);
  });
  hanging.catch(() => {});
  try {
    const told = await Promise.race([checks[name](), hanging]);
    console.log(JSON.stringify({ check: name, ok: true, told }));
  } catch (error) {
    console.log(JSON.stringify({ check: name, ok: false, error: error.stack ?? String(error) }));
  } finally {
    guard.abort();
  }
}
process.exit(0);
