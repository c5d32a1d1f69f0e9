/**
 * Every revision that a layer ever had, one immutable document each: `history:<layer>@<rev>`.
 *
 * Its `_rev` is computed from its content and stored as given (as replication stores), so that two coordinators or two
 * sites that keep the same revision write the same document and never a conflict.
 */
import { createHash } from "node:crypto";
import type { HistoryDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import type { Database, Document, Stored } from "../../config-db/store.ts";
import { canonicalJson } from "./etag.ts";
import { historyOf, type StoredLayer } from "./records.ts";

/** What memory knows of a kept revision: enough to page and to prune without reading settings. */
export interface KeptRevision {
  rev: string;
  version: number;
}

export class History {
  readonly #database: Database<Document>;
  readonly #kept = new Map<LayerName, Map<string, KeptRevision>>();

  constructor(database: Database<Document>) {
    this.#database = database;
  }

  /** Takes a change of a history document into memory. */
  apply(doc: Stored<HistoryDocument>): void {
    const layer = doc.layer as LayerName;
    const revisions = this.#kept.get(layer) ?? new Map<string, KeptRevision>();
    if (doc._deleted === true) revisions.delete(doc.rev);
    else revisions.set(doc.rev, { rev: doc.rev, version: doc.version });
    this.#kept.set(layer, revisions);
  }

  has(layer: LayerName, rev: string): boolean {
    return this.#kept.get(layer)?.has(rev) === true;
  }

  /** The kept revisions of a layer, the newest first. */
  revisions(layer: LayerName): KeptRevision[] {
    const revisions = [...(this.#kept.get(layer)?.values() ?? [])];
    return revisions.sort((a, b) => b.version - a.version || (a.rev < b.rev ? 1 : -1));
  }

  async read(layer: LayerName, rev: string): Promise<Stored<HistoryDocument> | undefined> {
    return this.#database.get<HistoryDocument>(documentId.history(layer, rev));
  }

  /** Keeps these revisions. Again is harmless; resolves when the store has them. */
  async keep(layers: StoredLayer[]): Promise<void> {
    const missing = layers.filter(({ layer, _rev }) => !this.has(layer as LayerName, _rev));
    if (missing.length === 0) return;
    const docs = missing.map((stored) => withRevision(historyOf(stored)));
    await this.#database.bulk(docs, { newEdits: false });
    for (const doc of docs) this.apply(doc);
  }
}

/** Gives a document the revision that follows from its content. */
function withRevision<Doc extends Document>(doc: Doc): Stored<Doc> {
  return { ...doc, _rev: `1-${createHash("md5").update(canonicalJson(doc)).digest("hex")}` };
}
