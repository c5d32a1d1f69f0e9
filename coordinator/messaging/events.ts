/** Events: published for those who speak HTTP, and streamed to them by topic pattern. */
import { MusterError } from "../../config-db/errors.ts";
import { eventKey, exchanges } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type HttpBody, type Letter, publishOptions, readLetter, toHttpBody } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import { matchesTopic } from "./topic.ts";

export interface EventsOptions {
  broker: Broker;
  wallClock: () => Date;
}

/** An event as a subscriber sees it. */
export type EventNews = {
  id: string;
  /** The routing key: `<type>.<component>.<name>`. */
  topic: string;
  name: string;
  from?: string;
  sentAt?: string;
  traceparent?: string;
} & HttpBody;

const subscribersMax = 1_000;
const prefetch = 1_000;

interface Subscriber {
  pattern: string;
  give(event: EventNews): void;
}

export class Events {
  readonly #options: EventsOptions;
  readonly #subscribers = new Set<Subscriber>();
  #opened: ReturnType<Broker["channel"]> | undefined;
  #queue = "";
  /** Bindings and unbindings one after another, so that the last wish stands. */
  #binding: Promise<void> = Promise.resolve();

  constructor(options: EventsOptions) {
    this.#options = options;
  }

  async close(): Promise<void> {
    this.#subscribers.clear();
    await this.#opened?.close();
    this.#opened = undefined;
  }

  async publish(letter: Letter, from: { type: string; id: string }): Promise<void> {
    const { broker, wallClock } = this.#options;
    const key = eventKey(from.type, from.id, letter.envelope.name);
    const options = publishOptions(letter.envelope, wallClock().getTime(), { persistent: false });
    await broker.publish({ exchange: exchanges.events, key, content: letter.content, options });
  }

  /**
   * Gives every event whose routing key matches `pattern` (`*` one word, `#` any number), until the returned function is
   * called. One queue serves all subscribers of this process; what is published while the broker is away is not kept.
   */
  async subscribe(pattern: string, give: (event: EventNews) => void): Promise<() => void> {
    if (this.#subscribers.size >= subscribersMax)
      throw new MusterError("too-many", `${subscribersMax} event streams are open on this coordinator already`, {
        retryAfterMs: 5_000,
      });
    const subscriber = { pattern, give };
    this.#subscribers.add(subscriber);
    this.#opened ??= this.#open();
    const channel = await this.#opened.channel.opened(AbortSignal.timeout(openTimeoutMs)).catch(() => undefined);
    if (channel !== undefined) await this.#bind(() => channel.bindQueue(this.#queue, exchanges.events, pattern));
    return () => {
      this.#subscribers.delete(subscriber);
      if ([...this.#subscribers].some((other) => other.pattern === pattern)) return;
      const current = this.#opened?.channel.current;
      if (current !== undefined) void this.#bind(() => current.unbindQueue(this.#queue, exchanges.events, pattern));
    };
  }

  #open(): ReturnType<Broker["channel"]> {
    return this.#options.broker.channel({
      name: "events",
      setup: async (channel) => {
        await channel.assertExchange(exchanges.events, "topic", { durable: true });
        const limits = { "x-max-length": 10_000, "x-overflow": "drop-head" };
        const { queue } = await channel.assertQueue("", {
          exclusive: true,
          autoDelete: true,
          durable: false,
          arguments: limits,
        });
        this.#queue = queue;
        for (const pattern of new Set([...this.#subscribers].map((subscriber) => subscriber.pattern)))
          await channel.bindQueue(queue, exchanges.events, pattern);
        await consume(channel, queue, { prefetch }, (message) => {
          channel.ack(message);
          const letter = readLetter(message);
          if (!("fault" in letter)) this.#give(message.fields.routingKey, letter);
        });
      },
    });
  }

  #bind(work: () => Promise<unknown>): Promise<void> {
    // A channel that was lost meanwhile binds again in its setup.
    this.#binding = this.#binding.then(work).then(
      () => undefined,
      () => undefined,
    );
    return this.#binding;
  }

  #give(topic: string, letter: Letter): void {
    const { messageId, name, from, sentAtMs, traceparent } = letter.envelope;
    const news: EventNews = {
      id: messageId,
      topic,
      name,
      ...(from === undefined ? {} : { from }),
      ...(sentAtMs === undefined ? {} : { sentAt: new Date(sentAtMs).toISOString() }),
      ...(traceparent === undefined ? {} : { traceparent }),
      ...toHttpBody(letter),
    };
    for (const { pattern, give } of [...this.#subscribers]) if (matchesTopic(pattern, topic)) give(news);
  }
}

const openTimeoutMs = 5_000;
