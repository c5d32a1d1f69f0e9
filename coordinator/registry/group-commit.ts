/**
 * Group commit: all writes that wait go to the store together in one `_bulk_docs`, each answered when its own row is
 * acknowledged. One document a request costs the store a round trip and a commit each; a hundred together cost little
 * more than one (docs/discovery.md has the figures). An idle store gets a single write at once, and what comes while it is
 * under way makes up the next batch.
 *
 * Bounded: at most `waitingMax` writes wait, `batchMax` go together and no more than 2 MiB unless one alone is larger, two
 * batches are under way: while the store works on one, those of the other are answered and come back with more. The
 * second goes when it is no smaller than the first: CouchDB takes a fifth less time for a few large batches than for many small ones. Two batches never have a document in
 * common.
 *
 * Nobody pays for another's document: a batch that the store refuses as a whole is written in halves, down to the guilty.
 */
import { setImmediate as turn } from "node:timers/promises";
import { MusterError } from "../../config-db/errors.ts";
import type { BulkRow, Document } from "../../config-db/store.ts";
import { writeInHalves } from "../batches.ts";

export interface GroupCommitOptions {
  database: { bulkJson(docs: string[]): Promise<BulkRow[]> };
  /** Default 500: beyond that a batch gets slower, not more efficient. */
  batchMax?: number;
  /** Default 10,000: some seconds of work for a store that is well. */
  waitingMax?: number;
}

const batchesMax = 2;
/** Of JSON: well under the 8 MiB that the embedded store takes in one body. */
const batchBytesMax = 2 * 1024 * 1024;

interface Waiting {
  id: string;
  json: string;
  sizeBytes: number;
  resolve(rev: string): void;
  reject(error: unknown): void;
}

export class GroupCommit {
  readonly #database: GroupCommitOptions["database"];
  readonly #batchMax: number;
  readonly #waitingMax: number;
  readonly #underWay = new Set<string>();
  readonly #batches = new Set<Promise<void>>();
  #waiting: Waiting[] = [];
  #isWoken = false;
  #closed = false;

  constructor(options: GroupCommitOptions) {
    this.#database = options.database;
    this.#batchMax = options.batchMax ?? 500;
    this.#waitingMax = options.waitingMax ?? 10_000;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Writes `doc` over the revision it names (`_rev`), or anew.
   * @returns the new revision, once the store has acknowledged this document.
   * @throws MusterError `conflict` when another revision is stored, `store-unavailable` when nothing is known to be
   *   written, `too-many` when the queue is full: nothing was written.
   */
  write(doc: Document): Promise<string> {
    if (this.#closed) return Promise.reject(new MusterError("store-unavailable", "this coordinator is shutting down"));
    if (this.#waiting.length >= this.#waitingMax) {
      const told = `${this.#waiting.length} writes wait for the store already, the limit; try again later`;
      return Promise.reject(new MusterError("too-many", told, { retryAfterMs: 1_000 }));
    }
    return new Promise((resolve, reject) => {
      const json = JSON.stringify(doc);
      this.#waiting.push({ id: doc._id, json, sizeBytes: Buffer.byteLength(json), resolve, reject });
      this.#wake();
    });
  }

  /** Takes no more writes and waits for those it has. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#waiting.length > 0 || this.#batches.size > 0) {
      await Promise.all(this.#batches);
      await turn();
    }
  }

  /** Sends off what waits, once this turn of the event loop has read all that came in: half as many batches as at once. */
  #wake(): void {
    if (this.#isWoken) return;
    this.#isWoken = true;
    setImmediate(() => {
      this.#isWoken = false;
      while (this.#batches.size < batchesMax && this.#waiting.length >= this.#underWay.size) {
        const batch = this.#take();
        if (batch.length === 0) return;
        const done: Promise<void> = this.#commit(batch).then(() => {
          this.#batches.delete(done);
          for (const { id } of batch) this.#underWay.delete(id);
          this.#wake();
        });
        this.#batches.add(done);
      }
    });
  }

  /** The next batch, in order. A document that is under way waits until it is done: batches must not race. */
  #take(): Waiting[] {
    const batch: Waiting[] = [];
    const left: Waiting[] = [];
    let sizeBytes = 0;
    for (const write of this.#waiting) {
      const { id } = write;
      // Also for those that are left: what comes after one that does not fit must not overtake it.
      sizeBytes += write.sizeBytes;
      const isFull = batch.length === this.#batchMax || (batch.length > 0 && sizeBytes > batchBytesMax);
      if (isFull || this.#underWay.has(id)) {
        left.push(write);
      } else {
        batch.push(write);
        this.#underWay.add(id);
      }
    }
    this.#waiting = left;
    return batch;
  }

  async #commit(batch: Waiting[]): Promise<void> {
    try {
      const write = (part: Waiting[]) => this.#write(part);
      await writeInHalves(batch, write, ({ reject }, why) => reject(why));
    } catch (error) {
      // Those that were answered already stay so.
      for (const { reject } of batch) reject(error);
    }
  }

  async #write(batch: Waiting[]): Promise<void> {
    const rows = await this.#database.bulkJson(batch.map(({ json }) => json));
    const outcomes = new Map(rows.map((row) => [row.id, row]));
    for (const { id, resolve, reject } of batch) {
      const row = outcomes.get(id);
      if (row !== undefined && "rev" in row) resolve(row.rev);
      else reject(rowError(id, row));
    }
  }
}

function rowError(id: string, row: { error: string; reason: string } | undefined): MusterError {
  if (row === undefined) return new MusterError("store-unavailable", `the store did not answer for ${id}`);
  if (row.error === "conflict") {
    return new MusterError("conflict", `${id}: the stored revision is another one; nothing was written`);
  }
  return new MusterError("refused", `${id}: the store refuses it: ${row.error}, ${row.reason}`);
}
