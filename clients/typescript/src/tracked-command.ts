/** A command whose fate the coordinator keeps: per target, until all have ended. */
import { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import type { Bridge } from "./bridge.ts";

export interface Sent {
  /** The message's id, by which logs and dead letters name it. */
  id: string;
}

export type TargetState = "queued" | "delivered" | "done" | "failed" | "expired" | "dead-lettered";

export interface CommandState {
  id: string;
  to: Target;
  name: string;
  sentAt: string;
  deadlineAt?: string;
  targets: Record<string, { state: TargetState; at: string; attempt?: number; reason?: string }>;
}

const finalStates: readonly TargetState[] = ["done", "failed", "expired", "dead-lettered"];
const pollMaxMs = 30_000;

export class TrackedCommand implements Sent {
  readonly id: string;
  readonly #bridge: Bridge;

  constructor(bridge: Bridge, id: string) {
    this.#bridge = bridge;
    this.id = id;
  }

  /** How it stands with each target now. */
  async state(): Promise<CommandState> {
    return (await this.#bridge.ask<CommandState>({ path: this.#path })).body;
  }

  /**
   * Resolves when every target has come to an end, good or bad: look at each `state`.
   * @throws MusterError `deadline-exceeded` when that takes longer; the command itself goes on.
   */
  async finished({ timeoutMs = 60_000 } = {}): Promise<CommandState> {
    const giveUpAtMs = performance.now() + timeoutMs;
    let etag: string | undefined;
    for (;;) {
      const leftMs = Math.floor(giveUpAtMs - performance.now());
      if (leftMs <= 0) {
        throw new MusterError("deadline-exceeded", `command ${this.id} had not ended everywhere after ${timeoutMs} ms`);
      }
      const waitMs = Math.min(leftMs, pollMaxMs);
      const answer = await this.#bridge.ask<CommandState>({
        path: this.#path,
        ...(etag !== undefined && { query: { waitMs }, headers: { "if-none-match": `"${etag}"` } }),
        timeoutMs: waitMs + 5_000,
      });
      if (answer.status !== 304 && hasEnded(answer.body)) return answer.body;
      etag = answer.etag;
    }
  }

  get #path(): string {
    return `/v1/commands/${encodeURIComponent(this.id)}`;
  }
}

function hasEnded({ targets }: CommandState): boolean {
  const states = Object.values(targets);
  return states.length > 0 && states.every(({ state }) => finalStates.includes(state));
}
