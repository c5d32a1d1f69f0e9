/** Renewals of leases that come by AMQP, on their way to the coordinator that judges them. */
import { randomUUID } from "node:crypto";
import type { ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { type ErrorCode, MusterError } from "../../config-db/errors.ts";
import type { RenewalMessage } from "../../config-db/generated/types.ts";
import { exchanges, queues } from "../../config-db/names.ts";
import { check } from "../../config-db/validate.ts";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";

const prefetch = 2_000;
/** A renewal is a few hundred bytes; what is larger is none. */
const renewalBytesMax = 8_192;
/** The `type` of a message that we send to ourselves; renewals have none. */
const echoType = "echo";
const publishTimeoutMs = 1_000;
const echoTimeoutMs = 2_000;
/** Longer than missed heartbeats take to end the connections of a broker that froze. */
const defaultUnheardMaxMs = 45_000;

/**
 * Where the broker has put that a sender hears answers on the channel that it published on. Nothing else is answered: a
 * queue's name would let a component have the coordinator write to queues that it may not write to itself.
 */
const directReplies = "amq.rabbitmq.reply-to.";

/** Takes a renewal. @returns why it is void; undefined when it counts. */
export type RenewalListener = (renewal: RenewalMessage) => ErrorCode | undefined;

export interface RenewalsOptions {
  broker: Broker;
  /** Resolves when the queue of renewals stands. */
  ready(): Promise<void>;
  logger: Logger;
  /** How long it is waited for renewals by message that do not come through, in milliseconds. */
  unheardMaxMs?: number;
}

export class Renewals {
  readonly #options: RenewalsOptions;
  readonly #listeners = new Set<RenewalListener>();
  /** What to call when the echo of this id is back. */
  readonly #echoes = new Map<string, () => void>();
  /** Nothing has come through for so long that it is waited for no more. */
  #deaf = false;
  #opened: ReturnType<Broker["channel"]> | undefined;
  /** Messages that were no renewals, since the start. */
  malformed = 0;

  constructor(options: RenewalsOptions) {
    this.#options = options;
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    await this.#opened?.close();
    this.#opened = undefined;
  }

  /** Consumes while somebody listens: only the leader of a site should. @returns what ends it. */
  listen(listener: RenewalListener): () => Promise<void> {
    this.#listeners.add(listener);
    const { broker, ready } = this.#options;
    this.#opened ??= broker.channel({
      name: "renewals",
      setup: async (channel) => {
        await ready();
        await consume(channel, queues.renewals, { prefetch, noAck: true }, (message) => this.#take(message));
      },
    });
    return async () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      const opened = this.#opened;
      this.#opened = undefined;
      await opened?.close();
    };
  }

  /**
   * Passes a renewal that came by HTTP to a coordinator that does not lead on to the one that does. Does not wait for a
   * broker that is away or takes no messages: the leader can be asked over HTTP.
   * @throws MusterError `broker-unavailable`
   */
  async publish(renewal: RenewalMessage): Promise<void> {
    const { broker } = this.#options;
    if (broker.fault !== undefined) throw new MusterError("broker-unavailable", broker.fault);
    const content = Buffer.from(JSON.stringify(renewal));
    const options = { persistent: false, contentType: "application/json" };
    await broker.publish({ exchange: exchanges.renewals, key: "", content, options, timeoutMs: publishTimeoutMs });
  }

  /**
   * Resolves when every renewal that was in the queue at the call has been given to the listeners, which messages of
   * our own that come after them tell: a broker that froze, or that takes no messages for want of memory, keeps its
   * connections for a while. Also when there is no connection, when nothing has come through for `unheardMaxMs`
   * (clients have found the bridge by then), and when `signal` aborts.
   */
  async heard(signal: AbortSignal): Promise<void> {
    const { broker, logger, unheardMaxMs = defaultUnheardMaxMs } = this.#options;
    const giveUpAtMs = performance.now() + unheardMaxMs;
    for (let isFirst = true; broker.state === "connected" && !signal.aborted; isFirst = false) {
      const comesThrough = this.#comesThrough(signal);
      if (this.#deaf || (await comesThrough)) return;
      if (isFirst) logger.warn("not judging: renewals by message do not come through");
      if (performance.now() < giveUpAtMs) continue;
      this.#deaf = true;
      logger.error({ unheardMaxMs }, "judging by renewals over HTTP alone: none by message comes through");
    }
  }

  /**
   * Two, one after the other: a broker that lacks memory or disk blocks each connection at its first message, which it
   * still takes. Those that renewed are blocked by then, and we are by the second.
   */
  async #comesThrough(signal: AbortSignal): Promise<boolean> {
    if (!(await this.#echo(signal)) || !(await this.#echo(signal))) return false;
    this.#deaf = false;
    return true;
  }

  /** @returns false when it is not back in time. */
  #echo(signal: AbortSignal): Promise<boolean> {
    const messageId = randomUUID();
    return new Promise((resolve) => {
      const end = (isBack: boolean) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", stop);
        this.#echoes.delete(messageId);
        resolve(isBack);
      };
      const stop = () => end(false);
      const timer = setTimeout(stop, echoTimeoutMs);
      signal.addEventListener("abort", stop);
      this.#echoes.set(messageId, () => end(true));
      const options = { messageId, type: echoType, persistent: false };
      const publication = { exchange: exchanges.renewals, key: "", content: Buffer.alloc(0), options };
      // One that cannot be sent is not back in time either.
      this.#options.broker.publish({ ...publication, timeoutMs: echoTimeoutMs }).catch(() => undefined);
    });
  }

  #take({ content, properties }: ConsumeMessage): void {
    if (properties.type !== echoType) {
      const code = this.#give(content);
      if (code !== undefined) this.#refuse(code, properties.replyTo);
      return;
    }
    // One of a former leader is none of ours.
    this.#echoes.get(properties.messageId)?.();
  }

  /** Tells the sender, if it listens, that its renewal is void: it asks over HTTP then. Nobody waits for it. */
  #refuse(code: ErrorCode, replyTo: unknown): void {
    if (typeof replyTo !== "string" || !replyTo.startsWith(directReplies)) return;
    const { broker, logger } = this.#options;
    const options = { persistent: false, contentType: "application/json" };
    const content = Buffer.from(JSON.stringify({ code }));
    broker
      .publish({ exchange: "", key: replyTo, content, options, timeoutMs: publishTimeoutMs })
      .catch((error: unknown) => logger.debug({ error: String(error) }, "a void renewal was not answered"));
  }

  /** @returns why it is void; undefined when it counts, or is none. */
  #give(content: Buffer): ErrorCode | undefined {
    const renewal = content.length <= renewalBytesMax ? parseJson(content) : undefined;
    if (renewal === undefined || check("renewal-message", renewal).length > 0) {
      this.malformed += 1;
      return undefined;
    }
    return [...this.#listeners]
      .map((listener) => listener(renewal as RenewalMessage))
      .find((code) => code !== undefined);
  }
}

function parseJson(content: Buffer): unknown {
  try {
    return JSON.parse(content.toString("utf8"));
  } catch {
    return undefined;
  }
}
