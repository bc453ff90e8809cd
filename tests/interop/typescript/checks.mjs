// What the client does with a server of ours, whatever the transport. Names: ../matrix.toml.

import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';

import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  EmptyResultSchema,
  ListRootsRequestSchema,
  PingRequestSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { connect, until } from './bench.mjs';

const EXIT_LIMIT = 1_000;

export const common = {
  async connect() {
    const { client } = await connect();
    const { name, version, title } = client.getServerVersion();
    assert.deepEqual([name, version, title], ['interop', '1.0', 'Interoperability server']);
    assert.equal(client.getInstructions(), 'Call anything.');
    const { tools, resources, logging, prompts } = client.getServerCapabilities();
    assert.ok(tools && resources && logging && prompts === undefined);
    assert.equal(client.getNegotiatedProtocolVersion?.() ?? '2025-11-25', '2025-11-25');
  },

  async list() {
    const { client } = await connect();
    const tools = new Map((await client.listTools()).tools.map((tool) => [tool.name, tool]));
    for (const name of ['echo', 'add', 'fail', 'crash', 'hang', 'sample', 'elicit', 'roots']) {
      assert.ok(tools.has(name), name);
    }
    assert.equal(tools.get('echo').description, 'Return the text as it came.');
    const schema = tools.get('add').inputSchema;
    assert.equal(schema.type, 'object');
    assert.deepEqual(Object.keys(schema.properties).sort(), ['a', 'b']);
    assert.deepEqual(schema.required, ['a']);
  },

  async call() {
    const { client, call } = await connect();
    const texts = ['plain', '', 'two\nlines\r\n', '\u2028\u0085 ☃ 🎺 \0 "\\', 'x'.repeat(1_000_000)];
    for (const text of texts) assert.equal(await call('echo', { text }), text);
    const sum = async (args) =>
      (await client.callTool({ name: 'add', arguments: args })).structuredContent;
    assert.deepEqual(await sum({ a: 2, b: 3 }), { sum: 5 });
    assert.deepEqual(await sum({ a: 2 }), { sum: 2 });
  },

  async tool_error() {
    const { client, call } = await connect();
    const failed = await client.callTool({ name: 'fail', arguments: {} });
    assert.equal(failed.isError, true);
    assert.equal(failed.content[0].text, 'this tool always fails');
    const wrong = await client.callTool({ name: 'add', arguments: { a: 'two' } });
    assert.equal(wrong.isError, true);
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async protocol_error() {
    const { client, call } = await connect();
    await assert.rejects(call('crash'), (error) => {
      assert.equal(error.code, -32603);
      assert.doesNotMatch(`${error.message} ${JSON.stringify(error.data)}`, /business/);
      return true;
    });
    await assert.rejects(call('no_such_tool'), { code: -32602 });
    const unknown = { method: 'no/such/method' };
    await assert.rejects(client.request(unknown, EmptyResultSchema), { code: -32601 });
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async resources() {
    const { client } = await connect();
    const { resources } = await client.listResources();
    assert.deepEqual(resources.map(({ uri }) => uri), ['memo://one']);
    const { contents } = await client.readResource({ uri: 'memo://one' });
    assert.deepEqual(contents.map(({ text }) => text), ['the first memo']);
    await assert.rejects(client.readResource({ uri: 'memo://two' }), { code: -32002 });
  },

  async progress() {
    const { call } = await connect();
    const steps = [];
    const onprogress = (step) => steps.push(step);
    const running = call('progress', { steps: 5, turn: 'end' }, { onprogress });
    await until(() => steps.length === 5);
    const wanted = (progress) => ({ progress, total: 5, message: `step ${progress}` });
    assert.deepEqual(steps, [1, 2, 3, 4, 5].map(wanted));
    await call('give_turn', { turn: 'end' });
    assert.equal(await running, 'done');
  },

  async concurrent() {
    const { call } = await connect();
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    const answered = [];
    const running = numbers.map(async (number) => {
      assert.equal(await call('wait_turn', { turn: `${number}` }), `${number}`);
      answered.push(number);
    });
    for (const number of numbers.toReversed()) {
      await call('give_turn', { turn: `${number}` });
      await running[number];
    }
    assert.deepEqual(answered, numbers.toReversed());
  },

  async cancel() {
    const { call } = await connect();
    const abort = new AbortController();
    const running = call('hang', { key: 'one' }, { signal: abort.signal });
    await call('wait_started', { key: 'one' });
    abort.abort('changed my mind');
    await assert.rejects(running);
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
  },

  async timeout() {
    const { call } = await connect();
    await assert.rejects(call('hang', { key: 'one' }, { timeout: 200 }), { code: -32001 });
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
  },

  async ping() {
    const { client, call } = await connect();
    await client.ping();
    const abort = new AbortController();
    const running = call('hang', { key: 'one' }, { signal: abort.signal });
    await call('wait_started', { key: 'one' });
    await client.ping();
    abort.abort();
    await assert.rejects(running);
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
  },

  async keep_alive() {
    let pings = 0;
    const onPing = async () => {
      pings += 1;
      return {};
    };
    const { call } = await connect({
      handlers: [[PingRequestSchema, onPing]],
      options: ['--ping-interval', '0.05'],
    });
    assert.equal(await call('echo', { text: 'here' }), 'here');
    await until(() => pings >= 5);
    assert.equal(await call('echo', { text: 'still here' }), 'still here');
  },

  async logging() {
    const { client, call, logs } = await connect();
    await client.setLoggingLevel('warning');
    await call('log', { text: 'one' });
    await until(() => logs.length >= 2);
    assert.deepEqual(logs.splice(0), [
      { level: 'warning', logger: 'interop', data: { text: 'one' } },
      { level: 'error', logger: 'interop', data: ['one'] },
    ]);
    await client.setLoggingLevel('debug');
    await call('log', { text: 'two' });
    await until(() => logs.length >= 4);
    assert.deepEqual(logs.map(({ level }) => level), ['debug', 'info', 'warning', 'error']);
  },

  async sampling() {
    const onSampling = async ({ params }) => {
      assert.equal(params.maxTokens, 50);
      const text = params.messages[0].content.text.toUpperCase();
      return { role: 'assistant', content: { type: 'text', text }, model: 'parrot' };
    };
    const { call } = await connect({
      capabilities: { sampling: {} },
      handlers: [[CreateMessageRequestSchema, onSampling]],
    });
    assert.equal(await call('sample', { prompt: 'hello' }), 'parrot: HELLO');
  },

  async elicitation() {
    const answers = [
      { action: 'accept', content: { name: 'Ada' } },
      { action: 'decline' },
      { action: 'cancel' },
    ];
    const remaining = [...answers];
    const onElicitation = async ({ params }) => {
      assert.equal(params.message, 'Who?');
      assert.deepEqual(params.requestedSchema.required, ['name']);
      return remaining.shift();
    };
    const { client } = await connect({
      capabilities: { elicitation: {} },
      handlers: [[ElicitRequestSchema, onElicitation]],
    });
    for (const { action, content = null } of answers) {
      const request = { name: 'elicit', arguments: { question: 'Who?' } };
      const { structuredContent } = await client.callTool(request);
      assert.deepEqual(structuredContent, { action, answer: content });
    }
  },

  async roots() {
    const onRoots = async () => ({ roots: [{ uri: 'file:///srv', name: 'srv' }] });
    const { client } = await connect({
      capabilities: { roots: {} },
      handlers: [[ListRootsRequestSchema, onRoots]],
    });
    const { structuredContent } = await client.callTool({ name: 'roots', arguments: {} });
    assert.deepEqual(structuredContent, { uris: ['file:///srv'] });
  },

  async cancel_question() {
    const events = [];
    const onSampling = (request, { signal }) => {
      events.push('asked');
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          events.push('cancelled');
          reject(new Error('cancelled'));
        });
      });
    };
    const { call } = await connect({
      capabilities: { sampling: {} },
      handlers: [[CreateMessageRequestSchema, onSampling]],
    });
    const abort = new AbortController();
    const running = call('sample', { prompt: 'hello' }, { signal: abort.signal });
    await until(() => events.length === 1);
    abort.abort();
    await assert.rejects(running);
    await until(() => events.length === 2);
    assert.deepEqual(events, ['asked', 'cancelled']);
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async no_capability() {
    const { client, call, unasked } = await connect();
    for (const [name, args] of [['sample', { prompt: '?' }], ['elicit', { question: '?' }]]) {
      const result = await client.callTool({ name, arguments: args }).catch((error) => error);
      assert.ok(result instanceof Error || result.isError, JSON.stringify(result));
    }
    assert.deepEqual(unasked, []);
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async list_changed() {
    const connection = await connect();
    const names = async () => (await connection.client.listTools()).tools.map(({ name }) => name);
    const before = await names();
    await connection.call('add_tool');
    await until(() => connection.changes > 0);
    const after = await names();
    assert.deepEqual(after.filter((name) => !before.includes(name)), ['newcomer']);
    assert.equal(await connection.call('newcomer'), 'here I am');
  },
};

export const stdio = {
  async stray_print() {
    const { call } = await connect();
    assert.equal(await call('stray_print'), 'printed');
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async eof() {
    const connection = await connect();
    const failure = assert.rejects(connection.call('hang', { key: 'one' }), { code: -32603, message: /client closed/ });
    await connection.call('wait_started', { key: 'one' });
    const start = performance.now();
    connection.process.stdin.end();
    const status = await connection.exited;
    const took = performance.now() - start;
    await failure;
    assert.equal(status, 0);
    assert.ok(took < EXIT_LIMIT, `${took} ms`);
    return `EOF with a call in flight: exit status ${status} after ${took.toFixed(0)} ms`;
  },
};
