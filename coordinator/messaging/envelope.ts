/**
 * A message on the wire (docs/messages.md): reading what came from the broker, where anyone may have published it, and
 * making what goes out. Pure: time comes as an argument.
 */
import type { Message, Options } from "amqplib";
import { isMusterError } from "../../config-db/errors.ts";
import { checkDepth } from "../../config-db/json-tree.ts";
import { limits } from "../../config-db/limits.ts";
import { headers, idPattern, type MessageKind, messageKinds } from "../../config-db/names.ts";

/** What surrounds a body. Times are milliseconds since the epoch. */
export interface Envelope {
  messageId: string;
  kind: MessageKind;
  /** The command's, request's or event's name; "" for kinds that need none. */
  name: string;
  from?: string;
  replyTo?: string;
  correlationId?: string;
  contentType: string;
  sentAtMs?: number;
  deadlineAtMs?: number;
  /** From 1; rises only when a handler failed. */
  attempt: number;
  /** How often it was sent again as a dead letter, when it was. */
  redriven?: number;
  /** The site that the message came from, when another one. */
  originSite?: string;
  /** Code and text of the failure that a reply tells, or the reason of a dead letter. */
  error?: string;
  reason?: string;
  traceparent?: string;
  contentEncoding?: string;
  /** Headers that are not Muster's: carried on. */
  extra?: Record<string, string | number | boolean>;
}

export interface Letter {
  envelope: Envelope;
  content: Buffer;
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._:/-]*$/;
const nameCharactersMax = 200;
const messageIdCharactersMax = 128;
const replyKeyPattern = /^(commands:[a-z0-9._-]+|coordinator:[a-z0-9._-]+:[A-Za-z0-9_-]+)$/;
const namedKinds: readonly MessageKind[] = ["command", "request", "broadcast", "event"];
export const reasonCharactersMax = 1000;
/** What a Date holds: beyond it toISOString throws. */
const timeMaxMs = 8.64e15;
/** RabbitMQ closes the channel over a longer expiration. */
const expirationMaxMs = 2 ** 32 - 1;

/** True for JSON and everything built on it (`application/problem+json`). */
export function isJson(contentType: string): boolean {
  return /^application\/(json|[^;]+\+json)\s*(;|$)/i.test(contentType);
}

/** True for what a message can carry as its content type: ASCII, well within the 255 bytes of AMQP. */
export function isMediaType(value: string): boolean {
  return /^[\t -~]{1,200}$/.test(value);
}

/** W3C Trace Context, version 00 and later. What is no such thing could not be an HTTP header. */
export function isTraceparent(value: string): boolean {
  return /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?$/.test(value);
}

/** @returns what keeps a body that says it is JSON from being handed on as such. */
function faultOfBody(content: Buffer, contentType: string): string | undefined {
  if (!isJson(contentType) || content.length === 0) return undefined;
  try {
    checkDepth(JSON.parse(content.toString("utf8")));
    return undefined;
  } catch (error) {
    return isMusterError(error) ? error.message : `the body is not JSON, though its content type is ${contentType}`;
  }
}

/**
 * Reads a message as the broker gave it.
 * @returns the letter, or the fault for which a consumer rejects it; the text says what was wrong and what would be right.
 */
export function readLetter(message: Pick<Message, "content" | "properties">): Letter | { fault: string } {
  const { properties, content } = message;
  const given: Record<string, unknown> = properties.headers ?? {};
  const messageId: unknown = properties.messageId;
  if (typeof messageId !== "string" || messageId.length === 0 || messageId.length > messageIdCharactersMax)
    return { fault: `no messageId of 1 to ${messageIdCharactersMax} characters` };
  const kind = messageKinds.find((known) => known === given[headers.kind]);
  if (kind === undefined)
    return {
      fault: `header ${headers.kind} must be one of ${messageKinds.join(", ")}, got ${shown(given[headers.kind])}`,
    };
  const name: unknown = properties.type ?? "";
  if (
    typeof name !== "string" ||
    name.length > nameCharactersMax ||
    (namedKinds.includes(kind) && !namePattern.test(name))
  )
    return { fault: `the property type must name the ${kind} (${namePattern.source}), got ${shown(name)}` };
  const from = given[headers.from];
  if (from !== undefined && (typeof from !== "string" || !idPattern.test(from)))
    return { fault: `header ${headers.from} must be a component's id, got ${shown(from)}` };
  const replyTo: unknown = properties.replyTo;
  const replyFault = faultOfReplyTo(kind, replyTo, from);
  if (replyFault !== undefined) return { fault: replyFault };
  if (content.length > limits.bodyBytes)
    return { fault: `the body has ${content.length} bytes, the limit is ${limits.bodyBytes}` };
  const contentType = text(properties.contentType) ?? "application/json";
  const bodyFault = faultOfBody(content, contentType);
  if (bodyFault !== undefined) return { fault: bodyFault };
  const seconds: unknown = properties.timestamp;
  if (typeof seconds === "number" && !isTime(seconds * 1000))
    return { fault: `the property timestamp must be seconds since 1970, at most ${timeMaxMs / 1000}, got ${seconds}` };
  const deadline = given[headers.deadline];
  if (typeof deadline === "number" && !isTime(deadline))
    return {
      fault: `header ${headers.deadline} must be milliseconds since 1970, at most ${timeMaxMs}, got ${deadline}`,
    };

  const envelope: Envelope = { messageId, kind, name, contentType, attempt: attemptOf(given[headers.attempt]) };
  assign(envelope, "from", text(from));
  assign(envelope, "replyTo", text(replyTo));
  assign(envelope, "correlationId", text(properties.correlationId));
  assign(envelope, "sentAtMs", typeof seconds === "number" ? seconds * 1000 : undefined);
  assign(envelope, "deadlineAtMs", typeof deadline === "number" ? deadline : undefined);
  const redriven = redrivenOf(given);
  assign(envelope, "redriven", redriven > 0 ? redriven : undefined);
  assign(envelope, "originSite", text(given[headers.site]));
  assign(envelope, "error", text(given[headers.error]));
  assign(envelope, "reason", text(given[headers.reason]));
  const traceparent = text(given[headers.traceparent]);
  assign(envelope, "traceparent", isTraceparent(traceparent ?? "") ? traceparent : undefined);
  assign(envelope, "contentEncoding", text(properties.contentEncoding));
  assign(envelope, "extra", extraOf(given));
  return { envelope, content };
}

