/** The command line against a bridge whose answers are in the test's hand, and as a process of its own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect } from "chai";
import { pino } from "pino";
import { Registry as Metrics } from "prom-client";
import { type ErrorCode, MusterError } from "../../config-db/errors.ts";
import type { Answer, RequestContext, Route, ServerSentEvent } from "../../coordinator/bridge/route.ts";
import { Bridge } from "../../coordinator/bridge/server.ts";
import { muster, startMuster } from "../support/cli.ts";
import { eventually } from "../support/eventually.ts";

const entry = resolve(import.meta.dirname, "../../clients/cli/muster.mjs");

type Handle = (request: RequestContext) => Answer | Promise<Answer>;

const unexpected: Handle = () => {
  throw new MusterError("internal", "no answer was set");
};

/** A bridge with these routes, each answering what the test last set. */
class FakeBridge {
  readonly answers: Record<string, Handle> = {};
  readonly asked: { route: string; request: RequestContext }[] = [];
  url = "";
  #bridge: Bridge | undefined;

  async start(port = 0): Promise<void> {
    const paths: [Route["method"], string][] = [
      ["get", "/readyz"],
      ["get", "/v1/components"],
      ["get", "/v1/components/{id}"],
      ["get", "/v1/components/{id}/config"],
      ["get", "/v1/config/layers/{layer}"],
      ["put", "/v1/config/layers/{layer}"],
      ["patch", "/v1/config/layers/{layer}"],
      ["post", "/v1/config/validate"],
      ["get", "/v1/config/status"],
      ["get", "/v1/config/layers/{layer}/content/{file}"],
      ["get", "/v1/commands/{id}"],
      ["post", "/v1/requests"],
      ["post", "/v1/dead-letters/redrive"],
    ];
    const text = { type: "string", maxLength: 1000 } as const;
    const names = ["cursor", "limit", "type", "state", "waitMs", "tag", "metadata.*"];
    const query = Object.fromEntries(names.map((name) => [name, { description: name, schema: text }]));
    const routes = paths.map(([method, path]): Route => {
      const route = `${method.toUpperCase()} ${path}`;
      const handle: Handle = (request) => {
        this.asked.push({ route, request });
        return (this.answers[route] ?? unexpected)(request);
      };
      const body = method === "get" ? {} : ({ body: "bytes" } as const);
      return { method, path, summary: route, query, streams: true, answers: {}, handle, ...body };
    });
    const logger = pino({ level: "silent" });
    this.#bridge = new Bridge({ host: "127.0.0.1", port, logger, metrics: new Metrics() });
    this.url = (await this.#bridge.start()).url;
    this.#bridge.serve(routes);
  }

  async close(): Promise<void> {
    await this.#bridge?.close(100);
  }

  fails(route: string, code: ErrorCode, message: string, options?: ConstructorParameters<typeof MusterError>[2]): void {
    this.answers[route] = () => {
      throw new MusterError(code, message, options);
    };
  }

  /** JSON bodies of what was sent to `route`. */
  sent(route: string): unknown[] {
    const requests = this.asked.filter((one) => one.route === route).map(({ request }) => request);
    return requests.map(({ body }) => JSON.parse((body as Buffer).toString("utf8")));
  }
}

const layer = (settings: unknown, version = 1) => ({
  layer: "type:collector",
  settings,
  version,
  changedAt: "2026-11-22T02:00:00Z",
  changedBy: "anna",
  site: "here",
  content: [],
});
const component = (id: string) => ({
  id,
  type: "collector",
  site: "here",
  state: "up",
  ttlMs: 30_000,
  incarnation: 1,
  registeredAt: "2026-11-22T02:00:00Z",
  changedAt: "2026-11-22T02:00:00Z",
});

/** A stream that gives one event and stays open. */
const streaming = (event: ServerSentEvent): Answer => ({
  stream: (give) => {
    give(event);
    return () => {};
  },
});

describe("the command line and a bridge", () => {
  let bridge: FakeBridge;
  const run = (line: string[], options: Parameters<typeof muster>[1] = {}) =>
    muster(line, { ...options, env: { MUSTER_URL: bridge.url, USER: "anna", ...options.env } });

  beforeEach(async () => {
    bridge = new FakeBridge();
    await bridge.start();
  });
  afterEach(() => bridge.close());

  it("ends with the exit code of the error, and says what to do", async () => {
    const expected: [ErrorCode, number][] = [
      ["refused", 1],
      ["invalid-request", 2],
      ["not-found", 3],
      ["store-unavailable", 4],
      ["conflict", 5],
      ["precondition-failed", 5],
      ["deadline-exceeded", 6],
      ["unauthorized", 7],
      ["internal", 1],
    ];
    for (const [code, exitCode] of expected) {
      bridge.fails("GET /v1/components/{id}", code, "the reason");
      const ended = await run(["components", "show", "c1"]);
      expect(ended.exitCode, code).to.equal(exitCode);
      expect(ended.stdout).to.equal("");
      expect(ended.stderr, code).to.match(new RegExp(`^error: .+ \\(${code}\\)\\n(It may .*\\n)?next: .+\\n$`));
    }
  });

  it("hands a problem over whole with -o json", async () => {
    const errors = [{ pointer: "/settings/a", rule: "minimum", message: "must be >= 1", value: 0, component: "c1" }];
    bridge.fails("GET /v1/components/{id}", "refused", "the reason", { errors });
    const { stderr, exitCode } = await run(["components", "show", "c1", "-o", "json"]);
    expect(exitCode).to.equal(1);
    expect(JSON.parse(stderr))
      .to.include({ code: "refused", status: 422, detail: "the reason" })
      .and.to.deep.include({ errors });
  });

  it("says when what answers is no Muster bridge", async () => {
    const other = createServer((_request, response) => response.writeHead(502).end("<html>nginx"));
    await once(other.listen(0, "127.0.0.1"), "listening");
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
    const { stderr, exitCode } = await muster(["components", "show", "c1", "--url", url]);
    other.close();
    expect(exitCode).to.equal(4);
    expect(stderr).to.contain("answered 502 Bad Gateway, and not as a Muster bridge does");
  });

  it("takes the next coordinator when the first cannot be connected to", async () => {
    bridge.answers["GET /v1/components/{id}"] = () => ({ status: 200, body: component("c1") });
    const gone = new FakeBridge();
    await gone.start();
    await gone.close();
    const { exitCode, stdout } = await run(["components", "show", "c1"], {
      env: { MUSTER_URL: `${gone.url},${bridge.url}` },
    });
    expect(exitCode).to.equal(0);
    expect(stdout).to.contain("c1");
  });

  it("ends with 6 when no answer comes in time", async () => {
    bridge.answers["GET /v1/components/{id}"] = () => new Promise(() => {});
    const { exitCode, stderr } = await run(["components", "show", "c1", "--timeout", "50ms"]);
    expect(exitCode).to.equal(6);
    expect(stderr).to.contain("gave no answer to GET /v1/components/c1 within 50 ms");
  });

  it("names a bad URL", async () => {
    const { exitCode, stderr } = await run(["status"], { env: { MUSTER_URL: "localhost:8080" } });
    expect(exitCode).to.equal(2);
    expect(stderr).to.contain('"localhost:8080" is no URL of a coordinator');
  });

  it("never shows the credentials of a URL", async () => {
    const { stderr } = await run(["status"], { env: { MUSTER_URL: "http://anna:hunter2@127.0.0.1:1" } });
    expect(stderr).to.contain("http://127.0.0.1:1").and.not.to.contain("hunter2");
  });

  it("sends the token, and the operator's name in ASCII", async () => {
    bridge.answers["GET /v1/components/{id}"] = () => ({ status: 200, body: component("c1") });
    await run(["components", "show", "c1", "--token", "s3cret", "--as", "Anna Müller"]);
    const request = bridge.asked[0]?.request;
    expect(request?.header("authorization")).to.equal("Bearer s3cret");
    expect(request?.author).to.equal("Anna Mller");
  });

  it("reads all pages of a list", async () => {
    bridge.answers["GET /v1/components"] = ({ query }) => ({
      status: 200,
      body:
        query.cursor === undefined
          ? { components: [component("c1")], cursor: "c1" }
          : { components: [component("c2")] },
    });
    const { stdout } = await run(["components", "ls", "-o", "json"]);
    expect(JSON.parse(stdout).components.map(({ id }: { id: string }) => id)).to.deep.equal(["c1", "c2"]);
  });

  it("sends dead letters again call by call, and says of all how many were refused and why", async () => {
    const [malformed, gone] = ["it is malformed", 'no component "c9" is registered'];
    const answers = [
      { redriven: 1_000, refused: 2, refusals: [{ code: "refused", detail: malformed, count: 2 }], cursor: "x.1" },
      {
        redriven: 3,
        refused: 5,
        refusals: [
          { code: "refused", detail: malformed, count: 1 },
          { code: "no-such-target", detail: gone, count: 4 },
        ],
      },
    ];
    bridge.answers["POST /v1/dead-letters/redrive"] = () => {
      const answer = answers.shift();
      return { status: 200, body: { ...answer, more: answer?.cursor !== undefined } };
    };
    const { stdout, exitCode } = await run(["dead-letters", "redrive", "--to", "c9"]);
    const match = { to: "c9" };
    expect(bridge.sent("POST /v1/dead-letters/redrive")).to.deep.equal([{ match }, { match, cursor: "x.1" }]);
    expect(exitCode).to.equal(1);
    expect(stdout).to.equal(
      `1003 messages sent again, 7 refused: see muster dead-letters ls\n  3: ${malformed}\n  4: ${gone}\n`,
    );
  });

  it("follows a stream through a restart of the coordinator, from the last event on", async () => {
    let send: (event: ServerSentEvent) => void = () => {};
    bridge.answers["GET /v1/components"] = () => ({
      stream: (give) => {
        send = give;
        give({ event: "reset", id: "r-1", data: { components: [component("c1")] } });
        return () => {};
      },
    });
    const watch = startMuster(["components", "watch", "-o", "json"], { env: { MUSTER_URL: bridge.url } });
    await eventually(() => expect(watch.stdout).to.contain('"r-1"'));
    send({ event: "expired", id: "r-2", data: { ...component("c1"), state: "expired" } });
    await eventually(() => expect(watch.stdout).to.contain('"r-2"'));

    const port = Number(new URL(bridge.url).port);
    await bridge.close();
    const again = new FakeBridge();
    let resumedFrom: string | undefined;
    again.answers["GET /v1/components"] = (request) => {
      resumedFrom = request.header("last-event-id");
      return streaming({ event: "up", id: "r-3", data: component("c1") });
    };
    await again.start(port);
    await eventually(() => expect(watch.stdout).to.contain('"r-3"'));
    expect(resumedFrom).to.equal("r-2");
    expect(
      watch.stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).event),
    ).to.deep.equal(["reset", "expired", "up"]);

    watch.interrupt();
    expect(await watch.ended).to.equal(130);
    await again.close();
  });

