// What an official TypeScript client sees of a server that has everything:
//     node watching.mjs CLIENT REVISION OMITTED URL
//     node watching.mjs CLIENT REVISION OMITTED COMMAND [ARGUMENT...]
// CLIENT is one of ../matrix.toml, REVISION is what it should speak, OMITTED are the names from
// schemas.py, with commas between them. It writes what watching.py returns, as JSON.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

const [name, revision, omitted, command, ...args] = process.argv.slice(2);
const [major, mode = 'legacy'] = name.replace('typescript ', '').split(', ');
const isModern = mode !== 'legacy';
const sdk = await import(`./sdk${major}.mjs`);

const LOG_LEVEL = 'io.modelcontextprotocol/logLevel';
// Milliseconds in which a notification would have arrived.
const PATIENCE = 500;
const HOME = 'notes://home';
const NOTES = 'notes://{topic}{?limit}';
const ANSWERS = [
  { action: 'accept', content: { name: 'Ada', seats: 3 } },
  { action: 'decline' },
];

// A schema without members that say nothing to the model.
function plain(schema) {
  if (schema === undefined) return null;
  const left = { ...schema };
  for (const member of omitted.split(',')) delete left[member];
  if (left.properties) {
    const properties = Object.entries(left.properties);
    left.properties = Object.fromEntries(properties.map(([key, one]) => [key, plain(one)]));
  }
  if (left.required?.length === 0) delete left.required;
  return left;
}

const capabilities = { elicitation: { form: {} }, sampling: {} };
const client = sdk.makeClient(mode, { name: 'typescript', version: '1.0' }, capabilities);
const seen = {};
const [forms, prompts, logs, steps, updates] = [[], [], [], [], []];
let calls = 0;

sdk.onRequest(client, 'elicitation/create', ({ message, requestedSchema }) => {
  forms.push({ message, schema: plain(requestedSchema) });
  return ANSWERS[forms.length - 1];
});
sdk.onRequest(client, 'sampling/createMessage', ({ messages, maxTokens }) => {
  prompts.push([messages.map(({ role, content }) => [role, content.text]), maxTokens]);
  return { role: 'assistant', content: { type: 'text', text: 'short' }, model: 'test' };
});
// Not `onprogress` of each call: the client does not pass on the steps that it reads together with
// the result (typescript-sdk, issue 2580), and adds a step of its own when a call asks something.
sdk.onNotification(client, 'notifications/progress', ({ progress, total, message }) =>
  steps.push([progress, total, message]),
);
sdk.onNotification(client, 'notifications/message', ({ level, data }) => logs.push([level, data]));
sdk.onNotification(client, 'notifications/resources/updated', ({ uri }) => updates.push(uri));

async function call(tool, args = {}) {
  calls += 1;
  const meta = { progressToken: `call ${calls}` };
  // In sessions, the level is the session's.
  if (isModern) meta[LOG_LEVEL] = 'info';
  try {
    const result = await sdk.callTool(client, { name: tool, arguments: args, _meta: meta });
    const { content, structuredContent: structured = null, isError = false } = result;
    return { content, structured, error: isError };
  } catch (error) {
    return { code: codeOf(error) };
  }
}

function codeOf(error) {
  // Anything without a number is a fault of this program.
  if (error.code === undefined) throw error;
  return error.code;
}

// The code of the error that something fails with; null if it works.
const failure = (using) => using.then(() => null, codeOf);

