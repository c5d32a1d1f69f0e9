/**
 * Checkpoints that are written now and then. PouchDB writes one at both ends after every batch and waits for it: of the nine
 * requests that a single change costs, five. A run that ends between two of these looks at half a minute of changes once
 * more, which costs one `_revs_diff` for each fifty of them.
 */
import type { PouchDB } from "pouchdb";

const everyMs = 30_000;

/** Puts itself between PouchDB's replication and the checkpoints of one of its databases. */
export class LazyCheckpoints {
  readonly #get: PouchDB.Database["get"];
  readonly #put: PouchDB.Database["put"];
  /** As replication last saw or wrote them, and the revision that the database has. */
  readonly #known = new Map<string, { doc: PouchDB.Doc; rev: string | undefined; isDirty: boolean }>();
  #timer: NodeJS.Timeout | undefined;

  constructor(database: PouchDB.Database) {
    this.#get = database.get.bind(database);
    this.#put = database.put.bind(database);
    database.get = (id, options) => (id.startsWith("_local/") ? this.#read(id) : this.#get(id, options));
    database.put = (doc, options) => (doc._id.startsWith("_local/") ? this.#write(doc) : this.#put(doc, options));
  }

  /** Writes what is not written yet, as far as that goes. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [id, known] of this.#known) {
      if (!known.isDirty) continue;
      const { _rev, ...doc } = known.doc;
      known.isDirty = false;
      try {
        known.rev = (await this.#put({ ...doc, _id: id, ...(known.rev === undefined ? {} : { _rev: known.rev }) })).rev;
      } catch {
        // The link is away, or another run wrote it: the next checkpoint, of this run or a later one, says more.
        known.rev = await this.#get(id).then(
          ({ _rev: stored }) => stored,
          () => known.rev,
        );
      }
    }
  }

  async #read(id: string): Promise<PouchDB.Doc> {
    const known = this.#known.get(id);
    if (known !== undefined) return structuredClone(known.doc);
    const doc = await this.#get(id);
    this.#known.set(id, { doc: structuredClone(doc), rev: doc._rev, isDirty: false });
    return doc;
  }

  async #write(doc: PouchDB.Doc): Promise<{ ok: true; id: string; rev: string }> {
    const rev = this.#known.get(doc._id)?.rev;
    this.#known.set(doc._id, { doc: structuredClone(doc), rev, isDirty: true });
    this.#timer ??= setTimeout(() => void this.flush(), everyMs);
    return { ok: true, id: doc._id, rev: rev ?? "0-1" };
  }
}
