/** Requests that the coordinator makes for others: to one, to any one of a type, or to many, gathering who answers. */
import type { ConsumeMessage } from "amqplib";
import type { Logger } from "pino";
import { type ErrorCode, isErrorCode, MusterError } from "../../config-db/errors.ts";
import { exchanges, headers, idPattern, replyKeys } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { type HttpBody, type Letter, readLetter, toHttpBody } from "./envelope.ts";
import { OwnQueue } from "./own-queue.ts";
import type { RoutePlan, Sender } from "./send.ts";

export interface RequesterOptions {
  broker: Broker;
  sender: Sender;
  site: string;
  /** Of this process. */
  token: string;
  logger: Logger;
  /** Resolves when the exchange stands. */
  ready: (exchange: string) => Promise<void>;
}

export type Reply = { from: string } & HttpBody;
export type GatheredReply = Reply | { from: string; error: { code: string; detail: string } };
export interface Gathered {
  replies: GatheredReply[];
  /** Those that the registry knew when the request was sent and that did not answer in time. */
  missing: string[];
}

interface Pending {
  take(letter: Letter): void;
}

/** What becomes of an exchange's replies. */
interface Collecting {
  /** Whether a reply of this component, "" where it does not say whose it is, is one of them. Default: any. */
  isAsked?(from: string): boolean;
  complete(replies: Letter[]): boolean;
}

const first: Collecting = { complete: (replies) => replies.length > 0 };

/** Requests that wait for replies at once; each holds its body no longer, only a timer. */
const pendingMax = 10_000;
const prefetch = 1_000;
/** Bodies of one gathering, together: what comes beyond is told as an error in its place. */
const gatheredBytesMax = 16 * 1024 * 1024;

export class Requester {
  readonly #options: RequesterOptions;
  readonly #pending = new Map<string, Pending>();
  readonly #replies: OwnQueue;
  /** Where replies to this process arrive. */
  readonly replyKey: string;

