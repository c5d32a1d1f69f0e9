import { expect } from "chai";
import { designDocuments } from "../../config-db/design/index.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { codeOf } from "../support/codes.ts";
import { describeStores } from "../support/embedded.ts";

type Any = Document & Record<string, unknown>;

const written = { schemaVersion: 1, version: 1, changedBy: "x", changedAt: "2026-01-02T03:04:05.678Z", site: "here" };
const layer: Any = { _id: "layer:type:guarded", kind: "layer", layer: "type:guarded", settings: { a: 1 }, ...written };
const component: Any = {
  _id: "component:guarded",
  kind: "component",
  schemaVersion: 1,
  id: "guarded",
  type: "t",
  site: "here",
  ttlMs: 1000,
  state: "up",
  incarnation: 1,
  registeredAt: "2026-01-02T03:04:05Z",
  changedAt: "2026-01-02T03:04:05Z",
};

describeStores("the guard of the config databases", (under) => {
  let store: Store;
  let configName: string;
  let registryName: string;

  beforeEach(async () => {
    store = new Store(under.url);
    [configName, registryName] = [await under.database(), await under.database()];
    for (const design of designDocuments[databases.config]) await store.database(configName).put(design);
    for (const design of designDocuments[databases.registry]) await store.database(registryName).put(design);
  });

  const config = () => store.database<Any>(configName);
  const registry = () => store.database<Any>(registryName);
  let count = 0;
  const named = (doc: Any, fields: Record<string, unknown> = {}): Any => {
    const name = `type:guarded-${++count}`;
    return { ...doc, _id: `layer:${name}`, layer: name, ...fields };
  };

  it("takes documents as Muster writes them, and their tombstones", async () => {
    const doc = named(layer);
    expect(await config().put(named(layer, { version: 2 ** 48 }))).to.match(/^1-/);
    const rev = await config().put(doc);
    const gone = await config().put({ ...doc, _rev: rev, settings: {}, version: 2, _deleted: true });
    expect(gone).to.match(/^2-/);
    const again = named(layer);
    const bare = { _id: again._id, _rev: await config().put(again), _deleted: true };
    expect(await config().put(bare)).to.match(/^2-/);
    expect(await registry().put(component)).to.match(/-/);
  });

  it("says of what is neither valid nor on the newest revision that it is in conflict", async () => {
    const doc = named(layer);
    const rev = await config().put(doc);
    await config().put({ ...doc, _rev: rev, version: 2 });
    for (const stale of [{ _rev: rev }, {}, { _rev: "7-0123456789abcdef0123456789abcdef" }]) {
      expect(await codeOf(config().put({ ...doc, settings: [], ...stale })), JSON.stringify(stale)).to.equal(
        "conflict",
      );
    }
  });

  const refused: [string, Any][] = [
    ["without a kind in its id", { ...layer, _id: "nonsense" }],
    ["whose kind is not that of its id", named(layer, { kind: "schema" })],
    ["without a schemaVersion", named(layer, { schemaVersion: undefined })],
    ["whose id names another layer", { ...layer, _id: "layer:type:other" }],
    ["with a layer that is none", { ...layer, _id: "layer:planet", layer: "planet" }],
    ["with settings that are a list", named(layer, { settings: [1] })],
    ["without settings", named(layer, { settings: undefined })],
    ["with a version that is no count", named(layer, { version: 0.5 })],
    ["with a version from which nobody can count on", named(layer, { version: 2 ** 53 })],
    ["with a version beyond the largest", named(layer, { version: 2 ** 48 + 1 })],
    ["with a time that is none", named(layer, { changedAt: "yesterday" })],
    ["with a site that is none", named(layer, { site: "Here!" })],
    [
      "that is history under another revision",
      {
        ...layer,
        ...{ _id: "history:type:guarded@1-a", kind: "history", rev: "1-b" },
      },
    ],
    [
      "that is a candidate in a state there is not",
      {
        ...layer,
        ...{ _id: "candidate:type:guarded", kind: "candidate", selector: {}, state: "new" },
      },
    ],
  ];
  for (const [what, doc] of refused) {
    it(`refuses one ${what}, written or replicated`, async () => {
      expect(await codeOf(config().put(JSON.parse(JSON.stringify(doc))))).to.equal("refused");
      const replicated = { ...JSON.parse(JSON.stringify(doc)), _rev: `1-${"a".repeat(32)}` };
      const [row] = await config().bulk([replicated], { newEdits: false });
      expect(row).to.include({ error: "forbidden" });
    });
  }

  it("refuses a component that is none", async () => {
    const wrong = [{ state: "dead" }, { ttlMs: "1s" }, { type: undefined }, { id: "other" }, { incarnation: 1e300 }];
    for (const fields of wrong) {
      const doc = JSON.parse(JSON.stringify({ ...component, ...fields }));
      expect(await codeOf(registry().put(doc)), JSON.stringify(fields)).to.equal("refused");
    }
  });

  it("refuses a site that is none", async () => {
    const site = { _id: "site:here", kind: "site", schemaVersion: 1, site: "here", coordinatorUrl: "http://here" };
    const beats = { beat: 1, beatEveryMs: 5_000, epoch: 1 };
    const wrong = [
      ...[undefined, 0, 2 ** 53, "5"].flatMap((value) => [{ beat: value }, { epoch: value }]),
      ...[undefined, 99, 2 ** 40, "5000"].map((value) => ({ beatEveryMs: value })),
    ];
    for (const fields of wrong) {
      const doc = JSON.parse(JSON.stringify({ ...site, ...beats, ...fields }));
      expect(await codeOf(registry().put(doc)), JSON.stringify(fields)).to.equal("refused");
    }
    expect(await registry().put({ ...site, ...beats })).to.match(/^1-/);
  });

  it("lets pass what a newer Muster may write: kinds and schema versions that it does not know", async () => {
    expect(await config().put({ _id: `plan:p${Date.now()}`, kind: "plan", schemaVersion: 3, anything: [] })).to.match(
      /^1-/,
    );
    expect(await config().put(named(layer, { schemaVersion: 2, settings: "in another form" }))).to.match(/^1-/);
  });

  it("gives views to those who read the database straight", async () => {
    const doc = named(layer, { version: 7 });
    await config().put(doc);
    const key = (doc.layer as string).split(":");
    const rows = await config().view("muster", "layers-by-kind", { key });
    expect(rows.map(({ id, value }) => [id, (value as { version: number }).version])).to.deep.equal([[doc._id, 7]]);
  });
});
