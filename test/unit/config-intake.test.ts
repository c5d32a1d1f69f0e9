import { expect } from "chai";
import { pino } from "pino";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { Change, Document, Stored } from "../../config-db/store.ts";
import { Background } from "../../coordinator/config/background.ts";
import { EffectiveSettings } from "../../coordinator/config/effective-settings.ts";
import { History } from "../../coordinator/config/history.ts";
import { Intake, type IntakeOptions } from "../../coordinator/config/intake.ts";
import { Records } from "../../coordinator/config/records.ts";

const logger = pino({ level: "silent" });

/** A store that takes every write at once under the revision that `rev` says, and has what `leaves` says. */
function playedStore() {
  const played = {
    /** Of the next write. */
    rev: "",
    leaves: [] as Stored<Document>[],
    written: [] as Document[],
    /** Called before an answer is given: what comes in while the store is asked. */
    meanwhile: async () => {},
  };
  const live = () => played.leaves.find(({ _deleted }) => _deleted !== true);
  const answer = async <Value>(value: Value) => {
    const { meanwhile } = played;
    played.meanwhile = async () => {};
    await meanwhile();
    return value;
  };
  const database: IntakeOptions["database"] = {
    get: async <Some extends Document>() => answer(live() as Stored<Some> | undefined),
    getMany: async () => [],
    leaves: async () => answer(played.leaves),
    put: async (doc) => {
      played.written.push(doc);
      return answer(played.rev);
    },
    bulk: async (docs) => {
      played.written.push(...docs);
      return [];
    },
  };
  return { played, database };
}

