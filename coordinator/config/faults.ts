/** What is wrong with the configuration as it stands, for operators. */
import type { FieldError } from "../../config-db/errors.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { errorsOfStored, inOrder } from "./judgement.ts";
import type { Records } from "./records.ts";

export type Fault =
  /** A revision that breaks components: `active` is in force in its place (absent: nothing). */
  | { kind: "held"; document: string; rev: string; active?: { version: number; rev: string }; errors: FieldError[] }
  /** A document that is none of its kind, or a schema that does not compile: it has no effect. */
  | { kind: "unusable"; document: string; rev: string; errors: FieldError[] }
  /**
   * A component whose settings do not fit its type's schema, though no write broke them: it was new, or its type. Or they
   * refer to a secret that is not there or cannot be opened.
   */
  | { kind: "invalid"; component: string; etag: string; errors: FieldError[] };

const faultsMax = 1_000;

/** In one order wherever they are listed, so that the same faults have the same ETag at every coordinator and site. */
export function listFaults(records: Records, effective: EffectiveSettings): Fault[] {
  const faults: Fault[] = [];
  for (const [document, { rev, active, errors }] of byDocument(records.held)) {
    const told = active === undefined ? {} : { active: { version: active.version, rev: active.rev } };
    const now = errors.length > 0 ? errors : errorsNow(document);
    faults.push({ kind: "held", document, rev, ...told, errors: now });
  }
  for (const [document, { rev, errors }] of byDocument(records.unusable)) {
    faults.push({ kind: "unusable", document, rev, errors: inOrder(errors) });
  }
  for (const id of effective.known().sort()) {
    const errors = effective.errors(id);
    if (errors.length === 0) continue;
    faults.push({ kind: "invalid", component: id, etag: effective.etag(id), errors: inOrder(errors) });
  }
  return faults.slice(0, faultsMax);

  /** A coordinator that read of a held revision in the store did not judge it itself. */
  function errorsNow(document: string): FieldError[] {
    const newest = records.newest(document);
    return newest === undefined ? [] : errorsOfStored(effective, newest);
  }
}

function byDocument<Value>(found: Map<string, Value>): [string, Value][] {
  return [...found].sort(([one], [other]) => (one < other ? -1 : 1));
}
