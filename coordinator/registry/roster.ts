/**
 * The records of all components in memory, with the indexes that discovery needs: ids in order, so that a page can start
 * behind any id, there or not.
 */
import { createRequire } from "node:module";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { Stored } from "../../config-db/store.ts";

export type StoredComponent = Stored<ComponentDocument>;

// Its `default` is not the same for everybody who imports it: the package is CommonJS.
const { default: BTree, simpleComparator } = createRequire(import.meta.url)(
  "sorted-btree",
) as typeof import("sorted-btree");

const sortedIds = () => new BTree<string, undefined>(undefined, simpleComparator);
type SortedIds = ReturnType<typeof sortedIds>;

export class Roster {
  readonly #records = new Map<string, StoredComponent>();
  readonly #ids = sortedIds();
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
    if (before === undefined) this.#ids.set(record.id, undefined);
    if (before?.type !== record.type) {
      if (before !== undefined) this.#leaveType(before);
      const ids = this.#byType.get(record.type) ?? sortedIds();
      ids.set(record.id, undefined);
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
    for (const id of ids?.keys(options.after) ?? [])
      if (id !== options.after) yield this.#records.get(id) as StoredComponent;
  }

  #leaveType({ id, type }: ComponentDocument): void {
    const ids = this.#byType.get(type);
    ids?.delete(id);
    if (ids?.size === 0) this.#byType.delete(type);
  }
}
