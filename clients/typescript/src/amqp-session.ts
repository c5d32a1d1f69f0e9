/** One life of the connections to the broker: from the moment it consumes until either connection ends. */
import type { Socket } from "node:net";
import {
  type Channel,
  type ChannelModel,
  type ConfirmChannel,
  type ConsumeMessage,
  connect,
  type Options,
} from "amqplib";
import { queues } from "../../../config-db/names.ts";
import { pause } from "./backoff.ts";

export interface SessionOptions {
  url: string;
  id: string;
  type: string;
  /** For each of the five queues. */
  prefetch: number;
  onMessage(message: ConsumeMessage, session: AmqpSession): void;
}

/** `returned`: no queue took it. `refused`: the queue is full. `lost`: unknown, the connection ended before the confirm. */
export type PublishFailure = "returned" | "refused" | "lost";

const connectTimeoutMs = 5_000;
/** Two missed ones end a connection: a broker that froze or a cable that was pulled is noticed in 20 s. */
const heartbeatSeconds = 10;
/** A component that has just registered may have to wait for its queues; by then its requests go by HTTP. */
const queueWaitMs = 5_000;
const queueRetryMs = 50;
const closeTimeoutMs = 2_000;

export class AmqpSession {
  readonly #options: SessionOptions;
  readonly #returned = new Set<string>();
  readonly #typeExchanges = new Map<string, Promise<boolean>>();
  /** Resolves with the reason once the session cannot be used any more. */
  readonly ended: Promise<unknown>;
  #resolveEnded: (reason: unknown) => void = () => undefined;
  #publishing: ChannelModel | undefined;
  #consuming: ChannelModel | undefined;
  #out: ConfirmChannel | undefined;
  #in: Channel | undefined;
  #consumerTags: string[] = [];
  #ended = false;
  #held = 0;
  readonly #holding = new AbortController();

