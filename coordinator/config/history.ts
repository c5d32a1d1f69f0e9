/**
 * Every revision that a layer ever had, one immutable document each: `history:<layer>@<rev>`.
 *
 * Content and `_rev` of such a document follow from that revision alone, so that two coordinators or two sites that
 * keep the same one write the same document, and never a conflict.
 */
import { MusterError } from "../../config-db/errors.ts";
import type { ContentList, HistoryDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { compareRevisions, withFixedRevision } from "../../config-db/revision.ts";
import type { BulkRow, Database, Document, Stored } from "../../config-db/store.ts";
import { batchLength } from "../batches.ts";
import { isUsable } from "./arrival.ts";
import type { StoredLayer } from "./records.ts";

export type StoredHistory = Stored<HistoryDocument>;

type KeptHistory = Pick<StoredHistory, "layer" | "rev" | "version" | "content" | "_deleted">;

/** What memory knows of a kept revision: enough to page and to prune without reading settings. */
export interface KeptRevision {
  rev: string;
  version: number;
  content: ContentList | undefined;
}

type HistoryDatabase = Pick<Database<Document>, "get" | "getMany" | "ids" | "bulk">;

export class History {
  readonly #database: HistoryDatabase;
  readonly #kept = new Map<LayerName, Map<string, KeptRevision>>();
  /** How often a revision was let go of, as far as was heard here. */
  #forgotten = 0;

  constructor(database: HistoryDatabase) {
    this.#database = database;
  }

  /** Takes a history document into memory. */
  apply({ layer, rev, version, content, _deleted }: KeptHistory): void {
    const revisions = this.#kept.get(layer as LayerName) ?? new Map<string, KeptRevision>();
    this.#kept.set(layer as LayerName, revisions);
    if (_deleted === true) {
      revisions.delete(rev);
      this.#forgotten++;
    } else revisions.set(rev, { rev, version, content });
  }

  has(layer: string, rev: string): boolean {
    return this.#kept.get(layer as LayerName)?.has(rev) === true;
  }

  layers(): LayerName[] {
    return [...this.#kept.keys()];
  }

  /** The kept revisions of a layer, the newest first. */
  revisions(layer: LayerName): KeptRevision[] {
    const revisions = [...(this.#kept.get(layer)?.values() ?? [])];
    return revisions.sort(newestFirst);
  }

  /** Undefined where it was let go of, which memory knows from then on. */
  async read(layer: LayerName, rev: string): Promise<StoredHistory | undefined> {
    const kept = await this.#database.get<HistoryDocument>(documentId.history(layer, rev));
    if (kept === undefined) this.#kept.get(layer)?.delete(rev);
    return kept;
  }

  /** In one request; those that are not kept are left out. */
  async readMany(layer: LayerName, revs: string[]): Promise<StoredHistory[]> {
    return this.#database.getMany<HistoryDocument>(revs.map((rev) => documentId.history(layer, rev)));
  }

  /** Resolves when memory has what is kept of a layer that the changes feed has not given yet. */
  async refresh(layer: LayerName): Promise<void> {
    const prefix = documentId.history(layer, "");
    for (;;) {
      const before = this.#forgotten;
      const revs = (await this.#database.ids(prefix)).map((id) => id.slice(prefix.length));
      const unheard = await this.readMany(
        layer,
        revs.filter((rev) => !this.has(layer, rev)),
      );
      // What was let go of meanwhile comes no more.
      if (this.#forgotten !== before) continue;
      for (const kept of unheard) this.apply(kept);
      return;
    }
  }

  /**
   * Keeps these revisions, but those that are none of their kind: they are no versions. Again is harmless; resolves when the
   * store has them.
   * @throws MusterError `refused` when the store takes one of them not, after it took the others
   */
  async keep(layers: StoredLayer[]): Promise<void> {
    const missing = layers
      .filter(({ layer, _rev }) => !this.has(layer, _rev))
      .map((stored) => withFixedRevision(historyOf(stored)))
      .filter(isUsable);
    const refused: BulkRow[] = [];
    while (missing.length > 0) {
      const docs = missing.splice(0, batchLength(missing, sizeBytesOf, batchLimits));
      const rows = await this.#database.bulk(docs, { newEdits: false });
      const failed = rows.filter((row) => "error" in row);
      for (const doc of docs) if (!failed.some(({ id }) => id === doc._id)) this.apply(doc);
      refused.push(...failed);
    }
    const [first] = refused;
    if (first !== undefined)
      throw new MusterError("refused", `the store takes not into history: ${JSON.stringify(first)}`);
  }

  /**
   * Lets revisions go. Their tombstones keep what readers of the changes feed look at, and what the revision was made from: so
   * a site that comes back finds out what it has in common with the others, however long it was away.
   */
  async forget(layer: LayerName, revisions: KeptRevision[]): Promise<void> {
    for (let from = 0; from < revisions.length; from += forgottenAtOnce) {
      const gone = revisions.slice(from, from + forgottenAtOnce).map(({ rev }) => rev);
      const tombstones = (await this.readMany(layer, gone)).map(
        ({ _id, _rev, kind, schemaVersion, rev, version, parent, merged }) => ({
          ...{ _id, _rev, _deleted: true, kind, schemaVersion, layer, rev, version },
          ...(parent === undefined ? {} : { parent }),
          ...(merged === undefined ? {} : { merged }),
        }),
      );
      await this.#database.bulk(tombstones);
      for (const rev of gone) this.#kept.get(layer)?.delete(rev);
      this.#forgotten++;
    }
  }
}

/** The order of versions; those of one number, which sites make that are cut off from each other, by revision. */
export function newestFirst(
  a: Pick<KeptRevision, "version" | "rev">,
  b: Pick<KeptRevision, "version" | "rev">,
): number {
  return b.version - a.version || compareRevisions(b.rev, a.rev);
}

/** They are read for what their tombstones say, a mebibyte of settings each. */
const forgottenAtOnce = 20;

/** Settings may be a mebibyte each. Well under the 8 MiB that the embedded store takes in one body. */
const batchLimits = { countMax: 50, bytesMax: 4 * 1024 * 1024 };

function sizeBytesOf(doc: HistoryDocument): number {
  return Buffer.byteLength(JSON.stringify(doc));
}

/** The revision of a layer that a history document keeps. */
export function layerOf({ _id, _rev, kind, rev, deleted, ...kept }: StoredHistory): StoredLayer {
  const layer = { ...kept, _id: documentId.layer(kept.layer as LayerName), _rev: rev, kind: "layer" as const };
  return deleted === true ? { ...layer, _deleted: true } : layer;
}

/** The history document of one revision of a layer. */
export function historyOf(stored: StoredLayer): HistoryDocument {
  const { layer, _rev, _deleted, settings, version, changedBy, changedAt, site, note, parent, merged, content } =
    stored;
  return {
    _id: documentId.history(layer as LayerName, _rev),
    kind: "history",
    schemaVersion: 1,
    layer,
    rev: _rev,
    settings,
    version,
    changedBy,
    changedAt,
    site,
    ...(note === undefined ? {} : { note }),
    ...(parent === undefined ? {} : { parent }),
    ...(merged === undefined ? {} : { merged }),
    ...(content === undefined ? {} : { content }),
    ...(_deleted === true ? { deleted: true as const } : {}),
  };
}
