/**
 * `_local` documents: a replicator's checkpoints, not replicated themselves. As in CouchDB the last write wins: their
 * revision counts writes and guards nothing.
 *
 * Kept under a prefix, since PouchDB and this store keep documents of their own there, on which a client's hands would
 * break a database; and inside an envelope, since PouchDB's own revision of them does guard.
 */
import type { PouchDB } from "pouchdb";
import { badRequest, CouchError, notFound } from "./couch-error.ts";

const shown = "_local/";
const stored = "_local/client:";

interface Envelope {
  _id: string;
  _rev?: string;
  rev: string;
  content: Record<string, unknown>;
}

/** Two writers at once meet PouchDB's guard; each try lets one of them through. */
const triesMax = 100;

/** @throws CouchError 404 */
export async function readLocal(pouch: PouchDB.Database, id: string): Promise<PouchDB.Doc> {
  const envelope = await readEnvelope(pouch, id);
  if (envelope === undefined) throw notFound();
  return { _id: id, _rev: envelope.rev, ...envelope.content };
}

/** Writes or, with `_deleted`, removes. Resolves with the new revision. @throws CouchError 400, 404 */
export async function writeLocal(pouch: PouchDB.Database, doc: PouchDB.Doc): Promise<string> {
  const { _id: id, _rev: over, _deleted: isDeleted, _attachments: attachments, ...content } = doc;
  if (attachments !== undefined) throw badRequest("A _local document cannot have attachments");
  const written = over === undefined ? 0 : generationOf(over);
  for (let tries = 0; tries < triesMax; tries += 1) {
    const before = await readEnvelope(pouch, id);
    if (isDeleted && before === undefined) throw notFound();
    const rev = isDeleted ? "0-0" : `0-${written + 1}`;
    const kept = { _id: toStored(id), ...(before?._rev !== undefined && { _rev: before._rev }), rev, content };
    try {
      await pouch.put(isDeleted ? { ...kept, _deleted: true } : kept);
      return rev;
    } catch (error) {
      const { status } = error as { status?: number };
      if (status !== 409 && status !== 404) throw error;
    }
  }
  throw new CouchError(503, "busy", `${id} is written by too many at once`);
}

const toStored = (id: string) => stored + id.slice(shown.length);

async function readEnvelope(pouch: PouchDB.Database, id: string): Promise<Envelope | undefined> {
  try {
    return (await pouch.get(toStored(id))) as unknown as Envelope;
  } catch (error) {
    if ((error as { status?: number }).status === 404) return undefined;
    throw error;
  }
}

function generationOf(rev: string): number {
  const match = /^0-(\d{1,12})$/.exec(rev);
  if (match === null) throw badRequest("Invalid rev format");
  return Number(match[1]);
}
