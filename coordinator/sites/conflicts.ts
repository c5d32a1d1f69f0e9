/**
 * Configuration that sites changed at once: merged by the leader as soon as it is seen here, and what could not be
 * merged kept as a list that operators close, at any site.
 */
import type { Logger } from "pino";
import { Gauge, type Registry as Metrics } from "prom-client";
import { MusterError } from "../../config-db/errors.ts";
import type { ConflictDocument, ConflictResolution } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import { generationOf, withFixedRevision } from "../../config-db/revision.ts";
import type { BulkRow, Change, Database, Document, Store, Stored } from "../../config-db/store.ts";
import { check } from "../../config-db/validate.ts";
import type { Leaf } from "./ancestry.ts";
import { conflictDocument, differentAnswers, groupConflicts, type ListedConflict, listConflict } from "./conflict.ts";
import { recordsVersion } from "./identity.ts";
import { Past } from "./past.ts";
import { answerTo, resolvedDocument } from "./resolution.ts";
import {
  type IsUsable,
  isOpen,
  replacedConflict,
  resolve as resolveLeaves,
  type VersionedDocument,
} from "./resolve.ts";
import { leafOf, Resolver } from "./resolver.ts";

export interface ConflictsOptions {
  store: Store;
  site: string;
  leads(): boolean;
  /** Keeps revisions of layers in history; resolves when the store has them. */
  keepHistory(layers: (VersionedDocument & { _rev: string })[]): Promise<void>;
  /** Whether a document is one of its kind: what is not is merged with nothing. */
  isUsable: IsUsable;
  /** Refuses what an ordinary write of that record would be refused for. @throws MusterError `refused`, `invalid-request` */
  admit?(doc: VersionedDocument): void | Promise<void>;
  /** Told of the document that an operator's choice wrote, before the changes feed tells it; the answer waits for it. */
  written?(id: string): Promise<void>;
  logger: Logger;
  metrics?: Metrics;
  wallClock?(): Date;
}

/** The documents of muster-config that people change. History and content are fixed by their ids. */
const concerned = /^(layer|schema|candidate|secret):/;

/** History comes by the same replication as the revisions that it belongs to: so many tries, 250 ms apart, for it. */
const historyAttemptsMax = 20;

export class Conflicts {
  readonly #options: ConflictsOptions;
  readonly #database: Database<Document>;
  readonly #resolver: Resolver;
  readonly #past: Past;
  readonly #open = new Map<string, Stored<ConflictDocument>>();
  /** The records that open conflicts are about, as they stand; undefined when deleted. */
  readonly #records = new Map<string, VersionedDocument | undefined>();
  /** Being read. What the feed says of them meanwhile is newer. */
  readonly #loading = new Set<string>();
  readonly #listeners = new Set<() => void>();

