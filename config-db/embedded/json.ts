/** JSON from outside: parsed within limits, and with nothing in it that PouchDB or LevelDB would change. */
import { isUtf8 } from "node:buffer";
import { badRequest, CouchError } from "./couch-error.ts";
import { limits } from "./limits.ts";

export type JsonObject = { [key: string]: unknown };

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const invalid = () => badRequest("invalid UTF-8 JSON");

/** @throws CouchError 400 where the bytes are no JSON, nested deeper than the limit, or hold half of a surrogate pair. */
export function parseBody(bytes: Buffer): unknown {
  if (!isUtf8(bytes)) throw invalid();
  return parseJson(bytes.toString("utf8"));
}

/** As `parseBody`, for text: query parameters and what design functions return. */
export function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid();
  }
  // Each level takes two characters at least: most bodies need no look at their depth.
  if (text.length > limits.depth * 2) checkDepth(value, limits.depth);
  // Both are rare, and there for few reasons: as text, or through an escape.
  if (/__proto__|\\u(?:[dD][89a-fA-F]|005[fF])/.test(text)) checkStrings(value);
  return value;
}

/** @throws CouchError 400 unless the body is a JSON object. */
export function parseObject(bytes: Buffer, reason = "Request body must be a JSON object"): JsonObject {
  const value = parseBody(bytes);
  if (!isObject(value)) throw badRequest(reason);
  return value;
}

function checkDepth(value: unknown, left: number): void {
  if (typeof value !== "object" || value === null) return;
  if (left === 0) throw new CouchError(400, "bad_request", `JSON is nested deeper than ${limits.depth} levels`);
  if (Array.isArray(value)) for (const item of value) checkDepth(item, left - 1);
  else for (const key in value) checkDepth((value as JsonObject)[key], left - 1);
}

/**
 * LevelDB would store half a surrogate pair as U+FFFD, and PouchDB drops members named `__proto__` when it copies a
 * document: better refused than stored as something else.
 */
function checkStrings(value: unknown): void {
  if (typeof value === "string") {
    if (/\p{Surrogate}/u.test(value)) throw invalid();
  } else if (Array.isArray(value)) for (const item of value) checkStrings(item);
  else if (isObject(value)) {
    for (const key of Object.keys(value)) {
      checkStrings(key);
      if (key === "__proto__") throw badRequest("A member cannot be named __proto__");
      checkStrings(value[key]);
    }
  }
}
