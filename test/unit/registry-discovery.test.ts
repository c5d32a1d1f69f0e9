import { expect } from "chai";
import fc from "fast-check";
import { type DiscoveryQuery, discover, fits, recordOf } from "../../coordinator/registry/discovery.ts";
import { EventLog, eventOf, type Sight, toldAs } from "../../coordinator/registry/event-log.ts";
import { Roster, type StoredComponent } from "../../coordinator/registry/roster.ts";

const at = "2024-01-01T00:00:00.000Z";
function component(id: string, fields: Partial<StoredComponent> = {}): StoredComponent {
  return {
    _id: `component:${id}`,
    _rev: "1-x",
    kind: "component",
    schemaVersion: 1,
    id,
    type: "collector",
    site: "here",
    ttlMs: 30_000,
    state: "up",
    incarnation: 1,
    registeredAt: at,
    changedAt: at,
    ...fields,
  };
}

const everywhere = () => true;
const isFit = (query: Partial<DiscoveryQuery>, fields: Partial<StoredComponent>, heard = true) =>
  fits({ state: "up", ...query }, component("c", fields), heard);

describe("a discovery query", () => {
  it("asks for type, sub-system and site by equality", () => {
    const fields = { type: "t", subsystem: "s", site: "x" };
    expect(isFit({ type: "t", subsystem: "s", site: "x" }, fields)).to.equal(true);
    expect(isFit({ type: "u" }, fields)).to.equal(false);
    expect(isFit({ subsystem: "u" }, fields)).to.equal(false);
    expect(isFit({ site: "u" }, fields)).to.equal(false);
  });

  it("asks for all of its tags", () => {
    expect(isFit({ tags: ["a", "b"] }, { tags: ["b", "c", "a"] })).to.equal(true);
    expect(isFit({ tags: ["a", "b"] }, { tags: ["a"] })).to.equal(false);
    expect(isFit({ tags: ["a"] }, {})).to.equal(false);
  });

  it("compares metadata as it reads in a URL, and no objects", () => {
    const metadata = { zone: "a", weight: 2, spare: true, deep: { x: 1 } };
    expect(isFit({ metadata: { zone: "a", weight: "2", spare: "true" } }, { metadata })).to.equal(true);
    expect(isFit({ metadata: { zone: "b" } }, { metadata })).to.equal(false);
    expect(isFit({ metadata: { deep: "[object Object]" } }, { metadata })).to.equal(false);
    expect(isFit({ metadata: { none: "undefined" } }, { metadata })).to.equal(false);
  });

  it("takes a component that reports no health for passing", () => {
    expect(isFit({ health: "passing" }, {})).to.equal(true);
    expect(isFit({ health: "passing" }, { health: { status: "failing" } })).to.equal(false);
    expect(isFit({ health: "failing" }, { health: { status: "failing" } })).to.equal(true);
  });

  it("lists those of a silent site by their last known state, and as unverified", () => {
    expect(isFit({ state: "up" }, {}, false)).to.equal(true);
    expect(isFit({ state: "unverified" }, {}, false)).to.equal(true);
    expect(isFit({ state: "unverified" }, {}, true)).to.equal(false);
    expect(recordOf(component("c"), false)).to.include({ state: "unverified", lastKnownState: "up" });
  });

  it("never shows a webhook's secret nor what is the store's own", () => {
    const record = recordOf(component("c", { webhook: { url: "http://x/", secret: "0123456789abcdef" } }), true);
    expect(record.webhook).to.deep.equal({ url: "http://x/" });
    expect(record).not.to.have.any.keys("_id", "_rev", "instance", "epoch");
  });
});

