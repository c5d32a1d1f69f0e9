/** All sites as this one sees them, and the links to those it replicates with. */
import type { Logger } from "pino";
import { Gauge, type Registry as Metrics } from "prom-client";
import { MusterError } from "../../config-db/errors.ts";
import type { SiteDocument, SitePeer } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import { chooseReplicationEngine, type ReplicationEngine } from "../../config-db/replication/engine.ts";
import { type Change, type Document, Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../settings.ts";
import type { Leaf } from "./ancestry.ts";
import { installIdentity, type SiteIdentity, writeIdentity } from "./identity.ts";
import { KnownRevisions } from "./known-revisions.ts";
import { type LinkStatus, PeerLink } from "./peer-link.ts";
import { Peers } from "./peers.ts";
import { type RegistryRecord, resolveRecord } from "./registry-resolve.ts";
import { Resolver } from "./resolver.ts";

export interface SitesOptions {
  store: Store;
  /** Our own store as its replicator reaches it, with credentials if it wants any. */
  storeUrl: string;
  site: string;
  coordinatorUrl: string;
  /** How peers reach our store. Without credentials. */
  couchdbUrl: string;
  peers: PeerSetting[];
  leads(): boolean;
  /** Who hears the heartbeats: `SiteWatch` is this. */
  watch: { hears(site: string): boolean; ageMs(site: string): number | undefined };
  /** Told when the peers are others than before, at start too: messages across sites follow. */
  onPeers?(peers: PeerSetting[]): void;
  logger: Logger;
  metrics?: Metrics;
  clock?(): number;
}

export interface SiteRow extends Partial<LinkStatus> {
  name: string;
  self: boolean;
  /** Whether this site replicates with it; others are known by what came through peers. */
  peer: boolean;
  state: LinkStatus["state"];
  /** Since its heartbeat last advanced here; absent where it never did. */
  beatAgeMs?: number;
  coordinatorUrl?: string;
  /** Without credentials. */
  couchdbUrl?: string;
}

/** Between two looks at the stored peers: other coordinators of the site write them too. */
const refreshMs = 2_000;
/** Full meshes of more sites cost more than they are worth: docs/sites.md, "Which shape". */
const peersMax = 64;
/** How long a name that two sites use at once is told of after it was last seen. */
const duplicateMs = 300_000;

export class Sites {
  readonly #options: SitesOptions & { clock(): number };
  readonly #peers: Peers;
  readonly #links = new Map<string, PeerLink>();
  readonly #records = new Map<string, SiteDocument>();
  readonly #duplicates = new Map<string, { atMs: number; urls: string[] }>();
  readonly #resolver: Resolver;
  readonly #listeners = new Set<() => void>();
  readonly #known = new KnownRevisions();
  #identity: SiteIdentity | undefined;
  #engine: ReplicationEngine | undefined;
  #localChanges = 0;
  #timer: NodeJS.Timeout | undefined;
  #refreshing: Promise<void> = Promise.resolve();
  #told = "";
  #closed = false;

  constructor(options: SitesOptions) {
    this.#options = { clock: () => performance.now(), ...options };
    this.#peers = new Peers(options.store, options.peers);
    const database = options.store.database<Document>(databases.registry);
    this.#resolver = new Resolver({
      database,
      concerns: (id) => id.startsWith("component:") || id.startsWith("site:"),
      decide: async (_id, leaves) => {
        const writes = resolveRecord(leaves as Leaf<RegistryRecord>[]);
        if (writes !== undefined) await database.bulk(writes, { newEdits: false });
        return "done";
      },
      leads: options.leads,
      logger: options.logger,
    });
  }

  /** @throws MusterError `store-unavailable`: nothing has begun; call it again. */
  async start(): Promise<void> {
    this.#identity = await installIdentity(this.#options.store, this.#options.site);
    this.#engine = await chooseReplicationEngine(this.#options.store);
    if (this.#options.metrics !== undefined) this.#measure(this.#options.metrics);
    await this.#resolver.start();
    await this.refresh();
    this.#timer = setInterval(() => this.refresh(), refreshMs);
  }

  /** Whether what the other sites have is here, as far as they can be reached. */
  get isCaughtUp(): boolean {
    return [...this.#links.values()].every((link) => link.isCaughtUp);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#listeners.clear();
    await this.#refreshing;
    await Promise.all([...this.#links.values()].map((link) => link.close()));
    await this.#resolver.close();
    await this.#engine?.close();
  }

  /** Takes in changes of `muster-registry`. */
  apply(changes: Change[]): void {
    this.#note(databases.registry, changes);
    this.#resolver.apply(changes);
    for (const { id, deleted, doc } of changes) {
      if (!id.startsWith("site:")) continue;
      const name = id.slice("site:".length);
      const record = doc as unknown as SiteDocument;
      if (deleted) this.#records.delete(name);
      else {
        this.#suspectDuplicate(name, record);
        this.#records.set(name, record);
      }
    }
  }

  /** Takes in changes of `muster-config`. */
  applyConfig(changes: Change[]): void {
    this.#note(databases.config, changes);
  }

  #note(database: string, changes: Change[]): void {
    // Links alone ask for them.
    if (this.#links.size > 0) this.#known.apply(database, changes);
    // What a peer that is away may lack.
    this.#localChanges += changes.length;
  }

  /** @returns the site with this name, or undefined where nobody ever heard of it. */
  get(name: string): SiteRow | undefined {
    return this.list().find((row) => row.name === name);
  }

  list(): SiteRow[] {
    const names = new Set([this.#options.site, ...this.#links.keys(), ...this.#records.keys()]);
    return [...names].sort().map((name) => this.#row(name));
  }

  /** `changed` is called when the list may read differently, and every two seconds: lags change all the time. */
  subscribe(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /**
   * Replicates with another site from now on, over restarts too.
   * @throws MusterError `refused` for our own name or one too many
   * @returns whether it is new
   */
  async add(peer: SitePeer): Promise<boolean> {
    if (peer.name === this.#options.site) {
      throw new MusterError("refused", `${peer.name} is this site's own name; every site needs another`);
    }
    const known = this.#links.has(peer.name);
    if (!known && this.#links.size >= peersMax) {
      throw new MusterError(
        "refused",
        `a site has at most ${peersMax} peers; sites hear of each other through peers too`,
      );
    }
    await this.#peers.put(peer);
    await this.refresh();
    return !known;
  }

  /** Replicates with it no more. What came from it stays. @throws MusterError `not-found` */
  async remove(name: string): Promise<void> {
    if (!this.#links.has(name)) throw new MusterError("not-found", `${name} is no peer of this site`);
    await this.#peers.remove(name);
    await this.refresh();
  }

  refresh(): Promise<void> {
    this.#refreshing = this.#refreshing.then(() =>
      this.#refresh().catch((error: unknown) =>
        this.#options.logger.debug({ reason: (error as Error).message }, "cannot read the peers"),
      ),
    );
    return this.#refreshing;
  }

  async #refresh(): Promise<void> {
    if (this.#closed) return;
    const peers = await this.#peers.list();
    const wanted = new Map(peers.map((peer) => [peer.name, peer]));
    for (const [name, link] of this.#links) {
      const peer = wanted.get(name);
      if (peer !== undefined && JSON.stringify(peer) === JSON.stringify(link.peer)) continue;
      this.#links.delete(name);
      await link.close();
    }
    for (const peer of peers) if (!this.#links.has(peer.name)) await this.#link(peer);
    const told = JSON.stringify(peers);
    if (told !== this.#told) {
      this.#told = told;
      this.#options.onPeers?.(peers);
    }
    await this.#tellReads();
    for (const changed of [...this.#listeners]) changed();
  }

  async #link(peer: PeerSetting): Promise<void> {
    const { storeUrl, leads, logger, clock } = this.#options;
    const engine = this.#engine as ReplicationEngine;
    const link = new PeerLink({
      peer,
      own: () => this.#identity as SiteIdentity,
      storeUrl,
      replicate: engine.replicate,
      leads,
      has: (database, id, rev) => this.#known.has(database, id, rev),
      peers: () => this.#links.size,
      localChanges: () => this.#localChanges,
      logger,
      clock,
    });
    this.#links.set(peer.name, link);
    await link.start();
  }

  /** Says in our own store whom we read from, so that they need not write to us. */
  async #tellReads(): Promise<void> {
    const identity = this.#identity;
    if (identity === undefined || !this.#options.leads()) return;
    const reads = [...this.#links].filter(([, link]) => link.reads).map(([name]) => name);
    if (JSON.stringify(reads) === JSON.stringify(identity.reads)) return;
    try {
      this.#identity = await writeIdentity(this.#options.store, { ...identity, reads });
    } catch (error) {
      // Another coordinator of this site wrote it: take its revision and try again at the next round.
      this.#identity = await installIdentity(this.#options.store, this.#options.site);
      throw error;
    }
  }

  #row(name: string): SiteRow {
    const { site, watch, clock } = this.#options;
    if (name === site) return this.#ownRow();
    const link = this.#links.get(name);
    const age = watch.ageMs(name);
    const coordinatorUrl = this.#records.get(name)?.coordinatorUrl;
    const duplicate = this.#duplicates.get(name);
    const twice = duplicate !== undefined && clock() - duplicate.atMs < duplicateMs;
    const row: SiteRow = {
      name,
      self: false,
      peer: link !== undefined,
      state: watch.hears(name) ? "up" : "unreachable",
      ...(age === undefined ? {} : { beatAgeMs: Math.round(age) }),
      ...(coordinatorUrl === undefined ? {} : { coordinatorUrl }),
      ...(link === undefined ? {} : { couchdbUrl: new Store(link.peer.couchdbUrl).url, ...link.status() }),
    };
    if (!twice) return row;
    return {
      ...row,
      state: "error",
      lastError: `two sites are called ${name} and write its record at once: ${duplicate.urls.join(" and ")}`,
    };
  }

  #ownRow(): SiteRow {
    const { site: name, coordinatorUrl, couchdbUrl } = this.#options;
    return { name, self: true, peer: false, state: "up", coordinatorUrl, couchdbUrl };
  }

  /** Whoever takes the lead of a site raises its epoch: another coordinator with the same one or less is another site's. */
  #suspectDuplicate(name: string, record: SiteDocument): void {
    const before = this.#records.get(name);
    if (before === undefined || before.coordinatorUrl === record.coordinatorUrl || record.epoch > before.epoch) return;
    const urls = [before.coordinatorUrl, record.coordinatorUrl].sort();
    this.#duplicates.set(name, { atMs: this.#options.clock(), urls });
  }

  #measure(metrics: Metrics): void {
    const rows = () => this.list().filter(({ peer }) => peer);
    new Gauge({
      name: "muster_site_up",
      help: "1 when the peer is reached and replication with it works, else 0.",
      labelNames: ["peer"],
      registers: [metrics],
      collect() {
        this.reset();
        for (const { name, state } of rows()) this.set({ peer: name }, state === "up" ? 1 : 0);
      },
    });
    new Gauge({
      name: "muster_replication_lag_ms",
      help: "Milliseconds since the peer last had everything, 0 when it has.",
      labelNames: ["peer"],
      registers: [metrics],
      collect() {
        this.reset();
        for (const { name, lag } of rows()) this.set({ peer: name }, lag?.ms ?? 0);
      },
    });
    new Gauge({
      name: "muster_replication_lag_changes",
      help: "Changes that the peer may lack.",
      labelNames: ["peer"],
      registers: [metrics],
      collect() {
        this.reset();
        for (const { name, lag } of rows()) this.set({ peer: name }, lag?.changes ?? 0);
      },
    });
    new Gauge({
      name: "muster_replication_documents_written",
      help: "Documents that this run of a replication has written at its target.",
      labelNames: ["peer", "database", "direction"],
      registers: [metrics],
      collect() {
        this.reset();
        for (const { name, replication = [] } of rows()) {
          for (const { database, direction, documentsWritten } of replication) {
            this.set({ peer: name, database, direction }, documentsWritten);
          }
        }
      },
    });
  }
}
