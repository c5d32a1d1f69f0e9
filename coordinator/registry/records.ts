/**
 * The components' records: in memory for reading, in the store for keeping. Fed by the changes feed of
 * `muster-registry`; written by compare-and-set through the group commit, and applied to memory as soon as the store has
 * acknowledged, so that a writer reads its own writes. What comes late changes nothing: `memory.ts`.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import { databases, documentId } from "../../config-db/names.ts";
import { compareLeaves, generationOf, pathOf, versionMax, withFixedRevision } from "../../config-db/revision.ts";
import type { Change, Database, Document, Store, Stored } from "../../config-db/store.ts";
import { check } from "../../config-db/validate.ts";
import { EventLog, eventOf, type LogEntry, type Sight } from "./event-log.ts";
import { GroupCommit } from "./group-commit.ts";
import { Memory, type MemoryOptions, type Replaced, type Sighting } from "./memory.ts";
import { removed } from "./registration.ts";
import type { Roster, StoredComponent } from "./roster.ts";

export interface RecordsOptions {
  store: Store;
  /** Whether a site's heartbeat is heard. */
  hears(site: string): boolean;
  /** Which of two branches is kept when they are settled; see memory.ts. */
  compareBranches: MemoryOptions["compareBranches"];
  logger: Logger;
  /** Names this run of the process in event ids. */
  run: string;
  /** Default 8,192: a burst of every component of a large site, or some minutes of an ordinary day. */
  eventsMax?: number;
}

/** A registration is told 503 within this of a store that hangs; what was written all the same is found by its retry. */
const writeTimeoutMs = 8_000;
/** Other coordinators may write the same record at the same time; that many times in a row they do not. */
const attemptsMax = 20;
/** Between two attempts, by chance up to this: writers that lose to each other must not meet again in step. */
const pauseMsMax = 50;

export class Records {
  readonly log: EventLog;
  /** Counts up with everything that a reader could see. */
  revision = 0;
  readonly #options: RecordsOptions;
  readonly #database: Database<ComponentDocument>;
  readonly #commit: GroupCommit;
  readonly #listeners = new Map<string, Set<(entry: LogEntry) => void>>();
  readonly #memory: Memory;

