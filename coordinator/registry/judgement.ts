/**
 * The leader's judgement of its site's leases: runs the judge, decides what has run out, and writes the transitions.
 *
 * How an expiry comes about, and why a leader that was frozen and thawed writes none
 * 1. A tick finds leases that have run out. Everything that is waiting in sockets and at the broker is read first, then
 *    they are asked again. Where that takes long, the renewals of others were held up as well: it counts as a stall.
 * 2. The decision is written into the site's record by compare-and-set (`leadership.decide`). A leader that was
 *    replaced meanwhile fails here: its successor raised the epoch, which made a new revision of that record.
 * 3. The decision is carried out on the components' records. It names id, incarnation and revision, so that it can be
 *    carried out late or twice, by this leader or by its successor, without touching what was registered since.
 */
import { setTimeout as delay, setImmediate as turn } from "node:timers/promises";
import type { Logger } from "pino";
import { isMusterError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { nextVersion } from "../../config-db/revision.ts";
import type { JudgedTimeOptions } from "../judged-time.ts";
import type { RegistryEvent } from "./event-log.ts";
import { LeaseJudge } from "./lease-judge.ts";
import type { Records } from "./records.ts";
import { tombstone, withState } from "./registration.ts";
import type { Removals } from "./removals.ts";
import { defaultRetention, overdueForRemoval, type Retention, WallClockWatch } from "./retention.ts";

/** What the leader has decided of a component: of this incarnation of it, no later one. */
export interface Decision {
  id: string;
  incarnation: number;
  /** Of the record that was judged. */
  rev?: string;
  to: "expired" | "removed";
}

export type Standing =
  | { role: "following" }
  /** `judging` is false while the leader may not hear all renewals. `inherited`: what its predecessor had decided. */
  | { role: "leading"; epoch: number; judging: boolean; inherited: Decision[] };

/** What the registry needs of the leadership of its site (coordinator/sites/leadership.ts). */
export interface Leadership {
  readonly standing: Standing;
  /** The highest epoch known, leading or not. */
  readonly epoch: number;
  /** Where the leader answers over HTTP; undefined while that is not known, or is here. */
  readonly leaderUrl: string | undefined;
  subscribe(changed: (standing: Standing) => void): () => void;
  /** @throws MusterError `not-leading`: nothing may be carried out. `store-unavailable`: not known; ask again. */
  decide(decisions: Decision[]): Promise<void>;
  /** All that was decided is done. */
  carriedOut(): void;
}

export interface JudgementOptions {
  records: Records;
  removals: Removals;
  site: string;
  leadership: Leadership;
  logger: Logger;
  /** Monotonic, milliseconds. */
  clock(): number;
  wallClock(): Date;
  time?: JudgedTimeOptions;
  retention?: Retention;
  /** Resolves when the renewals by message that were sent before have been given, or when that cannot be known. */
  renewalsHeard?(signal: AbortSignal): Promise<void>;
}

/** Half of the 100 ms within which an expiry should be noticed; a tick with nothing due costs microseconds. */
const tickMs = 50;
/** One decision stands in the site's record: 500 of them are some 30 KB. */
const decisionsMax = 500;
const retryMs = 500;
/** What was sent to the predecessor while it was dying waits at the broker: seconds of it are read in less. */
const takeOverSettleMs = 2_500;
const retentionEveryMs = 60_000;

/**
 * Ten ticks missed are a stall: half of the shortest TTL, so that after less than it the renewals that wait can be read in
 * one turn of the event loop. What piled up in longer is read in seconds, or was dropped by the limits of queues.
 */
export const defaultTime: JudgedTimeOptions = { stallAfterMs: 500, settleMaxMs: 5_000 };

export class Judgement {
  readonly #options: JudgementOptions & { time: JudgedTimeOptions };
  readonly #judge: LeaseJudge;
  /** Decided or being decided; neither granted nor renewed until that is carried out. */
  readonly #decided = new Set<string>();
  readonly #wallClockWatch = new WallClockWatch();
  #ends: (() => void)[] = [];
  #running: Promise<void> | undefined;
  #inherited: Promise<void> | undefined;
  #sweptMs = Number.NEGATIVE_INFINITY;
  readonly #closing = new AbortController();

  constructor(options: JudgementOptions) {
    this.#options = { time: defaultTime, ...options };
    this.#judge = new LeaseJudge(this.#options.time);
  }

  /** Leases held at the moment; 0 when this coordinator does not lead. */
  get leases(): number {
    return this.#judge.size;
  }

  start(): void {
    const { leadership, records, clock } = this.#options;
    this.#judge.observe(clock());
    const timer = setInterval(() => this.tick(), tickMs);
    this.#ends = [
      () => clearInterval(timer),
      records.subscribe(({ event }) => this.#hear(event)),
      leadership.subscribe((standing) => this.#stand(standing)),
    ];
    this.#stand(leadership.standing);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    for (const end of this.#ends.splice(0)) end();
    await Promise.all([this.#running, this.#inherited]);
  }

  /** @returns the milliseconds that the lease now has, or undefined when `id` holds none here. */
  renew(id: string): number | undefined {
    return this.#judge.renew(id, this.#options.clock());
  }

  /** One look at the clock. Called by a timer; tests with a clock of their own call it. */
  tick(): void {
    const { clock, logger } = this.#options;
    const nowMs = clock();
    const awayMs = this.#judge.observe(nowMs);
    if (awayMs > 0) logger.warn({ awayMs: Math.round(awayMs), leases: this.#judge.size }, "not judging: was away");
    if (!this.#isJudging || this.#running !== undefined) return;
    const sweeps = nowMs - this.#sweptMs >= retentionEveryMs;
    if (!sweeps && this.#judge.due(1).length === 0) return;
    if (sweeps) this.#sweptMs = nowMs;
    this.#running = this.#judgeNow(sweeps)
      .catch((error: unknown) => this.#report(error))
      .finally(() => {
        this.#running = undefined;
      });
  }

  async #judgeNow(sweeps: boolean): Promise<void> {
    const { records, leadership } = this.#options;
    await this.#inherited;
    if (sweeps) await this.#sweep();
    if (this.#judge.due(1).length === 0 || !(await this.#hasHeard())) return;
    const decisions = this.#judge.due(decisionsMax).flatMap((id): Decision[] => {
      const record = records.get(id);
      if (this.#isJudged(record)) return [decision(record, "expired")];
      this.#judge.drop(id);
      return [];
    });
    if (decisions.length === 0) return;
    await leadership.decide(decisions);
    // Whoever renewed while that was written is late, and spared.
    const due = new Set(this.#judge.due());
    const standing = decisions.filter(({ id }) => due.has(id));
    if (standing.length < decisions.length) await leadership.decide(standing);
    await this.#carryOut(standing);
  }

  /** Whether all renewals that were sent until now are in. */
  async #hasHeard(): Promise<boolean> {
    const { clock, time, renewalsHeard } = this.#options;
    const askedMs = clock();
    await renewalsHeard?.(this.#closing.signal);
    const tookMs = clock() - askedMs;
    // The renewals of others wait in as many sockets of the broker's: they are not ahead of what we heard by.
    if (tookMs > time.stallAfterMs) this.#judge.settle(tookMs);
    // Two turns of the event loop: what arrived during a short pause is in a socket and is read in the first.
    await turn();
    await turn();
    return this.#isJudging && !this.#closing.signal.aborted;
  }

  get #isJudging(): boolean {
    const { standing } = this.#options.leadership;
    return standing.role === "leading" && standing.judging;
  }

  async #carryOut(decisions: Decision[]): Promise<void> {
    for (const { id } of decisions) {
      this.#decided.add(id);
      this.#judge.drop(id);
    }
    await Promise.all(decisions.map((decision) => this.#carryOutOne(decision)));
    this.#options.leadership.carriedOut();
  }

  /** Until it is done, somebody else leads, or the coordinator closes: then the successor finds it in the site's record. */
  async #carryOutOne(decision: Decision): Promise<void> {
    const { records, logger, leadership, wallClock } = this.#options;
    while (!this.#closing.signal.aborted && leadership.standing.role === "leading") {
      try {
        const { written } = await records.update(decision.id, (current) => {
          if (current?.incarnation !== decision.incarnation || current.site !== this.#options.site) return undefined;
          // Written since, by a coordinator that the component told something: a sign of life.
          if (decision.to === "expired" && decision.rev !== undefined && current._rev !== decision.rev)
            return undefined;
          const mark = { epoch: leadership.epoch, at: wallClock().toISOString() };
          if (decision.to === "removed") return current.state === "up" ? undefined : tombstone(current, mark);
          return current.state === "up" ? withState(current, "expired", mark) : undefined;
        });
        if (written) logger.info({ component: decision.id, incarnation: decision.incarnation }, decision.to);
        break;
      } catch (error) {
        this.#report(error);
        await delay(retryMs);
      }
    }
    this.#decided.delete(decision.id);
    // Something else may have become of the record meanwhile; a lease that is due is held by whoever is up.
    const record = records.get(decision.id);
    if (this.#isJudged(record) && !this.#judge.holds(decision.id)) this.#grant(record);
  }

  async #sweep(): Promise<void> {
    const { records, removals, leadership, site, clock, wallClock, logger } = this.#options;
    const { retention = defaultRetention } = this.#options;
    const now = wallClock();
    if (this.#wallClockWatch.isSteady(clock(), now.getTime())) {
      const overdue = overdueForRemoval(records.roster.all(), site, retention, now);
      const decisions = overdue.slice(0, decisionsMax).map((record) => decision(record, "removed"));
      if (decisions.length > 0) {
        await leadership.decide(decisions);
        await this.#carryOut(decisions);
      }
    } else {
      logger.warn("the system clock jumped: removals wait until it has been steady for an hour");
    }
    // The queues go last, and those of others' removals that were not finished. Expiry must not wait for the broker.
    removals.resume();
  }

  #stand(standing: Standing): void {
    const { logger, records } = this.#options;
    if (standing.role === "following") {
      this.#judge.clear();
      return;
    }
    // What the predecessor, or the time without a broker, has left is not waited for.
    this.#sweptMs = Number.NEGATIVE_INFINITY;
    // Whoever is up gets a full TTL: this judge has not heard them renew before now.
    const inherited = standing.inherited.filter(({ id }) => !this.#decided.has(id));
    for (const { id } of inherited) this.#decided.add(id);
    for (const record of records.roster.all()) if (this.#isJudged(record)) this.#grant(record);
    this.#judge.settle(takeOverSettleMs);
    logger.info({ epoch: standing.epoch, judging: standing.judging, leases: this.#judge.size }, "judging leases");
    if (inherited.length > 0) this.#inherited = this.#carryOut(inherited);
  }

  /** Keeps the leases in step with the records, whoever wrote them. */
  #hear({ before, after }: RegistryEvent): void {
    if (this.#options.leadership.standing.role !== "leading") return;
    const [was, is] = [before?.document, after?.document];
    const id = (is ?? was)?.id as string;
    if (!this.#isJudged(is)) {
      this.#judge.drop(id);
      if (is !== undefined && was !== undefined && refreshed(was, is)) this.#revive(is);
      return;
    }
    if (was?.incarnation !== is.incarnation || was.ttlMs !== is.ttlMs || !this.#judge.holds(id)) this.#grant(is);
    // Another coordinator wrote what the component told it, which is a sign of life. With `lease: self` only the counter is.
    else if (is.lease !== "self" || refreshed(was, is)) this.renew(id);
  }

  #grant(record: ComponentDocument): void {
    if (this.#decided.has(record.id)) return;
    this.#judge.grant(record.id, record.ttlMs, this.#options.clock());
  }

  #isJudged(record: ComponentDocument | undefined): record is ComponentDocument {
    return record?.state === "up" && record.site === this.#options.site;
  }

  /** A component that holds its lease itself goes on counting after it was taken for dead: it is back. */
  #revive(record: ComponentDocument): void {
    const { records, leadership, wallClock, site } = this.#options;
    if (record.state !== "expired" || record.site !== site) return;
    const mark = { epoch: leadership.epoch, at: wallClock().toISOString() };
    records
      .update(record.id, (current) =>
        current?.state === "expired" && current.lease === "self"
          ? { ...withState(current, "up", mark), incarnation: nextVersion(current.incarnation), registeredAt: mark.at }
          : undefined,
      )
      .catch((error: unknown) => this.#report(error));
  }

  #report(error: unknown): void {
    const { logger } = this.#options;
    // Waiting is right in each case: the store or the broker will be back, or another leads.
    const waits = ["store-unavailable", "not-leading", "broker-unavailable"] as const;
    if (waits.some((code) => isMusterError(error, code))) {
      logger.debug({ reason: (error as Error).message }, "a decision waits");
    } else {
      logger.error({ error }, "judging failed");
    }
  }
}

function decision({ _rev, id, incarnation }: ComponentDocument, to: Decision["to"]): Decision {
  return { id, incarnation, ...(_rev === undefined ? {} : { rev: _rev }), to };
}

function refreshed(was: ComponentDocument, is: ComponentDocument): boolean {
  return is.lease === "self" && is.renewal !== undefined && is.renewal !== was.renewal;
}
