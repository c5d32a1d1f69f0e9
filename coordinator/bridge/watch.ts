/** Conditional, waiting and streaming GETs (RFC 9110 §13, and `waitMs`), the same for everything that can be watched. */

import { limits } from "../../config-db/limits.ts";
import type { JsonAnswer, QueryParameter, RequestContext, ServerSentEvent, StreamAnswer } from "./route.ts";

/** Something that can be read at once and tells when it may read differently. `etag` is bare, without quotes. */
export interface Watchable {
  read(): { etag: string; body: unknown; headers?: Record<string, string> };
  /** `changed` may be called too often, never too seldom. @returns what ends the subscription. */
  subscribe(changed: () => void): () => void;
}

/** The `waitMs` parameter, for routes that wait. */
export const waitParameter: Record<"waitMs", QueryParameter> = {
  waitMs: {
    description: "With If-None-Match: wait that long, in milliseconds, for another state before answering 304.",
    schema: { type: "integer", minimum: 0, maximum: limits.waitMs },
  },
};

/** True when the client asks for server-sent events. */
export function wantsStream(request: RequestContext): boolean {
  return (request.header("accept") ?? "").toLowerCase().includes("text/event-stream");
}

/** True when an `If-Match` or `If-None-Match` header names this etag (weak comparison), or anything by `*`. */
export function namesEtag(header: string, etag: string): boolean {
  return header.split(",").some((part) => {
    const given = part.trim().replace(/^W\//, "");
    return given === "*" || given === `"${etag}"`;
  });
}

/**
 * Answers with what stands there, with 304 when the client has it, or, given `waitMs`, with whatever stands there when
 * it first differs from what the client has. Without `If-None-Match` it answers at once.
 * @param ends ends the wait early, as its client does by going.
 */
export async function answerOrWait(
  request: RequestContext,
  source: Watchable,
  ends?: AbortSignal,
): Promise<JsonAnswer> {
  const known = request.header("if-none-match");
  const waitMs = Number(request.query.waitMs ?? 0);
  const first = answer(source, known);
  if (first.status !== 304 || waitMs === 0) return first;

  // A request's own is made when it is first asked for.
  const signal = ends === undefined ? request.signal : AbortSignal.any([request.signal, ends]);
  return new Promise((resolve, reject) => {
    let settled = false;
    let unsubscribe = () => {};
    const settle = (give: () => void) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      // `source` may tell before `subscribe` returns, so this waits for it.
      queueMicrotask(() => unsubscribe());
      give();
    };
    const look = () => {
      try {
        const now = answer(source, known);
        if (now.status !== 304) settle(() => resolve(now));
      } catch (error) {
        settle(() => reject(error));
      }
    };
    const end = () => settle(() => resolve(first));
    const timer = setTimeout(end, waitMs);
    signal.addEventListener("abort", end);
    // While the coordinator stops it has aborted from the start.
    if (signal.aborted) end();
    unsubscribe = source.subscribe(look);
    // A change between the first look and the subscription must not be slept through.
    look();
  });
}

/**
 * One event with what stands, unless the reader says that it has it (`Last-Event-ID`), and one for each change after.
 * @param read what stands; without an id where it is nothing that a reader could come back with
 */
export function streamNewest(
  request: RequestContext,
  read: () => ServerSentEvent,
  subscribe: (changed: () => void) => () => void,
): StreamAnswer {
  return {
    stream: (send) => {
      let sent = request.header("last-event-id");
      const tell = () => {
        const now = read();
        const key = now.id ?? JSON.stringify(now.data);
        if (key === sent) return;
        sent = key;
        send(now);
      };
      const unsubscribe = subscribe(tell);
      tell();
      return unsubscribe;
    },
  };
}

function answer(source: Watchable, known: string | undefined): JsonAnswer {
  const { etag, body, headers } = source.read();
  const told = { ...headers, etag: `"${etag}"` };
  return known !== undefined && namesEtag(known, etag)
    ? { status: 304, headers: { etag: told.etag } }
    : { status: 200, headers: told, body };
}
