/**
 * The newest changes of a database, made of what was written lately (cached-leveldb.ts) in place of a reading from disk. Who follows a
 * database is told of each write right after it, and PouchDB's own way there, an iterator and a stream with a hop through
 * the thread pool, took a third of the store's time while components register.
 */
import { collectLeaves, type RevisionTree } from "pouchdb-merge";
import type { Change, ChangesPage } from "./changes-page.ts";
import type { Opened } from "./storage.ts";

/** A document's entry in PouchDB's `document-store`. */
interface Metadata {
  rev_tree: RevisionTree;
  /** Of its last change. */
  seq: number;
  deleted: boolean;
}

/**
 * Up to `limit` changes after `since`. Undefined where that is for the disk to say: an entry is not there, is being written, was
 * compacted away, or is of a document that has branches or attachments.
 */
export async function latelyWritten(pouch: Opened, since: number, limit: number): Promise<ChangesPage | undefined> {
  const { lately } = pouch;
  if (lately === undefined) return undefined;
  const newest = (await pouch.info()).update_seq;
  const changes: Change[] = [];
  /** Of one that is written often there are many revisions, and a long tree. */
  const known = new Map<string, Metadata>();
  let seq = since;
  while (seq < newest && changes.length < limit) {
    seq += 1;
    const text = lately(`ÿby-sequenceÿ${String(seq).padStart(16, "0")}`);
    if (text === undefined) return undefined;
    const doc = JSON.parse(text);
    const metadata = known.get(doc._id) ?? parsed(lately(`ÿdocument-storeÿ${doc._id}`));
    if (metadata === undefined || doc._attachments !== undefined) return undefined;
    known.set(doc._id, metadata);
    // It changed again since: that one tells.
    if (metadata.seq !== seq) continue;
    if (collectLeaves(metadata.rev_tree).length > 1) return undefined;
    changes.push({ seq, id: doc._id, revs: [doc._rev], isDeleted: metadata.deleted, doc, rendered: new Map() });
  }
  return { changes, lastSeq: seq, isFull: seq < newest };
}

function parsed(metadata: string | undefined): Metadata | undefined {
  return metadata === undefined ? undefined : JSON.parse(metadata);
}
