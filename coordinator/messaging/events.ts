/** Events: published for those who speak HTTP, and streamed to them by topic pattern. */
import { MusterError } from "../../config-db/errors.ts";
import { eventKey, exchanges } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type HttpBody, type Letter, publishOptions, readLetter, toHttpBody } from "./envelope.ts";
import { OwnQueue } from "./own-queue.ts";
import { bindableTopic, matchesTopic } from "./topic.ts";

export interface EventsOptions {
  broker: Broker;
  wallClock: () => Date;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
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
const limits = { "x-max-length": 10_000, "x-overflow": "drop-head" };

interface Subscriber {
  pattern: string;
  give(event: EventNews): void;
}

export class Events {
  readonly #options: EventsOptions;
  readonly #subscribers = new Set<Subscriber>();
  readonly #queue: OwnQueue;

  constructor(options: EventsOptions) {
    this.#options = options;
    const { broker, ready } = options;
    this.#queue = new OwnQueue({
      ...{ broker, name: "events", exchange: exchanges.events, ready, prefetch, limits },
      keys: () => new Set([...this.#subscribers].map(({ pattern }) => pattern)),
      onMessage: (message) => {
        const letter = readLetter(message);
        if (!("fault" in letter)) this.#give(message.fields.routingKey, letter);
      },
    });
  }

  async close(): Promise<void> {
    this.#subscribers.clear();
    await this.#queue.close();
  }

  /** @throws MusterError `broker-unavailable` */
  async publish(letter: Letter, from: { type: string; id: string }): Promise<void> {
    const { broker, wallClock, ready } = this.#options;
    await ready(exchanges.events);
    const key = eventKey(from.type, from.id, letter.envelope.name);
    const options = publishOptions(letter.envelope, wallClock().getTime(), { persistent: false });
    await broker.publish({ exchange: exchanges.events, key, content: letter.content, options });
  }

  /**
   * Gives every event whose routing key matches `wanted` (`*` one word, `#` any number), until the returned function is
   * called. One queue serves all subscribers of this process; what is published while the broker is away is not kept.
   * @throws MusterError `invalid-request` for a pattern with too many `#` (topic.ts); `too-many`.
   */
  async subscribe(wanted: string, give: (event: EventNews) => void): Promise<() => void> {
    const pattern = bindableTopic(wanted);
    if (this.#subscribers.size >= subscribersMax)
      throw new MusterError("too-many", `${subscribersMax} event streams are open on this coordinator already`, {
        retryAfterMs: 5_000,
      });
    const subscriber = { pattern, give };
    this.#subscribers.add(subscriber);
    this.#queue.start();
    // A stream that begins while the broker is away gets what is published when it is back.
    await this.#queue.ready().catch(() => undefined);
    await this.#queue.bind(pattern);
    return () => {
      this.#subscribers.delete(subscriber);
      if (![...this.#subscribers].some((other) => other.pattern === pattern)) void this.#queue.unbind(pattern);
    };
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
