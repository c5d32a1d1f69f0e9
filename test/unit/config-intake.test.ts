import { expect } from "chai";
import { pino } from "pino";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { type Change, type Document, Store } from "../../config-db/store.ts";
import { Background } from "../../coordinator/config/background.ts";
import { EffectiveSettings } from "../../coordinator/config/effective-settings.ts";
import { History } from "../../coordinator/config/history.ts";
import { Intake } from "../../coordinator/config/intake.ts";
import { Records } from "../../coordinator/config/records.ts";

const logger = pino({ level: "silent" });

/** An intake beside played components, on a store that answers nothing. */
function intakeOf(
  components: Record<string, Partial<ComponentDocument>>,
  { judgesFor, leads = false }: { judgesFor?: (id: string | undefined) => boolean; leads?: boolean } = {},
) {
  const all = new Map(
    Object.entries(components).map(([id, fields]) => [id, { id, state: "up", ...fields } as ComponentDocument]),
  );
  const database = new Store("http://127.0.0.1:9").database<Document>("muster-config");
  const told: string[][] = [];
  const records = new Records(undefined);
  const effective = new EffectiveSettings(records, { get: (id) => all.get(id), all: () => all.values() }, (ids) =>
    told.push(ids),
  );
  const history = new History(database);
  const intake = new Intake({
    database,
    records,
    effective,
    history,
    background: new Background(logger),
    logger,
    leads: () => leads,
    ...(judgesFor === undefined ? {} : { judgesFor }),
    content: () => {},
  });
  return { intake, records, effective, history, told };
}

const layer = (rev: string, settings: unknown, name = "platform") => ({
  _id: `layer:${name}`,
  _rev: rev,
  kind: "layer",
  schemaVersion: 1,
  layer: name,
  settings,
  version: Number.parseInt(rev, 10),
  changedBy: "x",
  changedAt: "2026-01-02T03:04:05Z",
  site: "here",
});
const change = (doc: Document): Change => ({ id: doc._id, seq: 1, deleted: doc._deleted === true, doc: { ...doc } });

