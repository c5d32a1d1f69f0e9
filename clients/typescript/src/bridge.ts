/** The HTTP side of a coordinator: one request to whichever of the given coordinators answers. */
import { type ErrorCode, errorCodes, isErrorCode, MusterError } from "../../../config-db/errors.ts";
import type { Problem } from "../../../config-db/generated/types.ts";
import { TimedOut, timeLimit } from "../../../config-db/time-limit.ts";

export interface BridgeOptions {
  /** Base URLs of coordinators of one site, without `/v1`; the one that answered last is asked first. */
  urls: readonly string[];
  token?: string | undefined;
}

export interface BridgeRequest {
  method?: "GET" | "PUT" | "PATCH" | "POST" | "DELETE";
  /** From `/v1` on, parameters encoded. */
  path: string;
  query?: Record<string, string | number | boolean | undefined>;
  headers?: Record<string, string>;
  /** Sent as JSON. */
  body?: unknown;
  /** For each coordinator tried, not for all of them together. */
  timeoutMs?: number;
  /** Of one coordinator only: the next request goes to another one when it does not answer. */
  once?: boolean;
  signal?: AbortSignal | undefined;
}

export interface BridgeAnswer<T = unknown> {
  status: number;
  /** Bare, without quotes. */
  etag: string | undefined;
  /** Undefined where the answer has none: 204, 304. */
  body: T;
}

export interface OpenAnswer {
  response: Response;
  /** Ends the reading of its body, where that has not ended by itself. */
  close(): void;
}

const defaultTimeoutMs = 10_000;

export class Bridge {
  readonly #urls: readonly string[];
  readonly #authorization: Record<string, string>;
  #preferred = 0;

  constructor({ urls, token }: BridgeOptions) {
    this.#urls = urls;
    this.#authorization = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /**
   * Asks one coordinator after the other until one answers with anything but 503.
   * @throws MusterError with the answer's code; `unreachable` when none answers. Nothing is retried: callers know
   *   whether another try makes sense.
   */
  async ask<T = unknown>(request: BridgeRequest): Promise<BridgeAnswer<T>> {
    const { response, close } = await this.open(request);
    const etag = response.headers.get("etag")?.replace(/^W\//, "").replaceAll('"', "");
    try {
      const text = await response.text();
      return { status: response.status, etag, body: (text === "" ? undefined : JSON.parse(text)) as T };
    } catch (error) {
      throw unreachable(`the answer to ${request.path} from ${response.url} broke off or is not JSON`, error);
    } finally {
      close();
    }
  }

  /** As `ask`, but hands over the answer itself, its body unread, to be closed by whoever reads it: for streams. */
  async open(request: BridgeRequest): Promise<OpenAnswer> {
    let failure: MusterError | undefined;
    const first = this.#preferred;
    const turns = request.once === true ? 1 : this.#urls.length;
    for (let turn = 0; turn < turns; turn += 1) {
      const index = (first + turn) % this.#urls.length;
      try {
        const answer = await this.#try(this.#urls[index] as string, request);
        this.#preferred = index;
        return answer;
      } catch (error) {
        if (request.signal?.aborted === true) throw error;
        if (!(error instanceof MusterError) || error.status !== 503) throw error;
        failure = error;
        if (request.once === true) this.#preferred = (index + 1) % this.#urls.length;
      }
    }
    throw failure ?? unreachable("no URL of a coordinator is given");
  }

  async #try(url: string, request: BridgeRequest): Promise<OpenAnswer> {
    const { method = "GET", path, query = {}, headers = {}, body, timeoutMs = defaultTimeoutMs, signal } = request;
    const target = new URL(url.replace(/\/$/, "") + path);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) target.searchParams.set(name, String(value));
    }
    const limit = timeLimit(timeoutMs, `no answer within ${timeoutMs} ms`, signal);
    let response: Response;
    try {
      response = await fetch(target, {
        method,
        headers: {
          ...this.#authorization,
          ...(body !== undefined && { "content-type": "application/json" }),
          ...headers,
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        signal: limit.signal,
      });
    } catch (error) {
      limit.end();
      if (signal?.aborted === true) throw unreachable(`the request to ${target.origin}${path} was called off`, error);
      const late: unknown = limit.signal.reason;
      const reason = reasonOf(late instanceof TimedOut ? late : error);
      throw unreachable(`no coordinator answers at ${url}: ${reason}`, error);
    }
    limit.meet();
    if (response.ok || response.status === 304) return { response, close: limit.end };
    try {
      throw await problemOf(response);
    } finally {
      limit.end();
    }
  }
}

/** Nobody did anything with the request as far as can be known; it may be sent again. */
export function unreachable(message: string, cause?: unknown): MusterError {
  return new MusterError("unreachable", message, cause === undefined ? {} : { cause });
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  const nested = cause instanceof AggregateError ? cause.errors[0] : cause;
  return nested instanceof Error ? nested.message : error.message;
}

async function problemOf(response: Response): Promise<MusterError> {
  const text = await response.text().catch(() => "");
  const retryAfter = Number(response.headers.get("retry-after"));
  const retryAfterMs = Number.isFinite(retryAfter) && retryAfter > 0 ? { retryAfterMs: retryAfter * 1000 } : {};
  try {
    const problem = JSON.parse(text) as Problem;
    const code = isErrorCode(problem.code) ? problem.code : codeOf(response.status);
    const errors = problem.errors === undefined ? {} : { errors: problem.errors };
    return new MusterError(code, problem.detail ?? problem.title ?? text, { ...errors, ...retryAfterMs });
  } catch {
    // Not Muster's own words: a proxy's page, or another server altogether.
    const told = `${response.url} answered ${response.status} without a problem document: ${text.slice(0, 200)}`;
    return new MusterError(codeOf(response.status), told, retryAfterMs);
  }
}

/** The nearest code for an answer that brings none that this version knows. */
function codeOf(status: number): ErrorCode {
  const known = Object.entries(errorCodes).find(([, code]) => code.status === status);
  if (status >= 502) return "unreachable";
  return (known?.[0] as ErrorCode | undefined) ?? (status < 500 ? "invalid-request" : "internal");
}
