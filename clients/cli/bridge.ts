/**
 * The one place where the command line speaks HTTP. A request is sent once: whether to try again is the operator's
 * choice. A stream is followed through restarts of the coordinator, by `Last-Event-ID`.
 */
import { setTimeout as delay } from "node:timers/promises";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { basicAuthorization } from "../../config-db/basic-auth.ts";
import { type ErrorCode, errorCodes, isErrorCode, MusterError } from "../../config-db/errors.ts";
import type { Problem } from "../../config-db/generated/types.ts";
import { TimedOut, type TimeLimit, timeLimit } from "../../config-db/time-limit.ts";

export interface BridgeOptions {
  /** Coordinators of one site, the first that can be connected to is asked. */
  urls: string[];
  token?: string | undefined;
  /** Stands in `changedBy` where authentication does not know better. */
  author?: string | undefined;
  /** How long an answer may take. */
  timeoutMs: number;
  /** Aborts on Ctrl-C. */
  signal: AbortSignal;
}

export interface BridgeRequest {
  method?: "GET" | "PUT" | "POST" | "PATCH" | "DELETE";
  /** From `/v1` on, made by `path`. */
  path: string;
  query?: Record<string, string | number | boolean | undefined>;
  /** Sent as JSON. */
  body?: unknown;
  /** Sent as it is. */
  content?: { type: string; bytes: Buffer };
  /** An etag, bare. */
  ifMatch?: string | undefined;
  ifNoneMatch?: string | undefined;
  timeoutMs?: number;
  /** A status that is an answer here, though it is an error elsewhere. */
  accepts?: number;
  /** Hands the bytes over as they are, JSON too. */
  raw?: true;
}

export interface BridgeAnswer<Body> {
  status: number;
  /** Bare, without quotes; empty where there is none. */
  etag: string;
  contentType: string;
  /** Parsed JSON; a Buffer for any other media type; undefined for 204 and 304. */
  body: Body;
}

export interface StreamEvent<Data = unknown> {
  event: string;
  id?: string;
  data: Data;
}

interface OpenStream {
  response: Response;
  release(): void;
}

/** A path whose parts are encoded: path`/v1/components/${id}`. */
export function path(parts: TemplateStringsArray, ...values: string[]): string {
  // A colon is a character of path segments (RFC 3986), and "type:x" reads better in logs than "type%3Ax".
  return String.raw({ raw: parts }, ...values.map((value) => encodeURIComponent(value).replaceAll("%3A", ":")));
}

/** Connections that were never made: no coordinator has seen the request, so the next one may be asked. */
const neverConnected = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);
/** A stream that was open is opened again for so long: a coordinator's restart takes seconds. */
const resumeMsMax = 60_000;
const resumeEveryMs = { first: 250, max: 5_000 };
/** Far over the largest event, a `reset` with a thousand records: a server that never ends an event must not fill the memory. */
const eventCharactersMax = 64 * 1024 * 1024;

export class BridgeClient {
  readonly #options: BridgeOptions;

  constructor(options: BridgeOptions) {
    this.#options = options;
  }

  /** The URL in use, without credentials. */
  get url(): string {
    return shown(this.#options.urls[0] ?? "");
  }

  /** @throws MusterError as the coordinator answered; `unreachable` or `deadline-exceeded` when none did. */
  async ask<Body = unknown>(request: BridgeRequest): Promise<BridgeAnswer<Body>> {
    const limit = this.#limit(request);
    try {
      const response = await this.#open(request, { accept: "application/json, */*;q=0.5" }, limit.signal);
      const contentType = response.headers.get("content-type") ?? "";
      const etag = (response.headers.get("etag") ?? "").replace(/^W\//, "").replaceAll('"', "");
      const bytes = Buffer.from(await response.arrayBuffer());
      const isJson = request.raw !== true && /^application\/json\b/.test(contentType);
      const body = bytes.length === 0 ? undefined : isJson ? JSON.parse(bytes.toString("utf8")) : bytes;
      return { status: response.status, etag, contentType, body: body as Body };
    } catch (error) {
      throw this.#failure(error, request, limit);
    } finally {
      limit.release();
    }
  }

  /**
   * Server-sent events until the signal aborts. `lost` is called when the stream broke off and is opened again.
   * @throws MusterError as `ask` when the stream cannot be opened, or not again within a minute.
   */
  async *stream<Data = unknown>(
    request: BridgeRequest,
    lost: (error: MusterError) => void = () => {},
  ): AsyncGenerator<StreamEvent<Data>> {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    let open = await this.#openStream(request, headers);
    for (;;) {
      let broken = new MusterError("unreachable", `${this.url} ended the stream`);
      try {
        for await (const event of eventsOf<Data>(open.response)) {
          if (event.id !== undefined) headers["last-event-id"] = event.id;
          yield event;
        }
      } catch (error) {
        broken = this.#failure(error, request);
      } finally {
        open.release();
      }
      lost(broken);
      open = await this.#resume(request, headers);
    }
  }

  async #resume(request: BridgeRequest, headers: Record<string, string>): Promise<OpenStream> {
    const { signal } = this.#options;
    const deadline = performance.now() + resumeMsMax;
    for (let pauseMs = resumeEveryMs.first; ; pauseMs = Math.min(pauseMs * 2, resumeEveryMs.max)) {
      await delay(pauseMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      try {
        return await this.#openStream(request, headers);
      } catch (error) {
        const { status } = error as MusterError;
        if (status !== 503 || performance.now() + pauseMs > deadline) throw error;
      }
    }
  }

  /** The time limit is for the opening; Ctrl-C ends the stream until it is released. */
  async #openStream(request: BridgeRequest, headers: Record<string, string>): Promise<OpenStream> {
    const limit = this.#limit(request);
    try {
      const response = await this.#open(request, headers, limit.signal);
      limit.meet();
      if (/^text\/event-stream\b/.test(response.headers.get("content-type") ?? "")) {
        return { response, release: limit.release };
      }
      await response.body?.cancel();
      throw new MusterError("no-such-route", `${this.url} does not stream ${request.path}`);
    } catch (error) {
      limit.release();
      throw this.#failure(error, request, limit);
    }
  }

  #limit({ method = "GET", path, timeoutMs = this.#options.timeoutMs }: BridgeRequest): TimeLimit {
    const late = `${this.url} gave no answer to ${method} ${path} within ${timeoutMs} ms`;
    return timeLimit(timeoutMs, late, this.#options.signal);
  }

  async #open(request: BridgeRequest, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { urls } = this.#options;
    for (const [index, url] of urls.entries()) {
      try {
        const response = await this.#fetch(url, request, headers, signal);
        if (response.ok || response.status === 304 || response.status === request.accepts) return response;
        throw await problemOf(response);
      } catch (error) {
        if (index === urls.length - 1 || !neverConnected.has(reason(error).code)) throw error;
      }
    }
    throw new MusterError("invalid-request", "no URL of a coordinator is given");
  }

