/** Single documents: read, write, delete. */
import type { PouchDB } from "pouchdb";
import { isDeleted, winningRev } from "pouchdb-merge";
import { badRequest, conflict, notFound } from "./couch-error.ts";
import type { Database } from "./database.ts";
import { checkDocument, checkId, isLocal } from "./document-input.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, type JsonObject, parseObject } from "./json.ts";
import { readLocal, writeLocal } from "./local-documents.ts";
import { type OpenRevision, packDocument, packRevisions, unpackDocument } from "./multipart.ts";
import { deletedConflicts, requireRevision, revisionTree } from "./revisions.ts";
import { inWireOrder } from "./wire-order.ts";
import { newId, writeOne } from "./writes.ts";

/** What a reader may ask for besides the document itself. */
interface ReadOptions {
  rev?: string;
  latest: boolean;
  revs: boolean;
  revs_info: boolean;
  conflicts: boolean;
  deletedConflicts: boolean;
  attachments: boolean;
  /** Revisions that the reader has: attachments older than these are left out. */
  attachmentsSince: string[] | undefined;
}

export async function readDocument(exchange: Exchange, pouch: PouchDB.Database, id: string): Promise<void> {
  if (isLocal(id)) {
    // Without a tag: their revisions come again.
    exchange.json(200, await readLocal(pouch, id));
    return;
  }
  const openRevs = exchange.query.text("open_revs");
  if (openRevs !== undefined) return readOpenRevisions(exchange, pouch, id, openRevs);
  const options = readOptions(exchange);
  if (isPlain(options) && (await isKnown(exchange, pouch, id))) return;
  const doc = inWireOrder(await read(pouch, id, options));
  // What goes beyond the revision can change without it, so that the revision is no tag for it.
  const isTagged = !["_conflicts", "_deleted_conflicts", "_revs_info", "_revisions"].some((member) => member in doc);
  const etag = `"${doc._rev}"`;
  if (isTagged && exchange.isUnchanged(etag)) return;
  const headers = isTagged ? { etag } : {};
  if (options.attachments && /multipart\/related/i.test(exchange.header("accept") ?? "")) {
    const { contentType, body } = packDocument(doc);
    exchange.send(200, body, { "content-type": contentType, ...headers });
  } else exchange.json(200, doc, headers);
}

/** PUT with a body, or POST to the database without an id of its own. */
export async function writeDocument(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  id: string | undefined,
): Promise<void> {
  const newEdits = exchange.query.flag("new_edits") ?? true;
  const given = await readGiven(exchange);
  if (given._id !== undefined) checkId(given._id);
  const docId = id ?? (given._id as string | undefined) ?? newId();
  const named = namedRevision(exchange, given._rev);
  const doc = checkDocument(
    { ...given, _id: docId, ...(named !== undefined && { _rev: named }) },
    newEdits,
    database.revisionLimit,
  );
  const { rev } = await writeOne(database, pouch, doc, { newEdits, user: exchange.user });
  exchange.json(201, { ok: true, id: docId, rev }, { etag: `"${rev}"`, location: locationOf(exchange, docId) });
}

export async function deleteDocument(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  id: string,
): Promise<void> {
  const rev = namedRevision(exchange, undefined);
  if (isLocal(id)) {
    await writeLocal(pouch, { _id: id, _deleted: true, ...(rev !== undefined && { _rev: rev }) });
    exchange.json(200, { ok: true, id, rev: "0-0" });
    return;
  }
  const tree = await revisionTree(pouch, id);
  if (tree === undefined) throw notFound();
  if (rev === undefined) {
    // Without a revision a document that is there is a conflict, one that is not is missing.
    await pouch.get(id);
    throw conflict();
  }
  const doc = checkDocument({ _id: id, _rev: rev, _deleted: true }, true, database.revisionLimit);
  const written = await writeOne(database, pouch, doc, { newEdits: true, user: exchange.user });
  exchange.json(200, { ok: true, id, rev: written.rev }, { etag: `"${written.rev}"` });
}

/** The revision that a write is over: in the query, in If-Match, in the body; where there are two they must agree. */
export function namedRevision(exchange: Exchange, inBody: unknown): string | undefined {
  const inQuery = exchange.query.text("rev");
  const inHeader = exchange.ifMatch();
  const fromBody = inBody === undefined || inBody === null || inBody === "" ? undefined : String(inBody);
  if (inQuery !== undefined && fromBody !== undefined && inQuery !== fromBody) {
    throw badRequest("Document rev from request body and query string have different values");
  }
  const named = inQuery ?? fromBody;
  if (inHeader !== undefined && named !== undefined && inHeader !== named) {
    throw badRequest("Document rev and etag have different values");
  }
  return named ?? inHeader;
}

