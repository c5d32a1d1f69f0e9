/**
 * Settles what an inbox handed out: here, or at the coordinator of the site that did. Behind a load balancer a component reaches
 * another one with every request; the delivery's id tells which one has it open.
 */
import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { exchanges } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type Letter, publishOptions, readLetter } from "./envelope.ts";
import type { NackOptions } from "./inbox-deliveries.ts";
import { type Inboxes, tokenOf } from "./inboxes.ts";
import { OwnQueue } from "./own-queue.ts";
import type { Requester } from "./request.ts";
import { draftLetter } from "./send.ts";

/** What is said of a delivery: handled, failed (InboxDeliveries.nack), or handled with this answer. */
export type Settlement =
  | { how: "ack" }
  | ({ how: "nack" } & NackOptions)
  | { how: "reply"; content: Buffer; contentType: string };

export interface SettlingOptions {
  broker: Broker;
  inboxes: Inboxes;
  requester: Requester;
  site: string;
  logger: Logger;
  wallClock: () => Date;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
}

const answerTimeoutMs = 5_000;
const prefetch = 100;
const nothing = Buffer.alloc(0);

export class Settling {
  readonly #options: SettlingOptions;
  readonly #asked: OwnQueue;

  constructor(options: SettlingOptions) {
    this.#options = options;
    const { broker, inboxes, logger, ready } = options;
    this.#asked = new OwnQueue({
      ...{ broker, name: "settling", exchange: exchanges.requests, ready, prefetch },
      keys: () => [keyOf(inboxes.token)],
      onMessage: (message) => {
        const letter = readLetter(message);
        if ("fault" in letter) return;
        this.#serve(letter).catch((error) => logger.warn({ error: String(error) }, "a settlement was not answered"));
      },
    });
  }

  start(): void {
    this.#asked.start();
  }

  async close(): Promise<void> {
    await this.#asked.close();
  }

  /**
   * Resolves when the delivery is settled.
   * @throws MusterError `no-such-delivery`; `refused` for a reply to what is no request; `broker-unavailable`: it stays open.
   */
  async settle(component: string, delivery: string, settlement: Settlement): Promise<void> {
    const { inboxes, requester, wallClock } = this.#options;
    const token = tokenOf(delivery);
    if (token === undefined) throw noSuchDelivery(component, delivery);
    if (token === inboxes.token) return this.#settleHere(component, delivery, settlement);
    const { content, contentType, ...told } = { content: nothing, contentType: "application/json", ...settlement };
    const draft = { messageId: randomUUID(), kind: "request", name: "settle", contentType } as const;
    const letter = draftLetter({ ...draft, extra: { component, delivery, ...told } }, content, wallClock().getTime());
    try {
      await requester.delegate(keyOf(token), letter, answerTimeoutMs);
    } catch (error) {
      // That coordinator has ended, and its deliveries with it.
      if (isMusterError(error, "no-such-target")) throw noSuchDelivery(component, delivery);
      throw error;
    }
  }

  async #settleHere(component: string, delivery: string, settlement: Settlement): Promise<void> {
    const inbox = this.#options.inboxes.existing(component);
    if (inbox === undefined) throw noSuchDelivery(component, delivery);
    if (settlement.how === "ack") await inbox.ack(delivery);
    else if (settlement.how === "nack") await inbox.nack(delivery, settlement);
    else await inbox.reply(delivery, settlement);
  }

  async #serve({ envelope, content }: Letter): Promise<void> {
    const { broker, wallClock } = this.#options;
    const { messageId, replyTo = "", contentType, extra = {} } = envelope;
    const { component, delivery, ...told } = extra;
    const failure = await this.#settleHere(String(component), String(delivery), {
      ...told,
      content,
      contentType,
    } as unknown as Settlement).then(
      () => ({}),
      (error: unknown) => ({
        error: isMusterError(error) ? error.code : "internal",
        reason: isMusterError(error) ? error.message : "the coordinator that has the delivery failed to settle it",
      }),
    );
    const nowMs = wallClock().getTime();
    const answer = {
      messageId: randomUUID(),
      kind: "reply",
      name: "settle",
      correlationId: messageId,
      ...failure,
    } as const;
    const { envelope: given } = draftLetter(answer, nothing, nowMs);
    const options = publishOptions(given, nowMs, { persistent: false });
    await broker.publish({ exchange: exchanges.reply, key: replyTo, content: nothing, options });
  }
}

/** No component's id has a colon. */
function keyOf(token: string): string {
  return `settling:${token}`;
}

function noSuchDelivery(component: string, delivery: string): MusterError {
  const told = `"${delivery.slice(0, 100)}" of "${component}" is not open at any coordinator of this site`;
  return new MusterError("no-such-delivery", `${told}: it was settled already, or the message comes again`);
}
