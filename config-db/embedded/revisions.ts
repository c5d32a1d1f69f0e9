/** Revisions and revision trees. */
import type { PouchDB } from "pouchdb";
import { collectLeaves, type RevisionTree, traverseRevTree } from "pouchdb-merge";
import { badRequest } from "./couch-error.ts";
import type { Exchange } from "./exchange.ts";
import { isObject } from "./json.ts";

/** `<generation>-<hash>`. CouchDB's hashes are 32 hex digits; other peers may have others. */
const revisionPattern = /^[1-9]\d{0,8}-[0-9a-zA-Z_.]{1,128}$/;

export const isRevision = (rev: unknown): rev is string => typeof rev === "string" && revisionPattern.test(rev);

/** @throws CouchError 400 */
export function requireRevision(rev: unknown): string {
  if (isRevision(rev)) return rev;
  throw badRequest("Invalid rev format");
}

/** The tree of a document's revisions, undefined where there never was one. Reads half of what reading it would. */
export function revisionTree(pouch: PouchDB.Database, id: string): Promise<RevisionTree | undefined> {
  return new Promise((resolve) => {
    // Every failure under this call is reported as "missing".
    pouch._getRevisionTree(id, (error, tree) => resolve(error ? undefined : tree));
  });
}

/** `{id: [revs]}` → what of it this database has not, and what it has that could be ancestors of that. */
export async function serveRevsDiff(exchange: Exchange, pouch: PouchDB.Database): Promise<void> {
  const rows: [string, object][] = [];
  await eachDocument(exchange, async (id, revs) => {
    const tree = await revisionTree(pouch, id);
    const missing = revs.filter((rev) => !has(tree, rev));
    if (missing.length === 0) return;
    const oldest = Math.max(...missing.map(generation));
    const ancestors = collectLeaves(tree ?? [])
      .map((leaf) => leaf.rev)
      .filter((rev) => generation(rev) < oldest);
    rows.push([id, ancestors.length === 0 ? { missing } : { missing, possible_ancestors: ancestors }]);
  });
  exchange.json(200, Object.fromEntries(rows));
}

export async function serveMissingRevs(exchange: Exchange, pouch: PouchDB.Database): Promise<void> {
  const rows: [string, string[]][] = [];
  await eachDocument(exchange, async (id, revs) => {
    const tree = await revisionTree(pouch, id);
    const missing = revs.filter((rev) => !has(tree, rev));
    if (missing.length > 0) rows.push([id, missing]);
  });
  exchange.json(200, { missing_revs: Object.fromEntries(rows) });
}

async function eachDocument(exchange: Exchange, visit: (id: string, revs: string[]) => Promise<void>): Promise<void> {
  for (const [id, revs] of Object.entries(exchange.object())) {
    if (!Array.isArray(revs)) throw badRequest(`The revisions of ${id.slice(0, 100)} must be an array`);
    await visit(id, revs.map(requireRevision));
  }
}

const generation = (rev: string) => Number.parseInt(rev, 10);

function has(tree: RevisionTree | undefined, rev: string): boolean {
  let isThere = false;
  traverseRevTree(tree ?? [], (_isLeaf, pos, hash) => {
    isThere ||= `${pos}-${hash}` === rev;
  });
  return isThere;
}

/** The leaves of a tree that are deleted, `winner` aside. */
export function deletedConflicts(tree: RevisionTree, winner: string): string[] {
  return collectLeaves(tree)
    .filter((leaf) => leaf.opts.deleted === true && leaf.rev !== winner)
    .map((leaf) => leaf.rev);
}

/** What `_revisions` of a document says: its own hash first, then its ancestors'. */
export interface RevisionHistory {
  start: number;
  ids: string[];
}

/** @throws CouchError 400 unless it is a history that ends in `rev`. */
export function requireHistory(value: unknown): RevisionHistory {
  const { start, ids } = isObject(value) ? value : {};
  const isWhole =
    Number.isSafeInteger(start) &&
    Array.isArray(ids) &&
    ids.length > 0 &&
    ids.length <= (start as number) &&
    ids.every((hash, index) => isRevision(`${(start as number) - index}-${hash}`));
  if (!isWhole)
    throw badRequest("Invalid _revisions: `start` must be a number, `ids` an array of as many hashes at most");
  return { start: start as number, ids: ids as string[] };
}
