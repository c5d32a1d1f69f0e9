/** Views of design documents: PouchDB's map/reduce, with the functions run in this store's sandbox. */
import type { PouchDB } from "pouchdb";
import createAbstractMapReduce from "pouchdb-abstract-mapreduce";
import { sequenceOf } from "./changes.ts";
import { CouchError, notFound, queryParseError } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Exchange } from "./exchange.ts";
import { isObject } from "./json.ts";
import { limits } from "./limits.ts";
import { queryOf } from "./listing.ts";
import type { Query } from "./query.ts";
import { compile } from "./sandbox.ts";
import { rowInWireOrder } from "./wire-order.ts";

type Emit = (key: unknown, value: unknown) => void;

/** PouchDB's own `query` makes a JavaScript context per document and lets a map function run for ever. */
const mapReduce = createAbstractMapReduce("mrviews", toMapper, toReducer, () => {});

export async function queryView(
  exchange: Exchange,
  database: Database,
  pouch: PouchDB.Database,
  design: string,
  view: string,
): Promise<void> {
  const document = await pouch.get(`_design/${design}`);
  const views = isObject(document.views) ? document.views : {};
  const found = Object.hasOwn(views, view) ? views[view] : undefined;
  // PouchDB takes the two names as one path.
  const isPath = design.includes("/") || view.includes("/");
  if (!isObject(found) || typeof found.map !== "string" || isPath) throw notFound("missing_named_view");
  const options = readOptions(queryOf(exchange));
  checkReduce(options, found.reduce !== undefined && options.reduce !== false);
  const name = `${design}/${view}`;
  // PouchDB's own `update_after` goes on when the database may be closed already.
  const isUpdatedAfter = options.stale === "update_after";
  const answer = await mapReduce.query.call(pouch, name, isUpdatedAfter ? { ...options, stale: "ok" } : options);
  const sequence = typeof answer.update_seq === "number" ? { update_seq: sequenceOf(answer.update_seq, database) } : {};
  const rows = answer.rows as { doc?: PouchDB.Doc | null }[];
  exchange.json(200, { ...answer, rows: rows.map(rowInWireOrder), ...sequence });
  // The next reader meets the fault if there is one, and is told.
  if (isUpdatedAfter) database.use((open) => mapReduce.query.call(open, name, { limit: 0 })).catch(() => {});
}

export async function cleanUpViews(pouch: PouchDB.Database): Promise<void> {
  await mapReduce.viewCleanup.call(pouch);
}

function toMapper(map: string, emit: Emit): (doc: object) => void {
  const compiled = compile(map);
  return (doc) => {
    const [outcome] = compiled.call([[doc]], { timeoutMs: limits.viewFunctionMs });
    // As in CouchDB a function that throws leaves its document out of the view.
    if (outcome?.kind === "returned") for (const [key, value] of outcome.emitted) emit(key, value);
  };
}

type Reduce = (keys: unknown[], values: unknown[], rereduce: boolean) => unknown;

function toReducer(reduce: string): Reduce {
  const name = reduce.trim();
  if (name.startsWith("_")) {
    const builtIn = Object.hasOwn(builtIns, name) ? builtIns[name] : undefined;
    if (builtIn === undefined)
      throw new CouchError(400, "invalid_design_doc", `${name} is not a supported reduce function`);
    return (_keys, values) => builtIn(values);
  }
  const compiled = compile(reduce);
  return (...call) => {
    const [outcome] = compiled.call([call], { timeoutMs: limits.viewFunctionMs });
    if (outcome?.kind === "returned") return outcome.value;
    throw new Error(outcome?.kind === "threw" ? outcome.message : "the reduce function ran into its time limit");
  };
}

const builtIns: Record<string, ((values: unknown[]) => unknown) | undefined> = {
  _count: (values) => values.length,
  _sum: (values) => values.reduce(add, 0),
  _stats: (values) => {
    const numbers = values.map(requireNumber);
    return {
      sum: numbers.reduce((total, value) => total + value, 0),
      count: numbers.length,
      min: numbers.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY),
      max: numbers.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY),
      sumsqr: numbers.reduce((total, value) => total + value * value, 0),
    };
  },
};

/** Numbers, or arrays of numbers added place by place. */
function add(one: unknown, other: unknown): unknown {
  if (!Array.isArray(one) && !Array.isArray(other)) return requireNumber(one) + requireNumber(other);
  const [left, right] = [one, other].map((each) => (Array.isArray(each) ? each : [each]));
  const longer = Math.max(left?.length ?? 0, right?.length ?? 0);
  return Array.from({ length: longer }, (_, at) => requireNumber(left?.[at] ?? 0) + requireNumber(right?.[at] ?? 0));
}

function requireNumber(value: unknown): number {
  if (typeof value === "number") return value;
  throw new Error("The built-in reduce functions take numbers only");
}

function readOptions(query: Query): Record<string, unknown> {
  const update = query.text("update");
  const stale = query.text("stale") ?? (update === "false" ? "ok" : update === "lazy" ? "update_after" : undefined);
  if (stale !== undefined && stale !== "ok" && stale !== "update_after") {
    throw queryParseError("Invalid value for stale");
  }
  const options: Record<string, unknown> = {
    stale,
    key: query.json("key"),
    keys: query.array("keys"),
    startkey: query.json("startkey", "start_key"),
    endkey: query.json("endkey", "end_key"),
    limit: query.count("limit"),
    skip: query.count("skip"),
    group_level: query.count("group_level"),
  };
  for (const name of flags) options[name] = query.flag(name);
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

const flags = [
  "reduce",
  "group",
  "include_docs",
  "attachments",
  "conflicts",
  "descending",
  "inclusive_end",
  "update_seq",
] as const;

function checkReduce(options: Record<string, unknown>, isReduced: boolean): void {
  if (!isReduced) {
    if (options.group === true || options.group_level !== undefined) {
      throw queryParseError("Invalid use of grouping on a map view.");
    }
    if (options.reduce === true) throw queryParseError("`reduce` is invalid for map-only views.");
  } else if (options.include_docs === true) throw queryParseError("`include_docs` is invalid for reduce");
}
