import { expect } from "chai";
import type { ComponentDocument, Registration } from "../../config-db/generated/types.ts";
import { register, removed, tombstone, withState } from "../../coordinator/registry/registration.ts";

const context = { site: "here", epoch: 3, at: "2024-01-01T00:00:00.000Z" };
const later = { ...context, at: "2024-01-02T00:00:00.000Z" };
const said: Registration = {
  type: "collector",
  endpoints: { http: "http://127.0.0.1:1/" },
  tags: ["a", "b"],
  metadata: { zone: { name: "x" } },
  instance: "process-1",
};

function registered(registration: Registration, current?: ComponentDocument, when = context): ComponentDocument {
  const document = register("c1", registration, current, when);
  if (document === undefined) throw new Error("nothing is written");
  return document;
}

describe("a registration", () => {
  it("makes a record with all that was said and the default TTL", () => {
    expect(registered(said)).to.deep.equal({
      _id: "component:c1",
      kind: "component",
      schemaVersion: 1,
      id: "c1",
      site: "here",
      ...said,
      ttlMs: 30_000,
      state: "up",
      incarnation: 1,
      registeredAt: context.at,
      changedAt: context.at,
      epoch: 3,
    });
  });

  it("changes nothing when the same process says the same again", () => {
    const current = registered(said);
    expect(register("c1", structuredClone(said), current, later)).to.equal(undefined);
  });

  it("keeps incarnation, reports and the time of registration when the same process says something else", () => {
    const health = { status: "warning" as const };
    const configStatus = { etag: "e", status: "applied" as const, at: context.at };
    const current = { ...registered(said), _rev: "1-x", health, configStatus };
    const next = registered({ ...said, tags: ["c"] }, current, later);
    expect(next).to.include({ incarnation: 1, registeredAt: context.at, changedAt: later.at, _rev: "1-x" });
    expect(next).to.deep.include({ tags: ["c"], health, configStatus });
  });

  it("raises the incarnation of another process and forgets what the former one reported", () => {
    const health = { status: "failing" as const };
    const next = registered({ ...said, instance: "process-2" }, { ...registered(said), health }, later);
    expect(next).to.include({ incarnation: 2, instance: "process-2", registeredAt: later.at });
    expect(next).not.to.have.property("health");
  });

  for (const state of ["expired", "gone"] as const) {
    it(`raises the incarnation of the same process when it was ${state}`, () => {
      const current = withState(registered(said), state, context);
      expect(registered(said, current, later)).to.include({ incarnation: 2, state: "up" });
    });
  }

  it("goes on counting from the incarnation of a record that was removed", () => {
    expect(register("c1", said, undefined, { ...context, removed: 4 })?.incarnation).to.equal(5);
  });

  it("raises the incarnation of the same process when one that was removed had it", () => {
    const current = registered(said);
    expect(register("c1", said, current, { ...context, removed: 1 })?.incarnation).to.equal(2);
    expect(register("c1", said, current, { ...context, removed: 0 })).to.equal(undefined);
  });

  it("takes a process that does not name itself for the same one, and for another than a named one", () => {
    const { instance: _, ...unnamed } = said;
    const current = registered(unnamed);
    expect(register("c1", unnamed, current, later)).to.equal(undefined);
    expect(registered(unnamed, registered(said), later).incarnation).to.equal(2);
  });

  it("drops what is not said again", () => {
    const next = registered({ type: "collector", instance: "process-1" }, registered(said), later);
    expect(next).not.to.have.any.keys("endpoints", "tags", "metadata");
  });

  it("moves a component that is up at another site here under a higher incarnation, with what it reported", () => {
    const health = { status: "warning" as const };
    const elsewhere = { ...registered(said), site: "there", _rev: "4-x", health };
    const here = registered(said, elsewhere, later);
    expect(here).to.deep.include({ site: "here", _rev: "4-x", incarnation: 2, registeredAt: later.at, health });
    expect(registered(said, here, { ...later, site: "there" }).incarnation, "moved back").to.equal(3);
  });

  it("takes a lease that the component kept itself into the site's judgement", () => {
    const current = { ...registered(said), lease: "self" as const, renewal: 7 };
    expect(registered(said, current, later)).not.to.have.any.keys("lease", "renewal");
  });
});

describe("a tombstone", () => {
  it("keeps what filters look at, nothing of what the component said, and that its removal is under way until it is done", () => {
    const current: ComponentDocument = {
      ...registered({ ...said, subsystem: "edge", webhook: { url: "http://x/", secret: "0123456789abcdef" } }),
      _rev: "2-x",
      state: "gone",
    };
    const underWay = tombstone(current, { epoch: 4, at: later.at });
    expect(underWay.removing).to.equal(true);
    expect(removed(underWay)).to.deep.equal({
      _id: "component:c1",
      _rev: "2-x",
      _deleted: true,
      kind: "component",
      schemaVersion: 1,
      id: "c1",
      type: "collector",
      subsystem: "edge",
      site: "here",
      ttlMs: 30_000,
      state: "gone",
      incarnation: 1,
      registeredAt: context.at,
      changedAt: later.at,
      epoch: 4,
    });
  });
});
