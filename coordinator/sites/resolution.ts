/**
 * What an operator's answer to a conflict makes of the record. Pure, and fixed by conflict, answer and record alone. Whether the
 * record may be that is asked afterwards (config/admission.ts): here an answer cannot say more than what people say of a record.
 */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import type { ConflictResolution } from "../../config-db/generated/types.ts";
import { nextVersion } from "../../config-db/revision.ts";
import type { ListedConflict } from "./conflict.ts";
import {
  type Candidate,
  fieldsOf,
  identityOf,
  saidFieldsOf,
  type VersionedDocument,
  valueOfRecord,
} from "./resolve.ts";
import { isSame, withValueAt } from "./three-way.ts";

/**
 * @param standing the record's one open revision, a tombstone too; undefined where there is none
 * @returns the revision to write on top of it, undefined where it says the right thing already
 * @throws MusterError `refused` when `choose` names no candidate that can be chosen, or the record takes no value;
 * `invalid-request` for a value of another form; `not-found` when the record is gone altogether
 */
export function resolvedDocument(
  conflict: ListedConflict,
  resolution: ConflictResolution,
  standing: VersionedDocument | undefined,
): VersionedDocument | undefined {
  const chosen = answerTo(conflict, resolution);
  if (standing === undefined) {
    throw new MusterError("not-found", `${conflict.record}, which the conflict is about, is not there any more`);
  }
  if (chosen.live === true) return undefined;
  const says = standing._deleted === true ? undefined : valueOfRecord(standing);
  const shall = whatItShallSay(conflict, chosen, standing);
  if (isSame(says, shall)) return undefined;
  return {
    ...identityOf(standing),
    ...(shall ?? { ...nothingOf(standing), _deleted: true }),
    version: nextVersion(standing.version),
    changedBy: chosen.changedBy,
    changedAt: conflict.since,
    site: chosen.site,
    ...(standing.kind === "layer"
      ? {
          note: `resolves conflict ${conflict.id}`,
          parent: { rev: standing._rev as string, version: standing.version },
        }
      : {}),
  };
}

type Chosen = Pick<Candidate, "changedBy" | "site"> & { value?: unknown; live?: boolean };

/**
 * What an operator wants to stand there; no `value`: nothing.
 * @throws MusterError as `resolvedDocument`
 */
export function answerTo({ id, candidates, part, record }: ListedConflict, resolution: ConflictResolution): Chosen {
  // Who closes it stands in the conflict's own tombstone: here it would make two sites write two revisions.
  if ("value" in resolution) {
    const site = candidates
      .map((candidate) => candidate.site)
      .sort()
      .at(-1) as string;
    const given = part === "document" ? documentValue(record, resolution.value) : resolution.value;
    // A file is taken away by null; a setting may be null.
    const value = part === "content" && given === null ? undefined : given;
    return { changedBy: "conflict resolution", site, value };
  }
  const chosen = candidates.find(({ rev }) => rev === resolution.choose);
  if (chosen?.unusable === true) {
    const told = `"${chosen.rev}" is none of its kind and can stand nowhere: choose another candidate, or give a value`;
    throw new MusterError("refused", told);
  }
  if (chosen !== undefined) return chosen;
  const revs = candidates.map(({ rev }) => rev).join(", ");
  throw new MusterError("refused", `"${resolution.choose}" is no candidate of conflict ${id}: choose one of ${revs}`);
}

/** A value for a whole record, of the form that its candidates' values have; undefined to delete it. */
function documentValue(record: string, value: unknown): Record<string, unknown> | undefined {
  const kind = record.slice(0, record.indexOf(":"));
  if (value === null) return undefined;
  if (kind !== "layer" && kind !== "schema") {
    throw new MusterError(
      "refused",
      `a ${kind} takes no value here, but null to delete it: PUT what it shall be, then choose the candidate that is live`,
    );
  }
  const known = saidFieldsOf(kind);
  const errors: FieldError[] = isObject(value)
    ? Object.keys(value)
        .filter((field) => !known.includes(field))
        .map((field) => ({ pointer: `/value/${field}`, rule: "additionalProperties", message: "is not taken" }))
    : [{ pointer: "/value", rule: "type", message: "must be an object, or null to delete the record" }];
  if (isObject(value) && errors.length === 0) return value;
  const told = `the value of a whole ${kind} has ${known.join(" and ")} and nothing else`;
  throw new MusterError("invalid-request", told, { errors });
}

/** What the record says afterwards, undefined where it shall be deleted. */
function whatItShallSay(
  { part, pointer }: ListedConflict,
  { value }: Chosen,
  standing: VersionedDocument,
): Record<string, unknown> | undefined {
  if (part === "document") {
    // Chosen, a candidate is not being made the layer: whoever did that did it with another revision.
    const fields = saidFieldsOf(standing.kind).filter((field) => field !== "promotingSince");
    return isObject(value) ? fieldsOf(value, fields) : undefined;
  }
  const { [part]: current = {}, ...others } = valueOfRecord(standing);
  const members = withValueAt(current, pointer, value);
  if (!isObject(members)) {
    throw new MusterError("invalid-request", `the value of all ${part} must be an object`, {
      errors: [{ pointer: "/value", rule: "type", message: "must be an object" }],
    });
  }
  return { ...others, ...(part === "content" && Object.keys(members).length === 0 ? {} : { [part]: members }) };
}

/** What a tombstone still says: all fields that its kind has to have. */
function nothingOf(standing: VersionedDocument): Record<string, unknown> {
  if (standing.kind === "layer") return { settings: {} };
  if (standing.kind === "schema") return { schema: {} };
  return standing.kind === "candidate" ? valueOfRecord(standing) : {};
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
