/**
 * `_local` documents: a replicator's checkpoints, not replicated themselves. Kept under a prefix, since PouchDB and this
 * store keep documents of their own there, on which a client's hands would break a database.
 */
import type { PouchDB } from "pouchdb";
import { badRequest, conflict, notFound } from "./couch-error.ts";

const shown = "_local/";
const stored = "_local/client:";

const toStored = (id: string) => stored + id.slice(shown.length);

/** @throws CouchError 404 */
export async function readLocal(pouch: PouchDB.Database, id: string): Promise<PouchDB.Doc> {
  try {
    return { ...(await pouch.get(toStored(id))), _id: id };
  } catch (error) {
    if ((error as { status?: number }).status === 404) throw notFound();
    throw error;
  }
}

/** Writes or, with `_deleted`, removes. Resolves with the new revision. @throws CouchError 409 */
export async function writeLocal(pouch: PouchDB.Database, doc: PouchDB.Doc): Promise<string> {
  if (doc._rev !== undefined && !/^0-\d{1,12}$/.test(doc._rev)) throw badRequest("Invalid rev format");
  if (doc._attachments !== undefined) throw badRequest("A _local document cannot have attachments");
  try {
    return (await pouch.put({ ...doc, _id: toStored(doc._id) })).rev;
  } catch (error) {
    const { status } = error as { status?: number };
    if (status === 409) throw conflict();
    if (status === 404) throw notFound();
    throw error;
  }
}