  constructor(options: SessionOptions) {
    this.#options = options;
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  get isOpen(): boolean {
    return this.#out !== undefined && !this.#ended;
  }

  /** Connects twice, so that a blocked publisher does not stop deliveries, and consumes. @throws what went wrong. */
  async open(): Promise<void> {
    try {
      [this.#publishing, this.#consuming] = await Promise.all([this.#connect("publish"), this.#connect("consume")]);
      await this.#consume(this.#consuming);
      const out = await this.#publishing.createConfirmChannel();
      this.#watch(out);
      out.on("return", ({ properties }) => this.#returned.add(properties.messageId as string));
      this.#out = out;
    } catch (error) {
      this.#finish(error);
      await this.close();
      throw error;
    }
  }

  /**
   * Publishes at once, in the order of the calls. `settled` is called exactly once, without a failure when the broker
   * has taken the message over.
   */
  publish(
    exchange: string,
    key: string,
    content: Buffer,
    options: Options.Publish,
    settled: (failure?: PublishFailure) => void,
  ): void {
    const out = this.#out;
    if (out === undefined || this.#ended) {
      settled("lost");
      return;
    }
    const { messageId = "" } = options;
    try {
      out.publish(exchange, key, content, options, (error: Error | null) => {
        // The return of a mandatory message comes before its confirm.
        if (this.#returned.size > 0 && this.#returned.delete(messageId)) settled("returned");
        else if (!error) settled();
        else settled(error.message === "message nacked" ? "refused" : "lost");
      });
    } catch (error) {
      this.#finish(error);
      settled("lost");
    }
  }

  /** Publishes what nobody waits to hear about. @returns false when it could not even be tried. */
  publishAndForget(exchange: string, key: string, content: Buffer, options: Options.Publish): boolean {
    if (!this.isOpen) return false;
    this.publish(exchange, key, content, options, () => undefined);
    return true;
  }

  /** Rejects unless the broker has taken the message over. */
  confirmed(exchange: string, key: string, content: Buffer, options: Options.Publish): Promise<void> {
    return new Promise((resolve, reject) => {
      this.publish(exchange, key, content, options, (failure) => {
        if (failure === undefined) resolve();
        else reject(new PublishError(failure, exchange, key));
      });
    });
  }

  /**
   * Whether an exchange exists. Publishing to one that does not would close the channel and fail all that is in flight
   * on it, hence this asks on a channel of its own, once per exchange and session.
   */
  hasExchange(name: string): Promise<boolean> {
    const known = this.#typeExchanges.get(name);
    if (known !== undefined) return known;
    const asked = this.#askForExchange(name);
    this.#typeExchanges.set(name, asked);
    void asked.then((exists) => {
      if (!exists) this.#typeExchanges.delete(name);
    });
    return asked;
  }

  ack(message: ConsumeMessage): void {
    this.#onConsumer((channel) => channel.ack(message));
  }

  /** Dead-letters. A reject, since a nack does not count on RabbitMQ 4.3 and later. */
  reject(message: ConsumeMessage): void {
    this.#onConsumer((channel) => channel.reject(message, false));
  }

  /**
   * Waits `ms` before a retry, or not at all when half of the prefetch waits already: failing messages must not stop a queue.
   * @throws when the session ends meanwhile.
   */
  async hold(ms: number): Promise<void> {
    if (this.#held >= this.#options.prefetch / 2) return;
    this.#held += 1;
    await pause(ms, this.#holding.signal);
    this.#held -= 1;
    if (this.#holding.signal.aborted) throw new Error("the session ended during the wait before a retry");
  }

  /** Takes no more messages, and gives up waits before retries: those messages go back to their queue. */
  async stopConsuming(): Promise<void> {
    this.#holding.abort();
    const channel = this.#in;
    if (channel === undefined || this.#ended) return;
    await Promise.all(this.#consumerTags.splice(0).map((tag) => channel.cancel(tag))).catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#finish("closed");
    await Promise.all([closeConnection(this.#consuming), closeConnection(this.#publishing)]);
  }

  async #connect(use: string): Promise<ChannelModel> {
    const url = new URL(this.#options.url);
    if (!url.searchParams.has("heartbeat")) url.searchParams.set("heartbeat", String(heartbeatSeconds));
    const connection = await connect(url.href, {
      noDelay: true,
      keepAlive: true,
      timeout: connectTimeoutMs,
      clientProperties: { connection_name: `muster ${this.#options.id} ${use}` },
    });
    connection.on("error", (error) => this.#finish(error));
    connection.on("close", (error) => this.#finish(error ?? "the broker closed the connection"));
    connection.on("handler-error", (error) => this.#finish(error));
    return connection;
  }

  async #consume(connection: ChannelModel): Promise<void> {
    const { id, type, prefetch } = this.#options;
    const giveUpAtMs = performance.now() + queueWaitMs;
    // The commands queue is declared last: when it is there, all are.
    const names = [
      queues.commands(id),
      queues.any(type),
      queues.requests(id),
      queues.broadcasts(id),
      queues.replies(id),
    ];
    for (;;) {
      const channel = await connection.createChannel();
      channel.on("error", () => undefined);
      try {
        await channel.prefetch(prefetch);
        for (const name of names) await this.#consumeQueue(channel, name);
        this.#watch(channel);
        this.#in = channel;
        return;
      } catch (error) {
        this.#consumerTags = [];
        const isMissing = (error as { code?: number }).code === 404;
        if (!isMissing || this.#ended || performance.now() > giveUpAtMs) throw error;
        await pause(queueRetryMs);
      }
    }
  }

  async #consumeQueue(channel: Channel, name: string): Promise<void> {
    const onMessage = (message: ConsumeMessage | null) => {
      if (message === null) this.#finish(`the queue ${name} was deleted`);
      else if (!this.#ended) this.#options.onMessage(message, this);
    };
    const { consumerTag } = await channel.consume(name, onMessage);
    this.#consumerTags.push(consumerTag);
  }

  async #askForExchange(name: string): Promise<boolean> {
    if (this.#publishing === undefined || this.#ended) return false;
    try {
      const channel = await this.#publishing.createChannel();
      channel.on("error", () => undefined);
      await channel.checkExchange(name);
      await channel.close();
      return true;
    } catch {
      return false;
    }
  }

  #watch(channel: Channel): void {
    channel.on("error", (error) => this.#finish(error));
    channel.on("close", () => this.#finish("the broker closed a channel"));
    channel.on("handler-error", (error) => this.#finish(error));
  }

  /** A delivery of an ended session cannot be settled: the broker gives it out again. */
  #onConsumer(act: (channel: Channel) => void): void {
    if (this.#in === undefined || this.#ended) throw new Error("the session that this was delivered in has ended");
    act(this.#in);
  }

  #finish(reason: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#holding.abort();
    this.#resolveEnded(reason);
  }
}

/** Politely, and after a while by force: a half-open connection never answers the close. */
async function closeConnection(connection: ChannelModel | undefined): Promise<void> {
  if (connection === undefined) return;
  const waited = new AbortController();
  const closed = connection.close().catch(() => undefined);
  await Promise.race([closed, pause(closeTimeoutMs, waited.signal)]);
  waited.abort();
  (connection.connection as unknown as { stream?: Socket }).stream?.destroy();
}

export class PublishError extends Error {
  override readonly name = "PublishError";
  readonly failure: PublishFailure;

  constructor(failure: PublishFailure, exchange: string, key: string) {
    super(`not published to ${exchange} with key "${key}": ${failure}`);
    this.failure = failure;
  }
}
