/**
 * What becomes of a registry record that two sites wrote at once. Each has one writer, its home site's leader, so this
 * happens only when a component moved: it registered elsewhere while its former site, cut off, still wrote about it. The
 * higher incarnation is the component that lives now; nothing is merged and nothing listed. Pure.
 */
import { compareRevisions, type Fixed, withFixedRevision } from "../../config-db/revision.ts";
import type { Document } from "../../config-db/store.ts";
import { isMergeMark, type Leaf } from "./ancestry.ts";

/** A component's or a site's record, as far as it is compared. */
export interface RegistryRecord extends Document {
  incarnation?: number;
  epoch?: number;
  beat?: number;
  site?: string;
  state?: string;
  [field: string]: unknown;
}

/**
 * By incarnation; of the same one that which is up, for a component that moved there and back lives at one site; then by
 * site, so that all sites agree; within a site by its leaders' order.
 */
function compareStanding(a: Leaf<RegistryRecord>, b: Leaf<RegistryRecord>): number {
  const [siteA, siteB] = [a.doc.site ?? "", b.doc.site ?? ""];
  return (
    (a.doc.incarnation ?? 0) - (b.doc.incarnation ?? 0) ||
    Number(a.doc.state === "up") - Number(b.doc.state === "up") ||
    (siteA < siteB ? -1 : siteA > siteB ? 1 : 0) ||
    (a.doc.epoch ?? 0) - (b.doc.epoch ?? 0) ||
    (a.doc.beat ?? 0) - (b.doc.beat ?? 0) ||
    compareRevisions(a.rev, b.rev)
  );
}

/** @returns revisions to be written with `newEdits: false`; undefined where one branch stands already. */
export function resolveRecord(leaves: Leaf<RegistryRecord>[]): Fixed<RegistryRecord>[] | undefined {
  const open = leaves.filter(({ doc }) => !isMergeMark(doc)).sort(compareStanding);
  const highest = open.at(-1);
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
