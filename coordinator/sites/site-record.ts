/**
 * The record of our own site, `site:<site>`, written by compare-and-set. Whoever leads writes it; a write succeeds only
 * over the revision that the writer has seen, which is what makes a leader's decisions valid or void.
 */
import { isMusterError } from "../../config-db/errors.ts";
import type { SiteDocument } from "../../config-db/generated/types.ts";
import { databases, documentId } from "../../config-db/names.ts";
import type { Database, Store, Stored } from "../../config-db/store.ts";

/** Only coordinators of one site write it, at a change of leader: more than a few clashes in a row are a fault. */
const attemptsMax = 10;

export class SiteRecord {
  readonly #id: string;
  readonly #database: Database<SiteDocument>;
  #known: Stored<SiteDocument> | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(store: Store, site: string) {
    this.#id = documentId.site(site);
    this.#database = store.database<SiteDocument>(databases.registry);
  }

  /** In turn with the writes: an answer that came late would put back what a write of ours has replaced. */
  read(): Promise<Stored<SiteDocument> | undefined> {
    return this.#inTurn(() => this.#read());
  }

  /**
   * Writes what `plan` makes of the record, one write at a time. `plan` is asked with what was last seen, and again with
   * what stands in the store when that is something else; it throws when that makes the write void.
   * @throws MusterError `store-unavailable`: it may have been written all the same.
   */
  write(plan: (current: Stored<SiteDocument> | undefined) => SiteDocument): Promise<Stored<SiteDocument>> {
    return this.#inTurn(() => this.#write(plan));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #read(): Promise<Stored<SiteDocument> | undefined> {
    this.#known = await this.#database.get(this.#id);
    return this.#known;
  }

  async #write(plan: (current: Stored<SiteDocument> | undefined) => SiteDocument): Promise<Stored<SiteDocument>> {
    if (this.#known === undefined) await this.#read();
    for (let attempt = 1; ; attempt += 1) {
      const planned = plan(this.#known);
      try {
        this.#known = { ...planned, _rev: await this.#database.put(planned) };
        return this.#known;
      } catch (error) {
        if (!isMusterError(error, "conflict") || attempt === attemptsMax) throw error;
      }
      await this.#read();
    }
  }
}
