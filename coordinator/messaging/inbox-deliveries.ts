/**
 * What an inbox has of its component's messages: those that are ready to be handed out; those that were, each open under a
 * delivery id until it is settled or overdue; and failed ones that are held until they are sent again.
 */
import type { Channel, ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { headers } from "../../config-db/names.ts";
import type { AfterFailure } from "./after-failure.ts";
import { type Backoff, backoffMs } from "./backoff.ts";
import type { Consumer, Delivery } from "./consumer.ts";
import { attemptOf, type HttpBody, redrivenOf, toHttpBody } from "./envelope.ts";
import type { InboxConsumers } from "./inbox-consumers.ts";

/** What a poller gets of a message. */
export interface InboxMessage extends HttpBody {
  delivery: string;
  id: string;
  kind: string;
  name: string;
  from?: string;
  sentAt?: string;
  deadlineAt?: string;
  attempt: number;
  redriven?: number;
  traceparent?: string;
}

export interface NackOptions {
  reason?: string;
  /** What a requester is told; `handler-failed` if not given. */
  code?: "handler-failed" | "deadline-exceeded";
  delayMs?: number;
  final?: boolean;
  unhandled?: boolean;
}

export interface InboxDeliveriesOptions {
  component: { id: string };
  consumer: Consumer;
  /** From which the messages come, and on whose channel they are settled. */
  consumers: InboxConsumers;
  logger: Logger;
  /** Makes delivery ids; unique over all coordinators. */
  deliveryId: () => string;
  /** Hears when one that was in hand may be so no more. */
  onSettled: () => void;
}

interface Open {
  delivery: Delivery;
  timer: NodeJS.Timeout;
}

interface Failure {
  code: string;
  reason: string;
}

/** Bodies of one answer; a single one always fits. */
const answerBytesMax = 4 * 1024 * 1024;
/** A settling that failed (the broker is away) may be tried again for so long. */
const retrySettleMs = 30_000;
/** Between two tries to send a failed message again that no queue takes. */
const owedRetry: Backoff = { firstMs: 500, maxMs: 5_000 };

export class InboxDeliveries {
  readonly #options: InboxDeliveriesOptions;
  readonly #ready: Delivery[] = [];
  readonly #open = new Map<string, Open>();
  /** Failed ones that wait out their backoff, by message id. */
  readonly #held = new Map<string, Open>();
  /** What is about to be acked. */
  readonly #settling = new Set<Delivery>();

  constructor(options: InboxDeliveriesOptions) {
    this.#options = options;
  }

  get ready(): number {
    return this.#ready.length;
  }

  /** Handed out, or waiting for a retry. */
  get inHand(): number {
    return this.#open.size + this.#held.size;
  }

  /** Nothing is handed out, waits for a retry, or is being settled. */
  get isIdle(): boolean {
    return this.inHand === 0 && this.#settling.size === 0;
  }

  /** Of what came under this consumer's tag; what may be acked by now is not counted. */
  unsettled(consumerTag: string): number {
    const inHand = [...this.#open.values(), ...this.#held.values()].map(({ delivery }) => delivery);
    const isIts = (one: Delivery) => !this.#isLost(one) && one.message.fields.consumerTag === consumerTag;
    return [...inHand, ...this.#ready].filter(isIts).length;
  }

  /** @returns whether it made a message ready, the last of all. */
  async takeIn(message: ConsumeMessage, from: Pick<Delivery, "channel" | "sharedBy">): Promise<boolean> {
    const { consumer, component } = this.#options;
    // Of a channel that is lost, or closed, it comes again.
    if (this.#isLost(from) || this.#isHere(message, from.channel)) return false;
    const delivery = await consumer.admit({ component: component.id, message, ...from });
    // Asked again: copies that come at once are all admitted before the first of them is ready.
    if (delivery === undefined || this.#isLost(from) || this.#isHere(message, from.channel)) return false;
    this.#ready.push(delivery);
    return true;
  }

  /** @returns up to `max` of what is ready, open from now on; none only when none is. */
  handOut(max: number, visibilityMs: number): InboxMessage[] {
    let messages: InboxMessage[] = [];
    while (messages.length === 0 && this.#ready.length > 0)
      messages = this.#ready
        .splice(0, Math.min(max, fitting(this.#ready)))
        .flatMap((delivery) => this.#openOne(delivery, visibilityMs) ?? []);
    return messages;
  }

  /** Ready again, before what came after it, at no attempt. */
  release(id: string): void {
    const open = this.#take(id);
    if (open === undefined || this.#isLost(open.delivery)) return;
    this.#ready.push(open.delivery);
    this.#ready.sort((one, other) => one.message.fields.deliveryTag - other.message.fields.deliveryTag);
  }

  releaseAll(): void {
    for (const id of [...this.#open.keys()]) this.release(id);
  }

  /** What is ready and for any of the component's type goes back to their queue. */
  giveBackShared(): void {
    for (const delivery of this.#ready.splice(0)) {
      if (delivery.sharedBy === undefined) this.#ready.push(delivery);
      else delivery.channel.nack(delivery.message, false, true);
    }
  }

  /** The channel has ended: what was not handed out comes again, what was stays open and meets its redelivery in `takeIn`. */
  lost(): void {
    this.#ready.length = 0;
  }

  /** Everything is forgotten: the broker gives it out again. */
  clear(): void {
    for (const { timer } of [...this.#open.values(), ...this.#held.values()]) clearTimeout(timer);
    this.#open.clear();
    this.#held.clear();
    this.#ready.length = 0;
  }

  /** Asked before a handling that begins later: settles the delivery when its deadline is past. @returns whether it was. */
  expired(id: string): boolean {
    const open = this.#open.get(id);
    if (open === undefined || !this.#options.consumer.expired(open.delivery)) return false;
    this.#take(id);
    return true;
  }

  /** Handled. @throws MusterError `no-such-delivery`; `broker-unavailable`: the delivery stays open. */
  async ack(id: string): Promise<void> {
    await this.#settle(id, async ({ delivery }) => {
      const empty = { content: Buffer.alloc(0), contentType: "application/json" };
      await this.#options.consumer.done(delivery, delivery.letter.envelope.kind === "request" ? empty : undefined);
    });
  }

  /** Handled, with an answer. @throws MusterError as `ack`, and `refused` when it is no request. */
  async reply(id: string, body: { content: Buffer; contentType: string }): Promise<void> {
    const kind = this.#open.get(id)?.delivery.letter.envelope.kind;
    if (kind !== undefined && kind !== "request")
      throw new MusterError("refused", `the delivery is a ${kind}, to which nobody awaits a reply; use ack`);
    await this.#settle(id, ({ delivery }) => this.#options.consumer.done(delivery, body));
  }

  /**
   * Failed: comes again after its backoff or `delayMs`, in the end, or at once where that is `final`, a dead letter; a
   * request is answered with the failure. A broadcast that is `unhandled` fails and is no dead letter.
   * @throws MusterError as `ack`
   */
  async nack(id: string, failure: NackOptions): Promise<void> {
    await this.#settle(id, async ({ delivery }) => {
      if (failure.unhandled === true && delivery.letter.envelope.kind === "broadcast") {
        await this.#options.consumer.unhandled(delivery, failure.reason ?? "no handler");
        return;
      }
      const judged = this.#options.consumer.judge(delivery, failure.delayMs);
      const isFinal = failure.final === true || failure.unhandled === true;
      const verdict: AfterFailure = judged.action === "retry" && isFinal ? { action: "dead-letter" } : judged;
      const { code = "handler-failed", reason = "no reason given" } = failure;
      await this.#fail(delivery, verdict, { code, reason });
    });
  }

  /** It cannot be handed out, and must not keep others from it. */
  giveUp(id: string, error: unknown): void {
    const open = this.#take(id);
    if (open !== undefined) this.#giveUp(open.delivery, error);
  }

  /** Makes what comes one with the delivery of its message, if that is here already. */
  #isHere(message: ConsumeMessage, channel: Channel): boolean {
    const delivery = this.#find(message);
    if (delivery === undefined) return false;
    // On one channel it is a copy, the first is still unacked; on a new one the message itself, which is settled there then.
    if (delivery.channel === channel) channel.ack(message);
    else Object.assign(delivery, { channel, message });
    return true;
  }

  #find({ properties: { messageId, headers: given } }: ConsumeMessage): Delivery | undefined {
    const isIt = ({ letter }: Delivery) => letter.envelope.messageId === messageId;
    // The next attempt of one that is settled by sending it again is another, and so is a dead letter that was redriven.
    const isSame = (delivery: Delivery) => {
      const { attempt, redriven = 0 } = delivery.letter.envelope;
      return isIt(delivery) && attempt === attemptOf(given?.[headers.attempt]) && redriven === redrivenOf(given);
    };
    return (
      [...this.#open.values()].find(({ delivery }) => isIt(delivery))?.delivery ??
      this.#held.get(messageId)?.delivery ??
      this.#ready.find(isIt) ??
      [...this.#settling].find(isSame)
    );
  }

  /** @returns undefined when it is late, or cannot be handed out: it is settled then. */
  #openOne(delivery: Delivery, visibilityMs: number): InboxMessage | undefined {
    const { consumer, deliveryId, logger } = this.#options;
    if (consumer.expired(delivery)) return undefined;
    const id = deliveryId();
    let message: InboxMessage;
    try {
      message = toInboxMessage(id, delivery);
    } catch (error) {
      this.#giveUp(delivery, error);
      return undefined;
    }
    const timer = setTimeout(() => this.#overdue(id, visibilityMs), visibilityMs);
    this.#open.set(id, { delivery, timer });
    consumer.began(delivery).catch((error) => logger.debug({ error: String(error) }, "an outcome was not sent"));
    return message;
  }

  #giveUp(delivery: Delivery, error: unknown): void {
    const { consumer, logger } = this.#options;
    const reason = `the message cannot be handed out over HTTP: ${String(error)}`;
    logger.error({ component: delivery.component, reason }, "a message is given up");
    consumer
      .deadLetter(delivery, reason)
      .catch((refused) => logger.warn({ error: String(refused) }, "a message that was given up stays in its queue"));
  }

  /** The delivery, open no more. */
  #take(id: string): Open | undefined {
    const open = this.#open.get(id);
    this.#open.delete(id);
    clearTimeout(open?.timer);
    return open;
  }

  #overdue(id: string, visibilityMs: number): void {
    const { consumer, logger } = this.#options;
    this.#settle(id, async ({ delivery }) => {
      const failure = { code: "deadline-exceeded", reason: `not acknowledged within ${visibilityMs} ms` };
      await this.#fail(delivery, consumer.judge(delivery, 0), failure);
    }).catch((error) => logger.warn({ error: String(error) }, "an overdue delivery could not be given back"));
  }

  async #settle(id: string, settling: (open: Open) => Promise<void>): Promise<void> {
    const open = this.#take(id);
    if (open === undefined)
      throw new MusterError(
        "no-such-delivery",
        `the delivery "${id.slice(0, 100)}" is not open: it was settled already, or not within its visibility time, and comes again`,
      );
    this.#settling.add(open.delivery);
    try {
      await settling(open);
    } catch (error) {
      // Not settled: whoever tries again must find it.
      open.timer = setTimeout(() => this.#overdue(id, retrySettleMs), retrySettleMs);
      this.#open.set(id, open);
      throw error;
    } finally {
      this.#settling.delete(open.delivery);
      this.#options.onSettled();
    }
  }

  /**
   * A retry is held here for its delay, unacked: if this process dies meanwhile the broker has it. Failing messages must not
   * stop a queue: when half of the prefetch is held, of a prefetch of 1 that one, others are sent again at once.
   */
  async #fail(delivery: Delivery, verdict: AfterFailure, failure: Failure): Promise<void> {
    if (verdict.action === "retry" && this.#isLost(delivery)) return;
    const { consumer, consumers } = this.#options;
    const delayMs = verdict.action === "retry" ? verdict.delayMs : 0;
    const isHeld = delayMs > 0 && this.#held.size < Math.max(1, Math.floor(consumers.prefetch / 2));
    if (isHeld) this.#hold({ delivery, verdict, failure }, delayMs);
    else if (!(await consumer.fail(delivery, verdict, failure)))
      this.#hold({ delivery, verdict, failure }, backoffMs(owedRetry, 1, Math.random()));
  }

  /** One of a lost channel comes again by itself: a retry would be another message beside it. */
  #isLost({ channel }: Pick<Delivery, "channel">): boolean {
    return channel !== this.#options.consumers.channel;
  }

  /** @param refusals so far: how often no queue took the retry. */
  #hold(failed: { delivery: Delivery; verdict: AfterFailure; failure: Failure }, delayMs: number, refusals = 0): void {
    const { component, consumer, consumers, logger, onSettled } = this.#options;
    const { delivery, verdict, failure } = failed;
    const { messageId } = delivery.letter.envelope;
    const sendAgain = async () => {
      this.#held.delete(messageId);
      if (this.#isLost(delivery)) return;
      this.#settling.add(delivery);
      const isSent = await consumer.fail(delivery, verdict, failure).catch((error) => {
        logger.warn({ error: String(error) }, "a failed message could not be sent again");
        return false;
      });
      this.#settling.delete(delivery);
      if (!isSent && !this.#isLost(delivery))
        this.#hold(failed, backoffMs(owedRetry, refusals + 1, Math.random()), refusals + 1);
      onSettled();
    };
    this.#held.set(messageId, { delivery, timer: setTimeout(() => void sendAgain(), delayMs) });
    const { channel, message } = delivery;
    consumers
      .consumeBeside(channel, message.fields.consumerTag ?? "")
      .catch((error) => logger.debug({ component: component.id, error: String(error) }, "consuming was interrupted"));
  }
}

function fitting(ready: Delivery[]): number {
  let bytes = 0;
  const end = ready.findIndex(({ letter }, index) => {
    bytes += letter.content.length;
    return index > 0 && bytes > answerBytesMax;
  });
  return end < 0 ? ready.length : end;
}

function toInboxMessage(id: string, { letter }: Delivery): InboxMessage {
  const { messageId, kind, name, from, sentAtMs, deadlineAtMs, attempt, redriven, traceparent } = letter.envelope;
  return {
    delivery: id,
    id: messageId,
    kind,
    name,
    attempt,
    ...(from === undefined ? {} : { from }),
    ...(sentAtMs === undefined ? {} : { sentAt: new Date(sentAtMs).toISOString() }),
    ...(deadlineAtMs === undefined ? {} : { deadlineAt: new Date(deadlineAtMs).toISOString() }),
    ...(redriven === undefined ? {} : { redriven }),
    ...(traceparent === undefined ? {} : { traceparent }),
    ...toHttpBody(letter),
  };
}
