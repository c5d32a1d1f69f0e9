import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import type { HistoryDocument, LayerDocument } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";

/** Acknowledged writes before the kill, which then comes within a write's time: never at the same place of one. */
const killAfterWrites = () => 20 + Math.floor(Math.random() * 40);
const killWithinMs = 20;

describe("a coordinator that is killed while layers are written", () => {
  let embedded: Embedded;

  before(async () => {
    embedded = await startEmbedded();
  });
  after(() => embedded?.close());

  /** Writes to a few layers at once until the coordinator is gone. @returns the highest version acknowledged of each. */
  async function writeUntilKilled(coordinator: RunningCoordinator): Promise<Map<string, number>> {
    const acknowledged = new Map<string, number>();
    let left = killAfterWrites();
    let killed: Promise<void> | undefined;
    const layers = ["platform", "type:killed", "component:a", "component:b"];
    const writers = layers.map(async (layer) => {
      for (let n = 0; ; n++) {
        try {
          const { status, body } = await coordinator.call("PUT", `/v1/config/layers/${layer}`, { settings: { n } });
          expect(status).to.be.oneOf([200, 201]);
          acknowledged.set(layer, body.version);
          left -= 1;
          if (left <= 0 && acknowledged.size === layers.length) {
            killed ??= delay(Math.random() * killWithinMs).then(() => coordinator.process.kill("SIGKILL"));
          }
        } catch (error) {
          if (error instanceof TypeError) return; // fetch lost the connection
          throw error;
        }
      }
    });
    await Promise.all(writers);
    await killed;
    return acknowledged;
  }

  it("finds every acknowledged version again, layer and history in agreement", async () => {
    const store = new Store(embedded.url);
    let acknowledged = new Map<string, number>();
    for (let round = 1; round <= 3; round++) {
      const coordinator = await startCoordinator({ couchdbUrl: embedded.url });
      try {
        for (const [layer, version] of acknowledged) {
          const stored = await store.database<LayerDocument>(databases.config).get(`layer:${layer}`);
          expect(stored?.version).to.be.at.least(version);
          const { body } = await coordinator.call("GET", `/v1/config/layers/${layer}/history?limit=1000`);
          const versions = body.versions as { version: number; rev: string; settings: unknown }[];
          expect(versions[0]).to.deep.include({
            version: stored?.version,
            rev: stored?._rev,
            settings: stored?.settings,
          });
          expect(versions.map((one) => one.version)).to.deep.equal(
            versions.map((_, index) => (stored?.version ?? 0) - index),
          );
          const kept = await store.database<HistoryDocument>(databases.config).list(`history:${layer}@`);
          expect(kept.map(({ version: of }) => of)).to.include(version);
        }
        acknowledged = await writeUntilKilled(coordinator);
        expect(acknowledged.size).to.equal(4);
      } finally {
        await coordinator.close();
      }
    }
  }).timeout(120_000);
});
