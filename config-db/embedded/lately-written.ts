/**
 * The newest changes of a database, made of what was written lately (cached-leveldb.ts) in place of a reading from disk. Who
 * follows a database is told of each write right after it, and PouchDB's own way there, an iterator and a stream with a hop
 * through the thread pool, took a third of the store's time while components register.
 */
import type { PouchDB } from "pouchdb";
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
    const { id, rev, json } = readEntry(text);
    const metadata = known.get(id) ?? parsed(lately(`ÿdocument-storeÿ${id}`));
    if (metadata === undefined || json.includes('"_attachments":')) return undefined;
    known.set(id, metadata);
    // It changed again since: that one tells.
    if (metadata.seq !== seq) continue;
    if (collectLeaves(metadata.rev_tree).length > 1) return undefined;
    changes.push(new WrittenChange(seq, id, rev, metadata.deleted, json));
  }
  return { changes, lastSeq: seq, isFull: seq < newest };
}

function parsed(metadata: string | undefined): Metadata | undefined {
  return metadata === undefined ? undefined : JSON.parse(metadata);
}

/** @returns `json` in wire order: what PouchDB writes of a document ends with `_id`, `_rev` and, of a tombstone, `_deleted`. */
function readEntry(text: string): { id: string; rev: string; json: string } {
  const at = text.lastIndexOf('"_id":');
  const identity = text.slice(at, -1);
  const members = text.slice(1, Math.max(1, at - 1));
  const { _id: id, _rev: rev } = JSON.parse(`{${identity}}`);
  return { id, rev, json: members === "" ? `{${identity}}` : `{${identity},${members}}` };
}

/** Most are sent as they are, and parsed for filters alone. */
class WrittenChange implements Change {
  readonly seq: number;
  readonly id: string;
  readonly revs: string[];
  readonly isDeleted: boolean;
  readonly json: string;
  readonly rendered = new Map<string, string>();
  #doc: PouchDB.Doc | undefined;

  constructor(seq: number, id: string, rev: string, isDeleted: boolean, json: string) {
    this.seq = seq;
    this.id = id;
    this.revs = [rev];
    this.isDeleted = isDeleted;
    this.json = json;
  }

  get doc(): PouchDB.Doc {
    this.#doc ??= JSON.parse(this.json) as PouchDB.Doc;
    return this.#doc;
  }
}
