import type { PouchDB } from "pouchdb";

/**
 * A document with its members in CouchDB's order: `_id` and `_rev` first, attachments last. PouchDB puts them anywhere,
 * and there are clients that compare the text.
 */
export function inWireOrder(doc: PouchDB.Doc): PouchDB.Doc {
  const { _id, _rev, _attachments, ...content } = doc;
  const ordered: PouchDB.Doc = _rev === undefined ? { _id, ...content } : { _id, _rev, ...content };
  if (_attachments !== undefined) ordered._attachments = _attachments;
  return ordered;
}

/** The same for rows that carry one, or none. */
export function rowInWireOrder<Row extends { doc?: PouchDB.Doc | null }>(row: Row): Row {
  return row.doc ? { ...row, doc: inWireOrder(row.doc) } : row;
}
