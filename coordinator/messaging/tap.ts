/**
 * The tap: copies of the messages of a site, for those who watch. A queue of its own is bound beside those that messages are
 * for, while somebody taps; it drops its oldest when its reader is slow, so delivery never notices. A key of a direct
 * exchange is bound only while the queue that it is for stands: else a sender would not learn that nobody got its message.
 */
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { exchanges, replyKeys } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type HttpBody, readLetter, toHttpBody } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import type { Binding } from "./management.ts";
import type { Provisioned } from "./provisioning.ts";
import { matchesTopic } from "./topic.ts";

export interface TapOptions {
  broker: Broker;
  site: string;
  /** The components whose queues stand, now. */
  standing: () => Iterable<Provisioned>;
  /** Where replies to this process arrive. */
  replyKey: string;
  logger: Logger;
}

/** A copy of a message's envelope, and of its body where that was asked for. */
export type Tapped = {
  exchange: string;
  routingKey: string;
  sizeBytes: number;
  id?: string;
  kind?: string;
  name?: string;
  from?: string;
  contentType?: string;
  correlationId?: string;
  replyTo?: string;
  sentAt?: string;
  deadlineAt?: string;
  attempt?: number;
  reason?: string;
  traceparent?: string;
  /** What a consumer will reject it for. */
  malformed?: string;
} & HttpBody;

interface Reader {
  pattern: string;
  body: boolean;
  give(tapped: Tapped): void;
}

const readersMax = 20;
const prefetch = 1_000;
const queueLimits = { "x-max-length": 10_000, "x-max-length-bytes": 32 * 1024 * 1024, "x-overflow": "drop-head" };
/** Components that come and go are looked for so often. */
const bindEveryMs = 1_000;

export class Tap {
  readonly #options: TapOptions;
  readonly #readers = new Set<Reader>();
  readonly #bound = new Map<string, Binding>();
  #opened: ReturnType<Broker["channel"]> | undefined;
  #queue = "";
  #binding: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: TapOptions) {
    this.#options = options;
  }

  async close(): Promise<void> {
    this.#readers.clear();
    await this.#shut();
  }

  /**
   * Gives a copy of every message whose `<kind>.<target>.<name>` matches `pattern`, until the returned function is called.
   * @throws MusterError `too-many`
   */
  open(reader: Reader): () => void {
    if (this.#readers.size >= readersMax)
      throw new MusterError("too-many", `${readersMax} taps are open on this coordinator already`, {
        retryAfterMs: 5_000,
      });
    this.#readers.add(reader);
    this.#opened ??= this.#start();
    return () => {
      this.#readers.delete(reader);
      if (this.#readers.size === 0) void this.#shut();
    };
  }

  /** Before a component's queues go: its senders must hear that nobody is there. */
  async leave(component: string): Promise<void> {
    const theirs = [...this.#bound].filter(([, { key, exchange }]) => key === component && exchange !== exchanges.any);
    await this.#work(async (channel) => {
      for (const [word, { exchange, key }] of theirs) {
        await channel.unbindQueue(this.#queue, exchange, key);
        this.#bound.delete(word);
      }
    });
  }

  #start(): ReturnType<Broker["channel"]> {
    this.#timer = setInterval(() => void this.#bindNew(), bindEveryMs);
    return this.#options.broker.channel({
      name: "tap",
      setup: async (channel) => {
        this.#bound.clear();
        const asked = { exclusive: true, autoDelete: true, durable: false, arguments: queueLimits };
        this.#queue = (await channel.assertQueue("", asked)).queue;
        await this.#bindAll(channel);
        await consume(channel, this.#queue, { prefetch }, (message) => {
          channel.ack(message);
          this.#give(message);
        });
      },
    });
  }

  async #shut(): Promise<void> {
    clearInterval(this.#timer);
    const opened = this.#opened;
    this.#opened = undefined;
    this.#bound.clear();
    await opened?.close();
  }

  #bindNew(): Promise<void> {
    return this.#work((channel) => this.#bindAll(channel));
  }

  /** Bindings change one after another. A channel that is lost meanwhile binds all anew. */
  #work(work: (channel: ConfirmChannel) => Promise<void>): Promise<void> {
    this.#binding = this.#binding.then(async () => {
      const channel = this.#opened?.channel.current;
      if (channel === undefined) return;
      await work(channel).catch((error) =>
        this.#options.logger.debug({ error: String(error) }, "the tap could not bind"),
      );
    });
    return this.#binding;
  }

  async #bindAll(channel: ConfirmChannel): Promise<void> {
    const wanted = new Map(
      wantedBindings(this.#options, this.#queue).map((binding) => [`${binding.exchange} ${binding.key}`, binding]),
    );
    for (const [word, { exchange, key }] of this.#bound) {
      if (wanted.has(word)) continue;
      await channel.unbindQueue(this.#queue, exchange, key);
      this.#bound.delete(word);
    }
    for (const [word, binding] of wanted) {
      if (this.#bound.has(word)) continue;
      await channel.bindQueue(this.#queue, binding.exchange, binding.key);
      this.#bound.set(word, binding);
    }
  }

  #give(message: ConsumeMessage): void {
    const tapped = tappedOf(message);
    const topic = topicOf(tapped);
    for (const { pattern, body, give } of [...this.#readers]) {
      if (!matchesTopic(pattern, topic)) continue;
      const letter = body ? readLetter(message) : undefined;
      give(letter === undefined || "fault" in letter ? tapped : { ...tapped, ...toHttpBody(letter) });
    }
  }
}

function wantedBindings({ site, standing, replyKey }: TapOptions, queue: string): Binding[] {
  const bindings: Binding[] = [
    { queue, exchange: exchanges.all, key: "" },
    { queue, exchange: exchanges.events, key: "#" },
    { queue, exchange: exchanges.dead, key: "" },
    { queue, exchange: exchanges.reply, key: replyKey },
    { queue, exchange: exchanges.reply, key: replyKeys.commands(site) },
  ];
  for (const { id, type } of standing()) {
    bindings.push({ queue, exchange: exchanges.any, key: type }, { queue, exchange: exchanges.type(type), key: "" });
    for (const exchange of [exchanges.unicast, exchanges.requests, exchanges.signals, exchanges.reply])
      bindings.push({ queue, exchange, key: id });
  }
  return bindings;
}

function tappedOf(message: ConsumeMessage): Tapped {
  const { exchange, routingKey } = message.fields;
  const base = { exchange, routingKey, sizeBytes: message.content.length };
  const letter = readLetter(message);
  if ("fault" in letter) return { ...base, malformed: letter.fault };
  const {
    messageId,
    sentAtMs,
    deadlineAtMs,
    extra: _,
    originSite: __,
    contentEncoding: ___,
    ...envelope
  } = letter.envelope;
  return {
    ...base,
    ...envelope,
    id: messageId,
    ...(sentAtMs === undefined ? {} : { sentAt: new Date(sentAtMs).toISOString() }),
    ...(deadlineAtMs === undefined ? {} : { deadlineAt: new Date(deadlineAtMs).toISOString() }),
  };
}

/** What patterns match: the kind, whom it is for (a component, a type, `all`, `dead`), the name. */
function topicOf({ exchange, routingKey, kind = "malformed", name = "" }: Tapped): string {
  const typePrefix = exchanges.type("");
  const target = exchange.startsWith(typePrefix)
    ? exchange.slice(typePrefix.length)
    : exchange === exchanges.all
      ? "all"
      : exchange === exchanges.dead
        ? "dead"
        : routingKey;
  return name === "" ? `${kind}.${target}` : `${kind}.${target}.${name}`;
}
