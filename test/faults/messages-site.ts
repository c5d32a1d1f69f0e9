/** A site with a broker of its own that can be killed, and components in processes that can be killed. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { settleDefaultMs } from "../../coordinator/messaging/provisioning.ts";
import { type Broker, startBroker } from "../../scripts/broker.ts";
import { findFreePort } from "../../scripts/ports.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { type SpawnedProcess, spawnEntry } from "../support/processes.ts";

/** One run of a handler. */
export interface Run {
  /** Which process it was in: a number that rises with every start. */
  process: number;
  component: string;
  command: string;
  body: string;
}

export class FaultSite {
  readonly #directory: string;
  readonly #port: number;
  readonly #workers = new Map<string, { spawned: SpawnedProcess; number: number; ids: string[] }>();
  readonly #ended: { spawned: SpawnedProcess; number: number }[] = [];
  #started = 0;
  broker: Broker;
  coordinator: RunningCoordinator;

  private constructor(directory: string, port: number, broker: Broker, coordinator: RunningCoordinator) {
    this.#directory = directory;
    this.#port = port;
    this.broker = broker;
    this.coordinator = coordinator;
  }

  static async start(): Promise<FaultSite> {
    const directory = await mkdtemp(join(tmpdir(), "muster-fault-broker-"));
    const port = await findFreePort();
    const broker = await startBroker({ directory, port });
    const args = ["--amqp-management-url", broker.managementUrl];
    const coordinator = await startCoordinator({ amqpUrl: broker.url, queueSettleMs: settleDefaultMs, args });
    return new FaultSite(directory, port, broker, coordinator);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#workers.values()].map(({ spawned }) => spawned.close()));
    await this.coordinator.close();
    await this.broker.close();
    await rm(this.#directory, { recursive: true, force: true });
  }

  /** Resolves when the components of the process consume. */
  async startWorker(name: string, type: string, ids: string[]): Promise<void> {
    const spawned = await spawnEntry("test/faults/messages-worker.ts", { args: [this.coordinator.url, type, ...ids] });
    this.#started += 1;
    this.#workers.set(name, { spawned, number: this.#started, ids });
    await spawned.line(/^working$/, 60_000);
  }

  async killWorker(name: string): Promise<string[]> {
    const worker = this.#workers.get(name);
    if (worker === undefined) throw new Error(`no worker ${name}`);
    this.#workers.delete(name);
    this.#ended.push(worker);
    await worker.spawned.kill("SIGKILL");
    return worker.ids;
  }

  /** Kills the broker as a power cut would, and starts it again on what its disk has. */
  async killBroker(): Promise<void> {
    process.kill(this.broker.pid, "SIGKILL");
    await this.broker.exited;
    await this.broker.close();
    this.broker = await startBroker({ directory: this.#directory, port: this.#port });
  }

  runs(): Run[] {
    return [...this.#ended, ...this.#workers.values()].flatMap(({ spawned, number }) =>
      spawned.lines.flatMap((line) => {
        const [word, component = "", command = "", body = ""] = line.split(" ");
        return word === "ran" ? [{ process: number, component, command, body }] : [];
      }),
    );
  }

  /** Sends a tracked command; on 503 and 429, and while nobody answers, again under the same key. */
  async send(id: string, to: Record<string, unknown>, body: unknown): Promise<void> {
    for (;;) {
      const answer = await this.coordinator
        .call("POST", "/v1/commands", { to, name: "work", body }, { "idempotency-key": id })
        .catch(() => undefined);
      if (answer?.status === 202) return;
      if (answer !== undefined && answer.status !== 503 && answer.status !== 429)
        throw new Error(`${id}: ${answer.status} ${JSON.stringify(answer.body)}`);
      await delay(100);
    }
  }

  /** State by target of a command. */
  async states(id: string): Promise<Record<string, string>> {
    const { status, body } = await this.coordinator.call("GET", `/v1/commands/${id}`);
    if (status !== 200) throw new Error(`${id}: ${status} ${JSON.stringify(body)}`);
    const targets = body.targets as Record<string, { state: string }>;
    return Object.fromEntries(Object.entries(targets).map(([target, { state }]) => [target, state]));
  }
}

/** Runs `work` for every item, so many at a time, in their order. */
export async function pooled<Item>(items: Item[], atOnce: number, work: (item: Item) => Promise<void>): Promise<void> {
  const left = [...items];
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item);
    }),
  );
}
