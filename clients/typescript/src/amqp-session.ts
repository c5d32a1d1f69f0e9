/** One life of the connections to the broker: from the moment it consumes until either connection ends. */
import type { Channel, ChannelModel, ConfirmChannel, ConsumeMessage, Options } from "amqplib";
import { exchanges, queues } from "../../../config-db/names.ts";
import { closeConnection, connectBroker } from "./amqp-connection.ts";
import { backoffMs, pause } from "./backoff.ts";
import { json } from "./message.ts";

export interface SessionOptions {
  url: string;
  id: string;
  type: string;
  /** For each of the five queues. */
  prefetch: number;
  /** Tells the processes of one id apart: while the one with the highest takes messages, the broker gives the others none. */
  incarnation(): number | undefined;
  /** The broker is there; nothing is consumed before this resolves. */
  onReached(): Promise<void>;
  /** A queue or binding is not there: not yet, or somebody deleted it. Told once for each channel, and then at most once a second. */
  onMissing(): void;
  onMessage(message: ConsumeMessage, session: AmqpSession): void;
  /** No queue took an unconfirmed message. */
  onReturned(messageId: string): void;
  /** The leading coordinator says that a renewal was void. */
  onVoidRenewal(): void;
}

/**
 * `returned`: no queue took it. `refused`: the queue is full. `lost`: unknown, the connection ended before the confirm.
 * `invalid`: AMQP has no room for a property, the routing key or all headers together; nothing was sent.
 */
export type PublishFailure = "returned" | "refused" | "lost" | "invalid";

/** A component that has just registered may have to wait for its queues; by then its requests go by HTTP. */
const queueWaitMs = 5_000;
const queueRetryMs = 50;
const ackDelayMs = 5;
/** RabbitMQ's own: what is published with it is answered to the channel that it came by, without a queue. */
const directReplies = "amq.rabbitmq.reply-to";
const owedRetry = { firstMs: 500, maxMs: 5_000 };
const missingEveryMs = 1_000;

/** A queue that is consumed, on one channel. */
interface Source {
  queue: string;
  noAck: boolean;
  /** Whether components of other ids consume it, too. */
  isShared: boolean;
  /** Whether one sender's messages are to come in their order, also to the next process. */
  isOrdered: boolean;
  /** What comes goes back to the queue when the session ends. */
  isLeft: boolean;
  channel: Channel;
  /** The consumer's: the queue's name, and a number where the consumer is not the first. */
  tag: string;
}

export class AmqpSession {
  readonly #options: SessionOptions;
  readonly #returned = new Set<string>();
  readonly #typeExchanges = new Map<string, Promise<boolean>>();
  /** Resolves with the reason once the session cannot be used any more. */
  readonly ended: Promise<unknown>;
  #resolveEnded: (reason: unknown) => void = () => undefined;
  #publishing: ChannelModel | undefined;
  /** Both, as soon as each is there: when one fails the other has to be closed. */
  readonly #connections: ChannelModel[] = [];
  #out: ConfirmChannel | undefined;
  #direct: Channel | undefined;
  /** By queue. */
  readonly #sources = new Map<string, Source>();
  /** Where each message came from: the number that acknowledges it means another one on a channel opened later. */
  readonly #origins = new WeakMap<ConsumeMessage, Source>();
  #consumers = 0;
  #ended = false;
  #closing: Promise<unknown> | undefined;
  #held = 0;
  #missingToldAtMs = Number.NEGATIVE_INFINITY;
  readonly #acksDue: ConsumeMessage[] = [];
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

