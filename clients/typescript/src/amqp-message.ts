/** AMQP's side of messages (docs/messages.md): read with suspicion, written as the wire says, routed. Pure. */
import type { ConsumeMessage } from "amqplib";
import { limits } from "../../../config-db/limits.ts";
import { exchanges, headers, idPattern, type MessageKind, messageKinds } from "../../../config-db/names.ts";
import type { Draft } from "./amqp-options.ts";
import { decodeBody, json, type Message, type Outgoing } from "./message.ts";
import { traceparentOf } from "./trace.ts";

/** Where a message goes, and how. */
export interface Route {
  exchange: string;
  key: string;
  /** Comes back when no queue takes it. */
  mandatory: boolean;
}

/** What arrived, checked; `reply`, `outcome` and `signal` included. */
export interface Arrived {
  kind: MessageKind;
  message: Message;
  replyTo: string | undefined;
  correlationId: string | undefined;
  /** The site it came from, when another one. */
  originSite: string | undefined;
  /** On a reply that tells a failure. */
  error: string | undefined;
  reason: string | undefined;
  epoch: number;
}

const messageIdLengthMax = 128;
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$/;
const replyKeyPattern = /^(commands:[a-z0-9._-]+|coordinator:[a-z0-9._-]+:[A-Za-z0-9_-]+)$/;
/** What a Date holds. */
const timeMaxMs = 8.64e15;
const handledKinds: readonly MessageKind[] = ["command", "request", "broadcast"];

/** @returns what a consumer goes on with, or, as text, why it rejects: anyone may have published this. */
export function readArrived({ properties, content }: ConsumeMessage): Arrived | string {
  const given: Record<string, unknown> = properties.headers ?? {};
  const id: unknown = properties.messageId;
  if (typeof id !== "string" || id === "" || id.length > messageIdLengthMax) return "no valid messageId";
  const kind = given[headers.kind] as MessageKind;
  if (!messageKinds.includes(kind)) return `unknown ${headers.kind}`;
  const name: unknown = properties.type ?? "";
  const isHandled = handledKinds.includes(kind);
  if (typeof name !== "string" || (isHandled && !namePattern.test(name))) return "no valid type";
  const from = given[headers.from];
  if (from !== undefined && (typeof from !== "string" || !idPattern.test(from))) return `${headers.from} is no id`;
  const replyTo: unknown = properties.replyTo;
  if (replyTo !== undefined && (typeof replyTo !== "string" || (replyTo !== from && !replyKeyPattern.test(replyTo)))) {
    return "replyTo names neither the sender nor a coordinator";
  }
  if (kind === "request" && replyTo === undefined) return "a request without replyTo";
  if (content.length > limits.bodyBytes) return `a body of ${content.length} bytes`;
  const contentType = textOf(properties.contentType) ?? json;
  let body: unknown;
  try {
    body = decodeBody(contentType, content);
  } catch {
    return "the body is not JSON, or nests too deep";
  }
  const seconds: unknown = properties.timestamp;
  if (typeof seconds === "number" && !isTime(seconds * 1000)) return `a timestamp of ${seconds} s`;
  const deadline = given[headers.deadline];
  if (typeof deadline === "number" && !isTime(deadline)) return `a ${headers.deadline} of ${deadline} ms`;
  return {
    kind,
    message: {
      id,
      kind: kind as Message["kind"],
      name,
      from,
      contentType,
      body,
      sentAtMs: typeof seconds === "number" ? seconds * 1000 : undefined,
      deadlineAtMs: typeof deadline === "number" ? deadline : undefined,
      attempt: countOf(given[headers.attempt]) ?? 1,
      redriven: countOf(given[headers.redriven]) ?? 0,
      traceparent: traceparentOf(given[headers.traceparent]),
    },
    replyTo,
    correlationId: textOf(properties.correlationId),
    originSite: textOf(given[headers.site]),
    error: textOf(given[headers.error]),
    reason: textOf(given[headers.reason]),
    epoch: numberOf(given[headers.epoch]) ?? 0,
  };
}

/** Where `outgoing` is published. `self` is the sender, whose type and id are in the key of its events. */
export function routeOf({ kind, to, name }: Outgoing, self: { id: string; type: string }): Route {
  if (to === undefined) {
    return { exchange: exchanges.events, key: `${self.type}.${self.id}.${name}`, mandatory: false };
  }
  if ("component" in to) {
    const exchange = kind === "request" ? exchanges.requests : exchanges.unicast;
    return { exchange, key: to.component, mandatory: true };
  }
  if ("any" in to) return { exchange: exchanges.any, key: to.any, mandatory: true };
  // The exchange of a type outlives its last component.
  if ("type" in to) return { exchange: exchanges.type(to.type), key: "", mandatory: true };
  return { exchange: exchanges.all, key: "", mandatory: false };
}

/** The properties of `outgoing`. */
export function draftOf(outgoing: Outgoing, from: string, isMandatory: boolean): Draft {
  const isRequest = outgoing.kind === "request";
  return {
    messageId: outgoing.id,
    kind: outgoing.kind,
    from,
    name: outgoing.name,
    contentType: outgoing.contentType,
    isPersistent: outgoing.persistent,
    isMandatory,
    correlationId: undefined,
    replyTo: isRequest ? from : undefined,
    deadlineAtMs: outgoing.deadlineAtMs,
    // Queues of requests have a limit in time anyway: an expiration would make the broker take each message apart and
    // set it a timer, for nothing.
    expires: !isRequest || outgoing.persistent,
    traceparent: outgoing.traceparent,
    error: undefined,
    reason: undefined,
    forward: undefined,
  };
}

function isTime(ms: number): boolean {
  return ms >= 0 && ms <= timeMaxMs;
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function countOf(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 1 ? value : undefined;
}

function numberOf(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
}
