/**
 * Leases under load: `node --import tsx test/bench/leases.ts [--components 1000 …]`. Starts a coordinator with an embedded
 * store, simulates components in processes of their own, kills one of those processes in the middle, and says who expired
 * when. Everything is bounded by its flags; it leaves no process behind.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { defaultTime } from "../../coordinator/registry/judgement.ts";
import { LeaseJudge } from "../../coordinator/registry/lease-judge.ts";
import { freshVhost, stopSharedBroker } from "../support/broker.ts";
import { startCoordinator } from "../support/coordinator.ts";
import { machine, quantile } from "./harness.ts";
import { machineMs, type WorkerOrder, type WorkerPlan, type WorkerReport } from "./leases-worker.ts";

const usage = `Usage: node --import tsx test/bench/leases.ts [flags]

  --components N     components in all (default 1000)
  --kill N           of them killed in the middle (default 50)
  --seconds N        of renewing (default 20)
  --ttl-ms N         of every lease (default 15000)
  --renew-ms N       between two renewals of a component (default 5000)
  --processes N      that simulate the ones that live (default 2)
  --connections N    HTTP connections in all (default 64)
  --amqp             renew by message instead of by HTTP, over a broker that is started for it

Example: node --import tsx test/bench/leases.ts --components 10000 --kill 500 --seconds 60
`;

const { values: flags } = parseArgs({
  options: {
    components: { type: "string", default: "1000" },
    kill: { type: "string", default: "50" },
    seconds: { type: "string", default: "20" },
    "ttl-ms": { type: "string", default: "15000" },
    "renew-ms": { type: "string", default: "5000" },
    processes: { type: "string", default: "2" },
    connections: { type: "string", default: "64" },
    amqp: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const number = (flag: "components" | "kill" | "seconds" | "ttl-ms" | "renew-ms" | "processes" | "connections") =>
  Number(flags[flag]);

const rows: [string, string][] = [];
function row(what: string, value: number | string, unit = ""): void {
  const text = typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : value;
  rows.push([what, `${text}${unit && ` ${unit}`}`]);
}

class Worker {
  readonly reports: WorkerReport[] = [];
  readonly #child: ChildProcess;

  constructor(plan: WorkerPlan, heard: (report: WorkerReport) => void) {
    const entry = fileURLToPath(new URL("leases-worker.ts", import.meta.url));
    this.#child = fork(entry, { execArgv: ["--import", "tsx"], stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#child.on("message", (report: WorkerReport) => {
      if (report.kind !== "sent") this.reports.push(report);
      heard(report);
    });
    this.order({ kind: "plan", plan });
  }

  order(order: WorkerOrder): void {
    this.#child.send(order);
  }

  async until<Kind extends WorkerReport["kind"]>(kind: Kind): Promise<Extract<WorkerReport, { kind: Kind }>> {
    for (;;) {
      const found = this.reports.find((report) => report.kind === kind);
      if (found !== undefined) return found as Extract<WorkerReport, { kind: Kind }>;
      const failed = this.reports.find((report) => report.kind === "failed");
      if (failed !== undefined) throw new Error(JSON.stringify(failed));
      await once(this.#child, "message");
    }
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}

/** Reads events of all components; `told` gets kind, id and the machine's time. */
async function watch(url: string, signal: AbortSignal, told: (kind: string, id: string, atMs: number) => void) {
  const answer = await fetch(`${url}/v1/components`, { headers: { accept: "text/event-stream" }, signal });
  const events = (answer.body as ReadableStream<Uint8Array<ArrayBuffer>>)
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream());
  for await (const { event = "", data } of events) {
    if (event !== "reset") told(event, (JSON.parse(data) as { id: string }).id, machineMs());
  }
}

async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split("\n").find((each) => each.startsWith(`${name} `) || each.startsWith(`${name}{`));
  return Number(line?.split(" ").at(-1));
}

/** The judge alone, without sockets: does a renewal cost more when there are more leases? */
function judgeAlone(): void {
  for (const size of [100, 1_000, 10_000, 100_000]) {
    const judge = new LeaseJudge(defaultTime);
    const ids = Array.from({ length: size }, (_, index) => `component-${index}`);
    let nowMs = 0;
    judge.observe(nowMs);
    for (const id of ids) judge.grant(id, 15_000, nowMs + Math.random());
    const renewals = 2_000_000;
    const startMs = machineMs();
    for (let count = 0; count < renewals; count += 1) {
      judge.renew(ids[(count * 7_919) % size] as string, nowMs);
      // Each lease is renewed every 5 s of judged time.
      if (count % (size / 100) === 0) {
        nowMs += 50;
        judge.observe(nowMs);
        judge.due(1);
      }
    }
    const judgeMs = machineMs() - startMs;
    const plain = new Map(ids.map((id) => [id, { deadlineMs: 0 }]));
    const plainStartMs = machineMs();
    for (let count = 0; count < renewals; count += 1) {
      const held = plain.get(ids[(count * 7_919) % size] as string);
      if (held !== undefined) held.deadlineMs = count;
    }
    const [nsEach, plainNsEach] = [judgeMs, machineMs() - plainStartMs].map((ms) => Math.round((ms / renewals) * 1e6));
    const told = `${nsEach} ns a renewal; a bare look-up ${plainNsEach} ns`;
    row(`judge alone, ${size.toLocaleString("en")} leases`, told);
  }
}

