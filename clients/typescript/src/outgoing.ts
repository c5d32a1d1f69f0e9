/** Makes a message of what a program asks to send. */
import { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import { nextId } from "./ids.ts";
import { checkName, encodeBody, type Outgoing } from "./message.ts";
import { traceparentInHand } from "./trace.ts";

export interface SendOptions {
  /** Not handled after that; the sender of a tracked command hears `expired`. 1–604,800,000; default: never too late. */
  deadlineMs?: number;
  /** How long it may wait here for the broker or a coordinator to take it. Default 30,000. */
  sendTimeoutMs?: number;
  /** W3C trace context. Default: that of the message that is being handled. */
  traceparent?: string;
}

export interface RequestOptions {
  /** 1–60,000, default 10,000. */
  timeoutMs?: number;
  traceparent?: string;
}

const requestTimeout = { min: 1, max: 60_000, default: 10_000 };
const deadline = { min: 1, max: 604_800_000 };

/** @throws MusterError `invalid-request`, `too-large`. */
export function makeOutgoing(
  kind: Outgoing["kind"],
  to: Target | undefined,
  name: string,
  body: unknown,
  { deadlineMs, traceparent = traceparentInHand() }: SendOptions,
): Outgoing {
  checkName(name);
  const { contentType, content } = encodeBody(body);
  const outgoing: Outgoing = { id: nextId(), kind, name, contentType, content, persistent: true };
  if (to !== undefined) outgoing.to = to;
  if (deadlineMs !== undefined) outgoing.deadlineAtMs = Date.now() + within("deadlineMs", deadlineMs, deadline);
  if (traceparent !== undefined) outgoing.traceparent = traceparent;
  return outgoing;
}

/** @throws MusterError `invalid-request`. */
export function timeoutOf({ timeoutMs = requestTimeout.default }: RequestOptions): number {
  return within("timeoutMs", timeoutMs, requestTimeout);
}

function within(name: string, value: number, { min, max }: { min: number; max: number }): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new MusterError("invalid-request", `${name} must be an integer in ${min}..${max}, got ${value}`);
}
