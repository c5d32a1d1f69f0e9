/** `/db/doc/attachment`: one attachment by itself. */
import type { PouchDB } from "pouchdb";
import { conflict, notFound } from "./couch-error.ts";
import type { Database } from "./database.ts";
import { checkAttachmentName, checkDocument } from "./document-input.ts";
import { locationOf, namedRevision } from "./documents.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { requireRevision } from "./revisions.ts";
import { writeOne } from "./writes.ts";

export interface AttachmentName {
  id: string;
  name: string;
}

export async function readAttachment(
  exchange: Exchange,
  pouch: PouchDB.Database,
  { id, name }: AttachmentName,
): Promise<void> {
  const rev = exchange.query.text("rev");
  const options = rev === undefined ? {} : { rev: requireRevision(rev) };
  const attachments = attachmentsOf(await pouch.get(id, options));
  const attachment = Object.hasOwn(attachments, name) ? attachments[name] : undefined;
  if (attachment === undefined) throw notFound("Document is missing attachment");
  const digest = String(attachment.digest).replace(/^md5-/, "");
  if (exchange.isUnchanged(`"${digest}"`)) return;
  const doc = await pouch.get(id, { ...options, attachments: true });
  exchange.send(200, Buffer.from(String(attachmentsOf(doc)[name]?.data ?? ""), "base64"), {
    "content-type": headerText(String(attachment.content_type)),
    "content-md5": digest,
    "accept-ranges": "none",
    etag: `"${digest}"`,
  });
}

export async function writeAttachment(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  { id, name }: AttachmentName,
): Promise<void> {
  checkAttachmentName(name);
  const rev = namedRevision(exchange, undefined);
  // Without a revision the attachment makes a document of its own.
  const doc = rev === undefined ? { _id: id } : await readForChange(pouch, id, rev);
  const attachment = {
    content_type: exchange.header("content-type") ?? "application/octet-stream",
    data: exchange.body.toString("base64"),
  };
  const attachments = { ...attachmentsOf(doc), [name]: attachment };
  await save(exchange, database, pouch, 201, { ...doc, _attachments: attachments });
}

export async function deleteAttachment(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  { id, name }: AttachmentName,
): Promise<void> {
  const rev = namedRevision(exchange, undefined);
  if (rev === undefined) {
    await pouch.get(id);
    throw conflict();
  }
  const doc = await readForChange(pouch, id, rev);
  const { [name]: removed, ...others } = attachmentsOf(doc);
  if (removed === undefined) throw notFound("Document is missing attachment");
  await save(exchange, database, pouch, 200, { ...doc, _attachments: others });
}

async function save(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  status: number,
  content: JsonObject,
): Promise<void> {
  const doc = checkDocument(content, true, database.revisionLimit);
  const { id, rev } = await writeOne(database, pouch, doc, { newEdits: true, user: exchange.user });
  exchange.json(status, { ok: true, id, rev }, { location: locationOf(exchange, id) });
}

async function readForChange(pouch: PouchDB.Database, id: string, rev: string): Promise<PouchDB.Doc> {
  try {
    return await pouch.get(id, { rev: requireRevision(rev) });
  } catch (error) {
    if ((error as { status?: number }).status === 404) throw conflict();
    throw error;
  }
}

function attachmentsOf(doc: PouchDB.Doc): Record<string, JsonObject> {
  return isObject(doc._attachments) ? (doc._attachments as Record<string, JsonObject>) : {};
}

/** A stored content type may have come in as JSON, with characters that no header can have. */
const headerText = (text: string) => (/^[\x20-\x7e]*$/.test(text) ? text : "application/octet-stream");
