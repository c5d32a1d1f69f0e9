import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { openStream } from "../support/open-stream.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("the status of configuration", () => {
  let embedded: Embedded;
  let here: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({ storeUrl: embedded.url });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const status = (type: string, query = "", headers?: Record<string, string>) =>
    here.call("GET", `/v1/config/status?type=${type}${query}`, undefined, headers);
  const put = (layer: string, settings: unknown) => here.call("PUT", `/v1/config/layers/${layer}`, { settings });
  const wanted = async (id: string) =>
    ((await here.call("GET", `/v1/components/${id}/config`)).headers.get("etag") ?? "").slice(1, -1);
  const report = (id: string, body: unknown) => here.call("PUT", `/v1/components/${id}/config/status`, body);

  it("counts who applied, who rejected and why, and who has not said", async () => {
    const type = fresh("type");
    const ids = [fresh("a"), fresh("b"), fresh("c")] as const;
    for (const id of ids) await here.register(id, { type });
    await put(`type:${type}`, { n: 1 });
    const etag = await wanted(ids[0]);
    await report(ids[0], { etag, status: "applied" });
    await report(ids[1], { etag, status: "rejected", reason: "n is odd" });
    await eventually(async () => {
      const { body } = await status(type);
      expect([body.total, body.applied, body.rejected, body.pending]).to.deep.equal([3, 1, 1, 1]);
      expect(body.components.find((one: { id: string }) => one.id === ids[1])).to.deep.include({
        etag,
        wanted: etag,
        status: "rejected",
        reason: "n is odd",
      });
      expect(body.components.find((one: { id: string }) => one.id === ids[2])).to.deep.equal({
        id: ids[2],
        wanted: etag,
        status: "pending",
      });
    });
    await put(`type:${type}`, { n: 2 });
    expect((await status(type)).body).to.deep.include({ applied: 0, rejected: 0, pending: 3 });
  });

  it("takes the etag as the header has it, too", async () => {
    const [type, id] = [fresh("type"), fresh("c")];
    await here.register(id, { type });
    for (const [n, prefix] of ["", "W/"].entries()) {
      await put(`type:${type}`, { n });
      const etag = `${prefix}"${await wanted(id)}"`;
      expect((await report(id, { etag, status: "applied" })).status).to.equal(204);
      await eventually(async () => expect((await status(type)).body.applied).to.equal(1));
    }
  });

  it("waits for a change", async () => {
    const [type, id] = [fresh("type"), fresh("c")];
    await here.register(id, { type });
    const first = await status(type);
    expect(first.body).to.deep.include({ total: 1, pending: 1 });
    const waiting = status(type, "&waitMs=20000", { "if-none-match": first.headers.get("etag") ?? "" });
    await report(id, { etag: await wanted(id), status: "applied" });
    expect((await waiting).body).to.deep.include({ applied: 1, pending: 0 });
  });

  it("streams", async () => {
    const [type, id] = [fresh("type"), fresh("c")];
    await here.register(id, { type });
    const abort = new AbortController();
    const answer = await fetch(`${here.url}/v1/config/status?type=${type}`, {
      headers: { accept: "text/event-stream" },
      signal: abort.signal,
    });
    const reader = answer.body?.getReader();
    let text = "";
    const until = async (pattern: RegExp) => {
      while (!pattern.test(text)) text += Buffer.from((await reader?.read())?.value ?? []).toString();
    };
    await until(/event: status\ndata: .*"pending":1/);
    await report(id, { etag: await wanted(id), status: "applied" });
    await until(/event: status\ndata: .*"applied":1/);
    abort.abort();
  });

  it("streams to a reader that comes back only what it has not had", async () => {
    const [type, id] = [fresh("type"), fresh("c")];
    await here.register(id, { type });
    const had = ((await status(type)).headers.get("etag") ?? "").slice(1, -1);
    const stream = await openStream(`${here.url}/v1/config/status?type=${type}`, { "last-event-id": had });
    await report(id, { etag: await wanted(id), status: "applied" });
    await eventually(() => expect(stream.data()).to.not.deep.equal([]));
    expect(stream.data().map(({ applied }) => applied)).to.deep.equal([1]);
    await stream.close();
  });

  it("is a metric", async () => {
    await here.register(fresh("m"), { type: fresh("type") });
    expect(await here.metrics.metrics()).to.match(/muster_config_components\{status="pending"\} [1-9]/);
  });

  it("refuses a report of a component that is not registered, and one that says nothing", async () => {
    const unknown = await report(fresh("nobody"), { etag: "x", status: "applied" });
    expect([unknown.status, unknown.body.code]).to.deep.equal([404, "not-registered"]);
    const id = fresh("c");
    await here.register(id);
    for (const body of [{ etag: "x" }, { etag: "x", status: "ok" }, { status: "applied" }]) {
      expect((await report(id, body)).status).to.equal(400);
    }
  });
});

describe("a coordinator that begins to lead", () => {
  let embedded: Embedded;
  let here: ConfigSite;
  const told: [string, string][][] = [];
  let leads = false;

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({
      storeUrl: embedded.url,
      leads: () => leads,
      onEffectiveChange: (ids, etagOf) => told.push(ids.map((id) => [id, etagOf(id)])),
    });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  it("tells those of their settings, once, that have not said what they made of them", async () => {
    const etagOf = async (id: string) =>
      ((await here.call("GET", `/v1/components/${id}/config`)).headers.get("etag") ?? "").slice(1, -1);
    const [has, lacks] = [fresh("c"), fresh("c")];
    for (const id of [has, lacks]) {
      await here.register(id);
      const report = { etag: await etagOf(id), status: "applied" };
      expect((await here.call("PUT", `/v1/components/${id}/config/status`, report)).status).to.equal(204);
    }
    await here.call("PUT", `/v1/config/layers/component:${lacks}`, { settings: { n: 1 } });
    told.length = 0;
    leads = true;
    const wanted = await etagOf(lacks);
    await eventually(() => expect(told).to.deep.equal([[[lacks, wanted]]]));
  });
});
