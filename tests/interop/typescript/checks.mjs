// What the client does with a server of ours: calls, and the ends of a pipe. Names: ../matrix.toml.

import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';

import { connect, expectFaults, sdk, until } from './bench.mjs';

// The official clients send SIGTERM then. The grace for running calls is 1,500.
const EXIT_LIMIT = 2_000;
const PAGE = 10;

export const calls = {
  async connect() {
    const { client, isModern } = await connect();
    const { name, version, title } = client.getServerVersion();
    assert.deepEqual([name, version, title], ['interop', '1.0', 'Interoperability server']);
    assert.equal(client.getInstructions(), 'Call anything.');
    const { tools, resources, logging, prompts } = client.getServerCapabilities();
    assert.ok(logging && prompts === undefined);
    assert.deepEqual(tools, { listChanged: true });
    assert.deepEqual(resources, { listChanged: true, subscribe: true });
    const spoken = client.getNegotiatedProtocolVersion?.() ?? '2025-11-25';
    assert.equal(spoken, isModern ? '2026-07-28' : '2025-11-25');
  },

  async list() {
    const connection = await connect();
    const tools = await connection.tools();
    assert.ok(tools.size > PAGE);
    assert.deepEqual([...tools.keys()], [...(await connection.tools()).keys()]);
    for (const name of ['echo', 'add', 'fail', 'crash', 'hang', 'sample', 'elicit', 'roots']) {
      assert.ok(tools.has(name), name);
    }
    assert.equal(tools.get('echo').description, 'Return the text as it came.');
    const schema = tools.get('add').inputSchema;
    assert.equal(schema.type, 'object');
    assert.deepEqual(Object.keys(schema.properties).sort(), ['a', 'b']);
    assert.deepEqual(schema.required, ['a']);
    const cursor = 'no such page';
    await assert.rejects(connection.client.listTools({ cursor }), { code: -32602 });
  },

  async call() {
    const { call, structured } = await connect();
    const texts = ['plain', '', 'two\nlines\r\n', '\u2028\u0085 ☃ 🎺 \0 "\\', 'x'.repeat(1_000_000)];
    for (const text of texts) assert.equal(await call('echo', { text }), text);
    assert.deepEqual(await structured('add', { a: 2, b: 3 }), { sum: 5 });
    assert.deepEqual(await structured('add', { a: 2 }), { sum: 2 });
  },

  async tool_error() {
    const { call, error } = await connect();
    assert.equal(await error('fail'), 'this tool always fails');
    await error('add', { a: 'two' });
    // What the model reads says that it has failed, and hides the reason.
    assert.equal(await error('crash'), "The tool 'crash' failed with an internal error");
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async protocol_error() {
    const connection = await connect();
    const { client, call, isModern, wire } = connection;
    await assert.rejects(call('fail_late'), { code: 1 });
    await assert.rejects(call('no_such_tool'), { code: -32602 });
    const unknown = sdk.requestAny(client, { method: 'no/such/method' });
    if (isModern && wire.length) {
      // Over HTTP this client takes the status for the answer.
      await assert.rejects(unknown, (error) => sdk.statusOf(error) === 404);
      expectFaults(connection, /-32601/);
    } else await assert.rejects(unknown, { code: -32601 });
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async resources() {
    const { client, isModern } = await connect();
    const { resources } = await client.listResources();
    assert.deepEqual(resources.map(({ uri }) => uri), ['memo://one']);
    const { contents } = await client.readResource({ uri: 'memo://one' });
    assert.deepEqual(contents.map(({ text }) => text), ['the first memo']);
    const code = isModern ? -32602 : sdk.UNKNOWN_RESOURCE;
    await assert.rejects(client.readResource({ uri: 'memo://two' }), { code });
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
    // Once it is up.
    await call('echo', { text: 'here' });
    await assert.rejects(call('hang', { key: 'one' }, { timeout: 400 }), { code: sdk.TIMEOUT });
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
      handlers: { ping: onPing },
      options: ['--ping-interval', '0.05'],
    });
    assert.equal(await call('echo', { text: 'here' }), 'here');
    await until(() => pings >= 5);
    assert.equal(await call('echo', { text: 'still here' }), 'still here');
  },

  async logging() {
    const { callLogged, logs } = await connect();
    await callLogged('warning', 'log', { text: 'one' });
    await until(() => logs.length >= 2);
    const said = ({ level, logger, data }) => ({ level, logger, data });
    assert.deepEqual(logs.splice(0).map(said), [
      { level: 'warning', logger: 'interop', data: { text: 'one' } },
      { level: 'error', logger: 'interop', data: ['one'] },
    ]);
    await callLogged('debug', 'log', { text: 'two' });
    await until(() => logs.length >= 4);
    assert.deepEqual(logs.map(({ level }) => level), ['debug', 'info', 'warning', 'error']);
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

  async handle_list() {
    const [connection, another] = [await connect(), await connect()];
    const titles = {};
    for (const title of ['one', 'two']) {
      const { notes_id: opened } = await connection.structured('open_notes', { title });
      titles[opened] = title;
    }
    assert.deepEqual(await connection.structured('list_notes'), { titles });
    assert.deepEqual(await another.structured('list_notes'), { titles: {} });
  },
};
