/**
 * Who leads the coordinators of a site.
 *
 * The broker proposes: the active consumer of a queue with a single active consumer (`contest`) takes the lead. The
 * store disposes: taking the lead is raising `epoch` in the site's record by compare-and-set, and every decision of a
 * leader is a compare-and-set of that same record. A leader that was frozen and thawed, or cut off, believes that it
 * leads until it tries: its successor's epoch made another revision, so its decision is void, whatever it believes.
 *
 * - Without a broker a coordinator takes the lead when it starts; a former one finds out and follows.
 * - Whom the broker has chosen takes the lead back from one that took it without: renewals by message come to the chosen.
 * - A follower that the broker cannot tell (no broker, or not connected) watches whether the leader's beat advances,
 *   and takes the lead when it does not.
 * - A leader that loses the broker keeps the lead, since nobody else may be there to take it, but does not judge for a
 *   while: renewals by message do not reach it.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import type { SiteDocument } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import { versionMax } from "../../config-db/revision.ts";
import type { Store } from "../../config-db/store.ts";
import { SiteRecord } from "./site-record.ts";

export type Decision = NonNullable<SiteDocument["decided"]>[number];

export type Standing =
  | { role: "following" }
  /** `judging` is false while renewals by message may not reach us. `inherited`: what the predecessor had decided. */
  | { role: "leading"; epoch: number; judging: boolean; inherited: Decision[] };

/** The broker's part: entering makes us a candidate. */
export interface Contest {
  /** Resolves when we are a candidate. Calls back, any number of times, when we are chosen and when that ends. */
  enter(chosen: { gained(): void; lost(): void }): Promise<void>;
  /** Whether the broker can tell us at the moment that we are chosen. */
  connected(): boolean;
}

export interface LeadershipOptions {
  store: Store;
  site: string;
  /** Of this process; told in the site's record. */
  instance: string;
  /** How others reach this coordinator. */
  coordinatorUrl: string;
  contest?: Contest;
  logger: Logger;
  /** Default 5,000. Others take a site for silent after three of its beats. */
  beatEveryMs?: number;
  /** How long a leader that lost the broker does not judge. Default 15,000: clients have found the bridge by then. */
  deafMs?: number;
}

/** A follower takes the lead after reading the same beat so often, a beat apart: one more than readers elsewhere wait. */
const unchangedReadsMax = 4;
const retryMs = 500;

export class Leadership {
  readonly #options: LeadershipOptions & { beatEveryMs: number; deafMs: number };
  readonly #record: SiteRecord;
  readonly #listeners = new Set<(standing: Standing) => void>();
  readonly #abort = new AbortController();
  #standing: Standing = { role: "following" };
  #epoch = 0;
  #leaderUrl: string | undefined;
  #claiming: Promise<void> | undefined;
  #looking: Promise<void> | undefined;
  /** The broker has chosen us, as far as we know. */
  #chosen = false;
  #carriedOut = false;
  #beatTimer: NodeJS.Timeout | undefined;
  #deafTimer: NodeJS.Timeout | undefined;
  #unchanged = { beat: "", reads: 0 };

  constructor(options: LeadershipOptions) {
    this.#options = { beatEveryMs: 5_000, deafMs: 15_000, ...options };
    this.#record = new SiteRecord(options.store, options.site);
  }

  get standing(): Standing {
    return this.#standing;
  }

  get leading(): boolean {
    return this.#standing.role === "leading";
  }

  /** The highest epoch known here: our own when leading. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Where the leader answers over HTTP; undefined while that is not known, or is here. */
  get leaderUrl(): string | undefined {
    return this.#leaderUrl === this.#options.coordinatorUrl ? undefined : this.#leaderUrl;
  }

