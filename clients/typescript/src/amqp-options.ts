/** What amqplib's `publish` is given: properties and headers of one message. */
import type { Options } from "amqplib";
import { headers, type MessageKind } from "../../../config-db/names.ts";
import { json } from "./message.ts";

const expirationMaxMs = 2 ** 32 - 1;

/** A message's properties and headers in Muster's words. All fields always: objects of one shape are cheap to make. */
export interface Draft {
  messageId: string;
  kind: MessageKind;
  from: string;
  name: string | undefined;
  contentType: string;
  isPersistent: boolean;
  isMandatory: boolean;
  correlationId: string | undefined;
  replyTo: string | undefined;
  /** Milliseconds since the epoch. */
  deadlineAtMs: number | undefined;
  /** Whether the broker too drops it at its deadline; its consumers do in any case. */
  expires: boolean;
  traceparent: string | undefined;
  /** Of a failed reply. */
  error: string | undefined;
  reason: string | undefined;
  /** What it is for at another site. */
  forward: { exchange: string; key: string } | undefined;
}

/**
 * One object for all messages. amqplib encodes them before `publish` returns, and makes the headers the prototype of an
 * object, which costs V8 more than all the rest of publishing when each message brings headers of its own.
 */
const told: Record<string, unknown> = Object.fromEntries(Object.values(headers).map((name) => [name, undefined]));
const options: Record<string, unknown> = {};

/** @returns what to publish with, now: it is the same object every time, filled anew by the next call. */
export function publishOptions(draft: Draft, nowMs: number): Options.Publish {
  const { deadlineAtMs, forward } = draft;
  told[headers.kind] = draft.kind;
  told[headers.from] = draft.from;
  told[headers.deadline] = deadlineAtMs;
  told[headers.traceparent] = draft.traceparent;
  told[headers.error] = draft.error;
  told[headers.reason] = draft.reason;
  told[headers.exchange] = forward?.exchange;
  told[headers.key] = forward?.key;
  options.messageId = draft.messageId;
  options.type = draft.name;
  // What waits in a queue or is kept says all of itself. Requests and replies leave out what goes without saying, JSON,
  // and what is only shown, the time: each property costs as much as a header, at five places.
  options.contentType = draft.isPersistent || draft.contentType !== json ? draft.contentType : undefined;
  options.timestamp = draft.isPersistent ? Math.floor(nowMs / 1000) : undefined;
  options.correlationId = draft.correlationId;
  options.replyTo = draft.replyTo;
  options.deliveryMode = draft.isPersistent ? 2 : 1;
  options.mandatory = draft.isMandatory;
  options.expiration = draft.expires && deadlineAtMs !== undefined ? leftMs(deadlineAtMs, nowMs) : undefined;
  options.headers = told;
  return options as Options.Publish;
}

/** AMQP's `expiration`: none where it is longer than the broker counts, who would close the channel over it. */
export function leftMs(deadlineAtMs: number, nowMs: number): string | undefined {
  // A deadline that has just passed must not become "never".
  const left = Math.max(1, Math.ceil(deadlineAtMs - nowMs));
  return left <= expirationMaxMs ? String(left) : undefined;
}
