/**
 * The tap: copies of the messages of a site, for those who watch. While somebody taps an exchange is bound beside the queues
 * that messages are for, one for all coordinators of the site, and to that a queue of each that has readers; it drops its
 * oldest when its reader is slow, so delivery never notices. What is for a component is bound only while its queues stand,
 * else a sender would not learn that nobody got its message: whoever removes a component unbinds it by name (removal.ts).
 */
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { exchanges, replyKeys } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type HttpBody, readLetter, toHttpBody } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import type { Provisioned } from "./provisioning.ts";
import { matchesTopic } from "./topic.ts";
import { componentPlan, type Source, sourcesOfItsOwn } from "./topology.ts";

export interface TapOptions {
  broker: Broker;
  site: string;
  /** The components of this site, now. */
  members: () => Iterable<Provisioned>;
  /** Whether all of a component's queues stand. */
  stands: (component: Provisioned) => boolean;
  /** Tokens of the coordinators of this site, now: replies to what was POSTed at one go to it alone. */
  coordinators: () => Iterable<string>;
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
/** Exchanges that components share, and what is bound there for none of them: no id has a colon. */
const probed = [exchanges.unicast, exchanges.any, exchanges.requests, exchanges.signals];
const probeKey = "tap:probe";

export class Tap {
  readonly #options: TapOptions;
  readonly #readers = new Set<Reader>();
  /** By `wordOf`. */
  readonly #bound = new Map<string, Source>();
  #opened: ReturnType<Broker["channel"]> | undefined;
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

  /**
   * A component is gone and has been unbound, unless this process bound it at that time. What is for its type is bound again
   * where it has others.
   */
  async leave(component: Provisioned, isLast: () => boolean): Promise<void> {
    await this.#work(async (channel) => {
      for (const source of sourcesOfItsOwn(component, isLast())) await this.#unbind(channel, source);
      for (const source of sourcesOfItsOwn(component, true)) this.#bound.delete(wordOf(source));
    });
  }

  #start(): ReturnType<Broker["channel"]> {
    this.#timer = setInterval(() => void this.#bindNew(), bindEveryMs);
    return this.#options.broker.channel({
      name: "tap",
      setup: async (channel) => {
        this.#bound.clear();
        const asked = { exclusive: true, autoDelete: true, durable: false, arguments: queueLimits };
        const { queue } = await channel.assertQueue("", asked);
        // The broker deletes it, with its bindings, as soon as no queue is bound any more. When that comes between these two
        // lines the channel is lost, and all of this done again.
        await channel.assertExchange(exchanges.tap, "fanout", { durable: false, autoDelete: true });
        await channel.bindQueue(queue, exchanges.tap, "");
        await this.#bindAll(channel);
        channel.on("return", ({ fields }) => this.#bindAnew(fields.exchange));
        await consume(channel, queue, { prefetch }, (message) => {
          channel.ack(message);
          if (message.fields.routingKey !== probeKey) this.#give(message);
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

  /**
   * With an exchange that somebody deletes go its bindings. What is for the site is bound each time; without an exchange this
   * costs the channel, and all is set up anew. What is for components is not: another coordinator may just have removed one. A
   * probe that comes back tells that an exchange has been declared again since.
   */
  #bindNew(): Promise<void> {
    for (const source of this.#siteSources()) this.#bound.delete(wordOf(source));
    return this.#work(async (channel) => {
      await this.#bindAll(channel);
      for (const exchange of probed) channel.publish(exchange, probeKey, Buffer.alloc(0), { mandatory: true });
    });
  }

  #bindAnew(exchange: string): void {
    for (const [word, source] of [...this.#bound]) if (source.exchange === exchange) this.#bound.delete(word);
    void this.#bindNew();
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
    const { members, stands } = this.#options;
    const components = [...members()].filter(stands);
    const shared = [...this.#siteSources(), ...probed.map((exchange) => ({ exchange, key: probeKey }))];
    const wanted = [...shared, ...components.flatMap((component) => componentPlan(component).bindings)];
    const words = new Set(wanted.map(wordOf));
    for (const [word, source] of [...this.#bound]) if (!words.has(word)) await this.#unbind(channel, source);
    for (const source of shared) await this.#bind(channel, source);
    for (const component of components) {
      for (const source of componentPlan(component).bindings) {
        // It may have been removed since; thousands take seconds.
        if (stands(component)) await this.#bind(channel, source);
      }
    }
  }

  #siteSources(): Source[] {
    const { site, coordinators } = this.#options;
    const replies = [...coordinators()].map((token) => replyKeys.coordinator(site, token));
    return [
      { exchange: exchanges.all, key: "" },
      { exchange: exchanges.events, key: "#" },
      { exchange: exchanges.dead, key: "" },
      ...[...replies, replyKeys.commands(site)].map((key) => ({ exchange: exchanges.reply, key })),
    ];
  }

  async #bind(channel: ConfirmChannel, { exchange, key }: Source): Promise<void> {
    const word = wordOf({ exchange, key });
    if (this.#bound.has(word)) return;
    this.#bound.set(word, { exchange, key });
    await channel.bindExchange(exchanges.tap, exchange, key);
  }

  async #unbind(channel: ConfirmChannel, source: Source): Promise<void> {
    if (!this.#bound.delete(wordOf(source))) return;
    await channel.unbindExchange(exchanges.tap, source.exchange, source.key);
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

function wordOf({ exchange, key }: Source): string {
  return `${exchange} ${key}`;
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
