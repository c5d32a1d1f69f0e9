import { once } from "node:events";
import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import { pino } from "pino";
import { Registry as Metrics } from "prom-client";
import { MusterError } from "../../config-db/errors.ts";
import type { Route } from "../../coordinator/bridge/route.ts";
import { Bridge } from "../../coordinator/bridge/server.ts";
import { answerOrWait, waitParameter, wantsStream } from "../../coordinator/bridge/watch.ts";

/** Something to watch: a value with listeners. */
function cell() {
  const listeners = new Set<() => void>();
  let value = 1;
  return {
    listeners,
    read: () => ({ etag: String(value), body: { value } }),
    subscribe: (changed: () => void) => {
      listeners.add(changed);
      return () => listeners.delete(changed);
    },
    set(next: number) {
      value = next;
      for (const listener of listeners) listener();
    },
  };
}

describe("the bridge", () => {
  const watched = cell();
  const routes: Route[] = [
    {
      method: "put",
      path: "/v1/components/{id}",
      summary: "echo",
      body: "registration",
      answers: { 200: { description: "echo", schema: "registration" } },
      handle: ({ body, params, author }) => ({ status: 200, body: { body, params, author } }),
    },
    {
      method: "get",
      path: "/v1/cell",
      summary: "watch",
      query: waitParameter,
      streams: true,
      answers: { 200: { description: "the cell" } },
      handle: (request) =>
        wantsStream(request)
          ? {
              stream: (send) => {
                const tell = () => send({ event: "cell", id: watched.read().etag, data: watched.read().body });
                tell();
                return watched.subscribe(tell);
              },
            }
          : answerOrWait(request, watched),
    },
    {
      method: "get",
      path: "/v1/held",
      summary: "watch what is watched already before the stream begins",
      streams: true,
      answers: { 200: { description: "the cell" } },
      handle: () => {
        const end = watched.subscribe(() => {});
        return { stream: () => end };
      },
    },
    {
      method: "put",
      path: "/v1/bytes",
      summary: "echo bytes",
      body: "bytes",
      answers: { 200: { description: "the bytes" } },
      handle: (request) => ({
        status: 200,
        headers: { "content-type": request.header("content-type") ?? "" },
        body: request.body as Buffer,
      }),
    },
    {
      method: "delete",
      path: "/v1/fault",
      summary: "fail",
      answers: {},
      handle: () => {
        throw new TypeError("an inside that nobody should see");
      },
    },
    {
      method: "get",
      path: "/v1/away",
      summary: "fail as the store does",
      answers: {},
      handle: () => {
        throw new MusterError("store-unavailable", "the store is away", { retryAfterMs: 1_500 });
      },
    },
  ];
  const bridge = new Bridge({
    host: "127.0.0.1",
    port: 0,
    logger: pino({ level: "silent" }),
    metrics: new Metrics(),
  });
  let url = "";
  before(async () => {
    url = (await bridge.start()).url;
    expect((await fetch(`${url}/livez`)).status, "alive before it serves").to.equal(200);
    expect((await fetch(`${url}/v1/cell`)).status, "but serves nothing yet").to.equal(503);
    bridge.serve(routes);
  });
  after(() => bridge.close());

  const put = (
    path: string,
    body: string | Buffer,
    headers: Record<string, string> = { "content-type": "application/json" },
  ) => fetch(url + path, { method: "PUT", headers, body });
  const problem = async (answer: Promise<Response>) => {
    const response = await answer;
    expect(response.headers.get("content-type")).to.equal("application/problem+json");
    const body = (await response.json()) as {
      status: number;
      code: string;
      detail: string;
      errors?: { pointer: string }[];
    };
    expect(body.status).to.equal(response.status);
    return { ...body, headers: response.headers };
  };

  it("hands a checked body, the path and the author to the handler", async () => {
    const headers = { "content-type": "application/json", "muster-user": "ada" };
    const answer = await put("/v1/components/a-1", JSON.stringify({ type: "t" }), headers);
    expect(await answer.json()).to.deep.equal({ body: { type: "t" }, params: { id: "a-1" }, author: "ada" });
    const zipped = await put("/v1/components/a-1", gzipSync('{"type":"z"}'), {
      "content-type": "application/json",
      "content-encoding": "gzip",
    });
    expect(((await zipped.json()) as { body: unknown }).body).to.deep.equal({ type: "z" });
  });

  it("names every wrong field with its value and the limit", async () => {
    const { status, code, detail, errors } = await problem(put("/v1/components/a", '{"type":"T","ttlMs":5,"typo":1}'));
    expect([status, code]).to.deep.equal([400, "invalid-request"]);
    expect(errors?.map(({ pointer }) => pointer)).to.have.members(["/type", "/ttlMs", ""]);
    expect(detail).to.include(">= 1000, got 5").and.include('unknown field "typo"; known are type,');
  });

  const wrong: [string, () => Promise<Response>, number, string, RegExp][] = [
    ["bad JSON", () => put("/v1/components/a", "{"), 400, "malformed-json", /not JSON/],
    [
      "bytes that are not UTF-8",
      () => put("/v1/components/a", Buffer.from([0x22, 0xff, 0x22])),
      400,
      "malformed-json",
      /UTF-8/,
    ],
    [
      "half a surrogate pair",
      () => put("/v1/components/a", '{"type":"a","version":"\\ud800"}'),
      400,
      "malformed-json",
      /surrogate/,
    ],
    [
      "a body nested 100,000 deep",
      () => put("/v1/components/a", `${"[".repeat(1e5)}${"]".repeat(1e5)}`),
      400,
      "malformed-json",
      /deeper/,
    ],
    ["no body", () => put("/v1/components/a", ""), 400, "malformed-json", /not JSON/],
    [
      "another media type",
      () => put("/v1/components/a", "{}", { "content-type": "text/plain" }),
      415,
      "unsupported-media-type",
      /text\/plain/,
    ],
    [
      "another charset than UTF-8",
      () => put("/v1/components/a", '{"type":"a"}', { "content-type": "application/json; charset=latin1" }),
      415,
      "unsupported-media-type",
      /UTF-8, got charset latin1/,
    ],
    ["2 MiB", () => put("/v1/components/a", "x".repeat(2 ** 21)), 413, "too-large", /1463640/],
    [
      "2 MiB that zip to little",
      () => put("/v1/components/a", gzipSync("x".repeat(2 ** 21)), { "content-encoding": "gzip" }),
      413,
      "too-large",
      /1463640/,
    ],
    [
      "gzip that is none",
      () => put("/v1/components/a", "{}", { "content-encoding": "gzip" }),
      400,
      "invalid-request",
      /gzip data is broken/,
    ],
    [
      "an encoding that it does not know",
      () => put("/v1/components/a", "{}", { "content-encoding": "br" }),
      415,
      "unsupported-media-type",
      /must be gzip or absent, got br/,
    ],
    ["an impossible id", () => put("/v1/components/A!", "{}"), 400, "invalid-request", /"A!" cannot be the id/],
    ["a broken escape in the path", () => put("/v1/components/%E0%A4%A", "{}"), 400, "invalid-request", /decode/],
    ["an unknown parameter", () => fetch(`${url}/v1/cell?wait=1`), 400, "unknown-parameter", /known are waitMs/],
    ...["constructor", "__proto__", "toString", "__proto__.a"].map((name): (typeof wrong)[number] => [
      `a parameter named ${name}`,
      () => fetch(`${url}/v1/cell?${name}=1`),
      400,
      "unknown-parameter",
      /known are waitMs/,
    ]),
    [
      "a parameter out of range",
      () => fetch(`${url}/v1/cell?waitMs=60001`),
      400,
      "invalid-request",
      /from 0 to 60000, got "60001"/,
    ],
    ["a parameter twice", () => fetch(`${url}/v1/cell?waitMs=1&waitMs=2`), 400, "invalid-request", /2 times/],
    ["an unknown route", () => fetch(`${url}/v2/cell`), 404, "no-such-route", /\/v2\/cell/],
    [
      "a method that the route lacks",
      () => fetch(`${url}/v1/cell`, { method: "POST" }),
      405,
      "method-not-allowed",
      /takes GET, HEAD, not POST/,
    ],
  ];
  for (const [what, send, status, code, detail] of wrong) {
    it(`refuses ${what} with ${status} ${code}`, async () => {
      const told = await problem(send());
      expect([told.status, told.code]).to.deep.equal([status, code]);
      expect(told.detail).to.match(detail);
    });
  }

  it("takes UTF-8 however it is written", async () => {
    for (const charset of ["utf-8", "UTF-8", '"Utf-8"']) {
      const answer = await put("/v1/components/a", '{"type":"a"}', {
        "content-type": `application/json; charset=${charset}`,
      });
      expect(answer.ok, charset).to.equal(true);
    }
  });

  it("keeps its own faults to itself", async () => {
    const { status, detail } = await problem(fetch(`${url}/v1/fault`, { method: "DELETE" }));
    expect(status).to.equal(500);
    expect(detail).not.to.include("inside");
  });

  it("tells a client when to come back", async () => {
    const { status, headers } = await problem(fetch(`${url}/v1/away`));
    expect([status, headers.get("retry-after")]).to.deep.equal([503, "2"]);
  });

  it("carries raw bytes unchanged", async () => {
    const bytes = Buffer.from([0, 255, 128, 10]);
    const answer = await put("/v1/bytes", bytes, { "content-type": "application/x-thing" });
    expect(Buffer.from(await answer.arrayBuffer()).equals(bytes)).to.equal(true);
    expect(answer.headers.get("content-type")).to.equal("application/x-thing");
  });

  it("survives garbage in place of HTTP", async () => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    const ended = once(socket, "close");
    socket.end("\x00\x01garbage\r\n\r\n");
    socket.resume();
    await ended;
    expect((await fetch(`${url}/v1/cell`)).status).to.equal(200);
  });

  /** Sends bytes on a connection of their own. @returns all that comes until it ends. */
  const sendRaw = async (text: string) => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    let answer = "";
    socket.setEncoding("latin1").on("data", (chunk) => {
      answer += chunk;
    });
    const ended = once(socket, "close");
    socket.write(text);
    await ended;
    const [head = "", body = ""] = answer.split("\r\n\r\n");
    return { status: Number(head.split(" ")[1]), head: head.toLowerCase(), body };
  };
  const host = "Host: 127.0.0.1\r\n";
  const putHead = `PUT /v1/components/c HTTP/1.1\r\n${host}Content-Type: application/json\r\n`;
  const unparsed: [what: string, request: string, status: number, code: string, detail: RegExp][] = [
    ["garbage", "garbage\r\n\r\n", 400, "malformed-request", /Parse Error/],
    [
      "a header that is too long",
      `GET /v1/cell HTTP/1.1\r\n${host}x: ${"y".repeat(20_000)}\r\n\r\n`,
      431,
      "header-too-large",
      /16384 bytes/,
    ],
    [
      "a path that is too long",
      `GET /${"y".repeat(20_000)} HTTP/1.1\r\n${host}\r\n`,
      431,
      "header-too-large",
      /16384 bytes/,
    ],
    ["a space in the path", `GET /v1/ce ll HTTP/1.1\r\n${host}\r\n`, 400, "malformed-request", /Parse Error/],
    [
      "a chunk without a size",
      `${putHead}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n`,
      400,
      "malformed-request",
      /Parse Error/,
    ],
    [
      "a length beside chunks",
      `${putHead}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
      "malformed-request",
      /Parse Error/,
    ],
    ["no host", "GET /v1/cell HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "malformed-request", /Host/],
    ["an expectation", `GET /v1/cell HTTP/1.1\r\n${host}Expect: x\r\n\r\n`, 417, "expectation-failed", /100-continue/],
    ["a wish for a tunnel", `CONNECT 127.0.0.1:80 HTTP/1.1\r\n${host}\r\n`, 405, "method-not-allowed", /no proxy/],
  ];
  for (const [what, request, status, code, detail] of unparsed)
    it(`refuses ${what} like everything else`, async () => {
      const answer = await sendRaw(request);
      expect(answer.status).to.equal(status);
      expect(answer.head).to.include("content-type: application/problem+json");
      const problem = JSON.parse(answer.body);
      expect([problem.status, problem.code]).to.deep.equal([status, code]);
      expect(problem.detail).to.match(detail);
    });

  it("ends an answer that is under way when garbage follows its request, and puts nothing into it", async () => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk) => {
      if (answer === "") socket.write("garbage\r\n\r\n");
      answer += chunk;
    });
    socket.write(`GET /v1/cell HTTP/1.1\r\n${host}Accept: text/event-stream\r\n\r\n`);
    await once(socket, "close");
    expect(answer.match(/HTTP\/1.1 .*/g)).to.deep.equal(["HTTP/1.1 200 OK"]);
  });

  it("takes an absolute target, and the host that it names", async () => {
    const close = "Connection: close\r\n\r\n";
    expect((await sendRaw(`GET http://127.0.0.1/v1/cell HTTP/1.1\r\n${host}${close}`)).status).to.equal(200);
    const other = await sendRaw(`GET http://evil.example/v1/cell HTTP/1.1\r\n${host}${close}`);
    expect([other.status, JSON.parse(other.body).code]).to.deep.equal([403, "forbidden"]);
  });

  it("says what its pages take, and gives the whole where a range is asked for", async () => {
    for (const path of ["/docs", "/openapi.json", "/docs/rapidoc.js"]) {
      const answer = await fetch(url + path, { method: "POST" });
      expect([answer.status, answer.headers.get("allow")], path).to.deep.equal([405, "GET, HEAD"]);
      expect(await answer.json()).to.include({ code: "method-not-allowed" });
    }
    const script = await fetch(`${url}/docs/rapidoc.js`, { headers: { range: "bytes=99999999999-" } });
    expect(script.status).to.equal(200);
    await script.arrayBuffer();
  });

  it("refuses a page's request that reached the loopback under another name", async () => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1");
    socket.write("GET /v1/cell HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    const [bytes] = (await once(socket, "data")) as [Buffer];
    expect(bytes.toString()).to.match(/^HTTP\/1.1 403/);
    socket.destroy();
  });

  describe("a waiting GET", () => {
    it("answers 304 at once for the etag that the client has", async () => {
      const { etag } = Object.fromEntries((await fetch(`${url}/v1/cell`)).headers) as { etag: string };
      expect((await fetch(`${url}/v1/cell`, { headers: { "if-none-match": etag } })).status).to.equal(304);
    });

    it("answers at once without an etag", async () => {
      expect((await fetch(`${url}/v1/cell?waitMs=60000`)).status).to.equal(200);
    });

    it("answers with the change, and leaves no listener", async () => {
      const { etag } = Object.fromEntries((await fetch(`${url}/v1/cell`)).headers) as { etag: string };
      const waiting = fetch(`${url}/v1/cell?waitMs=60000`, { headers: { "if-none-match": etag } });
      while (watched.listeners.size === 0) await new Promise(setImmediate);
      watched.set(2);
      const answer = await waiting;
      expect([answer.status, await answer.json()]).to.deep.equal([200, { value: 2 }]);
      expect(watched.listeners.size).to.equal(0);
    });

    it("answers 304 at the end of the wait", async () => {
      const { etag } = Object.fromEntries((await fetch(`${url}/v1/cell`)).headers) as { etag: string };
      expect((await fetch(`${url}/v1/cell?waitMs=20`, { headers: { "if-none-match": etag } })).status).to.equal(304);
      expect(watched.listeners.size).to.equal(0);
    });

    it("ends when its client has gone", async () => {
      const { etag } = Object.fromEntries((await fetch(`${url}/v1/cell`)).headers) as { etag: string };
      const abort = new AbortController();
      const waiting = fetch(`${url}/v1/cell?waitMs=60000`, {
        headers: { "if-none-match": etag },
        signal: abort.signal,
      });
      while (watched.listeners.size === 0) await new Promise(setImmediate);
      abort.abort();
      await waiting.catch(() => undefined);
      while (watched.listeners.size > 0) await new Promise(setImmediate);
    });
  });

  it("streams events until the client goes", async () => {
    const abort = new AbortController();
    const answer = await fetch(`${url}/v1/cell`, { headers: { accept: "text/event-stream" }, signal: abort.signal });
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    const { value } = await reader.read();
    expect(Buffer.from(value as Uint8Array).toString()).to.match(/^id: \d+\nevent: cell\ndata: \{"value":\d+\}\n\n$/);
    abort.abort();
    while (watched.listeners.size > 0) await new Promise(setImmediate);
  });

  it("lets go of what a stream holds that nobody reads", async () => {
    const head = await fetch(`${url}/v1/held`, { method: "HEAD", headers: { accept: "text/event-stream" } });
    expect(head.headers.get("content-type")).to.equal("text/event-stream");
    expect(watched.listeners.size).to.equal(0);
  });

  it("describes its routes as OpenAPI with no reference into the void", async () => {
    const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
      paths: Record<string, object>;
      components: { schemas: Record<string, object> };
    };
    expect(Object.keys(document.paths)).to.have.members([...new Set(routes.map(({ path }) => path))]);
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
      ([, name]) => name,
    );
    expect(references.length).to.be.greaterThan(10);
    expect(document.components.schemas).to.include.all.keys(references as string[]);
  });

  it("shows a page about itself that loads nothing from elsewhere", async () => {
    const page = await (await fetch(`${url}/docs`)).text();
    expect(page)
      .to.include("/openapi.json")
      .and.not.match(/https?:\/\//);
    expect(await (await fetch(`${url}/docs/rapidoc.js`)).text()).to.include("rapi-doc");
  });

  it("leads a browser from its root to that page, and says of the root to others that nothing is served there", async () => {
    const answerTo = (accept: string) => fetch(url, { headers: { accept }, redirect: "manual" });
    const browser = await answerTo("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
    expect([browser.status, browser.headers.get("location")]).to.deep.equal([302, "/docs"]);
    for (const accept of ["*/*", "application/json, */*;q=0.5"]) expect((await answerTo(accept)).status).to.equal(404);
  });

  it("says which setting frees a taken port", async () => {
    const port = Number(new URL(url).port);
    const second = new Bridge({
      host: "127.0.0.1",
      port,
      logger: pino({ level: "silent" }),
      metrics: new Metrics(),
    });
    const error = await second.start().then(
      () => undefined,
      (thrown: Error) => thrown,
    );
    expect(error?.message).to.include(`port ${port}`).and.include("MUSTER_HTTP_PORT");
  });

  describe("that is closed", () => {
    /** Longer than a test may take: what is to end at once must not wait for it. */
    const drainMs = 60_000;
    let closing: Bridge;
    let closingUrl = "";
    let asked = () => {};
    /** Resolves when the handler of `/v1/gate` runs. */
    let atTheGate: Promise<void>;
    let open = () => {};
    let opened: Promise<void>;
    const gate: Route = {
      method: "get",
      path: "/v1/gate",
      summary: "wait for what may come",
      answers: { 200: { description: "whether it came" } },
      handle: async ({ signal }) => {
        const ended = once(signal, "abort");
        asked();
        await Promise.race([opened, ended]);
        return { status: 200, body: { ended: signal.aborted } };
      },
    };

    beforeEach(async () => {
      atTheGate = new Promise((resolve) => {
        asked = resolve;
      });
      opened = new Promise((resolve) => {
        open = resolve;
      });
      closing = new Bridge({ host: "127.0.0.1", port: 0, logger: pino({ level: "silent" }), metrics: new Metrics() });
      closingUrl = (await closing.start()).url;
      closing.serve([...routes, gate]);
    });
    afterEach(() => closing.close(0));

    it("answers who waits for news as at the end of the wait", async () => {
      const { etag } = Object.fromEntries((await fetch(`${closingUrl}/v1/cell`)).headers) as { etag: string };
      const waiting = fetch(`${closingUrl}/v1/cell?waitMs=60000`, { headers: { "if-none-match": etag } });
      while (watched.listeners.size === 0) await new Promise(setImmediate);
      await closing.close(drainMs);
      expect((await waiting).status).to.equal(304);
      expect(watched.listeners.size).to.equal(0);
    });

    it("does not wait for the next request on a connection whose answer was under way", async () => {
      const waiting = fetch(`${closingUrl}/v1/gate`);
      await atTheGate;
      const closed = closing.close(drainMs);
      open();
      const answer = await waiting;
      expect(answer.headers.get("connection")).to.equal("close");
      expect(await answer.json()).to.deep.equal({ ended: false });
      await closed;
    });

    it("answers those who still wait when the time to drain is nearly over, before it cuts them off", async () => {
      const waiting = fetch(`${closingUrl}/v1/gate`);
      await atTheGate;
      await closing.close(2_000);
      expect(await (await waiting).json()).to.deep.equal({ ended: true });
    });
  });

  describe("with a token", () => {
    const guarded = new Bridge({
      host: "127.0.0.1",
      port: 0,
      operatorToken: "correct horse",
      logger: pino({ level: "silent" }),
      metrics: new Metrics(),
    });
    let guardedUrl = "";
    before(async () => {
      guardedUrl = (await guarded.start()).url;
      guarded.serve(routes);
    });
    after(() => guarded.close());

    it("answers its bearer", async () => {
      const answer = await fetch(`${guardedUrl}/v1/cell`, { headers: { authorization: "Bearer correct horse" } });
      expect(answer.status).to.equal(200);
    });

    it("refuses others with 401 and how to do better", async () => {
      for (const headers of [{}, { authorization: "Bearer wrong" }]) {
        const told = await problem(fetch(`${guardedUrl}/v1/cell`, { headers }));
        expect([told.status, told.code]).to.deep.equal([401, "unauthorized"]);
        expect(told.headers.get("www-authenticate")).to.match(/^Bearer/);
      }
    });
  });
});
