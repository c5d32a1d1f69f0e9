/**
 * Takes documents of the configuration database into memory: this coordinator's own writes at once, everyone's by the
 * changes feed. What a coordinator wrote was checked by it; what came in by replication or straight to CouchDB was not,
 * so here a revision that breaks components is held out of force, and they keep what they had.
 */
import type { Logger } from "pino";
import { type FieldError, isMusterError } from "../../config-db/errors.ts";
import type { FaultDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { withFixedRevision } from "../../config-db/revision.ts";
import type { Change, Database, Document, Stored } from "../../config-db/store.ts";
import { type Arrival, arrivalErrors, completeTombstone, kindOf } from "./arrival.ts";
import type { Background } from "./background.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { type History, layerOf, type StoredHistory } from "./history.ts";
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

export interface IntakeOptions {
  database: Database<Document>;
  records: Records;
  effective: EffectiveSettings;
  history: History;
  background: Background;
  logger: Logger;
  leads(): boolean;
  /** Whether what comes in is judged here by what it does to this component: each site judges for its own. */
  judgesFor?(component: string | undefined): boolean;
  /** Whether what other sites wrote is here. Until then a fault may be for want of what is still to come. Default: yes. */
  isCaughtUp?(): boolean;
  /** Told of documents that hold raw content. */
  content(sha256: string, rev: string, deleted: boolean): void;
}

export class Intake {
  readonly #options: IntakeOptions;
  /** Own writes that the feed has not given yet: what it gives of these documents before that may be older. */
  readonly #ahead = new Map<string, string>();
  readonly #faults = new Map<string, Stored<FaultDocument>>();
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
      const last = history.revisions(layer).find(({ rev }) => !this.#faults.has(documentId.fault(id, rev)));
      const kept = last && (await history.read(layer, last.rev));
      return kept === undefined ? [] : [layerOf(kept)];
    });
    return (await Promise.all(found)).flat();
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
    for (const { doc } of changes) this.#given(doc as Arrival);
    this.review();
  }

  /**
   * A document that this coordinator wrote, and judged before.
   * @param judgedAt `effective.changes` then: what came in while the store took it may contradict it. Default: nothing did.
   */
  written(doc: Stored<Document>, judgedAt = this.#options.effective.changes): void {
    this.#ahead.set(doc._id, doc._rev);
    this.#take(doc as Arrival, judgedAt === this.#options.effective.changes ? "judged" : "unjudged");
    this.review();
  }

  /** A document that was read from the store, since another wrote first. */
  found(doc: Stored<Document>): void {
    this.#ahead.set(doc._id, doc._rev);
    this.#take(doc as Arrival, "unjudged");
    this.review();
  }

  #given(doc: Arrival): void {
    const own = this.#ahead.get(doc._id);
    if (own !== undefined) {
      if (doc._rev !== own && generation(doc._rev) <= generation(own)) {
        // Older than what was written here, or the winner of a conflict: the store knows.
        this.#options.background.run(`read ${doc._id} again`, () => this.#reread(doc._id));
        return;
      }
      this.#ahead.delete(doc._id);
    }
    this.#take(doc, "unjudged");
  }

  async #reread(id: string): Promise<void> {
    const doc = await this.#options.database.get(id);
    if (doc === undefined) return;
    if (doc._rev !== this.#ahead.get(id)) this.#ahead.delete(id);
    this.#take(doc as Arrival, "unjudged");
    this.review();
  }

  #take(doc: Arrival, judged: "judged" | "unjudged"): void {
    const { records, logger } = this.#options;
    const take = this.#kinds[kindOf(doc)];
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
   * by none but a leader. Leaders of sites that each hold what the other has in force learn so from each other's faults
   * and hold both: all then put the same in force, since all go through them in one order.
   */
  review(): void {
    if (!this.#loaded) return;
    const { records, leads, isCaughtUp = () => true } = this.#options;
    const decides = leads() && isCaughtUp();
    const ordered = [...records.held].sort(([one], [other]) => inOrderOfRelease(one, other));
    const [stored, provisional] = [true, false].map((has) =>
      ordered.filter(([id, { rev }]) => this.#faults.has(documentId.fault(id, rev)) === has),
    ) as [typeof ordered, typeof ordered];
    for (const [id, held] of provisional) this.#lookAgain(id, held, true);
    for (const [id, held] of stored) this.#lookAgain(id, held, decides);
    if (decides) this.#storeFaults();
  }

  #lookAgain(id: string, held: Held, mayRelease: boolean): void {
    const { records } = this.#options;
    const newest = records.newest(id);
    const isReplaced = newest?._rev !== held.rev;
    const errors = isReplaced ? [] : this.#errorsOf(newest);
    if (errors.length === 0 && (isReplaced || mayRelease)) this.#change(id, () => records.held.delete(id));
    else records.held.set(id, { ...held, errors });
  }

  #storeFaults(): void {
    const { records, database, background } = this.#options;
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
      return newest !== undefined && generation(newest._rev) >= generation(fault.rev);
    });
    for (const fault of added) this.#faults.set(fault._id, fault);
    for (const fault of ended) this.#faults.delete(fault._id);
    if (added.length > 0) {
      background.run("store faults", async () => {
        try {
          await database.bulk(added, { newEdits: false });
        } catch (error) {
          // The next review tries again.
          for (const { _id } of added) this.#faults.delete(_id);
          throw error;
        }
      });
    }
    if (ended.length > 0) {
      const tombstones = ended.map(({ active: _, ...kept }) => ({ ...kept, _deleted: true }));
      background.run("end faults", async () => {
        try {
          await database.bulk(tombstones);
        } catch (error) {
          for (const fault of ended) this.#faults.set(fault._id, fault);
          throw error;
        }
      });
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

function generation(rev: string): number {
  return Number.parseInt(rev, 10);
}
