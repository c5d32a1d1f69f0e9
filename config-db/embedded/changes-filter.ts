/** The filters of a changes feed: which changes it shows. */
import type { PouchDB } from "pouchdb";
import { matchesSelector } from "pouchdb-selector-core";
import type { Change } from "./changes-page.ts";
import { badRequest, CouchError, notFound } from "./couch-error.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, type JsonObject } from "./json.ts";
import { limits } from "./limits.ts";
import type { Query } from "./query.ts";
import { compile, type DesignFunction, type Outcome } from "./sandbox.ts";

/** For each change of a page, whether the feed shows it. */
export type ChangesFilter = (changes: Change[]) => boolean[];

/**
 * The filter that a request names, undefined where it shows everything.
 * @throws CouchError 400, or 404 where the design document or its function does not exist.
 */
export async function chooseFilter(
  exchange: Exchange,
  query: Query,
  body: JsonObject,
  pouch: PouchDB.Database,
): Promise<ChangesFilter | undefined> {
  const name = query.text("filter");
  switch (name) {
    case undefined:
      return undefined;
    case "_doc_ids":
      return byIds(body.doc_ids ?? query.json("doc_ids"));
    case "_selector":
      return bySelector(body.selector ?? query.json("selector"));
    case "_design":
      return (changes) => changes.map((change) => change.id.startsWith("_design/"));
    case "_view":
      return byView(await designMember(pouch, "views", query.text("view")));
    default:
      return byFunction(await designMember(pouch, "filters", name), exchange, query);
  }
}

function byIds(ids: unknown): ChangesFilter {
  if (!Array.isArray(ids)) throw badRequest("`doc_ids` parameter must be an array of document ids");
  const wanted = new Set(ids);
  return (changes) => changes.map((change) => wanted.has(change.id));
}

function bySelector(selector: unknown): ChangesFilter {
  if (!isObject(selector)) throw badRequest("Selector must be a JSON object");
  const matches = (doc: object) => {
    try {
      return matchesSelector(doc, selector);
    } catch (error) {
      throw badRequest(`Invalid selector: ${(error as Error).message}`);
    }
  };
  // An operator that does not exist is only noticed at work: try it once, while it can still be answered with a 400.
  matches({ _id: "" });
  return (changes) => changes.map((change) => matches(change.doc));
}

/** A change passes where the view's map function emits anything. */
function byView(view: unknown): ChangesFilter {
  const map = compile(functionText(isObject(view) ? view.map : undefined, "map"));
  return (changes) =>
    callAll(
      map,
      changes.map((change) => [change.doc]),
    ).map((outcome) => outcome.kind === "returned" && outcome.emitted.length > 0);
}

function byFunction(source: unknown, exchange: Exchange, query: Query): ChangesFilter {
  const filter = compile(functionText(source, "filter"));
  const request = { method: exchange.method, path: exchange.path, query: query.all(), userCtx: exchange.user };
  return (changes) =>
    callAll(
      filter,
      changes.map((change) => [change.doc, request]),
    ).map((outcome) => {
      if (outcome.kind === "threw") throw badRequest(`The filter function threw: ${outcome.message}`);
      return outcome.kind === "returned" && Boolean(outcome.value);
    });
}

function callAll(filter: DesignFunction, calls: unknown[][]): Outcome[] {
  if (calls.length === 0) return [];
  const outcomes = filter.call(calls, { timeoutMs: limits.designFunctionMs });
  if (outcomes.some((outcome) => outcome.kind === "timedOut")) {
    throw new CouchError(500, "timeout", `The filter function ran longer than ${limits.designFunctionMs} ms`);
  }
  return outcomes;
}

function functionText(source: unknown, what: string): string {
  if (typeof source !== "string") throw notFound(`missing ${what} function`);
  return source;
}

/** `design/name` → what the design document has under `member` and that name. */
async function designMember(
  pouch: PouchDB.Database,
  member: "filters" | "views",
  path: string | undefined,
): Promise<unknown> {
  const [design, name, ...rest] = (path ?? "").split("/");
  if (!design || !name || rest.length > 0) {
    throw badRequest(`Invalid path: ${member === "views" ? "view" : "filter"} must be \`designname/name\``);
  }
  const document = await pouch.get(`_design/${design}`);
  const members: unknown = document[member];
  if (!isObject(members) || !Object.hasOwn(members, name)) throw notFound(`missing json key: ${name}`);
  return members[name];
}
