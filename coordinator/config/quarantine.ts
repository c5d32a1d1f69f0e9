/**
 * Keeps revisions out of force that break components: what they have instead stays. The faults in the store say which, the
 * same at all coordinators and sites (docs/adr/0102).
 */
import type { Logger } from "pino";
import { type FieldError, isMusterError } from "../../config-db/errors.ts";
import type { FaultDocument, ObjectionDocument } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import { type Fixed, generationOf, withFixedRevision } from "../../config-db/revision.ts";
import type { Database, Document, Stored } from "../../config-db/store.ts";
import type { Background } from "./background.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { errorsOfStored } from "./judgement.ts";
import { activeOf, type Held, type Holdable, type Records } from "./records.ts";
import { compileSchema } from "./schema.ts";

/**
 * A coordinator that does not lead and holds what its site's leader does not leaves the leader so long to say so first.
 */
const objectAfterMs = 1_000;

export interface QuarantineOptions {
  database: Pick<Database<Document>, "getMany" | "leaves" | "put" | "bulk">;
  records: Records;
  effective: EffectiveSettings;
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
  /** Makes a change to the records that a document stands for, and tells of it. */
  change(id: string, make: () => void): void;
}

export class Quarantine {
  readonly #options: QuarantineOptions;
  readonly #faults = new Map<string, Stored<FaultDocument>>();
  /** By document id, of this site: revisions that one of its coordinators holds and its leader has yet to judge. */
  readonly #objections = new Map<string, ObjectionDocument>();
  /** By the id of the fault that there is not: since when this coordinator holds a revision alone, by its clock. */
  #alone = new Map<string, number>();
  /** Faults and objections are written one after the other, so that a fault is there before its objection is gone. */
  #writing: Promise<unknown> = Promise.resolve();

  constructor(options: QuarantineOptions) {
    this.#options = options;
  }

  /** Whether a fault in the store is about this revision of a document. */
  isFaulty(id: string, rev: string): boolean {
    return this.#faults.has(documentId.fault(id, rev));
  }

  /**
   * How a revision that comes in is to be held, or undefined where it can be in force.
   * @param judge whether it is judged here by what it would do; else the faults in the store alone say
   */
  admit(stored: Holdable, judge: boolean): Held | undefined {
    const { records, logger } = this.#options;
    const { _id: id, _rev: rev } = stored;
    const fault = this.#faults.get(documentId.fault(id, rev));
    if (fault !== undefined) return { rev, active: fault.active, errors: [] };
    const errors = judge ? this.#own(this.#errorsOf(stored)) : [];
    if (errors.length === 0) return undefined;
    logger.warn({ id, rev, errors: errors.length }, "a revision that breaks components came in; it is held");
    return { rev, active: records.active(id), errors };
  }

  takeFault(fault: Stored<FaultDocument>): void {
    const { records } = this.#options;
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
    this.#options.change(document, () => records.held.set(document, { rev, active, errors: [] }));
  }

  takeObjection(objection: Stored<ObjectionDocument>): void {
    const { records, site } = this.#options;
    const { _id, document, rev } = objection;
    if (objection.site !== site) return;
    if (objection._deleted !== true) {
      this.#objections.set(_id, objection);
      return;
    }
    this.#objections.delete(_id);
    // The leader has answered: what it found broken has a fault by now.
    if (records.held.get(document)?.rev !== rev || this.isFaulty(document, rev)) return;
    this.#options.change(document, () => records.held.delete(document));
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
    const { records, leads, isCaughtUp = () => true } = this.#options;
    const decides = leads() && isCaughtUp();
    const answered = decides ? this.#judgeObjections() : [];
    const ordered = [...records.held].sort(([one], [other]) => inOrderOfRelease(one, other));
    const [stored, provisional] = [true, false].map((has) =>
      ordered.filter(([id, { rev }]) => this.isFaulty(id, rev) === has),
    ) as [typeof ordered, typeof ordered];
    for (const [id, held] of provisional) this.#lookAgain(id, held, true);
    for (const [id, held] of stored) this.#lookAgain(id, held, decides);
    if (decides) this.#storeFaults(answered);
    if (!leads()) this.#object();
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
      if (errors.length > 0) this.#options.change(document, () => records.held.set(document, { ...supposed, errors }));
    }
    return judged;
  }

  /** Tells the leader of what is held here, and has no fault that the leader would have written. */
  #object(): void {
    const { records, database, site, clock } = this.#options;
    const alone = [...records.held].filter(([id, { rev }]) => !this.isFaulty(id, rev));
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
      this.#write(`object to ${document}`, [objection], put, () => this.#objections.delete(_id));
    }
  }

  /** @param undo takes back what memory has of one of `docs` when it fails: the next review tries again */
  #write<Doc>(what: string, docs: Doc[], work: () => Promise<unknown>, undo: (doc: Doc) => void): void {
    if (docs.length === 0) return;
    this.#options.background.run(what, () => {
      const written = this.#writing.then(work).catch((error) => {
        docs.forEach(undo);
        throw error;
      });
      this.#writing = written.catch(() => undefined);
      return written;
    });
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

  #lookAgain(id: string, held: Held, mayRelease: boolean): void {
    const { records } = this.#options;
    const newest = records.newest(id);
    const isReplaced = newest?._rev !== held.rev;
    const errors = isReplaced ? [] : this.#errorsOf(newest);
    if (errors.length === 0 && (isReplaced || mayRelease)) this.#options.change(id, () => records.held.delete(id));
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
    this.#write(
      "store faults",
      added,
      () => this.#add(added),
      ({ _id }) => this.#faults.delete(_id),
    );
    this.#write(
      "end faults",
      ended,
      () => this.#end(ended),
      (fault) => this.#faults.set(fault._id, fault),
    );
    this.#write(
      "answer objections",
      answered,
      () => this.#end(answered),
      (objection) => this.#objections.set(objection._id, objection),
    );
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
