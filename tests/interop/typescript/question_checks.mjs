// What the client does when it is asked something.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

import { connect, sdk, until } from './bench.mjs';

const named = (name) => ({ action: 'accept', content: { name } });

const onSampling = async ({ maxTokens, messages: [{ content }] }) => {
  assert.equal(maxTokens, 50);
  const text = content.text.toUpperCase();
  return { role: 'assistant', content: { type: 'text', text }, model: 'parrot' };
};
const sampling = { capabilities: { sampling: {} }, handlers: { 'sampling/createMessage': onSampling } };

const onRoots = async () => ({ roots: [{ uri: 'file:///srv', name: 'srv' }] });
const roots = { capabilities: { roots: {} }, handlers: { 'roots/list': onRoots } };

// For those who know what to answer to which question.
export function telling(names) {
  const onElicitation = async ({ message }) => {
    assert.ok(message in names, message);
    return named(names[message]);
  };
  return {
    capabilities: { elicitation: {} },
    handlers: { 'elicitation/create': onElicitation },
  };
}

// A call that is answered with a question, before the client does anything about it.
export async function ask(connection, name, args = {}) {
  const call = { name, arguments: args };
  return asked(call, await sdk.callTool(connection.client, call, { allowInputRequired: true }));
}

function asked(call, { resultType, inputRequests, requestState: state }) {
  assert.equal(resultType, 'input_required');
  const [[key, { method }], ...others] = Object.entries(inputRequests);
  assert.equal(method, 'elicitation/create');
  assert.equal(others.length, 0);
  // Call again, with these answers.
  const retry = ({ client }, requestState, inputResponses, name = call.name) => {
    const again = { ...call, name, requestState, inputResponses };
    return sdk.callTool(client, again, { allowInputRequired: true });
  };
  return {
    state,
    retry,
    answer: (connection, name) => retry(connection, state, { [key]: named(name) }),
    isRefused: (connection, changed, name) =>
      assert.rejects(retry(connection, changed, { [key]: named('Eve') }, name), { code: -32602 }),
  };
}

async function talks(tool) {
  const { call } = await connect(telling({ 'Who?': 'Ada', 'And besides Ada?': 'Bob' }));
  assert.equal(await call(tool), 'Ada and Bob');
}

export const questions = {
  async sampling() {
    const { call } = await connect(sampling);
    assert.equal(await call('sample', { prompt: 'hello' }), 'parrot: HELLO');
  },

  async elicitation() {
    const answers = [named('Ada'), { action: 'decline' }, { action: 'cancel' }];
    const remaining = [...answers];
    const onElicitation = async ({ message, requestedSchema }) => {
      assert.equal(message, 'Who?');
      assert.deepEqual(requestedSchema.required, ['name']);
      return remaining.shift();
    };
    const { structured } = await connect({
      capabilities: { elicitation: {} },
      handlers: { 'elicitation/create': onElicitation },
    });
    for (const { action, content = null } of answers) {
      const told = await structured('elicit', { question: 'Who?' });
      assert.deepEqual(told, { action, answer: content });
    }
  },

  async roots() {
    const { structured } = await connect(roots);
    assert.deepEqual(await structured('roots'), { uris: ['file:///srv'] });
  },

  async interview() {
    const elicitation = telling({ 'Who?': 'Ada' });
    const { structured } = await connect({
      capabilities: { ...elicitation.capabilities, ...sampling.capabilities, ...roots.capabilities },
      handlers: { ...elicitation.handlers, ...sampling.handlers, ...roots.handlers },
    });
    const wanted = { name: { name: 'Ada' }, reply: 'HELLO', uris: ['file:///srv'] };
    assert.deepEqual(await structured('interview'), wanted);
  },

  talk: () => talks('talk'),

  talk_in_steps: () => talks('talk_in_steps'),

  async question_in_read() {
    const { client } = await connect(telling({ 'Whose memo?': 'Ada' }));
    const { contents } = await client.readResource({ uri: 'memo://yours' });
    assert.deepEqual(contents.map(({ text }) => text), ['a memo to Ada']);
  },

  async no_capability() {
    const { call, isModern, unasked } = await connect();
    for (const [name, args] of [['sample', { prompt: '?' }], ['elicit', { question: '?' }]]) {
      await assert.rejects(call(name, args), isModern ? { code: -32021 } : undefined);
    }
    assert.deepEqual(unasked, []);
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async cancel_question() {
    const events = [];
    const onSampling = (params, signal) => {
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
      handlers: { 'sampling/createMessage': onSampling },
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

  async abandoned() {
    const options = ['--request-state-timeout', '0.2'];
    const connection = await connect({ ...telling({}), options });
    const { call } = connection;
    const { state, isRefused } = await ask(connection, 'wait_answer', { key: 'one' });
    assert.equal(await call('outcome', { key: 'one' }), 'cancelled');
    // The state has its own date, by another clock.
    await sleep(200);
    await isRefused(connection, state);
    assert.equal(await call('echo', { text: 'next' }), 'next');
  },

  async state() {
    const connection = await connect(telling({}));
    const { state, retry, isRefused } = await ask(connection, 'talk');
    const middle = Math.floor(state.length / 2);
    const changed = state[middle] === 'A' ? 'B' : 'A';
    await isRefused(connection, state.slice(0, middle) + changed + state.slice(middle + 1));
    await isRefused(connection, state, 'talk_in_steps');
    // Whoever answers something else is asked again.
    const talk = { name: 'talk', arguments: {} };
    const again = asked(talk, await retry(connection, state, { else: named('Eve') }));
    const second = asked(talk, await again.answer(connection, 'Ada'));
    await isRefused(connection, again.state);
    const { content } = await second.answer(connection, 'Bob');
    assert.deepEqual(content.map(({ text }) => text), ['Ada and Bob']);
    // What was signed for is not there any more, which the model is told.
    assert.equal((await second.answer(connection, 'Eve')).isError, true);
  },
};
