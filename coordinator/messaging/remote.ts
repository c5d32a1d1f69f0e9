/**
 * Messages that came from another site (design §4, "Across sites"), and replies that nobody here waits for: passed on to
 * where they belong. The broker gives both queues to one coordinator at a time. A message is acked when its target's queue,
 * or another site's, has it; one that can reach nobody becomes a failure that its sender is told.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Channel, ConsumeMessage, Options } from "amqplib";
import type { Logger } from "pino";
import { exchanges, headers, queues } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { publishDead, sendBack } from "./consumer.ts";
import { type Envelope, readLetter } from "./envelope.ts";
import { consume } from "./lasting-channel.ts";
import type { Members } from "./members.ts";
import type { Provisioning } from "./provisioning.ts";
import type { PublishOutcome } from "./publisher.ts";
import { homeOf, type Passage, readPassage, siteOfReplyKey, withoutPassage } from "./remote-route.ts";

export interface RemoteOptions {
  broker: Broker;
  provisioning: Provisioning;
  members: Members;
  site: string;
  logger: Logger;
  wallClock: () => Date;
}

/** Passed on at once; each holds its body. */
const prefetch = 200;
/** A full queue, or a broker that does not confirm: the message waits here and is tried again. */
const retryMs = 1_000;

export class Remote {
  readonly #options: RemoteOptions;
  readonly #abort = new AbortController();
  #channels: ReturnType<Broker["channel"]>[] = [];

  constructor(options: RemoteOptions) {
    this.#options = options;
  }

  start(): void {
    const { site } = this.#options;
    this.#channels = [
      this.#consume(queues.site(site), (message) => this.#pass(message)),
      this.#consume(queues.elsewhere, (message) => this.#passReply(message)),
    ];
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await Promise.all(this.#channels.map((channel) => channel.close()));
  }

  #consume(queue: string, take: (message: ConsumeMessage) => Promise<void>) {
    const { broker, provisioning } = this.#options;
    return broker.channel({
      name: queue,
      setup: async (channel) => {
        await provisioning.ready();
        await consume(channel, queue, { prefetch }, (message) => void this.#settle(channel, message, take));
      },
    });
  }

  /** Acks when `take` is through; what it throws is tried again, with the message kept. */
  async #settle(channel: Channel, message: ConsumeMessage, take: (message: ConsumeMessage) => Promise<void>) {
    const { signal } = this.#abort;
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        await take(message);
        channel.ack(message);
        return;
      } catch (error) {
        if (failures === 0) this.#options.logger.debug({ error: String(error) }, "a message from another site waits");
        await delay(retryMs, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  async #pass(message: ConsumeMessage): Promise<void> {
    const { members, provisioning, site } = this.#options;
    const passage = readPassage(message);
    if ("fault" in passage) {
      await publishDead(this.#options.broker, message, { component: "unknown", reason: passage.fault });
      return;
    }
    if ((await this.#publish(message, passage)) !== "unroutable") return;
    // A late reply, or to a process that is gone: nobody waits for it.
    if (passage.exchange === exchanges.reply) return;
    const home = homeOf(passage, members, site);
    if (home.member !== undefined) {
      await provisioning.repair(home.member, passage.exchange !== exchanges.requests);
      if ((await this.#publish(message, passage)) !== "unroutable") return;
    } else if (home.site !== undefined && !passage.isLast && (await this.#send(message, home.site, passage))) return;
    await this.#fail(message, passage);
  }

  /** A reply with no queue here: the answer to a broadcast that came from another site. */
  async #passReply(message: ConsumeMessage): Promise<void> {
    const { members, site } = this.#options;
    const key = message.fields.routingKey;
    const home = siteOfReplyKey(key) ?? members.get(key)?.site;
    if (home === undefined || home === site) return;
    await this.#send(message, home, { exchange: exchanges.reply, key, hops: 0, isLast: false });
  }

  /** @throws Error when the target's queue is full: it is tried again. */
  async #publish(message: ConsumeMessage, { exchange, key }: Passage): Promise<PublishOutcome> {
    const options = withoutPassage(message, this.#nowMs());
    const outcome = await this.#options.broker.publish({
      exchange,
      key,
      content: message.content,
      options: { ...options, mandatory: true },
    });
    if (outcome === "full") throw new Error(`the queue of "${key}" is full`);
    return outcome;
  }

  /** Sends it on to another site. @returns false where that is not linked with this one. */
  async #send(message: ConsumeMessage, to: string, { exchange, key, hops }: Passage): Promise<boolean> {
    const { headers: given, ...options } = withoutPassage(message, this.#nowMs()) as Options.Publish & {
      headers: Record<string, unknown>;
    };
    const outcome = await this.#options.broker.publish({
      exchange: exchanges.remote,
      key: to,
      content: message.content,
      options: {
        ...options,
        mandatory: true,
        headers: { ...given, [headers.exchange]: exchange, [headers.key]: key, [headers.hops]: hops + 1 },
      },
    });
    if (outcome === "full") throw new Error(`the link to "${to}" takes no more`);
    return outcome === "routed";
  }

  async #fail(message: ConsumeMessage, { key }: Passage): Promise<void> {
    const { broker, site } = this.#options;
    const reason = `"${key}" is at no site any more: ${site}, where it was, does not know it`;
    const letter = readLetter(message);
    if ("fault" in letter || letter.envelope.kind !== "request") {
      // The dead letters keep it, and tell a sender who asked.
      await publishDead(broker, message, { component: key, reason });
      return;
    }
    const { envelope } = letter;
    const reply: Envelope = {
      messageId: randomUUID(),
      kind: "reply",
      name: envelope.name,
      correlationId: envelope.messageId,
      contentType: "application/json",
      attempt: 1,
      error: "no-such-target",
      reason,
    };
    await sendBack(
      broker,
      envelope,
      { envelope: reply, content: Buffer.alloc(0) },
      { persistent: false, nowMs: this.#nowMs() },
    );
  }

  #nowMs(): number {
    return this.#options.wallClock().getTime();
  }
}
