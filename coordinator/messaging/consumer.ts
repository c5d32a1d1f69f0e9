/**
 * The consuming half of the protocol (docs/messages.md, "Consuming"), for components that the coordinator consumes for:
 * what happens to a message before, after and instead of its handling. Every method settles the message with the broker
 * only after what follows from it was confirmed; a lost channel means that the message comes again, never that it is lost.
 */
import { randomUUID } from "node:crypto";
import type { Channel, ConsumeMessage } from "amqplib";
import { LRUCache } from "lru-cache";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { exchanges, headers, ownHeaders } from "../../config-db/names.ts";
import { type AfterFailure, afterFailure, type RetryPolicy } from "./after-failure.ts";
import type { Broker } from "./broker.ts";
import { type Envelope, type Letter, publishOptions, readLetter, reasonCharactersMax } from "./envelope.ts";
import type { PublishOutcome } from "./publisher.ts";

/** A message of a component that waits to be settled. */
export interface Delivery {
  component: string;
  /** The type whose shared queue it came from; absent for the component's own queues. */
  sharedBy?: string;
  /** Where and as what it is acked: another one when its channel is lost while it is settled. */
  channel: Channel;
  message: ConsumeMessage;
  letter: Letter;
}

export interface ConsumerOptions {
  broker: Broker;
  retry: RetryPolicy;
  logger: Logger;
  wallClock: () => Date;
  random?: () => number;
}

export type OutcomeState = "delivered" | "done" | "failed" | "expired" | "dead-lettered";

/** The body of an outcome message. */
export interface Outcome {
  id: string;
  component: string;
  state: OutcomeState;
  attempt: number;
  at: string;
  reason?: string;
  redriven?: number;
}

/** What was handled to its end, of all components, for so long; and bytes of replies, which must not crowd out the rest. */
const handledMax = 50_000;
const handledTtlMs = 600_000;
const replyBytesMax = 32 * 1024 * 1024;