/** An intake beside played components and a played store. */
function intakeOf(
  components: Record<string, Partial<ComponentDocument>>,
  { judgesFor, leads = false }: { judgesFor?: (id: string | undefined) => boolean; leads?: boolean } = {},
) {
  const all = new Map(
    Object.entries(components).map(([id, fields]) => [id, { id, state: "up", ...fields } as ComponentDocument]),
  );
  const { played, database } = playedStore();
  const told: string[][] = [];
  const records = new Records(undefined);
  const effective = new EffectiveSettings(records, { get: (id) => all.get(id), all: () => all.values() }, (ids) =>
    told.push(ids),
  );
  const history = new History({ ...database, ids: async () => [] });
  const background = new Background(logger);
  const now = { ms: 0 };
  const intake = new Intake({
    database,
    records,
    effective,
    history,
    background,
    logger,
    site: "here",
    leads: () => leads,
    clock: () => now.ms,
    ...(judgesFor === undefined ? {} : { judgesFor }),
    content: () => {},
  });
  const register = (id: string, fields: Partial<ComponentDocument>) => {
    all.set(id, { id, state: "up", ...fields } as ComponentDocument);
    effective.componentChanged(id);
  };
  const write = async (doc: Stored<Document>, judgedAt = effective.changes) => {
    played.rev = doc._rev;
    await intake.put(doc, judgedAt);
  };
  return { intake, records, effective, history, told, played, register, write, background, now };
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

  it("does nothing at an echo", async () => {
    const { intake, told, write } = intakeOf({ a: {} });
    intake.loaded();
    await write(layer("1-a", { n: 1 }));
    intake.apply([change(layer("1-a", { n: 1 }))]);
    expect(told).to.deep.equal([["a"]]);
  });

  it("never goes back to what the feed gives late, after what was written here", async () => {
    const { intake, effective, told, write } = intakeOf({ a: {} });
    intake.loaded();
    await write(layer("2-b", { n: 2 }));
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

  it("falls back on versions that come by history alone, under a layer that is none of its kind", async () => {
    const { intake, records, effective, told, played, background } = intakeOf({ a: {} });
    const kept = (rev: string, settings: unknown) => ({
      ...layer(rev, settings),
      _id: `history:platform@${rev}`,
      _rev: `1-${rev}`,
      kind: "history",
      rev,
    });
    intake.loaded();
    intake.apply([change(layer("1-a", { n: 1 }))]);
    played.leaves = [kept("3-c", { n: 3 })];
    // As after a cut link: the newest revision is there before the history of what it replaced.
    intake.apply([change(layer("4-d", "none"))]);
    intake.apply([change(kept("2-b", { n: 2 })), change(kept("3-c", { n: 3 }))]);
    await background.idle();
    expect(effective.get("a").settings).to.deep.equal({ n: 3 });
    expect(records.unusable.get("layer:platform")?.rev).to.equal("4-d");
    expect(told).to.deep.equal([["a"], ["a"]]);
    intake.apply([change({ _id: "history:platform@3-c", _rev: "2-x", _deleted: true })]);
    await background.idle();
    expect(effective.get("a").settings).to.deep.equal({ n: 3 });
  });

  it("holds a version that comes by history alone and breaks a component", async () => {
    const { intake, records, effective, played, background } = intakeOf({ a: { type: "t" } });
    const { settings: _, layer: __, ...written } = layer("1-s", {});
    const schema = { _id: "schema:t", kind: "schema", type: "t", schema: { properties: { n: { type: "integer" } } } };
    intake.apply([change({ ...written, ...schema })]);
    intake.loaded();
    intake.apply([change(layer("1-a", { n: 1 })), change(layer("3-d", "none"))]);
    const kept = {
      ...layer("2-b", { n: "two" }),
      _id: "history:platform@2-b",
      _rev: "1-h",
      kind: "history",
      rev: "2-b",
    };
    played.leaves = [kept];
    intake.apply([change(kept)]);
    await background.idle();
    expect(effective.get("a").settings).to.deep.equal({ n: 1 });
    expect(records.held.get("layer:platform")?.rev).to.equal("2-b");
  });

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
    it(`end with the one held that the leader's fault is about: ${mine._id}, though it is in force where it was written`, async () => {
      const { intake, records, effective, write } = start(false);
      await write(mine);
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

    it(`are never both in force where ${theirs._id} comes in while the store takes ${mine._id}`, async () => {
      const { intake, records, effective, write } = start(true);
      const judgedAt = effective.changes;
      intake.apply([change(theirs)]);
      await write(mine, judgedAt);
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

describe("memory, beside a store that answers late,", () => {
  const tombstone = (rev: string) => ({ ...layer(rev, {}), _deleted: true });
  const loaded = () => {
    const started = intakeOf({ a: {} });
    started.intake.apply([change(layer("1-a", { n: 1 }))]);
    started.intake.loaded();
    const settings = () => started.effective.get("a").settings;
    const give = (...docs: Document[]) => {
      for (const doc of docs) started.intake.apply([change(doc)]);
    };
    /** A change of a document that sites changed at once. */
    const giveConflict = (doc: Document, ...leaves: string[]) =>
      started.intake.apply([{ ...change(doc), leaves: [doc._rev as string, ...leaves] }]);
    return { ...started, settings, give, giveConflict };
  };

  it("stays at what came in over its own write before the store said that it took that", async () => {
    const { played, write, give, settings } = loaded();
    played.leaves = [layer("3-c", { n: 3 })];
    played.meanwhile = async () => give(layer("2-b", { n: 2 }), layer("3-c", { n: 3 }));
    await write(layer("2-b", { n: 2 }));
    expect(settings()).to.deep.equal({ n: 3 });
  });

  it("has its own write where what came in meanwhile was older", async () => {
    const { played, write, give, settings } = loaded();
    played.leaves = [layer("3-c", { n: 3 })];
    played.meanwhile = async () => give(layer("2-b", { n: 2 }));
    await write(layer("3-c", { n: 3 }));
    expect(settings()).to.deep.equal({ n: 3 });
    give(layer("2-b", { n: 2 }));
    expect(settings()).to.deep.equal({ n: 3 });
  });

  for (const [what, newest, expected] of [
    ["a version", layer("3-c", { n: 3 }), { n: 3 }],
    ["a deletion", tombstone("3-c"), {}],
    ["what was written over a deletion", layer("4-d", { n: 4 }), { n: 4 }],
  ] as const) {
    it(`stays at ${what} that came in while an older one was read`, async () => {
      const { played, intake, give, settings } = loaded();
      played.leaves = [layer("2-b", { n: 2 })];
      played.meanwhile = async () => {
        give(newest);
        played.leaves = [newest];
      };
      await intake.refresh("layer:platform");
      expect(settings()).to.deep.equal(expected);
    });

    it(`stays at ${what} that was read, whatever older the feed gives then`, async () => {
      const { played, intake, give, settings } = loaded();
      played.leaves = [newest];
      await intake.refresh("layer:platform");
      give(layer("2-b", { n: 2 }));
      expect(settings()).to.deep.equal(expected);
      give(newest, layer("5-e", { n: 5 }));
      expect(settings()).to.deep.equal({ n: 5 });
    });
  }

  for (const rev of ["2-z", "3-z"]) {
    it(`asks the store where the feed gives the winner of a conflict, ${rev}, after a write here`, async () => {
      const { played, write, giveConflict, settings, background } = loaded();
      await write(layer("3-c", { n: 3 }));
      played.leaves = [layer(rev, { n: "winner" }), tombstone("4-d")];
      giveConflict(layer(rev, { n: "winner" }), "4-d");
      await background.idle();
      expect(settings()).to.deep.equal({ n: "winner" });
    });

    it(`keeps what was written here where the store says that ${rev} lost`, async () => {
      const { played, write, giveConflict, settings, background } = loaded();
      await write(layer("3-c", { n: 3 }));
      played.leaves = [layer("3-c", { n: 3 }), layer(rev, { n: "loser" })];
      giveConflict(layer(rev, { n: "loser" }), "2-a");
      await background.idle();
      expect(settings()).to.deep.equal({ n: 3 });
    });
  }

  it("asks again when the store could not be asked", async () => {
    const { played, write, giveConflict, intake, settings, background } = loaded();
    await write(layer("3-c", { n: 3 }));
    played.leaves = [layer("2-z", { n: "winner" })];
    played.meanwhile = () => Promise.reject(new Error("away"));
    giveConflict(layer("2-z", { n: "winner" }), "4-d");
    await background.idle();
    expect(settings()).to.deep.equal({ n: 3 });
    intake.review();
    await background.idle();
    expect(settings()).to.deep.equal({ n: "winner" });
  });

  it("takes the deletion of a whole conflict for what it is", async () => {
    const { played, write, giveConflict, settings, background } = loaded();
    await write(layer("3-c", { n: 3 }));
    played.leaves = [tombstone("3-z"), tombstone("4-d")];
    giveConflict(tombstone("4-d"), "3-z");
    await background.idle();
    expect(settings()).to.deep.equal({});
  });
});

describe("a revision that a coordinator holds and its site's leader does not", () => {
  const schema = {
    ...{ _id: "schema:t", _rev: "1-s", kind: "schema", schemaVersion: 1, type: "t", version: 1 },
    ...{ schema: { properties: { n: { type: "integer" } } }, changedBy: "x", changedAt: "2026-01-02T03:04:05Z" },
    ...{ site: "here" },
  };
  const good = layer("1-a", { n: 1 }, "type:t");
  const bad = layer("2-b", { n: "bad" }, "type:t");
  const _id = "objection:here:layer:type:t@2-b";
  const about = { site: "here", document: "layer:type:t", rev: "2-b" };
  const active = { content: { n: 1 }, version: 1, rev: "1-a" };
  const objection = { _id, _rev: "1-o", kind: "objection", schemaVersion: 1, ...about, active };
  const answered = { ...objection, _rev: "2-o", _deleted: true };
  const fault = {
    _id: "fault:layer:type:t@2-b",
    kind: "fault",
    schemaVersion: 1,
    document: about.document,
    rev: "2-b",
  };
  const start = (leads: boolean, components: Parameters<typeof intakeOf>[0]) => {
    const started = intakeOf(components, { leads });
    started.intake.apply([change(schema), change(good)]);
    started.intake.loaded();
    const give = (...docs: Document[]) => started.intake.apply(docs.map(change));
    return { ...started, give, written: () => started.played.written.map((doc) => [doc._id, doc._deleted === true]) };
  };

  it("is told to the leader, once, when the leader has had a second to say so first", async () => {
    const { intake, give, background, now, written } = start(false, { a: { type: "t" } });
    give(bad);
    now.ms = 999;
    intake.review();
    await background.idle();
    expect(written()).to.deep.equal([]);
    now.ms = 1_000;
    intake.review();
    intake.review();
    await background.idle();
    expect(written()).to.deep.equal([[_id, false]]);
  });

  it("is told to nobody when the leader has said so, nor by a leader", async () => {
    for (const leads of [false, true]) {
      const { intake, give, background, now, written } = start(leads, { a: { type: "t" } });
      give(bad, { ...fault, _rev: "1-f" });
      now.ms = 5_000;
      intake.review();
      await background.idle();
      expect(written().map(([id]) => id)).to.not.include(_id);
    }
  });

  it("is held by the leader too where it finds it broken, and the fault is written before the answer", async () => {
    const { give, played, effective, background, written, register } = start(true, {});
    give(bad);
    register("a", { type: "t" });
    expect(effective.errors("a")).to.have.length(1);
    played.leaves = [objection];
    give(objection);
    expect(effective.get("a").settings).to.deep.equal({ n: 1 });
    await background.idle();
    // The second time since the played store says that the first revision had no effect.
    expect(written()).to.deep.equal([
      [fault._id, false],
      [fault._id, false],
      [_id, true],
    ]);
  });

  it("comes into force everywhere where the leader finds nothing broken", async () => {
    const leader = start(true, {});
    leader.give(bad);
    leader.played.leaves = [objection];
    leader.give(objection);
    await leader.background.idle();
    expect(leader.records.held.size).to.equal(0);
    expect(leader.written()).to.deep.equal([[_id, true]]);
    const { give, records } = start(false, { a: { type: "t" } });
    give(bad, objection);
    expect(records.held.size).to.equal(1);
    give(answered);
    expect(records.held.size).to.equal(0);
  });

  it("stays held where the fault came before the answer", () => {
    const { give, records, effective } = start(false, { a: { type: "t" } });
    give(bad, objection, { ...fault, active, _rev: "1-f" } as Document, answered);
    expect(records.held.size).to.equal(1);
    expect(effective.get("a").settings).to.deep.equal({ n: 1 });
  });

  it("is of no concern to the leader of another site, and waits for one that has not heard of the revision", async () => {
    const { give, background, written, effective } = start(true, { a: { type: "t" } });
    const there = { ...objection, _id: _id.replace("here", "there"), site: "there" };
    give(there, objection);
    await background.idle();
    expect(written()).to.deep.equal([]);
    expect(effective.get("a").settings).to.deep.equal({ n: 1 });
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
