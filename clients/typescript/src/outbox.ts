/** Keeps what is to be sent until something has taken it over: bounded, in order, with a deadline for each. */
import { MusterError } from "../../../config-db/errors.ts";
import { backoffMs } from "./backoff.ts";
import type { Outgoing } from "./message.ts";
import type { Reply, Sender, Sent } from "./transport.ts";

export interface OutboxOptions {
  messagesMax: number;
  bytesMax: number;
}

interface Entry {
  outgoing: Outgoing;
  giveUpAtMs: number;
  resolve(reply: Reply | undefined): void;
  reject(error: MusterError): void;
  /** The sender that has it in hand; an answer from an earlier one comes too late. */
  sender: Sender | undefined;
  attempt: number;
  retryAtMs: number;
}

/** Deadlines and retries are looked at this often: finer would cost a timer per message. */
const sweepEveryMs = 100;
const retry = { firstMs: 200, maxMs: 5_000 };

export class Outbox {
  readonly #options: OutboxOptions;
  /** In the order of sending, which repetition keeps. */
  readonly #entries = new Set<Entry>();
  #bytes = 0;
  #sender: Sender | undefined;
  #sweep: NodeJS.Timeout | undefined;
  #empty: (() => void)[] = [];

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#entries.size;
  }

  /**
   * Sends now, or when something can. Resolves when the broker or a coordinator has taken the message over; for a request
   * by HTTP with its reply.
   * @throws MusterError `too-many` at once when the outbox is full, and when the target's queue is; `deadline-exceeded`
   *   when nothing took it within `timeoutMs`: whether it arrived is unknown then; `no-such-target` and the like.
   */
  send(outgoing: Outgoing, timeoutMs: number): Promise<Reply | undefined> {
    const { messagesMax, bytesMax } = this.#options;
    const bytes = this.#bytes + outgoing.content.length;
    if (this.#entries.size >= messagesMax || bytes > bytesMax) {
      const told = `the outbox is full: ${this.#entries.size} of ${messagesMax} messages, ${this.#bytes} of ${bytesMax} bytes wait`;
      return Promise.reject(new MusterError("too-many", `${told}; nothing was sent, wait for earlier ones`));
    }
    return new Promise((resolve, reject) => {
      const giveUpAtMs = performance.now() + timeoutMs;
      const entry: Entry = { outgoing, giveUpAtMs, resolve, reject, sender: undefined, attempt: 0, retryAtMs: 0 };
      this.#entries.add(entry);
      this.#bytes = bytes;
      this.#sweep ??= setInterval(() => this.#look(), sweepEveryMs);
      this.#post(entry);
    });
  }

  /** Hands everything that waits to `sender`, in order; without one, what is sent waits. */
  use(sender: Sender | undefined): void {
    if (sender === this.#sender) return;
    this.#sender = sender;
    for (const entry of this.#entries) {
      entry.sender = undefined;
      entry.retryAtMs = 0;
      this.#post(entry);
    }
  }

  /** Resolves when nothing waits any more, or after `timeoutMs`; what waits then is rejected. */
  async close(timeoutMs: number): Promise<void> {
    if (this.#entries.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#empty.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    this.#sender = undefined;
    const error = new MusterError("unreachable", "the component closed before this could be sent");
    for (const entry of this.#entries) this.#end(entry, () => entry.reject(error));
  }

  #post(entry: Entry): void {
    const sender = this.#sender;
    if (sender === undefined) return;
    entry.sender = sender;
    const isWanted = () => entry.sender === sender;
    sender.post(
      entry.outgoing,
      (sent) => {
        if (isWanted()) this.#settle(entry, sent);
      },
      isWanted,
    );
  }

  #settle(entry: Entry, sent: Sent): void {
    if (!("error" in sent)) {
      this.#end(entry, () => entry.resolve(sent.reply));
      return;
    }
    if (!sent.isLost) {
      this.#end(entry, () => entry.reject(sent.error));
      return;
    }
    entry.sender = undefined;
    const waitMs = Math.max(sent.error.retryAfterMs ?? 0, backoffMs(entry.attempt, retry));
    entry.attempt += 1;
    entry.retryAtMs = performance.now() + waitMs;
  }

  #end(entry: Entry, tell: () => void): void {
    if (!this.#entries.delete(entry)) return;
    entry.sender = undefined;
    this.#bytes -= entry.outgoing.content.length;
    if (this.#entries.size === 0) {
      clearInterval(this.#sweep);
      this.#sweep = undefined;
      for (const resolve of this.#empty.splice(0)) resolve();
    }
    tell();
  }

  #look(): void {
    const nowMs = performance.now();
    for (const entry of this.#entries) {
      if (entry.giveUpAtMs <= nowMs) {
        const told = `${entry.outgoing.kind} "${entry.outgoing.name}" was not taken over in time`;
        const doubt =
          entry.attempt > 0 || entry.sender !== undefined ? "; whether it arrived is unknown" : "; it was never sent";
        this.#end(entry, () => entry.reject(new MusterError("deadline-exceeded", told + doubt)));
      } else if (entry.sender === undefined && entry.retryAtMs <= nowMs) {
        this.#post(entry);
      }
    }
  }
}
