/** What an operator's answer to a conflict makes of the record. Pure, and fixed by conflict, answer and record alone. */
import { MusterError } from "../../config-db/errors.ts";
import type { ConflictResolution } from "../../config-db/generated/types.ts";
import type { ListedConflict } from "./conflict.ts";
import type { Candidate, VersionedDocument } from "./resolve.ts";
import { isSame, valueAt, withValueAt } from "./three-way.ts";

/**
 * @param standing the record's one open revision, a tombstone too; undefined where there is none
 * @returns the revision to write on top of it, undefined where it says the right thing already
 * @throws MusterError `refused` when `choose` names no candidate, `not-found` when the record is gone altogether
 */
export function resolvedDocument(
  conflict: ListedConflict,
  resolution: ConflictResolution,
  standing: VersionedDocument | undefined,
): VersionedDocument | undefined {
  const chosen = chosenCandidate(conflict, resolution);
  if (standing === undefined) {
    throw new MusterError("not-found", `${conflict.record}, which the conflict is about, is not there any more`);
  }
  if (chosen.live === true) return undefined;
  const next = withValue(conflict, "value" in chosen ? chosen.value : undefined, standing);
  if (next === undefined) return undefined;
  const {
    _rev: rev,
    parent: _parent,
    merged: _merged,
    mergedInto: _mergedInto,
    ...rest
  } = next as VersionedDocument & {
    _rev?: string;
  };
  return {
    ...rest,
    version: standing.version + 1,
    changedBy: chosen.changedBy,
    changedAt: conflict.since,
    site: chosen.site,
    ...(standing.kind === "layer"
      ? { note: `resolves conflict ${conflict.id}`, parent: { rev: rev as string, version: standing.version } }
      : {}),
  };
}

type Chosen = Pick<Candidate, "changedBy" | "site"> & { value?: unknown; live?: boolean };

function chosenCandidate({ id, candidates }: ListedConflict, resolution: ConflictResolution): Chosen {
  // Who closes it stands in the conflict's own tombstone: here it would make two sites write two revisions.
  if ("value" in resolution) {
    const site = candidates
      .map((candidate) => candidate.site)
      .sort()
      .at(-1) as string;
    return { changedBy: "conflict resolution", site, value: resolution.value };
  }
  const chosen = candidates.find(({ rev }) => rev === resolution.choose);
  if (chosen !== undefined) return chosen;
  const revs = candidates.map(({ rev }) => rev).join(", ");
  throw new MusterError("refused", `"${resolution.choose}" is no candidate of conflict ${id}: choose one of ${revs}`);
}

function withValue(
  { part, pointer }: ListedConflict,
  value: unknown,
  standing: VersionedDocument,
): VersionedDocument | undefined {
  if (part === "document") return wholeDocument(value, standing);
  const current = standing[part];
  if (standing._deleted !== true && isSame(valueAt(current, pointer), value)) return undefined;
  const { _deleted, ...rest } = standing;
  const members = withValueAt(current ?? {}, pointer, value);
  return { ...rest, [part]: isObject(members) ? members : {} };
}

function wholeDocument(value: unknown, standing: VersionedDocument): VersionedDocument | undefined {
  if (value === undefined || value === null) {
    if (standing._deleted === true) return undefined;
    const { content: _content, ...rest } = standing;
    return { ...rest, ...(standing.settings === undefined ? {} : { settings: {} }), _deleted: true };
  }
  if (!isObject(value)) {
    throw new MusterError("refused", "the value of a whole document must be an object, or null to delete it");
  }
  const { _deleted, ...rest } = standing;
  return { ...rest, ...value };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
