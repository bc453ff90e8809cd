// What the client does when something changes, and with handles.

import assert from 'node:assert/strict';

import { connect, listen, until } from './bench.mjs';

export async function openNotes({ structured }, title, more = {}) {
  const { notes_id: opened } = await structured('open_notes', { title, ...more });
  return opened;
}

export const changes = {
  async list_changed() {
    const { call, hearing, tools } = await connect();
    const before = await tools();
    const { heard, stop } = await hearing();
    await call('add_tool');
    await until(() => heard().includes('tools'));
    const after = await tools();
    await stop();
    assert.deepEqual([...after.keys()].filter((name) => !before.has(name)), ['newcomer']);
    assert.equal(await call('newcomer'), 'here I am');
  },

  async updated() {
    const { call, hearing } = await connect();
    for (const [wanted, other] of [['memo://one', 'memo://two'], ['memo://two', 'memo://one']]) {
      const { heard, stop } = await hearing(wanted);
      await call('change', { uri: other });
      await call('change', { uri: wanted });
      await until(() => heard().length > 0);
      assert.deepEqual(heard(), [wanted]);
      await stop();
      await call('change', { uri: wanted });
    }
  },

  async listens() {
    const memos = ['memo://one', 'memo://two'];
    const connection = await connect();
    const { call } = connection;
    // There are no prompts.
    const tools = await listen(connection, { toolsListChanged: true, promptsListChanged: true });
    assert.deepEqual(tools.honored, { toolsListChanged: true });
    const one = await listen(connection, { resourceSubscriptions: memos.slice(0, 1) });
    const filter = { resourcesListChanged: true, resourceSubscriptions: memos };
    const all = await listen(connection, filter);
    for (const uri of memos) await call('change', { uri });
    await call('change');
    await call('add_tool');
    await until(() => tools.heard().length && one.heard().length && all.heard().length >= 3);
    assert.deepEqual(tools.heard(), ['tools']);
    assert.deepEqual(one.heard(), ['memo://one']);
    assert.deepEqual(all.heard().sort(), [...memos, 'resources']);
    for (const listening of [tools, one, all]) await listening.stop();
    assert.equal(await one.closed, 'local');
  },
};

export const handles = {
  async handle() {
    const connection = await connect();
    const { call, structured } = connection;
    const [one, two] = [await openNotes(connection, 'one'), await openNotes(connection, 'two')];
    const note = (id, line) => structured('note', { notes_id: id, line });
    assert.notEqual(one, two);
    await note(one, 'a');
    await note(two, 'b');
    assert.deepEqual(await note(one, 'c'), { title: 'one', lines: ['a', 'c'] });
    assert.deepEqual(await structured('close_notes', { notes_id: one }), { closed: true });
    assert.equal(await call('outcome', { key: 'one' }), 'one');
    assert.deepEqual(await note(two, 'd'), { title: 'two', lines: ['b', 'd'] });
    assert.deepEqual(await structured('close_notes', { notes_id: one }), { closed: false });
  },

  async handle_unknown() {
    const connection = await connect();
    const closed = await openNotes(connection, 'one');
    await connection.structured('close_notes', { notes_id: closed });
    // Its owner is told for a while what has ended; all else has one text.
    assert.match(await connection.error('note', { notes_id: closed, line: 'a' }), /has ended/);
    const texts = new Set();
    for (const id of [closed.slice(0, -1), 'notes_', `brief_${closed}`, 'nonsense']) {
      const text = await connection.error('note', { notes_id: id, line: 'a' });
      assert.ok(text.includes(id), text);
      texts.add(text.replaceAll(id, '…'));
    }
    assert.equal(texts.size, 1, [...texts].join());
  },

  async handle_expired() {
    const connection = await connect();
    const { call, error } = connection;
    const { description } = (await connection.tools()).get('open_notes');
    assert.match(description, /30 minutes without use.*0\.2 seconds without use/);
    const brief = await openNotes(connection, 'one', { brief: true });
    assert.equal(await call('outcome', { key: 'one' }), 'one');
    const text = await error('note', { notes_id: brief, line: 'a' });
    assert.ok(text.includes(brief), text);
  },

  async handle_ended() {
    const connection = await connect();
    const { call, error, structured } = connection;
    const opened = await openNotes(connection, 'one');
    const holding = error('hold_notes', { notes_id: opened, turn: 'never' });
    await call('wait_started', { key: 'never' });
    assert.deepEqual(await structured('close_notes', { notes_id: opened }), { closed: true });
    const text = await holding;
    assert.ok(text.includes(opened), text);
  },
};
