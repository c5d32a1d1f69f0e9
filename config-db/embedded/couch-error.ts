/** The errors of the CouchDB protocol: a status and a body `{"error": …, "reason": …}`. */
import { BodyError } from "../request-body.ts";

export class CouchError extends Error {
  override readonly name = "CouchError";
  readonly status: number;
  /** CouchDB's word for the error, the same for every occurrence. */
  readonly error: string;
  readonly headers: Record<string, string>;

  constructor(status: number, error: string, reason: string, headers: Record<string, string> = {}) {
    super(reason);
    this.status = status;
    this.error = error;
    this.headers = headers;
  }

  get reason(): string {
    return this.message;
  }

  get body(): { error: string; reason: string } {
    return { error: this.error, reason: this.reason };
  }
}

export const badRequest = (reason: string) => new CouchError(400, "bad_request", reason);
export const queryParseError = (reason: string) => new CouchError(400, "query_parse_error", reason);
export const notFound = (reason = "missing") => new CouchError(404, "not_found", reason);
export const conflict = () => new CouchError(409, "conflict", "Document update conflict.");
export const missingDatabase = () => notFound("Database does not exist.");
export const notServed = (what: string) =>
  notFound(`${what} is not served by the embedded database; use a CouchDB (MUSTER_COUCHDB_URL) for it`);

/** The errors that PouchDB reports by its own name, and what CouchDB says instead. */
const conflictReason = conflict().reason;

/**
 * Whatever was thrown, as an answer. An error that PouchDB does not mark as the caller's becomes a 500, a full disk a 507.
 */
export function toCouchError(thrown: unknown): CouchError {
  if (thrown instanceof CouchError) return thrown;
  if (thrown instanceof BodyError) {
    const [status, error] = bodyFaults[thrown.fault];
    return new CouchError(status, error, thrown.message);
  }
  const { status, name, error, reason, message } = (thrown ?? {}) as Record<string, unknown>;
  const text = String(reason ?? message ?? thrown);
  const word = typeof error === "string" ? error : typeof name === "string" ? name : "unknown_error";
  if (status === 409) return new CouchError(409, "conflict", conflictReason);
  if (isDiskFull(thrown)) {
    return new CouchError(507, "insufficient_storage", `The disk is full, the write failed: ${text}`);
  }
  if (typeof status === "number" && status >= 400 && status < 500) return new CouchError(status, word, text);
  return new CouchError(500, "internal_server_error", text);
}

const bodyFaults = {
  "too-large": [413, "too_large"],
  encoding: [415, "bad_content_encoding"],
  broken: [400, "bad_request"],
  gone: [400, "bad_request"],
} as const;

/** True for LevelDB's own failures: after one it refuses writes until it is opened again. */
export function isStorageFault(thrown: unknown): boolean {
  const text = String((thrown as { message?: unknown } | undefined)?.message ?? thrown);
  return /IO error|No space left|Corruption|not open/i.test(text);
}

function isDiskFull(thrown: unknown): boolean {
  return /No space left|File too large|ENOSPC|EFBIG/i.test(
    String((thrown as { message?: unknown })?.message ?? thrown),
  );
}
