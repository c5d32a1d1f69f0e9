/** The changes of a database as they are read from disk. */
import type { PouchDB } from "pouchdb";
import { latelyWritten } from "./lately-written.ts";
import { limits } from "./limits.ts";
import type { Opened } from "./storage.ts";

export interface Change {
  seq: number;
  id: string;
  /** The winning revision first, then the other leaves. */
  revs: string[];
  isDeleted: boolean;
  /** The winning revision, with `_conflicts` where there are any. */
  readonly doc: PouchDB.Doc;
  /** The same as JSON in wire order, where that is known. */
  json?: string;
  /** How this change looks on the wire, per shape: many feeds send the same. */
  rendered: Map<string, string>;
}

export interface ChangesPage {
  changes: Change[];
  /** Everything up to here has been seen. */
  lastSeq: number;
  /** True where there may be more after `lastSeq`. */
  isFull: boolean;
}

export interface PageRequest {
  since: number;
  limit?: number;
  /** From the newest to the oldest, whatever `since` says. */
  isDescending?: boolean;
}

/** Reads always say all that any feed can want: the winner's body is read to find the winner, so that it costs nothing. */
export async function readChanges(pouch: Opened, request: PageRequest): Promise<ChangesPage> {
  const limit = request.limit ?? limits.changesPage;
  const lately = request.isDescending === true ? undefined : await latelyWritten(pouch, request.since, limit);
  if (lately !== undefined) return lately;
  const page = await pouch.changes({
    since: request.since,
    limit,
    descending: request.isDescending ?? false,
    include_docs: true,
    conflicts: true,
    style: "all_docs",
    return_docs: true,
  });
  return {
    changes: page.results.map(toChange),
    lastSeq: Number(page.last_seq),
    isFull: page.results.length >= limit,
  };
}

function toChange(row: PouchDB.ChangeRow): Change {
  const doc = row.doc as PouchDB.Doc;
  const winner = doc._rev as string;
  return {
    seq: row.seq,
    id: row.id,
    revs: [winner, ...row.changes.map((leaf) => leaf.rev).filter((rev) => rev !== winner)],
    isDeleted: row.deleted === true,
    doc,
    rendered: new Map(),
  };
}
