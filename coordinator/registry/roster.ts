/** The records of all components in memory, with the indexes that discovery needs. */
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { Stored } from "../../config-db/store.ts";
import { SortedIds } from "./sorted-ids.ts";

export type StoredComponent = Stored<ComponentDocument>;

export class Roster {
  readonly #records = new Map<string, StoredComponent>();
  readonly #ids = new SortedIds();
  readonly #byType = new Map<string, SortedIds>();

  get size(): number {
    return this.#records.size;
  }

  get(id: string): StoredComponent | undefined {
    return this.#records.get(id);
  }

  all(): IterableIterator<StoredComponent> {
    return this.#records.values();
  }

  /** @returns the record that was there. */
  set(record: StoredComponent): StoredComponent | undefined {
    const before = this.#records.get(record.id);
    this.#records.set(record.id, record);
    if (before === undefined) this.#ids.add(record.id);
    if (before?.type !== record.type) {
      if (before !== undefined) this.#leaveType(before);
      const ids = this.#byType.get(record.type) ?? new SortedIds();
      ids.add(record.id);
      this.#byType.set(record.type, ids);
    }
    return before;
  }

  /** @returns the record that was there. */
  delete(id: string): StoredComponent | undefined {
    const before = this.#records.get(id);
    if (before === undefined) return undefined;
    this.#records.delete(id);
    this.#ids.delete(id);
    this.#leaveType(before);
    return before;
  }

  /** Records in id order, behind the id `after`; of one type when it is given. */
  *ordered(options: { type?: string | undefined; after?: string | undefined }): IterableIterator<StoredComponent> {
    const ids = options.type === undefined ? this.#ids : this.#byType.get(options.type);
    for (const id of ids?.after(options.after) ?? []) yield this.#records.get(id) as StoredComponent;
  }

  #leaveType({ id, type }: ComponentDocument): void {
    const ids = this.#byType.get(type);
    ids?.delete(id);
    if (ids?.size === 0) this.#byType.delete(type);
  }
}
