/**
 * The embedded config database: the part of CouchDB's HTTP protocol that Muster needs, on PouchDB. README.md says what
 * it serves and what it does not.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { draining } from "../draining.ts";
import { BodyError } from "../request-body.ts";
import { authenticate, type Credentials } from "./auth.ts";
import { notServed, toCouchError } from "./couch-error.ts";
import { serveDatabase } from "./database-routes.ts";
import { Databases } from "./databases.ts";
import { Exchange, sendError } from "./exchange.ts";
import { limits } from "./limits.ts";
import { type Logger, silent } from "./logger.ts";
import { serveServer } from "./server-routes.ts";
import { openDirectory, openMemory } from "./storage.ts";

export interface EmbeddedOptions {
  /** 127.0.0.1 when absent. */
  host?: string;
  /** 0, or absent: any that is free. */
  port?: number;
  /** Where databases are kept; absent: in memory, gone with the process. */
  directory?: string;
  /** Absent: whoever reaches the port may do everything. */
  credentials?: Credentials;
  logger?: Logger;
}

export interface Embedded {
  /** Without credentials. */
  url: string;
  /** Ends the feeds, answers what is under way, closes the databases. May be called again. */
  close(): Promise<void>;
}

/** The port is taken. The message says which, and how to choose another. */
export class PortTaken extends Error {
  override readonly name = "PortTaken";
}

/**
 * Resolves when requests are answered.
 * @throws PortTaken · DirectoryInUse when another process holds the directory and does not let go of it.
 */
export async function startEmbedded(options: EmbeddedOptions = {}): Promise<Embedded> {
  const { host = "127.0.0.1", port = 0, directory, credentials, logger = silent } = options;
  const storage = directory === undefined ? openMemory() : await openDirectory(directory);
  const databases = await Databases.open(storage);
  const server = createServer(
    {
      maxHeaderSize: limits.headerBytes,
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: limits.keepAliveMs,
      keepAlive: true,
      noDelay: true,
    },
    (request, response) => void answer(request, response, databases, credentials, logger),
  );
  const drain = draining(server);
  server.maxConnections = limits.connections;
  server.on("clientError", refuseGarbage);
  try {
    await listen(server, host, port);
  } catch (error) {
    await databases.close();
    throw error;
  }
  let closing: Promise<void> | undefined;
  const { address, port: bound, family } = server.address() as AddressInfo;
  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${bound}`,
    close: () => {
      closing ??= drain(limits.drainMs, () => databases.close());
      return closing;
    },
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  databases: Databases,
  credentials: Credentials | undefined,
  logger: Logger,
): Promise<void> {
  // A socket that breaks while it is written to is the client's affair.
  response.on("error", () => {});
  try {
    const exchange = new Exchange(request, response);
    const [first = ""] = exchange.path;
    // CouchDB's replicator asks for a session before anything else, and gives up at a 401.
    if (request.method === "POST" && first === "_session") throw notServed("A cookie session");
    exchange.user = authenticate(request, credentials);
    if (first === "" || first.startsWith("_")) serveServer(exchange, databases);
    else await serveDatabase(exchange, databases, logger);
  } catch (error) {
    if (error instanceof BodyError && error.fault === "gone") return;
    const told = toCouchError(error);
    if (told.status >= 500) {
      const { method, url } = request;
      logger.error({ method, url, reason: String(error), stack: (error as Error)?.stack }, "a request failed");
    }
    sendError(response, told);
  }
}

/** What is no HTTP at all, or takes too long to become it. */
function refuseGarbage(error: Error & { code?: string }, socket: Duplex): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, word] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? ["431 Request Header Fields Too Large", "request_header_fields_too_large"]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? ["408 Request Timeout", "request_timeout"]
        : ["400 Bad Request", "bad_request"];
  const body = `${JSON.stringify({ error: word, reason: "The request is not valid HTTP, or too slow or too large" })}\n`;
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EADDRINUSE") reject(error);
      else {
        reject(
          new PortTaken(
            `port ${port} on ${host} is taken: end the program that listens there, or choose another port for the ` +
              "embedded config database (MUSTER_COUCHDB_PORT)",
            { cause: error },
          ),
        );
      }
    });
    server.listen({ host, port, backlog: 1024 }, resolve);
  });
}
