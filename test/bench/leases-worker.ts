/**
 * Simulates many components in one process, over real sockets: registers them, renews each every `renewEveryMs` at a time
 * of its own, and tells the driver when it sent the last renewal of each. Killed, it takes all of them with it.
 */
import amqp from "amqplib";
import { Pool } from "undici";
import { exchanges } from "../../config-db/names.ts";

export interface WorkerPlan {
  url: string;
  amqpUrl?: string;
  ids: string[];
  ttlMs: number;
  renewEveryMs: number;
  connections: number;
  /** Whether each renewal is told to the driver: the times of those that will be killed matter. */
  isVictim: boolean;
}

export type WorkerReport =
  | { kind: "registered"; count: number; tookMs: number }
  | { kind: "sent"; id: string; atMs: number }
  | { kind: "failed"; reason: string }
  | { kind: "saturated"; renewals: number; tookMs: number };

export type WorkerOrder = { kind: "plan"; plan: WorkerPlan } | { kind: "saturate"; forMs: number };

/** The same clock in every process of a machine. */
export const machineMs = () => Number(process.hrtime.bigint()) / 1e6;

const report = (message: WorkerReport) => process.send?.(message);

class Simulation {
  readonly #plan: WorkerPlan;
  readonly #pool: Pool;
  #channel: amqp.Channel | undefined;

  constructor(plan: WorkerPlan) {
    this.#plan = plan;
    this.#pool = new Pool(plan.url, { connections: plan.connections, pipelining: 1 });
  }

  async register(): Promise<void> {
    const { amqpUrl, ids, ttlMs, connections } = this.#plan;
    if (amqpUrl !== undefined) this.#channel = await (await amqp.connect(amqpUrl, { noDelay: true })).createChannel();
    const startMs = machineMs();
    const left = [...ids];
    const registerInTurn = async () => {
      for (let id = left.pop(); id !== undefined; id = left.pop()) {
        const body = { type: `bench-${id.charCodeAt(id.length - 1) % 10}`, instance: "bench", ttlMs, tags: ["bench"] };
        await this.#ask("PUT", `/v1/components/${id}`, body);
        if (this.#plan.isVictim) report({ kind: "sent", id, atMs: machineMs() });
        this.#renewForEver(id);
      }
    };
    await Promise.all(Array.from({ length: connections }, registerInTurn));
    report({ kind: "registered", count: ids.length, tookMs: machineMs() - startMs });
  }

  /** Each component at its own phase, as real ones are. */
  #renewForEver(id: string): void {
    setTimeout(() => {
      this.#renew(id);
      setInterval(() => this.#renew(id), this.#plan.renewEveryMs);
    }, Math.random() * this.#plan.renewEveryMs);
  }

  /** As many renewals as get through. */
  async saturate(forMs: number): Promise<void> {
    const startMs = machineMs();
    let renewals = 0;
    const { ids, connections } = this.#plan;
    const renewInTurn = async (_: unknown, turn: number) => {
      for (let next = turn; machineMs() - startMs < forMs; next += connections) {
        const id = ids[next % ids.length] as string;
        await this.#ask("PUT", `/v1/components/${id}/lease`, { incarnation: 1 });
        renewals += 1;
      }
    };
    await Promise.all(Array.from({ length: connections }, renewInTurn));
    report({ kind: "saturated", renewals, tookMs: machineMs() - startMs });
  }

  #renew(id: string): void {
    const atMs = machineMs();
    if (this.#channel !== undefined) {
      const content = Buffer.from(JSON.stringify({ id, incarnation: 1 }));
      this.#channel.publish(exchanges.renewals, "", content, { contentType: "application/json" });
      if (this.#plan.isVictim) report({ kind: "sent", id, atMs });
      return;
    }
    this.#ask("PUT", `/v1/components/${id}/lease`, { incarnation: 1 }).then(
      () => this.#plan.isVictim && report({ kind: "sent", id, atMs }),
      (error: unknown) => report({ kind: "failed", reason: `${id}: ${(error as Error).message}` }),
    );
  }

  async #ask(method: "PUT", path: string, body: unknown): Promise<void> {
    const answer = await this.#pool.request({
      method,
      path,
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${text.slice(0, 200)}`);
  }
}

let simulation: Simulation | undefined;

async function obey(order: WorkerOrder): Promise<void> {
  if (order.kind === "plan") {
    simulation = new Simulation(order.plan);
    await simulation.register();
  } else await simulation?.saturate(order.forMs);
}

// Imported by the driver for its types and clock, it does nothing.
if (process.send !== undefined) {
  process.on("message", (order: WorkerOrder) => {
    obey(order).catch((error: unknown) => report({ kind: "failed", reason: String(error) }));
  });
  process.on("disconnect", () => process.exit(0));
}
