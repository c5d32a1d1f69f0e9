import { expect } from "chai";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { type CallAnswer, type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

interface Told {
  event: string;
  id: string;
  data: { id?: string; state?: string; components?: { id: string }[] };
}

let names = 0;
function fresh(what: string): string {
  names += 1;
  return `${what}-${names}`;
}

describe("components over HTTP", () => {
  let coordinator: RunningCoordinator;
  const streams: AbortController[] = [];

  before(async function () {
    this.timeout(60_000);
    coordinator = await startCoordinator();
  });
  afterEach(() => {
    for (const stream of streams.splice(0)) stream.abort();
  });
  after(async () => await coordinator?.close());

  const call = (method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<CallAnswer> =>
    coordinator.call(method, path, body, headers);
  const register = (id: string, fields: Record<string, unknown> = {}) =>
    call("PUT", `/v1/components/${id}`, { type: "collector", instance: "p1", ...fields });
  const ids = (answer: CallAnswer): string[] => answer.body.components.map(({ id }: { id: string }) => id);

  /** Reads a stream into `told` until the test ends. */
  async function listen(path: string, lastEventId?: string): Promise<Told[]> {
    const abort = new AbortController();
    streams.push(abort);
    const headers = {
      accept: "text/event-stream",
      ...(lastEventId === undefined ? {} : { "last-event-id": lastEventId }),
    };
    const answer = await fetch(coordinator.url + path, { headers, signal: abort.signal });
    expect(answer.status).to.equal(200);
    const told: Told[] = [];
    const events = (answer.body as ReadableStream<Uint8Array<ArrayBuffer>>)
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(new EventSourceParserStream());
    void (async () => {
      for await (const { event = "", id = "", data } of events) told.push({ event, id, data: JSON.parse(data) });
    })().catch(() => undefined);
    return told;
  }

  it("tell a new component all that it needs", async () => {
    const id = fresh("c");
    const { status, body } = await register(id, { ttlMs: 15_000 });
    expect(status).to.equal(201);
    expect(body).to.deep.include({
      id,
      type: "collector",
      site: "local",
      state: "up",
      incarnation: 1,
      lease: { ttlMs: 15_000, expiresInMs: 15_000, renewEveryMs: 5_000 },
    });
    expect(body.config.url).to.equal(`${coordinator.url}/v1/components/${id}/config`);
    expect(body.config.etag).to.be.a("string");
    expect(body.config.document).to.match(new RegExp(`/muster-config/layer%3Acomponent%3A${id}$`));
    expect(body.messaging.inbox).to.match(new RegExp(`/v1/components/${id}/inbox$`));
  });

  it("answer the same registration with 200 and the same incarnation", async () => {
    const id = fresh("c");
    await register(id);
    const { status, body } = await register(id);
    expect([status, body.incarnation]).to.deep.equal([200, 1]);
  });

  it("renew with or without a body, and tell a superseded process with 409", async () => {
    const id = fresh("c");
    await register(id, { ttlMs: 9_000 });
    expect((await call("PUT", `/v1/components/${id}/lease`)).body).to.deep.equal({ expiresInMs: 9_000 });
    await register(id, { ttlMs: 9_000, instance: "p2" });
    const answer = await call("PUT", `/v1/components/${id}/lease`, { incarnation: 1 });
    expect([answer.status, answer.body.code]).to.deep.equal([409, "superseded"]);
    const unknown = await call("PUT", `/v1/components/${fresh("none")}/lease`, {});
    expect([unknown.status, unknown.body.code]).to.deep.equal([404, "not-registered"]);
  });

  it("deregister with 204, again too, and 404 for what never was", async () => {
    const id = fresh("c");
    await register(id);
    expect((await call("DELETE", `/v1/components/${id}`)).status).to.equal(204);
    expect((await call("DELETE", `/v1/components/${id}`)).status).to.equal(204);
    expect((await call("GET", `/v1/components/${id}`)).body.state).to.equal("gone");
    expect((await call("DELETE", `/v1/components/${id}?purge=true`)).status).to.equal(204);
    expect((await call("GET", `/v1/components/${id}`)).status).to.equal(404);
    expect((await call("DELETE", `/v1/components/${fresh("none")}`)).status).to.equal(404);
  });

  for (const [what, body] of Object.entries({
    "a TTL under a second": { type: "t", ttlMs: 999 },
    "a TTL over an hour": { type: "t", ttlMs: 3_600_001 },
    "no type": {},
    "a type that is no id": { type: "Has Spaces" },
    "an unknown field": { type: "t", colour: "red" },
    "an endpoint that is no URL": { type: "t", endpoints: { http: "not a url" } },
    "tags that are no list": { type: "t", tags: "a" },
    "a webhook without a secret": { type: "t", webhook: { url: "http://127.0.0.1/" } },
  })) {
    it(`refuse a registration with ${what}`, async () => {
      const { status, body: problem } = await call("PUT", `/v1/components/${fresh("c")}`, body);
      expect([status, problem.code]).to.deep.equal([400, "invalid-request"]);
      expect(problem.errors).to.not.be.empty;
    });
  }

  for (const [what, body, told] of [
    [
      "__proto__ in its metadata",
      '{"type":"t","metadata":{"a":[{"__proto__":1}]}}',
      /^\/metadata\/a\/0\/__proto__ is no name/,
    ],
    ["__proto__ among its endpoints", '{"type":"t","endpoints":{"__proto__":"http://a/"}}', /^\/endpoints\/__proto__/],
    ["a number beyond a double", '{"type":"t","metadata":{"a":1e400}}', /^\/metadata\/a is a number beyond/],
    ["metadata nested too deep", `{"type":"t","metadata":{"a":${"[".repeat(63)}${"]".repeat(63)}}}`, /deeper than 64/],
  ] as const) {
    it(`refuse a registration with ${what}`, async () => {
      const { status, body: problem } = await call("PUT", `/v1/components/${fresh("c")}`, body);
      expect([status, problem.code]).to.deep.equal([400, "invalid-request"]);
      expect(problem.detail).to.match(told);
    });
  }

  it("refuse a webhook's secret that is too short, and do not tell it back", async () => {
    const webhook = { url: "http://127.0.0.1/", secret: "hunter2" };
    const { status, body: problem } = await call("PUT", `/v1/components/${fresh("c")}`, { type: "t", webhook });
    expect(status).to.equal(400);
    expect(problem.detail).to.match(/^\/webhook\/secret must NOT have fewer than 16 characters$/);
    expect(JSON.stringify(problem)).to.not.contain("hunter2");
  });

  it("refuse ids that no component can have, and query parameters that nobody knows", async () => {
    expect((await register("Upper")).status).to.equal(400);
    expect((await register("a".repeat(64))).status).to.equal(400);
    for (const query of ["colour=red", "state=dead", "limit=0", "limit=1001", "health=well", "type=No%20Id"]) {
      expect((await call("GET", `/v1/components?${query}`)).status, query).to.equal(400);
    }
  });

  it("are found by type, sub-system, tags, metadata, health and state", async () => {
    const type = fresh("type");
    const [a, b, c] = [fresh("c"), fresh("c"), fresh("c")];
    await register(a, { type, subsystem: "edge", tags: ["x", "y"], metadata: { zone: "north", slots: 2 } });
    await register(b, { type, subsystem: "edge", tags: ["x"], metadata: { zone: "south" } });
    await register(c, { type });
    await call("DELETE", `/v1/components/${c}`);
    await call("PUT", `/v1/components/${b}/lease`, { health: { status: "failing", reason: "disk" } });
    await eventually(async () =>
      expect(ids(await call("GET", `/v1/components?type=${type}&health=passing`))).to.deep.equal([a]),
    );
    const found = async (query: string) => ids(await call("GET", `/v1/components?type=${type}${query}`));
    expect(await found("")).to.deep.equal([a, b]);
    expect(await found("&state=any")).to.deep.equal([a, b, c]);
    expect(await found("&state=gone")).to.deep.equal([c]);
    expect(await found("&subsystem=edge&tag=x")).to.deep.equal([a, b]);
    expect(await found("&tag=x,y")).to.deep.equal([a]);
    expect(await found("&metadata.zone=south")).to.deep.equal([b]);
    expect(await found("&metadata.slots=2&metadata.zone=north")).to.deep.equal([a]);
    expect(await found("&health=failing")).to.deep.equal([b]);
    expect(await found("&site=elsewhere")).to.deep.equal([]);
  });

  it("are listed page by page", async () => {
    const type = fresh("type");
    const all = await Promise.all([1, 2, 3, 4, 5].map(async () => (await register(fresh("c"), { type })).body.id));
    const shown: string[] = [];
    let cursor = "";
    do {
      const answer = await call("GET", `/v1/components?type=${type}&limit=2${cursor && `&cursor=${cursor}`}`);
      expect(answer.body.components.length).to.be.within(1, 2);
      shown.push(...ids(answer));
      cursor = answer.body.cursor ?? "";
    } while (cursor !== "");
    expect(shown).to.deep.equal(all.sort());
  });

  it("answer 304 to who has seen them, and wake who waits when something changes", async () => {
    const type = fresh("type");
    await register(fresh("c"), { type });
    const path = `/v1/components?type=${type}`;
    const etag = (await call("GET", path)).headers.get("etag") as string;
    expect((await call("GET", path, undefined, { "if-none-match": etag })).status).to.equal(304);
    const waiting = call("GET", `${path}&waitMs=20000`, undefined, { "if-none-match": etag });
    await register(fresh("other"), { type: fresh("type") });
    const late = fresh("c");
    await register(late, { type });
    const answer = await waiting;
    expect(answer.status).to.equal(200);
    expect(ids(answer)).to.include(late);
  });

  it("wake who waits for one of them", async () => {
    const id = fresh("c");
    await register(id);
    const etag = (await call("GET", `/v1/components/${id}`)).headers.get("etag") as string;
    const waiting = call("GET", `/v1/components/${id}?waitMs=20000`, undefined, { "if-none-match": etag });
    await call("DELETE", `/v1/components/${id}`);
    expect((await waiting).body).to.include({ id, state: "gone" });
  });

  it("end a wait with 404 when the one that is waited for is removed", async () => {
    const id = fresh("c");
    await register(id);
    const etag = (await call("GET", `/v1/components/${id}`)).headers.get("etag") as string;
    const waiting = call("GET", `/v1/components/${id}?waitMs=20000`, undefined, { "if-none-match": etag });
    await call("DELETE", `/v1/components/${id}?purge=true`);
    expect((await waiting).status).to.equal(404);
  });

  it("stream what stands, then every change in order", async () => {
    const type = fresh("type");
    const [a, b] = [fresh("c"), fresh("c")];
    await register(a, { type });
    const told = await listen(`/v1/components?type=${type}`);
    await register(b, { type, ttlMs: 1_000 });
    await register(a, { type, tags: ["new"] });
    await call("DELETE", `/v1/components/${a}`);
    await call("DELETE", `/v1/components/${a}?purge=true`);
    await eventually(() => expect(told.at(-1)).to.deep.include({ event: "expired" }));
    expect(told.map(({ event, data }) => [event, data.id])).to.deep.equal([
      ["reset", undefined],
      ["up", b],
      ["changed", a],
      ["gone", a],
      ["expired", b],
    ]);
    expect(told[0]?.data.components?.map(({ id }) => id)).to.deep.equal([a]);
  }).timeout(15_000);

  it("stream on from where a reader was, and start anew for one that nobody remembers", async () => {
    const type = fresh("type");
    const first = await listen(`/v1/components?type=${type}`);
    await eventually(() => expect(first).to.have.length(1));
    const [a, b] = [fresh("c"), fresh("c")];
    await register(a, { type });
    await register(b, { type });
    await eventually(() => expect(first).to.have.length(3));
    const resumed = await listen(`/v1/components?type=${type}`, first[1]?.id);
    await eventually(() => expect(resumed.map(({ event, data }) => [event, data.id])).to.deep.equal([["up", b]]));
    const forgotten = await listen(`/v1/components?type=${type}`, "another-run-7");
    await eventually(() => expect(forgotten[0]?.data.components?.map(({ id }) => id)).to.deep.equal([a, b]));
  });

  it("stream one of them", async () => {
    const id = fresh("c");
    await register(id);
    const told = await listen(`/v1/components/${id}`);
    await register(fresh("c"));
    await call("DELETE", `/v1/components/${id}?purge=true`);
    await eventually(() => expect(told.map(({ event }) => event)).to.deep.equal(["reset", "removed"]));
  });
});