export function locationOf(exchange: Exchange, id: string): string {
  const path = [exchange.path[0] as string, id].map(encodeURIComponent).join("/");
  return `http://${exchange.header("host") ?? "localhost"}/${path}`;
}

async function readGiven(exchange: Exchange): Promise<JsonObject> {
  const type = exchange.header("content-type") ?? "";
  if (/^multipart\/related/i.test(type)) return unpackDocument(type, exchange.body);
  if (exchange.method === "POST") exchange.requireJson();
  return parseObject(exchange.body, "Document must be a JSON object");
}

function readOptions({ query }: Exchange): ReadOptions {
  const rev = query.text("rev");
  const isAll = query.flag("meta") ?? false;
  const since = query.array("atts_since");
  return {
    ...(rev !== undefined && { rev: requireRevision(rev) }),
    latest: query.flag("latest") ?? false,
    revs: query.flag("revs") ?? false,
    revs_info: query.flag("revs_info") ?? isAll,
    conflicts: query.flag("conflicts") ?? isAll,
    deletedConflicts: query.flag("deleted_conflicts") ?? isAll,
    attachments: query.flag("attachments") ?? since !== undefined,
    attachmentsSince: since?.map(requireRevision),
  };
}

const isPlain = (options: ReadOptions) =>
  Object.values(options).every((value) => value === false || value === undefined);

/** Answers 304 from the revision tree alone, when it can. */
async function isKnown(exchange: Exchange, pouch: PouchDB.Database, id: string): Promise<boolean> {
  if (exchange.header("if-none-match") === undefined) return false;
  const tree = await revisionTree(pouch, id);
  if (tree === undefined) return false;
  const winner = winningRev({ rev_tree: tree });
  return !isDeleted({ rev_tree: tree }, winner) && exchange.isUnchanged(`"${winner}"`);
}

async function read(pouch: PouchDB.Database, id: string, options: ReadOptions): Promise<PouchDB.Doc> {
  const { deletedConflicts: wantsDeleted, attachmentsSince, ...own } = options;
  const history = attachmentsSince === undefined ? {} : { revs: true };
  const doc = await pouch.get(id, { ...own, ...history });
  if (attachmentsSince !== undefined) leaveOut(doc, attachmentsSince, options.revs);
  if (wantsDeleted) {
    const tree = await revisionTree(pouch, id);
    const revs = tree === undefined ? [] : deletedConflicts(tree, doc._rev as string);
    if (revs.length > 0) doc._deleted_conflicts = revs;
  }
  return doc;
}

/** Turns attachments that came in at or before a known revision back into stubs. */
function leaveOut(doc: PouchDB.Doc, known: string[], keepHistory: boolean): void {
  const { start, ids } = doc._revisions as { start: number; ids: string[] };
  const generation = known
    .map((rev) => Number.parseInt(rev, 10))
    .filter((pos, index) => ids[start - pos] === (known[index] as string).slice(String(pos).length + 1))
    .reduce((highest, pos) => Math.max(highest, pos), 0);
  if (!keepHistory) delete doc._revisions;
  if (!isObject(doc._attachments)) return;
  for (const [name, attachment] of Object.entries<JsonObject>(doc._attachments as never)) {
    const { data, ...rest } = attachment;
    if ((attachment.revpos as number) > generation) continue;
    const length = Buffer.byteLength(String(data ?? ""), "base64");
    (doc._attachments as JsonObject)[name] = { ...rest, stub: true, length };
  }
}

async function readOpenRevisions(
  exchange: Exchange,
  pouch: PouchDB.Database,
  id: string,
  wanted: string,
): Promise<void> {
  const revs = wanted === "all" ? "all" : exchange.query.array("open_revs")?.map(requireRevision);
  const { latest, revs: wantsHistory, attachmentsSince } = readOptions(exchange);
  // CouchDB sends multipart to everybody who does not ask for JSON, with the attachments; JSON has stubs unless asked.
  const isJson = !/\*\/\*|multipart\/(mixed|\*)/i.test(exchange.header("accept") ?? "*/*");
  const attachments = isJson ? (exchange.query.flag("attachments") ?? attachmentsSince !== undefined) : true;
  const found = (await pouch.get(id, {
    open_revs: revs,
    latest,
    revs: wantsHistory || attachmentsSince !== undefined,
    attachments,
  })) as unknown as OpenRevision[];
  if (attachmentsSince !== undefined) {
    for (const each of found) if ("ok" in each) leaveOut(each.ok, attachmentsSince, wantsHistory);
  }
  const rows = found.map((row) => ("ok" in row ? { ok: inWireOrder(row.ok) } : row));
  if (isJson) return exchange.json(200, rows);
  const { contentType, body } = packRevisions(rows);
  exchange.send(200, body, { "content-type": contentType });
}
