import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { etagOf } from "../../coordinator/config/etag.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

describe("layers of configuration", () => {
  let embedded: Embedded;
  let here: ConfigSite;
  const changed: string[][] = [];

  before(async () => {
    embedded = await startSiteStore();
    here = await startConfigSite({
      storeUrl: embedded.url,
      onEffectiveChange: (ids) => changed.push(ids.toSorted()),
    });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const put = (layer: string, settings: unknown, headers?: Record<string, string>) =>
    here.call("PUT", `/v1/config/layers/${layer}`, { settings }, headers);
  const effective = async (id: string) => (await here.call("GET", `/v1/components/${id}/config`)).body;

  it("make effective settings from platform to component", async () => {
    const [type, subsystem, id] = [fresh("type"), fresh("sub"), fresh("c")];
    await here.register(id, { type, subsystem });
    await put("platform", { from: "platform", platform: 1 });
    await put(`subsystem:${subsystem}`, { from: "subsystem", subsystem: 1 });
    await put(`type:${type}`, { from: "type", type: 1 });
    await put(`component:${id}`, { from: "component", component: 1, platform: null });
    expect(await effective(id)).to.deep.equal({ from: "component", subsystem: 1, type: 1, component: 1 });
  });

  it("answer with 201 and version 1, then 200 and the next", async () => {
    const layer = `type:${fresh("v")}`;
    const first = await put(layer, { a: 1 }, { "muster-user": "ada" });
    expect([first.status, first.body.version, first.body.changedBy]).to.deep.equal([201, 1, "ada"]);
    const second = await put(layer, { a: 2 });
    expect([second.status, second.body.version]).to.deep.equal([200, 2]);
    const read = await here.call("GET", `/v1/config/layers/${layer}`);
    expect(read.body).to.deep.equal(second.body);
    expect(read.headers.get("etag")).to.equal(second.headers.get("etag"));
    const again = await here.call("GET", `/v1/config/layers/${layer}`, undefined, {
      "if-none-match": read.headers.get("etag") ?? "",
    });
    expect(again.status).to.equal(304);
  });

  it("take a merge patch", async () => {
    const layer = `type:${fresh("p")}`;
    await put(layer, { a: { b: 1, c: 2 }, d: [1] });
    const patched = await here.call("PATCH", `/v1/config/layers/${layer}`, {
      settings: { a: { b: null, e: 3 }, d: [] },
    });
    expect(patched.body.settings).to.deep.equal({ a: { c: 2, e: 3 }, d: [] });
  });

  it("refuse a write on another revision than the one it names, and write nothing", async () => {
    const layer = `type:${fresh("m")}`;
    const first = await put(layer, { a: 1 });
    const etag = first.headers.get("etag") ?? "";
    expect((await put(layer, { a: 2 }, { "if-match": etag })).status).to.equal(200);
    for (const header of [etag, '"1-nothing"']) {
      const stale = await put(layer, { a: 3 }, { "if-match": header });
      expect([stale.status, stale.body.code]).to.deep.equal([412, "precondition-failed"]);
    }
    const none = await put(`type:${fresh("m")}`, { a: 1 }, { "if-match": "*" });
    expect(none.status).to.equal(412);
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).body).to.deep.include({
      version: 2,
      settings: { a: 2 },
    });
  });

  it("are gone after a DELETE and count on when they come back", async () => {
    const layer = `type:${fresh("d")}`;
    await put(layer, { a: 1 });
    expect((await here.call("DELETE", `/v1/config/layers/${layer}`)).status).to.equal(204);
    expect((await here.call("GET", `/v1/config/layers/${layer}`)).status).to.equal(404);
    expect((await here.call("DELETE", `/v1/config/layers/${layer}`)).status).to.equal(404);
    expect((await put(layer, { a: 2 })).body.version).to.equal(3);
  });

  it("count on after a plain DELETE straight in the store", async () => {
    const layer = `type:${fresh("straight")}`;
    const store = new Store(embedded.url);
    const { headers } = await put(layer, { a: 1 });
    await store.request({
      method: "DELETE",
      path: `${databases.config}/layer:${layer}`,
      query: { rev: (headers.get("etag") ?? "").replaceAll('"', "") },
    });
    await eventually(async () => expect((await here.call("GET", `/v1/config/layers/${layer}`)).status).to.equal(404));
    expect((await put(layer, { a: 2 })).body.version).to.be.greaterThan(1);
  });

  it("tell exactly the components whose effective settings changed", async () => {
    const type = fresh("tell");
    const [one, two, other] = [fresh("one"), fresh("two"), fresh("other")];
    await here.register(one, { type });
    await here.register(two, { type });
    await here.register(other);
    await put(`component:${two}`, { interval: 5 });
    changed.length = 0;
    await put(`type:${type}`, { interval: 1 });
    expect(changed).to.deep.equal([[one]]);
    await put(`type:${type}`, { interval: 1, more: true });
    expect(changed.at(-1)).to.deep.equal([one, two].sort());
  });

  it("say which layer and version each value came from", async () => {
    const [type, id] = [fresh("why"), fresh("c")];
    await here.register(id, { type });
    await put("platform", { a: 1, b: { c: 1 } });
    const typed = await put(`type:${type}`, { b: { d: 2 } });
    const { body } = await here.call("GET", `/v1/components/${id}/config?explain=true`);
    expect(body.settings).to.deep.equal({ a: 1, b: { c: 1, d: 2 } });
    expect(body.etag).to.equal(etagOf(body.settings));
    expect(body.explain["/b/d"]).to.deep.equal({ layer: `type:${type}`, version: typed.body.version });
    expect(Object.keys(body.explain).sort()).to.deep.equal(["/a", "/b/c", "/b/d"]);
  });

  it("are explained anew where the same values come from another layer, to who waits too", async () => {
    const [type, id] = [fresh("moved"), fresh("c")];
    await here.register(id, { type });
    await put(`type:${type}`, { n: 1 });
    const path = `/v1/components/${id}/config?explain=true`;
    const first = await here.call("GET", path);
    const known = { "if-none-match": first.headers.get("etag") ?? "" };
    expect((await here.call("GET", path, undefined, known)).status).to.equal(304);
    const waiting = here.call("GET", `${path}&waitMs=20000`, undefined, known);
    await put(`component:${id}`, { n: 1 });
    for (const answer of [await here.call("GET", path, undefined, known), await waiting]) {
      expect([answer.status, answer.body?.explain?.["/n"]?.layer]).to.deep.equal([200, `component:${id}`]);
      expect(answer.body.etag).to.equal(first.body.etag);
    }
  });

  it("wake a waiting GET, and leave it waiting where nothing changed for it", async () => {
    const [type, id] = [fresh("wait"), fresh("c")];
    await here.register(id, { type });
    await put(`type:${type}`, { n: 1 });
    const first = await here.call("GET", `/v1/components/${id}/config`);
    const known = { "if-none-match": first.headers.get("etag") ?? "" };
    const waiting = here.call("GET", `/v1/components/${id}/config?waitMs=20000`, undefined, known);
    await put(`type:${type}`, { n: 1 });
    await put(`type:${type}`, { n: 2 });
    const woken = await waiting;
    expect([woken.status, woken.body.n]).to.deep.equal([200, 2]);
    const unchanged = await here.call("GET", `/v1/components/${id}/config?waitMs=50`, undefined, {
      "if-none-match": woken.headers.get("etag") ?? "",
    });
    expect(unchanged.status).to.equal(304);
  });

  it("take settings of a mebibyte", async () => {
    const id = fresh("large");
    const settings = { text: "x".repeat(1024 * 1024 - 11) };
    expect(Buffer.byteLength(JSON.stringify(settings))).to.equal(1024 * 1024);
    expect((await put(`component:${id}`, settings)).status).to.equal(201);
    expect((await effective(id)).text.length).to.equal(settings.text.length);
  });

  it("give a component that never registered what its layers have", async () => {
    const id = fresh("stranger");
    await put(`component:${id}`, { own: true });
    expect(await effective(id)).to.deep.include({ own: true });
  });

  it("lose no update of 16 writers that name the revision they read", async () => {
    const layer = `type:${fresh("storm")}`;
    await put(layer, { count: 0 });
    const increment = async (): Promise<void> => {
      const read = await here.call("GET", `/v1/config/layers/${layer}`);
      const { status } = await put(
        layer,
        { count: read.body.settings.count + 1 },
        { "if-match": read.headers.get("etag") ?? "" },
      );
      expect(status).to.be.oneOf([200, 412]);
      if (status === 412) await increment();
    };
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (let i = 0; i < 5; i++) await increment();
      }),
    );
    const read = await here.call("GET", `/v1/config/layers/${layer}`);
    expect([read.body.settings.count, read.body.version]).to.deep.equal([80, 81]);
  }).timeout(30_000);

  const refused: [string, string, number, string][] = [
    ["10,000 nested levels", `{"settings":${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}}`, 400, "malformed-json"],
    ["65 nested levels", `{"settings":${'{"a":'.repeat(65)}1${"}".repeat(65)}}`, 400, "invalid-request"],
    ["a prototype", '{"settings":{"a":{"__proto__":{"b":1}}}}', 400, "invalid-request"],
    ["_id", '{"settings":{"_id":"x"}}', 400, "invalid-request"],
    ["a reserved $ key", '{"settings":{"a":{"$ref":"x"}}}', 400, "invalid-request"],
    ["half of a surrogate pair", '{"settings":{"a":"\\ud800"}}', 400, "malformed-json"],
    ["a number beyond a double", '{"settings":{"a":1e999}}', 400, "invalid-request"],
    ["settings that are a list", '{"settings":[1]}', 400, "invalid-request"],
    ["an unknown field", '{"settings":{},"setings":1}', 400, "invalid-request"],
    ["more than a mebibyte", `{"settings":{"a":"${"x".repeat(1024 * 1024)}"}}`, 413, "too-large"],
  ];
  for (const [what, body, status, code] of refused) {
    it(`refuse ${what} and store nothing`, async () => {
      const layer = `type:${fresh("bad")}`;
      for (const method of ["PUT", "PATCH"]) {
        const answer = await here.call(method, `/v1/config/layers/${layer}`, body);
        expect([answer.status, answer.body.code]).to.deep.equal([status, code]);
      }
      const stored = await new Store(embedded.url).database<Document>(databases.config).get(`layer:${layer}`);
      expect(stored).to.equal(undefined);
    });
  }

  it("refuse a name that is no layer's", async () => {
    for (const name of ["platfrom", "type:", "type:A", "type:a:b", "component:../x"]) {
      const answer = await put(encodeURIComponent(name), {});
      expect([answer.status, answer.body.code], name).to.deep.equal([400, "invalid-request"]);
    }
  });
});

