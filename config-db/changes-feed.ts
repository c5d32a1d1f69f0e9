/**
 * One changes feed of one database for the whole process, fanned out in memory: many feeds are costly to CouchDB
 * (apache/couchdb-nano#267). A lost store is asked again until it is back, from where we were.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Change, Database, Document } from "./store.ts";

export interface ChangesFeedOptions {
  /** Called with each batch, in order. A throw is a fault and is reported. */
  onChanges(changes: Change[]): void;
  /** Called when the feed loses the store (with the reason) and when it has it again (without). */
  onState?(lost: Error | undefined): void;
}

/** Retries of a lost store: from the first to at most the second, doubling. */
const retryMs = { first: 100, max: 2_000 };
/** A feed is behind by milliseconds; a store that is slow is asked for no longer than this. */
const upToDateMs = 1_000;

export class ChangesFeed {
  readonly #database: Database<Document>;
  readonly #options: ChangesFeedOptions;
  readonly #abort = new AbortController();
  #running: Promise<void> | undefined;
  #since: string | number = 0;
  #whenGiven = () => {};
  #asking: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  constructor(database: Database<Document>, options: ChangesFeedOptions) {
    this.#database = database;
    this.#options = options;
  }

  /** The sequence up to which changes have been given on. */
  get since(): string | number {
    return this.#since;
  }

  /** Resolves when every change that the store has at this moment was given on. @param since 0 for all, from the start. */
  async start(since: string | number = 0): Promise<void> {
    this.#since = since;
    for (;;) {
      const page = await this.#database.changes(this.#since);
      this.#give(page);
      if (page.results.length === 0) break;
    }
    this.#running = this.#follow();
  }

  /**
   * Resolves when what the store had at the call was given on, as far as that comes within two seconds and the store can be
   * asked: for who is about to answer by what another process may have changed a moment ago.
   */
  upToDate(): Promise<void> {
    // The answer under way may have left the store before this call: all who come meanwhile share the next.
    this.#next ??= this.#asking.then(() => {
      this.#next = undefined;
      this.#asking = this.#ask();
      return this.#asking;
    });
    return this.#next;
  }

  async #ask(): Promise<void> {
    for (const giveUpAtMs = performance.now() + upToDateMs; performance.now() < giveUpAtMs; ) {
      const given = new Promise<void>((resolve) => {
        this.#whenGiven = resolve;
      });
      const late = delay(giveUpAtMs - performance.now(), undefined, { ref: false });
      const asked = this.#database.changes(this.#since, { limit: 1 }).catch(() => undefined);
      const ahead = await Promise.race([asked, late]);
      if (ahead === undefined || ahead.results.length === 0) return;
      await Promise.race([given, late]);
    }
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  #give(page: { results: Change[]; last_seq: string | number }): void {
    if (page.results.length > 0) this.#options.onChanges(page.results);
    this.#since = page.last_seq;
    this.#whenGiven();
  }

  async #follow(): Promise<void> {
    const { signal } = this.#abort;
    let failures = 0;
    while (!signal.aborted) {
      try {
        for await (const page of this.#database.follow(this.#since, signal)) {
          if (failures > 0) this.#options.onState?.(undefined);
          failures = 0;
          this.#give(page);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (failures === 0) this.#options.onState?.(error as Error);
        const wait = Math.min(retryMs.max, retryMs.first * 2 ** failures);
        failures = Math.min(failures + 1, 10);
        await delay(wait * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
      }
    }
  }
}
