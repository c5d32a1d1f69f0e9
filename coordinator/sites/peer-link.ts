/**
 * The link to one peer: looks who is there, replicates while it is the right one, and knows how it stands. Reads always;
 * writes too, unless the peer says that it reads from us: one of the two suffices, and a station behind a firewall or a
 * site that only we know must be reached all the same.
 */
import type { Logger } from "pino";
import { databases } from "../../config-db/names.ts";
import type { Replicate, Replication, ReplicationStatus } from "../../config-db/replication/replication.ts";
import { Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../settings.ts";
import { type Probe, probe, type SiteIdentity } from "./identity.ts";

export interface PeerLinkOptions {
  peer: PeerSetting;
  /** Our own identity, as it stands. */
  own(): SiteIdentity;
  /** Our own store, as whoever replicates reaches it. */
  storeUrl: string;
  replicate: Replicate;
  /** Only a site's leader replicates; all coordinators look. */
  leads(): boolean;
  /** True when our own store is known to have this revision. */
  has(database: string, id: string, rev: string): boolean;
  /** How many peers there are: the more there are, the more often each change is offered. */
  peers(): number;
  /** Changes of our own store since this process began: what grows while a peer is away. */
  localChanges(): number;
  logger: Logger;
  /** Monotonic, milliseconds. */
  clock(): number;
}

export type Direction = "pull" | "push";

export interface ReplicationRow extends Omit<ReplicationStatus, "refused"> {
  database: string;
  direction: Direction;
  refused?: number;
}

export interface LinkStatus {
  state: "up" | "unreachable" | "error";
  lastError?: string;
  /** Zero when all is over there. `changes` counts our own ones that may not be. */
  lag: { changes: number; ms: number };
  replication: ReplicationRow[];
}

interface Running {
  database: string;
  direction: Direction;
  replication: Replication;
  /** When it last had everything; long ago where it never had. */
  idleAtMs: number;
}

/** Peers above those with whom nothing is held back: docs/sites.md, "Which shape". */
const manyPeers = (peers: number) => Math.max(0, peers - 4);
/**
 * A replication that has not been through for so long stalls, whatever its engine says. Longer with many peers: the others
 * bring the same, and a site that is busy must not be written to by all of them on top.
 */
const stallMs = (peers: number) => 6_000 + manyPeers(peers) * 1_000;
/** With many peers a link rests between two batches, so long for each, at most. */
const [restPerPeerMs, restMaxMs] = [40, 600];
/** Often enough that a peer which is back is in sync within seconds. */
const lookEveryMs = { up: (peers: number) => 3_000 + manyPeers(peers) * 250, away: 1_000 };
const sampleEveryMs = 500;
/** Replication is busy whenever something is written; what came before that is here. */
const caughtUpMs = 2_000;
const replicatedDatabases: string[] = [databases.config, databases.registry];

export class PeerLink {
  readonly #options: PeerLinkOptions;
  readonly #store: Store;
  readonly #replications = new Map<string, Running>();
  #found: Probe | undefined;
  #looking: Promise<void> = Promise.resolve();
  #lookTimer: NodeJS.Timeout | undefined;
  #sampleTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #inSync: { atMs: number; changes: number };
  #wasInSync = false;

  constructor(options: PeerLinkOptions) {
    this.#options = options;
    this.#store = new Store(options.peer.couchdbUrl);
    this.#inSync = { atMs: options.clock(), changes: options.localChanges() };
  }

  get peer(): PeerSetting {
    return this.#options.peer;
  }

  async start(): Promise<void> {
    this.#sampleTimer = setInterval(() => this.#sample(), sampleEveryMs);
    this.#lookTimer = setTimeout(() => this.look(), 0);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#sampleTimer);
    clearTimeout(this.#lookTimer);
    await this.#looking;
    await this.#keep([]);
  }

  /** Looks at once: something changed that may matter. */
  look(): void {
    clearTimeout(this.#lookTimer);
    this.#looking = this.#looking.then(() => this.#look());
  }

  /** True while all that the peer has comes here as well: then it need not write to us. One that stalls does not count. */
  get reads(): boolean {
    const { clock, peers } = this.#options;
    const since = clock() - stallMs(peers());
    const pulls = [...this.#replications.values()].filter(({ direction }) => direction === "pull");
    return pulls.length > 0 && pulls.every(({ idleAtMs }) => idleAtMs > since);
  }

  /** True where the peer cannot be reached, or all that it had a moment ago is here. */
  get isCaughtUp(): boolean {
    if (this.#found === undefined) return false;
    if (this.#found.found !== "site" || this.#isInSync()) return true;
    return this.#wasInSync && this.#options.clock() - this.#inSync.atMs < caughtUpMs;
  }

  status(): LinkStatus {
    this.#sample();
    const rows = [...this.#replications.values()].map(({ database, direction, replication }): ReplicationRow => {
      const { refused, ...status } = replication.status();
      return { database, direction, ...status, ...(refused.count === 0 ? {} : { refused: refused.count }) };
    });
    const pending = rows.reduce((sum, row) => sum + (row.pending ?? 0), 0);
    const behindMs = this.#isInSync() ? 0 : Math.round(this.#options.clock() - this.#inSync.atMs);
    const changes = behindMs === 0 ? 0 : Math.max(pending, this.#options.localChanges() - this.#inSync.changes);
    return { ...this.#judge(), lag: { changes, ms: behindMs }, replication: rows };
  }

  #judge(): Pick<LinkStatus, "state" | "lastError"> {
    const found = this.#found;
    if (found === undefined) return { state: "unreachable", lastError: "not looked at yet" };
    if (found.found !== "site") return { state: found.found, lastError: found.reason };
    for (const { database, direction, replication } of this.#replications.values()) {
      const { state, lastError, refused } = replication.status();
      const what = direction === "pull" ? "from" : "to";
      if (state === "error")
        return { state: "error", lastError: `${database} ${what} ${this.peer.name}: ${lastError}` };
      if (refused.count > 0) {
        const who = direction === "pull" ? "sends" : "refuses";
        return {
          state: "error",
          lastError: `${this.peer.name} ${who} ${refused.count} documents of ${database} that break the rules: ${refused.last}`,
        };
      }
    }
    return { state: "up" };
  }

  async #look(): Promise<void> {
    if (this.#closed) return;
    const { peer, own, logger } = this.#options;
    const before = this.#found?.found;
    const found = await probe(this.#store, peer.name, own());
    if (this.#closed) return;
    this.#found = found;
    if (found.found !== before) {
      const reason = found.found === "site" ? {} : { reason: found.reason };
      const level = found.found === "site" ? "info" : "warn";
      logger[level]({ peer: peer.name, url: this.#store.url, ...reason }, `the peer is ${wordFor[found.found]}`);
    }
    if (found.found === "error" || !this.#options.leads()) await this.#keep([]);
    else if (found.found === "site") {
      await this.#keep(found.identity.reads.includes(own().site) ? ["pull"] : ["pull", "push"]);
      // The engines wait longer and longer between their tries; we have just seen that it is there.
      for (const { replication } of this.#replications.values()) {
        if (before !== "site" || replication.status().state === "error") replication.retry();
      }
    }
    this.#lookTimer = setTimeout(
      () => this.look(),
      found.found === "site" ? lookEveryMs.up(this.#options.peers()) : lookEveryMs.away,
    );
  }

  /** Starts and ends replications until there are those of these directions. */
  async #keep(directions: Direction[]): Promise<void> {
    const wanted = replicatedDatabases.flatMap((database) =>
      directions.map((direction) => [`${database} ${direction}` as string, database, direction] as const),
    );
    const keys = new Set(wanted.map(([key]) => key));
    const leaving = [...this.#replications].filter(([key]) => !keys.has(key));
    for (const [key] of leaving) this.#replications.delete(key);
    await Promise.all(leaving.map(([, { replication }]) => replication.close()));
    for (const [key, database, direction] of wanted) {
      if (this.#replications.has(key)) continue;
      const replication = this.#options.replicate(this.#spec(database, direction));
      this.#replications.set(key, { database, direction, replication, idleAtMs: Number.NEGATIVE_INFINITY });
    }
  }

  #spec(database: string, direction: Direction) {
    const { peer, storeUrl, own, has, peers } = this.#options;
    const restMs = Math.min(restMaxMs, manyPeers(peers()) * restPerPeerMs);
    const id = `muster:${own().site}:${peer.name}:${database}:${direction}`;
    const [sourceUrl, targetUrl] = direction === "pull" ? [peer.couchdbUrl, storeUrl] : [storeUrl, peer.couchdbUrl];
    const targetHas = direction === "pull" ? { targetHas: has.bind(undefined, database) } : {};
    return { id, database, sourceUrl, targetUrl, restMs, ...targetHas };
  }

  #isInSync(): boolean {
    if (this.#found?.found !== "site" || this.#replications.size === 0) return false;
    return [...this.#replications.values()].every(({ replication }) => replication.status().state === "idle");
  }

  #sample(): void {
    const now = this.#options.clock();
    for (const running of this.#replications.values()) {
      if (running.replication.status().state === "idle") running.idleAtMs = now;
    }
    if (!this.#isInSync()) return;
    this.#inSync = { atMs: this.#options.clock(), changes: this.#options.localChanges() };
    this.#wasInSync = true;
  }
}

const wordFor = { site: "there", unreachable: "unreachable", error: "not usable" } as const;
