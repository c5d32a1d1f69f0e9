/** Asks many: the coordinator knows who there is to ask, sends, and collects. */
import type { Bridge } from "./bridge.ts";
import { answerMarginMs, fromHttpBody, type HttpBody, httpBody } from "./http-sender.ts";
import type { Outgoing } from "./message.ts";

export interface Gathered {
  replies: ({ from: string; body: unknown } | { from: string; error: { code: string; detail: string } })[];
  /** Who was known when it was sent and has not answered in time. */
  missing: string[];
}

type GatheredReply = HttpBody & { from: string; error?: { code: string; detail: string } };

export async function gather(
  bridge: Bridge,
  from: string,
  outgoing: Outgoing,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Gathered> {
  const { id, to, name, traceparent } = outgoing;
  const { body } = await bridge.ask<{ replies: GatheredReply[]; missing: string[] }>({
    method: "POST",
    path: "/v1/requests",
    headers: { "idempotency-key": id, ...(traceparent !== undefined && { traceparent }) },
    body: { to, name, from, ...httpBody(outgoing), timeoutMs },
    timeoutMs: timeoutMs + answerMarginMs,
    signal,
  });
  const replies = body.replies.map((reply) =>
    reply.error === undefined
      ? { from: reply.from, body: fromHttpBody(reply) }
      : { from: reply.from, error: reply.error },
  );
  return { replies, missing: body.missing };
}
