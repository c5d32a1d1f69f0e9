/** One write of one document, guarded by its revision. */
import { setTimeout as delay } from "node:timers/promises";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { generationOf, nextVersion } from "../../config-db/revision.ts";
import type { Document, Stored } from "../../config-db/store.ts";
import type { Contents } from "./contents.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import type { History } from "./history.ts";
import type { Records } from "./records.ts";
import type { WriteOrder } from "./write-order.ts";

/** What all writers of configuration share. */
export interface WritesOptions {
  records: Records;
  effective: EffectiveSettings;
  history: History;
  contents: Contents;
  order: WriteOrder;
  site: string;
  wallClock(): Date;
  /** Monotonic, in milliseconds. */
  clock(): number;
  /**
   * Writes a document and takes it into memory. @param judgedAt `effective.changes` when it was judged
   * @throws MusterError as `Database.put`
   */
  put<Doc extends Document>(doc: Doc, judgedAt: number): Promise<Stored<Doc>>;
  /** Resolves when memory has of a document what the store had at the call. */
  refresh(id: string): Promise<void>;
  /**
   * Told of a revision that is none of its kind, before a write takes its place that was made from `inForce` and knows
   * nothing of it.
   */
  replacing?(id: string, rev: string, inForce: Stored<Document> | undefined): Promise<void>;
  /** Resolves when memory has what the store had at the call. */
  upToDate(): Promise<void>;
}

/** By whom and over what a write is to be made. */
export interface WriteContext {
  author: string;
  note?: string | undefined;
  expected?: Expected | undefined;
}

/** On which revision a caller's write is to be made: its `If-Match`. */
export interface Expected {
  /** Whether the revision that stands (undefined: none) is one that it named. */
  matches(rev: string | undefined): boolean;
  /** The highest generation that it named: a revision of a higher one than memory has may be another coordinator's. */
  generation: number;
}

/** Who wrote a version, when and where. @param last the version before it, 0 where there is none */
export function versionAfter(
  last: number,
  changedBy: string,
  { site, wallClock }: { site: string; wallClock(): Date },
) {
  return { version: nextVersion(last), changedBy, changedAt: wallClock().toISOString(), site };
}

/** On this revision alone. */
export function exactly(rev: string): Expected {
  return { matches: (standing) => standing === rev, generation: generationOf(rev) };
}

export interface GuardedWrite<Doc extends Document> {
  id: string;
  /** The newest revision in memory, a tombstone too. */
  newest(): Stored<Doc> | undefined;
  expected?: Expected | undefined;
  /**
   * The document to write in place of `newest`, without `_rev`; undefined where `newest` already says the same. Called again
   * when another write came first; what it throws refuses the write. That there is nothing (`not-found`), nothing to
   * write, or a component broken (`refused`), counts only of what the store has.
   */
  make(newest: Stored<Doc> | undefined): Promise<Doc | undefined> | Doc | undefined;
}

/** Other coordinators of the site write too: a write that names no revision is made anew on theirs, this often. */
const attemptsMax = 20;
/** Between two attempts, by chance up to this: writers that lose to each other must not meet again in step. */
const pauseMsMax = 50;

/**
 * @returns what was written, or what stands where there was nothing to write.
 * @throws MusterError `precondition-failed` where another revision stands than the caller expects, `conflict` when
 * others wrote first each time. Nothing was written then.
 */
export async function guardedWrite<Doc extends Document>(
  { records, effective, put, refresh, replacing, upToDate }: WritesOptions,
  { id, newest, expected, make }: GuardedWrite<Doc>,
): Promise<Stored<Doc>> {
  for (let attempt = 1, fresh = false; ; attempt++) {
    const last = newest();
    const standing = last?._deleted === true ? undefined : last;
    if (expected !== undefined && !expected.matches(standing?._rev)) {
      const isNewer = standing === undefined || expected.generation > generationOf(standing._rev);
      if (fresh || !isNewer) throw preconditionFailed(id, standing?._rev);
      fresh = true;
      await refresh(id);
      continue;
    }
    let made: Doc | undefined;
    const judgedAt = effective.changes;
    try {
      made = await make(last);
    } catch (error) {
      if (fresh || !(isMusterError(error, "not-found") || isMusterError(error, "refused"))) throw error;
      // Of other documents too: a secret or a schema that another coordinator has just written.
      await upToDate();
    }
    if (made === undefined) {
      if (fresh) return last as Stored<Doc>;
      fresh = true;
      await refresh(id);
      continue;
    }
    // CouchDB takes a document over its tombstone without a revision alone, and refuses it when it came back meanwhile.
    const unusable = records.unusable.get(id)?.rev;
    if (unusable !== undefined && unusable !== standing?._rev) await replacing?.(id, unusable, standing);
    const rev = unusable ?? standing?._rev;
    const doc = rev === undefined ? made : { ...made, _rev: rev };
    try {
      return await put(doc, judgedAt);
    } catch (error) {
      if (!isMusterError(error, "conflict") || attempt >= attemptsMax) throw error;
      await delay(Math.random() * Math.min(pauseMsMax, 2 ** attempt));
      await refresh(id);
      fresh = true;
    }
  }
}

/** What a write is refused with where another revision, or none, stands than its caller names. */
export function preconditionFailed(id: string, rev: string | undefined): MusterError {
  const stands = rev === undefined ? "nothing stands there" : `revision "${rev}" stands there`;
  return new MusterError("precondition-failed", `${id}: ${stands}; GET it and write on what you find`);
}
