// An official TypeScript client against one server:
//     node client.mjs CLIENT stdio|builtin|hypercorn CHECKS COMMAND [ARGUMENT...]
// CLIENT is one of ../matrix.toml, CHECKS some of that file's, with commas between them. It writes
// JSON, a line each: first the names of the checks that it knows, in order, then a report of each
// that it has made. The exit status is 1 if any of them failed.

import { setTimeout as sleep } from 'node:timers/promises';

import { abandonAll, closeAll } from './bench.mjs';
import { changes, handles } from './change_checks.mjs';
import { calls, stdio } from './checks.mjs';
import { http } from './http_checks.mjs';
import { questions } from './question_checks.mjs';
import { sessions } from './session_checks.mjs';
import { together } from './together_checks.mjs';

const HANG_GUARD = 20_000;

async function run(check) {
  const guard = new AbortController();
  const { signal } = guard;
  const hanging = sleep(HANG_GUARD, undefined, { signal }).then(() => {
    throw new Error(`hangs for ${HANG_GUARD} ms`);
  });
  hanging.catch(() => {});
  try {
    const figure = await Promise.race([check(), hanging]);
    await Promise.race([closeAll(), hanging]);
    return { ok: true, figure };
  } catch (error) {
    await abandonAll();
    return { ok: false, error: error.stack ?? String(error) };
  } finally {
    guard.abort();
  }
}

// What a failed check leaves behind must not end the others.
process.on('unhandledRejection', (error) => console.error(error));
// Nor does anything outlive this program.
process.on('SIGTERM', () => abandonAll().finally(() => process.exit(1)));

const [, server, wanted] = process.argv.slice(2);
const more = server === 'stdio' ? stdio : { ...together, ...http, ...sessions };
const checks = { ...calls, ...questions, ...changes, ...handles, ...more };
console.log(JSON.stringify({ checks: Object.keys(checks) }));
let failures = 0;
for (const name of wanted.split(',').filter(Boolean)) {
  const report = { check: name, ...(await run(checks[name])) };
  if (!report.ok) failures += 1;
  console.log(JSON.stringify(report));
}
process.exit(failures ? 1 : 0);
