/** The one path that documents are written by: checked, validated, stored, told to the feeds. */
import { randomUUID } from "node:crypto";
import type { PouchDB } from "pouchdb";
import type { RevisionTree } from "pouchdb-merge";
import { collectLeaves, isDeleted, traverseRevTree, winningRev } from "pouchdb-merge";
import { CouchError, conflict, toCouchError } from "./couch-error.ts";
import type { Database } from "./database.ts";
import { isLocal } from "./document-input.ts";
import type { UserContext } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { writeLocal } from "./local-documents.ts";
import { type RevisionHistory, revisionTree } from "./revisions.ts";
import { checkDesign, type Draft } from "./validators.ts";

export interface WriteOptions {
  /** False: the revisions are stored as they come (replication). */
  newEdits: boolean;
  user: UserContext;
}

/** What became of one document. */
export type Written =
  | { id: string; rev: string; failure?: undefined }
  | { id: string; rev?: string; failure: CouchError };

export const newId = () => randomUUID().replaceAll("-", "");

/**
 * Writes documents that `checkDocument` has passed; each on its own succeeds or fails.
 * @throws CouchError 412 where an attachment is a stub of something that is not stored; nothing is written then.
 */
export async function write(
  database: Database,
  pouch: PouchDB.Database,
  docs: PouchDB.Doc[],
  options: WriteOptions,
): Promise<Written[]> {
  const results = new Map<number, Written>();
  const drafts = new Map<number, Draft>();
  const validators = await database.validators.about(pouch);
  for (const doc of docs) doc._id ??= newId();
  await Promise.all(
    docs.map(async (doc, index) => {
      const id = doc._id;
      try {
        if (isLocal(doc._id)) results.set(index, { id, rev: await writeLocal(pouch, doc) });
        else {
          const isDesign = id.startsWith("_design/");
          if (isDesign) checkDesign(doc);
          const old =
            (validators.readOld && !isDesign) || hasStubs(doc) ? await readOld(pouch, doc, options.newEdits) : null;
          if (old === "same") {
            // A replicator brings what is here already: nothing to judge again, nothing to write.
            results.set(index, { id, rev: doc._rev as string });
            return;
          }
          if (hasStubs(doc)) fillStubs(doc, old);
          drafts.set(index, { doc, old });
        }
      } catch (error) {
        const failure = toCouchError(error);
        if (failure.status === 412) throw failure;
        results.set(index, { id, ...(doc._rev !== undefined && { rev: doc._rev }), failure });
      }
    }),
  );
  if (validators.areAny) await dropRefused(database, pouch, drafts, results, options);
  await store(database, pouch, drafts, results, options.newEdits);
  return docs.map((doc, index) => results.get(index) ?? { id: doc._id, failure: conflict() });
}

/** Writes one. @throws CouchError with why it was not written. */
export async function writeOne(
  database: Database,
  pouch: PouchDB.Database,
  doc: PouchDB.Doc,
  options: WriteOptions,
): Promise<{ id: string; rev: string }> {
  const [written] = await write(database, pouch, [doc], options);
  if (written?.failure !== undefined) throw written.failure;
  return written as { id: string; rev: string };
}

async function dropRefused(
  database: Database,
  pouch: PouchDB.Database,
  drafts: Map<number, Draft>,
  results: Map<number, Written>,
  { newEdits, user }: WriteOptions,
): Promise<void> {
  // As in CouchDB: whoever may write design documents may write any.
  const judged = [...drafts].filter(([, { doc }]) => !doc._id.startsWith("_design/"));
  const context = { user: { ...user, db: database.name }, security: database.security };
  const refusals = await database.validators.judge(
    pouch,
    judged.map(([, draft]) => draft),
    context,
  );
  for (const [at, [index, { doc }]] of judged.entries()) {
    const failure = refusals[at];
    if (failure === undefined) continue;
    drafts.delete(index);
    const { _id: id, _rev: rev } = doc;
    const told = rev === undefined ? { id } : { id, rev };
    // As in CouchDB: that it is in conflict with what stands here, or is that, goes before.
    if (newEdits) results.set(index, { ...told, failure: (await isInConflict(pouch, doc)) ? conflict() : failure });
    else if ((await nearestAncestor(pouch, doc)) === rev) results.set(index, { id, rev: rev as string });
    else results.set(index, { ...told, failure });
  }
}