/** A `replyTo` may name only its own sender, or a coordinator: else one component could flood or forge another's replies. */
function faultOfReplyTo(kind: MessageKind, replyTo: unknown, from: unknown): string | undefined {
  if (replyTo === undefined || replyTo === null) {
    return kind === "request" ? "a request needs replyTo, a routing key on muster.reply" : undefined;
  }
  if (typeof replyTo === "string" && (replyTo === from || replyKeyPattern.test(replyTo))) return undefined;
  return `replyTo must be the sender's own id (${headers.from}) or a coordinator's key, got ${shown(replyTo)}`;
}

/** What `publish` of amqplib takes for this envelope. `nowMs` is the wall clock, for what is left until the deadline. */
export function publishOptions(envelope: Envelope, nowMs: number, options: { persistent: boolean }): Options.Publish {
  const told: Record<string, unknown> = { ...envelope.extra, [headers.kind]: envelope.kind };
  const optional: Record<string, unknown> = {
    [headers.from]: envelope.from,
    [headers.deadline]: envelope.deadlineAtMs,
    [headers.attempt]: envelope.attempt > 1 ? envelope.attempt : undefined,
    [headers.redriven]: envelope.redriven,
    [headers.site]: envelope.originSite,
    [headers.error]: envelope.error,
    [headers.reason]: envelope.reason?.slice(0, reasonCharactersMax),
    [headers.traceparent]: envelope.traceparent,
  };
  for (const [name, value] of Object.entries(optional)) if (value !== undefined) told[name] = value;
  return {
    messageId: envelope.messageId,
    contentType: envelope.contentType,
    persistent: options.persistent,
    timestamp: Math.floor((envelope.sentAtMs ?? nowMs) / 1000),
    headers: told,
    ...(envelope.name === "" ? {} : { type: envelope.name }),
    ...(envelope.contentEncoding === undefined ? {} : { contentEncoding: envelope.contentEncoding }),
    ...(envelope.replyTo === undefined ? {} : { replyTo: envelope.replyTo }),
    ...(envelope.correlationId === undefined ? {} : { correlationId: envelope.correlationId }),
    ...(envelope.deadlineAtMs === undefined ? {} : expirationOf(envelope.deadlineAtMs, nowMs)),
  };
}

/** What is left until a deadline, as the broker takes it; nothing where that is longer than it counts. */
export function expirationOf(deadlineAtMs: number, nowMs: number): { expiration?: string } {
  const leftMs = Math.ceil(deadlineAtMs - nowMs);
  // A deadline that has just passed must not become "never expires".
  return leftMs <= expirationMaxMs ? { expiration: String(Math.max(1, leftMs)) } : {};
}

/** A body as HTTP has it: JSON inline, everything else as base64 with its content type. */
export interface HttpBody {
  body?: unknown;
  contentType?: string;
  bodyBase64?: string;
}

export function toHttpBody({ envelope, content }: Letter): HttpBody {
  if (isJson(envelope.contentType)) {
    if (content.length === 0) return {};
    const body: unknown = JSON.parse(content.toString("utf8"));
    return envelope.contentType === "application/json" ? { body } : { body, contentType: envelope.contentType };
  }
  return { contentType: envelope.contentType, bodyBase64: content.toString("base64") };
}

/** All but Muster's own and the broker's; nested ones are left behind. */
function extraOf(given: Record<string, unknown>): Envelope["extra"] | undefined {
  const extra: NonNullable<Envelope["extra"]> = {};
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("muster-") || name.startsWith("x-") || name === headers.traceparent) continue;
    if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") extra[name] = value;
  }
  return Object.keys(extra).length > 0 ? extra : undefined;
}

/** @param value of the header. */
export function attemptOf(value: unknown): number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 1 ? value : 1;
}

/** @returns 0 for a message that was never sent again. */
export function redrivenOf(given: Record<string, unknown> | undefined): number {
  const count = given?.[headers.redriven];
  return typeof count === "number" && Number.isSafeInteger(count) && count >= 1 ? count : 0;
}

function isTime(ms: number): boolean {
  return ms >= 0 && ms <= timeMaxMs;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function assign<Key extends keyof Envelope>(envelope: Envelope, key: Key, value: Envelope[Key] | undefined): void {
  if (value !== undefined) envelope[key] = value;
}

/** For what is told of a header that is wrong. */
export function shown(value: unknown): string {
  // Headers nest, and JSON.stringify recurses.
  if (typeof value === "object" && value !== null) return "a table or list";
  return value === undefined || value === "" ? "nothing" : JSON.stringify(value).slice(0, 100).toWellFormed();
}
