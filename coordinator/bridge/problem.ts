/** Errors as RFC 9457 `application/problem+json`. */
import { errorCodes, MusterError } from "../../config-db/errors.ts";
import type { Problem } from "../../config-db/generated/types.ts";
import { BodyError } from "../../config-db/request-body.ts";
import type { JsonAnswer } from "./route.ts";

export function problemOf({ code, message, errors }: MusterError): Problem {
  const { status, title } = errorCodes[code];
  const told = { type: `urn:muster:error:${code}`, title, status, code, detail: message };
  return errors === undefined ? told : { ...told, errors };
}

/** The answer that tells a client of `error`. Its own faults are told without their insides: those are logged. */
export function problemAnswer(error: unknown): JsonAnswer {
  const known = error instanceof MusterError ? error : (parserError(error) ?? internal());
  const problem = problemOf(known);
  const headers: Record<string, string> = { "content-type": "application/problem+json" };
  if (known.retryAfterMs !== undefined) headers["retry-after"] = String(Math.ceil(known.retryAfterMs / 1000));
  if (known.code === "unauthorized") headers["www-authenticate"] = 'Bearer realm="muster"';
  return { status: problem.status, headers, body: Buffer.from(JSON.stringify(problem)) };
}

/** What reading a body and Express throw at bad input, as ours. */
function parserError(error: unknown): MusterError | undefined {
  if (error instanceof BodyError) return new MusterError(codesOfBodies[error.fault], error.message);
  const { status, message } = error as { status?: number; message?: string };
  if (status === 412) return new MusterError("precondition-failed", message ?? "the condition does not hold");
  if (status !== undefined && status >= 400 && status < 500)
    return new MusterError("invalid-request", message ?? "bad request");
  return undefined;
}

const codesOfBodies = {
  "too-large": "too-large",
  encoding: "unsupported-media-type",
  broken: "invalid-request",
  gone: "invalid-request",
} as const;

function internal(): MusterError {
  return new MusterError("internal", "The coordinator failed on this request and has logged why.");
}
