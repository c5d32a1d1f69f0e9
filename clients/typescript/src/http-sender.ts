/** Sends through the bridge: where no broker can be reached, for tracked commands, and for targets of other sites. */
import { setMaxListeners } from "node:events";
import { isMusterError, MusterError } from "../../../config-db/errors.ts";
import { backoffMs, pause } from "./backoff.ts";
import { type Bridge, unreachable } from "./bridge.ts";
import { decodeBody, isJson, json, type Outgoing } from "./message.ts";
import { type Reply, type Sender, type Sent, targetKey } from "./transport.ts";

type Post = () => Promise<void>;

/** Posts under way for all targets together, so that an outbox of thousands does not open thousands of sockets. */
const postsMax = 32;
/** What a coordinator may take beyond a request's own time: its first message to a component waits for the queues. */
export const answerMarginMs = 10_000;
const retry = { firstMs: 100, maxMs: 2_000 };

export class HttpSender implements Sender {
  readonly name = "http";
  readonly #bridge: Bridge;
  readonly #from: string;
  readonly #ending = new AbortController();
  /** By target: what follows what, so that order is kept. */
  readonly #lanes = new Map<string, Post[]>();
  readonly #ready: Post[] = [];
  #running = 0;

  constructor(bridge: Bridge, from: string) {
    this.#bridge = bridge;
    this.#from = from;
    // Every post under way listens to it: that is no leak.
    setMaxListeners(0, this.#ending.signal);
  }

  post(outgoing: Outgoing, settled: (sent: Sent) => void, isWanted: () => boolean): void {
    const post = async () => settled(await this.#postUntilKnown(outgoing, isWanted));
    // A request takes as long as its handler does, and its sender waits for it: nothing has to follow it in order.
    if (outgoing.kind === "request") void post();
    else this.#enqueue(targetKey(outgoing.to), post);
  }

  close(): void {
    this.#ending.abort();
  }

  #enqueue(key: string, post: Post): void {
    const lane = this.#lanes.get(key);
    if (lane === undefined) {
      this.#lanes.set(key, []);
      this.#start(key, post);
    } else {
      lane.push(post);
    }
  }

  #start(key: string, post: Post): void {
    this.#ready.push(async () => {
      await post();
      const next = this.#lanes.get(key)?.shift();
      if (next === undefined) this.#lanes.delete(key);
      else this.#start(key, next);
    });
    this.#fill();
  }

  #fill(): void {
    while (this.#running < postsMax) {
      const post = this.#ready.shift();
      if (post === undefined) return;
      this.#running += 1;
      void post().finally(() => {
        this.#running -= 1;
        this.#fill();
      });
    }
  }

  /** Repeats until a coordinator has said something about it. What follows it to the same target waits meanwhile. */
  async #postUntilKnown(outgoing: Outgoing, isWanted: () => boolean): Promise<Sent> {
    const { signal } = this.#ending;
    for (let attempt = 0; isWanted() && !signal.aborted; attempt += 1) {
      try {
        const reply = await this.#postOnce(outgoing);
        return reply === undefined ? {} : { reply };
      } catch (error) {
        const known = isMusterError(error) ? error : new MusterError("internal", String(error), { cause: error });
        // 503: nobody did anything with it. Everything else is an answer.
        if (known.status !== 503) return { error: known, isLost: false };
        await pause(Math.max(known.retryAfterMs ?? 0, backoffMs(attempt, retry)), signal);
      }
    }
    return { error: unreachable("the bridge was not asked any more"), isLost: true };
  }

  async #postOnce(outgoing: Outgoing): Promise<Reply | undefined> {
    const { id, kind, to, name, deadlineAtMs, traceparent } = outgoing;
    const leftMs = deadlineAtMs === undefined ? undefined : Math.max(1, Math.ceil(deadlineAtMs - Date.now()));
    const headers: Record<string, string> = {
      "idempotency-key": id,
      ...(traceparent !== undefined && { traceparent }),
    };
    const content = httpBody(outgoing);
    const { signal } = this.#ending;
    if (kind === "event") {
      await this.#bridge.ask({
        method: "POST",
        path: "/v1/events",
        headers,
        body: { name, from: this.#from, ...content },
        signal,
      });
      return undefined;
    }
    const body = { to, name, from: this.#from, ...content };
    if (kind !== "request") {
      const deadline = leftMs === undefined ? {} : { deadlineMs: leftMs };
      const track = outgoing.tracked === true ? {} : { track: false };
      const command = { ...body, ...deadline, ...track };
      await this.#bridge.ask({ method: "POST", path: "/v1/commands", headers, body: command, signal });
      return undefined;
    }
    const timeoutMs = leftMs ?? 60_000;
    const answer = await this.#bridge.ask<{ from?: string } & HttpBody>({
      method: "POST",
      path: "/v1/requests",
      headers,
      body: { ...body, timeoutMs },
      // The coordinator answers at the deadline; this only guards against one that does not.
      timeoutMs: timeoutMs + answerMarginMs,
      signal,
    });
    return { from: answer.body.from, body: fromHttpBody(answer.body) };
  }
}

export interface HttpBody {
  body?: unknown;
  contentType?: string;
  bodyBase64?: string;
}

/** JSON inline, anything else as base64 with its content type; no bytes are no JSON, hence no body. */
export function httpBody({ contentType, content }: { contentType: string; content: Buffer }): HttpBody {
  if (content.length === 0 && isJson(contentType)) return {};
  if (contentType === json) return { body: JSON.parse(content.toString("utf8")) };
  return { contentType, bodyBase64: content.toString("base64") };
}

export function fromHttpBody({ body, contentType, bodyBase64 }: HttpBody): unknown {
  if (bodyBase64 === undefined) return body;
  const content = Buffer.from(bodyBase64, "base64");
  return contentType === undefined ? content : decodeBody(contentType, content);
}
