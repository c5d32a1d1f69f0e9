/** Ends a message that came by AMQP as docs/messages.md says: answer or pass on, wait for the confirm, then ack. */
import type { ConsumeMessage, Options } from "amqplib";
import { exchanges, headers, ownHeaders } from "../../../config-db/names.ts";
import type { Arrived } from "./amqp-message.ts";
import { type Draft, leftMs, publishOptions } from "./amqp-options.ts";
import { type AmqpSession, PublishError, type PublishFailure, sessionEnded } from "./amqp-session.ts";
import type { Delivery, Result } from "./delivery.ts";
import { nextId } from "./ids.ts";
import { json, type Message } from "./message.ts";

const nothing = Buffer.alloc(0);
type Failed = Extract<Result, { state: "failed" }>;

export class AmqpDelivery implements Delivery {
  readonly message: Message;
  readonly #session: AmqpSession;
  readonly #raw: ConsumeMessage;
  readonly #arrived: Arrived;
  readonly #self: { id: string; type: string };

  constructor(session: AmqpSession, raw: ConsumeMessage, arrived: Arrived, self: { id: string; type: string }) {
    this.#session = session;
    this.#raw = raw;
    this.#arrived = arrived;
    this.#self = self;
    this.message = arrived.message;
  }

  started(): void {
    if (this.#arrived.replyTo === undefined || this.message.kind === "request") return;
    const { draft, content } = this.#outcome("delivered");
    const { exchange, key } = this.#answerRoute(draft);
    // On the channel of the outcome that ends it, so that it comes before.
    this.#session.publish(exchange, key, content, publishOptions(draft, Date.now()), () => undefined);
  }

  drop(): void {
    // Thrown by an ended session: the message comes again and is dropped then.
    try {
      this.#session.ack(this.#raw);
    } catch {}
  }

  async settle(result: Result): Promise<void> {
    const isRequest = this.message.kind === "request";
    if (result.state === "late") {
      // The requester has gone; a command's sender is told by the dead letter that it expired.
      if (isRequest) this.#session.ack(this.#raw);
      else this.#session.reject(this.#raw);
      return;
    }
    if (isRequest) {
      this.#reply(result);
      this.#session.ackSoon(this.#raw);
      return;
    }
    if (result.state === "done") await this.#tell("done");
    else if (result.retryInMs !== undefined) await this.#retry(result.retryInMs);
    else if (result.unhandled === true && this.message.kind === "broadcast") await this.#tell("failed", result.reason);
    else await this.#deadLetter(result);
    this.#session.ack(this.#raw);
  }

  #reply(result: Exclude<Result, { state: "late" }>): void {
    const isDone = result.state === "done";
    const draft = this.#answer("reply", (isDone ? result.reply?.contentType : undefined) ?? json);
    draft.name = this.message.name;
    if (!isDone) {
      draft.error = result.code;
      draft.reason = result.reason;
    }
    const content = (isDone ? result.reply?.content : undefined) ?? nothing;
    const { exchange, key } = this.#answerRoute(draft);
    // Unconfirmed: a requester that hears nothing because a connection broke asks again, by the same id. An address that
    // does not fit into AMQP is nobody's.
    const failure = this.#session.publishUnconfirmed(exchange, key, content, publishOptions(draft, Date.now()));
    if (failure === "lost") throw sessionEnded();
  }

  async #tell(state: "done" | "failed", reason?: string): Promise<void> {
    if (this.#arrived.replyTo === undefined) return;
    const { draft, content } = this.#outcome(state, reason);
    draft.isPersistent = true;
    const { exchange, key } = this.#answerRoute(draft);
    try {
      await this.#session.confirmed(exchange, key, content, publishOptions(draft, Date.now()));
    } catch (error) {
      if (!hasFailed(error, "returned") && !hasFailed(error, "invalid")) throw error;
    }
  }

  #outcome(state: "delivered" | "done" | "failed", reason?: string): { draft: Draft; content: Buffer } {
    const { id, attempt } = this.message;
    const at = new Date().toISOString();
    const body = { id, component: this.#self.id, state, attempt, at, ...(reason !== undefined && { reason }) };
    return { draft: this.#answer("outcome", json), content: Buffer.from(JSON.stringify(body)) };
  }

  #answer(kind: "reply" | "outcome", contentType: string): Draft {
    return {
      messageId: nextId(),
      kind,
      from: this.#self.id,
      name: undefined,
      contentType,
      isPersistent: false,
      isMandatory: true,
      correlationId: this.message.id,
      replyTo: undefined,
      deadlineAtMs: undefined,
      expires: false,
      traceparent: this.message.traceparent,
      error: undefined,
      reason: undefined,
      forward: undefined,
    };
  }

  /** Straight back, or by way of the site that the message came from. */
  #answerRoute(draft: Draft): { exchange: string; key: string } {
    const { replyTo = "", originSite } = this.#arrived;
    if (originSite === undefined) return { exchange: exchanges.reply, key: replyTo };
    draft.forward = { exchange: exchanges.reply, key: replyTo };
    return { exchange: exchanges.remote, key: originSite };
  }

  /** Back to where it came from; a broadcast to this component alone. */
  async #retry(delayMs: number): Promise<void> {
    await this.#session.hold(this.#raw, delayMs);
    const isAny = this.#raw.fields.exchange === exchanges.any;
    const exchange = isAny ? exchanges.any : exchanges.unicast;
    const key = isAny ? this.#self.type : this.#self.id;
    await this.#passOn(exchange, key, { [headers.attempt]: this.message.attempt + 1 });
  }

  async #deadLetter({ reason }: Failed): Promise<void> {
    const added = { [headers.reason]: reason, [headers.to]: this.#self.id };
    await this.#passOn(exchanges.dead, this.#raw.fields.routingKey, added);
  }

  /** The message as it came, with some headers added; foreign headers stay behind where they leave no room for these. */
  async #passOn(exchange: string, key: string, added: Record<string, unknown>): Promise<void> {
    const { content, properties } = this.#raw;
    const given: Record<string, unknown> = properties.headers ?? {};
    const isDead = exchange === exchanges.dead;
    const pass = (told: Record<string, unknown>) =>
      this.#session.confirmed(exchange, key, content, this.#again(told, isDead), { untilRouted: true });
    try {
      await pass({ ...given, ...added });
    } catch (error) {
      if (!hasFailed(error, "invalid")) throw error;
      await pass({ ...ownHeaders(given), ...added });
    }
  }

  /** The same properties with these headers. */
  #again(told: Record<string, unknown>, isDead: boolean): Options.Publish {
    const given = Object.entries(this.#raw.properties).filter(([, value]) => value !== undefined);
    const options: Record<string, unknown> = Object.fromEntries(given);
    options.headers = told;
    options.deliveryMode = 2;
    options.mandatory = true;
    // The broker takes no name here but that of the user who publishes.
    delete options.userId;
    const { deadlineAtMs } = this.message;
    // Dead letters do not expire: they are kept to be looked at.
    if (isDead) delete options.expiration;
    else if (deadlineAtMs !== undefined) options.expiration = leftMs(deadlineAtMs, Date.now());
    return options as Options.Publish;
  }
}

function hasFailed(error: unknown, failure: PublishFailure): boolean {
  return error instanceof PublishError && error.failure === failure;
}
