/**
 * What becomes of a registry record that two sites wrote at once. Each has one writer, its home site's leader, so this
 * happens only when a component moved: it registered elsewhere while its former site, cut off, still wrote about it. The
 * higher incarnation is the component that lives now; nothing is merged and nothing listed. Pure.
 */
import { compareRevisions, type Fixed, withFixedRevision } from "../../config-db/revision.ts";
import type { Document } from "../../config-db/store.ts";
import { isMergeMark, type Leaf } from "./ancestry.ts";

/** A component's or a site's record, as far as it is compared. */
interface Compared {
  incarnation?: number;
  epoch?: number;
  beat?: number;
  site?: string;
  state?: string;
  changedAt?: string;
}

export interface RegistryRecord extends Document, Compared {
  [field: string]: unknown;
}

/**
 * By incarnation; of the same one at two sites that which is up, for a component that moved there and back lives at one of
 * them; then by site, so that all sites agree. Within a site by its leaders' order, and by time: what settled two branches
 * copied a record as it was known, and its site may have gone on meanwhile.
 */
export function compareStanding(a: Compared & { _rev: string }, b: Compared & { _rev: string }): number {
  const [siteA, siteB] = [a.site ?? "", b.site ?? ""];
  return (
    (a.incarnation ?? 0) - (b.incarnation ?? 0) ||
    (siteA === siteB ? 0 : Number(a.state === "up") - Number(b.state === "up")) ||
    (siteA < siteB ? -1 : siteA > siteB ? 1 : 0) ||
    (a.epoch ?? 0) - (b.epoch ?? 0) ||
    (a.beat ?? 0) - (b.beat ?? 0) ||
    (a.changedAt === b.changedAt ? 0 : (a.changedAt ?? "") < (b.changedAt ?? "") ? -1 : 1) ||
    compareRevisions(a._rev, b._rev)
  );
}

/** Of each site the newest, of those the highest: all compared at once could go round in a circle. */
function highestOf(leaves: Leaf<RegistryRecord>[]): Leaf<RegistryRecord> | undefined {
  const newest = new Map<string | undefined, Leaf<RegistryRecord>>();
  for (const leaf of leaves) {
    const known = newest.get(leaf.doc.site);
    if (known === undefined || compareStanding(leaf.doc, known.doc) > 0) newest.set(leaf.doc.site, leaf);
  }
  return [...newest.values()].sort((a, b) => compareStanding(a.doc, b.doc)).at(-1);
}

/** @returns revisions to be written with `newEdits: false`; undefined where one branch stands already. */
export function resolveRecord(leaves: Leaf<RegistryRecord>[]): Fixed<RegistryRecord>[] | undefined {
  const open = leaves.filter(({ doc }) => !isMergeMark(doc));
  const highest = highestOf(open);
  if (highest === undefined || open.length < 2 || open.every(({ doc }) => doc._deleted === true)) return undefined;
  // As in `settle` of resolve.ts: what stands grows on the branch that CouchDB ranks highest.
  const trunk = open.reduce((a, b) => (compareRevisions(a.rev, b.rev) >= 0 ? a : b));
  const result = highest === trunk ? undefined : withFixedRevision(highest.doc, trunk.path);
  const marks = open
    .filter((leaf) => leaf !== trunk)
    .map((leaf) =>
      withFixedRevision({ ...leaf.doc, _deleted: true, mergedInto: result?._rev ?? trunk.rev }, leaf.path),
    );
  return [...(result === undefined ? [] : [result]), ...marks];
}
