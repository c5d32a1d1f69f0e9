/** What a dead letter is and why it is one. Pure. */
import type { Message } from "amqplib";
import type { DeadLetterMatch } from "../../config-db/generated/types.ts";
import { exchanges, headers } from "../../config-db/names.ts";
import { anyTarget } from "./command-record.ts";
import { type Envelope, readLetter, reasonCharactersMax } from "./envelope.ts";

export type DeadState = "failed" | "expired" | "dead-lettered";

export interface Verdict {
  /** The component whose message it was, or `any:<type>`; undefined when the message does not tell. */
  to: string | undefined;
  state: DeadState;
  reason: string;
  /** Undefined when the message is malformed. */
  envelope: Envelope | undefined;
  /** False for what nobody will miss: late requests, replies, signals, events. */
  keep: boolean;
}

/** Set by a coordinator that empties the queues of a removed component: it was not the handler that failed. */
export const removedCode = "component-removed";

/** RabbitMQ's own record of a dead letter; the first row is the latest death. */
interface Death {
  reason?: unknown;
  queue?: unknown;
  time?: { "!"?: string; value?: number } | undefined;
}

export function judgeDead(message: Pick<Message, "content" | "properties">, nowMs: number): Verdict {
  const given: Record<string, unknown> = message.properties.headers ?? {};
  const letter = readLetter(message);
  const envelope = "fault" in letter ? undefined : letter.envelope;
  const [death] = Array.isArray(given["x-death"]) ? (given["x-death"] as Death[]) : [];
  const told = given[headers.reason];
  const told_to = given[headers.to];
  if (typeof told === "string") {
    const state = given[headers.error] === removedCode ? "dead-lettered" : "failed";
    const to = typeof told_to === "string" ? told_to : targetOf(death?.queue);
    const keep = envelope === undefined || isMissed(envelope.kind);
    return { to, state, reason: told.slice(0, reasonCharactersMax).toWellFormed(), envelope, keep };
  }
  const to = targetOf(death?.queue);
  if ("fault" in letter)
    return { to, state: "dead-lettered", reason: `malformed: ${letter.fault}`, envelope, keep: true };
  const { kind, deadlineAtMs } = letter.envelope;
  const late = deadlineAtMs !== undefined && deadlineAtMs <= nowMs;
  const keep = isMissed(kind) && !(kind === "request" && (late || death?.reason === "expired"));
  if (death?.reason === "expired" || late) {
    const reason = late
      ? "its deadline passed before it was handled"
      : "it waited longer than its queue keeps messages";
    return { to, state: "expired", reason, envelope, keep };
  }
  return { to, state: "dead-lettered", reason: reasonOf(death?.reason), envelope, keep };
}

function isMissed(kind: Envelope["kind"]): boolean {
  return kind === "command" || kind === "broadcast" || kind === "request";
}

function reasonOf(death: unknown): string {
  switch (death) {
    case "delivery_limit":
      return "delivered over and over without an end: the process that handles it dies, or loses its connection, each time";
    case "maxlen":
      return "its queue was full and gave up the oldest";
    case "rejected":
      return "rejected by its consumer";
    default:
      return "published to the dead letters without a reason";
  }
}

/** Whose queue it was, as tracked commands name targets. */
function targetOf(queue: unknown): string | undefined {
  if (typeof queue !== "string") return undefined;
  const shared = /^muster\.any\.(.+)$/.exec(queue)?.[1];
  if (shared !== undefined) return anyTarget(shared);
  return /^muster\.(.+)\.(?:commands|requests|broadcasts)$/.exec(queue)?.[1];
}

/** Where a dead letter is sent again. @returns undefined when it cannot be: nobody knows where it belongs. */
export function redriveRoute(kind: string, to: string | undefined): { exchange: string; key: string } | undefined {
  if (to === undefined || (kind !== "command" && kind !== "broadcast")) return undefined;
  if (to.startsWith("any:")) return { exchange: exchanges.any, key: to.slice("any:".length) };
  return { exchange: exchanges.unicast, key: to };
}

export function matches(
  letter: { to?: string; from?: string; name?: string; state: string },
  match: DeadLetterMatch | undefined,
): boolean {
  if (match === undefined) return true;
  const wanted = Object.entries(match) as [keyof DeadLetterMatch, string][];
  return wanted.every(([field, value]) => letter[field] === value);
}
