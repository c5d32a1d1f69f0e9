/**
 * Takes documents of the configuration database into memory: this coordinator's own writes at once, everyone's by the
 * changes feed. What a coordinator wrote was checked by it; what came in by replication or straight to CouchDB was not,
 * so here a revision that breaks components is held out of force, and they keep what they had.
 *
 * Memory never goes back. What the feed gives is the order of the store. What memory learns before the feed gives it, by a
 * write or a read, counts where nothing else came in of that document since the store was asked; until the feed has come
 * to it, what the feed gives of that document is late where it is older, and where that cannot be told the store is asked.
 */
import type { Logger } from "pino";
import { type FieldError, isMusterError } from "../../config-db/errors.ts";
import type { FaultDocument, ObjectionDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { compareLeaves, type Fixed, generationOf, withFixedRevision } from "../../config-db/revision.ts";
import type { Change, Database, Document, Stored } from "../../config-db/store.ts";
import { type Arrival, arrivalErrors, completeTombstone, kindOf } from "./arrival.ts";
import type { Background } from "./background.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { type History, type KeptRevision, layerOf, newestFirst, type StoredHistory } from "./history.ts";
import { concernedBy, errorsOfStored } from "./judgement.ts";
import {
  activeOf,
  type Held,
  type Holdable,
  type Records,
  type StoredCandidate,
  type StoredLayer,
  type StoredSchema,
  type StoredSecret,
} from "./records.ts";
import { compileSchema } from "./schema.ts";

/**
 * A coordinator that does not lead and holds what its site's leader does not leaves the leader so long to say so first.
 */
const objectAfterMs = 1_000;

export interface IntakeOptions {
  database: Pick<Database<Document>, "get" | "getMany" | "leaves" | "put" | "bulk">;
  records: Records;
  effective: EffectiveSettings;
  history: History;
  background: Background;
  logger: Logger;
  site: string;
  leads(): boolean;
  /** Monotonic, in milliseconds. */
  clock(): number;
  /** Whether what comes in is judged here by what it does to this component: each site judges for its own. */
  judgesFor?(component: string | undefined): boolean;
  /** Whether what other sites wrote is here. Until then a fault may be for want of what is still to come. Default: yes. */
  isCaughtUp?(): boolean;
  /** Told of documents that hold raw content. */
  content(sha256: string, rev: string, deleted: boolean): void;
}

export class Intake {
  readonly #options: IntakeOptions;
  /** By document id, the revision that memory has and the feed has not given yet. */
  readonly #ahead = new Map<string, string>();
  /** By document id, what the feed gave and could not be read. */
  readonly #unread = new Set<string>();
  readonly #faults = new Map<string, Stored<FaultDocument>>();
  /** By document id, of this site: revisions that one of its coordinators holds and its leader has yet to judge. */
  readonly #objections = new Map<string, ObjectionDocument>();
  /** By the id of the fault that there is not: since when this coordinator holds a revision alone, by its clock. */
  #alone = new Map<string, number>();
  /** Faults and objections are written one after the other, so that a fault is there before its objection is gone. */
  #writing: Promise<unknown> = Promise.resolve();
  /** By document id: layers whose last valid version is being read. */
  readonly #fallingBack = new Set<string>();
  #loaded = false;

  constructor(options: IntakeOptions) {
    this.#options = options;
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
    return this.#options.history.revisions(layer).find(({ rev }) => !this.#faults.has(documentId.fault(id, rev)));
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
    return !this.#options.history.has(layer, _rev) && !this.#faults.has(documentId.fault(_id, _rev));
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
    fault: (doc) => {
      const { records } = this.#options;
      const fault = doc as unknown as Stored<FaultDocument>;
      const { document, rev, active } = fault;
      const held = records.held.get(document);
      if (fault._deleted === true) {
        // Whether it can be in force here is for the review to say: what it broke may not have changed here yet.
        this.#faults.delete(fault._id);
        return;
      }
      this.#faults.set(fault._id, fault);
      // Of a revision that is not the newest here it is old, or comes before what it is about.
      if (records.newest(document)?._rev !== rev) return;
      // Held here already, it may be in favour of another version than the store says.
      if (held?.rev === rev && held.active?.rev === active?.rev) return;
      this.#change(document, () => records.held.set(document, { rev, active, errors: [] }));
    },
    objection: (doc) => {
      const { records, site } = this.#options;
      const objection = doc as unknown as Stored<ObjectionDocument>;
      const { _id, document, rev } = objection;
      if (objection.site !== site) return;
      if (objection._deleted !== true) {
        this.#objections.set(_id, objection);
        return;
      }
      this.#objections.delete(_id);
      // The leader has answered: what it found broken has a fault by now.
      if (records.held.get(document)?.rev !== rev || this.#faults.has(documentId.fault(document, rev))) return;
      this.#change(document, () => records.held.delete(document));
    },
  };

  /** A revision of a layer, a schema or a candidate: in force unless it breaks components that it would newly concern. */
  #takeRevision(stored: Holdable, judge: boolean, put: () => void): void {
    const { records, logger } = this.#options;
    const { _id: id, _rev: rev } = stored;
    if (records.newest(id)?._rev === rev) return;
    const fault = this.#faults.get(documentId.fault(id, rev));
    const errors = judge && fault === undefined ? this.#own(this.#errorsOf(stored)) : [];
    if (fault === undefined && errors.length === 0) {
      this.#change(id, put);
      return;
    }
    const active = fault === undefined ? records.active(id) : fault.active;
    this.#change(id, () => {
      put();
      records.held.set(id, { rev, active, errors });
    });
    if (errors.length === 0) return;
    logger.warn({ id, rev, errors: errors.length }, "a revision that breaks components came in; it is held");
  }

  /** Those of components that this site judges for. */
  #own(errors: FieldError[]): FieldError[] {
    const { judgesFor = () => true } = this.#options;
    return errors.filter(({ component }) => judgesFor(component));
  }

  #errorsOf(stored: Holdable): FieldError[] {
    const active = activeOf(stored);
    if (stored.kind === "schema" && active !== undefined) {
      try {
        compileSchema(active.content);
      } catch (error) {
        if (isMusterError(error)) return error.errors ?? [];
        throw error;
      }
    }
    return errorsOfStored(this.#options.effective, stored);
  }

  #change(id: string, make: () => void): void {
    const { effective } = this.#options;
    if (this.#loaded) effective.change(concernedBy(effective, id), make);
    else make();
  }

  /**
   * Puts held revisions in force that break nothing any more, and keeps the faults in the store as they are in memory.
   *
   * Of two that contradict each other each coordinator of a site holds what it saw second. The faults in the store decide:
   * what only this coordinator holds is looked at first, with all out of force that a fault is about, and a fault is ended
   * by none but a leader. To what the leader has in force, a coordinator that holds it objects, and the leader judges it over
   * what was in force there: it holds it too, or all put it in force. Leaders of sites that each hold what the other has in
   * force learn so from each other's faults and hold both: all then put the same in force, since all go through them in one
   * order.
   */
  review(): void {
    if (!this.#loaded) return;
    const { records, leads, isCaughtUp = () => true } = this.#options;
    for (const id of this.#unread) this.#readAgain(id);
    this.#unread.clear();
    for (const id of records.unusable.keys()) if (id.startsWith("layer:")) this.#fallBack(id);
    const decides = leads() && isCaughtUp();
    const answered = decides ? this.#judgeObjections() : [];
    const ordered = [...records.held].sort(([one], [other]) => inOrderOfRelease(one, other));
    const [stored, provisional] = [true, false].map((has) =>
      ordered.filter(([id, { rev }]) => this.#faults.has(documentId.fault(id, rev)) === has),
    ) as [typeof ordered, typeof ordered];
    for (const [id, held] of provisional) this.#lookAgain(id, held, true);
    for (const [id, held] of stored) this.#lookAgain(id, held, decides);
    if (decides) this.#storeFaults(answered);
    if (!leads()) this.#object();
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

  /** Holds what a coordinator of this site holds with reason. @returns the objections that need no more answer */
  #judgeObjections(): ObjectionDocument[] {
    const { records } = this.#options;
    const judged = [...this.#objections.values()].filter(({ document, rev }) => {
      const newest = records.newest(document);
      return newest !== undefined && generationOf(newest._rev) >= generationOf(rev);
    });
    for (const { document, rev, active } of judged) {
      const newest = records.newest(document);
      if (newest?._rev !== rev || records.isHeld(newest)) continue;
      const supposed = { rev, active, errors: [] };
      const errors = this.#own(records.supposing(document, supposed, () => this.#errorsOf(newest)));
      if (errors.length > 0) this.#change(document, () => records.held.set(document, { ...supposed, errors }));
    }
    return judged;
  }

  /** Tells the leader of what is held here, and has no fault that the leader would have written. */
  #object(): void {
    const { records, database, site, clock } = this.#options;
    const alone = [...records.held].filter(([id, { rev }]) => !this.#faults.has(documentId.fault(id, rev)));
    const sinceMs = ([id, { rev }]: [string, Held]) => this.#alone.get(documentId.fault(id, rev)) ?? clock();
    this.#alone = new Map(alone.map((one) => [documentId.fault(one[0], one[1].rev), sinceMs(one)]));
    for (const one of alone) {
      const [document, { rev, active }] = one;
      const _id = documentId.objection(site, document, rev);
      if (clock() - sinceMs(one) < objectAfterMs || this.#objections.has(_id)) continue;
      const about = { site, document, rev, ...(active === undefined ? {} : { active }) };
      const objection: ObjectionDocument = { _id, kind: "objection", schemaVersion: 1, ...about };
      this.#objections.set(_id, objection);
      const put = () =>
        database.put(objection).catch((error) => {
          // Another coordinator of this site has said the same.
          if (!isMusterError(error, "conflict")) throw error;
        });
      this.#write(`object to ${document}`, put, () => this.#objections.delete(_id));
    }
  }

  /** @param undo takes back what memory has of it when it fails: the next review tries again */
  #write(what: string, work: () => Promise<unknown>, undo: () => void): void {
    this.#options.background.run(what, () => {
      const written = this.#writing.then(work).catch((error) => {
        undo();
        throw error;
      });
      this.#writing = written.catch(() => undefined);
      return written;
    });
  }

  #lookAgain(id: string, held: Held, mayRelease: boolean): void {
    const { records } = this.#options;
    const newest = records.newest(id);
    const isReplaced = newest?._rev !== held.rev;
    const errors = isReplaced ? [] : this.#errorsOf(newest);
    if (errors.length === 0 && (isReplaced || mayRelease)) this.#change(id, () => records.held.delete(id));
    else records.held.set(id, { ...held, errors });
  }

  /** @param answered objections that are done with when these faults are stored */
  #storeFaults(answered: ObjectionDocument[]): void {
    const { records } = this.#options;
    const wanted = [...records.held].map(([document, { rev, active }]) => {
      const _id = documentId.fault(document, rev);
      const fault: FaultDocument = { _id, kind: "fault", schemaVersion: 1, document, rev };
      return withFixedRevision<FaultDocument>(active === undefined ? fault : { ...fault, active });
    });
    const added = wanted.filter(({ _id }) => !this.#faults.has(_id));
    const ended = [...this.#faults.values()].filter((fault) => {
      if (wanted.some(({ _id }) => _id === fault._id)) return false;
      // Replication may bring a fault before what it is about.
      const newest = records.newest(fault.document);
      return newest !== undefined && generationOf(newest._rev) >= generationOf(fault.rev);
    });
    for (const fault of added) this.#faults.set(fault._id, fault);
    for (const fault of ended) this.#faults.delete(fault._id);
    for (const { _id } of answered) this.#objections.delete(_id);
    if (added.length > 0) {
      this.#write(
        "store faults",
        () => this.#add(added),
        () => {
          for (const { _id } of added) this.#faults.delete(_id);
        },
      );
    }
    if (ended.length > 0) {
      this.#write(
        "end faults",
        () => this.#end(ended),
        () => {
          for (const fault of ended) this.#faults.set(fault._id, fault);
        },
      );
    }
    if (answered.length > 0) {
      this.#write(
        "answer objections",
        () => this.#end(answered),
        () => {
          for (const objection of answered) this.#objections.set(objection._id, objection);
        },
      );
    }
  }

  async #add(faults: Fixed<FaultDocument>[]): Promise<void> {
    const { database } = this.#options;
    await database.bulk(faults, { newEdits: false });
    // Of one that was ended before the first revision is there already, under its tombstone.
    const there = new Set((await database.getMany(faults.map(({ _id }) => _id))).map(({ _id }) => _id));
    const again = faults.filter(({ _id }) => !there.has(_id)).map(({ _rev, _revisions, ...fault }) => fault);
    await database.bulk(again);
  }

  /** In every leaf: of what two sites found broken over different versions there are two. */
  async #end(docs: (FaultDocument | ObjectionDocument)[]): Promise<void> {
    const { database } = this.#options;
    for (const { _id } of docs) {
      const live = (await database.leaves(_id)).filter(({ _deleted }) => _deleted !== true);
      const tombstones = (live as Stored<FaultDocument>[]).map(({ active: _, ...kept }) => ({
        ...kept,
        _deleted: true,
      }));
      await database.bulk(tombstones);
    }
  }
}

/**
 * Schemas first: of a schema and a layer that breaks it, both held, the layer stays so and components keep its last valid version.
 * Candidates last: they are tried on what stands.
 */
const kindsInOrderOfRelease = ["schema:", "layer:", "candidate:"];

function inOrderOfRelease(one: string, other: string): number {
  const place = (id: string) => kindsInOrderOfRelease.findIndex((kind) => id.startsWith(kind));
  return place(one) - place(other) || (one < other ? -1 : 1);
}
