/**
 * Replication between sites: `node --import tsx test/bench/sites.ts [--latency] [--shapes] [flags]`. How long a change takes
 * from one site to another, beside CouchDB's own replication when MUSTER_TEST_COUCHDB_URL names one; and what sites cost as
 * there are more of them, in different shapes. All sites run in this process, on embedded stores in memory.
 */
import diagnostics from "node:diagnostics_channel";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import { type JoinedSite, joinSite, layerDocument } from "../integration/sites-fixture.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { machine, quantile } from "./harness.ts";

const usage = `Usage: node --import tsx test/bench/sites.ts [flags]

  --latency          site to site, one change at a time
  --shapes           full mesh, ring and hub
  --changes N        changes timed (default 100)
  --sites LIST       numbers of sites (default 2,5,10)
  --seconds N        that each shape is watched (default 15)

Without --latency and --shapes both run. Example: node --import tsx test/bench/sites.ts --shapes --sites 5,10,20
`;

const { values: flags } = parseArgs({
  options: {
    latency: { type: "boolean", default: false },
    shapes: { type: "boolean", default: false },
    changes: { type: "string", default: "100" },
    sites: { type: "string", default: "2,5,10" },
    seconds: { type: "string", default: "15" },
    help: { type: "boolean", default: false },
  },
});

const say = (line: string) => void process.stdout.write(`${line}\n`);
const spread = (ms: number[]) =>
  `p50 ${quantile(ms, 0.5).toFixed(1)} ms, p99 ${quantile(ms, 0.99).toFixed(1)} ms, last ${Math.max(...ms).toFixed(1)} ms`;

// --- latency -----------------------------------------------------------------------------------------------------

/** Milliseconds from a write at one store until the feed of the other tells of it. */
async function timeDocuments(from: Store, to: Store, database: string, changes: number): Promise<number[]> {
  const arrived = new Map<string, () => void>();
  const feed = new ChangesFeed(to.database<Document>(database), {
    onChanges: (batch) => {
      for (const { id } of batch) arrived.get(id)?.();
    },
  });
  await feed.start();
  const timed: number[] = [];
  for (let n = 0; n < changes; n++) {
    const { _id, ...content } = layerDocument({ n });
    const seen = new Promise<void>((resolve) => arrived.set(_id, resolve));
    const start = performance.now();
    await from.database<Document>(database).put({ _id, ...content });
    await Promise.race([seen, delay(30_000, undefined, { ref: false })]);
    timed.push(performance.now() - start);
    // Not in step with what polls.
    await delay(20 + Math.random() * 30);
  }
  await feed.close();
  return timed;
}

async function couchLatency(url: string, changes: number): Promise<void> {
  const server = new Store(url);
  const [one, other] = ["muster-bench-one", "muster-bench-other"];
  const clear = async () => {
    for (const path of [one, other]) await server.request({ method: "DELETE", path }).catch(() => undefined);
  };
  await clear();
  for (const path of [one, other]) await server.request({ method: "PUT", path });
  const jobs = server.database<Document & Record<string, unknown>>("_replicator");
  const base = new URL(url);
  const basic = { username: base.username, password: base.password };
  const side = (name: string) => ({ url: `${base.origin}/${name}`, auth: { basic } });
  const job = { _id: "muster-bench", source: side(one), target: side(other), continuous: true };
  const stored = await jobs.get(job._id);
  const _rev = await jobs.put(stored === undefined ? job : { ...job, _rev: stored._rev });
  // The job is there when a first change came through.
  await server.database<Document>(one).put({ _id: "first" });
  await eventually(
    async () => {
      if ((await server.database(other).get("first")) === undefined) throw new Error("not yet");
    },
    { timeoutMs: 60_000 },
  );
  const from = { database: () => server.database(one) } as unknown as Store;
  const to = { database: () => server.database(other) } as unknown as Store;
  say(`CouchDB's own, database to database     ${spread(await timeDocuments(from, to, one, changes))}`);
  const { _rev: latest } = (await jobs.get(job._id)) ?? { _rev };
  await jobs.put({ _id: job._id, _rev: latest, _deleted: true });
  await clear();
}

