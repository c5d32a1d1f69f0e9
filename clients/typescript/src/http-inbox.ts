/** Receives through the bridge's inbox: long polls, acks and nacks by POST. */
import { isMusterError } from "../../../config-db/errors.ts";
import { backoffMs, pause } from "./backoff.ts";
import type { Bridge } from "./bridge.ts";
import type { Delivery, Receiver, Result } from "./delivery.ts";
import { fromHttpBody, type HttpBody, httpBody } from "./http-sender.ts";
import type { Logger } from "./logger.ts";
import { json, type Message } from "./message.ts";
import { traceparentOf } from "./trace.ts";

export interface HttpInboxOptions {
  bridge: Bridge;
  id: string;
  receiver: Receiver;
  /** Of this process: an older one is given no messages of a newer one's. */
  incarnation(): number | undefined;
  /** A coordinator says that another process has the id. */
  onSuperseded(): void;
  /** Messages in hand at a time. */
  prefetch: number;
  /** The longest that a handler may take now. */
  longestHandlerMs(): number;
  logger: Logger;
}

interface InboxMessage extends HttpBody {
  delivery: string;
  id: string;
  kind: "command" | "request" | "broadcast" | "signal";
  name: string;
  from?: string;
  sentAt?: string;
  deadlineAt?: string;
  attempt?: number;
  redriven?: number;
  traceparent?: string;
}

/** Below the 60 s at which many proxies cut an idle request. */
const waitMs = 30_000;
/** Few at a time: what waits here behind a slow handler counts as taking too long. */
const inHandMax = 16;
/** Time for the ack, and for one message before this one. */
const visibilityMarginMs = 30_000;
const visibilityMaxMs = 3_600_000;
const retry = { firstMs: 100, maxMs: 5_000 };
const settleTriesMax = 8;
/** A coordinator leaves the queues by itself 1 s after the last poll; the rest is for its broker to hear of it. */
const lingerMs = 1_500;
const releaseTimeoutMs = 2_000;

export class HttpInbox {
  readonly #options: HttpInboxOptions;
  readonly #ending = new AbortController();
  #loop: Promise<void> = Promise.resolve();
  #inHand = 0;
  /** Whether a coordinator may hold messages for nobody: of a process before this one, or of an answer that did not arrive. */
  #isInDoubt = true;
  #wake: (() => void) | undefined;

