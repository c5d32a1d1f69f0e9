/** A channel that is opened again, with all that was set up on it, whenever it or its connection is lost. */
import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import type { Channel, ConfirmChannel, ConsumeMessage, Options } from "amqplib";
import type { Logger } from "pino";
import { type Backoff, backoffMs } from "./backoff.ts";
import type { Link } from "./link.ts";

export interface LastingChannelOptions {
  link: Link;
  /** For logs. */
  name: string;
  logger: Logger;
  /** Runs on every channel before it is given out: consumers, declarations. A throw closes it and it is tried again. */
  setup?: (channel: ConfirmChannel) => Promise<void>;
  /** Hears of each loss of a channel, also of one that was lost during its setup. */
  onLost?: () => void;
}

const reopen: Backoff = { firstMs: 50, maxMs: 3_000 };
const closeTimeoutMs = 5_000;

export class LastingChannel {
  readonly #options: LastingChannelOptions;
  readonly #abort = new AbortController();
  readonly #waiting = new Set<(channel: ConfirmChannel) => void>();
  #channel: ConfirmChannel | undefined;
  #running: Promise<void> | undefined;

  constructor(options: LastingChannelOptions) {
    this.#options = options;
    // With the broker away every publish that waits listens to it: that is no leak.
    setMaxListeners(0, this.#abort.signal);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** The open channel, or undefined while there is none. */
  get current(): ConfirmChannel | undefined {
    return this.#channel;
  }

  /** The channel, as soon as there is one. Rejects when `waiting` aborts or this closes first. */
  async opened(waiting: AbortSignal): Promise<ConfirmChannel> {
    const signals = [waiting, this.#abort.signal];
    for (const signal of signals) signal.throwIfAborted();
    if (this.#channel !== undefined) return this.#channel;
    return new Promise((resolve, reject) => {
      // Not AbortSignal.any: in Node 20 it keeps no hold of a timeout's signal, which may be collected and never abort.
      const leave = () => {
        this.#waiting.delete(give);
        for (const signal of signals) signal.removeEventListener("abort", refuse);
      };
      const give = (channel: ConfirmChannel) => {
        leave();
        resolve(channel);
      };
      const refuse = (event: Event) => {
        leave();
        reject((event.target as AbortSignal).reason);
      };
      this.#waiting.add(give);
      for (const signal of signals) signal.addEventListener("abort", refuse);
    });
  }

  async close(): Promise<void> {
    this.#abort.abort(new Error(`the channel ${this.#options.name} is closed`));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    const { link, logger, name } = this.#options;
    for (let failures = 0; !signal.aborted; ) {
      try {
        const connection = await link.connected(signal);
        await this.#openOnce(await connection.createConfirmChannel(), () => {
          failures = 0;
        });
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        // A lost connection is told by its link; a channel alone is lost by a fault worth knowing.
        if (link.up && failures === 1) logger.warn({ channel: name, error: String(error) }, "a channel was lost");
      }
      const waitMs = backoffMs(reopen, Math.max(1, failures), Math.random());
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #openOnce(channel: ConfirmChannel, opened: () => void): Promise<void> {
    const { setup, onLost, logger } = this.#options;
    const { signal } = this.#abort;
    let fault: unknown = "closed";
    let given = false;
    const ended = new Promise<void>((resolve) => {
      channel.once("close", () => {
        this.#channel = undefined;
        onLost?.();
        resolve();
      });
    });
    channel.on("error", (error) => {
      fault = error;
      this.#options.link.tellFault(error);
    });
    channel.on("handler-error", (error: Error) => logger.error({ err: error }, "a consumer threw"));
    const shut = () => void closeQuietly(channel);
    signal.addEventListener("abort", shut, { once: true });
    try {
      signal.throwIfAborted();
      // A setup that waits for something else must not outlive its channel.
      await Promise.race([setup?.(channel), ended.then(() => Promise.reject(fault))]);
      signal.throwIfAborted();
      opened();
      given = true;
      this.#channel = channel;
      for (const give of [...this.#waiting]) give(channel);
    } catch (error) {
      await closeQuietly(channel);
      throw error;
    } finally {
      if (!given) signal.removeEventListener("abort", shut);
    }
    await ended;
    signal.removeEventListener("abort", shut);
    if (!signal.aborted) throw fault;
  }
}

/**
 * Consumes `queue`. When the broker cancels the consumer (its queue was deleted) the channel is closed, so that a
 * lasting channel sets everything up again. A throw of `onMessage` is reported by the channel's "handler-error".
 */
export async function consume(
  channel: Channel,
  queue: string,
  options: Options.Consume & { prefetch?: number },
  onMessage: (message: ConsumeMessage) => void,
): Promise<string> {
  const { prefetch, ...rest } = options;
  if (prefetch !== undefined) await channel.prefetch(prefetch);
  const { consumerTag } = await channel.consume(
    queue,
    (message) => {
      if (message === null) void closeQuietly(channel);
      else onMessage(message);
    },
    rest,
  );
  return consumerTag;
}

/**
 * Closes a channel whatever state it is in. Resolves when it is closed, and at the latest after `limitMs`: RabbitMQ answers
 * a close that crosses its own only sometimes. Whoever has the channel hears of its end then too.
 */
export async function closeQuietly(channel: Channel, limitMs = closeTimeoutMs): Promise<void> {
  // amqplib's promise stays open when the connection ends first; the event comes then too.
  const ended = new Promise<void>((resolve) => channel.once("close", resolve));
  const timer = setTimeout(() => channel.emit("close"), limitMs);
  try {
    await Promise.race([channel.close(), ended]);
  } catch {
    // It is closed already, which is what was wanted.
  } finally {
    clearTimeout(timer);
  }
}
