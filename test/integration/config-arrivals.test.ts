import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";

type Any = Document & Record<string, unknown>;

/** Documents that somebody writes straight to the store, past every check but the guard's. */
describe("configuration that nobody checked", () => {
  let embedded: Embedded;
  let here: ConfigSite;
  const start = async () => {
    here = await startConfigSite({ storeUrl: embedded.url });
  };

  before(async () => {
    embedded = await startSiteStore();
    await start();
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const config = async (id: string) => (await here.call("GET", `/v1/components/${id}/config`)).body;
  const faults = async (document: string) =>
    (await here.call("GET", "/v1/config/faults")).body.faults.filter(
      (fault: { document?: string }) => fault.document === document,
    );
  const writeStraight = async (layer: string, settings: unknown) => {
    const database = new Store(embedded.url).database<Any>(databases.config);
    const stored = (await database.get(`layer:${layer}`)) as Any;
    await database.put({ ...stored, settings, version: Number(stored.version) + 1 });
  };
  /** A type with a schema, a layer `{n: 1}`, and a component of it. */
  const startType = async (type: string) => {
    await here.call("PUT", `/v1/config/schemas/${type}`, { type: "object", properties: { n: { type: "integer" } } });
    await here.call("PUT", `/v1/config/layers/type:${type}`, { settings: { n: 1 } });
    await here.register(`${type}-1`, { type });
    return { layer: `type:${type}`, id: `${type}-1` };
  };
  const useless = { n: 666, $bad: 1 };

  it("is not put in force by a write that is refused for it, and gives way to one that is taken", async () => {
    const { layer, id } = await startType("patched");
    await writeStraight(layer, useless);
    const patched = await here.call("PATCH", `/v1/config/layers/${layer}`, { settings: { m: 1 } });
    expect([patched.status, patched.body.settings]).to.deep.equal([200, { n: 1, m: 1 }]);
    expect(await config(id)).to.deep.equal({ n: 1, m: 1 });
    await writeStraight(layer, useless);
    expect((await here.call("PATCH", `/v1/config/layers/${layer}`, { settings: { n: "x" } })).status).to.equal(422);
    await eventually(async () => expect(await faults(`layer:${layer}`)).to.have.length(1));
    expect(await config(id)).to.deep.equal({ n: 1, m: 1 });
  });

  it("stays out of force over a restart: the last version in history stands", async () => {
    const { layer, id } = await startType("restarted");
    await writeStraight(layer, useless);
    await eventually(async () => expect((await faults(`layer:${layer}`))[0]?.kind).to.equal("unusable"));
    await here.close();
    await start();
    expect((await faults(`layer:${layer}`))[0]?.kind).to.equal("unusable");
    expect(await config(id)).to.deep.equal({ n: 1 });
    expect((await here.call("PUT", `/v1/config/layers/${layer}`, { settings: { n: 2 } })).status).to.equal(200);
    expect(await config(id)).to.deep.equal({ n: 2 });
    expect(await faults(`layer:${layer}`)).to.deep.equal([]);
  });

  it("is listed in the same order, under the same ETag, by whoever learned of it and of components in another", async () => {
    const { layer, id } = await startType("ordered-b");
    await here.register("ordered-b-0", { type: "ordered-b" });
    const other = await startType("ordered-a");
    for (const broken of [layer, other.layer]) {
      await writeStraight(broken, { n: "bad" });
      await eventually(async () => expect((await faults(`layer:${broken}`))[0]?.kind).to.equal("held"));
    }
    // Written again, a component comes last to who reads the store from its start.
    await here.call("PUT", `/v1/components/${id}/config/status`, { etag: "e", status: "applied" });
    const listed = await here.call("GET", "/v1/config/faults");
    const there = await startConfigSite({ storeUrl: embedded.url });
    try {
      const again = await there.call("GET", "/v1/config/faults");
      expect(again.body).to.deep.equal(listed.body);
      expect(again.headers.get("etag")).to.equal(listed.headers.get("etag"));
    } finally {
      await there.close();
    }
  });

  it("is written on where its version is the highest that there can be, by whatever way", async () => {
    const { layer, id } = await startType("highest");
    const highest = 2 ** 48;
    const database = new Store(embedded.url).database<Any>(databases.config);
    for (const document of [`layer:${layer}`, "schema:highest"]) {
      const stored = (await database.get(document)) as Any;
      const rev = await database.put({ ...stored, version: highest });
      await eventually(() => expect(here.configuration.records.newest(document)?._rev).to.equal(rev));
    }
    const path = `/v1/config/layers/${layer}`;
    expect((await here.call("PUT", path, { settings: { n: 2 } })).status).to.equal(200);
    const patched = await here.call("PATCH", path, { settings: { m: 3 } });
    expect([patched.status, patched.body.version]).to.deep.equal([200, highest]);
    expect(await config(id)).to.deep.equal({ n: 2, m: 3 });
    const { versions } = (await here.call("GET", `${path}/history`)).body;
    expect(versions.slice(0, 2).map(({ settings }: { settings: object }) => settings)).to.deep.equal([
      { n: 2, m: 3 },
      { n: 2 },
    ]);
    const next = (await here.call("GET", `${path}/history?limit=1`)).body.cursor;
    const page = (await here.call("GET", `${path}/history?limit=1&cursor=${next}`)).body;
    expect(page.versions[0].settings).to.deep.equal({ n: 2 });
    expect((await here.call("PUT", "/v1/config/schemas/highest", { type: "object" })).status).to.equal(200);
    expect((await here.call("DELETE", path)).status).to.equal(204);
    expect(await config(id)).to.deep.equal({});
  });

  it("stays held, by a fault in the store, where somebody deletes that", async () => {
    const { layer, id } = await startType("undeleted");
    await writeStraight(layer, { n: "bad" });
    const database = new Store(embedded.url).database<Any>(databases.config);
    const faultOf = async () => (await database.list("fault:")).find(({ document }) => document === `layer:${layer}`);
    await eventually(async () => expect(await faultOf()).to.not.equal(undefined));
    const { _id, _rev } = (await faultOf()) as Any & { _rev: string };
    await database.bulk([{ _id, _rev, _deleted: true }]);
    await eventually(async () =>
      expect((await faultOf())?._rev)
        .to.be.a("string")
        .and.not.equal(_rev),
    );
    await here.close();
    await start();
    expect(await config(id)).to.deep.equal({ n: 1 });
  });

  it("is judged when it was written while no coordinator ran", async () => {
    const bad = await startType("unwatched");
    const good = await startType("harmless");
    await here.close();
    await writeStraight(bad.layer, { n: "bad" });
    await writeStraight(good.layer, { n: 3 });
    await start();
    expect(await config(bad.id)).to.deep.equal({ n: 1 });
    expect((await faults(`layer:${bad.layer}`))[0]?.kind).to.equal("held");
    expect(await config(good.id)).to.deep.equal({ n: 3 });
  });

  for (const scope of ["type", "component"]) {
    it(`is held at every coordinator and site, over a restart too: a candidate of a ${scope}`, async () => {
      const { layer, id } = await startType(`staged-${scope}`);
      const name = scope === "type" ? layer : `component:${id}`;
      const beside = await Promise.all(
        ["here", "there"].map((site) =>
          startConfigSite({ storeUrl: embedded.url, site, leads: () => site === "there" }),
        ),
      );
      try {
        const database = new Store(embedded.url).database<Any>(databases.config);
        const made = { version: 1, changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "here" };
        const _id = `candidate:${name}`;
        const staged = { selector: { percent: 100 }, state: "staged", ...made };
        const rev = await database.put({
          ...{ _id, kind: "candidate", schemaVersion: 1, layer: name, settings: { n: "bad" } },
          ...staged,
        });
        await eventually(async () => expect(await database.get(`fault:${_id}@${rev}`)).to.deep.include({ rev }));
        await here.close();
        await start();
        const expectEverywhere = async (settings: object, kinds: string[]) => {
          const { etag } = here.configuration.effective(id);
          for (const { configuration } of [here, ...beside]) {
            expect(configuration.effective(id)).to.deep.include({ settings, etag });
            const listed = configuration.faults().filter((fault) => "document" in fault && fault.document === _id);
            expect(listed.map(({ kind }) => kind)).to.deep.equal(kinds);
          }
        };
        await eventually(() => expectEverywhere({ n: 1 }, ["held"]));
        await eventually(async () => {
          const { body } = await here.call("GET", `/v1/config/layers/${name}/candidate`);
          expect([body.components, body.held.errors[0]?.pointer]).to.deep.equal([[], "/n"]);
        });
        expect((await here.call("POST", `/v1/config/layers/${name}/candidate/promote`)).status).to.equal(422);
        await here.call("PUT", `/v1/config/schemas/staged-${scope}`, {});
        await eventually(() => expectEverywhere({ n: "bad" }, []));
        await eventually(async () => expect(await database.get(`fault:${_id}@${rev}`)).to.equal(undefined));
      } finally {
        for (const site of beside) await site.close();
      }
    });
  }

  it("is looked at again, also where nobody leads, when the component that it broke is of another type", async () => {
    const store = await startSiteStore();
    const alone = await startConfigSite({ storeUrl: store.url, leads: () => false });
    try {
      await alone.register("moved", { type: "tight" });
      await alone.call("PUT", "/v1/config/schemas/tight", { properties: { n: { type: "integer" } } });
      const made = { version: 1, changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "here" };
      await new Store(store.url).database<Any>(databases.config).put({
        ...{ _id: "layer:type:tight", kind: "layer", schemaVersion: 1, layer: "type:tight", settings: { n: "bad" } },
        ...made,
      });
      await eventually(() => expect(alone.configuration.faults().map(({ kind }) => kind)).to.deep.equal(["held"]));
      await alone.register("moved", { type: "loose" });
      await eventually(() => expect(alone.configuration.faults()).to.deep.equal([]));
    } finally {
      await alone.close();
      await store.close();
    }
  });
});

describe("writes at two coordinators of one site that contradict each other", () => {
  let embedded: Embedded;
  let leader: ConfigSite;
  let beside: ConfigSite;

  before(async () => {
    embedded = await startSiteStore();
    leader = await startConfigSite({ storeUrl: embedded.url });
    beside = await startConfigSite({ storeUrl: embedded.url, leads: () => false });
  });
  after(async () => {
    await beside?.close();
    await leader?.close();
    await embedded?.close();
  });

  const pairs: [string, string, string][] = [
    ["layers", "", ""],
    ["a candidate and a layer", "/candidate", ""],
    ["candidates", "/candidate", "/candidate"],
  ];
  for (const [what, ofType, ofComponent] of pairs) {
    it(`end with one of the two in force, the same at both: ${what}`, async () => {
      for (let n = 0; n < 12; n++) {
        const id = `${what.replaceAll(" ", "-")}-${n}`;
        await leader.register(id, { type: id });
        await leader.call("PUT", `/v1/config/schemas/${id}`, { not: { required: ["x", "y"] } });
        const state = ({ configuration }: ConfigSite) => ({
          etag: configuration.effective(id).etag,
          faults: configuration.faults().filter((fault) => JSON.stringify(fault).includes(id)),
        });
        await eventually(() => expect(beside.configuration.records.schema(id)).to.not.equal(undefined));
        await eventually(() => expect(beside.member.registry.get(id)).to.not.equal(undefined));
        const [one, other] = n % 2 === 0 ? [leader, beside] : [beside, leader];
        const selector = { percent: 100 };
        const answers = await Promise.all([
          one.call("PUT", `/v1/config/layers/type:${id}${ofType}`, { settings: { x: 1 }, ...(ofType && { selector }) }),
          other.call("PUT", `/v1/config/layers/component:${id}${ofComponent}`, {
            ...{ settings: { y: 1 }, ...(ofComponent && { selector }) },
          }),
        ]);
        const accepted = answers.filter(({ status }) => status < 300).length;
        const database = new Store(embedded.url).database<Any>(databases.config);
        await eventually(async () => {
          expect(state(beside)).to.deep.equal(state(leader));
          const [held, ...more] = state(leader).faults;
          expect([held?.kind, more]).to.deep.equal([accepted === 2 ? "held" : undefined, []]);
          const faults = (await database.list("fault:")).filter(({ _id }) => _id.includes(`:${id}@`));
          expect(faults).to.have.length(accepted - 1);
          expect(Object.keys(leader.configuration.effective(id).settings as object)).to.have.length(1);
        });
      }
    });
  }
});
