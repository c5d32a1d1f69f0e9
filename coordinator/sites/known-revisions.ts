/**
 * Which revisions our own store got lately. Where many sites are linked with many, every change is offered once by each
 * link, and this answers for the store that it has it: half of what a full mesh costs.
 */
import { LRUCache } from "lru-cache";
import type { Change } from "../../config-db/store.ts";

/** Far more than come in while a change goes round all sites. */
const revisionsMax = 10_000;

export class KnownRevisions {
  readonly #revisions = new LRUCache<string, true>({ max: revisionsMax });

  /** Takes note of what the feed of the store says. */
  apply(database: string, changes: Change[]): void {
    for (const { id, leaves = [] } of changes) {
      for (const rev of leaves) this.#revisions.set(`${database} ${id} ${rev}`, true);
    }
  }

  has(database: string, id: string, rev: string): boolean {
    return this.#revisions.has(`${database} ${id} ${rev}`);
  }
}
