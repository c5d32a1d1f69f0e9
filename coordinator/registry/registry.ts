/**
 * The registry of a coordinator: who is there, who is alive. Reads come from memory; registrations are answered when the
 * store has them; renewals touch memory alone. Any coordinator of a site takes any request; its leader judges.
 */
import { randomBytes } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { LRUCache } from "lru-cache";
import type { Logger } from "pino";
import type { Registry as Metrics } from "prom-client";
import { type ErrorCode, isMusterError, MusterError } from "../../config-db/errors.ts";
import type {
  ComponentDocument,
  ConfigStatusReport,
  Registration,
  Renewal,
  RenewalMessage,
} from "../../config-db/generated/types.ts";
import type { Change, Store } from "../../config-db/store.ts";
import type { JudgedTimeOptions } from "../judged-time.ts";
import { type ComponentRecord, type DiscoveryQuery, discover, recordOf } from "./discovery.ts";
import type { EventKind, LogEntry } from "./event-log.ts";
import { HealthReports } from "./health-reports.ts";
import { Judgement, type Leadership } from "./judgement.ts";
import { notFound, Records, type RecordsOptions } from "./records.ts";
import { isSameProcess, register, tombstone, withState } from "./registration.ts";
import { RegistryMetrics } from "./registry-metrics.ts";
import { Relay } from "./relay.ts";
import { Removals } from "./removals.ts";
import type { Retention } from "./retention.ts";

export interface RegistryOptions {
  store: Store;
  site: string;
  logger: Logger;
  leadership: Leadership;
  /** Which sites' heartbeats are heard (coordinator/sites/site-watch.ts). */
  sites: {
    hears(site: string): boolean;
    subscribe(changed: (site: string, heard: boolean) => void): () => void;
  };
  /** Which of two branches of a record is kept when they are settled (coordinator/sites/registry-resolve.ts). */
  compareBranches: RecordsOptions["compareBranches"];
  /** Carries a renewal to the coordinator that leads; absent without a broker. */
  publishRenewal?(renewal: RenewalMessage): Promise<unknown>;
  /** For asking the leader over HTTP. */
  operatorToken?: string;
  /**
   * Gives renewals that come by message, until what it returns is called: done while this coordinator leads. `listener`
   * says why one is void.
   */
  onRenewal?(listener: (renewal: RenewalMessage) => ErrorCode | undefined): () => Promise<void>;
  /** Resolves when the renewals by message that were sent before have been given; see judgement.ts. */
  renewalsHeard?(signal: AbortSignal): Promise<void>;
  /** Ends what a removed component has beside its record; see removals.ts. */
  remove?(component: { id: string; type: string }): Promise<void>;
  metrics?: Metrics;
  /** Monotonic, milliseconds. */
  clock?(): number;
  wallClock?(): Date;
  /** When the judge was away and how long it then holds back; see judged-time.ts. */
  time?: JudgedTimeOptions;
  retention?: Retention;
  /** Default 100,000: some 150 MB of memory. A registration beyond it is refused. */
  componentsMax?: number;
}

/** What subscribers are told. */
export interface ComponentEvent {
  kind: EventKind;
  component: ComponentDocument;
  before?: ComponentDocument;
}

export interface Registered {
  record: ComponentDocument;
  /** False when there was a record of this id already. */
  created: boolean;
  expiresInMs: number;
}

export interface DiscoveryPage {
  etag: string;
  records: ComponentRecord[];
  /** Absent on the last page. */
  cursor?: string;
}

/** A renewal that waits for the store is soon worth nothing. */
const refreshTimeoutMs = 1_000;
/** Records in answers that are kept for others who ask the same: some 10 MB. */
const keptRecordsMax = 20_000;

