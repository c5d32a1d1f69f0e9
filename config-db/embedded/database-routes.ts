/** Everything under `/<db>`: which request is served by what. */
import type { PouchDB } from "pouchdb";
import { deleteAttachment, readAttachment, writeAttachment } from "./attachments.ts";
import { readBulk, writeBulk } from "./bulk.ts";
import { serveChanges } from "./changes.ts";
import { badRequest, missingDatabase, notFound, notServed } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Databases } from "./databases.ts";
import { checkId } from "./document-input.ts";
import { deleteDocument, readDocument, writeDocument } from "./documents.ts";
import type { Exchange } from "./exchange.ts";
import { createIndex, deleteIndex, explain, find, listIndexes } from "./find.ts";
import { listDesigns, listDocuments } from "./listing.ts";
import type { Logger } from "./logger.ts";
import {
  cleanUp,
  compact,
  ensureFullCommit,
  setRevisionLimit,
  setSecurity,
  showInfo,
  showRevisionLimit,
  showSecurity,
} from "./maintenance.ts";
import { requireMethod } from "./methods.ts";
import { serveMissingRevs, serveRevsDiff } from "./revisions.ts";
import { queryView } from "./views.ts";

interface Call {
  exchange: Exchange;
  database: Database;
  pouch: PouchDB.Database;
  logger: Logger;
}

/** Served while the database is kept open. */
type Serve = (call: Call) => void | Promise<void>;
type Methods = Record<string, Serve | undefined>;

/** These take their time, or close the database: they say themselves when it has to stay open. */
type ServeFreely = (exchange: Exchange, database: Database) => Promise<void>;

const freely: Record<string, Record<string, ServeFreely | undefined> | undefined> = {
  __proto__: null as never,
  _changes: { GET: serveChanges, POST: serveChanges },
  _revs_limit: { PUT: setRevisionLimit },
  _security: { PUT: setSecurity },
};

const documentsOfAll: Serve = ({ exchange, database, pouch }) => listDocuments(exchange, database, pouch);
const designsOfAll: Serve = ({ exchange, database, pouch }) => listDesigns(exchange, database, pouch);

const special: Record<string, Methods | undefined> = {
  __proto__: null as never,
  _all_docs: { GET: documentsOfAll, POST: documentsOfAll },
  _design_docs: { GET: designsOfAll, POST: designsOfAll },
  _bulk_docs: { POST: ({ exchange, database, pouch }) => writeBulk(exchange, database, pouch) },
  _bulk_get: { POST: ({ exchange, pouch }) => readBulk(exchange, pouch) },
  _revs_diff: { POST: ({ exchange, pouch }) => serveRevsDiff(exchange, pouch) },
  _missing_revs: { POST: ({ exchange, pouch }) => serveMissingRevs(exchange, pouch) },
  _find: { POST: ({ exchange, pouch }) => find(exchange, pouch) },
  _explain: { POST: ({ exchange, database, pouch }) => explain(exchange, pouch, database) },
  _index: {
    GET: ({ exchange, pouch }) => listIndexes(exchange, pouch),
    POST: ({ exchange, database, pouch }) => createIndex(exchange, pouch, database),
  },
  _ensure_full_commit: { POST: ({ exchange, database }) => ensureFullCommit(exchange, database) },
  _compact: { POST: ({ exchange, database, logger }) => compact(exchange, database, logger) },
  _view_cleanup: { POST: ({ exchange, database, logger }) => cleanUp(exchange, database, logger) },
  _security: { GET: ({ exchange, database }) => showSecurity(exchange, database) },
  _revs_limit: { GET: ({ exchange, database }) => showRevisionLimit(exchange, database) },
};

