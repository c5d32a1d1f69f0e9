/**
 * The HTTP server: routes as declared, around them admission, checks, errors, streams and metrics. Declared routes are
 * found by our own router and served on plain requests; Express serves the pages.
 */
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";
import express from "express";
import type { Logger } from "pino";
import { Histogram, type Registry as Metrics } from "prom-client";
import { type Drain, draining } from "../../config-db/draining.ts";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { readBody } from "../../config-db/request-body.ts";
import { admit, authorOf } from "./admission.ts";
import { bodyLimitBytes, checkPath, parseBody, parseQuery } from "./input.ts";
import { docsPage, openApi } from "./openapi.ts";
import { problemAnswer } from "./problem.ts";
import type { RequestContext, Route } from "./route.ts";
import { type Match, Router } from "./router.ts";
import { send } from "./send.ts";
import { Streams } from "./streams.ts";
import { refuseUnparsed } from "./unparsed.ts";
import { Waits } from "./waits.ts";

export interface BridgeOptions {
  host: string;
  port: number;
  /** Absent: authentication is off, and only requests that name this machine are taken. */
  operatorToken?: string;
  logger: Logger;
  metrics: Metrics;
}

/** Over the 60 s of a long poll, and over the idle time of the usual load balancers. */
const keepAliveMs = 75_000;

/** A route with what serving it needs, made once. */
interface Served {
  route: Route;
  /** In bytes; absent where no body is read. */
  bodyLimit: number | undefined;
  /** Times the answers of one status. */
  timed: Map<number, { observe(seconds: number): void }>;
}

export class Bridge {
  readonly #options: BridgeOptions;
  readonly #server: Server;
  readonly #streams = new Streams();
  readonly #waits = new Waits();
  readonly #drain: Drain;
  readonly #durations: Histogram;
  #listener: RequestListener = starting;

  constructor(options: BridgeOptions) {
    this.#options = options;
    this.#durations = new Histogram({
      name: "muster_http_request_duration_seconds",
      help: "Time from the request's headers to the end of its answer, streams and waits left out.",
      labelNames: ["method", "route", "status"],
      buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
      registers: [options.metrics],
    });
    // Node's own refusal of a request without a Host has no body.
    const serving = { keepAliveTimeout: keepAliveMs, requireHostHeader: false };
    this.#server = createServer(serving, (request, response) => {
      this.#listener(request, response);
    });
    this.#drain = draining(this.#server);
    refuseUnparsed(this.#server);
    this.#server.on("checkExpectation", ({ headers }: IncomingMessage, response: ServerResponse) => {
      response.setHeader("connection", "close");
      const told = `the only expectation that can be met is 100-continue, not "${headers.expect}"`;
      this.#fail(new MusterError("expectation-failed", told), response);
    });
  }

  /**
   * Binds; until `serve` every route but `/livez` answers 503.
   * @throws MusterError `refused` when the port is taken, naming it and the setting that changes it.
   */
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
    const router = new Router<Served>();
    for (const route of routes) {
      const bodyLimit = route.method === "get" ? undefined : bodyLimitBytes(route);
      router.add(route, { route, bodyLimit, timed: new Map() });
    }
    const pages = this.#pages(openApi(routes));
    this.#listener = (request, response) => {
      try {
        checkTarget(request);
        admit(request, this.#options.operatorToken);
        const path = pathOf(request);
        const match = router.match(request.method ?? "GET", path);
        if (match === undefined) pages(request, response);
        else if ("served" in match) void this.#serve(match, request, response);
        else {
          response.setHeader("allow", match.allow);
          throw new MusterError("method-not-allowed", `${path} takes ${match.allow}, not ${request.method}`);
        }
      } catch (error) {
        this.#fail(error, response);
      }
    };
  }

  /**
   * Takes no more connections, ends streams, answers those who wait for news as when their time is over, and waits for the
   * other requests under way. What still waits after nine tenths of `drainMs` is answered as when its time is over, too; at
   * its end connections are cut.
   */
  async close(drainMs = 5_000): Promise<void> {
    const late = setTimeout(() => this.#waits.endAll(), 0.9 * drainMs);
    await this.#drain(drainMs, () => {
      this.#streams.close();
      this.#waits.endPolls();
    });
    clearTimeout(late);
  }

  /** What is for people and tools rather than for components. */
  #pages(document: Record<string, unknown>): express.Express {
    const app = express();
    app.disable("x-powered-by");
    app.get("/openapi.json", (_request, response) => void response.json(document));
    // For whoever opens it in a browser; programs that look what is here are told that this is no CouchDB.
    app.get("/", (request, response, next) => {
      if (request.accepts(["json", "html"]) === "html") response.redirect("/docs");
      else next();
    });
    app.get("/docs", (_request, response) => void response.type("html").send(docsPage));
    app.get("/docs/rapidoc.js", (_request, response) =>
      response.sendFile(createRequire(import.meta.url).resolve("rapidoc/dist/rapidoc-min.js"), {
        maxAge: 86_400_000,
        acceptRanges: false,
      }),
    );
    app.all(["/openapi.json", "/docs", "/docs/rapidoc.js"], ({ method, path }, response) => {
      response.setHeader("allow", "GET, HEAD");
      throw new MusterError("method-not-allowed", `${path} takes GET, HEAD, not ${method}`);
    });
    app.use((request) => {
      throw new MusterError("no-such-route", `nothing is served at ${request.path.slice(0, 200)}; see /docs`);
    });
    app.use((error: unknown, _request: IncomingMessage, response: ServerResponse, _next: express.NextFunction) => {
      this.#fail(error, response);
    });
    return app;
  }

  async #serve({ served, params }: Match<Served>, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { route, bodyLimit, timed } = served;
    const started = performance.now();
    let status = 200;
    try {
      checkPath(params);
      const query = parseQuery(route, queryOf(request));
      const bytes = bodyLimit === undefined ? undefined : await readBody(request, bodyLimit);
      const body = bytes && parseBody(route, request.headers["content-type"], bytes);
      const answer = await route.handle(
        new AskedContext(params, query, body, request, response, this.#waits, this.#options.operatorToken),
      );
      if ("stream" in answer) {
        this.#streams.serve(answer, response);
        return;
      }
      status = answer.status;
      send(answer, response);
    } catch (error) {
      status = this.#fail(error, response);
    }
    // A long poll lasts as long as it was asked to.
    if (request.url?.includes("waitMs")) return;
    let timer = timed.get(status);
    if (timer === undefined) {
      timer = this.#durations.labels(route.method, route.path, String(status));
      timed.set(status, timer);
    }
    timer.observe((performance.now() - started) / 1000);
  }

  #fail(error: unknown, response: ServerResponse): number {
    const answer = problemAnswer(error);
    if (answer.status === 500) this.#options.logger.error({ error }, "a request failed by a fault of ours");
    else if (!isMusterError(error)) this.#options.logger.debug({ error }, "a request was refused by a parser");
    if (response.headersSent) response.destroy();
    else send(answer, response);
    return answer.status;
  }
}