/** From the answer-to-be of a write at one coordinator until a component's watch at another tells of it. */
async function timeWatch(at: RunningCoordinator, watcher: RunningCoordinator, changes: number): Promise<number[]> {
  const path = "/v1/components/bench/config";
  const timed: number[] = [];
  for (let n = 0; n < changes; n++) {
    const { headers } = await watcher.call("GET", path);
    const known = headers.get("etag") ?? "";
    const waiting = watcher.call("GET", `${path}?waitMs=30000`, undefined, { "if-none-match": known });
    await delay(50 + Math.random() * 50);
    const start = performance.now();
    const written = at.call("PUT", "/v1/config/layers/type:bench", { settings: { n: `${n}-${start}` } });
    await waiting;
    timed.push(performance.now() - start);
    await written;
  }
  return timed;
}

async function latency(changes: number): Promise<void> {
  say(`\nOne change at a time, ${changes} of them`);
  const west = await joinSite("west");
  const east = await joinSite("east", { peers: [{ name: "west", couchdbUrl: west.storeUrl }] });
  await inSync([east]);
  say(
    `embedded to embedded, store to store    ${spread(await timeDocuments(east.store, west.store, databases.config, changes))}`,
  );
  await east.close();
  await west.close();
  const { MUSTER_TEST_COUCHDB_URL: couchUrl } = process.env;
  if (couchUrl !== undefined) await couchLatency(couchUrl, changes);

  const there = await startCoordinator({ site: "west" });
  const own = (await there.call("GET", "/v1/sites")).body.sites[0].couchdbUrl;
  const here = await startCoordinator({ site: "east", args: ["--peers", `west=${own}`] });
  await there.call("PUT", "/v1/components/bench", { type: "bench", ttlMs: 3_600_000 });
  await eventually(async () => {
    if ((await here.call("GET", "/v1/components/bench")).status !== 200) throw new Error("not yet");
  });
  say(`a change to a watch at the same site    ${spread(await timeWatch(there, there, changes))}`);
  say(`a change to a watch at the other site   ${spread(await timeWatch(here, there, changes))}`);
  await here.close();
  await there.close();
}

// --- shapes ------------------------------------------------------------------------------------------------------

type Shape = "mesh" | "ring" | "hub";

/** Whom site `n` of `count` replicates with. */
function peersOf(shape: Shape, n: number, count: number): number[] {
  const all = Array.from({ length: count }, (_none, index) => index);
  if (shape === "mesh") return all.filter((other) => other !== n);
  if (shape === "ring") return count === 2 ? [1 - n] : [(n + 1) % count, (n + count - 1) % count];
  return n === 0 ? [] : [0];
}

async function inSync(sites: JoinedSite[], timeoutMs = 60_000): Promise<void> {
  await eventually(
    () => {
      for (const { name, sites: known } of sites) {
        for (const row of known.list()) {
          if (row.peer && (row.state !== "up" || row.lag?.ms !== 0)) throw new Error(`${name}: ${JSON.stringify(row)}`);
        }
      }
    },
    { timeoutMs, everyMs: 100 },
  );
}

