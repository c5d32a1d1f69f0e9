/**
 * Documents as clients send them: checked before PouchDB sees them. It takes a batch as a whole, and some malformed
 * documents bring its write queue to a stop, so that nothing doubtful may reach it.
 */
import type { PouchDB } from "pouchdb";
import { badRequest, CouchError } from "./couch-error.ts";
import { isObject, type JsonObject } from "./json.ts";
import { limits } from "./limits.ts";
import { requireHistory, requireRevision } from "./revisions.ts";

/** Members with an underscore that a document may bring; those that only answers have are dropped. */
const kept = new Set(["_id", "_rev", "_deleted", "_attachments", "_revisions"]);
const dropped = new Set(["_conflicts", "_deleted_conflicts", "_revs_info", "_local_seq", "_deletedConflicts"]);

/**
 * A document that is safe to store, a copy of `value`.
 * @param newEdits false for a revision made elsewhere, which has to bring its own.
 * @throws CouchError 400
 */
export function checkDocument(value: unknown, newEdits: boolean, limit: number): PouchDB.Doc {
  if (!isObject(value)) throw badRequest("Document must be a JSON object");
  const doc: JsonObject = {};
  for (const [key, member] of Object.entries(value)) {
    if (!key.startsWith("_") || kept.has(key)) doc[key] = member;
    else if (!dropped.has(key)) throw badMember(key);
  }
  if (doc._id !== undefined) checkId(doc._id);
  if (doc._rev !== undefined && !isLocal(doc._id)) requireRevision(doc._rev);
  if (doc._deleted !== undefined && typeof doc._deleted !== "boolean") throw badMember("_deleted");
  if (doc._revisions !== undefined && !isObject(doc._revisions)) throw badMember("_revisions");
  if (doc._attachments !== undefined && !isObject(doc._attachments)) throw badMember("_attachments");
  if (doc._deleted !== true) delete doc._deleted;
  if (isObject(doc._attachments)) {
    doc._attachments = checkAttachments(doc._attachments);
    if (Object.keys(doc._attachments as object).length === 0) delete doc._attachments;
  }
  if (newEdits || isLocal(doc._id)) delete doc._revisions;
  else bringHistory(doc, limit);
  return doc as PouchDB.Doc;
}

function badMember(name: string): CouchError {
  return new CouchError(400, "doc_validation", `Bad special document member: ${name.slice(0, 100)}`);
}

export const isLocal = (id: unknown): id is string => typeof id === "string" && id.startsWith("_local/");

/** @throws CouchError 400 where this is no document's id. */
export function checkId(id: unknown): string {
  if (typeof id !== "string") throw illegalId("Document id must be a string");
  if (id === "") throw illegalId("Document id must not be empty");
  if (id.length > limits.documentIdLength)
    throw illegalId(`Document id is too long: at most ${limits.documentIdLength}`);
  if (id.startsWith("_") && !/^_(design|local)\/./.test(id)) {
    throw illegalId("Only reserved document ids may start with underscore.");
  }
  // LevelDB stores half a surrogate pair as another character, and PouchDB ends keys with these two.
  if (/\p{Surrogate}|\0/u.test(id)) throw illegalId("Document id must be valid Unicode without NUL");
  return id;
}

function illegalId(reason: string): CouchError {
  return new CouchError(400, "illegal_docid", reason);
}

function bringHistory(doc: JsonObject, limit: number): void {
  if (doc._revisions === undefined) {
    if (doc._rev === undefined)
      throw badRequest("When `new_edits: false`, the document needs `_rev` or `_revisions` specified");
    return;
  }
  const history = requireHistory(doc._revisions);
  const rev = `${history.start}-${history.ids[0]}`;
  if (doc._rev !== undefined && doc._rev !== rev) throw badRequest("`_rev` and `_revisions` name different revisions");
  doc._rev = rev;
  // More would be cut off when stored.
  doc._revisions = { start: history.start, ids: history.ids.slice(0, limit) };
}

function checkAttachments(value: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, checkAttachment(name, member)]));
}

/** @throws CouchError 400 */
export function checkAttachmentName(name: string): void {
  if (name === "") throw badRequest("Attachment name must not be empty");
  if (name.startsWith("_")) {
    throw badRequest(`Attachment name '${name.slice(0, 100)}' starts with prohibited character '_'`);
  }
}

function checkAttachment(name: string, value: unknown): JsonObject {
  checkAttachmentName(name);
  if (!isObject(value)) throw badRequest(`Attachment ${name} must be an object`);
  const { content_type: contentType, revpos, digest, length, stub, data, follows } = value;
  if (contentType !== undefined && typeof contentType !== "string") {
    badRequest(`The content_type of attachment ${name} must be a string`);
  }
  if (revpos !== undefined && !Number.isSafeInteger(revpos)) throw badRequest(`The revpos of ${name} must be a number`);
  if (follows === true) throw badRequest(`Attachment ${name} follows, but the request is not multipart/related`);
  if (typeof data === "string") {
    return { content_type: contentType ?? "application/octet-stream", data: canonicalBase64(name, data) };
  }
  if (stub !== true) throw badRequest(`Attachment ${name} has neither data nor stub`);
  return {
    stub: true,
    ...(contentType !== undefined && { content_type: contentType }),
    ...(typeof digest === "string" && { digest }),
    ...(typeof length === "number" && { length }),
    ...(revpos !== undefined && { revpos }),
  };
}

/** PouchDB takes only what `btoa` would have written. */
function canonicalBase64(name: string, data: string): string {
  if (!/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(data)) throw badRequest(`Invalid attachment data for ${name}: not base64`);
  return Buffer.from(data, "base64").toString("base64");
}
