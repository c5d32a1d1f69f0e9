/**
 * Registering components through the bridge against single PUTs to the same store, against etcd's lease and put, and, as
 * floors, against a server that does nothing but the group commit (bare-registrar.ts), and against such documents written in
 * bulk with nobody who registers.
 */
import { Pool } from "undici";
import { basicAuthorization } from "../../../config-db/basic-auth.ts";
import { startCoordinator } from "../../support/coordinator.ts";
import { spawnEntry } from "../../support/processes.ts";
import { startEtcd } from "../etcd.ts";
import { type Contender, type Figures, latencyFigures, type Row } from "../harness.ts";

const connections = 64;
const perRound = 4_000;
const registration = {
  type: "bench",
  instance: "bench",
  ttlMs: 3_600_000,
  tags: ["bench"],
  endpoints: { http: "http://127.0.0.1:1/" },
};
let rounds = 0;

type Ask = (method: "GET" | "PUT" | "POST", path: string, body?: unknown) => Promise<unknown>;

/** @param url with credentials where the server wants any. */
function asker(url: string): { ask: Ask; close(): Promise<void> } {
  const server = new URL(url);
  const pool = new Pool(server.origin, { connections, pipelining: 1 });
  const authorization = server.username === "" ? {} : { authorization: basicAuthorization(server) };
  const headers = { "content-type": "application/json", ...authorization };
  const ask: Ask = async (method, path, body) => {
    const answer = await pool.request({
      method,
      path,
      headers,
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const json = await answer.body.json();
    if (answer.statusCode >= 300) throw new Error(`${method} ${path}: ${answer.statusCode} ${JSON.stringify(json)}`);
    return json;
  };
  return { ask, close: () => pool.close() };
}

/** `perRound` of new ids, `connections` of them under way in writes of `size`. */
async function all(write: (ids: string[]) => Promise<unknown>, size: number): Promise<Figures> {
  rounds += 1;
  const ids = Array.from({ length: perRound }, (_, index) => `bench-${rounds}-${index}`);
  const latenciesMs: number[] = [];
  const startMs = performance.now();
  const writeInTurn = async () => {
    while (ids.length > 0) {
      const askedMs = performance.now();
      await write(ids.splice(-size));
      latenciesMs.push(performance.now() - askedMs);
    }
  };
  await Promise.all(Array.from({ length: connections / size }, writeInTurn));
  return { opsPerSecond: perRound / ((performance.now() - startMs) / 1000), ...latencyFigures(latenciesMs) };
}

/** The same, one by one. */
function each(register: (id: string) => Promise<unknown>): Promise<Figures> {
  return all(async ([id]) => register(id as string), 1);
}

/** What a registration is in etcd, over its HTTP gateway: a lease is granted and a key put under it. Two requests. */
async function etcdRegistrations(): Promise<{ contender: Contender; close(): Promise<void> } | undefined> {
  const etcd = await startEtcd();
  if (etcd === undefined) return undefined;
  const { ask, close } = asker(etcd.url);
  const value = Buffer.from(JSON.stringify(registration)).toString("base64");
  return {
    contender: {
      name: "etcd, lease and put",
      measure: () =>
        each(async (id) => {
          const { ID: lease } = (await ask("POST", "/v3/lease/grant", { TTL: 3_600 })) as { ID: string };
          await ask("POST", "/v3/kv/put", { key: Buffer.from(id).toString("base64"), value, lease });
        }),
    },
    close: async () => {
      await close();
      await etcd.close();
    },
  };
}

export const rows: Row[] = [
  {
    work: `registrations, ${connections} connections: bridge vs single PUTs of such documents to the same store`,
    figure: "opsPerSecond",
    better: "higher",
    targetRatio: 3,
    async setUp() {
      const couchdbUrl = process.env.MUSTER_TEST_COUCHDB_URL;
      const coordinator = await startCoordinator(couchdbUrl === undefined ? {} : { couchdbUrl });
      const bridge = asker(coordinator.url);
      const answer = await bridge.ask("PUT", "/v1/components/probe", registration);
      const { config } = answer as { config: { document: string } };
      const store = asker(couchdbUrl ?? new URL(config.document).origin);
      const database = `bench-puts-${Date.now()}`;
      await store.ask("PUT", `/${database}`, {});
      // The registry's documents are guarded by a validation function, whoever writes them: so are these.
      const { _rev: _, ...design } = (await store.ask("GET", "/muster-registry/_design/muster")) as { _rev: string };
      await store.ask("PUT", `/${database}/_design/muster`, design);
      const at = new Date().toISOString();
      const record = { kind: "component", schemaVersion: 1, site: "local", state: "up", incarnation: 1, epoch: 1 };
      const document = { ...record, ...registration, registeredAt: at, changedAt: at };
      const etcd = await etcdRegistrations();
      const bare = await spawnEntry("test/bench/bare-registrar.ts", {
        args: [new URL(database, couchdbUrl ?? config.document).href, JSON.stringify(document), JSON.stringify(answer)],
      });
      const registrar = asker(`http://127.0.0.1:${await bare.line(/^\d+$/)}`);
      return {
        contenders: [
          {
            name: "bridge",
            measure: () => each((id) => bridge.ask("PUT", `/v1/components/${id}`, registration)),
          },
          {
            name: couchdbUrl === undefined ? "embedded store" : "CouchDB",
            measure: () => each((id) => store.ask("PUT", `/${database}/component:${id}`, { ...document, id })),
          },
          {
            name: "floor: node:http, _bulk_docs",
            measure: () => each((id) => registrar.ask("PUT", `/${id}`, registration)),
          },
          {
            // Two at once: such a machine has two cores.
            name: "floor: _bulk_docs",
            measure: () =>
              all((ids) => {
                const docs = ids.map((id) => ({ ...document, _id: `component:${id}`, id }));
                return store.ask("POST", `/${database}/_bulk_docs`, { docs });
              }, connections / 2),
          },
          ...(etcd === undefined ? [] : [etcd.contender]),
        ],
        tearDown: async () => {
          await etcd?.close();
          await registrar.close();
          await bare.close();
          await store.close();
          await bridge.close();
          await coordinator.close();
        },
      };
    },
  },
];
