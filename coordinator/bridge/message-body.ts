/** Message bodies between HTTP, where JSON is inline and all else base64, and the bytes that are carried. */
import { MusterError } from "../../config-db/errors.ts";
import { checkDepth } from "../../config-db/json-tree.ts";
import { limits } from "../../config-db/limits.ts";
import { headers } from "../../config-db/names.ts";
import { isJson, isTraceparent } from "../messaging/envelope.ts";
import type { Answer, RequestContext, ServerSentEvent } from "./route.ts";

/** The bytes of a body as HTTP gives it. @throws MusterError `invalid-request`, `malformed-json`, `too-large`. */
export function contentOf(given: { body?: unknown; contentType?: string; bodyBase64?: string }): {
  content: Buffer;
  contentType: string;
} {
  const { body, contentType = "application/json", bodyBase64 } = given;
  const content = bodyBase64 === undefined ? jsonBytes(body) : base64Bytes(bodyBase64);
  if (content.length > limits.bodyBytes)
    throw new MusterError("too-large", `the body has ${content.length} bytes, the limit is ${limits.bodyBytes}`);
  // An inline body was checked with its request.
  if (bodyBase64 !== undefined && isJson(contentType) && content.length > 0) checkJson(content, contentType);
  return { content, contentType };
}

function jsonBytes(body: unknown): Buffer {
  return body === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(body));
}

function base64Bytes(text: string): Buffer {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text))
    throw new MusterError("invalid-request", "bodyBase64 is not base64 (RFC 4648, with padding)");
  return Buffer.from(text, "base64");
}

function checkJson(content: Buffer, contentType: string): void {
  let value: unknown;
  try {
    value = JSON.parse(content.toString("utf8"));
  } catch {
    throw new MusterError("invalid-request", `bodyBase64 is not JSON, though contentType is ${contentType}`);
  }
  checkDepth(value);
}

/** Who a message is from, and the trace that it belongs to. */
export function senderOf(request: RequestContext, from: string | undefined): { from?: string; traceparent?: string } {
  const traceparent = request.header(headers.traceparent);
  return {
    ...(from === undefined ? {} : { from }),
    ...(traceparent === undefined || !isTraceparent(traceparent) ? {} : { traceparent }),
  };
}

/** Subscribes first and keeps what comes until the answer streams, so that nothing falls between. */
export async function bufferedStream<News>(
  request: RequestContext,
  subscribe: (give: (news: News) => void) => Promise<() => void> | (() => void),
  told: (news: News) => ServerSentEvent,
): Promise<Answer> {
  const early: News[] = [];
  let give = (news: News): void => {
    early.push(news);
  };
  const end = await subscribe((news) => give(news));
  if (request.signal.aborted) end();
  return {
    stream: (send) => {
      for (const news of early.splice(0)) send(told(news));
      give = (news) => send(told(news));
      return end;
    },
  };
}
