// What several clients do with one server.

import assert from 'node:assert/strict';

import { connect, isModern, serve, until } from './bench.mjs';
import { openNotes } from './change_checks.mjs';
import { upTo } from './http_checks.mjs';
import { ask, telling } from './question_checks.mjs';

export const together = {
  async two_clients() {
    const served = await serve();
    const [one, two] = [await connect({ served }), await connect({ served })];
    const ids = [one, two].map(({ transport: { sessionId } }) => sessionId);
    if (isModern) assert.deepEqual(ids, [undefined, undefined]);
    else assert.notEqual(...ids);
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

  async two_eras() {
    const served = await serve();
    const one = await connect({ served, ...telling({ 'Who?': 'Ada' }) });
    const mode = isModern ? 'legacy' : 'auto';
    const two = await connect({ served, mode, ...telling({ 'Who?': 'Bob' }) });
    const [first, second] = [await one.hearing('memo://one'), await two.hearing('memo://one')];
    await one.call('change', { uri: 'memo://one' });
    await until(() => first.heard().length && second.heard().length);
    await two.call('add_tool');
    await until(() => first.heard().length + second.heard().length >= 4);
    assert.deepEqual(first.heard(), ['memo://one', 'tools']);
    assert.deepEqual(second.heard(), first.heard());
    assert.deepEqual([...(await one.tools()).keys()], [...(await two.tools()).keys()]);
    for (const [{ structured }, name] of [[one, 'Ada'], [two, 'Bob']]) {
      assert.deepEqual(await structured('wait_answer', { key: name }), { answer: { name } });
    }
  },

  async answer_elsewhere() {
    const served = await serve();
    const [one, two] = [await connect({ served, ...telling({}) }), await connect({ served, ...telling({}) })];
    const { answer } = await ask(one, 'wait_answer', { key: 'one' });
    await one.client.close();
    const { structuredContent } = await answer(two, 'Ada');
    assert.deepEqual(structuredContent, { answer: { name: 'Ada' } });
  },

  async handle_owner() {
    const served = await serve(['--authenticated']);
    const ada = await connect({ served, user: 'ada' });
    const opened = await openNotes(ada, 'one');
    await ada.client.close();
    const again = await connect({ served, user: 'ada' });
    const eve = await connect({ served, user: 'eve' });
    const note = (line) => again.structured('note', { notes_id: opened, line });
    assert.deepEqual(await note('a'), { title: 'one', lines: ['a'] });
    assert.deepEqual(await again.structured('list_notes'), { titles: { [opened]: 'one' } });
    assert.deepEqual(await eve.structured('list_notes'), { titles: {} });
    const madeUp = opened.slice(0, -1);
    const unknown = await eve.error('note', { notes_id: madeUp, line: 'b' });
    const foreign = await eve.error('note', { notes_id: opened, line: 'b' });
    assert.equal(foreign, unknown.replaceAll(madeUp, opened));
    assert.deepEqual(await eve.structured('close_notes', { notes_id: opened }), { closed: false });
    assert.deepEqual(await note('c'), { title: 'one', lines: ['a', 'c'] });
  },

  async handle_anonymous() {
    const served = await serve();
    const [stranger, one] = [await connect({ served }), await connect({ served })];
    const opened = await openNotes(one, 'one');
    const note = ({ structured }, line) => structured('note', { notes_id: opened, line });
    if (isModern) await one.error('list_notes');
    else {
      assert.deepEqual(await one.structured('list_notes'), { titles: { [opened]: 'one' } });
      await stranger.error('note', { notes_id: opened, line: 'a' });
    }
    assert.deepEqual(await note(one, 'b'), { title: 'one', lines: ['b'] });
    await one.transport.terminateSession();
    if (isModern) {
      assert.deepEqual(await note(stranger, 'c'), { title: 'one', lines: ['b', 'c'] });
    } else {
      // Its session has ended, and the handle with it.
      assert.equal(await stranger.call('outcome', { key: 'one' }), 'one');
    }
  },
};