  it("shows the status again whenever it is another, and waits for a coordinator that is away", async () => {
    let broker = "ok";
    const ready = () => ({ status: broker === "ok" ? 200 : 503, body: { ready: broker === "ok", broker } });
    bridge.answers["GET /readyz"] = ready;
    bridge.answers["GET /v1/components"] = () => ({ status: 200, body: { components: [component("c1")] } });
    const watch = startMuster(["status", "--watch"], { env: { MUSTER_URL: bridge.url } });
    await eventually(() => expect(watch.stdout).to.match(/broker ok.*1 up/s));
    broker = "not connected";
    await eventually(() => expect(watch.stdout).to.match(/not ready.*broker not connected/s));
    const port = Number(new URL(bridge.url).port);
    await bridge.close();
    await eventually(() => expect(watch.stderr).to.match(/asking again/));
    const again = new FakeBridge();
    broker = "ok";
    again.answers["GET /readyz"] = ready;
    await again.start(port);
    await eventually(() => expect(watch.stdout.match(/broker ok/g)).to.have.length(2));
    watch.interrupt();
    expect(await watch.ended).to.equal(130);
    await again.close();
  });

  it("shows events as lines", async () => {
    bridge.answers["GET /v1/components"] = () => ({
      stream: (give) => {
        give({ event: "reset", id: "1", data: { components: [] } });
        give({ event: "expired", id: "2", data: { ...component("c1"), state: "expired" } });
        return () => {};
      },
    });
    const watch = startMuster(["components", "watch"], { env: { MUSTER_URL: bridge.url } });
    await eventually(() =>
      expect(watch.stdout).to.equal("no components\n2026-11-22 02:00:00Z  expired     c1  collector at here\n"),
    );
    watch.interrupt();
    expect(await watch.ended).to.equal(130);
    expect(watch.stderr).to.equal("");
  });