export class Consumer {
  readonly #options: ConsumerOptions;
  readonly #handled = new LRUCache<string, true>({ max: handledMax, ttl: handledTtlMs });
  readonly #replies = new LRUCache<string, Letter>({
    max: handledMax,
    ttl: handledTtlMs,
    maxSize: replyBytesMax,
    sizeCalculation: ({ content }) => 1 + content.length,
  });

  constructor(options: ConsumerOptions) {
    this.#options = options;
  }

  /**
   * Takes in a message from the broker: settles at once what is malformed, late or was handled already.
   * @returns the delivery to handle; undefined when there is nothing to do.
   */
  async admit(from: Omit<Delivery, "letter">): Promise<Delivery | undefined> {
    const { message, channel } = from;
    const letter = readLetter(message);
    if ("fault" in letter) {
      settle(() => channel.reject(message, false));
      return undefined;
    }
    const { envelope } = letter;
    const delivery: Delivery = { ...from, letter };
    const reply = this.#replies.get(keyOf(delivery));
    // A request whose reply is not kept any more is asked anew: its sender waits for one.
    if (this.#handled.has(keyOf(delivery)) && (envelope.kind !== "request" || reply !== undefined)) {
      await this.#answer(delivery, reply);
      settle(() => channel.ack(message));
      return undefined;
    }
    if (this.expired(delivery)) return undefined;
    if (envelope.kind === "reply" || envelope.kind === "outcome") {
      settle(() => channel.ack(message));
      return undefined;
    }
    return delivery;
  }

  /** Asked before each handling: settles a message whose deadline is past. @returns whether it was. */
  expired({ letter: { envelope }, channel, message }: Delivery): boolean {
    const { deadlineAtMs, kind } = envelope;
    if (deadlineAtMs === undefined || this.#nowMs() <= deadlineAtMs) return false;
    if (kind === "command" || kind === "broadcast") settle(() => channel.reject(message, false));
    else settle(() => channel.ack(message));
    return true;
  }

  /** Tells a sender that asked that the handling began. Best effort: a later outcome says as much. */
  async began({ letter: { envelope }, component }: Delivery): Promise<void> {
    if (envelope.kind === "request" || envelope.replyTo === undefined) return;
    await this.#tell(envelope, this.#outcome(envelope, component, "delivered"), false);
  }

  /** @param reply the body of the answer to a request. */
  async done(delivery: Delivery, reply?: { content: Buffer; contentType: string }): Promise<void> {
    const letter = reply === undefined ? undefined : this.#reply(delivery, reply);
    await this.#answer(delivery, letter);
    this.#handled.set(keyOf(delivery), true);
    if (letter !== undefined) this.#replies.set(keyOf(delivery), letter);
    settle(() => delivery.channel.ack(delivery.message));
  }

  /** A broadcast that means nothing to this component: its sender hears that it failed here, and nobody else does. */
  async unhandled(delivery: Delivery, reason: string): Promise<void> {
    const { letter, component } = delivery;
    const { envelope } = letter;
    if (envelope.replyTo !== undefined)
      await this.#tell(envelope, { ...this.#outcome(envelope, component, "failed"), reason }, true);
    settle(() => delivery.channel.ack(delivery.message));
  }

  /** What follows from a failure, to be passed to `fail` after its delay. */
  judge(delivery: Delivery, delayMs?: number): AfterFailure {
    const { retry, random = Math.random } = this.#options;
    const asked = delayMs === undefined ? {} : { delayMs };
    return afterFailure(delivery.letter.envelope, retry, { ...asked, random: random(), nowMs: this.#nowMs() });
  }

  /**
   * @returns false when no queue takes the retry, because it is full or was removed meanwhile: the message stays unacked, to be
   * tried again later.
   * @throws MusterError `broker-unavailable`: the same.
   */
  async fail(delivery: Delivery, verdict: AfterFailure, failure: { code: string; reason: string }): Promise<boolean> {
    const { letter, component, sharedBy } = delivery;
    const { envelope, content } = letter;
    switch (verdict.action) {
      case "reply":
        await this.#answer(delivery, this.#reply(delivery, undefined, failure));
        break;
      case "retry": {
        const [exchange, key] = sharedBy === undefined ? [exchanges.unicast, component] : [exchanges.any, sharedBy];
        const again = { envelope: { ...envelope, attempt: verdict.attempt }, content };
        const outcome = await this.#republish(exchange, key, again).catch(tooLong);
        if (outcome === "too long") {
          await this.deadLetter(delivery, failure.reason);
          return true;
        }
        if (outcome !== "routed") return false;
        break;
      }
      case "dead-letter":
        await this.deadLetter(delivery, failure.reason);
        return true;
      case "drop":
        break;
    }
    settle(() => delivery.channel.ack(delivery.message));
    return true;
  }

  /** Publishes the message to the dead letters, as it came, with the reason; then acks it. */
  async deadLetter(delivery: Omit<Delivery, "letter">, reason: string): Promise<void> {
    await publishDead(this.#options.broker, delivery.message, { component: delivery.component, reason });
    settle(() => delivery.channel.ack(delivery.message));
  }

  async #answer(delivery: Delivery, reply: Letter | undefined): Promise<void> {
    const { envelope } = delivery.letter;
    if (envelope.replyTo === undefined) return;
    if (envelope.kind !== "request") {
      await this.#tell(envelope, this.#outcome(envelope, delivery.component, "done"), true);
    } else if (reply !== undefined) await this.#sendBack(envelope, reply, false);
  }

  #outcome(envelope: Envelope, component: string, state: OutcomeState): Outcome {
    const at = this.#options.wallClock().toISOString();
    return { id: envelope.messageId, component, state, attempt: envelope.attempt, at };
  }

  #reply(
    { letter: { envelope }, component }: Delivery,
    body: { content: Buffer; contentType: string } | undefined,
    failure?: { code: string; reason: string },
  ): Letter {
    const reply: Envelope = {
      messageId: randomUUID(),
      kind: "reply",
      name: envelope.name,
      from: component,
      correlationId: envelope.messageId,
      contentType: body?.contentType ?? "application/json",
      attempt: 1,
      ...(envelope.deadlineAtMs === undefined ? {} : { deadlineAtMs: envelope.deadlineAtMs }),
      ...(envelope.traceparent === undefined ? {} : { traceparent: envelope.traceparent }),
      ...(failure === undefined ? {} : { error: failure.code, reason: failure.reason }),
    };
    return { envelope: reply, content: body?.content ?? Buffer.alloc(0) };
  }

  async #tell(envelope: Envelope, outcome: Outcome, persistent: boolean): Promise<void> {
    await tellOutcome(this.#options.broker, envelope, outcome, { persistent, nowMs: this.#nowMs() });
  }

  #sendBack(to: Envelope, letter: Letter, persistent: boolean): Promise<void> {
    return sendBack(this.#options.broker, to, letter, { persistent, nowMs: this.#nowMs() });
  }

  #republish(exchange: string, key: string, { envelope, content }: Letter): Promise<PublishOutcome> {
    const options = publishOptions(envelope, this.#nowMs(), { persistent: true });
    return this.#options.broker.publish({ exchange, key, content, options: { ...options, mandatory: true } });
  }

  #nowMs(): number {
    return this.#options.wallClock().getTime();
  }
}