/** Requests and bytes at all stores of this process. */
class Traffic {
  requests = 0;
  readonly #sockets = new Set<Socket>();
  readonly #count = (message: unknown) => {
    this.requests += 1;
    this.#sockets.add((message as { request: IncomingMessage }).request.socket);
  };
  #bytesBefore = 0;

  start(): void {
    diagnostics.subscribe("http.server.request.start", this.#count);
  }

  mark(): void {
    this.requests = 0;
    this.#bytesBefore = this.#total();
  }

  get bytes(): number {
    return this.#total() - this.#bytesBefore;
  }

  stop(): void {
    diagnostics.unsubscribe("http.server.request.start", this.#count);
  }

  #total(): number {
    return [...this.#sockets].reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0);
  }
}

async function shape(kind: Shape, count: number, seconds: number): Promise<void> {
  const traffic = new Traffic();
  traffic.start();
  const sites = await Promise.all(Array.from({ length: count }, (_none, n) => joinSite(`site-${n}`)));
  const arrivals = new Map<string, { start: number; ms: number[] }>();
  const feeds = await Promise.all(
    sites.map(async ({ store }) => {
      const feed = new ChangesFeed(store.database<Document>(databases.config), {
        onChanges: (batch) => {
          for (const { id } of batch) {
            const known = arrivals.get(id);
            known?.ms.push(performance.now() - known.start);
          }
        },
      });
      await feed.start();
      return feed;
    }),
  );
  for (const [n, site] of sites.entries()) {
    for (const other of peersOf(kind, n, count)) {
      const peer = sites[other] as JoinedSite;
      await site.sites.add({ name: peer.name, couchdbUrl: peer.storeUrl });
    }
  }
  try {
    await inSync(sites);
    // Who reads from whom settles: what is offered twice at first ends.
    await delay(8_000);
    traffic.mark();
    const cpu = process.cpuUsage();
    const until = performance.now() + seconds * 1000;
    const beats = sites.map((site, n) => beat(site, n, count, until));
    while (performance.now() < until) {
      const site = sites[Math.floor(Math.random() * count)] as JoinedSite;
      const { _id, ...content } = layerDocument({ n: Math.random() });
      arrivals.set(_id, { start: performance.now(), ms: [] });
      await site.write(_id, content);
      await delay(1_000);
    }
    await Promise.all(beats);
    const used = process.cpuUsage(cpu);
    await eventually(
      () => {
        const missing = [...arrivals.values()].filter(({ ms }) => ms.length < count);
        if (missing.length > 0) throw new Error(`${missing.length} changes did not come to every site`);
      },
      { timeoutMs: 30_000 },
    );
    const cpuMs = (used.user + used.system) / 1000;
    const last = [...arrivals.values()].map(({ ms }) => Math.max(...ms));
    const perSite = (value: number) => (value / count / seconds).toFixed(1).padStart(7);
    say(
      `${kind.padEnd(5)} ${String(count).padStart(3)} sites  requests/s ${perSite(traffic.requests)}  KiB/s ${perSite(traffic.bytes / 1024)}  ` +
        `CPU ms/s ${perSite(cpuMs)} each;  a change is everywhere after ${spread(last)}`,
    );
  } finally {
    for (const feed of feeds) await feed.close();
    await Promise.all(sites.map((site) => site.close()));
    traffic.stop();
  }
}

/** A site's heartbeat: what a site without any work of its own writes. */
async function beat({ name, store }: JoinedSite, n: number, count: number, until: number): Promise<void> {
  const registry = store.database<Document & Record<string, unknown>>(databases.registry);
  const content = {
    kind: "site",
    schemaVersion: 1,
    site: name,
    beatEveryMs: 5_000,
    coordinatorUrl: "http://x",
    epoch: 1,
  };
  await delay((5_000 * n) / count);
  for (let count = 1; performance.now() < until; count++) {
    const stored = await registry.get(`site:${name}`);
    const revision = stored === undefined ? {} : { _rev: stored._rev };
    // A machine that cannot keep up loses a beat, no more.
    await registry.put({ _id: `site:${name}`, ...content, beat: count, ...revision }).catch(() => undefined);
    await delay(5_000);
  }
}

// -----------------------------------------------------------------------------------------------------------------

if (flags.help) say(usage);
else {
  const both = !flags.latency && !flags.shapes;
  say(machine());
  if (both || flags.latency) await latency(Number(flags.changes));
  if (both || flags.shapes) {
    say(`\n${flags.seconds} s each: a heartbeat per site every 5 s, one change a second somewhere`);
    for (const count of (flags.sites as string).split(",").map(Number)) {
      for (const kind of ["mesh", "ring", "hub"] as const) await shape(kind, count, Number(flags.seconds));
    }
  }
}
