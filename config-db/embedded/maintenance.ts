/** What is asked of a database as a whole: information, limits, security, compaction. */
import type { PouchDB } from "pouchdb";
import { sequenceOf } from "./changes.ts";
import { badRequest } from "./couch-error.ts";
import type { Database } from "./database.ts";
import type { Exchange } from "./exchange.ts";
import { isObject, parseBody, parseObject } from "./json.ts";
import { limits } from "./limits.ts";
import type { Logger } from "./logger.ts";
import { cleanUpViews } from "./views.ts";

export async function showInfo(exchange: Exchange, database: Database, pouch: PouchDB.Database): Promise<void> {
  const { doc_count, update_seq } = await pouch.info();
  exchange.json(200, {
    db_name: database.name,
    doc_count,
    update_seq: sequenceOf(update_seq, database),
    purge_seq: 0,
    compact_running: false,
    cluster: { q: 1, n: 1, w: 1, r: 1 },
    props: {},
    instance_start_time: String(Number.parseInt(database.epoch, 16) || 0),
  });
}

export function showSecurity(exchange: Exchange, database: Database): void {
  exchange.json(200, database.security);
}

/** Kept and shown to validate_doc_update; who may do what is not read from it: there is one user. */
export async function setSecurity(exchange: Exchange, database: Database): Promise<void> {
  const security = parseObject(exchange.body);
  for (const group of ["admins", "members"]) {
    const members = security[group];
    if (members !== undefined && !isObject(members)) throw badRequest(`${group} must be a JSON object`);
  }
  await database.setSecurity(security);
  exchange.json(200, { ok: true });
}

export function showRevisionLimit(exchange: Exchange, database: Database): void {
  exchange.json(200, database.revisionLimit);
}

export async function setRevisionLimit(exchange: Exchange, database: Database): Promise<void> {
  const limit = parseBody(exchange.body);
  if (!Number.isSafeInteger(limit) || (limit as number) < 1 || (limit as number) > limits.revisions.max) {
    throw badRequest(`\`rev_limit\` must be an integer from 1 to ${limits.revisions.max}`);
  }
  await database.setRevisionLimit(limit as number);
  exchange.json(200, { ok: true });
}

/** LevelDB decides on its own when to write; see README.md on durability. */
export function ensureFullCommit(exchange: Exchange, database: Database): void {
  exchange.requireJson();
  exchange.json(201, { ok: true, instance_start_time: String(Number.parseInt(database.epoch, 16) || 0) });
}

/** Begun here, done later, as in CouchDB. */
export function compact(exchange: Exchange, database: Database, logger: Logger): void {
  exchange.requireJson();
  inBackground(database, logger, "compaction", (pouch) => pouch.compact());
  exchange.json(202, { ok: true });
}

export function cleanUp(exchange: Exchange, database: Database, logger: Logger): void {
  exchange.requireJson();
  inBackground(database, logger, "view clean-up", cleanUpViews);
  exchange.json(202, { ok: true });
}

function inBackground(
  database: Database,
  logger: Logger,
  what: string,
  work: (pouch: PouchDB.Database) => Promise<unknown>,
): void {
  database.use(work).catch((error: unknown) => {
    logger.warn({ database: database.name, reason: String(error) }, `${what} failed`);
  });
}
