/**
 * Takes documents of the configuration database into memory: this coordinator's own writes at once, everyone's by the
 * changes feed. What a coordinator wrote was checked by it; what came in by replication or straight to CouchDB was not,
 * so a revision that breaks components is held out of force (quarantine.ts), and they keep what they had.
 *
 * Memory never goes back. What the feed gives is the order of the store. What memory learns before the feed gives it, by a
 * write or a read, counts where nothing else came in of that document since the store was asked; until the feed has come
 * to it, what the feed gives of that document is late where it is older, and where that cannot be told the store is asked.
 */
import type { FaultDocument, ObjectionDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { compareLeaves, generationOf } from "../../config-db/revision.ts";
import type { Change, Database, Document, Stored } from "../../config-db/store.ts";
import { type Arrival, arrivalErrors, completeTombstone, kindOf } from "./arrival.ts";
import { type History, type KeptRevision, layerOf, newestFirst, type StoredHistory } from "./history.ts";
import { concernedBy } from "./judgement.ts";
import { Quarantine, type QuarantineOptions } from "./quarantine.ts";
import type { Holdable, StoredCandidate, StoredLayer, StoredSchema, StoredSecret } from "./records.ts";

export interface IntakeOptions extends Omit<QuarantineOptions, "change"> {
  database: Pick<Database<Document>, "get" | "getMany" | "leaves" | "put" | "bulk">;
  history: History;
  /** Told of documents that hold raw content. */
  content(sha256: string, rev: string, deleted: boolean): void;
}

export class Intake {
  readonly #options: IntakeOptions;
  readonly #quarantine: Quarantine;
  /** By document id, the revision that memory has and the feed has not given yet. */
  readonly #ahead = new Map<string, string>();
  /** By document id, what the feed gave and could not be read. */
  readonly #unread = new Set<string>();
  /** By document id: layers whose last valid version is being read. */
  readonly #fallingBack = new Set<string>();
  #loaded = false;

  constructor(options: IntakeOptions) {
    this.#options = options;
    this.#quarantine = new Quarantine({ ...options, change: (id, make) => this.#change(id, make) });
  }

  /**
   * For `loaded`: the last versions of layers whose newest revision came while no coordinator ran, so that nobody judged it,
   * or is none of its kind.
   */
  async lastJudged(): Promise<StoredLayer[]> {
    const { records, history } = this.#options;
    const found = history.layers().map(async (layer) => {
      const id = documentId.layer(layer);
      if (!records.unusable.has(id) && !this.#isUnjudged(records.layers.get(layer))) return [];
      const last = this.#lastValid(layer);
      const kept = last && (await history.read(layer, last.rev));
      return kept === undefined ? [] : [layerOf(kept)];
    });
    return (await Promise.all(found)).flat();
  }

  /** The newest version that no fault is about. */
  #lastValid(layer: LayerName): KeptRevision | undefined {
    const id = documentId.layer(layer);
    return this.#options.history.revisions(layer).find(({ rev }) => !this.#quarantine.isFaulty(id, rev));
  }

  /** All that the store has was given: from here on changes are judged, and told. @param last what `lastJudged` found */
  loaded(last: StoredLayer[] = []): void {
    const { records, effective } = this.#options;
    const unjudged = last.flatMap((former) => {
      const layer = former.layer as LayerName;
      const stored = records.layers.get(layer);
      if (stored !== undefined && !this.#isUnjudged(stored)) return [];
      records.layers.set(layer, former);
      return stored === undefined ? [] : [stored];
    });
    this.#loaded = true;
    effective.reset();
    for (const stored of unjudged) this.#take(stored as unknown as Arrival, "unjudged");
    this.review();
  }

  /** What a coordinator wrote or took in is in history, or has a fault. */
  #isUnjudged(stored: StoredLayer | undefined): boolean {
    if (stored === undefined || stored.mergedInto !== undefined) return false;
    const { layer, _id, _rev } = stored;
    return !this.#options.history.has(layer, _rev) && !this.#quarantine.isFaulty(_id, _rev);
  }

  /** A batch of the changes feed. */
  apply(changes: Change[]): void {
    for (const change of changes) {
      try {
        this.#given(change);
      } catch (error) {
        // What stands behind it must not wait for a fault of ours.
        this.#options.logger.error({ id: change.id, rev: change.doc._rev, error }, "a document could not be taken in");
      }
    }
    this.review();
  }

  /**
   * Writes a document that was judged, and takes it into memory.
   * @param judgedAt `effective.changes` then: what came in while the store took it may contradict it.
   * @throws MusterError as `Database.put`
   */
  async put<Doc extends Document>(doc: Doc, judgedAt: number): Promise<Stored<Doc>> {
    const { database, records, effective } = this.#options;
    const before = records.revOf(doc._id);
    const written = { ...doc, _rev: await database.put(doc) };
    const now = records.revOf(doc._id);
    if (now === before) {
      this.#ahead.set(doc._id, written._rev);
      this.#take(written as unknown as Arrival, judgedAt === effective.changes ? "judged" : "unjudged");
      this.review();
    } else if (now !== written._rev) await this.refresh(doc._id);
    return written;
  }

  /** Reads a document, perhaps a tombstone: resolves when memory has what the store had at the call. */
  async refresh(id: string): Promise<void> {
    const { database, records } = this.#options;
    for (;;) {
      const before = records.revOf(id);
      const stored = (await database.get(id)) ?? (await database.leaves(id)).sort(compareLeaves).at(-1);
      // What came in meanwhile may be newer than what was read.
      if (records.revOf(id) !== before) continue;
      if (stored === undefined || stored._rev === before) return;
      this.#ahead.set(id, stored._rev);
      this.#take(stored as Arrival, "unjudged");
      this.review();
      return;
    }
  }

  #given({ doc, leaves = [doc._rev as string] }: Change): void {
    const { _id: id, _rev: rev } = doc as Arrival;
    const ahead = this.#ahead.get(id);
    if (ahead !== undefined && rev !== ahead) {
      if (leaves.length > 1 || generationOf(rev) === generationOf(ahead)) {
        // The winner of a conflict may have any generation.
        this.#readAgain(id);
        return;
      }
      if (generationOf(rev) < generationOf(ahead)) return;
    }
    this.#ahead.delete(id);
    this.#take(doc as Arrival, "unjudged");
  }

  #readAgain(id: string): void {
    this.#options.background.run(`read ${id} again`, async () => {
      try {
        await this.refresh(id);
      } catch (error) {
        // The next review tries again.
        this.#unread.add(id);
        throw error;
      }
    });
  }

  #take(doc: Arrival, judged: "judged" | "unjudged"): void {
    const { records, logger } = this.#options;
    const kind = kindOf(doc);
    const take = Object.hasOwn(this.#kinds, kind) ? this.#kinds[kind] : undefined;
    if (take === undefined) return;
    const judge = judged === "unjudged" && this.#loaded;
    if (doc._deleted === true) {
      const tombstone = completeTombstone(doc, records);
      if (tombstone === undefined) return;
      records.unusable.delete(doc._id);
      take(tombstone, judge);
      return;
    }
    const errors = judged === "judged" ? [] : arrivalErrors(doc);
    if (errors.length > 0) {
      records.unusable.set(doc._id, { rev: doc._rev, errors });
      const earlier = records.newest(doc._id);
      // Without a history in which whoever starts later could find it.
      if (earlier?.kind === "candidate") {
        this.#change(doc._id, () => records.candidates.delete(earlier.layer as LayerName));
      }
      logger.warn({ id: doc._id, rev: doc._rev }, "a document came in that is none of its kind; it has no effect");
      return;
    }
    records.unusable.delete(doc._id);
    take(doc, judge);
  }

  readonly #kinds: Record<string, (doc: Arrival, judge: boolean) => void> = {
    layer: (doc, judge) => {
      const stored = doc as unknown as StoredLayer;
      this.#takeRevision(stored, judge, () => this.#options.records.layers.set(stored.layer as LayerName, stored));
    },
    schema: (doc, judge) => {
      const stored = doc as unknown as StoredSchema;
      this.#takeRevision(stored, judge, () => this.#options.records.schemas.set(stored.type, stored));
    },
    candidate: (doc, judge) => {
      const stored = doc as unknown as StoredCandidate;
      this.#takeRevision(stored, judge, () => this.#options.records.candidates.set(stored.layer as LayerName, stored));
    },
    secret: (doc) => {
      const { records, effective } = this.#options;
      const stored = doc as unknown as StoredSecret;
      if (records.secrets.get(stored.name)?._rev === stored._rev) return;
      const make = () => void records.secrets.set(stored.name, stored);
      if (!this.#loaded) make();
      else effective.changeSecret(stored.name, make);
    },
    content: (doc) => {
      this.#options.content(doc._id.slice("content:".length), doc._rev, doc._deleted === true);
    },
    history: (doc) => this.#options.history.apply(doc as unknown as StoredHistory),
    fault: (doc) => this.#quarantine.takeFault(doc as unknown as Stored<FaultDocument>),
    objection: (doc) => this.#quarantine.takeObjection(doc as unknown as Stored<ObjectionDocument>),
  };

  /** A revision of a layer, a schema or a candidate: in force unless it breaks components that it would newly concern. */
  #takeRevision(stored: Holdable, judge: boolean, put: () => void): void {
    const { records } = this.#options;
    const { _id: id, _rev: rev } = stored;
    if (records.newest(id)?._rev === rev) return;
    const held = this.#quarantine.admit(stored, judge);
    this.#change(id, () => {
      put();
      if (held !== undefined) records.held.set(id, held);
    });
  }

  #change(id: string, make: () => void): void {
    const { effective } = this.#options;
    if (this.#loaded) effective.change(concernedBy(effective, id), make);
    else make();
  }

  /** Of a layer that stands under what is none of its kind, versions that this site never saw stand come by history alone. */
  #fallBack(id: string): void {
    const { records, history, background } = this.#options;
    const layer = id.slice("layer:".length) as LayerName;
    const newer = () => {
      const last = this.#lastValid(layer);
      const current = records.layers.get(layer);
      if (last === undefined || current === undefined) return last?.rev;
      return newestFirst(last, { version: current.version, rev: current._rev }) < 0 ? last.rev : undefined;
    };
    const rev = newer();
    if (rev === undefined || this.#fallingBack.has(id)) return;
    this.#fallingBack.add(id);
    background.run(`fall back on the last valid version of ${id}`, async () => {
      const kept = await history.read(layer, rev).finally(() => this.#fallingBack.delete(id));
      // Let go of meanwhile: the feed will say so.
      if (kept === undefined) return;
      const stored = layerOf(kept);
      // What came in meanwhile may be usable, or newer.
      if (records.unusable.has(id) && newer() === rev) {
        this.#takeRevision(stored, true, () => records.layers.set(layer, stored));
      }
      this.review();
    });
  }

  /** To be called when something may have changed that this depends on: components, who leads, the time. */
  review(): void {
    if (!this.#loaded) return;
    for (const id of this.#unread) this.#readAgain(id);
    this.#unread.clear();
    for (const id of this.#options.records.unusable.keys()) if (id.startsWith("layer:")) this.#fallBack(id);
    this.#quarantine.review();
  }
}
