/**
 * `multipart/related` and `multipart/mixed`: how CouchDB's replicator carries documents with attachments, as raw bytes
 * beside their JSON instead of base64 inside it.
 */
import { randomBytes } from "node:crypto";
import type { PouchDB } from "pouchdb";
import { unzip } from "../request-body.ts";
import { badRequest } from "./couch-error.ts";
import { isObject, type JsonObject, parseObject } from "./json.ts";
import { limits } from "./limits.ts";

export interface Part {
  headers: Map<string, string>;
  body: Buffer;
}

export interface Multipart {
  contentType: string;
  body: Buffer;
}

/** A revision that was asked for: a document with its attachments' data, or the name of one that is not here. */
export type OpenRevision = { ok: PouchDB.Doc } | { missing: string };

const newBoundary = () => randomBytes(16).toString("hex");

/** One document; the attachments that have data follow it as parts of their own. */
export function packDocument(doc: PouchDB.Doc): Multipart {
  const boundary = newBoundary();
  const attachments = Object.entries<JsonObject>((doc._attachments ?? {}) as never);
  const following = attachments.filter(([, { data }]) => data !== undefined);
  const bytes = following.map(([, { data }]) => Buffer.from(data as string, "base64"));
  const described = attachments.map(([name, { data, ...rest }]) => {
    const at = following.findIndex(([other]) => other === name);
    return [name, data === undefined ? rest : { ...rest, follows: true, length: bytes[at]?.length }];
  });
  const json = JSON.stringify({ ...doc, _attachments: Object.fromEntries(described) });
  const parts = [partOf({ "content-type": "application/json" }, Buffer.from(json))];
  for (const [at, [name, { content_type: type }]] of following.entries()) {
    const body = bytes[at] as Buffer;
    const disposition = `attachment; filename="${name.replace(/["\\\r\n]/g, "_")}"`;
    const headers = { "content-disposition": disposition, "content-type": String(type) };
    parts.push(partOf({ ...headers, "content-length": String(body.length) }, body));
  }
  return { contentType: `multipart/related; boundary="${boundary}"`, body: join(parts, boundary) };
}

/** Several revisions: each a JSON part, or a nested `multipart/related` where it has attachments. */
export function packRevisions(revisions: OpenRevision[]): Multipart {
  const boundary = newBoundary();
  const parts = revisions.map((revision) => {
    if ("missing" in revision) {
      return partOf({ "content-type": 'application/json; error="true"' }, Buffer.from(JSON.stringify(revision)));
    }
    const hasData = Object.values<JsonObject>((revision.ok._attachments ?? {}) as never).some(
      ({ data }) => data !== undefined,
    );
    if (!hasData) return partOf({ "content-type": "application/json" }, Buffer.from(JSON.stringify(revision.ok)));
    const { contentType, body } = packDocument(revision.ok);
    return partOf({ "content-type": contentType }, body);
  });
  return { contentType: `multipart/mixed; boundary="${boundary}"`, body: join(parts, boundary) };
}

function partOf(headers: Record<string, string>, body: Buffer): Buffer {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`${lines.join("")}\r\n`), body]);
}

function join(parts: Buffer[], boundary: string): Buffer {
  return Buffer.concat([
    ...parts.flatMap((part) => [Buffer.from(`--${boundary}\r\n`), part, Buffer.from("\r\n")]),
    Buffer.from(`--${boundary}--`),
  ]);
}

/**
 * A document that came as `multipart/related`, with its attachments' data inside it.
 * @throws CouchError 400
 */
export async function unpackDocument(contentType: string, body: Buffer): Promise<JsonObject> {
  const [first, ...rest] = split(contentType, body);
  if (first === undefined) throw badRequest("The multipart body has no part");
  const doc = parseObject(first.body, "Document must be a JSON object");
  if (!isObject(doc._attachments)) return doc;
  for (const [name, attachment] of Object.entries(doc._attachments)) {
    if (!isObject(attachment) || attachment.follows !== true) continue;
    const part = takePart(rest, name);
    const { follows: _follows, encoding, encoded_length: _length, digest: _digest, ...described } = attachment;
    const bytes = encoding === "gzip" ? await unzip(part.body, limits.bodyBytes) : part.body;
    doc._attachments[name] = { ...described, data: bytes.toString("base64") };
  }
  return doc;
}

/** The part that names the attachment; parts without names come in the order of the document's JSON. */
function takePart(parts: Part[], name: string): Part {
  const named = parts.findIndex((part) => fileName(part) === name);
  const [part] = parts.splice(Math.max(named, 0), 1);
  if (part === undefined) throw badRequest(`The data of attachment ${name} does not follow`);
  return part;
}

function fileName(part: Part): string | undefined {
  return /filename="([^"]*)"/i.exec(part.headers.get("content-disposition") ?? "")?.[1];
}

/** @throws CouchError 400 */
function split(contentType: string, body: Buffer): Part[] {
  const boundary = /boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(contentType);
  const mark = Buffer.from(`--${boundary?.[1] ?? boundary?.[2] ?? ""}`);
  if (boundary === null) throw badRequest("multipart without a boundary");
  const parts: Part[] = [];
  let at = body.indexOf(mark);
  while (at >= 0) {
    const start = at + mark.length;
    if (body.subarray(start, start + 2).toString() === "--") return parts;
    const end = body.indexOf(Buffer.concat([Buffer.from("\r\n"), mark]), start);
    if (end < 0) break;
    parts.push(readPart(body.subarray(start, end)));
    at = end + 2;
  }
  throw badRequest("The multipart body does not end");
}

/** @param bytes from behind the boundary: the rest of its line, headers, an empty line, the body. */
function readPart(bytes: Buffer): Part {
  const head = bytes.indexOf("\r\n\r\n");
  if (head < 0) throw badRequest("A part of the multipart body has no headers");
  const lines = bytes.subarray(0, head).toString("latin1").split("\r\n").slice(1);
  const headers = lines.map((line): [string, string] => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim()];
  });
  return { headers: new Map(headers), body: bytes.subarray(head + 4) };
}