  it("says so when a stream is refused, without trying again", async () => {
    bridge.fails("GET /v1/components", "too-many", "1000 streams are open");
    const { exitCode, stderr } = await run(["components", "watch"]);
    expect(exitCode).to.equal(1);
    expect(stderr).to.contain("1000 streams are open");
    expect(bridge.asked).to.have.length(1);
  });

  describe("config set", () => {
    beforeEach(() => {
      bridge.answers["GET /v1/config/layers/{layer}"] = () => ({
        status: 200,
        headers: { etag: '"3-abc"' },
        body: layer({ samplingIntervalMs: 1000, hosts: ["a"] }, 3),
      });
      bridge.answers["PATCH /v1/config/layers/{layer}"] = () => ({
        status: 200,
        body: layer({ samplingIntervalMs: 500, hosts: ["a"] }, 4),
      });
      bridge.answers["PUT /v1/config/layers/{layer}"] = () => ({
        status: 200,
        body: layer({ samplingIntervalMs: 500 }, 4),
      });
    });

    it("sends pairs as a merge patch and shows what changed", async () => {
      const { stdout } = await run([
        "config",
        "set",
        "type:collector",
        "samplingIntervalMs=500",
        "retry.maxMs=null",
        "-m",
        "why",
      ]);
      expect(bridge.sent("PATCH /v1/config/layers/{layer}")).to.deep.equal([
        { settings: { samplingIntervalMs: 500, retry: { maxMs: null } }, note: "why" },
      ]);
      expect(stdout).to.equal("type:collector is at version 4\n  ~ /samplingIntervalMs = 1000 → 500\n");
    });

    it("replaces all by a file, or by what is piped in", async () => {
      await run(["config", "set", "type:collector", "-f", "-", "--if-match", "3-abc"], {
        stdin: '{"samplingIntervalMs": 500}',
      });
      expect(bridge.sent("PUT /v1/config/layers/{layer}")).to.deep.equal([{ settings: { samplingIntervalMs: 500 } }]);
      expect(bridge.asked.at(-1)?.request.header("if-match")).to.equal('"3-abc"');
    });

    it("merges a file with --merge", async () => {
      await run(["config", "set", "type:collector", "-f", "-", "--merge"], { stdin: '{"samplingIntervalMs": 500}' });
      expect(bridge.sent("PATCH /v1/config/layers/{layer}")).to.deep.equal([{ settings: { samplingIntervalMs: 500 } }]);
    });

    it("refuses what a merge patch would spoil, and unclear input, before it sends anything", async () => {
      const wrong: [string[], string, RegExp][] = [
        [["hosts.0=b"], "", /inside the array hosts.*hosts='\[…\]'/],
        [[], "", /no settings are given/],
        [["a=1", "-f", "-"], "{}", /given twice/],
        [["-f", "-"], "[1]", /must hold a JSON object, it holds an array/],
        [["-f", "-"], "{", /- is not JSON/],
        [["-f", "/nowhere.json"], "", /cannot read \/nowhere.json/],
      ];
      for (const [words, stdin, message] of wrong) {
        const { exitCode, stderr } = await run(["config", "set", "type:collector", ...words], { stdin });
        expect(exitCode, words.join(" ")).to.equal(2);
        expect(stderr).to.match(message);
      }
      expect(bridge.asked.filter(({ route }) => !route.startsWith("GET"))).to.deep.equal([]);
    });

    it("shows a refusal with its places", async () => {
      const errors = [
        { pointer: "/samplingIntervalMs", rule: "minimum", message: "must be >= 100", value: 5, component: "c1" },
      ];
      bridge.fails("PATCH /v1/config/layers/{layer}", "refused", "c1 would get invalid settings", { errors });
      const { exitCode, stderr } = await run(["config", "set", "type:collector", "samplingIntervalMs=5"]);
      expect(exitCode).to.equal(1);
      expect(stderr)
        .to.contain("  /samplingIntervalMs must be >= 100, got 5 (c1)\n")
        .and.to.contain("Nothing was written");
    });
  });

