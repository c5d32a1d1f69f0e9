/** `_all_docs` and `_design_docs`: documents in the order of their ids. */
import type { PouchDB } from "pouchdb";
import { sequenceOf } from "./changes.ts";
import { queryParseError } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Exchange } from "./exchange.ts";
import type { Query } from "./query.ts";
import { rowInWireOrder } from "./wire-order.ts";

/** A range of ids. */
interface Range {
  startkey?: string;
  endkey?: string;
  key?: string;
  keys?: unknown[];
}

export async function listDocuments(exchange: Exchange, database: Database, pouch: PouchDB.Database): Promise<void> {
  const query = queryOf(exchange);
  await answer(exchange, database, pouch, query, readRange(query));
}

export async function listDesigns(exchange: Exchange, database: Database, pouch: PouchDB.Database): Promise<void> {
  const query = queryOf(exchange);
  await answer(exchange, database, pouch, query, readRange(query, "_design/", "_design0"));
}

/** The parameters of a listing or view: in the URL, or in the body of a POST. */
export function queryOf(exchange: Exchange): Query {
  return exchange.method === "POST" ? exchange.query.with(exchange.object()) : exchange.query;
}

async function answer(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  query: Query,
  range: Range | "nothing",
): Promise<void> {
  const options = {
    include_docs: query.flag("include_docs") ?? false,
    conflicts: query.flag("conflicts") ?? false,
    attachments: query.flag("attachments") ?? false,
    descending: query.flag("descending") ?? false,
    inclusive_end: query.flag("inclusive_end") ?? true,
    skip: query.count("skip") ?? 0,
  };
  const limit = query.count("limit");
  const page = await pouch.allDocs(
    range === "nothing" ? { limit: 0 } : { ...options, ...range, ...(limit !== undefined && { limit }) },
  );
  const sequence = (query.flag("update_seq") ?? false) ? await newest(database, pouch) : {};
  exchange.json(200, {
    total_rows: page.total_rows,
    offset: options.skip,
    rows: page.rows.map((row) => rowOf(row, options.include_docs)),
    ...sequence,
  });
}

async function newest(database: Database, pouch: PouchDB.Database): Promise<{ update_seq: string }> {
  return { update_seq: sequenceOf((await pouch.info()).update_seq, database) };
}

function rowOf(row: PouchDB.AllDocsRow, withDocs: boolean): object {
  if (row.error !== undefined) return { key: row.key, error: row.error };
  const { doc: _doc, ...bare } = row;
  return withDocs ? rowInWireOrder(row) : bare;
}

/**
 * Ids are strings; in CouchDB's order of JSON values null, booleans and numbers come before all strings, arrays and
 * objects after them.
 */
function readRange(query: Query, first = "", last = highestId): Range | "nothing" {
  const keys = query.array("keys");
  const key = query.json("key");
  if (keys !== undefined) {
    if (key !== undefined || query.json("startkey", "start_key", "endkey", "end_key") !== undefined) {
      throw queryParseError("`keys` is incompatible with `key`, `start_key` and `end_key`");
    }
    // PouchDB looks every key up in LevelDB, where only strings can be.
    return { keys: keys.map((each) => (typeof each === "string" ? each : JSON.stringify(each))) };
  }
  if (key !== undefined) return typeof key === "string" && key !== "" ? { key } : "nothing";
  const isDescending = query.flag("descending") ?? false;
  const start = bound(query.json("startkey", "start_key"), isDescending ? "above" : "below");
  const end = bound(query.json("endkey", "end_key"), isDescending ? "below" : "above");
  if (start === "nothing" || end === "nothing") return "nothing";
  const [from, to] = isDescending ? [last, first] : [first, last];
  const [startkey, endkey] = [start ?? from, end ?? to];
  return { ...(startkey !== "" && { startkey }), ...(endkey !== "" && { endkey }) };
}

/** Without an upper bound PouchDB stops at U+FFFF, before ids that start with a character of a higher plane. */
const highestId = "\u{10ffff}";

/** @param open the side on which a bound that is no string leaves the range open; on the other nothing is left of it. */
function bound(value: unknown, open: "above" | "below"): string | undefined | "nothing" {
  if (value === undefined || typeof value === "string") {
    if (value !== "") return value;
    return open === "below" ? undefined : "nothing";
  }
  const side = typeof value === "object" && value !== null ? "above" : "below";
  return side === open ? undefined : "nothing";
}
