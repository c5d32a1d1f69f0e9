/**
 * Webhooks: the inbox of a component that would rather be called. Each message is POSTed to the registered URL, signed; a
 * 2xx acks it. What says that the endpoint is away (no connection, 408, 429, 503) is tried again with backoff and costs
 * the message nothing, unless the endpoint handles others meanwhile; any other answer, or none in time, is a failure of the
 * handler and follows the rules of every other one. Only messages of one sender wait for each other: else the one message
 * that its handler hangs on would hold up all behind it.
 */
import { createHmac } from "node:crypto";
import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { isMusterError } from "../../config-db/errors.ts";
import { type Backoff, backoffMs } from "./backoff.ts";
import type { Inbox } from "./inbox.ts";
import type { InboxMessage } from "./inbox-deliveries.ts";
import type { Inboxes } from "./inboxes.ts";
import { Lanes } from "./lanes.ts";
import type { Member, Members } from "./members.ts";
import { type CallOutcome, WebhookClient } from "./webhook-client.ts";

export interface WebhooksOptions {
  inboxes: Inboxes;
  members: Members;
  site: string;
  /** Only the leading coordinator calls webhooks: two would lose the order of messages. */
  leads: () => boolean;
  /** How long an answer is awaited, in milliseconds; 30,000 if not given. */
  answerTimeoutMs?: number;
  logger: Logger;
  wallClock: () => Date;
}

const reconcileEveryMs = 1_000;
/** Of each of a component's queues. Those that wait behind another of their sender count: it bounds what is held here. */
const messagesAtOnce = 16;
/** As long as a timer counts: an endpoint that is away costs its messages nothing, and each call has its own limit. */
const heldMaxMs = 2 ** 31 - 1;
const defaultAnswerTimeoutMs = 30_000;
/** How long `close` waits for answers: as the bridge does for its requests. */
const drainMs = 5_000;
const endpointBackoff: Backoff = { firstMs: 500, maxMs: 30_000 };
/** Well under the time that an inbox leaves a delivery open after a settling that failed. */
const settleBackoff: Backoff = { firstMs: 500, maxMs: 5_000 };
/**
 * A message that finds the endpoint away so many times, each time others were handled since the time before, is what the
 * endpoint fails on: with the backoff between, 4 to 8 s at the least.
 */
const passedMax = 5;
const pollRetryMs = 2_000;

interface Caller {
  url: string;
  secret: string;
  type: string;
  abort: AbortController;
  running: Promise<void>;
}

export class Webhooks {
  readonly #options: WebhooksOptions;
  /** By component; one that was told to stop is among them until it has. */
  readonly #callers = new Map<string, Caller>();
  /** Ends the calls that are under way. */
  readonly #cut = new AbortController();
  readonly #client = new WebhookClient();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: WebhooksOptions) {
    this.#options = options;
    // Every call that is under way listens to it: that is no leak.
    setMaxListeners(0, this.#cut.signal);
  }

  start(): void {
    this.#timer = setInterval(() => this.#reconcile(), reconcileEveryMs);
    this.#reconcile();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    const callers = [...this.#callers.values()];
    for (const { abort } of callers) abort.abort();
    const cut = setTimeout(() => this.#cut.abort(new Error("the coordinator ends")), drainMs);
    await Promise.all(callers.map(({ running }) => running));
    clearTimeout(cut);
    this.#client.close();
  }

  /** Starts calling for components that are up and have a webhook, stops for those that are or have no longer. */
  #reconcile(): void {
    if (this.#closed) return;
    const { members, leads } = this.#options;
    const wanted = new Map<string, Member & { webhook: { url: string; secret: string } }>();
    if (leads()) for (const member of members.all()) if (this.#isWanted(member)) wanted.set(member.id, member);
    for (const [id, caller] of this.#callers) {
      const member = wanted.get(id);
      // The next caller waits for the end of this one: its messages would be called for twice, or overtaken.
      wanted.delete(id);
      if (member?.webhook.url !== caller.url || member.webhook.secret !== caller.secret || member.type !== caller.type)
        caller.abort.abort();
    }
    for (const { id, type, webhook } of wanted.values()) {
      const abort = new AbortController();
      const running = this.#call({ id, type }, webhook, abort.signal).finally(() => {
        this.#callers.delete(id);
        this.#reconcile();
      });
      this.#callers.set(id, { ...webhook, type, abort, running });
    }
  }