describe("taking in the configuration database", () => {
  it("tells of no change while it loads, and of each component once per change after", () => {
    const { intake, effective, told } = intakeOf({ a: { type: "t" }, b: { type: "u" } });
    intake.apply([change(layer("1-a", { n: 1 }))]);
    expect(told).to.deep.equal([]);
    intake.loaded();
    intake.apply([change(layer("1-t", { t: 1 }, "type:t"))]);
    expect(told).to.deep.equal([["a"]]);
    expect(effective.get("a").settings).to.deep.equal({ n: 1, t: 1 });
  });

  it("does nothing at an echo", () => {
    const { intake, told } = intakeOf({ a: {} });
    intake.loaded();
    intake.written(layer("1-a", { n: 1 }));
    intake.apply([change(layer("1-a", { n: 1 }))]);
    expect(told).to.deep.equal([["a"]]);
  });

  it("never goes back to what the feed gives late, after what was written here", () => {
    const { intake, effective, told } = intakeOf({ a: {} });
    intake.loaded();
    intake.written(layer("2-b", { n: 2 }));
    intake.apply([change(layer("1-a", { n: 1 }))]);
    expect(effective.get("a").settings).to.deep.equal({ n: 2 });
    intake.apply([change(layer("2-b", { n: 2 }))]);
    intake.apply([change(layer("3-c", { n: 3 }))]);
    expect(effective.get("a").settings).to.deep.equal({ n: 3 });
    expect(told.length).to.equal(2);
  });

  it("goes back where a conflict's winner has a lower revision and nothing was written here", () => {
    const { intake, effective } = intakeOf({ a: {} });
    intake.loaded();
    intake.apply([change(layer("3-c", { n: 3 }))]);
    intake.apply([change(layer("2-z", { n: 2 }))]);
    expect(effective.get("a").settings).to.deep.equal({ n: 2 });
  });

  it("completes the tombstone of a plain DELETE, so that versions count on", () => {
    const { intake, records, effective } = intakeOf({ a: {} });
    intake.loaded();
    intake.apply([change(layer("4-a", { n: 1 }))]);
    intake.apply([change({ _id: "layer:platform", _rev: "5-d", _deleted: true })]);
    expect(records.layers.get("platform")).to.deep.include({ version: 5, _deleted: true, settings: {} });
    expect(effective.get("a").settings).to.deep.equal({});
  });

  const useless: [string, Record<string, unknown>][] = [
    ["a layer without settings", { settings: undefined }],
    ["a layer with a prototype", { settings: JSON.parse('{"__proto__": {"a": 1}}') }],
    ["a layer with 10,000 levels", { settings: JSON.parse(`${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`) }],
    ["a layer of another schema version", { schemaVersion: 2 }],
    ["a layer under the id of another", { layer: "type:other" }],
  ];
  for (const [what, fields] of useless) {
    it(`leaves ${what} without effect, and lists it`, () => {
      const { intake, records, effective } = intakeOf({ a: {} });
      intake.loaded();
      intake.apply([change(layer("1-a", { n: 1 }))]);
      intake.apply([change({ ...layer("2-b", {}), ...fields } as Document)]);
      expect(effective.get("a").settings).to.deep.equal({ n: 1 });
      expect(records.unusable.get("layer:platform")?.rev).to.equal("2-b");
      intake.apply([change(layer("3-c", { n: 3 }))]);
      expect(records.unusable.size).to.equal(0);
    });
  }

  it("takes a candidate for gone whose newest revision is none of its kind, as whoever starts later does", () => {
    const { intake, records, effective } = intakeOf({ a: {} });
    const staged = { ...layer("1-c", { n: 2 }), _id: "candidate:platform", kind: "candidate", state: "staged" };
    intake.loaded();
    intake.apply([change(layer("1-a", { n: 1 })), change({ ...staged, selector: { percent: 100 } } as Document)]);
    expect(effective.get("a").settings).to.deep.equal({ n: 2 });
    intake.apply([change({ ...staged, _rev: "2-d", selector: { percent: "all" } } as Document)]);
    expect(effective.get("a").settings).to.deep.equal({ n: 1 });
    expect(records.unusable.get("candidate:platform")?.rev).to.equal("2-d");
  });

  it("forgets what a plain DELETE took out of history", () => {
    const { intake, history } = intakeOf({});
    const kept = { ...layer("1-a", { n: 1 }), _id: "history:platform@1-a", _rev: "1-h", kind: "history", rev: "1-a" };
    intake.apply([change(kept)]);
    expect(history.has("platform", "1-a")).to.equal(true);
    intake.apply([change({ _id: kept._id, _rev: "2-d", _deleted: true })]);
    expect(history.has("platform", "1-a")).to.equal(false);
  });

  it("keeps no tombstone of what it never knew", () => {
    const { intake, records } = intakeOf({});
    intake.apply([change({ _id: "layer:platform", _rev: "2-d", _deleted: true })]);
    expect([records.layers.size, records.unusable.size]).to.deep.equal([0, 0]);
  });

  it("ignores documents of others, and of a Muster to come", () => {
    const { intake, records } = intakeOf({});
    intake.loaded();
    intake.apply([change({ _id: "_design/muster", _rev: "1-a" }), change({ _id: "plan:x", _rev: "1-a" })]);
    expect(records.unusable.size).to.equal(0);
  });

  it("holds a revision of which the store says that it is faulty, whichever comes first", () => {
    const fault = {
      _id: "fault:layer:platform@2-b",
      _rev: "1-f",
      kind: "fault",
      schemaVersion: 1,
      document: "layer:platform",
      rev: "2-b",
      active: { content: { n: 1 }, version: 1, rev: "1-a" },
    };
    for (const order of [
      [layer("2-b", { n: "bad" }), fault],
      [fault, layer("2-b", { n: "bad" })],
    ]) {
      const { intake, effective, records } = intakeOf({ a: {} });
      intake.apply([change(layer("1-a", { n: 1 }))]);
      intake.apply(order.map(change));
      intake.loaded();
      expect(effective.get("a").settings).to.deep.equal({ n: 1 });
      expect(records.held.get("layer:platform")?.rev).to.equal("2-b");
    }
  });
});

