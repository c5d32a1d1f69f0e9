/**
 * A queue of this process alone, bound by keys to one exchange; it ends with its connection. With an exchange that somebody
 * deletes go all its bindings, also when another coordinator has declared it again before anybody noticed here: so they are
 * made again from time to time.
 */
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { MusterError } from "../../config-db/errors.ts";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";

export interface OwnQueueOptions {
  broker: Broker;
  /** For logs. */
  name: string;
  exchange: string;
  /** What the queue is bound by, now. */
  keys: () => Iterable<string>;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
  /** Messages taken from the broker at once. */
  prefetch: number;
  /** Limits of the queue, as arguments of its declaration. */
  limits?: Record<string, string | number>;
  onMessage: (message: ConsumeMessage) => void;
  /** Awaited each time that its bindings were made: when the queue is there anew, and from time to time. */
  onBound?: () => Promise<void>;
  /** Hears when the queue has ended, with what was in it. */
  onLost?: () => void;
}

/** Binding what is bound takes the broker a fraction of a millisecond. */
const rebindEveryMs = 10_000;
const openTimeoutMs = 5_000;

export class OwnQueue {
  readonly #options: OwnQueueOptions;
  #opened: ReturnType<Broker["channel"]> | undefined;
  #queue = "";
  #timer: NodeJS.Timeout | undefined;
  /** Bindings and unbindings one after another, so that the last wish stands. */
  #binding: Promise<void> = Promise.resolve();

  constructor(options: OwnQueueOptions) {
    this.#options = options;
  }

  start(): void {
    const { broker, name, exchange, keys, ready, prefetch, limits, onMessage, onBound, onLost } = this.#options;
    this.#opened ??= broker.channel({
      name,
      setup: async (channel) => {
        await ready(exchange);
        const asked = { exclusive: true, autoDelete: true, durable: false };
        const { queue } = await channel.assertQueue("", limits === undefined ? asked : { ...asked, arguments: limits });
        this.#queue = queue;
        for (const key of keys()) await channel.bindQueue(queue, exchange, key);
        await consume(channel, queue, { prefetch }, (message) => {
          channel.ack(message);
          onMessage(message);
        });
        await onBound?.();
      },
      ...(onLost !== undefined && { onLost }),
    });
    this.#timer ??= setInterval(() => void this.#rebind(), rebindEveryMs).unref();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#opened?.close();
  }

  /** Its channel, while it is set up. */
  get current(): ConfirmChannel | undefined {
    return this.#opened?.channel.current;
  }

  /**
   * Resolves when what is published from now on for its keys arrives.
   * @throws MusterError `broker-unavailable`: not within `timeoutMs`.
   */
  async ready(timeoutMs = openTimeoutMs): Promise<void> {
    if (this.current !== undefined) return;
    const late = new MusterError(
      "broker-unavailable",
      "the broker could not provide a queue of this coordinator's own",
      {
        retryAfterMs: 2_000,
      },
    );
    await this.#opened?.channel.opened(AbortSignal.timeout(timeoutMs)).catch(() => Promise.reject(late));
  }

  /** Resolves when `key`, which is among the keys by now, is bound, or will be with all others: the channel is lost. */
  async bind(key: string): Promise<void> {
    await this.#change((channel) => channel.bindQueue(this.#queue, this.#options.exchange, key));
  }

  async unbind(key: string): Promise<void> {
    await this.#change((channel) => channel.unbindQueue(this.#queue, this.#options.exchange, key));
  }

  #rebind(): Promise<void> {
    const { exchange, keys, onBound } = this.#options;
    return this.#change(async (channel) => {
      for (const key of keys()) await channel.bindQueue(this.#queue, exchange, key);
      await onBound?.();
    });
  }

  #change(work: (channel: ConfirmChannel) => Promise<unknown>): Promise<void> {
    this.#binding = this.#binding.then(async () => {
      const { current } = this;
      // A channel that is lost meanwhile binds all in its setup.
      if (current !== undefined) await work(current).catch(() => undefined);
    });
    return this.#binding;
  }
}