  #isWanted(member: Member): member is Member & { webhook: { url: string; secret: string } } {
    return member.webhook !== undefined && member.site === this.#options.site && member.state === "up";
  }

  async #call(
    component: { id: string; type: string },
    webhook: { url: string; secret: string },
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      try {
        const inbox = await this.#options.inboxes.of(component);
        const lanes = new Lanes();
        const progress = { handled: 0 };
        await inbox.work({ max: messagesAtOnce, visibilityMs: heldMaxMs, signal }, (message, ending) =>
          lanes.run(message.from ?? "", () => this.#deliver(inbox, message, webhook, progress, ending)),
        );
      } catch (error) {
        if (signal.aborted) return;
        this.#options.logger.warn(
          { component: component.id, error: String(error) },
          "a webhook's inbox cannot be read",
        );
        await delay(pollRetryMs, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /** Once `ending` aborts nothing is begun any more; a call that is under way is settled by its answer. */
  async #deliver(
    inbox: Inbox,
    message: InboxMessage,
    webhook: { url: string; secret: string },
    progress: { handled: number },
    ending: AbortSignal,
  ): Promise<void> {
    let handledBefore = progress.handled;
    let passed = 0;
    for (let failures = 1; !ending.aborted; failures += 1) {
      // It may have waited behind others of its sender, or for the endpoint.
      if (inbox.expired(message.delivery)) return;
      const answer = await this.#post(message, webhook);
      if (answer.outcome === "handled") {
        progress.handled += 1;
        await this.#settle(message.delivery, () =>
          message.kind === "request" ? inbox.reply(message.delivery, answer.reply) : inbox.ack(message.delivery),
        );
        return;
      }
      if (answer.outcome === "failed") {
        await this.#settle(message.delivery, () => inbox.nack(message.delivery, { reason: answer.reason }));
        return;
      }
      if (progress.handled > handledBefore) passed += 1;
      handledBefore = progress.handled;
      if (passed >= passedMax) {
        const reason = `${answer.reason}, ${passed} times while the webhook handled other messages`;
        await this.#settle(message.delivery, () => inbox.nack(message.delivery, { reason }));
        return;
      }
      if (failures === 1)
        this.#options.logger.info({ url: webhook.url, reason: answer.reason }, "a webhook is away, trying again");
      const waitMs = backoffMs(endpointBackoff, failures, Math.random());
      await delay(waitMs, undefined, { signal: ending }).catch(() => undefined);
    }
  }

  /** Until the broker takes it, or the coordinator ends: who has answered is not to be called again for the same. */
  async #settle(delivery: string, settling: () => Promise<void>): Promise<void> {
    const { signal } = this.#cut;
    for (let failures = 1; ; failures += 1) {
      try {
        await settling();
        return;
      } catch (error) {
        const isAway = isMusterError(error, "broker-unavailable") || isMusterError(error, "too-many");
        if (!isAway || signal.aborted) throw error;
        if (failures === 1)
          this.#options.logger.warn({ delivery, error: String(error) }, "the answer of a webhook waits for the broker");
      }
      const waitMs = backoffMs(settleBackoff, failures, Math.random());
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  #post(message: InboxMessage, { url, secret }: { url: string; secret: string }): Promise<CallOutcome> {
    const body = JSON.stringify(message);
    const { answerTimeoutMs = defaultAnswerTimeoutMs } = this.#options;
    const seconds = Math.floor(this.#options.wallClock().getTime() / 1000);
    return this.#client.call({
      url,
      headers: {
        "muster-signature": webhookSignature(secret, seconds, body),
        "muster-delivery": message.delivery,
        ...(message.traceparent === undefined ? {} : { traceparent: message.traceparent }),
      },
      body,
      isRequest: message.kind === "request",
      timeoutMs: answerTimeoutMs,
      signal: this.#cut.signal,
    });
  }
}

/**
 * The `Muster-Signature` header: `t=<seconds>,v1=<hex>`, where `v1` is the HMAC-SHA256 of `<seconds>.<body>` under the
 * webhook's secret. A receiver compares it in constant time and refuses a `t` that is minutes old.
 */
export function webhookSignature(secret: string, seconds: number, body: string): string {
  return `t=${seconds},v1=${createHmac("sha256", secret).update(`${seconds}.${body}`).digest("hex")}`;
}