export class Registry {
  readonly #options: RegistryOptions & { clock(): number; wallClock(): Date };
  readonly #records: Records;
  readonly #removals: Removals;
  readonly #judgement: Judgement;
  readonly #health: HealthReports;
  readonly #metrics: RegistryMetrics | undefined;
  readonly #relay: Relay;
  readonly #pages = new LRUCache<string, { revision: number; page: DiscoveryPage }>({
    maxSize: keptRecordsMax,
    sizeCalculation: ({ page }) => page.records.length + 1,
  });
  #unsubscribe: (() => void)[] = [];
  #stopListening: (() => Promise<void>) | undefined;

  constructor(given: RegistryOptions) {
    const options = { clock: () => performance.now(), wallClock: () => new Date(), ...given };
    this.#options = options;
    const { store, sites, logger, site, leadership, clock, wallClock, compareBranches } = options;
    const run = `${Date.now().toString(36)}${randomBytes(3).toString("hex")}`;
    this.#records = new Records({ store, hears: (name) => sites.hears(name), compareBranches, logger, run });
    const { time, retention, remove, renewalsHeard, publishRenewal, operatorToken } = options;
    this.#relay = new Relay({
      leaderUrl: () => leadership.leaderUrl,
      logger,
      ...(publishRenewal === undefined ? {} : { publish: publishRenewal }),
      ...(operatorToken === undefined ? {} : { operatorToken }),
    });
    this.#removals = new Removals({
      records: this.#records,
      site,
      logger,
      ...(remove === undefined ? {} : { remove }),
    });
    this.#judgement = new Judgement({
      records: this.#records,
      removals: this.#removals,
      site,
      leadership,
      logger,
      clock,
      wallClock,
      ...(time === undefined ? {} : { time }),
      ...(retention === undefined ? {} : { retention }),
      ...(renewalsHeard === undefined ? {} : { renewalsHeard }),
    });
    this.#health = new HealthReports({ records: this.#records, site, leadership, logger, wallClock });
    const read = { all: () => this.all(), leases: () => this.#judgement.leases };
    this.#metrics = options.metrics && new RegistryMetrics(options.metrics, read);
  }

  /** Begins to judge; the changes feed has given everything that stands in the store by `apply` before. */
  async start(): Promise<void> {
    const { leadership, sites } = this.#options;
    this.#judgement.start();
    this.#unsubscribe = [
      sites.subscribe((site, heard) => this.#records.reread(site, !heard)),
      leadership.subscribe(() => this.#listen()),
      this.#records.subscribe(({ event }) => this.#metrics?.events.inc({ kind: event.kind })),
    ];
    this.#listen();
  }

  async close(): Promise<void> {
    for (const end of this.#unsubscribe.splice(0)) end();
    await this.#stopListening?.();
    this.#relay.close();
    await Promise.all([this.#judgement.close(), this.#health.close()]);
    await this.#removals.close();
    await this.#records.close();
  }

  /** Takes in changes of `muster-registry`. */
  apply(changes: Change[]): void {
    this.#records.apply(changes);
  }

  get(id: string): ComponentDocument | undefined {
    return this.#records.get(id);
  }

  all(): Iterable<ComponentDocument> {
    return this.#records.roster.all();
  }

  /** Tells of every change of a record, after it is in memory. @returns what ends it. */
  subscribe(listener: (event: ComponentEvent) => void): () => void {
    return this.#records.subscribe(({ event: { kind, component, before } }) =>
      listener({ kind, component, ...(before === undefined ? {} : { before: before.document }) }),
    );
  }

  /**
   * Registers `id`, new or again. Resolves once the record is stored.
   * @throws MusterError `store-unavailable`, `too-many`
   */
  async register(id: string, registration: Registration): Promise<Registered> {
    const { site, leadership, wallClock, componentsMax = 100_000, logger } = this.#options;
    if (this.#records.get(id) === undefined && this.#records.roster.size >= componentsMax) {
      throw new MusterError("too-many", `${componentsMax} components are registered, the limit; remove some first`);
    }
    const at = wallClock().toISOString();
    const plan = (current: ComponentDocument | undefined, removed: number) =>
      register(id, registration, current, { site, epoch: leadership.epoch, at, removed });
    try {
      // Another coordinator may be ending the registration: what was not written stands in the store all the same.
      let updated = await this.#records.update(id, plan, { isCertain: true });
      if (!updated.written && !(await this.#isRenewed(updated.record as ComponentDocument))) {
        // Its expiry may be decided and not written yet: that spares whatever was written since.
        updated = await this.#records.update(
          id,
          (current, removed) => plan(current, removed) ?? (current && { ...current, changedAt: at }),
        );
      }
      const { record, written, before } = updated;
      if (record === undefined) throw notFound(id);
      if (before?.state === "up" && written && !isSameProcess(registration, before)) {
        const told = { component: id, incarnation: record.incarnation, former: before.incarnation };
        logger.warn(told, "a newer process took the id of one that was up");
      }
      // From now on, not from when the feed or a write of before brought it: that is what the caller is told.
      if (written) this.touch(id);
      return { record, created: before === undefined, expiresInMs: record.ttlMs };
    } catch (error) {
      // It is alive, whatever the store is: a registration that has to wait must not cost the lease it had.
      if (isMusterError(error, "store-unavailable")) this.#judgement.renew(id);
      throw error;
    }
  }

  /**
   * Renews the lease of `id` for another TTL, in memory. A component that hears nothing for a whole TTL must take itself
   * for expired.
   * @throws MusterError `not-registered`: register again. `superseded`: a newer process has the id; end this one.
   *   `not-leading`: the leader cannot be told; try again or another coordinator. `store-unavailable`: not known here.
   * @param options `isRelayed`: another coordinator that does not lead passed it on.
   */
  async renew(
    id: string,
    renewal: Renewal = {},
    { isRelayed = false }: { isRelayed?: boolean } = {},
  ): Promise<{ expiresInMs: number }> {
    let record = this.#records.get(id);
    // Registered a moment ago with another coordinator, whose write the feed has not brought here yet.
    if (record === undefined || (renewal.incarnation ?? 0) > record.incarnation)
      record = await this.#records.refresh(id, { timeoutMs: refreshTimeoutMs });
    const expiresInMs = this.#renewHere(id, record, renewal);
    if (expiresInMs !== undefined) return { expiresInMs };
    if (isRelayed)
      throw new MusterError("not-leading", "this coordinator does not lead its site", { retryAfterMs: 1_000 });
    await this.#relay.pass({ id, ...renewal });
    return { expiresInMs: (record as ComponentDocument).ttlMs };
  }

  /** Renewals by message are for the leader: two that listen would get half of them each. */
  #listen(): void {
    const { leadership, onRenewal, logger } = this.#options;
    const leads = leadership.standing.role === "leading";
    if (leads) this.#stopListening ??= onRenewal?.((message) => this.hear(message));
    else if (this.#stopListening !== undefined) {
      this.#stopListening().catch((error: unknown) => logger.warn({ error }, "still listening to renewals"));
      this.#stopListening = undefined;
    }
  }

  /** Takes a renewal that came by message. @returns why it is void; undefined when it counts, or is for another to judge. */
  hear(message: RenewalMessage): ErrorCode | undefined {
    const { id, ...renewal } = message;
    if (this.#options.leadership.standing.role !== "leading") return undefined;
    try {
      this.#renewHere(id, this.#records.get(id), renewal);
      return undefined;
    } catch (error) {
      if (!isMusterError(error)) throw error;
      this.#options.logger.debug({ component: id, code: error.code }, "a renewal by message is void");
      return error.code;
    }
  }

  /**
   * Counts a poll of `id` as a renewal. Says nothing of components that hold no lease here.
   * @param incarnation of the process that polls, where it is known. @throws MusterError `superseded`
   */
  touch(id: string, incarnation?: number): void {
    const record = this.#records.get(id);
    this.#refuseOlder(id, record, incarnation);
    if (record?.state !== "up" || record.site !== this.#options.site) return;
    if (this.#options.leadership.standing.role === "leading") {
      this.#judgement.renew(id);
      return;
    }
    this.#relay.touch({ id, incarnation: record.incarnation });
  }

  /** Whether the component, whose record says that it is up, has its lease from now on. */
  async #isRenewed({ id, incarnation }: ComponentDocument): Promise<boolean> {
    if (this.#options.leadership.standing.role === "leading") return this.#judgement.renew(id) !== undefined;
    return this.#relay.ask({ id, incarnation }).then(
      () => true,
      () => false,
    );
  }

  /** @throws MusterError `not-registered`, `store-unavailable` */
  async setConfigStatus(id: string, { etag, status, reason }: ConfigStatusReport): Promise<void> {
    const { site, wallClock } = this.#options;
    const said = { etag, status, ...(reason === undefined ? {} : { reason }) };
    this.touch(id);
    await this.#records.update(id, (current) => {
      if (current === undefined || current.site !== site) throw notHere(id, current);
      const { at: _, ...known } = current.configStatus ?? { at: "" };
      if (isDeepStrictEqual(known, said)) return undefined;
      return { ...current, configStatus: { ...said, at: wallClock().toISOString() } };
    });
  }

  /**
   * Ends the registration: the component is `gone` and keeps its queues, or with `purge` is removed with them. A purge that
   * failed may be called again, also of one whose record is gone already: its queues are then taken away. Where nobody does,
   * the site's leader finishes it.
   * @param options `incarnation` of the process that leaves: it must not take a newer one with it.
   * @throws MusterError `not-found`, `superseded`, `refused` when its home is another site, `store-unavailable`,
   *   `broker-unavailable` when it is removed, but its queues stand
   */
  async deregister(id: string, options: { purge?: boolean; incarnation?: number } = {}): Promise<void> {
    const { site, leadership, wallClock, sites, logger } = this.#options;
    const { purge = false } = options;
    const mark = { epoch: leadership.epoch, at: wallClock().toISOString() };
    const isInReach = (home: string) => home === site || (purge && !sites.hears(home));
    const known = this.#records.get(id) ?? (await this.#records.refresh(id));
    if (known === undefined) {
      const left = purge ? await this.#records.tombstone(id) : undefined;
      if (left === undefined || !isInReach(left.site)) throw notFound(id);
      await this.#removals.finish(left);
      return;
    }
    const { written, before = known } = await this.#records.update(id, (current) => {
      if (current === undefined) return undefined;
      this.#refuseOlder(id, current, options.incarnation);
      if (!isInReach(current.site)) {
        throw new MusterError("refused", `"${id}" is registered at the site "${current.site}": deregister it there`);
      }
      if (purge) return tombstone(current, mark);
      return current.state === "gone" ? undefined : withState(current, "gone", mark);
    });
    if (written) logger.info({ component: id, purge }, "deregistered");
    // The queues go last: a removal that is refused or fails must not cost the living what waits for them.
    if (purge) await this.#removals.finish(before);
  }

  /** @returns the record as it is read, with its etag. @throws MusterError `not-found` */
  read(id: string): { etag: string; record: ComponentRecord } {
    const document = this.#records.get(id);
    if (document === undefined) throw notFound(id);
    const heard = this.#options.sites.hears(document.site);
    return { etag: `${document._rev}${heard ? "" : "-unverified"}`, record: recordOf(document, heard) };
  }

  /** One page of those who fit `query`. Many ask the same: until something changes they share one answer. */
  discover(query: DiscoveryQuery, page: { limit: number; cursor?: string | undefined }): DiscoveryPage {
    const key = JSON.stringify([query, page.limit, page.cursor]);
    const kept = this.#pages.get(key);
    if (kept?.revision === this.revision) return kept.page;
    const { sites } = this.#options;
    const found = discover(this.#records.roster, query, page, (site) => sites.hears(site));
    const answer = {
      etag: found.etag,
      records: found.records.map((document) => recordOf(document, sites.hears(document.site))),
      ...(found.cursor === undefined ? {} : { cursor: found.cursor }),
    };
    this.#pages.set(key, { revision: this.revision, page: answer });
    return answer;
  }

  /** What happens to components from now on, of one type or of all. @returns what ends it. */
  watch(listener: (entry: LogEntry) => void, type?: string): () => void {
    return this.#records.subscribe(listener, type);
  }

  /** Where a watcher stands, and what it missed; `missed` is undefined when that is not known any more. */
  resume(lastEventId: string | undefined): { lastId: string; missed: LogEntry[] | undefined } {
    const { log } = this.#records;
    return { lastId: log.lastId, missed: lastEventId === undefined ? undefined : log.after(lastEventId) };
  }

  /** Counts up with every event: what was read at the same revision is the same. */
  get revision(): number {
    return this.#records.revision;
  }

  /** @throws MusterError `superseded` when a newer process has the id than the one of this incarnation. */
  #refuseOlder(id: string, record: ComponentDocument | undefined, incarnation: number | undefined): void {
    if (record === undefined || (incarnation ?? record.incarnation) >= record.incarnation) return;
    this.#options.logger.warn({ component: id, incarnation, newer: record.incarnation }, "superseded");
    throw superseded(id, record, incarnation);
  }

  /** @returns the milliseconds left, or undefined when another coordinator leads and has to be told. */
  #renewHere(id: string, record: ComponentDocument | undefined, renewal: Renewal): number | undefined {
    const { site, leadership } = this.#options;
    this.#refuseOlder(id, record, renewal.incarnation);
    if (record?.state !== "up" || record.site !== site) throw notHere(id, record);
    this.#metrics?.renewals.inc();
    if (leadership.standing.role !== "leading") return undefined;
    const leftMs = this.#judgement.renew(id);
    if (leftMs === undefined) throw notHere(id, { ...record, state: "expired" });
    if (renewal.health !== undefined) {
      this.#health.take(id, { incarnation: record.incarnation, health: renewal.health });
    }
    return leftMs;
  }
}

function superseded(id: string, record: ComponentDocument, incarnation: number | undefined): MusterError {
  const told = `"${id}" was registered by a newer process: incarnation ${record.incarnation}, yours is ${incarnation}`;
  return new MusterError("superseded", `${told}; end this process or register again to take the id back`);
}

function notHere(id: string, record: ComponentDocument | undefined): MusterError {
  const why =
    record === undefined
      ? "is not registered"
      : record.state === "up"
        ? `is registered at the site "${record.site}"`
        : `is ${record.state}`;
  return new MusterError("not-registered", `"${id}" ${why}; register it with PUT /v1/components/${id}`);
}
