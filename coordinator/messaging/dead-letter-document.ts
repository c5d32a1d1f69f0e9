/** Dead letters as they are kept: `dead:<id>` in the store, with the body as an attachment. Pure. */
import { createHash } from "node:crypto";
import type { ConsumeMessage } from "amqplib";
import { limits } from "../../config-db/limits.ts";
import { documentId } from "../../config-db/names.ts";
import type { Document } from "../../config-db/store.ts";
import type { DeadState, Verdict } from "./dead-letter.ts";
import { type Envelope, reasonCharactersMax, redrivenOf } from "./envelope.ts";

/** A dead letter as it is listed. */
export interface DeadLetter {
  id: string;
  state: DeadState;
  reason: string;
  at: string;
  to?: string;
  from?: string;
  name?: string;
  kind?: string;
  messageId?: string;
  attempt?: number;
  sentAt?: string;
  contentType?: string;
  sizeBytes: number;
}

export interface DeadLetterDocument extends Document, Omit<DeadLetter, "kind"> {
  kind: "dead-letter";
  schemaVersion: 1;
  /** Absent for a malformed message. */
  envelope?: Envelope;
  /** Unique to whoever is sending the letter again. */
  claim?: string;
  _attachments?: Record<string, { content_type: string; data: string }>;
}

/** The attachment that holds a letter's bytes, at most as many as a body may have; an empty body has none. */
export const bodyAttachment = "body";

export function documentOf(
  { content, properties }: ConsumeMessage,
  verdict: Verdict,
  arrivedAtMs: number,
): DeadLetterDocument {
  const { to, state, reason, envelope } = verdict;
  const messageId: unknown = properties.messageId;
  const id = idOf(properties, content, to, arrivedAtMs);
  const kept = content.subarray(0, limits.bodyBytes);
  const cut = kept.length < content.length ? `; of its ${content.length} bytes the first ${kept.length} are kept` : "";
  return {
    _id: documentId.deadLetter(id),
    kind: "dead-letter",
    schemaVersion: 1,
    id,
    state,
    reason: reason + cut,
    at: new Date(arrivedAtMs).toISOString(),
    sizeBytes: content.length,
    ...(to === undefined ? {} : { to }),
    ...(typeof messageId === "string" ? { messageId: messageId.slice(0, 128) } : {}),
    ...(envelope === undefined ? {} : fromEnvelope(envelope)),
    ...(content.length === 0
      ? {}
      : {
          _attachments: {
            [bodyAttachment]: { content_type: "application/octet-stream", data: kept.toString("base64") },
          },
        }),
  };
}

/** What is kept of a letter whose document the store refuses: that it was there. */
export function withoutMessage({ _id, id, state, at, sizeBytes }: DeadLetterDocument, why: string): DeadLetterDocument {
  const reason = `the store refuses the message, only this is kept of it: ${why}`.slice(0, reasonCharactersMax);
  return { _id, kind: "dead-letter", schemaVersion: 1, id, state, reason: reason.toWellFormed(), at, sizeBytes };
}

function fromEnvelope(envelope: Envelope): Partial<DeadLetterDocument> {
  const { name, from, attempt, sentAtMs, contentType } = envelope;
  return {
    envelope,
    name,
    attempt,
    contentType,
    ...(from === undefined ? {} : { from }),
    ...(sentAtMs === undefined ? {} : { sentAt: new Date(sentAtMs).toISOString() }),
  };
}

/** What `idOf` makes, and made: the store refuses some others. */
export const deadLetterIdPattern = /^[0-9a-z]{1,20}-[0-9a-f]{20}$/;

/**
 * Sorts by the time of death in seconds, then by arrival. The broker's own time where it has one; a letter that a consumer
 * gave up carries only the time of its sending. The second and the hash are the same when the same letter is taken twice.
 */
function idOf(
  properties: ConsumeMessage["properties"],
  content: Buffer,
  to: string | undefined,
  arrivedAtMs: number,
): string {
  const deaths: unknown = properties.headers?.["x-death"];
  const died: unknown = Array.isArray(deaths) ? deaths[0]?.time?.value : properties.timestamp;
  const seconds = typeof died === "number" && died > 0 && died < 1e11 ? died : Math.floor(arrivedAtMs / 1000);
  const redriven = redrivenOf(properties.headers);
  const hash = createHash("sha256").update(`${properties.messageId} ${to} ${seconds} ${redriven}\n`).update(content);
  const second = Math.floor(seconds).toString(36).padStart(secondDigits, "0");
  return `${second}${arrivedAtMs.toString(36).padStart(9, "0")}-${hash.digest("hex").slice(0, 20)}`;
}

const secondDigits = 7;

/** @returns what the ids of all letters of its second begin with, and what its own ends with whenever it arrives. */
export function constantParts(id: string): { second: string; hash: string } {
  return { second: id.slice(0, secondDigits), hash: id.slice(id.indexOf("-")) };
}

/** When the letter of this id was taken in, in milliseconds since the epoch, by the clock of the coordinator that did. */
export function arrivedAtMs(id: string): number {
  return Number.parseInt(id.slice(secondDigits, id.indexOf("-")), 36);
}

export function listed(doc: DeadLetterDocument): DeadLetter {
  const { id, state, reason, at, to, from, name, messageId, attempt, sentAt, contentType, sizeBytes, envelope } = doc;
  const letter = {
    id,
    state,
    reason,
    at,
    to,
    from,
    name,
    kind: envelope?.kind,
    messageId,
    attempt,
    sentAt,
    contentType,
    sizeBytes,
  };
  return Object.fromEntries(Object.entries(letter).filter(([, value]) => value !== undefined)) as unknown as DeadLetter;
}
