/** Configuration read through the bridge against the document read straight from the same store. */
import autocannon from "autocannon";
import { startCoordinator } from "../../support/coordinator.ts";
import type { Contender, Figures, Row } from "../harness.ts";

const connections = 64;
const secondsPerRound = 5;

async function getRate(url: string): Promise<Figures> {
  const result = await autocannon({ url, connections, duration: secondsPerRound });
  if (result.non2xx > 0 || result.errors > 0)
    throw new Error(`${url}: ${result.non2xx} wrong answers, ${result.errors} errors`);
  return { opsPerSecond: result.requests.average, p50Ms: result.latency.p50, p99Ms: result.latency.p99 };
}

export const rows: Row[] = [
  {
    work: `GET of a component's configuration, ${connections} connections: bridge (warm) vs the document in the same store`,
    figure: "opsPerSecond",
    better: "higher",
    targetRatio: 3,
    async setUp() {
      const couchdbUrl = process.env.MUSTER_TEST_COUCHDB_URL;
      const coordinator = await startCoordinator(couchdbUrl === undefined ? {} : { couchdbUrl });
      const settings = {
        samplingIntervalMs: 1000,
        metrics: ["cpu", "memory", "eventLoopDelay"],
        endpoint: "http://sink.example/v1",
      };
      await coordinator.call("PUT", "/v1/config/layers/component:bench", { settings });
      const { config } = (await coordinator.call("PUT", "/v1/components/bench", { type: "bench", ttlMs: 3_600_000 }))
        .body;
      const contender = (name: string, target: string): Contender => ({ name, measure: () => getRate(target) });
      return {
        contenders: [
          contender("bridge", new URL(config.url, coordinator.url).href),
          contender(couchdbUrl === undefined ? "embedded store" : "CouchDB", config.document),
        ],
        tearDown: () => coordinator.close(),
      };
    },
  },
];
