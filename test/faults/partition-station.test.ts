import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { lostEdits, type PartitionSite, type TakenEdit, visibleState } from "./partition-harness.ts";

/** Edits on each side while the station is away: CI's size, and with MUSTER_TEST_FULL=1 the judged one. */
const editsEach = process.env.MUSTER_TEST_FULL === "1" ? 500 : 60;

describe("an operator's station", function () {
  this.timeout(150_000);
  const dataDirs: string[] = [];
  let site: RunningCoordinator;
  let station: RunningCoordinator;
  let proxy: FaultProxy;
  let dataDir: string;

  const startStation = async (directory: string) => {
    const peers = `site=http://127.0.0.1:${proxy.port}`;
    return startCoordinator({ site: "station", dataDir: directory, args: ["--peers", peers] });
  };
  const freshDirectory = async () => {
    const directory = await mkdtemp(join(tmpdir(), "muster-station-"));
    dataDirs.push(directory);
    return directory;
  };
  const at = (name: string, { call }: RunningCoordinator) => ({ name, call }) as PartitionSite;

  before(async () => {
    site = await startCoordinator({ site: "site" });
    const { body } = await site.call("GET", "/v1/sites");
    proxy = await startProxy({ port: Number(new URL(body.sites[0].couchdbUrl).port) });
    dataDir = await freshDirectory();
    station = await startStation(dataDir);
  });
  after(async () => {
    await station?.close();
    await site?.close();
    await proxy?.close();
    for (const directory of dataDirs) await rm(directory, { recursive: true, force: true });
  });

  const edits: TakenEdit[] = [];
  async function edit(name: string, where: RunningCoordinator, layer: string, field: string): Promise<void> {
    const value = `${name}-${randomBytes(5).toString("hex")}`;
    const { status } = await where.call("PATCH", `/v1/config/layers/${layer}`, { settings: { [field]: value } });
    expect(status).to.be.oneOf([200, 201]);
    edits.push({ site: name, layer, field, value });
  }
  const equal = (layers: string[], timeoutMs: number) =>
    eventually(
      async () => {
        const [one, other] = [
          await visibleState(at("site", site), layers),
          await visibleState(at("station", station), layers),
        ];
        expect(other).to.deep.equal(one);
      },
      { timeoutMs, everyMs: 100 },
    );
  const isUp = () =>
    eventually(async () => {
      const { body } = await station.call("GET", "/v1/sites");
      const row = body.sites.find(({ name }: { name: string }) => name === "site");
      expect(row, JSON.stringify(row)).to.deep.include({ state: "up", lag: { changes: 0, ms: 0 } });
      return row;
    });

  const layers = [0, 1, 2, 3, 4].map((n) => `type:l${n}`);

  it("needs no broker, and refuses messages in so many words", async () => {
    await isUp();
    const { status, body } = await station.call("POST", "/v1/commands", { to: { all: true }, name: "go" });
    expect([status, body.code]).to.deep.equal([503, "broker-unavailable"]);
  });

  it("is edited offline like any site, and merges with what the site did meanwhile", async () => {
    await site.call("PUT", "/v1/components/c1", { type: "l0", ttlMs: 600_000 });
    for (const layer of layers) await edit("site", site, layer, "common");
    await equal(layers, 10_000);
    proxy.cut();
    for (let n = 0; n < editsEach; n++) {
      const layer = layers[n % layers.length] as string;
      // Most edits are of fields that one side alone touches, some of fields that both do.
      const field = (own: string) => (n % 10 === 0 ? "common" : `${own}-${n % 20}`);
      await Promise.all([edit("site", site, layer, field("site")), edit("station", station, layer, field("station"))]);
    }
    expect((await station.call("GET", "/v1/components/c1")).status).to.equal(200);
    proxy.heal();
    const from = performance.now();
    await equal(layers, 30_000);
    process.stdout.write(
      `      ${editsEach} edits on each side, equal after ${Math.round(performance.now() - from)} ms\n`,
    );
    expect(await lostEdits(at("site", site), edits)).to.deep.equal([]);
    expect(await lostEdits(at("station", station), edits)).to.deep.equal([]);
    const { conflicts } = (await station.call("GET", "/v1/conflicts")).body;
    const places = conflicts.map(({ layer, pointer }: Record<string, string>) => `${layer} ${pointer}`);
    expect(places).to.deep.equal([`${layers[0]} /common`]);
  });

  it("goes on from its checkpoint when it is stopped and started", async () => {
    await isUp();
    await station.close();
    await edit("site", site, "type:l1", "while-stopped");
    station = await startStation(dataDir);
    await equal(layers, 15_000);
    const { replication } = await isUp();
    const pulled = replication.filter(({ direction }: { direction: string }) => direction === "pull");
    const written = pulled.reduce((sum: number, row: { documentsWritten: number }) => sum + row.documentsWritten, 0);
    // The edit and its history, and the site's heartbeats of these seconds: not everything anew.
    expect(written).to.be.greaterThan(0).and.lessThan(15);
  });

  it("can be deleted and built anew", async () => {
    await station.close();
    station = await startStation(await freshDirectory());
    await equal(layers, 30_000);
    await edit("station", station, "type:l2", "after-rebuild");
    await equal(layers, 15_000);
  });
});
