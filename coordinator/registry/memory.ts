/**
 * What is known here of each component's document: the record that stands in the store, or that none does and which
 * revision says so. Three ways lead here, each as slow as it likes: the changes feed, the acknowledgement of an own
 * write, the answer to a read. This decides which of two that speak of one document is the newer. Pure.
 *
 * The rule: **revisions only ever replace others, so what names a revision that the other has replaced is the older.**
 * - The feed is the order of the store. It is followed, be the winner that it brings of a lower generation, or of
 *   an equal one, than what stood here: so it is when replication brings another branch, or a conflict is settled.
 * - A record whose branch still stands beside that winner, and that will be kept when the two are settled, stays: which
 *   of two branches CouchDB gives meanwhile says nothing of the component.
 * - An acknowledgement or an answer may run ahead of the feed. It is taken in when it replaced what is known here, or
 *   nothing is known; otherwise that came later, or is of another branch, and the feed brings what became of both.
 * - While a document is ahead, the feed still brings what was before: a state in which something stands that has been
 *   replaced, or with a branch less, or in which nothing has the generation yet that we know of. That is passed over.
 *
 * A tombstone is a revision like any other, and a record that is made again replaces it. Of generations alone this could
 * not be told: a component that moved, removed at one site and registered at another, has a tombstone above its record.
 */
import { LRUCache } from "lru-cache";
import { generationOf } from "../../config-db/revision.ts";
import { Roster, type StoredComponent } from "./roster.ts";

/** One document as some state of the store had it. */
export interface Sighting {
  id: string;
  /** The winning revision. */
  rev: string;
  /** Gives undefined when that one is deleted, or no record. Asked only when it is taken in: checking costs. */
  record(): StoredComponent | undefined;
  /** For when there is no record: the incarnation of what was there; 0 where that is not known. */
  incarnation: number;
  /** The tombstone, when that is the winner and says that the removal is under way. Asked only when it is taken in. */
  removing?(): StoredComponent | undefined;
}

export interface Replaced {
  id: string;
  before: StoredComponent | undefined;
  after: StoredComponent | undefined;
}

/** What is known of how an acknowledgement or an answer came about. */
export interface Lineage {
  /** What was known here when it was written. */
  over?: string | undefined;
  /**
   * The revisions that it has surely replaced; those of all branches, for an answer. A record that is made where none was
   * names none: the store makes it upon whichever tombstone is the highest there.
   */
  replaced: readonly string[];
  /** How many there are, for an answer. */
  branches?: number;
}

interface Absence {
  rev: string;
  incarnation: number;
}

interface Ahead {
  generation: number;
  /** How many there are at least; branches end in tombstones, so that they only ever become more. */
  branches: number;
  /** On the way to what is known here. */
  replaced: Set<string>;
}

/** Removed ids that are known: some 15 MB. A process that was removed longer ago has been told 404 since. */
const absentMax = 100_000;
/** Removals that are under way, while no broker is there all of them: what is beyond is found at the next start. */
const removingMax = 100_000;
/** As many as can be written or read while the feed is away; of one beyond it the feed may tell what was before. */
const aheadMax = 100_000;

export interface MemoryOptions {
  /** Of two branches of one document the one that is kept when they are settled: negative when that is the second. */
  compareBranches(one: StoredComponent, other: StoredComponent): number;
}

export class Memory {
  readonly #options: MemoryOptions;
  readonly roster = new Roster();
  readonly #absent = new LRUCache<string, Absence>({ max: absentMax });
  readonly #removing = new LRUCache<string, StoredComponent>({ max: removingMax });
  /**
   * Documents of which more is known than the feed has brought: mostly those written in the last milliseconds. The oldest
   * first. No LRUCache: it clears the room of all that it may hold each time that its only entry goes.
   */
  readonly #ahead = new Map<string, Ahead>();

  constructor(options: MemoryOptions) {
    this.#options = options;
  }

  /** The revision that is known to stand under `id`, a tombstone's too; undefined where nothing is known. */
  revisionOf(id: string): string | undefined {
    return this.roster.get(id)?._rev ?? this.#absent.get(id)?.rev;
  }

  /** The last incarnation of a component that was removed, as far as it is known; undefined for one that is there. */
  incarnationOfRemoved(id: string): number | undefined {
    return this.#absent.get(id)?.incarnation;
  }

  /** The tombstones of all removals that are under way, of every site. */
  allRemoving(): StoredComponent[] {
    return [...this.#removing.values()];
  }

  /**
   * Takes in what the changes feed brings.
   * @param leaves all of the document's, deleted ones too.
   * @returns what changed by it; undefined when nothing did.
   */
  follow(sighting: Sighting, leaves: string[]): Replaced | undefined {
    const ahead = this.#ahead.get(sighting.id);
    if (ahead !== undefined && isBefore(leaves, ahead)) return undefined;
    this.#ahead.delete(sighting.id);
    return this.#isKeptBeside(sighting, leaves) ? undefined : this.#take(sighting);
  }

  #isKeptBeside(sighting: Sighting, leaves: string[]): boolean {
    const { id, rev } = sighting;
    const known = this.roster.get(id);
    if (known === undefined || known._rev === rev || !leaves.includes(known._rev)) return false;
    const other = sighting.record();
    return other !== undefined && this.#options.compareBranches(known, other) > 0;
  }

  /**
   * Takes in what an acknowledgement or an answer says, unless something newer is known.
   * @returns what changed by it; undefined when nothing did.
   */
  runAhead(sighting: Sighting, { over, replaced, branches = 1 }: Lineage): Replaced | undefined {
    const { id, rev } = sighting;
    const known = this.revisionOf(id);
    if (known !== undefined && known !== over && !replaced.includes(known)) return undefined;
    const ahead = this.#ahead.get(id);
    this.#goAhead(id, {
      generation: generationOf(rev),
      branches: Math.max(branches, ahead?.branches ?? 1),
      replaced: new Set([...replaced, ...(ahead?.replaced ?? [])]),
    });
    return this.#take(sighting);
  }

  #goAhead(id: string, ahead: Ahead): void {
    this.#ahead.delete(id);
    this.#ahead.set(id, ahead);
    if (this.#ahead.size <= aheadMax) return;
    const [oldest] = this.#ahead.keys();
    this.#ahead.delete(oldest as string);
  }

  #take(sighting: Sighting): Replaced | undefined {
    const { id, rev } = sighting;
    if (this.revisionOf(id) === rev) return undefined;
    const before = this.roster.get(id);
    const [record, removing] = [sighting.record(), sighting.removing?.()];
    if (removing === undefined) this.#removing.delete(id);
    else this.#removing.set(id, removing);
    if (record !== undefined) {
      this.#absent.delete(id);
      this.roster.set(record);
    } else {
      const known = before?.incarnation ?? this.#absent.get(id)?.incarnation ?? 0;
      this.#absent.set(id, { rev, incarnation: Math.max(known, sighting.incarnation) });
      this.roster.delete(id);
    }
    return { id, before, after: record };
  }
}

function isBefore(leaves: string[], { generation, branches, replaced }: Ahead): boolean {
  return (
    leaves.length < branches ||
    leaves.some((rev) => replaced.has(rev)) ||
    leaves.every((rev) => generationOf(rev) < generation)
  );
}
