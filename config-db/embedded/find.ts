/** Mango: `_find`, `_explain` and `_index`, by pouchdb-find. */
import type { PouchDB } from "pouchdb";
import { badRequest, CouchError, isStorageFault, notFound } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { inWireOrder } from "./wire-order.ts";

const defaultLimit = 25;

export async function find(exchange: Exchange, pouch: PouchDB.Database): Promise<void> {
  const { bookmark, ...request } = readRequest(exchange);
  const skip = (request.skip as number | undefined) ?? 0;
  const limit = (request.limit as number | undefined) ?? defaultLimit;
  const start = skip + parseBookmark(bookmark);
  const { docs, warning } = await mango(() => pouch.find({ ...request, limit, skip: start }));
  exchange.json(200, {
    // With `fields` a document need not have an id.
    docs: docs.map((doc) => (doc._id === undefined ? doc : inWireOrder(doc))),
    bookmark: docs.length === 0 ? (bookmark ?? "nil") : `after-${start - skip + docs.length}`,
    ...(warning !== undefined && { warning }),
  });
}

export async function explain(exchange: Exchange, pouch: PouchDB.Database, database: Database): Promise<void> {
  const { bookmark: _bookmark, ...request } = readRequest(exchange);
  exchange.json(200, { ...(await mango(() => pouch.explain(request))), dbname: database.name });
}

export async function listIndexes(exchange: Exchange, pouch: PouchDB.Database): Promise<void> {
  exchange.json(200, await mango(() => pouch.getIndexes()));
}

export async function createIndex(exchange: Exchange, pouch: PouchDB.Database, database: Database): Promise<void> {
  const { index, ddoc, name, type } = exchange.object();
  if (index === undefined) throw missingKey("index");
  if (!isObject(index) || !Array.isArray(index.fields) || index.fields.length === 0) {
    throw badRequest("`index` must be an object with a list of `fields`");
  }
  for (const given of [ddoc, name]) {
    if (given !== undefined && (typeof given !== "string" || given === ""))
      throw badRequest("`ddoc` and `name` are strings");
  }
  const design = typeof ddoc === "string" ? { ddoc: ddoc.replace(/^_design\//, "") } : {};
  const request = { index, ...design, ...(name !== undefined && { name }), ...(type !== undefined && { type }) };
  const made = await mango(() => pouch.createIndex(request));
  database.wrote([made.id]);
  exchange.json(200, { result: made.result, id: made.id, name: made.name });
}

/** `DELETE /db/_index/<ddoc>/json/<name>`, the design document with or without its prefix. */
export async function deleteIndex(
  exchange: Exchange,
  pouch: PouchDB.Database,
  database: Database,
  path: string[],
): Promise<void> {
  const [ddoc, type, name] = path[0] === "_design" ? [path[1], path[2], path[3]] : path;
  if (!ddoc || type !== "json" || !name) throw notFound();
  const id = `_design/${ddoc.replace(/^_design\//, "")}`;
  const design = await pouch.get(id);
  if (!isObject(design.views) || !Object.hasOwn(design.views, name)) throw notFound();
  await mango(() => pouch.deleteIndex({ ddoc: id, name }));
  database.wrote([id]);
  exchange.json(200, { ok: true });
}

function readRequest(exchange: Exchange): JsonObject {
  const { selector, limit, skip, sort, fields, use_index, bookmark } = exchange.object();
  if (selector === undefined) throw missingKey("selector");
  if (!isObject(selector)) throw new CouchError(400, "invalid_selector_json", "Selector must be a JSON object");
  for (const [name, value] of Object.entries({ limit, skip })) {
    if (value !== undefined && (!Number.isSafeInteger(value) || (value as number) < 0)) {
      throw new CouchError(400, `invalid_${name}`, `\`${name}\` must be a non-negative integer`);
    }
  }
  for (const [name, value] of Object.entries({ sort, fields })) {
    if (value !== undefined && !Array.isArray(value))
      throw new CouchError(400, `invalid_${name}`, `\`${name}\` must be a list`);
  }
  if (fields !== undefined && (fields as unknown[]).some((field) => typeof field !== "string")) {
    throw new CouchError(400, "invalid_fields", "`fields` must be a list of strings");
  }
  const given = { selector, limit, skip, sort, fields, use_index, bookmark };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** How many documents the reader has seen: unlike CouchDB's, a bookmark here is a position. */
function parseBookmark(bookmark: unknown): number {
  if (bookmark === undefined || bookmark === null || bookmark === "nil" || bookmark === "") return 0;
  const match = /^after-(\d{1,15})$/.exec(String(bookmark));
  if (match === null) throw new CouchError(400, "invalid_bookmark", "Invalid bookmark value");
  return Number(match[1]);
}

function missingKey(name: string): CouchError {
  return new CouchError(400, "missing_required_key", `Missing required key: ${name}`);
}

/** pouchdb-find throws plain Errors for most of what is wrong with a request. */
async function mango<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { status, error: word, message } = error as { status?: number; error?: unknown; message?: string };
    if (status !== undefined || isStorageFault(error)) throw error;
    const reason = String(message ?? error);
    if (/^Cannot sort|no index/i.test(reason)) throw new CouchError(400, "no_usable_index", reason);
    if (/unknown operator/.test(reason)) throw new CouchError(400, "invalid_operator", reason);
    throw new CouchError(400, typeof word === "string" ? word : "invalid_query", reason);
  }
}
