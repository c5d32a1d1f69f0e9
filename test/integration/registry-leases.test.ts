import { expect } from "chai";
import { pino } from "pino";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { MusterError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { withFixedRevision } from "../../config-db/revision.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { Records } from "../../coordinator/registry/records.ts";
import { compareStanding } from "../../coordinator/sites/registry-resolve.ts";
import { codeOf } from "../support/codes.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { type Member, startMember } from "../support/site-member.ts";

let names = 0;
function freshId(what: string): string {
  names += 1;
  return `${what}-${names}`;
}

describe("the registry of a site", () => {
  let embedded: Embedded;
  let member: Member;
  const removed: string[] = [];
  let isBrokerAway = false;

  before(async () => {
    embedded = await startEmbedded();
    await install(new Store(embedded.url));
    member = await startMember({
      storeUrl: embedded.url,
      remove: async ({ id, type }) => {
        if (isBrokerAway) throw new MusterError("broker-unavailable", "try again");
        removed.push(`${type}/${id}`);
      },
    });
    // A new leader first reads what was sent to its predecessor; from then on leases are judged to the point.
    await member.registry.register("first", { type: "collector", ttlMs: 1_000 });
    await eventually(() => expect(stateOf("first")).to.equal("expired"));
  });
  after(async () => {
    await member?.close();
    await embedded?.close();
  });

  const database = () => member.store.database<ComponentDocument>(databases.registry);
  const stored = (id: string) => database().get(`component:${id}`);
  const stateOf = (id: string) => member.registry.get(id)?.state;
  const register = (id: string, fields: Record<string, unknown> = {}) =>
    member.registry.register(id, { type: "collector", instance: "p1", ttlMs: 1_000, ...fields });

  it("answers a registration once its record is stored", async () => {
    const id = freshId("new");
    const { created, record, expiresInMs } = await register(id, { ttlMs: 20_000 });
    expect(created).to.equal(true);
    expect(expiresInMs).to.equal(20_000);
    expect(await stored(id)).to.deep.equal(record);
  });

  it("writes nothing for the same registration again", async () => {
    const id = freshId("again");
    const { record } = await register(id, { ttlMs: 20_000 });
    const again = await register(id, { ttlMs: 20_000 });
    expect(again.created).to.equal(false);
    expect((await stored(id))?._rev).to.equal(record._rev);
  });

  it("stores registrations that wait together each under its own id", async () => {
    const ids = Array.from({ length: 200 }, () => freshId("many"));
    const answers = await Promise.all(ids.map((id) => register(id, { ttlMs: 60_000 })));
    expect(answers.map(({ record }) => record.id)).to.deep.equal(ids);
    const rows = await database().list("component:many-");
    expect(rows.map((row) => row.id)).to.include.members(ids);
  });

  it("raises the incarnation once for each of two processes that register at the same time", async () => {
    const id = freshId("race");
    const answers = await Promise.all(["p1", "p2"].map((instance) => register(id, { instance, ttlMs: 20_000 })));
    expect(answers.map(({ record }) => record.incarnation).sort()).to.deep.equal([1, 2]);
    expect((await stored(id))?.incarnation).to.equal(2);
  });

  it("expires a component that falls silent when its TTL is over and not before", async () => {
    const id = freshId("silent");
    await register(id);
    const silentSince = performance.now();
    let expiredAfterMs = 0;
    const unsubscribe = member.registry.subscribe(({ kind, component }) => {
      if (component.id === id && kind === "expired") expiredAfterMs = performance.now() - silentSince;
    });
    await eventually(() => expect(expiredAfterMs).to.be.above(0));
    unsubscribe();
    // How soon after is test/bench/leases.ts's to measure: a busy machine makes it later, never earlier.
    expect(expiredAfterMs).to.be.at.least(990);
    expect(await stored(id)).to.include({ state: "expired" });
  });

  it("keeps a component that renews, and writes nothing for it", async () => {
    const id = freshId("steady");
    const { record } = await register(id);
    for (let renewals = 0; renewals < 8; renewals += 1) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      expect(await member.registry.renew(id, { incarnation: 1 })).to.deep.equal({ expiresInMs: 1_000 });
    }
    expect(stateOf(id)).to.equal("up");
    expect((await stored(id))?._rev).to.equal(record._rev);
  });

  it("counts a renewal by message and a poll as well as one by request", async () => {
    const [byMessage, byPoll] = [freshId("message"), freshId("poll")];
    await Promise.all([register(byMessage), register(byPoll)]);
    for (let renewals = 0; renewals < 5; renewals += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      member.registry.hear({ id: byMessage, incarnation: 1 });
      member.registry.touch(byPoll);
    }
    expect([stateOf(byMessage), stateOf(byPoll)]).to.deep.equal(["up", "up"]);
  });

  it("tells the older of two processes under one id that it is superseded", async () => {
    const id = freshId("twice");
    await register(id, { ttlMs: 20_000 });
    await register(id, { ttlMs: 20_000, instance: "p2" });
    expect(await codeOf(member.registry.renew(id, { incarnation: 1 }))).to.equal("superseded");
    expect(await codeOf(member.registry.renew(id, { incarnation: 2 }))).to.equal("none");
    expect(await codeOf(member.registry.deregister(id, { incarnation: 1 }))).to.equal("superseded");
    expect(stateOf(id)).to.equal("up");
  });

  it("lets no renewal by message of an older process keep the id up", async () => {
    const id = freshId("ghost");
    await register(id);
    await register(id, { instance: "p2" });
    expect(member.registry.hear({ id, incarnation: 2 })).to.equal(undefined);
    expect(member.registry.hear({ id, incarnation: 1 })).to.equal("superseded");
    const ghost = setInterval(() => member.registry.hear({ id, incarnation: 1 }), 100);
    await eventually(() => expect(stateOf(id)).to.equal("expired"));
    clearInterval(ghost);
  });

  it("refuses to renew what is unknown, expired or gone", async () => {
    const [expired, gone] = [freshId("expired"), freshId("gone")];
    await Promise.all([register(expired), register(gone)]);
    await member.registry.deregister(gone);
    await eventually(() => expect(stateOf(expired)).to.equal("expired"));
    for (const id of [expired, gone, freshId("unknown")]) {
      expect(await codeOf(member.registry.renew(id)), id).to.equal("not-registered");
    }
  });

  it("has an expired component up again, as a new incarnation, when it registers", async () => {
    const id = freshId("back");
    await register(id);
    await eventually(() => expect(stateOf(id)).to.equal("expired"));
    expect((await register(id, { ttlMs: 20_000 })).record).to.include({ state: "up", incarnation: 2 });
  });

  it("writes the health that renewals report when it changes, and only then", async () => {
    const id = freshId("health");
    const { record } = await register(id, { ttlMs: 20_000 });
    const health = { status: "failing" as const, reason: "disk full" };
    for (let renewals = 0; renewals < 5; renewals += 1) await member.registry.renew(id, { health });
    await eventually(async () => expect((await stored(id))?.health).to.deep.equal(health));
    await member.registry.renew(id, { health });
    await member.registry.renew(id);
    expect(Number.parseInt((await stored(id))?._rev ?? "", 10)).to.equal(Number.parseInt(record._rev ?? "", 10) + 1);
    expect(stateOf(id)).to.equal("up");
  });

  it("leaves a component that deregisters on record as gone, and removes it with its queues when purged", async () => {
    const id = freshId("leaving");
    await register(id, { subsystem: "edge", metadata: { a: 1 } });
    await member.registry.deregister(id);
    await member.registry.deregister(id);
    expect(await stored(id)).to.include({ state: "gone" });
    await member.registry.deregister(id, { purge: true });
    expect(member.registry.get(id)).to.equal(undefined);
    expect(removed).to.include(`collector/${id}`);
    const [leaf] = await database().leaves(`component:${id}`);
    expect(leaf).to.include({ _deleted: true, type: "collector", subsystem: "edge", site: "here" });
    expect(leaf).not.to.have.property("metadata");
    expect(await codeOf(member.registry.deregister(id))).to.equal("not-found");
  });

  it("takes no queues away when a newer process registers while the component is purged", async () => {
    const id = freshId("raced");
    await register(id);
    const [{ record }, code] = await Promise.all([
      register(id, { instance: "p2", ttlMs: 20_000 }),
      codeOf(member.registry.deregister(id, { purge: true, incarnation: 1 })),
    ]);
    expect([record.incarnation, code]).to.deep.equal([2, "superseded"]);
    expect(stateOf(id)).to.equal("up");
    expect(removed).not.to.include(`collector/${id}`);
  });

  it("takes no queues away when the store cannot be told of a purge", async () => {
    const gone = await startEmbedded();
    await install(new Store(gone.url));
    const taken: string[] = [];
    const cutOff = await startMember({ storeUrl: gone.url, remove: async ({ id }) => void taken.push(id) });
    const id = freshId("kept");
    await cutOff.registry.register(id, { type: "collector" });
    await gone.close();
    expect(await codeOf(cutOff.registry.deregister(id, { purge: true }))).to.equal("store-unavailable");
    expect(taken).to.deep.equal([]);
    await cutOff.close();
  });

  it("takes the queues away by a second purge when the first could not", async () => {
    const id = freshId("left");
    await register(id);
    isBrokerAway = true;
    expect(await codeOf(member.registry.deregister(id, { purge: true }))).to.equal("broker-unavailable");
    isBrokerAway = false;
    expect(member.registry.get(id)).to.equal(undefined);
    expect(await codeOf(member.registry.deregister(id))).to.equal("not-found");
    expect(await codeOf(member.registry.deregister(id, { purge: true }))).to.equal("none");
    expect(removed).to.include(`collector/${id}`);
    expect(await codeOf(member.registry.deregister(freshId("unknown"), { purge: true }))).to.equal("not-found");
  });

  it("takes a new registration of what was removed", async () => {
    const id = freshId("returning");
    await register(id);
    await member.registry.deregister(id, { purge: true });
    expect(await register(id, { ttlMs: 20_000 })).to.include({ created: true });
    expect(stateOf(id)).to.equal("up");
  });

  it("tells a process of before a removal that a newer one has its id", async () => {
    const id = freshId("returning");
    await register(id);
    await register(id, { instance: "p2" });
    await member.registry.deregister(id, { purge: true });
    const { record } = await register(id, { instance: "p3", ttlMs: 20_000 });
    expect(record.incarnation).to.equal(3);
    expect(await codeOf(member.registry.renew(id, { incarnation: 2 }))).to.equal("superseded");
    expect(await codeOf(member.registry.deregister(id, { incarnation: 2 }))).to.equal("superseded");
    expect(stateOf(id)).to.equal("up");
  });

  it("refuses a registration for the time being when the store has lost its databases", async () => {
    const own = await startEmbedded();
    const store = new Store(own.url);
    await install(store);
    const other = await startMember({ storeUrl: own.url });
    try {
      await other.registry.register("kept", { type: "collector" });
      await store.request({ method: "DELETE", path: databases.registry });
      for (const id of ["kept", "new"]) {
        const refusal = () => other.registry.register(id, { type: "other" });
        const { retryAfterMs } = await expectError(refusal, "store-unavailable", /next start of a coordinator/);
        expect(retryAfterMs).to.be.above(0);
      }
    } finally {
      await other.close();
      await own.close();
    }
  });

  for (const [what, incarnation, isRemoved] of [
    ["the highest incarnation", 2 ** 48, false],
    ["an incarnation beyond the highest", 2 ** 53, false],
    ["the highest incarnation, removed", 2 ** 48, true],
    ["an incarnation beyond the highest, removed", 2 ** 53, true],
  ] as const)
    it(`takes a new registration of what was written with ${what}`, async () => {
      const own = await startEmbedded();
      try {
        const store = new Store(own.url);
        await install(store);
        const docs = store.database<ComponentDocument>(databases.registry);
        const guard = (await store.database(databases.registry).get("_design/muster")) as Document;
        const { rev: off } = await store.request<{ rev: string }>({
          method: "DELETE",
          path: `${databases.registry}/_design/muster`,
          query: { rev: guard._rev as string },
        });
        const id = freshId("written");
        const { record } = await register(id, { ttlMs: 20_000 });
        const { _rev, ...written } = { ...record, state: "expired" as const, incarnation };
        await docs.put({ ...written, ...(isRemoved ? { _deleted: true } : {}) });
        await store.database(databases.registry).put({ ...guard, _rev: off });
        const other = await startMember({ storeUrl: own.url });
        try {
          for (const instance of ["p2", "p3"]) {
            const again = await other.registry.register(id, { type: "collector", instance });
            expect(again.record).to.include({ state: "up", instance, incarnation: 2 ** 48 });
          }
        } finally {
          await other.close();
        }
      } finally {
        await own.close();
      }
    });

  it("knows the incarnation of what was removed from the feed, and where that is behind from the store", async () => {
    const id = freshId("removed");
    await register(id);
    await register(id, { instance: "p2" });
    await member.registry.deregister(id, { purge: true });
    const others = () =>
      new Records({
        store: member.store,
        hears: () => true,
        compareBranches: compareStanding,
        logger: pino({ level: "silent" }),
        run: "other",
      });
    const [fed, behind] = [others(), others()];
    fed.apply((await database().changes(0)).results);
    expect(fed.incarnationOfRemoved(id)).to.equal(2);
    expect(await behind.refresh(id)).to.equal(undefined);
    expect(behind.incarnationOfRemoved(id)).to.equal(2);
  });

  it("judges a record written straight to the store by its counter", async () => {
    const id = freshId("self");
    const document: ComponentDocument = {
      _id: `component:${id}`,
      kind: "component",
      schemaVersion: 1,
      id,
      type: "collector",
      site: "here",
      ttlMs: 1_000,
      state: "up",
      incarnation: 1,
      registeredAt: new Date().toISOString(),
      changedAt: new Date().toISOString(),
      lease: "self",
      renewal: 0,
    };
    let rev = await database().put(document);
    for (let renewal = 1; renewal <= 5; renewal += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      rev = await database().put({ ...document, _rev: rev, renewal });
    }
    expect(stateOf(id)).to.equal("up");
    rev = await database().put({ ...document, _rev: rev, renewal: 5, tags: ["no-sign-of-life"] });
    await eventually(() => expect(stateOf(id)).to.equal("expired"));
    rev = (await stored(id))?._rev as string;
    await database().put({ ...document, _rev: rev, renewal: 6, state: "expired" });
    await eventually(() => expect(stateOf(id)).to.equal("up"));
    expect(member.registry.get(id)?.incarnation).to.equal(2);
  });

  it("keeps a component that moved here while its former site, cut off, expired it and its revisions come", async () => {
    const id = freshId("moved");
    const at = new Date().toISOString();
    const there: ComponentDocument = {
      _id: `component:${id}`,
      kind: "component",
      schemaVersion: 1,
      id,
      type: "collector",
      site: "there",
      ttlMs: 60_000,
      state: "up",
      incarnation: 1,
      registeredAt: at,
      changedAt: at,
    };
    const first = await database().put(there);
    await eventually(() => expect(stateOf(id)).to.equal("up"));
    expect((await register(id, { ttlMs: 60_000 })).record.incarnation).to.equal(2);
    const events: string[] = [];
    const stop = member.registry.subscribe(({ kind, component }) => {
      if (component.id === id) events.push(kind);
    });
    const second = withFixedRevision({ ...there, health: { status: "warning" } }, [first]);
    const expired = withFixedRevision<ComponentDocument>({ ...there, state: "expired" }, [second._rev, first]);
    await database().bulk([expired], { newEdits: false });
    expect((await stored(id))?._rev, "the store gives the former site's").to.equal(expired._rev);
    const last = freshId("last");
    await database().put({ ...there, _id: `component:${last}`, id: last });
    await eventually(() => expect(stateOf(last)).to.equal("up"));
    stop();
    expect(events).to.deep.equal([]);
    await member.registry.renew(id, { incarnation: 2 });
  });

  it("ignores a record that does not fit its schema", async () => {
    const id = freshId("bad");
    await database().put({
      _id: `component:${id}`,
      kind: "component",
      schemaVersion: 2,
      id,
    } as unknown as ComponentDocument);
    const good = freshId("good");
    await register(good);
    expect(member.registry.get(id)).to.equal(undefined);
    expect(stateOf(good)).to.equal("up");
  });

  it("believes no record that does not fit its schema when it is asked for by its id either", async () => {
    const id = freshId("bad");
    const type = freshId("type");
    const { record } = await register(id, { type, ttlMs: 20_000 });
    await database().put({ ...record, tags: 5, ttlMs: 5 } as unknown as ComponentDocument);
    await eventually(() => expect(member.registry.get(id)).to.equal(undefined));
    expect(await codeOf(member.registry.renew(id))).to.equal("not-registered");
    expect(await codeOf(member.registry.deregister(id, { purge: true }))).to.equal("not-found");
    expect(await codeOf(register(id, { type }))).to.equal("refused");
    expect(member.registry.get(id)).to.equal(undefined);
    const found = member.registry.discover({ type, tags: ["a"], state: "any" }, { limit: 10 });
    expect(found.records).to.deep.equal([]);
  });

  it("reads the components of a site whose beat stops as unverified, and as before when it is heard again", async () => {
    const site = freshId("site");
    const id = freshId("far");
    const beat = async (count: number) => {
      const known = await member.store.database(databases.registry).get(`site:${site}`);
      await member.store.database(databases.registry).put({
        ...(known === undefined ? {} : { _rev: known._rev }),
        _id: `site:${site}`,
        kind: "site",
        schemaVersion: 1,
        site,
        beat: count,
        beatEveryMs: 100,
        coordinatorUrl: "http://127.0.0.1:1",
        epoch: 1,
      } as never);
    };
    await beat(1);
    await database().put({
      ...(await register(freshId("model"))).record,
      _id: `component:${id}`,
      _rev: undefined,
      id,
      site,
    } as never);
    await eventually(() => expect(member.registry.read(id).record.state).to.equal("up"));
    const kinds: string[] = [];
    const unsubscribe = member.registry.subscribe(({ kind, component }) => {
      if (component.id === id) kinds.push(kind);
    });
    await eventually(() => expect(member.registry.read(id).record.state).to.equal("unverified"));
    expect(member.registry.read(id).record.lastKnownState).to.equal("up");
    const { records } = member.registry.discover({ state: "up", site }, { limit: 10 });
    expect(records.map((record) => record.id)).to.deep.equal([id]);
    await beat(2);
    await eventually(() => expect(member.registry.read(id).record.state).to.equal("up"));
    unsubscribe();
    expect(kinds).to.deep.equal(["unverified", "up"]);
    expect(await codeOf(member.registry.deregister(id))).to.equal("refused");
    expect(await codeOf(member.registry.renew(id))).to.equal("not-registered");
  }).timeout(15_000);
});
