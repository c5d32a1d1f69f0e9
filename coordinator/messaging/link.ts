/**
 * One connection to the broker that comes back by itself. amqplib's own recovery runs topology and consumers through one
 * callback; here each user of a connection restores what is its own (lasting-channel.ts).
 */
import { setTimeout as delay } from "node:timers/promises";
import { type ChannelModel, connect } from "amqplib";
import type { Logger } from "pino";
import { type Backoff, backoffMs } from "./backoff.ts";

export interface LinkOptions {
  url: string;
  /** What the broker's management page shows for the connection. */
  name: string;
  logger: Logger;
  random?: () => number;
}

/** What the broker has by name. */
export interface Entity {
  kind: "exchange" | "queue";
  name: string;
}

const reconnect: Backoff = { firstMs: 100, maxMs: 3_000 };
/** A broker that takes the socket and then says nothing. */
const connectTimeoutMs = 10_000;
/** Two missed ones and the peer counts as gone: a frozen broker is noticed within 8 s, a frozen leader replaced. */
const heartbeatSeconds = 4;

export class Link {
  readonly #options: LinkOptions;
  readonly #abort = new AbortController();
  readonly #waiting = new Set<(connection: ChannelModel) => void>();
  readonly #listeners = new Set<(up: boolean) => void>();
  readonly #missed = new Set<(what: Entity) => void>();
  #connection: ChannelModel | undefined;
  #running: Promise<void> | undefined;
  #blocked: string | undefined;
  readonly #blockedUntil = new Set<() => void>();

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  /** Begins to connect and goes on until `close`. */
  start(): void {
    this.#running ??= this.#run();
  }

  get up(): boolean {
    return this.#connection !== undefined;
  }

  /** Why the broker reads nothing more from this connection: what it lacks, in its words. It says so at a publish. */
  get blocked(): string | undefined {
    return this.#blocked;
  }

  /** Resolves when the broker reads again, or the connection is lost. Rejects when `signal` aborts first. */
  async unblocked(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#blocked === undefined) return;
    await new Promise<void>((resolve, reject) => {
      const give = () => {
        signal.removeEventListener("abort", refuse);
        resolve();
      };
      const refuse = () => {
        this.#blockedUntil.delete(give);
        reject(signal.reason);
      };
      this.#blockedUntil.add(give);
      signal.addEventListener("abort", refuse, { once: true });
    });
  }

  #unblock(): void {
    this.#blocked = undefined;
    for (const give of [...this.#blockedUntil]) give();
    this.#blockedUntil.clear();
  }

  /** `listener` hears of every connection made (true) and lost (false). @returns what ends that. */
  onChange(listener: (up: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** `listener` hears of every exchange and queue that a channel was lost for. @returns what ends that. */
  onMissing(listener: (what: Entity) => void): () => void {
    this.#missed.add(listener);
    return () => this.#missed.delete(listener);
  }

  /** A channel ended with this error of the broker. */
  tellFault(error: { code?: number; message: string }): void {
    const [, kind, name] = /NOT_FOUND - no (exchange|queue) '([^']+)'/.exec(error.message) ?? [];
    if (error.code !== 404 || kind === undefined || name === undefined) return;
    for (const listener of this.#missed) listener({ kind: kind as Entity["kind"], name });
  }

  /** The connection, as soon as there is one. Rejects when `signal` aborts first. */
  async connected(signal: AbortSignal): Promise<ChannelModel> {
    signal.throwIfAborted();
    if (this.#connection !== undefined) return this.#connection;
    return new Promise((resolve, reject) => {
      const give = (connection: ChannelModel) => {
        signal.removeEventListener("abort", refuse);
        resolve(connection);
      };
      const refuse = () => {
        this.#waiting.delete(give);
        reject(signal.reason);
      };
      this.#waiting.add(give);
      signal.addEventListener("abort", refuse, { once: true });
    });
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    const { logger, name, random = Math.random } = this.#options;
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#connectOnce(() => {
          if (failures > 0) logger.info({ connection: name, recovered: true }, "the broker is back");
          failures = 0;
        });
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        if (failures === 1) logger.warn({ connection: name, error: String(error) }, "the broker cannot be reached");
      }
      const waitMs = backoffMs(reconnect, Math.max(1, failures), random());
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Holds one connection for as long as it lasts; rejects with what ended it. */
  async #connectOnce(connected: () => void): Promise<void> {
    const { url, name, logger } = this.#options;
    const { signal } = this.#abort;
    const connection = await connect(withHeartbeat(url), {
      noDelay: true, // without it sequential request–reply waits 40 ms for Nagle's algorithm
      timeout: connectTimeoutMs,
      clientProperties: { connection_name: name },
    });
    await new Promise<void>((resolve, reject) => {
      let fault: unknown = "closed by the broker";
      const shut = () => connection.close().catch(() => undefined);
      // amqplib emits "error" before "close"; without a listener it would end the process.
      connection.on("error", (error) => {
        fault = error;
      });
      connection.on("blocked", (reason: string) => {
        this.#blocked = reason;
        logger.warn({ connection: name }, takesNone(reason));
      });
      connection.on("unblocked", () => {
        logger.info({ connection: name, recovered: true }, "the broker takes messages again");
        this.#unblock();
      });
      connection.on("handler-error", (error: Error) =>
        logger.error({ err: error }, "a listener of the broker's threw"),
      );
      connection.once("close", (error?: Error) => {
        signal.removeEventListener("abort", shut);
        this.#connection = undefined;
        this.#unblock();
        for (const listener of [...this.#listeners]) listener(false);
        if (signal.aborted) resolve();
        else reject(error ?? fault);
      });
      signal.addEventListener("abort", shut, { once: true });
      if (signal.aborted) {
        void shut();
        return;
      }
      this.#connection = connection;
      connected();
      for (const listener of [...this.#listeners]) listener(true);
      for (const give of [...this.#waiting]) give(connection);
      this.#waiting.clear();
    });
  }
}

/** @param reason such as `low on disk` */
export function takesNone(reason: string): string {
  return `the broker takes no messages: it is ${reason}`;
}

function withHeartbeat(url: string): string {
  const parsed = new URL(url);
  if (!parsed.searchParams.has("heartbeat")) parsed.searchParams.set("heartbeat", String(heartbeatSeconds));
  return parsed.href;
}
