import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type ConfigSite, startConfigSite } from "../support/config-site.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";

let names = 0;
const fresh = (what: string) => `${what}-${++names}`;

const schema = {
  type: "object",
  required: ["intervalMs"],
  properties: {
    intervalMs: { type: "integer", minimum: 10 },
    mode: { enum: ["fast", "slow"], default: "slow" },
    limits: { type: "object", default: {}, properties: { queue: { type: "integer", default: 100 } } },
  },
};

describe("schemas of a type's settings", () => {
  let embedded: Embedded;
  let here: ConfigSite;
  let store: Store;

  before(async () => {
    embedded = await startSiteStore();
    store = new Store(embedded.url);
    here = await startConfigSite({ storeUrl: embedded.url });
  });
  after(async () => {
    await here?.close();
    await embedded?.close();
  });

  const put = (layer: string, settings: unknown) => here.call("PUT", `/v1/config/layers/${layer}`, { settings });
  const putSchema = (type: string, body: unknown) => here.call("PUT", `/v1/config/schemas/${type}`, body);
  const config = (id: string) => here.call("GET", `/v1/components/${id}/config`);

  /** A type with a schema and a component whose settings fit it. */
  async function typed() {
    const [type, id] = [fresh("type"), fresh("c")];
    await here.register(id, { type });
    expect((await put(`type:${type}`, { intervalMs: 100 })).status).to.equal(201);
    expect((await putSchema(type, schema)).status).to.equal(201);
    return { type, id };
  }

  it("fill in their defaults, and explain says so", async () => {
    const { type, id } = await typed();
    expect((await config(id)).body).to.deep.equal({ intervalMs: 100, mode: "slow", limits: { queue: 100 } });
    const { explain } = (await here.call("GET", `/v1/components/${id}/config?explain=true`)).body;
    expect(explain["/mode"]).to.deep.equal({ layer: `schema:${type}`, version: 1 });
    expect(explain["/limits/queue"]).to.deep.equal({ layer: `schema:${type}`, version: 1 });
    expect(explain["/intervalMs"]).to.deep.equal({ layer: `type:${type}`, version: 1 });
  });

  it("are read back as they were written", async () => {
    const { type } = await typed();
    expect((await here.call("GET", `/v1/config/schemas/${type}`)).body).to.deep.equal(schema);
  });

  it("refuse a layer that breaks a component: which, where, why, what", async () => {
    const { type, id } = await typed();
    for (const layer of [`type:${type}`, `component:${id}`]) {
      const answer = await put(layer, { intervalMs: 5, mode: "sideways" });
      expect([answer.status, answer.body.code]).to.deep.equal([422, "refused"]);
      expect(answer.body.errors).to.deep.include({
        component: id,
        pointer: "/intervalMs",
        rule: "minimum",
        message: "must be >= 10",
        value: 5,
      });
      expect(answer.body.errors.map((error: { rule: string }) => error.rule)).to.have.members(["minimum", "enum"]);
    }
    expect((await config(id)).body.intervalMs).to.equal(100);
  });

  it("refuse a DELETE that takes away what they require", async () => {
    const { type, id } = await typed();
    const answer = await here.call("DELETE", `/v1/config/layers/type:${type}`);
    expect([answer.status, answer.body.errors[0].rule, answer.body.errors[0].component]).to.deep.equal([
      422,
      "required",
      id,
    ]);
  });

  it("are refused when settings that stand do not fit", async () => {
    const { type, id } = await typed();
    const answer = await putSchema(type, { ...schema, required: ["owner"] });
    expect([answer.status, answer.body.errors[0].component]).to.deep.equal([422, id]);
    expect((await here.call("GET", `/v1/config/schemas/${type}`)).body).to.deep.equal(schema);
  });

  it("do not keep other components from being mended while one is broken already", async () => {
    const { type } = await typed();
    const bare = fresh("bare");
    await here.register(bare, { type: fresh("other") });
    const other = here.member.registry.get(bare)?.type ?? "";
    await putSchema(other, { required: ["x"] }).then((answer) => expect(answer.status).to.equal(422));
    expect((await put(`type:${other}`, { x: 1 })).status).to.equal(201);
    expect((await putSchema(other, { required: ["x"] })).status).to.equal(201);
    const late = fresh("late");
    await here.register(late, { type });
    await put(`component:${late}`, { more: 1 });
    expect((await put(`type:${type}`, { intervalMs: 50 })).status).to.equal(200);
  });

  it("stand in lists that, as the others, come with an ETag and not again to who has them", async () => {
    const { type } = await typed();
    const lists = ["layers", `layers/type:${type}/history`, "schemas"].map((list) => `/v1/config/${list}`);
    const known = await Promise.all(
      [...lists, "/v1/config/secrets", "/v1/config/faults"].map(async (path) => {
        const etag = (await here.call("GET", path)).headers.get("etag") ?? "";
        expect(etag, path).to.match(/^"[\w-]{22}"$/);
        return { path, headers: { "if-none-match": etag } };
      }),
    );
    for (const { path, headers } of known) {
      expect((await here.call("GET", path, undefined, headers)).status, path).to.equal(304);
    }
    await put(`type:${type}`, { intervalMs: 200 });
    await putSchema(type, { ...schema, description: "another" });
    for (const { path, headers } of known.slice(0, lists.length)) {
      expect((await here.call("GET", path, undefined, headers)).status, path).to.equal(200);
    }
  });

  const hostile: [string, unknown, RegExp][] = [
    ["has an unknown type", { type: "objekt" }, /\/type/],
    ["has a pattern that is none", { properties: { a: { pattern: "(" } } }, /Invalid regular expression|pattern/],
    ["refers elsewhere", { $ref: "https://example.org/x.json" }, /refers only to itself/],
    ["refers to a secret", { properties: { a: { default: { $secret: "x" } } } }, /only layers refer to secrets/],
    ["refers to nothing", { $ref: "#/$defs/none" }, /resolve/],
    ["has another dialect", { $schema: "http://json-schema.org/draft-07/schema#" }, /2020-12/],
    ["nests too deep", JSON.parse(`${'{"not":'.repeat(70)}{}${"}".repeat(70)}`), /nested deeper/],
    ["is too large", { description: "x".repeat(130 * 1024) }, /131072/],
    ["refers to itself without end", { $ref: "#" }, /without end/],
  ];
  for (const [what, body, message] of hostile) {
    it(`refuse one that ${what}, and store nothing`, async () => {
      const type = fresh("hostile");
      await here.register(fresh("c"), { type });
      const answer = await putSchema(type, body);
      expect([answer.status, answer.body.code]).to.deep.equal([422, "refused"]);
      expect(JSON.stringify(answer.body)).to.match(message);
      expect((await here.call("GET", `/v1/config/schemas/${type}`)).status).to.equal(404);
    });
  }

  it("refuse settings on which a pattern of theirs backtracks without end", async () => {
    const [type, id] = [fresh("redos"), fresh("c")];
    await here.register(id, { type });
    await putSchema(type, { properties: { a: { type: "string", pattern: "^(a+)+$" } } });
    const answer = await put(`type:${type}`, { a: `${"a".repeat(40)}b` });
    expect([answer.status, answer.body.errors[0].rule]).to.deep.equal([422, "time"]);
    expect((await put(`type:${type}`, { a: "aaa" })).status).to.equal(201);
  }).timeout(10_000);

  describe("in a dry run", () => {
    it("tell the effective diff of each component that would change, and nothing of the others", async () => {
      const { type, id } = await typed();
      const unchanged = fresh("own");
      await here.register(unchanged, { type });
      await put(`component:${unchanged}`, { intervalMs: 7000 });
      const answer = await here.call("POST", "/v1/config/validate", {
        layer: `type:${type}`,
        settings: { intervalMs: 200 },
      });
      expect(answer.body).to.deep.equal({
        valid: true,
        components: [{ id, diff: [{ op: "replace", path: "/intervalMs", value: 200 }], errors: [] }],
        total: 1,
      });
      expect((await config(id)).body.intervalMs).to.equal(100);
    });

    it("tell what would fail, with 200", async () => {
      const { type, id } = await typed();
      const settings = { intervalMs: 1 };
      const answer = await here.call("POST", "/v1/config/validate", { layer: `type:${type}`, settings });
      expect([answer.status, answer.body.valid]).to.deep.equal([200, false]);
      expect(answer.body.components).to.deep.equal([
        {
          id,
          diff: [{ op: "replace", path: "/intervalMs", value: 1 }],
          errors: [{ pointer: "/intervalMs", rule: "minimum", message: "must be >= 10", value: 1 }],
        },
      ]);
    });

    it("try a schema", async () => {
      const { type, id } = await typed();
      const looser = { ...schema, properties: { ...schema.properties, mode: { default: "fast" } } };
      const valid = await here.call("POST", "/v1/config/validate", { type, schema: looser });
      expect(valid.body.components).to.deep.equal([
        { id, diff: [{ op: "replace", path: "/mode", value: "fast" }], errors: [] },
      ]);
      const none = await here.call("POST", "/v1/config/validate", { type, schema: { type: 1 } });
      expect([none.status, none.body.valid, none.body.errors[0].pointer]).to.deep.equal([200, false, "/type"]);
    });
  });

  describe("and what comes in past them", () => {
    const database = () => store.database<Document & Record<string, unknown>>(databases.config);
    const faults = async () => (await here.call("GET", "/v1/config/faults")).body.faults as Record<string, unknown>[];
    const faultOf = async (document: string) => (await faults()).find((fault) => fault.document === document);

    async function overwrite(id: string, change: Record<string, unknown>): Promise<string> {
      const stored = await database().get(id);
      return database().put({ ...stored, ...change, _id: id, version: 9, note: "straight" });
    }

    it("hold a layer that breaks components, keep the last valid one, list the fault, and end it when it is mended", async () => {
      const { type, id } = await typed();
      const document = `layer:type:${type}`;
      const etag = (await config(id)).headers.get("etag");
      const rev = await overwrite(document, { settings: { intervalMs: "often" } });
      await eventually(async () => expect((await faultOf(document))?.rev).to.equal(rev));
      expect((await faultOf(document))?.active).to.deep.include({ version: 1 });
      expect((await config(id)).headers.get("etag")).to.equal(etag);
      const layer = (await here.call("GET", `/v1/config/layers/type:${type}`)).body;
      expect([layer.settings.intervalMs, layer.held.active.version]).to.deep.equal(["often", 1]);

      expect((await put(`type:${type}`, { intervalMs: 300 })).status).to.equal(200);
      expect((await config(id)).body.intervalMs).to.equal(300);
      expect(await faultOf(document)).to.equal(undefined);
    });

    it("hold it after a restart too, and at every coordinator", async () => {
      const { type, id } = await typed();
      const document = `layer:type:${type}`;
      const rev = await overwrite(document, { settings: { intervalMs: -1 } });
      await eventually(async () =>
        expect(await database().get(`fault:${document}@${rev}`)).to.deep.include({ kind: "fault", rev }),
      );
      const later = await startConfigSite({ storeUrl: embedded.url, leads: () => false });
      try {
        expect((await later.call("GET", `/v1/components/${id}/config`)).body.intervalMs).to.equal(100);
      } finally {
        await later.close();
      }
    });

    it("put a held layer in force when the schema allows it", async () => {
      const { type, id } = await typed();
      const document = `layer:type:${type}`;
      await overwrite(document, { settings: { intervalMs: 1 } });
      await eventually(async () => expect(await faultOf(document)).to.not.equal(undefined));
      expect((await putSchema(type, { ...schema, properties: {} })).status).to.equal(200);
      expect((await config(id)).body.intervalMs).to.equal(1);
      expect(await faultOf(document)).to.equal(undefined);
    });

    it("hold a schema that is none, and one that components do not fit", async () => {
      const { type, id } = await typed();
      const document = `schema:${type}`;
      for (const bad of [{ type: "objekt" }, { required: ["nobody-has-this"] }]) {
        const rev = await overwrite(document, { schema: bad });
        await eventually(async () => expect((await faultOf(document))?.rev).to.equal(rev));
        expect((await config(id)).body.mode).to.equal("slow");
      }
    });

    it("leave documents that are no layers without effect, and list them", async () => {
      const { type, id } = await typed();
      const document = `layer:type:${type}`;
      const deep = JSON.parse(`${'{"a":'.repeat(200)}1${"}".repeat(200)}`);
      const rev = await overwrite(document, { settings: deep });
      await eventually(async () => expect((await faultOf(document))?.rev).to.equal(rev));
      expect((await config(id)).body.intervalMs).to.equal(100);
    });
  });
});