  constructor(options: ConflictsOptions) {
    this.#options = options;
    this.#database = options.store.database<Document>(databases.config);
    this.#past = new Past(this.#database, options.isUsable);
    this.#resolver = new Resolver({
      database: this.#database,
      concerns: (id) => concerned.test(id) || id.startsWith("conflict:"),
      decide: (id, leaves, attempt) =>
        id.startsWith("conflict:")
          ? this.#compareAnswers(leaves)
          : this.#decide(id, leaves as Leaf<VersionedDocument>[], attempt),
      leads: options.leads,
      logger: options.logger,
    });
  }

  /** @throws MusterError `store-unavailable`: nothing has begun; call it again. */
  async start(): Promise<void> {
    await this.#loadRecords();
    if (this.#options.metrics !== undefined) this.#measure(this.#options.metrics);
    await this.#resolver.start();
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    await this.#resolver.close();
  }

  /** Takes in changes of `muster-config`. */
  apply(changes: Change[]): void {
    this.#resolver.apply(changes);
    let changed = false;
    for (const { id, deleted, doc } of changes) {
      if (id.startsWith("conflict:")) {
        if (!deleted && this.#isConflict(doc)) this.#open.set(id, doc);
        else this.#open.delete(id);
        changed = true;
      } else if (this.#records.has(id) || this.#loading.delete(id)) {
        this.#records.set(id, deleted ? undefined : (doc as unknown as VersionedDocument));
        changed = true;
      }
    }
    if (!changed) return;
    this.#loadRecords().then(
      () => this.#tell(),
      (error: unknown) => this.#options.logger.warn({ error }, "cannot read the records that conflicts are about"),
    );
  }

  /** The open conflicts, the oldest first. */
  list(): ListedConflict[] {
    const listed = [...groupConflicts(this.#open.values())].map(([id, docs]) =>
      withoutSecrets(listConflict(id, docs, this.#records.get((docs[0] as ConflictDocument).record))),
    );
    return listed.sort((a, b) => (a.since < b.since ? -1 : a.since > b.since ? 1 : a.id < b.id ? -1 : 1));
  }

  /** `changed` is called when the list may read differently. */
  subscribe(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /**
   * Closes a conflict: what the operator chose stands afterwards, here and, by replication, everywhere.
   *
   * What is written follows from the conflict and the choice alone, so that operators who close it at two sites at once
   * with the same choice write the same revision. The conflict's tombstone says who chose what: with different choices they
   * collide, and are listed as a conflict.
   * @throws MusterError `not-found`, `refused` when `choose` names no candidate or the value may not stand there
   */
  async resolve(id: string, resolution: ConflictResolution, author: string): Promise<ListedConflict> {
    const docs = groupConflicts(this.#open.values()).get(id);
    const [first] = docs ?? [];
    if (docs === undefined || first === undefined) {
      throw new MusterError(
        "not-found",
        `no open conflict ${id.slice(0, 100)}; GET /v1/conflicts lists those that are`,
      );
    }
    const [record, leaf] = await this.#standing(first.record);
    const conflict = listConflict(id, docs, record);
    const next = resolvedDocument(conflict, resolution, leaf?.doc);
    if (next !== undefined) await this.#write(next, leaf);
    const closed = { by: author.slice(0, 200), at: this.#now(), site: this.#options.site };
    const chosen = "choose" in resolution ? { chosen: resolution.choose } : {};
    const { value } = answerTo(conflict, resolution);
    const answer = value === undefined ? {} : { value };
    // Beside what another operator may have said of it meanwhile.
    const tombstones = docs.map((doc) =>
      withFixedRevision({ ...doc, _deleted: true, closed: { ...closed, ...chosen, answer } }, [doc._rev]),
    );
    await this.#store(tombstones);
    for (const { _id } of tombstones) this.#open.delete(_id);
    this.#tell();
    return withoutSecrets(listConflict(id, docs, next ?? record));
  }

  /** Lists what operators said differently of one conflict; again is harmless. */
  async #compareAnswers(leaves: Leaf[]): Promise<"done"> {
    const closed = leaves.flatMap(({ doc }) => (doc._deleted === true && this.#isConflict(doc) ? [doc] : []));
    const [first] = closed;
    const found = differentAnswers(closed);
    if (first !== undefined && found !== undefined) await this.#store([conflictDocument(first.record, found)]);
    return "done";
  }

  async #write(doc: VersionedDocument, leaf: Leaf<VersionedDocument> | undefined): Promise<void> {
    await this.#options.admit?.(doc);
    if (leaf !== undefined) await this.#keep([leaf.doc]);
    const fixed = withFixedRevision(doc, leaf?.path ?? []);
    await this.#store([fixed]);
    const { _revisions, ...stored } = fixed;
    await this.#keep([stored]);
    await this.#options.written?.(stored._id);
    this.apply([{ id: stored._id, seq: 0, deleted: stored._deleted === true, doc: stored as Change["doc"] }]);
  }

  /** The record as it stands and its one open leaf, after what is still in parallel was merged. */
  async #standing(id: string): Promise<[VersionedDocument | undefined, Leaf<VersionedDocument> | undefined]> {
    for (let attempt = 0; ; attempt++) {
      const leaves = (await this.#database.branches(id)).map(leafOf) as Leaf<VersionedDocument>[];
      if (isOpen(leaves) && attempt < historyAttemptsMax) {
        await this.#decide(id, leaves, historyAttemptsMax);
        continue;
      }
      const live = leaves.find(({ doc }) => doc._deleted !== true);
      const newest = leaves.toSorted((a, b) => generationOf(b.rev) - generationOf(a.rev))[0];
      return [live?.doc, live ?? newest];
    }
  }

  /** Documents come from other sites too, whatever is written there. */
  #isConflict(doc: Document): doc is Stored<ConflictDocument> {
    const errors = check("conflict-document", doc);
    if (errors.length === 0 && concerned.test(String((doc as Partial<ConflictDocument>).record))) return true;
    this.#options.logger.warn({ id: doc._id, errors }, "a conflict came in that is none");
    return false;
  }

  async #decide(id: string, leaves: Leaf<VersionedDocument>[], attempt: number): Promise<"done" | "later"> {
    if (!isOpen(leaves)) return "done";
    if (leaves.some(({ doc }) => (doc.schemaVersion ?? 1) > recordsVersion)) {
      this.#options.logger.warn({ id }, "a newer Muster has written this: its sites have to merge it");
      return "done";
    }
    const { isUsable } = this.#options;
    const past =
      attempt < historyAttemptsMax ? await this.#past.read(id, leaves) : await this.#past.readWhatIsHere(id, leaves);
    if (past === undefined) return "later";
    const resolution = resolveLeaves(leaves, past.contents, isUsable, past.parents);
    if (resolution === undefined) return "done";
    // First what must not be lost, then what lets go of it.
    await this.#keep(leaves.map(({ doc }) => doc));
    const conflicts = resolution.conflicts.map((found) => conflictDocument(id, found));
    await this.#store(conflicts);
    await this.#store(resolution.writes);
    const [result] = resolution.writes;
    if (result !== undefined && result._rev === resolution.result) {
      const { _revisions, ...stored } = result;
      await this.#keep([stored]);
    }
    this.#options.logger.info(
      { id, revision: resolution.result, leaves: leaves.length, conflicts: conflicts.length },
      "merged what sites had changed at once",
    );
    return "done";
  }

  /**
   * Lists a revision that is none of its kind, before a write that knows nothing of it takes its place.
   * @param inForce on what the write is made
   */
  async listReplaced(id: string, rev: string, inForce: VersionedDocument | undefined): Promise<void> {
    const unusable = (await this.#database.get(id, { rev })) as (VersionedDocument & { _rev: string }) | undefined;
    if (unusable !== undefined) await this.#store([conflictDocument(id, replacedConflict(unusable, inForce))]);
  }

  async #keep(docs: (VersionedDocument & { _rev: string })[]): Promise<void> {
    const layers = docs.filter(({ kind, mergedInto }) => kind === "layer" && mergedInto === undefined);
    if (layers.length > 0) await this.#options.keepHistory(layers);
  }

  /** Stores revisions as they are. */
  async #store(docs: Document[]): Promise<void> {
    const rows = await this.#database.bulk(docs, { newEdits: false });
    for (const row of rows) if ("error" in row) throw refusedRow(row);
  }

  /** Reads the records that conflicts are about, and forgets those that none is about any more. */
  async #loadRecords(): Promise<void> {
    const wanted = new Set([...this.#open.values()].map(({ record }) => record));
    for (const id of this.#records.keys()) if (!wanted.has(id)) this.#records.delete(id);
    const missing = [...wanted].filter((id) => !this.#records.has(id) && !this.#loading.has(id));
    if (missing.length === 0) return;
    for (const id of missing) this.#loading.add(id);
    try {
      const found = new Map((await this.#database.getMany(missing)).map((doc) => [doc._id, doc]));
      for (const id of missing) {
        if (this.#loading.has(id)) this.#records.set(id, found.get(id) as VersionedDocument | undefined);
      }
    } finally {
      for (const id of missing) this.#loading.delete(id);
    }
  }

  #tell(): void {
    for (const changed of [...this.#listeners]) changed();
  }

  #now(): string {
    return (this.#options.wallClock?.() ?? new Date()).toISOString();
  }

  #measure(metrics: Metrics): void {
    const open = () => groupConflicts(this.#open.values()).size;
    new Gauge({
      name: "muster_conflicts_open",
      help: "Places that sites changed at once and that no operator has closed yet.",
      registers: [metrics],
      collect() {
        this.set(open());
      },
    });
  }
}

/** A sealed secret is of no use to who reads a list, and none of their business. */
function withoutSecrets(conflict: ListedConflict): ListedConflict {
  if (!conflict.record.startsWith("secret:")) return conflict;
  const candidates = conflict.candidates.map(({ value, ...candidate }) => candidate);
  return { ...conflict, candidates };
}

function refusedRow(row: BulkRow): MusterError {
  const { id, error, reason } = row as { id: string; error: string; reason: string };
  return new MusterError("refused", `the store refuses ${id}: ${error}: ${reason}`);
}