  constructor(options: RecordsOptions) {
    this.#options = options;
    this.#memory = new Memory(options);
    this.#database = options.store.database<ComponentDocument>(databases.registry);
    this.#commit = new GroupCommit({
      database: { bulkJson: (docs) => this.#database.bulkJson(docs, { timeoutMs: writeTimeoutMs }) },
    });
    this.log = new EventLog(options.run, options.eventsMax ?? 8_192);
  }

  get roster(): Roster {
    return this.#memory.roster;
  }

  get(id: string): StoredComponent | undefined {
    return this.roster.get(id);
  }

  /** The incarnation that a record of `id` had when it was removed; undefined while one is there. */
  incarnationOfRemoved(id: string): number | undefined {
    return this.#memory.incarnationOfRemoved(id);
  }

  /** The tombstones of all removals that are under way, of every site. */
  allRemoving(): StoredComponent[] {
    return this.#memory.allRemoving();
  }

  async close(): Promise<void> {
    await this.#commit.close();
  }

  /** Calls `listener` with every event, or with those that concern records of one type. @returns what ends it. */
  subscribe(listener: (entry: LogEntry) => void, type = "*"): () => void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#listeners.delete(type);
    };
  }

  /** Takes in what the changes feed brings. Its echo of our own writes changes nothing. */
  apply(changes: Change[]): void {
    const entries: (LogEntry | undefined)[] = [];
    for (const { id: documentId, doc, leaves } of changes) {
      if (!documentId.startsWith("component:")) continue;
      const found = countable(doc as Found);
      const sighting = new FoundSighting(documentId.slice("component:".length), found, this.#recordOf);
      entries.push(this.#note(this.#memory.follow(sighting, leaves ?? [found._rev])));
    }
    this.#tell(entries);
  }

  /**
   * Reads one record from the store: for a coordinator that may be behind.
   * @throws MusterError `store-unavailable`: memory stands.
   */
  async refresh(id: string, options: { timeoutMs?: number } = {}): Promise<StoredComponent | undefined> {
    await this.#read(id, options);
    return this.roster.get(id);
  }

  /** What the store keeps of a removed component; undefined when a record stands there, or never did. */
  async tombstone(id: string): Promise<ComponentDocument | undefined> {
    const { removed } = await this.#read(id);
    return removed.filter(isSound).sort((one, other) => other.incarnation - one.incarnation)[0];
  }

  /** @returns what is left of a removed component; whether there is a document that is no record. */
  async #read(id: string, options: { timeoutMs?: number } = {}): Promise<{ removed: Found[]; isMalformed: boolean }> {
    const branches = await this.#database.branches(documentId.component(id), options);
    const leaves = branches.map(({ _revisions, ...leaf }) => countable(leaf)).sort(compareLeaves);
    const winner = leaves.at(-1);
    if (winner === undefined) return { removed: [], isMalformed: false };
    const record = this.#recordOf(winner);
    const deleted = leaves.filter(({ _deleted }) => _deleted === true);
    const sighting = {
      id,
      rev: winner._rev,
      record: () => record,
      incarnation: Math.max(0, ...deleted.map(incarnationOf)),
      removing: () => removingOf(winner),
    };
    const replaced = branches.flatMap((branch) => pathOf(branch).slice(1));
    this.#tell([this.#note(this.#memory.runAhead(sighting, { replaced, branches: leaves.length }))]);
    const isRemoved = winner._deleted === true;
    return { removed: isRemoved ? deleted : [], isMalformed: !isRemoved && record === undefined };
  }

  /**
   * Changes the record of `id` by compare-and-set. `plan` is asked what the record shall be, given what it is and the
   * highest incarnation that was removed; undefined leaves it as it is. It is asked again when another writer was faster,
   * and when the record turns out to be made upon a tombstone of no lower incarnation that was not known. Resolves, once the
   * store has acknowledged, with the record and whether it was written.
   * @param options `isCertain`: a record is left as it is only when the store says so; memory may be behind.
   * @throws MusterError `store-unavailable`, `too-many`; `conflict` when others kept being faster; `refused` when what is
   *   stored does not fit its schema. Nothing was written.
   */
  async update(
    id: string,
    plan: (current: StoredComponent | undefined, removed: number) => ComponentDocument | undefined,
    { isCertain = false }: { isCertain?: boolean } = {},
  ): Promise<{ record: StoredComponent | undefined; written: boolean; before: StoredComponent | undefined }> {
    let removed = 0;
    let isMade = false;
    let isRead = false;
    for (let attempt = 1; ; attempt += 1) {
      const current = this.roster.get(id);
      const before = isMade ? undefined : current;
      const over = this.#memory.revisionOf(id);
      const planned = plan(current, Math.max(removed, this.incarnationOfRemoved(id) ?? 0));
      if (planned === undefined) {
        if (isRead || !isCertain) return { record: current, written: isMade, before };
        isRead = true;
        await this.#read(id, { timeoutMs: writeTimeoutMs });
        continue;
      }
      try {
        const record = { ...planned, _rev: await this.#commit.write(planned) };
        const sighting = new FoundSighting(id, record, standing);
        const replaced = planned._rev === undefined ? [] : [planned._rev];
        this.#tell([this.#note(this.#memory.runAhead(sighting, { over, replaced }))]);
        if (planned._rev !== undefined || !isUponUnknown(record._rev, over)) return { record, written: true, before };
        removed = await this.#incarnationBefore(record);
        if (removed < record.incarnation) return { record, written: true, before };
        isMade = true;
        continue;
      } catch (error) {
        if (!isMusterError(error, "conflict") || attempt === attemptsMax) throw error;
      }
      if (attempt > 1) await delay(Math.random() * Math.min(pauseMsMax, 2 ** attempt));
      if ((await this.#read(id)).isMalformed) {
        const told = `the document ${documentId.component(id)} in ${databases.registry} does not fit its schema`;
        throw new MusterError("refused", `${told}: mend or delete it there, or use another id`);
      }
    }
  }

  /**
   * Writes that the removal of this incarnation of `id` is done, where its tombstone still stands and says otherwise. CouchDB
   * takes no tombstone over a tombstone, but as a revision that was made elsewhere. That needs no guard: beside a
   * record that was made at the same moment it is a deleted branch.
   * @throws MusterError `store-unavailable`
   */
  async endRemoval(id: string, incarnation: number): Promise<void> {
    const branches = await this.#database.branches(documentId.component(id));
    const found = branches.find((leaf) => removingOf(leaf)?.incarnation === incarnation);
    if (found === undefined) return;
    const { _revisions, ...tombstone } = found;
    const ended = withFixedRevision(removed(tombstone), pathOf(found));
    const [fault] = await this.#database.bulk([ended], { newEdits: false, timeoutMs: writeTimeoutMs });
    if (fault !== undefined && "error" in fault) throw new MusterError("refused", `${tombstone._id}: ${fault.reason}`);
    await this.#read(id);
  }

  /** The highest incarnation that was removed before this record was made upon the tombstone of one. */
  async #incarnationBefore({ _id, _rev }: StoredComponent): Promise<number> {
    const branches = await this.#database.branches(_id);
    const path = branches.map(pathOf).find((revs) => revs.includes(_rev)) ?? [];
    const former = path[path.indexOf(_rev) + 1];
    if (former === undefined) return 0;
    const tombstone: Found | undefined = await this.#database.get(_id, { rev: former });
    // Compacted away: of incarnations there were no more than of revisions.
    const last = tombstone === undefined ? generationOf(former) : incarnationOf(tombstone);
    return Math.max(last, ...branches.filter(({ _deleted }) => _deleted === true).map(incarnationOf));
  }

  /** Tells of records whose reading changed without a write: their site fell silent or is heard again. */
  reread(site: string, heardBefore: boolean): void {
    const entries: (LogEntry | undefined)[] = [];
    for (const document of this.roster.all()) {
      if (document.site === site) {
        entries.push(this.#log({ document, heard: heardBefore }, { document, heard: !heardBefore }));
      }
    }
    this.#tell(entries);
  }

  #note(replaced: Replaced | undefined): LogEntry | undefined {
    return replaced && this.#log(this.#sight(replaced.before), this.#sight(replaced.after));
  }

  #log(before: Sight | undefined, after: Sight | undefined): LogEntry | undefined {
    const event = eventOf(before, after);
    return event && this.log.append(event);
  }

  #sight(document: StoredComponent | undefined): Sight | undefined {
    return document && { document, heard: this.#options.hears(document.site) };
  }

  /** Tells after all of a batch is in memory: a watcher that wakes at the first reads them all. */
  #tell(entries: (LogEntry | undefined)[]): void {
    for (const entry of entries) {
      if (entry === undefined) continue;
      this.revision += 1;
      const { before, after } = entry.event;
      for (const type of new Set(["*", before?.document.type, after?.document.type])) {
        for (const listener of [...(this.#listeners.get(type ?? "") ?? [])]) this.#call(listener, entry);
      }
    }
  }

  #call(listener: (entry: LogEntry) => void, entry: LogEntry): void {
    try {
      listener(entry);
    } catch (error) {
      this.#options.logger.error({ error, event: entry.id }, "a listener to the registry failed");
    }
  }

  /** What others wrote straight into the database is checked before it is believed; what does not fit is as if absent. */
  readonly #recordOf = (document: Found): StoredComponent | undefined => {
    if (document._deleted === true) return undefined;
    if (isSound(document)) return document;
    this.#options.logger.warn(
      { id: document._id, errors: check("component-document", document) },
      "a component's record does not fit its schema; it is ignored",
    );
    return undefined;
  };
}

