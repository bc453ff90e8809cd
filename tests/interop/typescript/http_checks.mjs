// What the client does over Streamable HTTP, beyond what it does everywhere.

import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

import { connect, request, serve, until } from './bench.mjs';

const EXIT_LIMIT = 1_000;
const FEW_RETRIES = 300;
const PING = { jsonrpc: '2.0', id: 1, method: 'ping' };
const CUT = /SSE stream disconnected/;
const LOST = /SSE stream disconnected|Failed to (open|reconnect) SSE stream|fetch failed|Maximum reconnection|Error POSTing/;

const upTo = (number) => Array.from({ length: number }, (_, index) => index + 1);

// What the transport reported so far must be what was done to it.
function expectFaults({ faults }, pattern) {
  for (const { message } of faults.splice(0)) assert.match(message, pattern);
}

// A call of `count`, and the steps that come of it.
function startCounting({ call }, parts, size, options = {}) {
  const steps = [];
  const onprogress = ({ progress }) => steps.push(progress);
  const answer = call('count', { parts, size }, { onprogress, ...options });
  return { steps, answer };
}

// Both kinds of streams are open.
async function streaming({ served: { proxy } }) {
  await until(() => proxy.streams().length && proxy.streams({ listening: true }).length);
}

export const http = {
  async two_clients() {
    const served = await serve();
    const [one, two] = [await connect({ served }), await connect({ served })];
    assert.notEqual(one.transport.sessionId, two.transport.sessionId);
    const numbers = upTo(10);
    const wait = ({ call }, turn) => call('wait_turn', { turn });
    const waiting = numbers.flatMap((number) => [wait(one, `one ${number}`), wait(two, `two ${number}`)]);
    for (const number of numbers) {
      await one.call('give_turn', { turn: `two ${number}` });
      await two.call('give_turn', { turn: `one ${number}` });
    }
    const wanted = numbers.flatMap((number) => [`one ${number}`, `two ${number}`]);
    assert.deepEqual(await Promise.all(waiting), wanted);
  },

  async get_stream() {
    const { call, changed, wire } = await connect();
    for (const first of [1, 11]) await call('announce', { first, last: first + 9 });
    await until(() => changed.length >= 20);
    // Once more, so that a message that came twice would have been seen.
    await call('announce', { first: 21, last: 21 });
    await until(() => changed.includes(21));
    assert.deepEqual(changed, upTo(21));
    const gets = wire.filter(({ method }) => method === 'GET');
    assert.deepEqual(gets.map(({ status }) => status), [200]);
  },

  async long_call() {
    const options = ['--stream-after', '0.05', '--keep-alive', '0.05'];
    const { call, served: { proxy } } = await connect({ options });
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
    assert.equal(await polling, 'let go');
    assert.deepEqual(steps, [1, 2, 3]);
    assert.deepEqual(comebacks().map(({ status }) => status), [200]);
  },

  async resume_call() {
    const connection = await connect();
    const { call, comebacks, served: { proxy } } = connection;
    const { steps, answer } = startCounting(connection, 4, 10);
    const losses = [[0, false], [40, true], [1000, false]];
    for (const [index, [after, reset]] of losses.entries()) {
      const part = index + 1;
      await until(() => steps.length >= part * 10);
      const link = proxy.lose(after);
      await call('give_turn', { turn: `part ${part}` });
      await call('wait_ended', { key: `part ${part}` });
      assert.ok(steps.length < (part + 1) * 10);
      link.close({ reset });
    }
    await call('give_turn', { turn: 'answer' });
    assert.equal(await answer, 'counted to 40');
    assert.deepEqual(steps, upTo(40));
    assert.deepEqual(comebacks().map(({ status }) => status), [200, 200, 200]);
    expectFaults(connection, CUT);
  },

  async resume_answer() {
    const connection = await connect();
    const { call, comebacks, served: { proxy } } = connection;
    const { steps, answer } = startCounting(connection, 1, 3);
    await until(() => steps.length === 3);
    const link = proxy.lose(10);
    await call('give_turn', { turn: 'answer' });
    await call('wait_ended', { key: 'answer' });
    link.close();
    assert.equal(await answer, 'counted to 3');
    assert.deepEqual(steps, upTo(3));
    assert.equal(comebacks().length, 1);
    expectFaults(connection, CUT);
  },

  async resume_get() {
    const connection = await connect();
    const { call, changed, comebacks, served: { proxy } } = connection;
    await call('announce', { first: 1, last: 10 });
    await until(() => changed.length === 10);
    for (const [first, reset] of [[11, true], [31, false]]) {
      // The second time it is a stream that the client has come back to already.
      const link = proxy.lose(40, { listening: first === 11 });
      await call('announce', { first, last: first + 9 });
      assert.equal(changed.length, first - 1);
      link.close({ reset });
      await call('announce', { first: first + 10, last: first + 19 });
      await until(() => changed.length >= first + 19);
    }
    await call('announce', { first: 51, last: 51 });
    await until(() => changed.includes(51));
    assert.deepEqual(changed, upTo(51));
    assert.deepEqual(comebacks().map(({ status }) => status), [200, 200]);
    expectFaults(connection, CUT);
  },

  async resume_token() {
    const gone = await connect();
    let token;
    const onresumptiontoken = (last) => {
      token = last;
    };
    const { steps, answer } = startCounting(gone, 2, 5, { onresumptiontoken });
    await until(() => steps.length === 5);
    const failure = assert.rejects(answer);
    await gone.client.close();
    await failure;
    // Another client, which goes on with the session and the call.
    const { served, transport: { sessionId, protocolVersion } } = gone;
    const again = await connect({ served, sessionId });
    again.transport.setProtocolVersion(protocolVersion);
    await again.call('give_turn', { turn: 'part 1' });
    await again.call('wait_ended', { key: 'part 1' });
    const resumed = startCounting(again, 2, 5, { resumptionToken: token });
    const unknown = () => again.faults.filter(({ message }) => /unknown token/.test(message));
    await until(() => unknown().length >= 5);
    await again.call('give_turn', { turn: 'answer' });
    assert.equal(await resumed.answer, 'counted to 10');
    // The steps that were left, which belong to a call that this client did not make.
    assert.equal(unknown().length, 5);
    assert.deepEqual(again.comebacks().map(({ status }) => status), [200]);
    expectFaults(again, /unknown token/);
  },

  async no_comeback() {
    const { call, comebacks, served: { proxy } } = await connect();
    const onprogress = () => {};
    await assert.rejects(call('fail_late', {}, { onprogress }), { code: 1 });
    const abort = new AbortController();
    const running = call('hang', { key: 'one' }, { onprogress, signal: abort.signal });
    await call('wait_started', { key: 'one' });
    await until(() => proxy.streams().length);
    abort.abort();
    await assert.rejects(running);
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
    // A few attempts may be what it takes.
    await sleep(FEW_RETRIES);
    const before = comebacks().length;
    await sleep(FEW_RETRIES);
    assert.equal(comebacks().length, before);
  },

  async delete() {
    const { client, call, transport, served } = await connect();
    const { sessionId } = transport;
    assert.equal(await call('echo', { text: 'here' }), 'here');
    await transport.terminateSession();
    await client.close();
    for (const [method, message] of [['POST', PING], ['GET'], ['DELETE']]) {
      assert.equal(await request({ served, transport }, sessionId, method, message), 404);
    }
    const again = await connect({ served, sessionId });
    await assert.rejects(again.call('echo', { text: 'anybody?' }), { code: 404 });
    expectFaults(again, LOST);
    const another = await connect({ served });
    assert.equal(await another.call('echo', { text: 'again' }), 'again');
  },

  async delete_in_use() {
    const connection = await connect({ options: ['--stream-after', '0.05'] });
    const { call, transport, comebacks, wire } = connection;
    const failure = assert.rejects(call('hang', { key: 'one' }), { code: -32603 });
    await call('wait_started', { key: 'one' });
    await streaming(connection);
    assert.equal(await request(connection, transport.sessionId, 'DELETE'), 204);
    await failure;
    await assert.rejects(call('echo', { text: 'anybody?' }), { code: 404 });
    // It comes back to the stream of GET, which ended in order, until it is told.
    await until(() => comebacks().some(({ status }) => status === 404));
    const before = wire.length;
    await until(() => connection.faults.some(({ message }) => /Maximum/.test(message)));
    assert.ok(wire.length <= before + 4);
    expectFaults(connection, LOST);
  },

  async restart() {
    const connection = await connect();
    const { call, served: { proxy } } = connection;
    const counting = startCounting(connection, 2, 10, { timeout: 1_000 });
    // The client never tells its caller that a stream is lost for good; only the clock does.
    const failure = assert.rejects(counting.answer, { code: -32001 });
    await until(() => counting.steps.length === 10);
    connection.served.killed = true;
    connection.served.process.kill('SIGKILL');
    await connection.served.exited;
    await failure;
    const served = await serve([], proxy);
    await assert.rejects(call('echo', { text: 'anybody?' }), { code: 404 });
    const again = await connect({ served });
    assert.equal(await again.call('echo', { text: 'again' }), 'again');
    await again.call('announce', { first: 1, last: 3 });
    await until(() => again.changed.length === 3);
    expectFaults(connection, LOST);
  },

  async shutdown() {
    const options = ['--drain-grace', '0.1', '--stream-after', '0.05'];
    const connection = await connect({ options });
    const { call, served } = connection;
    const failure = assert.rejects(call('hang', { key: 'one' }), { code: -32603 });
    await call('wait_started', { key: 'one' });
    await streaming(connection);
    const start = performance.now();
    served.process.kill('SIGTERM');
    const status = await served.exited;
    const took = performance.now() - start;
    await failure;
    assert.equal(status, 0);
    assert.ok(took < EXIT_LIMIT, `${took} ms`);
    await connection.client.close();
    expectFaults(connection, LOST);
    return `SIGTERM with a call and GET open: exit status ${status} after ${took.toFixed(0)} ms`;
  },
};
