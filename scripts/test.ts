import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type Broker, startBroker } from "./broker.ts";
import { eachLine } from "./command.ts";
import { findFreePort } from "./ports.ts";
import { startGroup } from "./process-group.ts";
import { signalProcess } from "./process-identity.ts";
import { SetupError } from "./setup-error.ts";
import { stopSignal } from "./stop-signals.ts";
import {
  addCounts,
  type Counts,
  deal,
  needsBroker,
  type Plan,
  planTests,
  type Step,
  UnknownChoiceError,
} from "./test-plan.ts";

const help = `Runs the checks and tests of Muster, and stops at the first step that fails.

  npm test                                  everything: lint, types, generated, unit, integration, faults
  npm test -- unit                          one step, or several
  npm test -- test/unit/eventually.test.ts  single files
  npm test -- integration --grep "a lease"  only tests whose full title matches

Tests use ports of their own and a RabbitMQ node of their own, started once for the whole run. To use another node, set
MUSTER_TEST_AMQP_URL and MUSTER_TEST_MANAGEMENT_URL; MUSTER_TEST_COUCHDB_URL runs the store's tests against a real CouchDB, too.
MUSTER_TEST_FULL=1 runs the fault tests at full size, which takes half an hour.`;

const root = resolve(import.meta.dirname, "..");
/** Far beyond what a step takes: a hanging one must fail while someone still looks at it. */
const stepTimeoutMs = 25 * 60_000;
/** What a step may take to tell its results when it is stopped. */
const lastWordsMs = 10_000;
const nothing: Counts = { passed: 0, failed: 0, skipped: 0 };

/** Runs the tests. The last line that it prints is "N passed, N failed"; the exit code is 0 when nothing failed. */
export async function main(argv: string[]): Promise<void> {
  if (argv.includes("--help") || argv.includes("-h")) {
    console.log(help);
    return;
  }
  try {
    const { failed } = await runPlan(planTests(argv));
    process.exitCode = failed === 0 ? 0 : 1;
  } catch (error) {
    if (!(error instanceof UnknownChoiceError)) throw error;
    console.error(`${error.message}. See npm test -- --help.`);
    process.exitCode = 2;
  }
}

async function runPlan(plan: Plan): Promise<Counts> {
  const stopping = await stopSignal();
  const scratch = await mkdtemp(join(tmpdir(), "muster-test-"));
  const broker = plan.steps.some(needsBroker) ? new TestBroker(join(scratch, "broker"), stopping) : undefined;
  let total = nothing;
  try {
    for (const step of plan.steps) {
      const result = await runStep(step, plan, { scratch, stopping, ...(broker && { broker }) });
      total = addCounts(total, result);
      if (result.failed > 0 || stopping.aborted) break;
    }
  } finally {
    await broker?.close();
    await rm(scratch, { recursive: true, force: true });
  }
  if (stopping.aborted) {
    console.log(`\nstopped (${stopping.reason}) before the end`);
    total = addCounts(total, { ...nothing, failed: 1 });
  }
  if (total.skipped > 0) console.log(`\n${total.skipped} skipped`);
  console.log(`\n${total.passed} passed, ${total.failed} failed`);
  return total;
}

/** A run's own node, started at once, awaited by the first step that needs it. */
class TestBroker {
  private readonly started: Promise<Broker | SetupError | undefined>;
  private readonly closing = new AbortController();

  constructor(directory: string, stopping: AbortSignal) {
    this.started = this.start(directory, AbortSignal.any([stopping, this.closing.signal]));
  }

  /** The variables by which test files find the node. @throws SetupError when there can be none. */
  async variables(): Promise<NodeJS.ProcessEnv> {
    const broker = await this.started;
    if (broker instanceof SetupError) throw broker;
    return broker ? { MUSTER_TEST_AMQP_URL: broker.url, MUSTER_TEST_MANAGEMENT_URL: broker.managementUrl } : {};
  }

  async close(): Promise<void> {
    this.closing.abort();
    const broker = await this.started;
    if (broker && !(broker instanceof SetupError)) await broker.close();
  }

  /** Never rejects: the run goes on without a node until a step asks for it. */
  private async start(directory: string, signal: AbortSignal): Promise<Broker | SetupError | undefined> {
    const { MUSTER_TEST_AMQP_URL: url, MUSTER_TEST_MANAGEMENT_URL: managementUrl } = process.env;
    if (url !== undefined && managementUrl !== undefined) return undefined;
    const progress = (line: string) => console.log(`broker: ${line}`);
    try {
      return await startBroker({ directory, port: await findFreePort(), progress, signal });
    } catch (error) {
      return error instanceof SetupError ? error : new SetupError(String(error), { cause: error });
    }
  }
}