  async #fetch(
    base: string,
    request: BridgeRequest,
    asked: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Response> {
    const { token, author } = this.#options;
    const { method = "GET", query = {}, body, content, ifMatch, ifNoneMatch } = request;
    const url = new URL(base);
    const target = new URL(`${url.origin}${url.pathname.replace(/\/$/, "")}${request.path}`);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) target.searchParams.set(name, String(value));
    }
    const headers = new Headers(asked);
    if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
    // For a proxy in front of the coordinator that asks for it; fetch itself refuses URLs with credentials.
    else if (url.username !== "") headers.set("authorization", basicAuthorization(url));
    if (author !== undefined) headers.set("muster-user", author);
    if (content !== undefined) headers.set("content-type", content.type);
    else if (body !== undefined) headers.set("content-type", "application/json");
    if (ifMatch !== undefined) headers.set("if-match", `"${ifMatch}"`);
    if (ifNoneMatch !== undefined) headers.set("if-none-match", ifNoneMatch === "*" ? "*" : `"${ifNoneMatch}"`);
    const sent = content?.bytes ?? (body === undefined ? null : JSON.stringify(body));
    return await fetch(target, { method, headers, body: sent, signal });
  }

  #failure(error: unknown, { method = "GET", path }: BridgeRequest, limit?: TimeLimit): MusterError {
    this.#options.signal.throwIfAborted();
    if (error instanceof MusterError) return error;
    const late: unknown = limit?.signal.reason;
    if (late instanceof TimedOut) return new MusterError("deadline-exceeded", late.message, { cause: error });
    const told =
      error instanceof SyntaxError
        ? `${this.url} answered ${method} ${path} with broken JSON: ${error.message}`
        : `no coordinator answers at ${this.#options.urls.map(shown).join(", ")}: ${reason(error).message}`;
    return new MusterError("unreachable", told, { cause: error });
  }
}

async function* eventsOf<Data>(response: Response): AsyncGenerator<StreamEvent<Data>> {
  const { body } = response;
  if (body === null) return;
  const events = body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream({ maxBufferSize: eventCharactersMax }));
  for await (const { event = "message", id, data } of events) {
    yield { event, ...(id === undefined ? {} : { id }), data: JSON.parse(data) as Data };
  }
}

/** What the coordinator said, as it said it: the problem itself is the `cause`, for `-o json`. */
async function problemOf(response: Response): Promise<MusterError> {
  const text = await response.text().catch(() => "");
  const seconds = Number(response.headers.get("retry-after"));
  const retryAfterMs = seconds > 0 ? { retryAfterMs: seconds * 1000 } : {};
  let problem: Partial<Problem> = {};
  try {
    problem = JSON.parse(text) as Partial<Problem>;
  } catch {
    // Told below: a proxy's page, or another server altogether.
  }
  if (typeof problem?.code !== "string") {
    const server = `${shown(response.url)} answered ${response.status} ${response.statusText}`.trim();
    return new MusterError(codeOf(response.status), `${server}, and not as a Muster bridge does`, retryAfterMs);
  }
  const code = isErrorCode(problem.code) ? problem.code : codeOf(response.status);
  const errors = problem.errors === undefined ? {} : { errors: problem.errors };
  return new MusterError(code, problem.detail ?? problem.title ?? problem.code, {
    ...errors,
    ...retryAfterMs,
    cause: problem,
  });
}

/** The nearest code for an answer that brings none that this version knows. */
function codeOf(status: number): ErrorCode {
  if (status === 502 || status === 503) return "unreachable";
  const known = Object.entries(errorCodes).find(([, code]) => code.status === status);
  return (known?.[0] as ErrorCode | undefined) ?? (status < 500 ? "invalid-request" : "internal");
}

function reason(error: unknown): { code: string; message: string } {
  const { cause } = error as { cause?: unknown };
  const nested = (cause instanceof AggregateError ? cause.errors[0] : cause) ?? error;
  const { code, message } = nested as { code?: string; message?: string };
  return { code: code ?? "", message: message ?? String(nested) };
}

/** A URL that may be shown: without the credentials that it may hold. */
export function shown(url: string): string {
  if (!URL.canParse(url)) return url;
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname.replace(/\/$/, "")}`;
}
