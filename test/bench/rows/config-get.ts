/**
 * Configuration read through the bridge against the document read straight from the same store and, as the floor, against a
 * server that does nothing but give the bridge's answer (bare-answer.ts).
 */
import autocannon from "autocannon";
import { basicAuthorization } from "../../../config-db/basic-auth.ts";
import { startCoordinator } from "../../support/coordinator.ts";
import { spawnEntry } from "../../support/processes.ts";
import type { Contender, Figures, Row } from "../harness.ts";

const connections = 64;
const secondsPerRound = 5;

async function getRate(target: string): Promise<Figures> {
  const given = new URL(target);
  const url = given.origin + given.pathname;
  const headers = given.username === "" ? {} : { authorization: basicAuthorization(given) };
  const result = await autocannon({ url, headers, connections, duration: secondsPerRound });
  if (result.non2xx > 0 || result.errors > 0)
    throw new Error(`${url}: ${result.non2xx} wrong answers, ${result.errors} errors`);
  return { opsPerSecond: result.requests.average, p50Ms: result.latency.p50, p99Ms: result.latency.p99 };
}

/** A process of its own, as the bridge is. */
async function startBareAnswer(url: string) {
  const given = await fetch(url);
  const { date: _, ...headers } = Object.fromEntries(given.headers);
  const started = await spawnEntry("test/bench/bare-answer.ts", {
    args: [JSON.stringify(headers), await given.text()],
  });
  const port = await started.line(/^\d+$/);
  return { url: `http://127.0.0.1:${port}/`, close: () => started.close() };
}

/** Answers never hold credentials: they are where the store's URL was given. */
function withCredentials(document: string, couchdbUrl: string | undefined): string {
  const { username, password } = new URL(couchdbUrl ?? document);
  const url = new URL(document);
  url.username = username;
  url.password = password;
  return url.href;
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
      const warm = new URL(config.url, coordinator.url).href;
      const bare = await startBareAnswer(warm);
      const contender = (name: string, target: string): Contender => ({ name, measure: () => getRate(target) });
      return {
        contenders: [
          contender("bridge", warm),
          contender(
            couchdbUrl === undefined ? "embedded store" : "CouchDB",
            withCredentials(config.document, couchdbUrl),
          ),
          contender("floor: node:http", bare.url),
        ],
        tearDown: async () => {
          await bare.close();
          await coordinator.close();
        },
      };
    },
  },
];
