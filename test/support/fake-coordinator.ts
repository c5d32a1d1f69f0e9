/** The part of a coordinator that a client needs, in memory, with every answer in the test's hand. */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export interface FakeRequest {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage["headers"];
  // biome-ignore lint/suspicious/noExplicitAny: tests read whatever was sent.
  body: any;
}

interface FakeAnswer {
  status: number;
  body?: unknown;
  headers?: Record<string, string>;
}

type Override = (request: FakeRequest) => FakeAnswer | undefined | Promise<FakeAnswer | undefined>;

export class FakeCoordinator {
  settings: Record<string, unknown> = { samplingIntervalMs: 1000 };
  etag = "e1";
  amqpUrl: string | undefined;
  ttlMs = 30_000;
  renewEveryMs = 10_000;
  /** Components that hold a lease, by id. */
  readonly registered = new Map<string, Record<string, unknown>>();
  /** What discovery streams. */
  components: Record<string, unknown>[] = [];
  /** What waits in the inbox. */
  inbox: Record<string, unknown>[] = [];
  readonly requests: FakeRequest[] = [];
  /** Asked first; what it answers stands instead of the usual answer. */
  override: Override | undefined;
  readonly #streams = new Map<string, Set<ServerResponse>>();
  readonly #sockets = new Set<Socket>();
  readonly #inboxWaiters = new Set<() => void>();
  #server: Server | undefined;
  #port = 0;

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Listens, after `stop` on the same port again. */
  async start(): Promise<void> {
    this.#server = createServer((request, response) => void this.#serve(request, response));
    const server = this.#server;
    server.on("connection", (socket) => {
      // Accepted in the moment of the stop.
      if (!server.listening) socket.destroy();
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** As when the process is killed: connections are reset. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (server === undefined || !server.listening) return;
    server.close();
    for (const socket of this.#sockets) socket.destroy();
    this.#streams.clear();
    await once(server, "close");
  }

  /** Requests so far, e.g. `seen("PUT", "/lease")`. */
  seen(method: string, pathEnd: string): FakeRequest[] {
    return this.requests.filter((request) => request.method === method && request.path.endsWith(pathEnd));
  }

  configure(etag: string, settings: Record<string, unknown>): void {
    this.etag = etag;
    this.settings = settings;
    this.send("/config", "config", { etag, settings });
  }

  /** Sends an event on all streams whose path ends so. */
  send(pathEnd: string, event: string, data: unknown, id?: string): void {
    for (const [path, streams] of this.#streams) {
      if (!path.endsWith(pathEnd)) continue;
      for (const stream of streams) {
        stream.write(`${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
      }
    }
  }

  streamsOf(pathEnd: string): number {
    return [...this.#streams].filter(([path]) => path.endsWith(pathEnd)).reduce((sum, [, set]) => sum + set.size, 0);
  }

  deliver(message: Record<string, unknown>): void {
    this.inbox.push({ delivery: randomUUID(), id: randomUUID(), kind: "command", attempt: 1, ...message });
    for (const wake of [...this.#inboxWaiters]) wake();
  }

  async #serve(raw: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of raw) chunks.push(chunk as Buffer);
    const url = new URL(raw.url ?? "/", this.url);
    const text = Buffer.concat(chunks).toString();
    const request: FakeRequest = {
      method: raw.method ?? "GET",
      path: url.pathname,
      query: url.searchParams,
      headers: raw.headers,
      body: text === "" ? undefined : JSON.parse(text),
    };
    this.requests.push(request);
    const own = await this.override?.(request);
    if (own === undefined && (raw.headers.accept ?? "").includes("text/event-stream")) {
      this.#stream(request, response);
      return;
    }
    const { status, body, headers = {} } = own ?? (await this.#answer(request, response));
    if (response.destroyed) return;
    const type = status >= 400 ? "application/problem+json" : "application/json";
    response.writeHead(status, { "content-type": type, ...headers });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  }

  async #answer(request: FakeRequest, response: ServerResponse): Promise<FakeAnswer> {
    const { method, path, headers, body } = request;
    const [, , , id = "", ...rest] = path.split("/");
    const action = `${method} ${rest.join("/")}`;
    if (path.startsWith("/v1/components/")) {
      if (action === "PUT ") return this.#register(id, body);
      if (action === "DELETE ") {
        this.registered.delete(id);
        return { status: 204 };
      }
      if (action === "PUT lease") {
        return this.registered.has(id)
          ? { status: 200, body: { expiresInMs: this.ttlMs } }
          : problem(404, "not-registered");
      }
      if (action === "GET config") {
        const isKnown = headers["if-none-match"] === `"${this.etag}"`;
        const etag = { etag: `"${this.etag}"` };
        return isKnown ? { status: 304, headers: etag } : { status: 200, body: this.settings, headers: etag };
      }
      if (action === "DELETE inbox") return { status: 204 };
      if (action === "PUT config/status") return { status: 204 };
      if (action === "GET inbox") return await this.#takeInbox(request, response);
      if (method === "POST" && rest[0] === "inbox") return { status: 204 };
    }
    if (path === "/v1/commands" && method === "POST") return { status: 202, body: { id: headers["idempotency-key"] } };
    if (path === "/v1/requests" && method === "POST")
      return { status: 200, body: { from: "other", body: { got: body.body } } };
    if (path === "/v1/events" && method === "POST") return { status: 202 };
    if (path.startsWith("/v1/config/schemas/")) return problem(404, "not-found");
    return problem(404, "no-such-route");
  }

  #register(id: string, body: Record<string, unknown>): FakeAnswer {
    const before = this.registered.get(id);
    const incarnation = Number(before?.incarnation ?? 0) + 1;
    this.registered.set(id, { ...body, incarnation });
    const amqp = this.amqpUrl === undefined ? {} : { amqp: { url: this.amqpUrl, queues: {} } };
    return {
      status: before === undefined ? 201 : 200,
      body: {
        id,
        type: body.type,
        site: "test",
        state: "up",
        incarnation,
        lease: { ttlMs: this.ttlMs, expiresInMs: this.ttlMs, renewEveryMs: this.renewEveryMs },
        config: { url: `${this.url}/v1/components/${id}/config`, etag: this.etag },
        messaging: { inbox: `${this.url}/v1/components/${id}/inbox`, ...amqp },
      },
    };
  }

  async #takeInbox({ query }: FakeRequest, response: ServerResponse): Promise<FakeAnswer> {
    if (this.inbox.length === 0) {
      await new Promise<void>((resolve) => {
        const finish = () => {
          clearTimeout(timer);
          this.#inboxWaiters.delete(finish);
          resolve();
        };
        const timer = setTimeout(finish, Number(query.get("waitMs")));
        this.#inboxWaiters.add(finish);
        response.once("close", finish);
      });
    }
    // Whoever asked is gone: what came meanwhile is for the next.
    if (response.req.socket.destroyed) return { status: 200 };
    return { status: 200, body: { messages: this.inbox.splice(0, Number(query.get("max"))) } };
  }

  #stream({ path }: FakeRequest, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    const streams = this.#streams.get(path) ?? new Set();
    this.#streams.set(path, streams.add(response));
    response.once("close", () => streams.delete(response));
    const send = (event: string, data: unknown) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    if (path.endsWith("/config")) send("config", { etag: this.etag, settings: this.settings });
    if (path === "/v1/components") send("reset", { components: this.components });
  }
}

export function problem(status: number, code: string, detail = `this is a ${code}`): FakeAnswer {
  return { status, body: { type: "about:blank", title: code, status, code, detail } };
}