  describe("config edit", () => {
    let directory: string;
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), "muster-cli-edit-"));
      bridge.answers["GET /v1/config/layers/{layer}"] = () => ({
        status: 200,
        headers: { etag: '"3-abc"' },
        body: layer({ a: 1 }, 3),
      });
      bridge.answers["PUT /v1/config/layers/{layer}"] = () => ({ status: 200, body: layer({ a: 2 }, 4) });
      bridge.answers["POST /v1/config/validate"] = () => ({ status: 200, body: { valid: true, components: [] } });
    });
    afterEach(() => rm(directory, { recursive: true }));
    // TMPDIR is the process's: os.tmpdir() reads it, and the run is in this process.
    const edit = async (command: string, words: string[] = ["--yes"]) => {
      const before = process.env.TMPDIR;
      process.env.TMPDIR = directory;
      try {
        return await run(["config", "edit", "type:collector", ...words], {
          env: { EDITOR: command, PATH: process.env.PATH },
        });
      } finally {
        if (before === undefined) delete process.env.TMPDIR;
        else process.env.TMPDIR = before;
      }
    };

    it("writes what was saved, if the layer is still as it was read, and leaves no file", async () => {
      const { exitCode, stdout } = await edit("sed -i s/1/2/");
      expect(exitCode).to.equal(0);
      expect(bridge.sent("PUT /v1/config/layers/{layer}")).to.deep.equal([{ settings: { a: 2 } }]);
      expect(bridge.asked.at(-1)?.request.header("if-match")).to.equal('"3-abc"');
      expect(stdout).to.contain("~ /a = 1 → 2").and.to.contain("is at version 4");
      expect(await readdir(directory)).to.deep.equal([]);
    });

    it("writes nothing when nothing was changed", async () => {
      const { exitCode, stderr } = await edit("true");
      expect(exitCode).to.equal(0);
      expect(stderr).to.contain("Nothing was changed");
      expect(bridge.sent("PUT /v1/config/layers/{layer}")).to.deep.equal([]);
    });

    it("keeps what was typed when it is not written", async () => {
      bridge.fails("PUT /v1/config/layers/{layer}", "precondition-failed", "revision 4-x stands");
      const { exitCode, stderr } = await edit("sed -i s/1/2/");
      expect(exitCode).to.equal(5);
      const kept = /Your text is kept in (\S+)/.exec(stderr)?.[1] ?? "";
      expect(JSON.parse(await readFile(kept, "utf8"))).to.deep.equal({ a: 2 });
    });

    it("shows what would be refused and does not write it", async () => {
      const errors = [{ pointer: "/a", message: "must be <= 1", value: 2 }];
      bridge.answers["POST /v1/config/validate"] = () => ({
        status: 200,
        body: { valid: false, components: [{ id: "c1", diff: [], errors }] },
      });
      const { exitCode, stdout } = await edit("sed -i s/1/2/");
      expect(exitCode).to.equal(1);
      expect(stdout).to.contain("/a must be <= 1, got 2 (c1)");
      expect(bridge.sent("PUT /v1/config/layers/{layer}")).to.deep.equal([]);
    });

    it("says when the editor fails, and when nobody is there to ask", async () => {
      const failed = await edit("false");
      expect(failed.exitCode).to.equal(2);
      expect(failed.stderr).to.contain('the editor "false" failed (1)');
      const nobody = await edit("true", []);
      expect(nobody.exitCode).to.equal(2);
      expect(nobody.stderr).to.contain("give --yes");
    });
  });

  it("hands content over byte for byte, JSON too", async () => {
    const bytes = Buffer.from('{"a":   1}\n');
    bridge.answers["GET /v1/config/layers/{layer}/content/{file}"] = () => ({
      status: 200,
      headers: { "content-type": "application/json" },
      body: bytes,
    });
    const { stdout } = await run(["config", "content", "get", "type:collector", "rules.json"]);
    expect(stdout).to.equal(bytes.toString());
  });

  it("waits until everybody has applied, and tells who rejected", async () => {
    const states = [
      {
        total: 2,
        applied: 1,
        rejected: 0,
        pending: 1,
        components: [
          { id: "c1", wanted: "e", status: "applied" },
          { id: "c2", wanted: "e", status: "pending" },
        ],
      },
      {
        total: 2,
        applied: 1,
        rejected: 1,
        pending: 0,
        components: [
          { id: "c1", wanted: "e", status: "applied" },
          { id: "c2", wanted: "e", status: "rejected", reason: "no room" },
        ],
      },
    ];
    bridge.answers["GET /v1/config/status"] = (request) => {
      const index = request.header("if-none-match") === undefined ? 0 : 1;
      return { status: 200, headers: { etag: `"${index}"` }, body: states[index] };
    };
    const { exitCode, stdout, stderr } = await run(["config", "status", "--wait"]);
    expect(exitCode).to.equal(1);
    expect(stdout).to.equal("1 of 2 components applied, 1 pending\n1 of 2 components applied, 1 rejected\n");
    expect(stderr).to.contain("c2 rejected: no room");
  });

  it("stops waiting at --timeout, with 6", async () => {
    const body = {
      total: 1,
      applied: 0,
      rejected: 0,
      pending: 1,
      components: [{ id: "c1", wanted: "e", status: "pending" }],
    };
    bridge.answers["GET /v1/config/status"] = async (request) => {
      const { query, signal } = request;
      if (request.header("if-none-match") === undefined) return { status: 200, headers: { etag: '"1"' }, body };
      await new Promise((done) => {
        const timer = setTimeout(done, Number(query.waitMs));
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          done(undefined);
        });
      });
      return { status: 304, headers: { etag: '"1"' } };
    };
    const { exitCode, stderr } = await run(["config", "status", "--wait", "--timeout", "100ms"]);
    expect(exitCode).to.equal(6);
    expect(stderr).to.contain("still pending: c1");
  });

  it("ends with the fate of a command's targets", async () => {
    const targets = {
      c1: { state: "done", at: "2026-11-22T02:00:00Z" },
      c2: { state: "failed", at: "2026-11-22T02:00:00Z", reason: "stuck" },
    };
    bridge.answers["GET /v1/commands/{id}"] = () => ({
      status: 200,
      headers: { etag: '"1"' },
      body: { id: "m1", to: { type: "collector" }, name: "recalibrate", sentAt: "2026-11-22T02:00:00Z", targets },
    });
    const { exitCode, stdout } = await run(["commands", "show", "m1", "--wait"]);
    expect(exitCode).to.equal(1);
    expect(stdout).to.match(/c2 +failed .* stuck/);
  });

  it("ends a request to many with 6 when some did not reply, and lists them", async () => {
    bridge.answers["POST /v1/requests"] = () => ({
      status: 200,
      body: { replies: [{ from: "c1", body: 21.5 }], missing: ["c2"] },
    });
    const { exitCode, stdout } = await run(["request", "type:collector", "reading", "sensor=t1"]);
    expect(exitCode).to.equal(6);
    expect(stdout).to.equal("FROM  REPLY\nc1    21.5\nc2    no reply\n");
    expect(bridge.sent("POST /v1/requests")).to.deep.equal([
      { to: { type: "collector" }, name: "reading", body: { sensor: "t1" }, timeoutMs: 30_000 },
    ]);
  });

  it("sends the bytes of a file as they are, and no JSON that is not UTF-8", async () => {
    bridge.answers["POST /v1/requests"] = () => ({ status: 200, body: { from: "c1" } });
    bridge.asked.length = 0;
    const bytes = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x00, 0xff, 0xfe]);
    const request = ["request", "c1", "show", "-f", "-"];
    await run([...request, "--content-type", "image/png"], { stdin: bytes });
    const [sent] = bridge.sent("POST /v1/requests");
    expect(sent).to.deep.include({ contentType: "image/png", bodyBase64: bytes.toString("base64") });
    const { exitCode, stderr } = await run(request, { stdin: Buffer.from([0x22, 0xff, 0x22]) });
    expect(exitCode).to.equal(2);
    expect(stderr).to.contain("- is not text in UTF-8");
    expect(bridge.sent("POST /v1/requests")).to.have.length(1);
  });
});

