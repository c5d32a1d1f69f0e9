/**
 * Every error code that Muster can answer with: its HTTP status and its title. `docs/errors.md` describes each; a test
 * holds the two together. Codes are part of the wire: they are added, never renamed.
 */
export const errorCodes = {
  "malformed-json": { status: 400, title: "The body is not JSON" },
  "invalid-request": { status: 400, title: "What was asked for is not valid" },
  "unknown-parameter": { status: 400, title: "The query has a parameter that this route does not know" },
  "malformed-request": { status: 400, title: "This is no HTTP request" },
  unauthorized: { status: 401, title: "No valid token" },
  forbidden: { status: 403, title: "The token does not allow this" },
  "not-found": { status: 404, title: "Nothing is there" },
  "no-such-route": { status: 404, title: "No such route" },
  "not-registered": { status: 404, title: "The component holds no lease" },
  "no-such-target": { status: 404, title: "No component can get this message" },
  "no-such-delivery": { status: 404, title: "The delivery is not open" },
  "method-not-allowed": { status: 405, title: "The route does not take this method" },
  "request-timeout": { status: 408, title: "The request did not end in time" },
  conflict: { status: 409, title: "The document changed meanwhile" },
  superseded: { status: 409, title: "A newer process has this id" },
  "precondition-failed": { status: 412, title: "If-Match names another revision" },
  "too-large": { status: 413, title: "The body is over the limit" },
  "unsupported-media-type": { status: 415, title: "The media type is not taken here" },
  "expectation-failed": { status: 417, title: "The expectation cannot be met" },
  refused: { status: 422, title: "Well-formed, but refused" },
  "too-many": { status: 429, title: "A limit is reached" },
  "header-too-large": { status: 431, title: "The request's line and headers are over the limit" },
  "handler-failed": { status: 502, title: "The target's handler failed" },
  "store-unavailable": { status: 503, title: "The config database does not answer" },
  "broker-unavailable": { status: 503, title: "The broker does not answer, or takes no messages" },
  "not-leading": { status: 503, title: "This coordinator does not lead its site at the moment" },
  unreachable: { status: 503, title: "No coordinator answers" },
  internal: { status: 500, title: "A fault of the coordinator" },
  "deadline-exceeded": { status: 504, title: "No answer before the deadline" },
} as const satisfies Record<string, { status: number; title: string }>;

export type ErrorCode = keyof typeof errorCodes;

/** One thing that is wrong with an input. `pointer` is a JSON Pointer (RFC 6901) into what was sent. */
export interface FieldError {
  pointer: string;
  rule?: string;
  message: string;
  value?: unknown;
  /** The component whose effective settings would break, where the fault is in a combination. */
  component?: string;
}

export interface MusterErrorOptions {
  errors?: FieldError[];
  retryAfterMs?: number;
  cause?: unknown;
}

/**
 * An operating error that a caller can act on. `code` is stable; `message` says what was wrong, the value, the limit
 * and what to do. Anything else that is thrown is a fault of Muster's own.
 */
export class MusterError extends Error {
  override readonly name = "MusterError";
  readonly code: ErrorCode;
  readonly errors: FieldError[] | undefined;
  /** How long to wait before another try is worth it; absent where a retry cannot help. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: MusterErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.errors = options.errors;
    this.retryAfterMs = options.retryAfterMs;
  }

  get status(): number {
    return errorCodes[this.code].status;
  }
}

/** Whether what another process called its error is a code of ours. */
export function isErrorCode(given: unknown): given is ErrorCode {
  return typeof given === "string" && Object.hasOwn(errorCodes, given);
}

/** True when `error` is a MusterError, with `code` if one is given. */
export function isMusterError(error: unknown, code?: ErrorCode): error is MusterError {
  return error instanceof MusterError && (code === undefined || error.code === code);
}