/** Sends an outcome to whom `envelope` says. */
export async function tellOutcome(
  broker: Broker,
  envelope: Envelope,
  outcome: Outcome,
  options: { persistent: boolean; nowMs: number },
): Promise<void> {
  const told: Envelope = {
    messageId: randomUUID(),
    kind: "outcome",
    name: envelope.name,
    correlationId: envelope.messageId,
    contentType: "application/json",
    attempt: 1,
    // `any:<type>` is nobody's id.
    ...(outcome.component.startsWith("any:") ? {} : { from: outcome.component }),
    ...(envelope.traceparent === undefined ? {} : { traceparent: envelope.traceparent }),
  };
  await sendBack(broker, envelope, { envelope: told, content: Buffer.from(JSON.stringify(outcome)) }, options);
}

/** Publishes to the `replyTo` of a message, over its site when that is another one. Unroutable: nobody waits any more. */
export async function sendBack(
  broker: Broker,
  to: Envelope,
  { envelope, content }: Letter,
  { persistent, nowMs }: { persistent: boolean; nowMs: number },
): Promise<void> {
  const { replyTo, originSite } = to;
  if (replyTo === undefined) return;
  const options = publishOptions(envelope, nowMs, { persistent });
  if (originSite === undefined) {
    await broker.publish({
      exchange: exchanges.reply,
      key: replyTo,
      content,
      options: { ...options, mandatory: true },
    });
    return;
  }
  const through = { ...options.headers, [headers.exchange]: exchanges.reply, [headers.key]: replyTo };
  await broker.publish({
    exchange: exchanges.remote,
    key: originSite,
    content,
    options: { ...options, headers: through },
  });
}

/**
 * Publishes a message to the dead letters as it came, naming who gave up and why.
 * @throws MusterError `broker-unavailable`: it was not taken, the original must not be acked.
 */
export async function publishDead(
  broker: Broker,
  { content, properties, fields }: ConsumeMessage,
  { component, reason, code }: { component: string; reason: string; code?: string },
): Promise<void> {
  const { expiration: _, deliveryMode: __, headers: given = {}, ...kept } = properties;
  const publish = (carried: Record<string, unknown>) => {
    const why = { [headers.reason]: reason.slice(0, reasonCharactersMax), [headers.to]: component };
    const told = { ...carried, ...why, ...(code === undefined ? {} : { [headers.error]: code }) };
    const options = { ...kept, persistent: true, mandatory: true, headers: told };
    return broker.publish({ exchange: exchanges.dead, key: fields.routingKey, content, options });
  };
  let outcome = await publish(given).catch(tooLong);
  if (outcome === "too long") outcome = await publish(ownHeaders(given));
  if (outcome !== "routed")
    throw new MusterError(
      "broker-unavailable",
      `the dead letters take no more (${outcome}); the message stays in its queue`,
    );
}

/** What is added to a message whose headers are near the limit of 64 KiB does not fit beside them. */
function tooLong(error: unknown): "too long" {
  if (isMusterError(error, "refused")) return "too long";
  throw error;
}

function keyOf({ component, letter }: Delivery): string {
  return `${component} ${letter.envelope.messageId}`;
}

/** Acks and rejects throw on a channel that is gone; the broker then delivers again, and the window knows what was done. */
function settle(settling: () => void): void {
  try {
    settling();
  } catch {
    // Closed: nothing was settled.
  }
}