describe("a schema of one site and a layer of another that breaks it", () => {
  const small = { type: "object", properties: { size: { type: "integer", maximum: 9 } } };
  const schema = {
    ...{ _id: "schema:t", _rev: "1-s", kind: "schema", schemaVersion: 1, type: "t", schema: small, version: 1 },
    ...{ changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "there" },
  };
  const before = layer("1-l", { size: 5 }, "type:t");
  const big = layer("2-l", { size: 100 }, "type:t");
  const fault = (document: string, rev: string, active?: object) => ({
    ...{ _id: `fault:${document}@${rev}`, _rev: "1-f", kind: "fault", schemaVersion: 1, document, rev },
    ...(active === undefined ? {} : { active }),
  });
  const faults = [
    fault("layer:type:t", "2-l", { version: 1, rev: "1-l", content: { size: 5 } }),
    fault("schema:t", "1-s"),
  ];

  for (const [where, arrivals] of [
    ["has the schema first", [schema, big]],
    ["has the layer first", [big, schema]],
  ] as const) {
    for (const told of [faults, faults.toReversed()]) {
      it(`end with the layer held where a site ${where} and hears of ${told[0]?.document} first`, () => {
        const { intake, records, effective } = intakeOf({ a: { type: "t" } }, { leads: true });
        intake.apply([change(before)]);
        intake.loaded();
        for (const doc of [...arrivals, ...told]) intake.apply([change(doc)]);
        expect([...records.held.keys()]).to.deep.equal(["layer:type:t"]);
        expect(effective.get("a").settings).to.deep.equal({ size: 5 });
        expect(effective.errors("a")).to.deep.equal([]);
        // The other site has put the schema in force and ends its fault; and had blamed the layer no longer than it took.
        for (const doc of told) intake.apply([change({ ...doc, _rev: "2-f", _deleted: true } as Document)]);
        expect([...records.held.keys()]).to.deep.equal(["layer:type:t"]);
        expect(effective.errors("a")).to.deep.equal([]);
      });
    }
  }
});

describe("two writes of one site that contradict each other", () => {
  const schema = {
    ...{ _id: "schema:t", _rev: "1-s", kind: "schema", schemaVersion: 1, type: "t", version: 1 },
    ...{ schema: { not: { required: ["x", "y"] } }, changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "here" },
  };
  const one = layer("1-x", { x: 1 }, "type:t");
  const other = layer("1-y", { y: 1 }, "component:a");
  const fault = ({ _id: document, _rev: rev }: { _id: string; _rev: string }) => ({
    ...{ _id: `fault:${document}@${rev}`, _rev: "1-f", kind: "fault", schemaVersion: 1, document, rev },
  });
  const start = (leads: boolean) => {
    const started = intakeOf({ a: { type: "t" } }, { leads });
    started.intake.apply([change(schema)]);
    started.intake.loaded();
    return started;
  };

  for (const [mine, theirs] of [
    [one, other],
    [other, one],
  ] as const) {
    it(`end with the one held that the leader's fault is about: ${mine._id}, though it is in force where it was written`, () => {
      const { intake, records, effective } = start(false);
      intake.written(mine);
      intake.apply([change(theirs)]);
      expect([...records.held.keys()]).to.deep.equal([theirs._id]);
      intake.apply([change(fault(mine))]);
      expect([...records.held.keys()]).to.deep.equal([mine._id]);
      expect(effective.get("a").settings).to.deep.equal(theirs.settings);
    });

    it(`leave ${mine._id} held where it breaks nothing any more, until the leader ends the fault`, () => {
      const { intake, records, effective } = start(false);
      intake.apply([change(mine), change(fault(mine))]);
      expect([...records.held.keys()]).to.deep.equal([mine._id]);
      intake.apply([change({ ...fault(mine), _rev: "2-f", _deleted: true })]);
      expect(records.held.size).to.equal(0);
      expect(effective.get("a").settings).to.deep.equal(mine.settings);
    });

    it(`are never both in force where ${theirs._id} comes in while the store takes ${mine._id}`, () => {
      const { intake, records, effective } = start(true);
      const judgedAt = effective.changes;
      intake.apply([change(theirs)]);
      intake.written(mine, judgedAt);
      expect([...records.held.keys()]).to.deep.equal([mine._id]);
      expect(effective.get("a").settings).to.deep.equal(theirs.settings);
    });
  }
});

