// The official TypeScript client against one server, one JSON line per check:
//     node client.mjs stdio|builtin|hypercorn COMMAND [ARGUMENT...]
// The exit status is 1 if any check failed. The checks are those of ../matrix.toml, in order.

import { setTimeout as sleep } from 'node:timers/promises';

import { abandonAll, closeAll } from './bench.mjs';
import { common, stdio } from './checks.mjs';
import { http } from './http_checks.mjs';

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

const checks = { ...common, ...(process.argv[2] === 'stdio' ? stdio : http) };
let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  const report = { check: name, ...(await run(check)) };
  if (!report.ok) failures += 1;
  console.log(JSON.stringify(report));
}
process.exit(failures ? 1 : 0);