export async function serveDatabase(exchange: Exchange, databases: Databases, logger: Logger): Promise<void> {
  const [name = "", first, ...rest] = exchange.path;
  if (first === undefined && exchange.method === "PUT") {
    await databases.create(name);
    return exchange.json(
      201,
      { ok: true },
      { location: `http://${exchange.header("host")}/${encodeURIComponent(name)}` },
    );
  }
  if (first === undefined && exchange.method === "DELETE") {
    if (exchange.query.text("rev") !== undefined) {
      throw badRequest(
        "You tried to DELETE a database with a ?=rev parameter. Did you mean to DELETE a document instead?",
      );
    }
    await databases.delete(name);
    return exchange.json(200, { ok: true });
  }
  const database = await databases.get(name);
  if (exchange.method === "POST" || exchange.method === "PUT") await exchange.readBody();
  const free = first !== undefined && rest.length === 0 ? freely[first]?.[readMethod(exchange)] : undefined;
  if (free !== undefined) return free(exchange, database);
  await database.use(async (pouch) => choose(exchange)({ exchange, database, pouch, logger }));
}

const readMethod = (exchange: Exchange) => (exchange.method === "HEAD" ? "GET" : exchange.method);

function choose(exchange: Exchange): Serve {
  const [, first, ...rest] = exchange.path;
  if (first === undefined) return methods(exchange, ofDatabase);
  const found = special[first];
  if (found !== undefined && rest.length === 0) return methods(exchange, found, freely[first]);
  if (first === "_changes") requireMethod(exchange.method, ["GET", "HEAD", "POST"]);
  if (first === "_compact" && rest.length === 1) return methods(exchange, special._compact as Methods);
  if (first === "_index") {
    return methods(exchange, {
      DELETE: ({ database, pouch }) => deleteIndex(exchange, pouch, database, rest),
    });
  }
  return chooseDocument(exchange, first, rest);
}

const ofDatabase: Methods = {
  GET: ({ exchange, database, pouch }) => showInfo(exchange, database, pouch),
  POST: ({ exchange, database, pouch }) => writeDocument(exchange, database, pouch, undefined),
};

/** `first` is a document's id, or for `_design/x` and `_local/x` its first half: the `/` may come encoded or not. */
function chooseDocument(exchange: Exchange, first: string, rest: string[]): Serve {
  const isSplit = first === "_design" || first === "_local";
  const second = isSplit ? rest[0] : undefined;
  const below = isSplit ? rest.slice(1) : rest;
  const named = second === undefined ? first : `${first}/${second}`;
  // Reading what cannot exist finds nothing; writing it is refused.
  if (readMethod(exchange) === "GET" && /^_(?!design\/.|local\/.)/.test(named)) throw notFound();
  const id = checkId(named);
  if (below.length === 0) return methods(exchange, ofDocument(id));
  if (id.startsWith("_design/") && below[0]?.startsWith("_")) return chooseDesign(exchange, id, below);
  return methods(exchange, ofAttachment(id, below.join("/")));
}

function ofDocument(id: string): Methods {
  return {
    GET: ({ exchange, pouch }) => readDocument(exchange, pouch, id),
    PUT: ({ exchange, database, pouch }) => writeDocument(exchange, database, pouch, id),
    DELETE: ({ exchange, database, pouch }) => deleteDocument(exchange, database, pouch, id),
  };
}

function ofAttachment(id: string, name: string): Methods {
  const attachment = { id, name };
  return {
    GET: ({ exchange, pouch }) => readAttachment(exchange, pouch, attachment),
    PUT: ({ exchange, database, pouch }) => writeAttachment(exchange, database, pouch, attachment),
    DELETE: ({ exchange, database, pouch }) => deleteAttachment(exchange, database, pouch, attachment),
  };
}

function chooseDesign(exchange: Exchange, id: string, [kind, ...names]: string[]): Serve {
  if (kind !== "_view" || names.length !== 1) throw notServed(`${kind} of a design document`);
  const serve: Serve = ({ database, pouch }) =>
    queryView(exchange, database, pouch, id.slice("_design/".length), names[0] as string);
  return methods(exchange, { GET: serve, POST: serve });
}

/** @throws CouchError 405 */
function methods(exchange: Exchange, served: Methods, more: object = {}): Serve {
  const serve = served[readMethod(exchange)];
  if (serve !== undefined) return serve;
  const allowed = [...Object.keys(served), ...Object.keys(more)];
  requireMethod(exchange.method, allowed.includes("GET") ? ["HEAD", ...allowed] : allowed);
  throw missingDatabase();
}
