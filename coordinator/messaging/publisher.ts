/**
 * Publishes with confirms. Resolves when the broker has taken responsibility, and says so when no queue wanted the
 * message or a full one refused it. Over a lost channel it publishes again, the same `messageId`: at least once.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Message, Options } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { LastingChannel } from "./lasting-channel.ts";
import { type Link, takesNone } from "./link.ts";

/** `unroutable`: no queue has the key, nothing is stored. `full`: a queue refused it; others of a fanout may have it. */
export type PublishOutcome = "routed" | "unroutable" | "full";

export interface Publication {
  exchange: string;
  key: string;
  content: Buffer;
  options: Options.Publish;
  /** How long to try while the broker is away or silent. Default 5 s. */
  timeoutMs?: number;
  /** Written at most once, and no more when this aborts: a second one, or a late one, would do harm. */
  once?: AbortSignal;
}

export interface PublisherOptions {
  link: Link;
  logger: Logger;
  /** Beyond these unconfirmed messages or bytes a publish is refused at once with `too-many`. */
  inFlightMax?: number;
  inFlightBytesMax?: number;
}

const defaultTimeoutMs = 5_000;
const retryAfterMs = 1_000;
const retryMs = 10;
/** A channel that the broker closes over and over says that something published breaks it. */
const triesMax = 20;

export class Publisher {
  readonly #link: Link;
  readonly #channel: LastingChannel;
  readonly #returned = new Set<string>();
  readonly #limits: { count: number; bytes: number };
  #count = 0;
  #bytes = 0;

  constructor({ link, logger, inFlightMax = 20_000, inFlightBytesMax = 64 * 1024 * 1024 }: PublisherOptions) {
    this.#limits = { count: inFlightMax, bytes: inFlightBytesMax };
    this.#link = link;
    this.#channel = new LastingChannel({
      link,
      logger,
      name: "publish",
      setup: async (channel) => {
        // The broker sends a return just before its confirm, on the same channel.
        channel.on("return", (message: Message) => this.#returned.add(keyOf(message)));
      },
    });
  }

  start(): void {
    this.#channel.start();
  }

  async close(): Promise<void> {
    await this.#channel.close();
  }

  /** Messages handed over and not yet confirmed. */
  get inFlight(): number {
    return this.#count;
  }

  /**
   * @throws MusterError `too-many` at once when too much is unconfirmed; `refused` when no frame can hold the message;
   * `broker-unavailable` when the broker did not answer in time: the message may still arrive.
   */
  async publish(publication: Publication): Promise<PublishOutcome> {
    const bytes = publication.content.length;
    if (this.#count >= this.#limits.count || this.#bytes + bytes > this.#limits.bytes)
      throw new MusterError(
        "too-many",
        `${this.#count} messages (${this.#bytes} bytes) wait for the broker's confirm, the limit is ${this.#limits.count} ` +
          `(${this.#limits.bytes} bytes); this one was not sent, try again`,
        { retryAfterMs },
      );
    this.#count += 1;
    this.#bytes += bytes;
    const { timeoutMs = defaultTimeoutMs } = publication;
    const endsAtMs = performance.now() + timeoutMs;
    try {
      return await this.#try(publication, endsAtMs);
    } catch (error) {
      if (isUnwritable(error))
        throw new MusterError("refused", `AMQP cannot carry the message: ${error.message}; nothing was sent`, {
          cause: error,
        });
      const { blocked } = this.#link;
      const told = isTimeout(error)
        ? `${blocked === undefined ? "the broker did not confirm" : takesNone(blocked)} within ${timeoutMs} ms`
        : `the broker does not take messages for ${publication.exchange} (${(error as Error).message})`;
      throw new MusterError(
        "broker-unavailable",
        `${told}; the message may still arrive, send it again with the same id`,
        { retryAfterMs, cause: error },
      );
    } finally {
      this.#count -= 1;
      this.#bytes -= bytes;
    }
  }

  async #try(publication: Publication, endsAtMs: number): Promise<PublishOutcome> {
    for (let tries = 1; ; tries += 1) {
      // AbortSignal takes whole milliseconds only.
      const leftMs = () => Math.max(0, Math.ceil(endsAtMs - performance.now()));
      // What is written to a connection that the broker does not read arrives when its sender has long given up.
      if (this.#link.blocked !== undefined) await this.#link.unblocked(AbortSignal.timeout(leftMs()));
      const channel = this.#channel.current ?? (await this.#channel.opened(AbortSignal.timeout(leftMs())));
      publication.once?.throwIfAborted();
      try {
        return await this.#once(channel, publication, leftMs());
      } catch (error) {
        if (isUnwritable(error) || isTimeout(error) || publication.once !== undefined || tries >= triesMax) throw error;
        // A channel that broke at once would otherwise be tried without a pause.
        await delay(tries * retryMs);
      }
    }
  }

  #once(
    channel: NonNullable<LastingChannel["current"]>,
    { exchange, key, content, options }: Publication,
    timeoutMs: number,
  ): Promise<PublishOutcome> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      channel.publish(exchange, key, content, options, (error: Error | null) => {
        clearTimeout(timer);
        if (error === null) {
          const returned =
            options.mandatory === true && this.#returned.delete(`${exchange} ${key} ${options.messageId}`);
          resolve(returned ? "unroutable" : "routed");
        } else if (error.message === "message nacked") resolve("full");
        else reject(error);
      });
      timer = setTimeout(() => reject(new DOMException("no confirm in time", timeoutName)), timeoutMs);
    });
  }
}

/** What `AbortSignal.timeout` calls it, too. */
const timeoutName = "TimeoutError";

function isTimeout(error: unknown): boolean {
  return (error as Error).name === timeoutName;
}

/** What amqplib throws for properties or headers that are too long, before it writes anything. */
function isUnwritable(error: unknown): error is TypeError | RangeError {
  return error instanceof TypeError || error instanceof RangeError;
}

function keyOf({ fields, properties }: Message): string {
  return `${fields.exchange} ${fields.routingKey} ${properties.messageId}`;
}
