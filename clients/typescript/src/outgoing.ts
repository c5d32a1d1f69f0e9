/** Makes a message of what a program asks to send. */
import { inspect } from "node:util";
import { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import { idPattern } from "../../../config-db/names.ts";
import { nextId } from "./ids.ts";
import { checkName, encodeBody, type Outgoing } from "./message.ts";
import { checkTraceparent, traceparentInHand } from "./trace.ts";

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

/** Whom each way of sending may be for. */
const targets = {
  command: ["component", "any", "type", "all"],
  broadcast: ["type", "all"],
  request: ["component", "any"],
  gather: ["type", "all"],
  event: [],
} as const;
export type SendMethod = keyof typeof targets;

/** @throws MusterError `invalid-request`, `too-large`. */
export function makeOutgoing(
  method: SendMethod,
  to: Target | undefined,
  name: string,
  body: unknown,
  { deadlineMs, traceparent = traceparentInHand() }: SendOptions,
): Outgoing {
  if (method !== "event") checkTarget(method, to);
  checkName(name);
  checkTraceparent(traceparent);
  const { contentType, content } = encodeBody(body);
  const outgoing: Outgoing = { id: nextId(), kind: kindOf(method, to), name, contentType, content, persistent: true };
  if (to !== undefined) outgoing.to = to;
  if (deadlineMs !== undefined) outgoing.deadlineAtMs = Date.now() + within("deadlineMs", deadlineMs, deadline);
  if (traceparent !== undefined) outgoing.traceparent = traceparent;
  return outgoing;
}

/** Programs in JavaScript give anything, and what is no target must not go to everybody. */
function checkTarget(method: SendMethod, to: unknown): void {
  const keys: readonly string[] = targets[method];
  const [[key = "", value] = [], ...others] = Object.entries(to ?? {});
  const isValue = key === "all" ? value === true : typeof value === "string" && idPattern.test(value);
  if (others.length === 0 && keys.includes(key) && isValue) return;
  const right = keys.map((name) => (name === "all" ? "all: true" : `${name}: <id>`)).join(", ");
  throw new MusterError(
    "invalid-request",
    `the target of a ${method} must have exactly one of ${right}, where an id matches ${idPattern.source}, ` +
      `got ${inspect(to).slice(0, 100)}`,
  );
}

function kindOf(method: SendMethod, to: Target | undefined): Outgoing["kind"] {
  if (method === "gather") return "request";
  return method === "command" && to !== undefined && ("type" in to || "all" in to) ? "broadcast" : method;
}

/** @throws MusterError `invalid-request`. */
export function timeoutOf({ timeoutMs = requestTimeout.default }: RequestOptions): number {
  return within("timeoutMs", timeoutMs, requestTimeout);
}

function within(name: string, value: number, { min, max }: { min: number; max: number }): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new MusterError("invalid-request", `${name} must be an integer in ${min}..${max}, got ${value}`);
}
