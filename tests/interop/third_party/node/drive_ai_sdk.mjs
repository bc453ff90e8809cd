// @ai-sdk/mcp: `createMCPClient`. The checks of ../driving.py, as far as its interface has them.

import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';

import { ElicitationRequestSchema, createMCPClient } from '@ai-sdk/mcp';
import { Experimental_StdioMCPTransport as Stdio } from '@ai-sdk/mcp/mcp-stdio';

const PATIENCE = 30_000;
const MANY = 50;
const TOOLS = [
  'announce', 'ask', 'climb', 'crash', 'echo', 'fail', 'log', 'refuse', 'revision', 'sessions',
  'wait',
];

const [location, ...names] = process.argv.slice(2);
const where = JSON.parse(location);
const tell = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);
const delay = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function connect(able = true) {
  const transport = where.url
    ? { type: 'http', url: where.url }
    : new Stdio({ command: where.command[0], args: where.command.slice(1) });
  const capabilities = able ? { elicitation: {} } : {};
  const client = await createMCPClient({ transport, capabilities, onUncaughtError: () => {} });
  if (able) {
    client.onElicitationRequest(ElicitationRequestSchema, () => ({
      action: 'accept', content: { name: 'Ada' },
    }));
  }
  const call = async (name, args = {}) => {
    const result = await client.callTool({ name, arguments: args });
    return [result.content.map(({ text }) => text).join(''), result.isError ?? false];
  };
  return { client, call };
}

async function failing(call, tool) {
  try {
    return await call(tool);
  } catch (error) {
    return [`${error.name}: ${error.message}`, true];
  }
}

async function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came in ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

const checks = {
  async list() {
    const { client, call } = await connect();
    const { tools } = await client.listTools();
    assert.deepEqual(tools.map(({ name }) => name).sort(), TOOLS);
    const revision = await call('revision');
    await client.close();
    return revision;
  },

  async call() {
    const { client, call } = await connect();
    for (const text of ['one', 'é\u2028 😀\nline', 'x'.repeat(100_000)]) {
      assert.deepEqual(await call('echo', { text }), [text, false]);
    }
    const texts = Array.from({ length: 20 }, (_, number) => `text ${number}`);
    const answers = await Promise.all(texts.map((text) => call('echo', { text })));
    assert.deepEqual(answers, texts.map((text) => [text, false]));
    await client.close();
  },

  async error() {
    const { client, call } = await connect();
    const told = {};
    for (const tool of ['fail', 'crash', 'refuse', 'no_such_tool']) {
      const [text, isError] = await failing(call, tool);
      assert.ok(isError, text);
      told[tool] = text.slice(0, 200);
      assert.deepEqual(await call('echo', { text: tool }), [tool, false]);
    }
    assert.match(told.fail, /this tool always fails/);
    await client.close();
    return told;
  },

  async question() {
    const { client, call } = await connect();
    const answer = await failing(call, 'ask');
    await client.close();
    return answer;
  },

  async refused_question() {
    const { client, call } = await connect(false);
    const answer = await failing(call, 'ask');
    assert.deepEqual(await call('echo', { text: 'after' }), ['after', false]);
    await client.close();
    return answer;
  },

  async sessions() {
    const clients = [];
    for (let number = 0; number < MANY; number += 1) clients.push(await connect());
    for (const [number, { call }] of clients.entries()) {
      assert.deepEqual(await call('echo', { text: `text ${number}` }), [`text ${number}`, false]);
    }
    const [told] = await clients.at(-1).call('sessions');
    tell({ check: 'sessions', ok: true, told });
    process.exit(0);
  },

  async restart() {
    const { client, call } = await connect();
    const told = {};
    assert.deepEqual(await call('echo', { text: 'before' }), ['before', false]);
    const waiting = failing(call, 'wait');
    await delay(200);
    tell({ stage: 'connected' });
    const lines = createInterface({ input: process.stdin });
    await new Promise((resolve) => lines.once('line', resolve));
    lines.close();
    told['in flight'] = await waiting;
    for (const attempt of ['first', 'second']) {
      const answer = within(PATIENCE / 3, call('echo', { text: 'after' }));
      told[`${attempt} call after`] = await failing(() => answer);
    }
    await within(2_000, client.close()).catch((error) => {
      told.leaving = error.message;
    });
    const another = await connect();
    assert.deepEqual(await another.call('echo', { text: 'again' }), ['again', false]);
    await another.client.close();
    return told;
  },
};

for (const check of names) {
  try {
    tell({ check, ok: true, told: (await within(PATIENCE, checks[check]())) ?? null });
  } catch (error) {
    tell({ check, ok: false, error: error.stack });
  }
}
process.exit(0);
