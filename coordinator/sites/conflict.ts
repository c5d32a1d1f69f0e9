/**
 * A conflict as a record, `conflict:<…>` in muster-config: replicated like all configuration, so that every operator
 * sees the same list and closes it for all. Its id and content follow from what collided, so that sites which find it at
 * once write the same. Closing it is a tombstone: one that arrives again later is closed already. Pure.
 */
import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import type { ConflictDocument } from "../../config-db/generated/types.ts";
import { documentId } from "../../config-db/names.ts";
import { compareRevisions, type Fixed, withFixedRevision } from "../../config-db/revision.ts";
import type { Stored } from "../../config-db/store.ts";
import type { Candidate, ConflictPart, FoundConflict, VersionedDocument } from "./resolve.ts";
import { candidateOf, valueOfRecord } from "./resolve.ts";
import { isSame, valueAt } from "./three-way.ts";

/** What operators see: all that is open about one place of one record, as one conflict. */
export interface ListedConflict {
  id: string;
  record: string;
  /** The layer's name, where the record is a layer. */
  layer?: string;
  part: ConflictPart;
  pointer: string;
  base?: unknown;
  candidates: (Candidate & { live: boolean })[];
  /** When the last of the changes that collided was made, by its maker's clock. */
  since: string;
}

const hashOf = (value: unknown) =>
  createHash("sha256")
    .update(canonicalize(value) as string)
    .digest("hex")
    .slice(0, 24);

/** The document of a conflict in `record`. */
export function conflictDocument(record: string, found: FoundConflict): Fixed<ConflictDocument> {
  const { part, pointer, base, candidates } = found;
  const sides = candidates.map(({ rev }) => rev).sort();
  return withFixedRevision<ConflictDocument>({
    _id: documentId.conflict(record, hashOf([part, pointer, sides])),
    kind: "conflict",
    schemaVersion: 1,
    record,
    part,
    pointer,
    ...(base === undefined ? {} : { base }),
    candidates,
  });
}

/**
 * What operators at several sites answered to one conflict while these could not hear each other, where they do not agree.
 * The record alone does not tell: who keeps what stands writes nothing to it.
 * @param closed the tombstones of one conflict
 * @returns undefined where all want the same
 */
export function differentAnswers(closed: Stored<ConflictDocument>[]): FoundConflict | undefined {
  const [first] = closed;
  const answers: Candidate[] = [];
  for (const { _rev: rev, candidates, closed: { by, at, site, answer } = {} } of closed.sort(byRevision)) {
    if (answer === undefined || by === undefined || at === undefined || site === undefined) continue;
    if (answers.some(({ value }) => isSame(value, answer.value))) continue;
    // Lower than that of what an answer wrote: of one value the list then names who gave it.
    const version = Math.max(1, ...candidates.map((candidate) => candidate.version));
    answers.push({ rev, version, site, changedBy: by, changedAt: at, ...answer });
  }
  if (first === undefined || answers.length < 2) return undefined;
  const { part, pointer, base } = first;
  return { part, pointer, ...(base === undefined ? {} : { base: { value: base.value } }), candidates: answers };
}

function byRevision(a: Stored<ConflictDocument>, b: Stored<ConflictDocument>): number {
  return compareRevisions(a._rev, b._rev);
}

/** Open conflicts of one place, by the id under which operators know them. */
export function groupConflicts(open: Iterable<Stored<ConflictDocument>>): Map<string, Stored<ConflictDocument>[]> {
  const groups = new Map<string, Stored<ConflictDocument>[]>();
  for (const doc of open) {
    const id = hashOf([doc.record, doc.part, doc.pointer]);
    groups.set(id, [...(groups.get(id) ?? []), doc]);
  }
  return groups;
}

/**
 * @param docs a group of `groupConflicts`
 * @param current the record as it stands; undefined when it is deleted
 */
export function listConflict(
  id: string,
  docs: Stored<ConflictDocument>[],
  current: VersionedDocument | undefined,
): ListedConflict {
  const [first] = docs.sort((a, b) => (a._id < b._id ? -1 : 1)) as [Stored<ConflictDocument>];
  const { record, part, pointer } = first;
  const sides = uniqueCandidates(docs.flatMap((doc) => doc.candidates));
  // Of nothing but what cannot stand, an operator still has to be able to say that what stands is right.
  const isHopeless = current !== undefined && sides.every(({ unusable }) => unusable === true);
  const candidates = isHopeless ? [candidateOf({ doc: current }, valueOfRecord(current)), ...sides] : sides;
  const stands = (candidate: Candidate) => isLive(candidate, docs, current);
  const base = docs.find((doc) => doc.base !== undefined)?.base;
  return {
    id,
    record,
    ...(record.startsWith("layer:") ? { layer: record.slice("layer:".length) } : {}),
    part,
    pointer,
    ...(base === undefined ? {} : { base: base.value }),
    candidates: candidates.map((candidate) => ({ ...candidate, live: stands(candidate) })),
    since: candidates
      .map(({ changedAt }) => changedAt)
      .sort()
      .at(-1) as string,
  };
}

/** Each value once, under the name of the one who said it first: merges repeat what others said. */
function uniqueCandidates(candidates: Candidate[]): Candidate[] {
  const unique: Candidate[] = [];
  const byAge = [...candidates].sort((a, b) => a.version - b.version || (a.rev < b.rev ? -1 : 1));
  for (const candidate of byAge) {
    const isKnown = ({ rev, value, unusable }: Candidate) =>
      unusable === candidate.unusable && (unusable === true ? rev === candidate.rev : isSame(value, candidate.value));
    if (!unique.some(isKnown)) unique.push(candidate);
  }
  return unique;
}

function isLive(
  { value, unusable }: Candidate,
  docs: ConflictDocument[],
  current: VersionedDocument | undefined,
): boolean {
  const [{ part, pointer }] = docs as [ConflictDocument];
  if (unusable === true) return false;
  if (part !== "document") return isSame(valueAt(current?.[part], pointer), value);
  if (value === undefined || current === undefined) return value === undefined && current === undefined;
  // Against nothing, whether it is there is the question, not what became of it since.
  const isAlone = ({ candidates: [kept, ...others] }: ConflictDocument) =>
    kept?.unusable !== true &&
    isSame(kept?.value, value) &&
    others.every((other) => other.unusable === true || other.value === undefined);
  return docs.some(isAlone) || isSame(valueOfRecord(current), value);
}