  constructor(options: HttpInboxOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Polls no more. Messages in hand can still be settled. */
  async stop(): Promise<void> {
    this.#ending.abort();
    this.#wake?.();
    await this.#loop;
  }

  /**
   * Resolves, after `stop` or instead of `start`, when the queues can be consumed: who began before a coordinator gave away what
   * it took would be given what is younger than that. It is taken from there, since RabbitMQ puts what is given back behind what
   * was given back before. When none can be asked, one lets go by itself unless it has something in hand, and that is awaited.
   * @returns whether they are known to be.
   */
  async released(): Promise<boolean> {
    const untilMs = performance.now() + lingerMs;
    const leftMs = () => Math.max(0, untilMs - performance.now());
    for (let attempt = 0; leftMs() > 0; attempt += 1) {
      if (await this.#isLeft(leftMs)) return true;
      await pause(Math.min(backoffMs(attempt, retry), leftMs()));
    }
    return false;
  }

  async #isLeft(leftMs: () => number): Promise<boolean> {
    const poll = { max: inHandMax, waitMs: 0, last: true } as const;
    try {
      // One answer does not hold everything where it is large; and what is sent meanwhile may go on coming.
      while ((await this.#poll({ ...poll, timeoutMs: Math.max(1, leftMs()) })) > 0 && leftMs() > 0);
    } catch (error) {
      this.#options.logger.debug({ error }, "the inbox was not taken over");
      return false;
    }
    return await this.giveBack();
  }

  /** Has the coordinator give back what it took for this component; what is in hand comes again. @returns whether it did. */
  async giveBack(): Promise<boolean> {
    const { bridge, id, logger } = this.#options;
    try {
      await bridge.ask({ method: "DELETE", path: `/v1/components/${id}/inbox`, timeoutMs: releaseTimeoutMs });
      return true;
    } catch (error) {
      logger.debug({ error }, "the inbox was not given back");
      return false;
    }
  }

  /** As `giveBack`, until a coordinator does: while it has anything in hand it takes what comes, for polls that come no more. */
  async giveBackAtLast(signal: AbortSignal): Promise<void> {
    for (let attempt = 0; !signal.aborted && !(await this.giveBack()); attempt += 1)
      await pause(backoffMs(attempt, retry), signal);
  }

  async #run(): Promise<void> {
    const { signal } = this.#ending;
    for (let attempt = 0; !signal.aborted; ) {
      const free = Math.min(this.#options.prefetch, inHandMax) - this.#inHand;
      if (free <= 0) {
        await this.#untilFree();
        continue;
      }
      try {
        await this.#poll({ max: free, waitMs, timeoutMs: waitMs + 10_000, signal });
        attempt = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (isMusterError(error, "superseded")) this.#options.onSuperseded();
        this.#options.logger.debug({ error }, "the inbox cannot be read now");
        const retryAfterMs = isMusterError(error) ? Math.min(error.retryAfterMs ?? 0, retry.maxMs) : 0;
        await pause(Math.max(retryAfterMs, backoffMs(attempt, retry)), signal);
        attempt += 1;
      }
    }
  }

  async #poll(poll: {
    max: number;
    waitMs: number;
    last?: true;
    timeoutMs: number;
    signal?: AbortSignal;
  }): Promise<number> {
    const { bridge, id, receiver, longestHandlerMs, incarnation } = this.#options;
    const { timeoutMs, signal, ...wanted } = poll;
    const visibilityMs = Math.min(visibilityMaxMs, longestHandlerMs() + visibilityMarginMs);
    // What nobody has in hand is older than what this one would get else, and comes again only when its visibility ends.
    const again = this.#isInDoubt ? { again: true } : {};
    this.#isInDoubt = true;
    const { body } = await bridge.ask<{ messages: InboxMessage[] }>({
      path: `/v1/components/${id}/inbox`,
      query: { ...wanted, visibilityMs, ...again, incarnation: incarnation() },
      timeoutMs,
      signal,
      // Another one would give what is younger than what this one had in an answer that did not arrive.
      once: true,
    });
    this.#isInDoubt = false;
    for (const given of body.messages) {
      if (given.kind === "signal") {
        const { revision } = (given.body ?? {}) as { revision?: string };
        if (revision !== undefined) receiver.signal(revision);
        void this.settle(given.delivery, "ack").catch(() => undefined);
        continue;
      }
      this.#inHand += 1;
      receiver.deliver(new HttpDelivery(this, given, () => this.#release()));
    }
    return body.messages.length;
  }

  /** Tells the coordinator until it has it: it does not matter to it how often. Rejects when it refuses or never answers. */
  async settle(delivery: string, verb: "ack" | "nack" | "reply", body?: object): Promise<void> {
    const { bridge, id } = this.#options;
    const path = `/v1/components/${id}/inbox/${encodeURIComponent(delivery)}/${verb}`;
    for (let attempt = 0; ; attempt += 1) {
      try {
        await bridge.ask({ method: "POST", path, ...(body !== undefined && { body }) });
        return;
      } catch (error) {
        // It was not told in time, or a restarted coordinator does not know it: the message comes again.
        const canRetry = isMusterError(error) && error.status === 503 && attempt < settleTriesMax;
        if (!canRetry) throw error;
        await pause(backoffMs(attempt, retry));
      }
    }
  }

  #release(): void {
    this.#inHand -= 1;
    this.#wake?.();
  }

  async #untilFree(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
  }
}

class HttpDelivery implements Delivery {
  readonly message: Message;
  readonly #inbox: HttpInbox;
  readonly #delivery: string;
  readonly #release: () => void;
  #isReleased = false;

  constructor(inbox: HttpInbox, given: InboxMessage, release: () => void) {
    this.#inbox = inbox;
    this.#delivery = given.delivery;
    this.#release = release;
    this.message = {
      id: given.id,
      kind: given.kind as Message["kind"],
      name: given.name,
      from: given.from,
      contentType: given.contentType ?? json,
      body: fromHttpBody(given),
      sentAtMs: given.sentAt === undefined ? undefined : Date.parse(given.sentAt),
      deadlineAtMs: given.deadlineAt === undefined ? undefined : Date.parse(given.deadlineAt),
      attempt: given.attempt ?? 1,
      redriven: given.redriven ?? 0,
      traceparent: traceparentOf(given.traceparent),
    };
  }

  /** Taking it from the inbox said so. */
  started(): void {}

  drop(): void {
    void this.#end("ack").catch(() => undefined);
  }

  async settle(result: Result): Promise<void> {
    if (result.state === "late") return await this.#end("nack", { reason: "the deadline has passed", final: true });
    if (result.state === "done") {
      const isRequest = this.message.kind === "request";
      return isRequest ? await this.#end("reply", result.reply && httpBody(result.reply)) : await this.#end("ack");
    }
    const { code, unhandled, retryInMs } = result;
    const end = unhandled === true ? { unhandled } : { final: true };
    const after = retryInMs === undefined ? end : { delayMs: Math.round(retryInMs) };
    // Only where it matters: coordinators that know no code refuse it.
    const told = this.message.kind === "request" && code !== "handler-failed" ? { code } : {};
    await this.#end("nack", { reason: result.reason, ...after, ...told });
  }

  async #end(verb: "ack" | "nack" | "reply", body?: object): Promise<void> {
    try {
      await this.#inbox.settle(this.#delivery, verb, verb === "reply" ? (body ?? {}) : body);
    } finally {
      if (!this.#isReleased) this.#release();
      this.#isReleased = true;
    }
  }
}