  /**
   * Connects twice. A broker short of memory stops reading from connections that publish; what waits in queues must still
   * be acknowledged then, or the shortage never ends. Requests and replies share the publishing connection, and one
   * channel: they are worth nothing to a broker that is short of memory, and travel in one write.
   * @throws what went wrong.
   */
  async open(): Promise<void> {
    const { id, type } = this.#options;
    try {
      const [publishing, consuming] = await Promise.all([this.#connect("publish"), this.#connect("consume")]);
      this.#publishing = publishing;
      const out = await publishing.createConfirmChannel();
      this.#watch(out);
      out.on("return", ({ properties }) => this.#returned.add(properties.messageId as string));
      // Before anything is consumed: what was waiting arrives, and is to be settled, while the rest still opens.
      this.#out = out;
      await this.#options.onReached();
      // The commands queue is declared last: when it is there, all others are, and are bound.
      const own = { noAck: false, isShared: false, isOrdered: false };
      const lasting = [
        { ...own, queue: queues.commands(id), isOrdered: true },
        { ...own, queue: queues.any(type), isShared: true },
        { ...own, queue: queues.broadcasts(id), isOrdered: true },
      ];
      await this.#consume(consuming, lasting, async () => {});
      const passing = [
        { ...own, queue: queues.requests(id) },
        { ...own, queue: queues.replies(id), noAck: true },
      ];
      await this.#consume(publishing, passing, async (channel) => {
        await channel.consume(directReplies, (answer) => answer && this.#options.onVoidRenewal(), { noAck: true });
        channel.on("return", ({ properties }) => this.#options.onReturned(properties.messageId as string));
        this.#direct = channel;
      });
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
      settled(this.#failed(error));
    }
  }

  /** Renews the lease; the leading coordinator answers, on this channel, only when that is void. @returns whether it was sent. */
  renew(content: Buffer): boolean {
    const options = { deliveryMode: 1, contentType: json, replyTo: directReplies };
    return this.publishUnconfirmed(exchanges.renewals, "", content, options) === undefined;
  }

  /**
   * Publishes without a confirm: for what is transient anyway and where something else tells that it was lost, a reply
   * that does not come or the next renewal. Confirms cost a request–reply a tenth of its time.
   * @returns why it could not even be tried.
   */
  publishUnconfirmed(
    exchange: string,
    key: string,
    content: Buffer,
    options: Options.Publish,
  ): "lost" | "invalid" | undefined {
    if (this.#direct === undefined || this.#ended) return "lost";
    try {
      this.#direct.publish(exchange, key, content, options);
      return undefined;
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** amqplib encodes all of a message before it writes: what it cannot encode leaves the channel as it was. */
  #failed(error: unknown): "lost" | "invalid" {
    if (error instanceof TypeError || error instanceof RangeError) return "invalid";
    this.#finish(error);
    return "lost";
  }

  /**
   * Resolves when the broker has taken the message over. A full queue is tried again for as long as the session lives: what ends
   * a delivery must not be given up, or the delivery would stay open and come to nobody. Where `untilRouted` so is a
   * message that no queue took, until somebody has declared what is missing.
   * @throws PublishError otherwise.
   */
  async confirmed(
    exchange: string,
    key: string,
    content: Buffer,
    options: Options.Publish,
    { untilRouted = false } = {},
  ): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      const failure = await this.#publishOnce(exchange, key, content, options);
      if (failure === undefined) return;
      const isUnrouted = failure.failure === "returned";
      const isOwed = isUnrouted ? untilRouted : failure.failure === "refused";
      if (!isOwed || this.#holding.signal.aborted) throw failure;
      if (isUnrouted) this.#tellMissing();
      await pause(backoffMs(attempt, owedRetry), this.#holding.signal);
    }
  }

  #tellMissing(): void {
    const nowMs = performance.now();
    if (nowMs - this.#missingToldAtMs < missingEveryMs) return;
    this.#missingToldAtMs = nowMs;
    this.#options.onMissing();
  }

  #publishOnce(
    exchange: string,
    key: string,
    content: Buffer,
    options: Options.Publish,
  ): Promise<PublishError | undefined> {
    return new Promise((resolve) => {
      this.publish(exchange, key, content, options, (failure) =>
        resolve(failure === undefined ? undefined : new PublishError(failure, exchange, key)),
      );
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

  /** @throws when the session has ended: the broker gives the message out again. */
  ack(message: ConsumeMessage): void {
    this.#sourceOf(message).channel.ack(message);
  }

  /**
   * As `ack`, but a moment later and together with others: what is left to tell of a request when its reply is on its way
   * must not hold up the reply.
   */
  ackSoon(message: ConsumeMessage): void {
    if (this.#ended) throw sessionEnded();
    this.#acksDue.push(message);
    if (this.#acksDue.length === 1) setTimeout(() => this.#ackDue(), ackDelayMs);
  }

  #ackDue(): void {
    const due = this.#acksDue.splice(0);
    if (this.#ended) return;
    // Thrown by a channel that the broker closed meanwhile, all are of one: it gives them out again.
    try {
      for (const message of due) this.#sourceOf(message).channel.ack(message);
    } catch {}
  }

  /** Dead-letters. A reject, since a nack does not count on RabbitMQ 4.3 and later. @throws as `ack`. */
  reject(message: ConsumeMessage): void {
    this.#sourceOf(message).channel.reject(message, false);
  }

  /**
   * Keeps `message` for `ms` before its retry, or not at all when half of the prefetch waits already, of a prefetch of 1 that
   * one: failing messages must not stop a queue.
   * @throws when the session ends meanwhile.
   */
  async hold(message: ConsumeMessage, ms: number): Promise<void> {
    const { prefetch } = this.#options;
    if (this.#held >= Math.max(1, Math.floor(prefetch / 2))) return;
    this.#held += 1;
    if (prefetch === 1) void this.#consumeBeside(message);
    await pause(ms, this.#holding.signal);
    this.#held -= 1;
    if (this.#holding.signal.aborted) throw new Error("the session ended during the wait before a retry");
  }

  /**
   * Replaces the consumer that may have no other message than this one: the broker counts what is unacknowledged for each
   * consumer, and no longer for one that was cancelled. A prefetch of 2 instead would take a message from the queue that
   * is not handled yet, which counts as delivered when the process dies.
   */
  async #consumeBeside(message: ConsumeMessage): Promise<void> {
    const source = this.#sourceOf(message);
    const { tag: former, queue, channel } = source;
    if (former !== message.fields.consumerTag) return;
    this.#consumers += 1;
    source.tag = `${queue} ${this.#consumers}`;
    // Fails only with its channel, and the session ends with that.
    try {
      await channel.cancel(former);
      if (!this.#holding.signal.aborted) await this.#consumeSource(source);
    } catch {}
  }

  /**
   * Takes no more messages, with `replies` except those (without, a newer process is there for all of them), and gives up waits
   * before retries: those messages go back to their queue. What is ordered goes back when the session ends, in its order: what
   * is under way to a consumer that is cancelled, RabbitMQ puts back in any.
   */
  async stopConsuming({ replies }: { replies: boolean }): Promise<void> {
    this.#holding.abort();
    if (this.#ended) return;
    const kept = replies ? queues.replies(this.#options.id) : undefined;
    const left = [...this.#sources.values()].filter(({ queue }) => queue !== kept);
    for (const source of left) source.isLeft = replies && source.isOrdered;
    const cancelled = left.filter(({ isLeft }) => !isLeft);
    await Promise.all(cancelled.map(({ channel, tag }) => channel.cancel(tag))).catch(() => undefined);
  }

  close(): Promise<void> {
    this.#ackDue();
    this.#finish("closed");
    const consuming = [...this.#sources.values()].map(({ channel }) => channel);
    const channels = [...new Set([...consuming, ...(this.#out ? [this.#out] : [])])];
    this.#closing ??= Promise.all(
      this.#connections.map((connection) =>
        closeConnection(
          connection,
          channels.filter((channel) => channel.connection === connection.connection),
        ),
      ),
    );
    return this.#closing.then(() => undefined);
  }

  async #connect(use: string): Promise<ChannelModel> {
    const connection = await connectBroker(this.#options.url, `muster ${this.#options.id} ${use}`);
    connection.on("error", (error) => this.#finish(error));
    connection.on("close", (error) => this.#finish(error ?? "the broker closed the connection"));
    connection.on("handler-error", (error) => this.#finish(error));
    this.#connections.push(connection);
    // The other one failed while this one was made.
    if (this.#closing !== undefined) await closeConnection(connection);
    return connection;
  }

  async #consume(
    connection: ChannelModel,
    sources: readonly Pick<Source, "queue" | "noAck" | "isShared" | "isOrdered">[],
    use: (channel: Channel) => Promise<void>,
  ): Promise<void> {
    const giveUpAtMs = performance.now() + queueWaitMs;
    for (let isTold = false; ; isTold = true) {
      const channel = await connection.createChannel();
      channel.on("error", () => undefined);
      try {
        await channel.prefetch(this.#options.prefetch);
        await use(channel);
        for (const planned of sources) {
          const source = { ...planned, channel, tag: planned.queue, isLeft: false };
          this.#sources.set(planned.queue, source);
          await this.#consumeSource(source);
        }
        this.#watch(channel);
        return;
      } catch (error) {
        const isMissing = (error as { code?: number }).code === 404;
        if (!isMissing || this.#ended || performance.now() > giveUpAtMs) throw error;
        if (!isTold) this.#options.onMissing();
        await pause(queueRetryMs);
      }
    }
  }

  async #consumeSource(source: Source): Promise<void> {
    const { queue, channel, tag, noAck, isShared } = source;
    const priority = isShared ? undefined : this.#options.incarnation();
    const options = { consumerTag: tag, noAck, ...(priority !== undefined && { priority }) };
    await channel.consume(queue, (message) => this.#receive(source, message), options);
  }

  #receive(source: Source, message: ConsumeMessage | null): void {
    if (message === null) {
      this.#finish(`the queue ${source.queue} was deleted`);
    } else if (!this.#ended && !source.isLeft) {
      this.#origins.set(message, source);
      this.#options.onMessage(message, this);
    }
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

  #sourceOf(message: ConsumeMessage): Source {
    const source = this.#origins.get(message);
    if (source === undefined || this.#ended) throw sessionEnded();
    return source;
  }

  #finish(reason: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#holding.abort();
    this.#resolveEnded(reason);
  }
}

export function sessionEnded(): Error {
  return new Error("the session that this was delivered in has ended");
}

export class PublishError extends Error {
  override readonly name = "PublishError";
  readonly failure: PublishFailure;

  constructor(failure: PublishFailure, exchange: string, key: string) {
    super(`not published to ${exchange} with key "${key}": ${failure}`);
    this.failure = failure;
  }
}