interface Surroundings {
  /** A directory for this run's files. */
  scratch: string;
  stopping: AbortSignal;
  broker?: TestBroker;
}

async function runStep(step: Step, plan: Plan, around: Surroundings): Promise<Counts> {
  console.log(`\n== ${step.heading}`);
  const begunAt = performance.now();
  const tests = step.tests && (await specsOf(step.tests));
  if (tests?.length === 0) {
    console.log("no tests here");
    return nothing;
  }
  try {
    const env = needsBroker(step) ? await around.broker?.variables() : {};
    const runs = tests
      ? deal(tests, step.processes ?? 1).map((share) => mochaArguments(share, plan))
      : [step.tool ?? []];
    const results = await Promise.all(
      runs.map(async (args, index) => {
        const countsFile = join(around.scratch, `counts-${step.name}-${index}.json`);
        const ended = await runNode(args, {
          env: { ...env, MUSTER_TEST_COUNTS_FILE: countsFile },
          stopping: around.stopping,
          ...(runs.length > 1 && { prefix: `${index + 1}| ` }),
        });
        const counts = tests ? await readCounts(countsFile) : nothing;
        if (ended === "exit code 0") return counts;
        console.log(`${step.heading}: failed (${ended})`);
        // One that failed without a failing test has failed as a whole.
        return counts.failed > 0 ? counts : addCounts(counts, { ...nothing, failed: 1 });
      }),
    );
    return results.reduce(addCounts);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    console.error(error.message);
    return { ...nothing, failed: 1 };
  } finally {
    console.log(`-- ${step.heading}: ${((performance.now() - begunAt) / 1000).toFixed(1)} s`);
  }
}

interface NodeRun {
  env: NodeJS.ProcessEnv;
  stopping: AbortSignal;
  /** Before each line of its output, where several run at once. */
  prefix?: string;
}

/** Runs Node on `args` to its end, and says how it ended. */
async function runNode(args: string[], { env, stopping, prefix }: NodeRun): Promise<string> {
  if (stopping.aborted) return "not started";
  const output = prefix === undefined ? "inherit" : "pipe";
  const group = await startGroup(process.execPath, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ["ignore", output, output],
  });
  for (const stream of [group.child.stdout, group.child.stderr])
    if (stream !== null) eachLine(stream, (line) => console.log(prefix + line));
  const finished = new AbortController();
  const aborted = new Promise<string>((resolve) => {
    stopping.addEventListener("abort", () => resolve("stopped"), { signal: finished.signal });
  });
  const late = delay(stepTimeoutMs, `still running after ${stepTimeoutMs / 60_000} minutes`, {
    signal: finished.signal,
  });
  try {
    const how = await Promise.race([group.exited, aborted, late]);
    // At SIGINT mocha ends with its report on what failed before.
    if (signalProcess(-group.identity.pid, "SIGINT"))
      await Promise.race([group.exited, delay(lastWordsMs, undefined, { ref: false })]);
    return how;
  } finally {
    finished.abort();
    late.catch(() => undefined);
    await group.end(10_000);
  }
}

function mochaArguments(tests: string[], plan: Plan): string[] {
  return [
    // What mocha's own launcher starts; that one would kill it at SIGINT, and with it the report. Same as .mocharc.json.
    ...["--import=tsx", "--enable-source-maps", "node_modules/mocha/lib/cli/cli.js"],
    ...(plan.grep === undefined ? [] : ["--grep", plan.grep]),
    // A forgotten .only would leave the rest untested. One more try: there nobody can tell a busy machine from a fault; at
    // a desk there is none, so that a test that fails now and then is seen and its cause found.
    ...(process.env.CI ? ["--forbid-only", "--retries=1"] : []),
    ...tests,
  ];
}

async function specsOf(paths: string[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) {
    if (path.endsWith(".ts")) found.push(path);
    else {
      const names = await readdir(join(root, path), { recursive: true }).catch(() => []);
      found.push(...names.filter((name) => name.endsWith(".test.ts")).map((name) => join(path, name)));
    }
  }
  return found.sort();
}

/** Without a file mocha did not get as far as its end. */
async function readCounts(file: string): Promise<Counts> {
  const text = await readFile(file, "utf8").catch(() => undefined);
  return text === undefined ? nothing : (JSON.parse(text) as Counts);
}