  constructor(options: RequesterOptions) {
    this.#options = options;
    const { broker, site, token, ready } = options;
    this.replyKey = replyKeys.coordinator(site, token);
    this.#replies = new OwnQueue({
      ...{ broker, name: "replies", exchange: exchanges.reply, ready, prefetch },
      keys: () => [this.replyKey],
      onMessage: (message) => {
        const reply = readReply(message);
        if (reply !== undefined) this.#pending.get(reply.envelope.correlationId ?? "")?.take(reply);
      },
    });
  }

  start(): void {
    this.#replies.start();
  }

  async close(): Promise<void> {
    await this.#replies.close();
  }

  /**
   * Sends a request and resolves with its reply.
   * @throws MusterError `deadline-exceeded`, `handler-failed` with the handler's reason, and what `Sender.send` throws.
   */
  async ask(plan: RoutePlan, letter: Letter, timeoutMs: number, signal: AbortSignal): Promise<Reply> {
    const [reply] = await this.#exchange(plan, letter, timeoutMs, signal, first);
    if (reply === undefined)
      throw new MusterError(
        "deadline-exceeded",
        `no reply to "${letter.envelope.name}" within ${timeoutMs} ms; whether it was handled is not known`,
      );
    const failure = failureOf(reply);
    if (failure === undefined) return toReply(reply);
    // The target's site does not know it any more: no handler ever saw the request.
    if (failure.code === "no-such-target") throw new MusterError("no-such-target", failure.detail);
    throw new MusterError(
      failure.code === "deadline-exceeded" ? "deadline-exceeded" : "handler-failed",
      `"${reply.envelope.from ?? "the target"}" failed to handle "${letter.envelope.name}": ${failure.detail}`,
    );
  }

  /**
   * Asks another coordinator of the site, by its key on `muster.requests`.
   * @throws MusterError what was thrown there; `no-such-target` when it is gone; `broker-unavailable` without an answer.
   */
  async delegate(key: string, letter: Letter, timeoutMs: number): Promise<void> {
    const plan = { exchange: exchanges.requests, key, recipients: [] };
    const forever = new AbortController().signal;
    const [reply] = await this.#exchange(plan, letter, timeoutMs, forever, first);
    if (reply === undefined)
      throw new MusterError("broker-unavailable", `another coordinator of the site did not answer in ${timeoutMs} ms`, {
        retryAfterMs: timeoutMs,
      });
    const failure = failureOf(reply);
    if (failure !== undefined) throw new MusterError(codeOf(failure.code), failure.detail);
  }

  /**
   * Sends a request to many and resolves when all have answered, or with who has when the time is over. Those that were
   * not asked are left out; a reply that cannot be read is told as the error `handler-failed` of its sender.
   */
  async gather(plan: RoutePlan, letter: Letter, timeoutMs: number, signal: AbortSignal): Promise<Gathered> {
    const asked = new Set(plan.recipients.map((member) => member.id));
    const awaited = new Set(asked);
    const letters = await this.#exchange(plan, letter, timeoutMs, signal, {
      // Who registered just after the sending may have got it, too.
      isAsked: (from) => asked.has(from) || this.#options.sender.reaches(plan, from),
      complete: (replies) => {
        awaited.delete(replies.at(-1)?.envelope.from ?? "");
        return awaited.size === 0;
      },
    });
    const replies = letters.map((reply): GatheredReply => {
      const failure = failureOf(reply);
      return failure === undefined ? toReply(reply) : { from: reply.envelope.from ?? "", error: failure };
    });
    return { replies, missing: [...awaited] };
  }

  async #exchange(
    plan: RoutePlan,
    letter: Letter,
    timeoutMs: number,
    signal: AbortSignal,
    { isAsked = () => true, complete }: Collecting,
  ): Promise<Letter[]> {
    const { messageId } = letter.envelope;
    if (this.#pending.size >= pendingMax)
      throw new MusterError("too-many", `${pendingMax} requests wait for their replies already; try again`, {
        retryAfterMs: 1_000,
      });
    await this.#options.ready(exchanges.reply);
    await this.#replies.ready();
    const replies: Letter[] = [];
    let bytes = 0;
    const answered = new Set<string>();
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#pending.set(messageId, {
      take: (reply) => {
        const { from = "" } = reply.envelope;
        // A target that died after replying may be asked again by the broker and reply twice.
        if (answered.has(from)) return;
        answered.add(from);
        if (!isAsked(from)) {
          this.#options.logger.warn({ from, request: letter.envelope.name }, "a reply of nobody who was asked");
          return;
        }
        bytes += reply.content.length;
        replies.push(bytes > gatheredBytesMax ? tooLarge(reply) : reply);
        if (complete(replies)) end();
      },
    });
    const timer = setTimeout(end, timeoutMs);
    signal.addEventListener("abort", end, { once: true });
    try {
      const { envelope, content } = letter;
      await this.#options.sender.send(plan, { envelope: { ...envelope, replyTo: this.replyKey }, content });
      await ended;
      return replies;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      this.#pending.delete(messageId);
    }
  }
}

/** @returns undefined for what is no reply; one that cannot be read as the failure that this is, if it says to what it replies. */
function readReply(message: ConsumeMessage): Letter | undefined {
  const letter = readLetter(message);
  if (!("fault" in letter)) return letter.envelope.kind === "reply" ? letter : undefined;
  const correlationId: unknown = message.properties.correlationId;
  const given: Record<string, unknown> = message.properties.headers ?? {};
  if (given[headers.kind] !== "reply" || typeof correlationId !== "string") return undefined;
  const from = given[headers.from];
  const failed = { error: "handler-failed", reason: `its reply cannot be read: ${letter.fault}` } as const;
  const reply = { messageId: "", kind: "reply", name: "", attempt: 1, contentType: "application/json" } as const;
  const sender = typeof from === "string" && idPattern.test(from) ? { from } : {};
  return { envelope: { ...reply, correlationId, ...failed, ...sender }, content: Buffer.alloc(0) };
}

function codeOf(given: string): ErrorCode {
  return isErrorCode(given) ? given : "internal";
}

function tooLarge({ envelope }: Letter): Letter {
  const reason = `the replies together are over ${gatheredBytesMax} bytes; ask for less`;
  return { envelope: { ...envelope, error: "too-large", reason }, content: Buffer.alloc(0) };
}

function toReply(letter: Letter): Reply {
  return { from: letter.envelope.from ?? "", ...toHttpBody(letter) };
}

function failureOf({ envelope }: Letter): { code: string; detail: string } | undefined {
  if (envelope.error === undefined) return undefined;
  return { code: envelope.error, detail: envelope.reason ?? "no reason given" };
}
