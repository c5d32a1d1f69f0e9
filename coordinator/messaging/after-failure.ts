/** What becomes of a message whose handling failed. Pure; the same rules hold in every client (docs/messages.md). */
import type { Envelope } from "./envelope.ts";

export interface RetryPolicy {
  attemptsMax: number;
  firstMs: number;
  maxMs: number;
}

export const defaultRetryPolicy: RetryPolicy = { attemptsMax: 5, firstMs: 1_000, maxMs: 30_000 };

export type AfterFailure =
  /** The requester waits and decides itself. */
  | { action: "reply" }
  | { action: "retry"; attempt: number; delayMs: number }
  | { action: "dead-letter" }
  /** Nobody is told: a signal or a reply carries nothing that is not elsewhere. */
  | { action: "drop" };

/**
 * @param options.delayMs what the handler asked for instead of the backoff.
 * @param random from 0 to 1, for ±20 %.
 */
export function afterFailure(
  { kind, attempt, deadlineAtMs }: Pick<Envelope, "kind" | "attempt" | "deadlineAtMs">,
  policy: RetryPolicy,
  options: { delayMs?: number; random: number; nowMs: number },
): AfterFailure {
  if (kind === "request") return { action: "reply" };
  if (kind !== "command" && kind !== "broadcast") return { action: "drop" };
  if (attempt >= policy.attemptsMax) return { action: "dead-letter" };
  const backoff = Math.min(policy.maxMs, policy.firstMs * 2 ** Math.min(attempt - 1, 30));
  const delayMs = options.delayMs ?? Math.round(backoff * (0.8 + options.random * 0.4));
  // A retry that would come too late is none: its sender learns now.
  if (deadlineAtMs !== undefined && options.nowMs + delayMs >= deadlineAtMs) return { action: "dead-letter" };
  return { action: "retry", attempt: attempt + 1, delayMs };
}
