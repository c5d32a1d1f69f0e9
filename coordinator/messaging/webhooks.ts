/**
 * Webhooks: the inbox of a component that would rather be called. Each message is POSTed to the registered URL, signed; a
 * 2xx acks it. What says that the endpoint is away (no connection, 408, 429, 503) is tried again with backoff and costs
 * the message nothing; any other answer, or none in time, is a failure of the handler and follows the rules of every
 * other one: else the one message that its handler hangs on would hold up all behind it.
 */
import { createHmac } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { type Backoff, backoffMs } from "./backoff.ts";
import { faultOfBody, isMediaType, shown } from "./envelope.ts";
import type { Inbox, InboxMessage } from "./inbox.ts";
import type { Inboxes } from "./inboxes.ts";
import type { Member, Members } from "./members.ts";

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
const messagesAtOnce = 16;
const pollWaitMs = 30_000;
/** As long as a timer counts: an endpoint that is away costs its messages nothing, and each call has its own limit. */
const heldMaxMs = 2 ** 31 - 1;
const defaultAnswerTimeoutMs = 30_000;
/** How long `close` waits for answers: as the bridge does for its requests. */
const drainMs = 5_000;
const answerBytesMax = 1024 * 1024;
const endpointBackoff: Backoff = { firstMs: 500, maxMs: 30_000 };
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
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: WebhooksOptions) {
    this.#options = options;
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
        await inbox.work({ max: messagesAtOnce, waitMs: pollWaitMs, visibilityMs: heldMaxMs, signal }, (messages) =>
          this.#deliverAll(inbox, messages, webhook, signal),
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

  async #deliverAll(
    inbox: Inbox,
    messages: InboxMessage[],
    webhook: { url: string; secret: string },
    signal: AbortSignal,
  ): Promise<void> {
    // One sender's messages one after another, in their order.
    const lanes = new Map<string, InboxMessage[]>();
    for (const message of messages) lanes.set(message.from ?? "", [...(lanes.get(message.from ?? "") ?? []), message]);
    const ends = await Promise.allSettled(
      [...lanes.values()].map(async (lane) => {
        for (const message of lane) await this.#deliver(inbox, message, webhook, signal);
      }),
    );
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }

  /** Once `signal` aborts nothing is begun any more; a call that is under way is settled by its answer. */
  async #deliver(
    inbox: Inbox,
    message: InboxMessage,
    webhook: { url: string; secret: string },
    signal: AbortSignal,
  ): Promise<void> {
    for (let failures = 1; !signal.aborted; failures += 1) {
      // It may have waited behind others of its sender, or for the endpoint.
      if (inbox.expired(message.delivery)) return;
      const answer = await this.#post(message, webhook);
      if (answer.outcome === "handled") {
        if (message.kind === "request") await inbox.reply(message.delivery, answer.reply);
        else await inbox.ack(message.delivery);
        return;
      }
      if (answer.outcome === "failed") {
        await inbox.nack(message.delivery, { reason: answer.reason });
        return;
      }
      if (failures === 1)
        this.#options.logger.info({ url: webhook.url, reason: answer.reason }, "a webhook is away, trying again");
      await delay(backoffMs(endpointBackoff, failures, Math.random()), undefined, { signal }).catch(() => undefined);
    }
  }

  async #post(message: InboxMessage, { url, secret }: { url: string; secret: string }): Promise<PostOutcome> {
    const body = JSON.stringify(message);
    const { answerTimeoutMs = defaultAnswerTimeoutMs } = this.#options;
    const seconds = Math.floor(this.#options.wallClock().getTime() / 1000);
    // Not AbortSignal.any: in Node 20 it keeps no hold of a timeout's signal, which may be collected and never abort.
    const ending = new AbortController();
    const cut = this.#cut.signal;
    const end = () => ending.abort(cut.reason);
    const late = () => ending.abort(new LateAnswer(answerTimeoutMs));
    const timer = setTimeout(late, answerTimeoutMs);
    cut.addEventListener("abort", end);
    try {
      cut.throwIfAborted();
      const response = await fetch(url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "muster-signature": webhookSignature(secret, seconds, body),
          "muster-delivery": message.delivery,
          ...(message.traceparent === undefined ? {} : { traceparent: message.traceparent }),
        },
        body,
        redirect: "manual",
        signal: ending.signal,
      });
      const content = await readAnswer(response);
      if (awayStatuses.has(response.status)) return { outcome: "away", reason: `status ${response.status}` };
      if (!response.ok) {
        const said = (content ?? Buffer.alloc(0)).toString("utf8").slice(0, 200);
        return { outcome: "failed", reason: `the webhook answered ${response.status} ${said}`.trim() };
      }
      if (content === undefined)
        return { outcome: "failed", reason: `the webhook answered more than ${answerBytesMax} bytes, the limit` };
      const contentType = response.headers.get("content-type") ?? "application/json";
      const fault = message.kind === "request" ? faultOfAnswer(content, contentType) : undefined;
      if (fault !== undefined) return { outcome: "failed", reason: `the webhook's answer is no reply: ${fault}` };
      return { outcome: "handled", reply: { content, contentType } };
    } catch (error) {
      const cause = (error as { cause?: { code?: unknown } }).cause;
      const reason = error instanceof LateAnswer ? error.message : String(cause ?? error);
      return { outcome: isHandlers(error, cause?.code) ? "failed" : "away", reason };
    } finally {
      clearTimeout(timer);
      cut.removeEventListener("abort", end);
    }
  }
}

function faultOfAnswer(content: Buffer, contentType: string): string | undefined {
  if (!isMediaType(contentType)) return `its content type is none, ${shown(contentType)}`;
  return faultOfBody(content, contentType);
}

/** @returns undefined when it is too long; the rest is not read then, it may have no end. */
async function readAnswer({ body }: Response): Promise<Buffer | undefined> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

class LateAnswer extends Error {
  constructor(timeoutMs: number) {
    super(`the webhook gave no answer within ${timeoutMs} ms`);
  }
}

/** A connection fails with a code, and may be back. One that gives no answer, or no HTTP, or is none to fetch, is there. */
function isHandlers(error: unknown, code: unknown): boolean {
  if (error instanceof LateAnswer) return true;
  return error instanceof TypeError && (code === undefined || String(code).startsWith("HPE_"));
}

type PostOutcome =
  | { outcome: "handled"; reply: { content: Buffer; contentType: string } }
  | { outcome: "failed"; reason: string }
  | { outcome: "away"; reason: string };

const awayStatuses = new Set([408, 429, 503]);

/**
 * The `Muster-Signature` header: `t=<seconds>,v1=<hex>`, where `v1` is the HMAC-SHA256 of `<seconds>.<body>` under the
 * webhook's secret. A receiver compares it in constant time and refuses a `t` that is minutes old.
 */
export function webhookSignature(secret: string, seconds: number, body: string): string {
  return `t=${seconds},v1=${createHmac("sha256", secret).update(`${seconds}.${body}`).digest("hex")}`;
}
