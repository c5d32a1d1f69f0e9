import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { startSiteStore } from "../support/site-store.ts";
import { replicateOnce } from "./sites-fixture.ts";

type Any = Document & Record<string, unknown>;

interface Site {
  name: string;
  embedded: Embedded;
  store: Store;
  coordinator: RunningCoordinator;
}

/** What somebody writes straight to a site's store, past its coordinator, and is none of its kind. */
describe("a revision that is none of its kind", function () {
  this.timeout(60_000);
  let sites: Site[];

  const start = (name: string, embedded: Embedded) => startCoordinator({ site: name, couchdbUrl: embedded.url });
  before(async () => {
    sites = await Promise.all(
      ["east", "west"].map(async (name) => {
        const embedded = await startSiteStore();
        return { name, embedded, store: new Store(embedded.url), coordinator: await start(name, embedded) };
      }),
    );
  });
  after(async () => {
    for (const { coordinator, embedded } of sites ?? []) {
      await coordinator.close();
      await embedded.close();
    }
  });

  const both = () => sites as [Site, Site];
  const exchange = async () => {
    const [east, west] = both();
    await replicateOnce(east.store, west.store);
    await replicateOnce(west.store, east.store);
  };
  const restart = async () => {
    for (const site of sites) {
      await site.coordinator.close();
      site.coordinator = await start(site.name, site.embedded);
    }
  };
  const path = (type: string) => `/v1/config/layers/type:${type}`;
  const writeStraight = async ({ store }: Site, type: string, fields: object) => {
    const database = store.database<Any>(databases.config);
    const stored = (await database.get(`layer:type:${type}`)) as Any;
    return database.put({ ...stored, version: Number(stored.version) + 1, ...fields });
  };
  const state = async ({ coordinator }: Site, type: string) => {
    const { versions } = (await coordinator.call("GET", `${path(type)}/history`)).body;
    const { conflicts } = (await coordinator.call("GET", "/v1/conflicts")).body;
    return {
      settings: (await coordinator.call("GET", path(type))).body.settings,
      history: versions.map(({ rev }: { rev: string }) => rev),
      unusable: conflicts
        .filter(({ layer }: { layer: string }) => layer === `type:${type}`)
        .flatMap(({ candidates }: { candidates: { rev: string; unusable?: true }[] }) => candidates)
        .filter(({ unusable }: { unusable?: true }) => unusable === true)
        .map(({ rev }: { rev: string }) => rev),
    };
  };

  const unsound: [string, object][] = [
    ["content", { content: "nonsense" }],
    ["settings", { settings: { _x: 1 } }],
    ["note", { note: 5 }],
  ];

  it("beside a valid edit of another site has no effect at either, over a restart too, and is listed", async () => {
    const [east, west] = both();
    for (const [type] of unsound) await east.coordinator.call("PUT", path(type), { settings: { n: 1 } });
    await exchange();
    const revs = new Map<string, string>();
    for (const [type, fields] of unsound) {
      await eventually(async () => expect((await state(west, type)).settings).to.deep.equal({ n: 1 }));
      revs.set(type, await writeStraight(east, type, fields));
      const patched = await west.coordinator.call("PATCH", path(type), { settings: { valid: 1 } });
      expect(patched.status).to.equal(200);
    }
    const expectAlike = async () => {
      for (const [type] of unsound) {
        const [one, other] = [await state(east, type), await state(west, type)];
        expect(one).to.deep.equal(other);
        expect(one.settings).to.deep.equal({ n: 1, valid: 1 });
        expect(one.unusable).to.deep.equal([revs.get(type)]);
        expect(one.history).to.not.include(revs.get(type));
      }
    };
    await eventually(
      async () => {
        await exchange();
        await expectAlike();
      },
      { timeoutMs: 20_000 },
    );
    await restart();
    await expectAlike();
    const patched = await east.coordinator.call("PATCH", path("settings"), { settings: { more: 1 } });
    expect([patched.status, patched.body.settings]).to.deep.equal([200, { n: 1, valid: 1, more: 1 }]);
  });

  it("is listed where a write takes its place, and stays what stands when that is closed", async () => {
    const [east] = both();
    await east.coordinator.call("PUT", path("alone"), { settings: { n: 1 } });
    const files = Object.fromEntries(
      Array.from({ length: 66 }, (_, n) => [
        `f${n}`,
        { contentType: "text/plain", sha256: "0".repeat(64), sizeBytes: 1 },
      ]),
    );
    const rev = await writeStraight(east, "alone", { content: files });
    const faults = async () =>
      (await east.coordinator.call("GET", "/v1/config/faults")).body.faults.map(({ rev: of }: { rev: string }) => of);
    await eventually(async () => expect(await faults()).to.include(rev));
    const patched = await east.coordinator.call("PATCH", path("alone"), { settings: { m: 1 } });
    expect([patched.status, patched.body.settings]).to.deep.equal([200, { n: 1, m: 1 }]);
    await eventually(async () => expect((await state(east, "alone")).unusable).to.deep.equal([rev]));
    const { conflicts } = (await east.coordinator.call("GET", "/v1/conflicts")).body;
    const { id, candidates } = conflicts.find(({ layer }: { layer: string }) => layer === "type:alone");
    const [kept, replaced] = candidates;
    expect(kept).to.include({ live: true });
    expect(replaced).to.deep.include({
      rev,
      live: false,
      unusable: true,
      value: { settings: { n: 1 }, content: files },
    });
    const resolution = `/v1/conflicts/${id}/resolution`;
    expect((await east.coordinator.call("POST", resolution, { choose: rev })).status).to.equal(422);
    expect((await east.coordinator.call("POST", resolution, { choose: kept.rev })).status).to.equal(200);
    expect((await state(east, "alone")).settings).to.deep.equal({ n: 1, m: 1 });
  });
});