describe("two coordinators on one store", () => {
  let embedded: Embedded;
  let one: ConfigSite;
  let two: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    one = await startConfigSite({ storeUrl: embedded.url });
    two = await startConfigSite({ storeUrl: embedded.url, leads: () => false });
  });
  after(async () => {
    await one?.close();
    await two?.close();
    await embedded?.close();
  });

  it("merge patches that are written at both at once, and lose none", async () => {
    const layer = `type:${fresh("both")}`;
    const patch = (at: ConfigSite, key: string) =>
      at.call("PATCH", `/v1/config/layers/${layer}`, { settings: { [key]: 1 } });
    const keys = Array.from({ length: 20 }, (_, index) => `k${index}`);
    const answers = await Promise.all(keys.map((key, index) => patch(index % 2 === 0 ? one : two, key)));
    expect(answers.map(({ status }) => status).filter((status) => status >= 300)).to.deep.equal([]);
    await eventually(async () => {
      for (const at of [one, two]) {
        const { body } = await at.call("GET", `/v1/config/layers/${layer}`);
        expect([Object.keys(body.settings).length, body.version]).to.deep.equal([20, 20]);
      }
    });
  });

  it("take an If-Match of what the other one wrote, before the feed has brought it", async () => {
    const layer = `type:${fresh("fresh")}`;
    for (let version = 1; version <= 10; version++) {
      const [writer, next] = version % 2 === 0 ? [one, two] : [two, one];
      const written = await writer.call("PUT", `/v1/config/layers/${layer}`, { settings: { version } });
      const answer = await next.call(
        "PUT",
        `/v1/config/layers/${layer}`,
        { settings: { version, next: true } },
        { "if-match": written.headers.get("etag") ?? "" },
      );
      expect(answer.status).to.equal(200);
    }
  });
});
