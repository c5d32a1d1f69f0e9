/**
 * Read–modify–write of many records at once: every change is a pure function of the record as it stands, all that wait go
 * to the store in one bulk write, and those that met another writer's revision are made again upon that. An idle store
 * gets a single change at once; what comes while it is busy makes up the next batch.
 */
import { MusterError } from "../../config-db/errors.ts";
import type { Database, Document, Stored } from "../../config-db/store.ts";

/** @returns the record as it should be; the same, or undefined, when there is nothing to write. */
export type ChangeOf<Doc extends Document> = (record: Stored<Doc> | undefined) => Doc | undefined;

export interface RecordChangesOptions<Doc extends Document> {
  database: Pick<Database<Doc>, "bulk" | "getMany">;
  /** The record where it is in memory: saves reading it. A stale one only costs another round. */
  known(id: string): Stored<Doc> | undefined;
  /** Hears of every record that was written, or read because another wrote it. */
  seen(record: Stored<Doc>): void;
  batchMax?: number;
  waitingMax?: number;
}

interface Waiting<Doc extends Document> {
  change: ChangeOf<Doc>;
  isNew: boolean;
  resolve(record: Stored<Doc> | undefined): void;
  reject(error: unknown): void;
}

/** Rounds against other writers before a change is refused; two coordinators of a site meet seldom. */
const roundsMax = 10;
/** A sender is told 503 within this of a store that hangs. */
const writeTimeoutMs = 8_000;

export class RecordChanges<Doc extends Document> {
  readonly #options: RecordChangesOptions<Doc>;
  readonly #waiting = new Map<string, Waiting<Doc>[]>();
  #count = 0;
  #running: Promise<void> | undefined;

  constructor(options: RecordChangesOptions<Doc>) {
    this.#options = options;
  }

  /** Changes that are not stored yet. */
  get waiting(): number {
    return this.#count;
  }

  /**
   * Resolves with the record once the change is stored, or when it turned out to change nothing.
   * @param options.isNew the record is most likely not there yet: it is written before anybody looks.
   * @throws MusterError `store-unavailable`, `conflict`, `too-many`: nothing is known to be written.
   */
  change(
    id: string,
    change: ChangeOf<Doc>,
    { isNew = false }: { isNew?: boolean } = {},
  ): Promise<Stored<Doc> | undefined> {
    const { waitingMax = 20_000 } = this.#options;
    if (this.#count >= waitingMax) {
      const told = `${waitingMax} changes wait for the store already, the limit; try again later`;
      return Promise.reject(new MusterError("too-many", told, { retryAfterMs: 1_000 }));
    }
    this.#count += 1;
    return new Promise((resolve, reject) => {
      const waiting = { change, isNew, resolve, reject };
      const before = this.#waiting.get(id);
      if (before === undefined) this.#waiting.set(id, [waiting]);
      else before.push(waiting);
      this.#running ??= this.#drain();
    });
  }

  /** Resolves when all changes made so far are stored or refused. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #drain(): Promise<void> {
    // What the same turn of the event loop brings belongs together.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#waiting.size > 0) {
      const batch = [...this.#waiting].slice(0, this.#options.batchMax ?? 500);
      for (const [id] of batch) this.#waiting.delete(id);
      try {
        await this.#write(new Map(batch));
      } catch (error) {
        for (const [, waiting] of batch) for (const { reject } of waiting) reject(error);
      }
      for (const [, waiting] of batch) this.#count -= waiting.length;
    }
    this.#running = undefined;
  }

  async #write(batch: Map<string, Waiting<Doc>[]>): Promise<void> {
    const { database, known, seen } = this.#options;
    const records = new Map<string, Stored<Doc> | undefined>();
    for (const id of batch.keys()) records.set(id, known(id));
    let unread = [...batch].flatMap(([id, [first]]) => (records.get(id) === undefined && !first?.isNew ? [id] : []));
    for (let round = 1; batch.size > 0; round += 1) {
      for (const record of await database.getMany<Doc>(unread)) {
        records.set(record._id, record);
        seen(record);
      }
      const docs: Doc[] = [];
      for (const [id, waiting] of batch) {
        const before = records.get(id);
        const after = applied(before, waiting);
        if (after !== undefined && after !== before) {
          docs.push(after);
          continue;
        }
        for (const { resolve } of waiting) resolve(before);
        batch.delete(id);
      }
      const written = new Map(docs.map((doc) => [doc._id, doc]));
      for (const row of await database.bulk(docs, { timeoutMs: writeTimeoutMs })) {
        if ("error" in row) continue;
        const record = { ...written.get(row.id), _rev: row.rev } as Stored<Doc>;
        seen(record);
        for (const { resolve } of batch.get(row.id) ?? []) resolve(record);
        batch.delete(row.id);
      }
      unread = [...batch.keys()];
      for (const id of unread) records.delete(id);
      if (round >= roundsMax && unread.length > 0)
        throw new MusterError("conflict", `${unread.length} records were changed by others over and over; try again`);
    }
  }
}

function applied<Doc extends Document>(before: Stored<Doc> | undefined, waiting: Waiting<Doc>[]): Doc | undefined {
  let record: Doc | undefined = before;
  for (const { change } of waiting) record = change(record as Stored<Doc> | undefined) ?? record;
  return record;
}
