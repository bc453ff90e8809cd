// What the client does with what only sessions over HTTP have.

import assert from 'node:assert/strict';

import { connect, expectFaults, request, until } from './bench.mjs';
import { LOST, isGone, startCounting, streaming, upTo } from './http_checks.mjs';

const PING = { jsonrpc: '2.0', id: 1, method: 'ping' };
const CUT = /SSE stream disconnected/;

const memos = (last) => upTo(last).map((number) => `memo://${number}`);
const urisOf = (changed) => changed.map(({ what }) => what);

export const sessions = {
  async get_stream() {
    const { call, changed, wire } = await connect();
    for (const first of [1, 11]) await call('announce', { first, last: first + 9 });
    await until(() => changed.length >= 20);
    // Once more, so that a message that came twice would have been seen.
    await call('announce', { first: 21, last: 21 });
    await until(() => changed.length > 20);
    assert.deepEqual(urisOf(changed), memos(21));
    const gets = wire.filter(({ method }) => method === 'GET');
    assert.deepEqual(gets.map(({ status }) => status), [200]);
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
      await call('outcome', { key: `part ${part}` });
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
    await call('outcome', { key: 'answer' });
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
    await until(() => changed.length > 50);
    assert.deepEqual(urisOf(changed), memos(51));
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
    await again.call('outcome', { key: 'part 1' });
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
    await assert.rejects(again.call('echo', { text: 'anybody?' }), isGone);
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
    await assert.rejects(call('echo', { text: 'anybody?' }), isGone);
    // It comes back to the stream of GET, which ended in order, until it is told.
    await until(() => comebacks().some(({ status }) => status === 404));
    const before = wire.length;
    await until(() => connection.faults.some(({ message }) => /Maximum/.test(message)));
    assert.ok(wire.length <= before + 4);
    expectFaults(connection, LOST);
  },
};