describe("a page of discovery", () => {
  it("goes on behind a cursor whose component has left", () => {
    const roster = new Roster();
    for (const id of ["a", "b", "c", "d"]) roster.set(component(id));
    const first = discover(roster, { state: "up" }, { limit: 2 }, everywhere);
    expect(first).to.include({ cursor: "b" });
    roster.delete("b");
    const second = discover(roster, { state: "up" }, { limit: 2, cursor: first.cursor }, everywhere);
    expect(second.records.map(({ id }) => id)).to.deep.equal(["c", "d"]);
    expect(second).not.to.have.property("cursor");
  });

  it("has another etag when a record, its site's silence or the end of the list is another", () => {
    const roster = new Roster();
    for (const id of ["a", "b"]) roster.set(component(id));
    const etags = [
      discover(roster, { state: "up" }, { limit: 2 }, everywhere).etag,
      discover(roster, { state: "up" }, { limit: 2 }, () => false).etag,
      discover(roster, { state: "up" }, { limit: 1 }, everywhere).etag,
    ];
    roster.delete("b");
    etags.push(discover(roster, { state: "up" }, { limit: 1 }, everywhere).etag);
    roster.set(component("a", { _rev: "2-x" }));
    etags.push(discover(roster, { state: "up" }, { limit: 1 }, everywhere).etag);
    expect(new Set(etags).size).to.equal(5);
  });

  it("shows each component that is there throughout exactly once, whatever comes and goes between pages", () => {
    const ids = fc.uniqueArray(
      fc.integer({ min: 0, max: 50 }).map((number) => `c${number}`),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(ids, ids, fc.integer({ min: 1, max: 7 }), (there, churn, limit) => {
        const passing = churn.filter((id) => !there.includes(id));
        const roster = new Roster();
        for (const id of there) roster.set(component(id));
        const shown: string[] = [];
        for (let cursor: string | undefined, page = 0; ; page += 1) {
          const id = passing[page % (passing.length || 1)];
          if (id !== undefined && roster.get(id) === undefined) roster.set(component(id));
          else if (id !== undefined) roster.delete(id);
          const found = discover(roster, { state: "up" }, { limit, cursor }, everywhere);
          shown.push(...found.records.map((record) => record.id));
          if (found.cursor === undefined) break;
          cursor = found.cursor;
        }
        expect(shown.filter((id) => there.includes(id))).to.deep.equal([...there].sort());
      }),
    );
  });
});

describe("the roster", () => {
  it("follows a component that changes its type", () => {
    const roster = new Roster();
    roster.set(component("a"));
    roster.set(component("a", { type: "other" }));
    expect([...roster.ordered({ type: "collector" })]).to.deep.equal([]);
    expect([...roster.ordered({ type: "other" })].map(({ id }) => id)).to.deep.equal(["a"]);
  });
});

