/**
 * LevelDB that answers from memory what was written lately. PouchDB reads a document's entries again right after it wrote
 * them, for the feed and for the next write, and each read is a hop through the thread pool that costs more than what it
 * fetches. This process is the only one that writes (LevelDB's own lock), so that what was written is what stands there.
 * Other reads that are asked for together, as those of a bulk write are, make one such hop.
 */
import LevelDOWN, { type Batch, type Done } from "leveldown";
import { LRUCache } from "lru-cache";
import { limits } from "./limits.ts";

export class CachedLevelDB extends LevelDOWN {
  /**
   * Filled by writes that have ended, and by them alone: what a read brings may be older. While a key is being written
   * LevelDB is asked, for an iterator made meanwhile may see the new value of one key, and of the next what is here: the
   * feed takes a document whose entries do not fit together for one that changed again, and leaves it out.
   */
  readonly #written = new LRUCache<string, string>({
    maxSize: limits.cacheCharacters,
    sizeCalculation: (value, key) => value.length + key.length,
  });

  /** The last batch under way that writes a key. */
  readonly #underWay = new Map<string, Batch>();

  /** Reads of texts that were asked for in this tick. */
  #asked: { key: unknown; done: Done<unknown> }[] = [];

  /** What was written lately under `key`, and stands there; undefined where LevelDB is to be asked. */
  lately(key: string): string | undefined {
    return this.#written.peek(key);
  }

  override _get(key: unknown, options: { asBuffer?: boolean }, done: Done<unknown>): void {
    if (options.asBuffer !== false) {
      super._get(key, options, done);
      return;
    }
    const known = this.#written.get(String(key));
    if (known !== undefined) process.nextTick(done, null, known);
    else if (this.#asked.push({ key, done }) === 1) process.nextTick(() => this.#readAsked());
  }

  #readAsked(): void {
    const asked = this.#asked;
    const [first] = asked;
    if (first === undefined) return;
    this.#asked = [];
    if (asked.length === 1) {
      super._get(first.key, { asBuffer: false }, first.done);
      return;
    }
    const keys = asked.map(({ key }) => key);
    super._getMany(keys, { asBuffer: false }, (error, values = []) => {
      for (const [index, { done }] of asked.entries()) {
        if (error) done(error);
        else if (values[index] === undefined) done(new Error("NotFound"));
        else done(null, values[index]);
      }
    });
  }

  /** What was asked for before it is closed is read before. */
  override _close(done: Done<void>): void {
    this.#readAsked();
    super._close(done);
  }

  override _batch(operations: Batch, options: object, done: Done<void>): void {
    for (const { key } of operations) {
      this.#underWay.set(String(key), operations);
      this.#written.delete(String(key));
    }
    super._batch(operations, options, (error) => {
      const latest = operations.filter(({ key }) => this.#underWay.get(String(key)) === operations);
      for (const { type, key, value } of latest) {
        this.#underWay.delete(String(key));
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
    this.#underWay.clear();
    this.#written.clear();
    super._clear(options, done);
  }
}
