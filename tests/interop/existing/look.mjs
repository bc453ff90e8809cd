// What an official TypeScript client sees of a server, as looking.py does it:
//     node look.mjs CLIENT USING HEADERS URL
//     node look.mjs CLIENT USING HEADERS COMMAND [ARGUMENT...]
// CLIENT is a version and a mode, USING is what `Using.as_json` gives. It writes JSON.

const [name, usingText, headersText, command, ...args] = process.argv.slice(2);
const [major, mode] = name.replace('typescript ', '').split(', ');
const using = JSON.parse(usingText);
const sdk = await import(`./sdk${major}.mjs`);

const capabilities = { elicitation: { form: {} }, sampling: {}, roots: {} };
const client = sdk.makeClient(mode, { name: 'typescript', version: '1.0' }, capabilities);
sdk.onRequest(client, 'elicitation/create', () => ({
  action: 'accept',
  content: { username: 'Ada', email: 'a@b.example' },
}));
sdk.onRequest(client, 'sampling/createMessage', () => ({
  role: 'assistant',
  content: { type: 'text', text: 'short' },
  model: 'test',
}));
sdk.onRequest(client, 'roots/list', () => ({ roots: [{ uri: 'file:///home' }] }));

async function outcome(promise) {
  try {
    return await promise;
  } catch (error) {
    // Anything without a number is a fault of this program.
    if (error.code === undefined) throw error;
    return { error: [error.code, error.message] };
  }
}

const options = { command, args, env: process.env, stderr: 'inherit' };
const transport = command.startsWith('http:')
  ? new sdk.StreamableHTTPClientTransport(new URL(command), {
      requestInit: { headers: JSON.parse(headersText) },
    })
  : new sdk.StdioClientTransport(options);
await client.connect(transport);

const seen = {
  server: client.getServerVersion(),
  capabilities: client.getServerCapabilities(),
  instructions: client.getInstructions() ?? null,
};
seen.tools = await outcome(client.listTools());
seen.resources = await outcome(client.listResources());
seen.templates = await outcome(client.listResourceTemplates());
seen.prompts = await outcome(client.listPrompts());
for (const [number, [tool, given]] of using.calls.entries())
  seen[`${tool} #${number}`] = await outcome(sdk.callTool(client, { name: tool, arguments: given }));
const listed = (seen.resources.resources ?? []).map(({ uri }) => uri);
for (const uri of [...listed, ...using.resources])
  seen[`read ${uri}`] = await outcome(client.readResource({ uri }));
for (const [number, [prompt, given]] of using.prompts.entries())
  seen[`prompt ${prompt} #${number}`] = await outcome(
    client.getPrompt({ name: prompt, arguments: given }),
  );
await client.close();
console.log(JSON.stringify(seen));