describe("the process of the command line", function () {
  this.timeout(20_000);
  let bridge: FakeBridge;
  let directory: string;
  before(async () => {
    bridge = new FakeBridge();
    await bridge.start();
    const many = Array.from({ length: 2_000 }, (_none, index) => component(`c${index}`));
    bridge.answers["GET /v1/components"] = (request) =>
      (request.header("accept") ?? "").includes("event-stream")
        ? streaming({ event: "reset", id: "1", data: { components: [component("c1")] } })
        : { status: 200, body: { components: many } };
    directory = await mkdtemp(join(tmpdir(), "muster-cli-"));
  });
  after(async () => {
    await bridge.close();
    await rm(directory, { recursive: true });
  });

  async function shell(script: string) {
    const env = { ...process.env, MUSTER_URL: bridge.url, NO_COLOR: undefined, FORCE_COLOR: undefined };
    const child = spawn("bash", ["-o", "pipefail", "-c", script], {
      cwd: directory,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const output = { stdout: "", stderr: "" };
    child.stdout.on("data", (bytes) => (output.stdout += bytes));
    child.stderr.on("data", (bytes) => (output.stderr += bytes));
    const [code] = await once(child, "close");
    return { code, ...output };
  }

  it("works from any directory, whatever tsconfig stands there", async () => {
    await writeFile(
      join(directory, "tsconfig.json"),
      '{"compilerOptions": {"paths": {"*": ["./nowhere/*"]}}, "extends": "./missing.json"}',
    );
    const { code, stdout, stderr } = await shell(`${entry} components ls -o json | tail -1`);
    expect(stderr).to.equal("");
    expect({ code, stdout }).to.deep.equal({ code: 0, stdout: "}\n" });
  });

  it("ends quietly when its reader has seen enough", async () => {
    const { code, stdout, stderr } = await shell(`${entry} components ls -o json | head -1`);
    expect({ code, stdout, stderr }).to.deep.equal({ code: 0, stdout: "{\n", stderr: "" });
  });

  it("ends with 130 and without a word at Ctrl-C", async () => {
    const { code, stderr } = await shell(`
      ${entry} components watch > watched & pid=$!
      until [ -s watched ]; do sleep 0.05; done
      kill -INT $pid; wait $pid`);
    expect({ code, stderr }).to.deep.equal({ code: 130, stderr: "" });
  });

  it("has no colours in a pipe, and has them in a terminal", async () => {
    const piped = await shell(`${entry} components ls --limit 3`);
    expect(piped.stdout).to.not.contain("\u001b");
    // Node sees no colours in a terminal of continuous integration, whatever it can show.
    const terminal = await shell(
      `env -u CI TERM=xterm-256color script -qec '${entry} components ls --limit 3' /dev/null`,
    );
    expect(terminal.stdout).to.contain("\u001b[1m");
    const plain = await shell(
      `env -u CI NO_COLOR=1 TERM=xterm-256color script -qec '${entry} components ls --limit 3' /dev/null`,
    );
    expect(plain.stdout).to.not.contain("\u001b[1m");
  });
});