/** A document as it is stored, whoever wrote it. */
type Found = Stored<Document> & { id?: unknown; incarnation?: unknown; removing?: unknown };

/** A class, since each change makes one: functions of its own for each show in the profile of registrations. */
class FoundSighting<Document extends Found> implements Sighting {
  readonly id: string;
  readonly #document: Document;
  readonly #recordOf: (document: Document) => StoredComponent | undefined;

  constructor(id: string, document: Document, recordOf: (document: Document) => StoredComponent | undefined) {
    this.id = id;
    this.#document = document;
    this.#recordOf = recordOf;
  }

  get rev(): string {
    return this.#document._rev;
  }

  get incarnation(): number {
    return incarnationOf(this.#document);
  }

  record(): StoredComponent | undefined {
    return this.#recordOf(this.#document);
  }

  removing(): StoredComponent | undefined {
    return removingOf(this.#document);
  }
}

function standing(record: StoredComponent): StoredComponent | undefined {
  return record._deleted === true ? undefined : record;
}

function isSound(document: Found): document is StoredComponent {
  return (
    check("component-document", document).length === 0 && document._id === documentId.component(String(document.id))
  );
}

function removingOf(document: Found): StoredComponent | undefined {
  return document._deleted === true && document.removing === true && isSound(document) ? document : undefined;
}

/** Whether what was written without a revision stands upon a tombstone that is none that we knew. */
function isUponUnknown(rev: string, known: string | undefined): boolean {
  const generation = generationOf(rev);
  return generation > 1 && (known === undefined || generationOf(known) !== generation - 1);
}

/** Below the highest: who registers again counts on from it. */
function incarnationOf({ incarnation }: Found): number {
  return Number.isSafeInteger(incarnation) ? Math.min(incarnation as number, versionMax - 1) : 0;
}

/** A document with the highest incarnation that there is in the place of a higher one: its id can be registered again. */
function countable(document: Found): Found {
  const { incarnation } = document;
  return typeof incarnation === "number" && incarnation > versionMax
    ? { ...document, incarnation: versionMax }
    : document;
}

/** @throws MusterError `not-found` */
export function notFound(id: string): MusterError {
  return new MusterError("not-found", `no component "${id}" is registered; register it with PUT /v1/components/${id}`);
}