/**
 * A request as handlers see it. A class, because an object literal with getters gets a hidden class of its own each time,
 * which lives until the next full collection: 2 KB a request, and scavenges of 10 ms.
 */
class AskedContext implements RequestContext {
  readonly params: Record<string, string>;
  readonly query: RequestContext["query"];
  readonly body: unknown;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #waits: Waits;
  readonly #operatorToken: string | undefined;
  #abort: AbortController | undefined;

  constructor(
    params: Record<string, string>,
    query: RequestContext["query"],
    body: unknown,
    request: IncomingMessage,
    response: ServerResponse,
    waits: Waits,
    operatorToken: string | undefined,
  ) {
    this.params = params;
    this.query = query;
    this.body = body;
    this.#request = request;
    this.#response = response;
    this.#waits = waits;
    this.#operatorToken = operatorToken;
  }

  header(name: string): string | undefined {
    const value = this.#request.headers[name];
    return Array.isArray(value) ? value.join(", ") : value;
  }

  get author(): string {
    return authorOf(this.#request, this.#operatorToken);
  }

  /** Made when first asked for: most answers are given at once and nobody listens. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      const waits = this.#waits;
      const abort = waits.add(this.query.waitMs !== undefined);
      this.#abort = abort;
      const end = () => {
        waits.delete(abort);
        abort.abort();
      };
      // It may have gone while the body was read or something was waited for.
      if (this.#response.destroyed) end();
      else this.#response.once("close", end);
    }
    return this.#abort.signal;
  }
}

/**
 * Makes an absolute target, as clients send it to proxies, one of origin form; the host that it names counts (RFC 9112, 3.2.2).
 * @throws MusterError `malformed-request` where no host is named
 */
function checkTarget(request: IncomingMessage): void {
  const { url = "/", headers, httpVersion } = request;
  if (!url.startsWith("/")) {
    const [, authority, rest = ""] = /^https?:\/\/([^/?#]+)(.*)$/i.exec(url) ?? [];
    if (authority !== undefined) {
      headers.host = authority;
      request.url = rest.startsWith("/") ? rest : `/${rest}`;
    }
  }
  if (headers.host === undefined && httpVersion === "1.1")
    throw new MusterError("malformed-request", "a request of HTTP/1.1 must have a Host header");
}

function pathOf({ url = "/" }: IncomingMessage): string {
  const mark = url.indexOf("?");
  return mark < 0 ? url : url.slice(0, mark);
}

const noQuery = new URLSearchParams();

function queryOf({ url = "/" }: IncomingMessage): URLSearchParams {
  const mark = url.indexOf("?");
  return mark < 0 ? noQuery : new URLSearchParams(url.slice(mark + 1));
}

/** What is answered between binding and serving. */
function starting(request: IncomingMessage, response: ServerResponse): void {
  const told = "the coordinator is starting: it reads the store in and will serve in a moment";
  const early = problemAnswer(new MusterError("store-unavailable", told, { retryAfterMs: 1_000 }));
  send(request.url === "/livez" ? { status: 200, body: { live: true } } : early, response);
}