describe("an event of the registry", () => {
  const sight = (fields: Partial<StoredComponent> = {}, heard = true): Sight => ({
    document: component("c", fields),
    heard,
  });
  const cases: [string, Sight | undefined, Sight | undefined, string][] = [
    ["a new record", undefined, sight(), "up"],
    ["other words of the same process", sight(), sight({ tags: ["a"] }), "changed"],
    ["a newer process", sight(), sight({ incarnation: 2 }), "up"],
    ["another type of the same process", sight(), sight({ type: "other" }), "up"],
    ["a move to another site", sight(), sight({ site: "there" }), "up"],
    ["a lease that ran out", sight(), sight({ state: "expired" }), "expired"],
    ["a return", sight({ state: "expired" }), sight({ incarnation: 2 }), "up"],
    ["a departure", sight(), sight({ state: "gone" }), "gone"],
    ["a removal", sight({ state: "gone" }), undefined, "removed"],
    ["a site that falls silent", sight(), sight({}, false), "unverified"],
    ["a site that is heard again", sight({}, false), sight(), "up"],
    ["news from a site that is silent", sight({}, false), sight({ tags: ["a"] }, false), "changed"],
  ];
  for (const [what, before, after, kind] of cases) {
    it(`calls ${what} "${kind}"`, () => {
      expect(eventOf(before, after)?.kind).to.equal(kind);
    });
  }

  const told = (query: Partial<DiscoveryQuery>, before: Sight | undefined, after: Sight | undefined) => {
    const event = eventOf(before, after);
    return event && toldAs({ state: "up", ...query }, event);
  };
  it("tells a watcher of the default states that a component expired", () => {
    expect(told({}, sight(), sight({ state: "expired" }))).to.equal("expired");
  });
  it("tells nothing to a watcher whose query it never fitted", () => {
    expect(told({ type: "other" }, sight(), sight({ state: "expired" }))).to.equal(undefined);
  });
  it("tells what leaves a query by its words as removed from it, and what enters as up", () => {
    const [plain, tagged] = [sight(), sight({ tags: ["a"] })];
    expect(told({ tags: ["a"] }, tagged, plain)).to.equal("removed");
    expect(told({ tags: ["a"] }, plain, tagged)).to.equal("up");
  });
  it("tells who asks for passing ones when a check fails", () => {
    expect(told({ health: "passing" }, sight(), sight({ health: { status: "failing" } }))).to.equal("removed");
  });
  it("tells what leaves a query by its words and changes its state as well so that no copy keeps it", () => {
    const [tagged, gone] = [sight({ tags: ["a"] }), sight({ state: "gone" })];
    expect(told({ state: "any", tags: ["a"] }, tagged, gone)).to.equal("removed");
    expect(told({ tags: ["a"] }, tagged, gone)).to.equal("gone");
  });
  it("keeps a copy by the guide's table equal to the answer, whatever changes in one write", () => {
    const states = ["up", "expired", "gone"] as const;
    const fields = fc.record({
      state: fc.constantFrom(...states),
      tags: fc.subarray(["a"]),
      type: fc.constantFrom("collector", "other"),
      incarnation: fc.integer({ min: 1, max: 2 }),
    });
    const sights = fc.option(
      fc.tuple(fields, fc.boolean()).map(([said, heard]) => sight(said, heard)),
      { nil: undefined },
    );
    const queries = fc.record({
      state: fc.constantFrom(...states, "unverified" as const, "any" as const),
      tags: fc.subarray(["a"]),
    });
    fc.assert(
      fc.property(queries, sights, sights, (query, before, after) => {
        const isListed = (seen: Sight | undefined) => seen !== undefined && fits(query, seen.document, seen.heard);
        const kind = told(query, before, after);
        const isPut = kind === "expired" || kind === "gone" ? ["any", kind].includes(query.state) : kind !== "removed";
        expect(kind === undefined ? isListed(before) : isPut, kind).to.equal(isListed(after));
      }),
    );
  });
  it("keeps a component of a silent site in the list as unverified", () => {
    expect(told({}, sight(), sight({}, false))).to.equal("unverified");
  });
});

describe("the event log", () => {
  const event = (id: string) => eventOf(undefined, { document: component(id), heard: true }) as never;

  it("gives what came after an id", () => {
    const log = new EventLog("run", 10);
    const first = log.append(event("a"));
    log.append(event("b"));
    log.append(event("c"));
    expect(log.after(first.id)?.map(({ event }) => event.component.id)).to.deep.equal(["b", "c"]);
    expect(log.after(log.lastId)).to.deep.equal([]);
  });

  it("cannot resume from what it has forgotten", () => {
    const log = new EventLog("run", 2);
    const ids = [log.lastId, ...["a", "b", "c"].map((id) => log.append(event(id)).id)];
    expect(log.after(ids[0] as string)).to.equal(undefined);
    expect(log.after(ids[1] as string)).to.have.length(2);
  });

  it("cannot resume from the ids of another run, of the future, or of nothing", () => {
    const log = new EventLog("run", 10);
    log.append(event("a"));
    for (const id of ["other-0", "run-2", "run-", "", "run-1x"]) expect(log.after(id), id).to.equal(undefined);
  });
});