async function describe() {
  const { name, title, websiteUrl, icons = [], version } = client.getServerVersion();
  seen.server = [name, title, websiteUrl, icons.map(({ src }) => src)];
  seen['server: version'] = version;
  seen.capabilities = client.getServerCapabilities();
  for (const { name, description, inputSchema, outputSchema } of (await client.listTools()).tools)
    seen[`tool ${name}`] = [description, plain(inputSchema), plain(outputSchema)];
  const { resources } = await client.listResources();
  for (const { uri, name, description, mimeType } of resources)
    seen[`resource ${uri}`] = [name, description, mimeType];
  const { resourceTemplates } = await client.listResourceTemplates();
  for (const { uriTemplate, name, description, mimeType } of resourceTemplates)
    seen[`resource ${uriTemplate}`] = [name, description, mimeType];
  for (const prompt of (await client.listPrompts()).prompts) {
    const told = (prompt.arguments ?? []).map((one) => [one.name, one.description, !!one.required]);
    seen[`prompt ${prompt.name}`] = [prompt.description, told];
  }
}

async function useTools() {
  seen.divide = await call('divide', { a: 7, b: 2, by: '//' });
  seen['divide: an error for the model'] = await call('divide', { a: 1, b: 0 });
  const { content: [{ text }], error } = await call('divide', { a: 'x', b: 1, by: '%' });
  const isTold = ['a', 'by', "'/'", "'//'"].every((value) => text.includes(value));
  seen['divide: wrong arguments'] = [error, isTold];
  seen.attachments = await call('attachments');
  seen.text_shout = await call('text_shout', { text: 'hi' });
  seen['a tool that does not exist'] = await call('missing');
  if (!isModern && client.getServerCapabilities().logging) await client.setLoggingLevel('info');
  seen.countdown = await call('countdown', { steps: 2 });
  seen['countdown: progress'] = steps;
  seen['countdown: log'] = logs;
}

async function ask() {
  seen['book: accepted'] = await call('book');
  seen['book: declined'] = await call('book');
  seen['book: form'] = forms;
  seen.summarise = await call('summarise', { text: 'long' });
  seen['summarise: question'] = prompts;
}

async function subscribe() {
  const subscribing = isModern
    ? client.listen({ resourceSubscriptions: [HOME] })
    : client.subscribeResource({ uri: HOME });
  seen.subscribe = await failure(subscribing);
  seen.add_note = await call('add_note', { topic: 'home', text: 'milk' });
  await call('add_note', { topic: 'home', text: 'bread' });
  await call('add_note', { topic: 'work', text: 'meet' });
  await sleep(PATIENCE);
  seen.updates = updates;
}

async function useResources() {
  for (const uri of ['about:server', 'pixel:red', HOME, `${HOME}?limit=1`])
    seen[`read ${uri}`] = (await client.readResource({ uri })).contents;
  const missing = client.readResource({ uri: 'missing:resource' });
  seen['a resource that does not exist'] = await failure(missing);
  const ref = { type: 'ref/resource', uri: NOTES };
  const completed = await client.complete({ ref, argument: { name: 'topic', value: 'ho' } });
  seen['complete topic'] = completed.completion.values;
}

async function usePrompts() {
  const params = { name: 'review', arguments: { code: 'x = 1', language: 'rust' } };
  const { messages } = await client.getPrompt(params);
  seen.review = messages.map(({ role, content }) => [role, content]);
  const ref = { type: 'ref/prompt', name: 'review' };
  const completed = await client.complete({ ref, argument: { name: 'language', value: 'py' } });
  seen['complete language'] = completed.completion.values;
}

const options = { command, args, env: process.env, stderr: 'inherit' };
const transport = command.startsWith('http:')
  ? new sdk.StreamableHTTPClientTransport(new URL(command))
  : new sdk.StdioClientTransport(options);
let spoken;
// Over HTTP, the transport needs it, too.
const setProtocolVersion = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (version) => {
  spoken = version;
  setProtocolVersion?.(version);
};
await client.connect(transport);
assert.equal(spoken, revision);
await describe();
const before = (await call('status')).structured.calls;
await useTools();
await ask();
const { structured: after } = await call('status');
seen['status: calls in between'] = after.calls - before - 1;
seen['status: in a thread'] = after.in_thread;
await subscribe();
await useResources();
await usePrompts();
await client.close();
console.log(JSON.stringify(seen));
