/**
 * Revisions: their order, their ancestry, and those that follow from their content. Both engines make `_rev` from the
 * content too, but each in its own way (CouchDB also by the order of members), so what several sites may write at once
 * brings its own and is stored with `newEdits: false`: the same content then is the same revision everywhere, and never a
 * conflict.
 */
import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import type { Document, LeafDocument, Stored } from "./store.ts";

/** Of every count in a document, as in `Count` of the schemas. From 2^53 on a number and the next are the same. */
export const versionMax = 2 ** 48;

/** The version after this one. At the highest (`Count` in the schemas) it stays there, and revisions tell versions apart. */
export function nextVersion(version: number): number {
  return Math.min(version + 1, versionMax);
}

/** A document with the revision that it is to be stored as: for `Database.bulk` with `newEdits: false`. */
export type Fixed<Doc extends Document> = Stored<Doc> & { _revisions: { start: number; ids: string[] } };

/**
 * Gives a document the revision that follows from its content and from what it replaces.
 * @param parentPath the revision that it replaces first, then that one's parent …; empty for a first revision.
 */
export function withFixedRevision<Doc extends Document>(doc: Doc, parentPath: readonly string[] = []): Fixed<Doc> {
  const { _rev, ...content } = doc;
  const [parent] = parentPath;
  const start = parent === undefined ? 1 : generationOf(parent) + 1;
  // 32 hexadecimal digits: the form of the engines' own.
  const hash = createHash("sha256")
    .update(canonicalize({ parent: parent ?? null, content }) as string)
    .digest("hex")
    .slice(0, 32);
  const ids = [hash, ...parentPath.map((rev) => rev.slice(rev.indexOf("-") + 1))];
  return { ...(content as Doc), _rev: `${start}-${hash}`, _revisions: { start, ids } };
}

/** The number that a revision starts with: its distance from the root. */
export function generationOf(rev: string): number {
  return Number.parseInt(rev, 10);
}

/** CouchDB's own order of revisions, as a comparison: the greater one wins there. */
export function compareRevisions(a: string, b: string): number {
  return generationOf(a) - generationOf(b) || (a < b ? -1 : a > b ? 1 : 0);
}

/** Orders a document's leaves: the greatest is the one that CouchDB gives, a deleted one where all are. */
export function compareLeaves(a: Stored<Document>, b: Stored<Document>): number {
  return Number(a._deleted !== true) - Number(b._deleted !== true) || compareRevisions(a._rev, b._rev);
}

/** A leaf's revision and those that it descends from, back to the oldest that the store still knows. */
export function pathOf({ _revisions: { start, ids } }: Pick<LeafDocument<Document>, "_revisions">): string[] {
  return ids.map((hash, index) => `${start - index}-${hash}`);
}
