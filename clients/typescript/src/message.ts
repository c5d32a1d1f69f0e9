/** What the client sends and receives, whatever carries it. */
import { inspect } from "node:util";
import { MusterError } from "../../../config-db/errors.ts";
import type { Target } from "../../../config-db/generated/types.ts";
import { depthMax, nestsTooDeep } from "../../../config-db/json-tree.ts";
import { limits } from "../../../config-db/limits.ts";
import { reasonOf } from "./thrown.ts";

/** On its way out. Times are of the wall clock, in milliseconds since the epoch: they are compared on other machines. */
export interface Outgoing {
  /** Kept over repetitions: receivers drop what they have seen. */
  id: string;
  kind: "command" | "request" | "broadcast" | "event";
  /** Absent for events. */
  to?: Target;
  name: string;
  contentType: string;
  content: Buffer;
  /** Not handled after that. */
  deadlineAtMs?: number;
  traceparent?: string;
  /** False for hints, which a restart of the broker may lose. */
  persistent: boolean;
  /** The coordinator keeps its state: goes by the bridge. */
  tracked?: boolean;
}

/** What a handler is given. */
export interface Message<B = unknown> {
  id: string;
  kind: "command" | "request" | "broadcast";
  name: string;
  /** The sender's component id; absent for an anonymous one. */
  from: string | undefined;
  contentType: string;
  /** A JSON value for a JSON content type, a Buffer for all others. */
  body: B;
  /** Milliseconds since the epoch, on the sender's clock. */
  sentAtMs: number | undefined;
  deadlineAtMs: number | undefined;
  /** From 1; rises when a handler failed. */
  attempt: number;
  /** How often it was sent again after it had become a dead letter; its attempts are counted anew each time. */
  redriven: number;
  traceparent: string | undefined;
}

/** A content type with its bytes, where JSON is not wanted: `new Payload("application/xml", bytes)`. */
export class Payload {
  readonly contentType: string;
  readonly content: Buffer;

  /** @throws MusterError `invalid-request` for a content type that is none. */
  constructor(contentType: string, content: Uint8Array | string) {
    if (typeof contentType !== "string" || !contentTypePattern.test(contentType)) {
      const told = inspect(contentType).slice(0, 100);
      throw new MusterError("invalid-request", `a content type must match ${contentTypePattern.source}, got ${told}`);
    }
    this.contentType = contentType;
    this.content = typeof content === "string" ? Buffer.from(content) : Buffer.from(content);
  }
}

export const json = "application/json";
/** What the bridge takes, and AMQP in its 255 bytes. */
const contentTypePattern = /^[ -~]{1,200}$/;
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$/;

/** True for `application/json` and `…+json`, whatever parameters follow. */
export function isJson(contentType: string): boolean {
  return contentType === json || /^application\/(json|[^;]+\+json)\s*(;|$)/i.test(contentType);
}

/**
 * The bytes of a body: JSON, or a Payload's own; no body is no bytes.
 * @throws MusterError `too-large` above 1 MiB, `invalid-request` for what JSON cannot say, and a Payload of a JSON type that is
 *   no JSON.
 */
export function encodeBody(body: unknown): { contentType: string; content: Buffer } {
  const encoded = body instanceof Payload ? body : { contentType: json, content: encodeJson(body) };
  if (encoded.content.length > limits.bodyBytes) {
    throw new MusterError(
      "too-large",
      `a body may have ${limits.bodyBytes} bytes, this one has ${encoded.content.length}; ` +
        "put it where it can be fetched and send its address",
    );
  }
  if (body instanceof Payload) checkPayload(body);
  return encoded;
}

/** Receivers would reject it. */
function checkPayload({ contentType, content }: Payload): void {
  try {
    decodeBody(contentType, content);
  } catch (error) {
    const told = `the body is not what its content type, ${contentType}, promises: ${reasonOf(error)}`;
    throw new MusterError("invalid-request", told, { cause: error });
  }
}

const nothing = Buffer.alloc(0);

function encodeJson(body: unknown): Buffer {
  let text: string | undefined;
  try {
    if (body === undefined) return nothing;
    text = JSON.stringify(body);
  } catch (error) {
    throw new MusterError("invalid-request", `the body cannot be said in JSON: ${reasonOf(error)}`, { cause: error });
  }
  if (text === undefined) throw new MusterError("invalid-request", `a ${typeof body} cannot be said in JSON`);
  return Buffer.from(text);
}

/** @throws SyntaxError when the content type promises JSON and the bytes are none, or nest too deep. */
export function decodeBody(contentType: string, content: Buffer): unknown {
  if (!isJson(contentType)) return content;
  if (content.length === 0) return undefined;
  const body: unknown = JSON.parse(content.toString("utf8"));
  // Each level is opened and closed: most bodies are too short to nest that deep.
  if (content.length > 2 * depthMax && nestsTooDeep(body)) throw new SyntaxError(`more than ${depthMax} nested levels`);
  return body;
}

/** @throws MusterError `invalid-request`. */
export function checkName(name: unknown): void {
  if (typeof name === "string" && namePattern.test(name)) return;
  throw new MusterError(
    "invalid-request",
    `a message's name must match ${namePattern.source}, got ${inspect(name).slice(0, 100)}`,
  );
}