/** Whether the revision that a document is to replace is not the last of a branch, or there is one and it names none. */
async function isInConflict(pouch: PouchDB.Database, { _id: id, _rev: rev }: PouchDB.Doc): Promise<boolean> {
  if (rev === undefined) return isThere(pouch, id);
  return !collectLeaves((await revisionTree(pouch, id)) ?? []).some((leaf) => leaf.rev === rev);
}

async function store(
  database: Database,
  pouch: PouchDB.Database,
  drafts: Map<number, Draft>,
  results: Map<number, Written>,
  newEdits: boolean,
): Promise<void> {
  if (drafts.size === 0) return;
  const entries = [...drafts];
  const docs = entries.map(([, { doc }]) => doc);
  // PouchDB changes the documents and, of given revisions, reports only those that failed.
  const names = docs.map((doc) => ({ id: doc._id, rev: doc._rev ?? "" }));
  const rows = await pouch.bulkDocs(docs, { new_edits: newEdits });
  database.wrote(names.map((name) => name.id));
  for (const [at, [index]] of entries.entries()) {
    const name = names[at] as { id: string; rev: string };
    const row = newEdits ? rows[at] : undefined;
    if (row === undefined) results.set(index, name);
    else if (row.error) results.set(index, { id: name.id, failure: toCouchError(row) });
    else results.set(index, { id: name.id, rev: row.rev as string });
  }
}

const hasStubs = (doc: PouchDB.Doc) =>
  isObject(doc._attachments) && Object.values<JsonObject>(doc._attachments as never).some(({ stub }) => stub === true);

/**
 * The revision that a document replaces; null for a new one, and for one that comes without a known ancestor; "same"
 * where a given revision is here already.
 */
async function readOld(
  pouch: PouchDB.Database,
  doc: PouchDB.Doc,
  newEdits: boolean,
): Promise<PouchDB.Doc | null | "same"> {
  const rev = newEdits ? doc._rev : await nearestAncestor(pouch, doc);
  if (rev === undefined) {
    if (newEdits && (await isThere(pouch, doc._id))) throw conflict();
    return null;
  }
  if (!newEdits && rev === doc._rev) return "same";
  try {
    return await pouch.get(doc._id, { rev });
  } catch (error) {
    if ((error as { status?: number }).status !== 404) throw error;
    if (newEdits) throw conflict();
    return null;
  }
}

/** Whether there is a revision that is not deleted: a new document would be in conflict with it. */
async function isThere(pouch: PouchDB.Database, id: string): Promise<boolean> {
  const tree = await revisionTree(pouch, id);
  return tree !== undefined && !isDeleted({ rev_tree: tree }, winningRev({ rev_tree: tree }));
}

async function nearestAncestor(pouch: PouchDB.Database, doc: PouchDB.Doc): Promise<string | undefined> {
  const { start, ids } = (doc._revisions ?? historyOf(doc._rev as string)) as RevisionHistory;
  const tree = await revisionTree(pouch, doc._id);
  if (tree === undefined) return undefined;
  const stored = storedRevisions(tree);
  return ids.map((hash, back) => `${start - back}-${hash}`).find((rev) => stored.has(rev));
}

function historyOf(rev: string): RevisionHistory {
  const dash = rev.indexOf("-");
  return { start: Number(rev.slice(0, dash)), ids: [rev.slice(dash + 1)] };
}

function storedRevisions(tree: RevisionTree): Set<string> {
  const stored = new Set<string>();
  traverseRevTree(tree, (_isLeaf, pos, hash, _context, { status }) => {
    if (status === "available") stored.add(`${pos}-${hash}`);
  });
  return stored;
}

/** A stub says "as it was": PouchDB wants to be told what that is. */
function fillStubs(doc: PouchDB.Doc, old: PouchDB.Doc | null): void {
  const given = doc._attachments as Record<string, JsonObject>;
  const before: JsonObject = isObject(old?._attachments) ? old._attachments : {};
  for (const [name, attachment] of Object.entries(given)) {
    if (attachment.stub !== true) continue;
    const stored = Object.hasOwn(before, name) ? (before[name] as JsonObject) : attachment;
    if (stored.digest === undefined) {
      throw new CouchError(412, "missing_stub", `Invalid attachment stub in ${doc._id} for ${name}`);
    }
    given[name] = { content_type: "application/octet-stream", ...stored, stub: true };
  }
}