async function main(): Promise<void> {
  const [components, kill, connections] = [number("components"), number("kill"), number("connections")];
  const [ttlMs, renewEveryMs, processes] = [number("ttl-ms"), number("renew-ms"), number("processes")];
  const vhost = flags.amqp ? await freshVhost() : undefined;
  const amqp = vhost === undefined ? {} : { amqpUrl: vhost.url };
  const coordinator = await startCoordinator(
    vhost === undefined ? {} : { ...amqp, args: ["--amqp-management-url", vhost.managementUrl] },
  );
  const abort = new AbortController();
  const workers: Worker[] = [];
  const lastSentMs = new Map<string, number>();
  const expiredAtMs = new Map<string, number>();
  let failures = 0;

  const heard = (report: WorkerReport) => {
    if (report.kind === "sent") lastSentMs.set(report.id, report.atMs);
    if (report.kind === "failed") {
      failures += 1;
      if (failures <= 5) console.error(report.reason);
    }
  };
  const startWorker = (prefix: string, count: number, share: number, isVictim: boolean) => {
    const ids = Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
    const plan = { url: coordinator.url, ...amqp, ids, ttlMs, renewEveryMs, connections: share, isVictim };
    const worker = new Worker(plan, heard);
    workers.push(worker);
    return worker;
  };

  try {
    const share = Math.max(1, Math.floor(connections / (processes + 1)));
    const victims = startWorker("victim", kill, share, true);
    const living = Array.from({ length: processes }, (_, index) =>
      startWorker(`living${index}`, Math.floor((components - kill) / processes), share, false),
    );
    for (const worker of workers) await worker.until("registered");

    void watch(coordinator.url, abort.signal, (kind, id, atMs) => {
      if (kind === "expired") expiredAtMs.set(id, atMs);
    }).catch(() => undefined);
    const cpuBefore = await metric(coordinator.url, "process_cpu_seconds_total");
    const renewalsBefore = await metric(coordinator.url, "muster_renewals_total");
    const startMs = machineMs();
    let rssBytes = 0;
    let killed = false;
    const untilMs = startMs + Math.max(number("seconds") * 1000, number("seconds") * 500 + ttlMs + 2_000);
    while (machineMs() < untilMs) {
      await delay(500);
      rssBytes = Math.max(rssBytes, await metric(coordinator.url, "process_resident_memory_bytes"));
      if (!killed && machineMs() - startMs > number("seconds") * 500) {
        await victims.kill();
        killed = true;
      }
    }
    const tookS = (machineMs() - startMs) / 1000;
    const renewals = (await metric(coordinator.url, "muster_renewals_total")) - renewalsBefore;
    const cpuS = (await metric(coordinator.url, "process_cpu_seconds_total")) - cpuBefore;
    const falseOnes = [...expiredAtMs.keys()].filter((id) => !id.startsWith("victim"));
    const delays = [...lastSentMs].flatMap(([id, sentMs]) => {
      const atMs = expiredAtMs.get(id);
      return atMs === undefined ? [] : [atMs - sentMs - ttlMs];
    });
    row("components", components);
    row(flags.amqp ? "renewals by AMQP" : "renewals by HTTP", renewals / tookS, "/s");
    row("coordinator's CPU meanwhile", (cpuS / tookS) * 100, "% of a core");
    row("renewals a CPU-second", renewals / cpuS);
    row("renewals that failed", failures);
    row("false expiries", falseOnes.length);
    row(`expired of ${lastSentMs.size} killed`, delays.length);
    row("earliest, beyond the TTL", Math.min(...delays), "ms");
    row("p50 beyond the TTL", quantile(delays, 0.5), "ms");
    row("p99 beyond the TTL", quantile(delays, 0.99), "ms");
    const away = coordinator.process.lines.flatMap((line) => {
      const found = /"awayMs":(\d+)/.exec(line);
      return found === null ? [] : [Number(found[1])];
    });
    row("times that the judge was away", away.length === 0 ? 0 : `${away.length}: ${away.join(", ")} ms`);
    row("coordinator's RSS at most", rssBytes / 1024 / 1024, "MiB");

    if (!flags.amqp) {
      for (const worker of living.slice(1)) await worker.kill();
      living[0]?.order({ kind: "saturate", forMs: 5_000 });
      const saturated = await living[0]?.until("saturated");
      if (saturated)
        row(`renewals at most, ${connections} connections`, (saturated.renewals / saturated.tookMs) * 1000, "/s");
    }
  } finally {
    abort.abort();
    await Promise.all(workers.map((worker) => worker.kill()));
    await coordinator.close();
    await vhost?.close();
    await stopSharedBroker();
  }
  judgeAlone();
}

if (flags.help) console.log(usage);
else {
  console.log(machine());
  await main();
  const width = Math.max(...rows.map(([what]) => what.length));
  for (const [what, value] of rows) console.log(`${what.padEnd(width)}  ${value}`);
}
