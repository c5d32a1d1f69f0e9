/** One request and its answer. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
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

  /** Reads the whole body. @throws CouchError 413 past the limit, 415 for an encoding other than gzip. */
  async readBody(): Promise<void> {
    const bytes = await collect(this.request);
    const encoding = this.header("content-encoding") ?? "identity";
    if (encoding === "identity") this.body = bytes;
    else if (encoding === "gzip") this.body = await unzip(bytes);
    else throw new CouchError(415, "bad_content_encoding", `Content-Encoding must be gzip or absent, got ${encoding}`);
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

/** The client closed the connection before it had sent its request: there is nobody to answer. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
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

const tooLarge = () =>
  new CouchError(413, "too_large", `the request entity is too large: the limit is ${limits.bodyBytes} bytes`);

const unzipAll = promisify(gunzip);

export async function unzip(bytes: Buffer): Promise<Buffer> {
  try {
    return await unzipAll(bytes, { maxOutputLength: limits.bodyBytes });
  } catch (error) {
    if ((error as { code?: string }).code === "ERR_BUFFER_TOO_LARGE") throw tooLarge();
    throw badRequest("the gzip data is broken");
  }
}

/**
 * What is over the limit is read and dropped, so that the client gets to read its 413; a client that sends far more is
 * cut off.
 */
function collect(request: IncomingMessage): Promise<Buffer> {
  const dropLimitBytes = limits.bodyBytes * 8;
  return new Promise((resolve, reject) => {
    let chunks: Buffer[] = [];
    let sizeBytes = 0;
    request.on("data", (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes <= limits.bodyBytes) chunks.push(chunk);
      else chunks = [];
      if (sizeBytes > dropLimitBytes) request.destroy();
    });
    request.once("end", () => {
      if (sizeBytes > limits.bodyBytes) reject(tooLarge());
      else resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
    });
    request.once("error", () => {});
    request.once("close", () => {
      if (!request.readableEnded) reject(new ClientGone("the connection closed before the request had come"));
    });
  });
}
