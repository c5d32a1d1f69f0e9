/** The HTTP server: routes as declared, around them checks, errors, streams, authentication and metrics. */
import { timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { createRequire } from "node:module";
import type { AddressInfo, Socket } from "node:net";
import express, { type Request, type Response } from "express";
import type { Logger } from "pino";
import { Histogram, type Registry as Metrics } from "prom-client";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { bodyLimitBytes, checkPath, parseBody, parseQuery } from "./input.ts";
import { docsPage, openApi } from "./openapi.ts";
import { problemAnswer } from "./problem.ts";
import type { JsonAnswer, RequestContext, Route, StreamAnswer } from "./route.ts";

export interface BridgeOptions {
  host: string;
  port: number;
  /** Absent: authentication is off, and only requests that name this machine are taken. */
  operatorToken?: string;
  logger: Logger;
  metrics: Metrics;
}

/** A stream's reader that is this far behind is cut off; it comes back with Last-Event-ID. */
const streamBufferBytesMax = 4 * 1024 * 1024;
/** Keeps proxies and NATs from closing an idle stream. */
const streamHeartbeatMs = 15_000;
/** Over the 60 s of a long poll, and over the idle time of the usual load balancers. */
const keepAliveMs = 75_000;

export class Bridge {
  readonly #options: BridgeOptions;
  readonly #server: Server;
  readonly #streams = new Set<Response>();
  /** Connected and never asked anything: to Node these are not idle, and would hold up a close. */
  readonly #unused = new Set<Socket>();
  readonly #durations: Histogram;
  #application: RequestListener = starting;

  constructor(options: BridgeOptions) {
    this.#options = options;
    this.#durations = new Histogram({
      name: "muster_http_request_duration_seconds",
      help: "Time from the request's headers to the end of its answer, streams and waits left out.",
      labelNames: ["method", "route", "status"],
      buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
      registers: [options.metrics],
    });
    this.#server = createServer({ keepAliveTimeout: keepAliveMs }, (request, response) => {
      this.#unused.delete(request.socket);
      this.#application(request, response);
    });
    this.#server.on("connection", (socket) => {
      this.#unused.add(socket);
      socket.once("close", () => this.#unused.delete(socket));
    });
    this.#server.on("clientError", (_error, socket) => {
      if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    });
  }

  /** Binds; until `serve` every route but `/livez` answers 503. @throws MusterError `refused` when the port is taken, naming it and the setting that changes it. */
  async start(): Promise<{ url: string }> {
    const { host, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (error: NodeJS.ErrnoException) => {
        const taken = error.code === "EADDRINUSE";
        const told = `port ${port} on ${host} is taken; choose another with MUSTER_HTTP_PORT or --http-port`;
        reject(taken ? new MusterError("refused", told, { cause: error }) : error);
      });
      this.#server.listen(port, host, resolve);
    });
    const bound = this.#server.address() as AddressInfo;
    return { url: `http://${host.includes(":") ? `[${host}]` : host}:${bound.port}` };
  }

  /** Opens the routes. */
  serve(routes: Route[]): void {
    this.#application = this.#express(routes);
  }

  /** Takes no more requests, ends streams and waits for those under way, at most `drainMs`. */
  async close(drainMs = 5_000): Promise<void> {
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const response of this.#streams) response.end();
    for (const socket of this.#unused) socket.destroy();
    this.#server.closeIdleConnections();
    const timer = setTimeout(() => this.#server.closeAllConnections(), drainMs);
    await closed;
    clearTimeout(timer);
  }

  #express(served: Route[]): express.Express {
    const app = express();
    app.disable("x-powered-by");
    app.disable("etag");
    app.set("query parser", false);
    app.use((request, _response, next) => next(this.#admit(request)));

    const document = openApi(served);
    app.get("/openapi.json", (_request, response) => void response.json(document));
    app.get("/docs", (_request, response) => void response.type("html").send(docsPage));
    app.get("/docs/rapidoc.js", (_request, response) =>
      response.sendFile(createRequire(import.meta.url).resolve("rapidoc/dist/rapidoc-min.js"), { maxAge: 86_400_000 }),
    );

    for (const path of new Set(served.map((route) => route.path))) {
      const routes = served.filter((route) => route.path === path);
      const pattern = path.replaceAll(/\{(\w+)\}/g, ":$1");
      for (const route of routes) {
        const bytes = express.raw({ type: () => true, limit: bodyLimitBytes(route) });
        const serve = (request: Request, response: Response) => this.#serve(route, request, response);
        // A GET has no body worth waiting for: the parser costs a tenth of a cheap answer.
        if (route.method === "get") app.get(pattern, serve);
        else app[route.method](pattern, bytes, serve);
      }
      const allow = routes.map((route) => route.method.toUpperCase()).join(", ");
      app.all(pattern, (request, response) => {
        response.setHeader("allow", allow);
        throw new MusterError("method-not-allowed", `${path} takes ${allow}, not ${request.method}`);
      });
    }
    app.use((request) => {
      throw new MusterError("no-such-route", `nothing is served at ${request.path.slice(0, 200)}; see /docs`);
    });
    app.use((error: unknown, _request: Request, response: Response, _next: express.NextFunction) => {
      this.#fail(error, response);
    });
    return app;
  }

  /** @returns why this request may not come in, or undefined. */
  #admit(request: Request): MusterError | undefined {
    const { operatorToken } = this.#options;
    if (operatorToken === undefined) {
      // Without a token the loopback is the fence: a web page that a browser here shows must not reach over it.
      const host = (request.headers.host ?? "").replace(/:\d+$/, "");
      if (["127.0.0.1", "localhost", "[::1]"].includes(host)) return undefined;
      return new MusterError(
        "forbidden",
        `with authentication off only requests to 127.0.0.1 or localhost are taken, not to "${host}"`,
      );
    }
    if (request.path === "/livez" || request.path === "/readyz") return undefined;
    const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1];
    if (given !== undefined && sameText(given, operatorToken)) return undefined;
    return new MusterError(
      "unauthorized",
      "send Authorization: Bearer <token>; the operator's token is in MUSTER_OPERATOR_TOKEN",
    );
  }

  async #serve(route: Route, request: Request, response: Response): Promise<void> {
    const started = performance.now();
    let status = 200;
    try {
      const answer = await route.handle(this.#context(route, request, response));
      if ("stream" in answer) {
        this.#stream(answer, request, response);
        return;
      }
      status = answer.status;
      send(answer, response);
    } catch (error) {
      status = this.#fail(error, response);
    }
    if (request.url.includes("waitMs")) return;
    const labels = { method: route.method, route: route.path, status: String(status) };
    this.#durations.observe(labels, (performance.now() - started) / 1000);
  }

  #context(route: Route, request: Request, response: Response): RequestContext {
    const mark = request.url.indexOf("?");
    const params = request.params as Record<string, string>;
    checkPath(params);
    const query = mark < 0 ? {} : parseQuery(route, new URLSearchParams(request.url.slice(mark + 1)));
    let body: unknown;
    if (route.method !== "get") {
      const bytes: Buffer = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
      body = parseBody(route, request.headers["content-type"], bytes);
    }
    let abort: AbortController | undefined;
    return {
      params,
      query,
      body,
      author: author(request, this.#options.operatorToken !== undefined),
      header: (name) => {
        const value = request.headers[name];
        return Array.isArray(value) ? value.join(", ") : value;
      },
      /** Made when first asked for: most answers are given at once and nobody listens. */
      get signal() {
        if (abort === undefined) {
          const made = new AbortController();
          abort = made;
          response.once("close", () => made.abort());
        }
        return abort.signal;
      },
    };
  }

  #fail(error: unknown, response: Response): number {
    if (!isMusterError(error)) this.#options.logger.debug({ error }, "not a MusterError");
    const answer = problemAnswer(error);
    if (answer.status === 500) this.#options.logger.error({ error }, "a request failed by a fault of ours");
    if (response.headersSent) response.destroy();
    else send(answer, response);
    return answer.status;
  }

  #stream({ stream }: StreamAnswer, request: Request, response: Response): void {
    response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    });
    response.flushHeaders();
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    this.#streams.add(response);
    const write = (text: string) => {
      if (response.writableLength > streamBufferBytesMax) response.destroy();
      else response.write(text);
    };
    const heartbeat = setInterval(() => write(":\n\n"), streamHeartbeatMs);
    let stop = () => {};
    response.on("close", () => {
      clearInterval(heartbeat);
      this.#streams.delete(response);
      stop();
    });
    stop = stream(({ event, id, data }) => {
      write(`${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    });
    if (response.destroyed) stop();
  }
}

/** What is answered between binding and serving. */
function starting(request: IncomingMessage, response: ServerResponse): void {
  const told = "the coordinator is starting: it reads the store in and will serve in a moment";
  const early = problemAnswer(new MusterError("store-unavailable", told, { retryAfterMs: 1_000 }));
  send(request.url === "/livez" ? { status: 200, body: { live: true } } : early, response);
}

function send({ status, headers = {}, body }: JsonAnswer, response: ServerResponse): void {
  if (response.headersSent || response.destroyed) return;
  if (body === undefined) {
    response.writeHead(status, headers).end();
    return;
  }
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  response.writeHead(status, { "content-type": "application/json", ...headers, "content-length": bytes.length });
  if (response.req.method === "HEAD") response.end();
  else response.end(bytes);
}

function sameText(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

/** A name for `changedBy`. It is a courtesy, not a proof, unless authentication is on. */
function author(request: Request, authenticated: boolean): string {
  const said = request.headers["muster-user"];
  const name =
    typeof said === "string"
      ? said
          .replaceAll(/[^\x20-\x7e]/g, "")
          .trim()
          .slice(0, 200)
      : "";
  if (name !== "") return name;
  return authenticated ? "operator" : "anonymous";
}