  /** Tells of every change. @returns what ends it. */
  subscribe(changed: (standing: Standing) => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /** Becomes a candidate. Without a broker it leads when this resolves; with the store away it will when that is back. */
  async start(): Promise<void> {
    const { contest, beatEveryMs } = this.#options;
    this.#beatTimer = setInterval(() => this.#look(), beatEveryMs);
    if (contest === undefined) {
      await this.#tryClaim();
      return;
    }
    contest
      .enter({ gained: () => this.#gained(), lost: () => this.#lost() })
      .catch((error: unknown) => this.#options.logger.error({ error }, "cannot become a candidate for the lead"));
  }

  /** Stops beating and judging. Leaving the contest is the broker connection's close. */
  async close(): Promise<void> {
    this.#abort.abort();
    clearInterval(this.#beatTimer);
    clearTimeout(this.#deafTimer);
    await Promise.all([this.#claiming, this.#looking]);
    this.#stand({ role: "following" });
  }

  /** Takes in what the changes feed says of our own site's record: a successor is noticed at once. */
  apply(changes: { id: string; deleted: boolean; doc: unknown }[]): void {
    const own = documentId.site(this.#options.site);
    for (const { id, deleted, doc } of changes) {
      if (id !== own || deleted) continue;
      const { epoch: told, coordinatorUrl } = doc as SiteDocument;
      const epoch = counted(told);
      if (epoch >= this.#epoch) this.#leaderUrl = coordinatorUrl;
      this.#learn(epoch);
    }
  }

  /**
   * Makes decisions valid: they stand in the site's record when this resolves. Until they are carried out that is
   * where a successor finds them, so the former ones have to be carried out before this is called again.
   * @throws MusterError `not-leading`: they are void. `store-unavailable`: not known; ask again with a fresh judgement.
   */
  async decide(decisions: Decision[]): Promise<void> {
    await this.#lead((current) => {
      // With the write, not after it: a beat that comes next would leave the decisions out.
      this.#carriedOut = false;
      return { ...current, decided: decisions };
    });
  }

  /** Says that nothing of what was decided is left to do: the next beat takes it out of the site's record. */
  carriedOut(): void {
    this.#carriedOut = true;
  }

  /** Writes the site's record as its leader. */
  async #lead(change: (current: SiteDocument) => SiteDocument): Promise<void> {
    try {
      await this.#record.write((current) => {
        const { standing } = this;
        if (standing.role !== "leading" || current === undefined || current.epoch !== standing.epoch) {
          this.#learn(counted(current?.epoch));
          throw new MusterError("not-leading", `the site's epoch is ${current?.epoch}: another coordinator leads`, {
            retryAfterMs: 1_000,
          });
        }
        return change(current);
      });
    } catch (error) {
      if (isMusterError(error, "not-leading")) this.#stand({ role: "following" });
      throw error;
    }
  }

  #gained(): void {
    this.#chosen = true;
    clearTimeout(this.#deafTimer);
    if (this.leading) this.#judge(true);
    else this.#claim();
  }

  #lost(): void {
    this.#chosen = false;
    clearTimeout(this.#deafTimer);
    this.#judge(false);
    this.#deafTimer = setTimeout(() => this.#judge(true), this.#options.deafMs);
  }

  #judge(judging: boolean): void {
    const standing = this.#standing;
    if (standing.role !== "leading" || standing.judging === judging) return;
    this.#stand({ ...standing, judging, inherited: [] });
  }

  #claim(): void {
    this.#claiming ??= this.#claimUntilDone().finally(() => {
      this.#claiming = undefined;
    });
  }

  /** Raises the epoch, however long the store is away. */
  async #claimUntilDone(): Promise<void> {
    const { signal } = this.#abort;
    while (this.#chosen && !signal.aborted && !(await this.#tryClaim())) {
      await delay(retryMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #tryClaim(): Promise<boolean> {
    const { site, logger } = this.#options;
    try {
      await this.#record.read();
      const { epoch, decided } = await this.#record.write((current) => ({
        ...(current ?? { _id: documentId.site(site), kind: "site", schemaVersion: 1, site }),
        ...this.#beatAfter(current),
        // The record may have been deleted, or put back to an older one, since an epoch was known here.
        epoch: Math.max(counted(current?.epoch), this.#epoch) + 1,
      }));
      if (this.#abort.signal.aborted) return true;
      // The feed may have told of a successor already, which it does once. Whom the broker has chosen claims again.
      if (epoch < this.#epoch) return true;
      this.#epoch = epoch;
      this.#stand({ role: "leading", epoch, judging: true, inherited: decided ?? [] });
      logger.info({ epoch }, "leading the site");
      return true;
    } catch (error) {
      logger.warn({ reason: (error as Error).message }, "cannot take the lead yet; trying again");
      return false;
    }
  }

  /** A leader beats; a follower whom the broker cannot tell looks whether the leader does. */
  #look(): void {
    if (this.#looking !== undefined || this.#claiming !== undefined) return;
    this.#looking = (this.leading ? this.#beat() : this.#watch())
      .catch((error: unknown) => this.#options.logger.debug({ error }, "the site's record cannot be reached"))
      .finally(() => {
        this.#looking = undefined;
      });
  }

  async #beat(): Promise<void> {
    await this.#lead(({ decided, ...current }) => ({
      ...current,
      ...this.#beatAfter(current),
      ...(this.#carriedOut || decided === undefined ? {} : { decided }),
    }));
  }

  /** What a leader says of itself, whatever stands there: the record may have been written past the coordinators. */
  #beatAfter(current: SiteDocument | undefined) {
    const { instance, coordinatorUrl, beatEveryMs } = this.#options;
    return { beat: counted(current?.beat) + 1, beatEveryMs, coordinatorUrl, leader: instance };
  }

  async #watch(): Promise<void> {
    if (this.#chosen) {
      this.#claim();
      return;
    }
    if (this.#options.contest?.connected() === true) {
      this.#unchanged = { beat: "", reads: 0 };
      return;
    }
    const current = await this.#record.read();
    const beat = `${current?.epoch}/${current?.beat}`;
    this.#unchanged = { beat, reads: beat === this.#unchanged.beat ? this.#unchanged.reads + 1 : 0 };
    // Nobody leads under an epoch that is over.
    if (this.#unchanged.reads < unchangedReadsMax && counted(current?.epoch) >= this.#epoch) return;
    this.#unchanged = { beat: "", reads: 0 };
    await this.#tryClaim();
  }

  #learn(epoch: number): void {
    if (epoch <= this.#epoch) return;
    this.#epoch = epoch;
    if (this.#standing.role !== "leading" || this.#standing.epoch >= epoch) return;
    this.#options.logger.warn({ epoch }, "another coordinator leads now");
    this.#stand({ role: "following" });
  }

  #stand(standing: Standing): void {
    if (this.#standing.role === "following" && standing.role === "following") return;
    this.#standing = standing;
    if (standing.role === "following") clearTimeout(this.#deafTimer);
    for (const listener of [...this.#listeners]) listener(standing);
  }
}

/** A count as the record says it; 0 for what is none, or cannot be counted on from. */
function counted(value: unknown): number {
  return Number.isInteger(value) && Number(value) > 0 && Number(value) < versionMax ? Number(value) : 0;
}