describe("the errors of a held revision", () => {
  it("are in the same order whichever components a coordinator learned of first", () => {
    const [one, other] = [
      ["a", "b", "c"],
      ["c", "b", "a"],
    ].map((ids) => {
      const { intake, records } = intakeOf(Object.fromEntries(ids.map((id) => [id, { type: "t" }])));
      intake.loaded();
      const { _id, kind, type, ...made } = { ...layer("1-a", {}), _id: "schema:t", kind: "schema", type: "t" };
      const { settings: _, layer: __, ...rest } = made;
      intake.apply([change({ ...rest, _id, kind, type, schema: { properties: { n: { type: "integer" } } } } as never)]);
      intake.apply([change(layer("1-b", { n: "x" }, "type:t"))]);
      return records.held.get("layer:type:t")?.errors.map(({ component }) => component);
    });
    expect(one).to.deep.equal(["a", "b", "c"]);
    expect(other).to.deep.equal(one);
  });
});

describe("what comes in", () => {
  it("is judged by components of this site alone: those of others came with it, or before it, in any order", () => {
    const { intake, records, effective } = intakeOf(
      { mine: { type: "t" }, other: { type: "u" } },
      { judgesFor: (id) => id === "mine" },
    );
    const schema = (type: string) => ({
      ...{ _id: `schema:${type}`, _rev: "1-s", kind: "schema", schemaVersion: 1, type, version: 1 },
      ...{ schema: { required: ["n"] }, changedBy: "x", changedAt: "2026-01-02T03:04:05Z", site: "there" },
    });
    intake.loaded();
    intake.apply([change(schema("t")), change(schema("u"))]);
    expect([...records.held.keys()]).to.deep.equal(["schema:t"]);
    expect(effective.errors("mine")).to.deep.equal([]);
    expect(effective.errors("other")).to.have.length(1);
  });
});

describe("memory of effective settings", () => {
  it("does not grow with the ids that are asked for", () => {
    const { intake, effective } = intakeOf({ a: {} });
    intake.loaded();
    intake.apply([change(layer("1-a", { n: 1 }))]);
    for (let n = 0; n < 1000; n++) expect(effective.get(`nobody-${n}`).settings).to.deep.equal({ n: 1 });
    expect(effective.all()).to.deep.equal(["a"]);
  });

  it("follows a component that changes its type", () => {
    const components: Record<string, Partial<ComponentDocument>> = { a: { type: "t" } };
    const { intake, effective, told } = intakeOf(components);
    intake.loaded();
    intake.apply([change(layer("1-t", { is: "t" }, "type:t")), change(layer("1-u", { is: "u" }, "type:u"))]);
    expect(effective.get("a").settings).to.deep.equal({ is: "t" });
    told.length = 0;
    effective.componentChanged("a");
    expect(told).to.deep.equal([]);
  });
});
