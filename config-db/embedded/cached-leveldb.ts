/**
 * LevelDB that answers from memory what was written lately. PouchDB reads a document's entries again right after it wrote
 * them, for the feed and for the next write, and each read is a hop through the thread pool that costs more than what it
 * fetches. This process is the only one that writes (LevelDB's own lock), so that what was written is what stands there.
 */
import LevelDOWN, { type Batch, type Done } from "leveldown";
import { LRUCache } from "lru-cache";
import { limits } from "./limits.ts";

class CachedLevelDB extends LevelDOWN {
  /** Filled by writes alone: what a read brings may be older than a write that ended meanwhile. */
  readonly #written = new LRUCache<string, string>({
    maxSize: limits.cacheCharacters,
    sizeCalculation: (value, key) => value.length + key.length,
  });

  override _get(key: unknown, options: { asBuffer?: boolean }, done: Done<unknown>): void {
    const known = options.asBuffer === false ? this.#written.get(String(key)) : undefined;
    if (known === undefined) super._get(key, options, done);
    else process.nextTick(done, null, known);
  }

  override _batch(operations: Batch, options: object, done: Done<void>): void {
    super._batch(operations, options, (error) => {
      for (const { type, key, value } of operations) {
        // After a failure nobody knows what stands there but LevelDB.
        const isText = type === "put" && typeof value === "string" && typeof key === "string";
        if (isText && !error) this.#written.set(key, value);
        else this.#written.delete(String(key));
      }
      done(error);
    });
  }

  override _put(key: unknown, value: unknown, options: object, done: Done<void>): void {
    this._batch([{ type: "put", key, value }], options, done);
  }

  override _del(key: unknown, options: object, done: Done<void>): void {
    this._batch([{ type: "del", key }], options, done);
  }

  override _clear(options: object, done: Done<void>): void {
    this.#written.clear();
    super._clear(options, done);
  }
}

/** What PouchDB takes as its `db`: it calls it without `new`. */
export const cachedLevelDB = Object.assign((location: string) => new CachedLevelDB(location), {
  destroy: LevelDOWN.destroy,
});
