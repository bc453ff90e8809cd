// What the client does over Streamable HTTP, beyond what it does everywhere.

import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

import { connect, expectFaults, isModern, sdk, serve, until } from './bench.mjs';
import { openNotes } from './change_checks.mjs';

const EXIT_LIMIT = 1_000;
const FEW_RETRIES = 300;
// That a call which takes longer is answered by a stream. (A modern one has to be kept alive for it.)
const STREAMING = ['--stream-after', '0.05', '--keep-alive', '0.05'];
export const LOST = /SSE stream disconnected|Failed to (open|reconnect) SSE stream|fetch failed|Maximum reconnection|Error POSTing/;

export const isGone = (error) => sdk.statusOf(error) === 404;
export const upTo = (number) => Array.from({ length: number }, (_, index) => index + 1);

// A call of `count`, and the steps that come of it.
export function startCounting({ call }, parts, size, options = {}) {
  const steps = [];
  const onprogress = ({ progress }) => steps.push(progress);
  const answer = call('count', { parts, size }, { onprogress, ...options });
  return { steps, answer };
}

// Both kinds of streams are open.
export async function streaming({ served: { proxy } }) {
  await until(() => proxy.streams().length && proxy.streams({ listening: true }).length);
}

async function nobodyComesBack(comebacks) {
  // A few attempts may be what it takes.
  await sleep(FEW_RETRIES);
  const before = comebacks().length;
  await sleep(FEW_RETRIES);
  assert.equal(comebacks().length, before);
}

export const http = {
  async long_call() {
    const { call, served: { proxy } } = await connect({ options: STREAMING });
    const comments = () => proxy.seen.split('\n:').length;
    const waiting = call('wait_turn', { turn: 'now' });
    await until(() => proxy.streams().length);
    const before = comments();
    await until(() => comments() >= before + 3);
    await call('give_turn', { turn: 'now' });
    assert.equal(await waiting, 'now');
  },

  async polling() {
    const { call, comebacks } = await connect();
    const steps = [];
    const polling = call('poll', {}, { onprogress: ({ progress }) => steps.push(progress) });
    await until(() => steps.length >= 2);
    await call('give_turn', { turn: 'answer' });
    assert.equal(await polling, isModern ? 'held' : 'let go');
    assert.deepEqual(steps, [1, 2, 3]);
    assert.deepEqual(comebacks().map(({ status }) => status), isModern ? [] : [200]);
  },

  async param_header() {
    const served = await serve();
    const [connection, hasty] = [await connect({ served }), await connect({ served })];
    // Only the list of tools says that a header is wanted.
    await connection.tools();
    for (const { call } of [connection, hasty]) {
      for (const region of ['eu-west', 'Ελλάδα']) {
        assert.equal(await call('route', { region }), region);
      }
    }
    const wanted = isModern ? ['eu-west', '=?base64?zpXOu867zqzOtM6x?='] : [];
    for (const { wire } of [connection, hasty]) {
      const sent = wire.map(({ sent }) => sent.get('mcp-param-region'));
      assert.deepEqual(sent.filter((value) => value !== null), wanted);
    }
    const refused = hasty.wire.map(({ status }) => status).filter((status) => status >= 400);
    assert.deepEqual(refused, isModern ? [400] : []);
  },

  async no_comeback() {
    const connection = await connect();
    const { call, comebacks, served: { proxy } } = connection;
    const onprogress = () => {};
    await assert.rejects(call('fail_late', {}, { onprogress }), { code: 1 });
    const abort = new AbortController();
    const running = call('hang', { key: 'one' }, { onprogress, signal: abort.signal });
    await call('wait_started', { key: 'one' });
    await until(() => proxy.streams().length);
    abort.abort();
    await assert.rejects(running);
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
    await nobodyComesBack(comebacks);
    // This client forgets what belongs to a call as soon as that is over for it.
    expectFaults(connection, /unknown (token|message ID)/);
  },

  async lost_call() {
    const connection = await connect({ options: STREAMING });
    const { call, comebacks, served: { proxy } } = connection;
    // The client never tells its caller that a stream is lost; only the clock does.
    const failure = assert.rejects(call('hang', { key: 'one' }, { timeout: 1_500 }), { code: sdk.TIMEOUT });
    await call('wait_started', { key: 'one' });
    await until(() => proxy.streams().length);
    proxy.lose(0).close({ reset: true });
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
    await failure;
    assert.deepEqual(comebacks(), []);
    expectFaults(connection, LOST);
  },

  async lost_listen() {
    const connection = await connect();
    const { call, comebacks, hearing, served: { proxy } } = connection;
    const { closed } = await hearing('memo://one');
    proxy.lose(0, { listening: true }).close({ reset: true });
    assert.equal(await closed, 'remote');
    const { heard, stop } = await hearing('memo://one');
    await call('change', { uri: 'memo://one' });
    await until(() => heard().length);
    await stop();
    assert.deepEqual(heard(), ['memo://one']);
    assert.deepEqual(comebacks(), []);
    expectFaults(connection, LOST);
  },

  async restart() {
    const connection = await connect();
    const { call, error, served: { proxy } } = connection;
    const opened = await openNotes(connection, 'one');
    const counting = startCounting(connection, 2, 10, { timeout: 1_000 });
    // The client never tells its caller that a stream is lost for good; only the clock does.
    const failure = assert.rejects(counting.answer, { code: sdk.TIMEOUT });
    await until(() => counting.steps.length === 10);
    connection.served.killed = true;
    connection.served.process.kill('SIGKILL');
    await connection.served.exited;
    await failure;
    const served = await serve([], proxy);
    if (isModern) {
      assert.equal(await call('echo', { text: 'again' }), 'again');
      assert.ok((await error('note', { notes_id: opened, line: 'a' })).includes(opened));
    } else await assert.rejects(call('echo', { text: 'anybody?' }), isGone);
    const again = await connect({ served });
    assert.equal(await again.call('echo', { text: 'again' }), 'again');
    const { heard, stop } = await again.hearing('memo://one');
    await again.call('change', { uri: 'memo://one' });
    await until(() => heard().length);
    await stop();
    expectFaults(connection, LOST);
  },

  async shutdown() {
    const options = ['--drain-grace', '0.1', ...STREAMING];
    const connection = await connect({ options });
    const { call, hearing, served } = connection;
    const { closed } = await hearing();
    const failure = assert.rejects(call('hang', { key: 'one' }), { code: -32603 });
    await call('wait_started', { key: 'one' });
    await streaming(connection);
    const start = performance.now();
    served.process.kill('SIGTERM');
    const status = await served.exited;
    const took = performance.now() - start;
    await failure;
    if (isModern) assert.equal(await closed, 'graceful');
    assert.equal(status, 0);
    assert.ok(took < EXIT_LIMIT, `${took} ms`);
    await connection.client.close();
    expectFaults(connection, LOST);
    return `SIGTERM with a call and a stream open: exit status ${status} after ${took.toFixed(0)} ms`;
  },
};
