/** One request and its answer. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { readBody } from "../request-body.ts";
import { badRequest, CouchError } from "./couch-error.ts";
import { type JsonObject, parseObject } from "./json.ts";
import { limits } from "./limits.ts";
import { Query } from "./query.ts";

/** Whom design functions see as the writer. */
export interface UserContext {
  name: string | null;
  roles: string[];
}

const nothing = Buffer.alloc(0);

export class Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly method: string;
  /** The path's parts, decoded: `["db", "_design/x", "_view", "y"]` comes as five, a `%2F` stays in its part. */
  readonly path: string[];
  readonly query: Query;
  /** Nobody, until who it is has been found out. */
  user: UserContext = { name: null, roles: [] };
  /** Filled by `readBody`. */
  body: Buffer = nothing;

  /** @throws CouchError 400 where the path is no valid percent-encoding. */
  constructor(request: IncomingMessage, response: ServerResponse) {
    this.request = request;
    this.response = response;
    this.method = request.method ?? "GET";
    const url = request.url ?? "/";
    const mark = url.indexOf("?");
    this.path = parsePath(mark < 0 ? url : url.slice(0, mark));
    this.query = new Query(mark < 0 ? "" : url.slice(mark + 1));
  }

  header(name: string): string | undefined {
    const value = this.request.headers[name];
    return Array.isArray(value) ? value[0] : value;
  }

  /** The body as a JSON object. @throws CouchError 415 unless it is declared as JSON, 400 unless it is an object. */
  object(reason?: string): JsonObject {
    this.requireJson();
    return parseObject(this.body, reason);
  }

  /** CouchDB wants these requests declared: a web page of another origin cannot send them unasked. */
  requireJson(): void {
    if (!/^application\/json\b/i.test(this.header("content-type") ?? "")) {
      throw new CouchError(415, "bad_content_type", "Content-Type must be application/json");
    }
  }

  /** The revision in `If-Match`, without its quotes. */
  ifMatch(): string | undefined {
    return this.header("if-match")?.replace(/^W\/|"/g, "");
  }

  /** True where the client has this entity already: the answer is then a 304, which this sends. */
  isUnchanged(etag: string): boolean {
    const known = this.header("if-none-match");
    if (known === undefined) return false;
    if (known !== "*" && !known.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag)) return false;
    this.response.writeHead(304, { etag }).end();
    return true;
  }

  json(status: number, value: unknown, headers: Record<string, string> = {}): void {
    sendJson(this.response, status, value, headers);
  }

  send(status: number, body: string | Buffer, headers: Record<string, string>): void {
    send(this.response, status, body, headers);
  }

  /** Reads the whole body. @throws BodyError */
  async readBody(): Promise<void> {
    this.body = await readBody(this.request, limits.bodyBytes);
  }
}

/** Answers with an error; where an answer has begun already, by breaking it off. */
export function sendError(response: ServerResponse, error: CouchError): void {
  if (response.headersSent) response.destroy();
  else sendJson(response, error.status, error.body, error.headers);
}

function sendJson(response: ServerResponse, status: number, value: unknown, headers: Record<string, string>): void {
  send(response, status, `${JSON.stringify(value)}\n`, { "content-type": "application/json", ...headers });
}

function send(response: ServerResponse, status: number, body: string | Buffer, headers: Record<string, string>): void {
  response.writeHead(status, {
    "cache-control": "must-revalidate",
    "content-length": Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}

function parsePath(path: string): string[] {
  try {
    const parts = path.split("/").slice(1).map(decodeURIComponent);
    if (parts.at(-1) === "") parts.pop();
    return parts;
  } catch {
    throw badRequest(`The path is not valid percent-encoded UTF-8: ${path.slice(0, 100)}`);
  }
}
