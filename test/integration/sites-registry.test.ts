import { expect } from "chai";
import { databases } from "../../config-db/names.ts";
import type { Document } from "../../config-db/store.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { type JoinedSite, joinSite } from "./sites-fixture.ts";

type Registered = Document & Record<string, unknown>;

describe("records of the registry that two sites wrote at once", function () {
  this.timeout(40_000);
  let east: JoinedSite;
  let west: JoinedSite;
  let proxy: FaultProxy;

  before(async () => {
    west = await joinSite("west");
    proxy = await startProxy({ port: Number(new URL(west.storeUrl).port) });
    east = await joinSite("east", { peers: [{ name: "west", couchdbUrl: `http://127.0.0.1:${proxy.port}` }] });
  });
  after(async () => {
    await east?.close();
    await proxy?.close();
    await west?.close();
  });

  const registry = (site: JoinedSite) => site.store.database<Registered>(databases.registry);
  const record = (id: string, site: string, incarnation: number, state = "up"): Registered => ({
    _id: `component:${id}`,
    kind: "component",
    schemaVersion: 1,
    id,
    type: "t",
    site,
    ttlMs: 30_000,
    state,
    incarnation,
    registeredAt: "2026-01-01T00:00:00.000Z",
    changedAt: "2026-01-01T00:00:00.000Z",
  });

  /** Writes one revision of a component at both sites, and another at each while they are cut off from each other. */
  async function writeApart(id: string, atEast: Registered, atWest: Registered): Promise<void> {
    await registry(west).put(record(id, "west", 1));
    const _rev = await eventually(async () => {
      const stored = await registry(east).get(`component:${id}`);
      if (stored === undefined) throw new Error("not here yet");
      return stored._rev;
    });
    proxy.cut();
    await registry(east).put({ ...atEast, _rev });
    await registry(west).put({ ...atWest, _rev });
    proxy.heal();
  }

  /** What both sites show in the end, with one branch standing. */
  const agreed = (id: string): Promise<Registered | undefined> =>
    eventually(
      async () => {
        const standing = async (site: JoinedSite) => {
          const leaves = await registry(site).leaves(`component:${id}`);
          const open = leaves.filter((leaf) => !("mergedInto" in leaf));
          expect(leaves.length, `${site.name} has both branches`).to.be.above(1);
          expect(open, site.name).to.have.length(1);
          // What stands, not what stood a moment before both branches were seen.
          const shown = await registry(site).get(`component:${id}`);
          expect(shown?._rev, site.name).to.equal(open[0]?._rev);
          return shown;
        };
        const [one, other] = [await standing(east), await standing(west)];
        expect(one).to.deep.equal(other);
        return one;
      },
      { timeoutMs: 20_000 },
    );

  it("become the one of the higher incarnation: the component moved while its former site expired it", async () => {
    await writeApart("moved", record("moved", "east", 2), record("moved", "west", 1, "expired"));
    expect(await agreed("moved")).to.include({ site: "east", incarnation: 2, state: "up" });
  });

  it("become that one also when the former site removed it", async () => {
    await writeApart("kept", record("kept", "east", 2), { ...record("kept", "west", 1, "gone"), _deleted: true });
    expect(await agreed("kept")).to.include({ site: "east", incarnation: 2, state: "up" });
  });

  it("become the one that is up when the incarnations are equal: the component moved there and back", async () => {
    await writeApart("back", record("back", "east", 2), record("back", "west", 2, "expired"));
    expect(await agreed("back")).to.include({ site: "east", state: "up" });
  });

  it("become the same one at both sites when the incarnations are equal", async () => {
    await writeApart("twice", record("twice", "east", 2), record("twice", "west", 2));
    expect(await agreed("twice")).to.include({ site: "west", incarnation: 2 });
  });
});
