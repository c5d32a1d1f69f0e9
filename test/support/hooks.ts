import { writeFileSync } from "node:fs";
import { stopSharedBroker } from "./broker.ts";
import { killLeftProcesses } from "./processes.ts";

/** After the last test the process has this long to end by itself. */
const lingerMs = 5_000;

let run: Mocha.Runner | undefined;

/** Mocha calls this once, before the first test of the run, with its runner. */
export function mochaGlobalSetup(this: Mocha.Runner): void {
  run = this;
  // Mocha keeps a first failure to itself when the second try passes, or fails otherwise.
  this.on("retry", (test: Mocha.Test, error: Error) => {
    process.stdout.write(`tried again: ${test.fullTitle()}\n${error.stack ?? error}\n`);
  });
  // The test under way still ends, then comes the report on all so far. A second time ends it at once.
  process.once("SIGINT", () => this.abort());
}

/** Mocha calls this once, after the last test of the run. */
export async function mochaGlobalTeardown(): Promise<void> {
  const left = killLeftProcesses();
  await stopSharedBroker();
  if (left.length > 0) fail(`tests left processes running, which are killed now: ${left.join(", ")}`);
  writeCounts(run?.stats, left.length > 0 ? 1 : 0);
  // Freeing what is left, Node 20 can spin for ever. Entered after mocha's own listener, which sets the exit code.
  setTimeout(() => process.once("exit", () => process.exit()), 50);
  // The timer keeps nothing alive: it only ever fires when something else does.
  setTimeout(() => {
    fail(`tests left open: ${describeOpenResources()}. Close them in an after hook.`);
    process.exit();
  }, lingerMs).unref();
}

/** For `npm test`, which adds up the figures of its mocha processes. */
function writeCounts(stats: Mocha.Stats | undefined, more: number): void {
  const file = process.env.MUSTER_TEST_COUNTS_FILE;
  if (file === undefined || stats === undefined) return;
  const { passes: passed, failures, pending: skipped } = stats;
  writeFileSync(file, JSON.stringify({ passed, failed: failures + more, skipped }));
}

function fail(message: string): void {
  process.stderr.write(`\n${message}\n`);
  // Mocha sets the exit code from its own "exit" listener; leaving from within one is final.
  process.once("exit", () => process.exit(1));
}

function describeOpenResources(): string {
  const counts = new Map<string, number>();
  for (const name of process.getActiveResourcesInfo()) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
}
