/** What is wrong with the configuration as it stands, for operators. */
import type { FieldError } from "../../config-db/errors.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { errorsOf } from "./judgement.ts";
import { activeOf, type Records } from "./records.ts";

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

export function listFaults(records: Records, effective: EffectiveSettings): Fault[] {
  const faults: Fault[] = [];
  for (const [document, { rev, active, errors }] of records.held) {
    const told = active === undefined ? {} : { active: { version: active.version, rev: active.rev } };
    faults.push({ kind: "held", document, rev, ...told, errors: errors.length > 0 ? errors : errorsNow(document) });
  }
  for (const [document, { rev, errors }] of records.unusable) faults.push({ kind: "unusable", document, rev, errors });
  for (const id of effective.all()) {
    const errors = effective.errors(id);
    if (errors.length > 0) faults.push({ kind: "invalid", component: id, etag: effective.etag(id), errors });
  }
  return faults.slice(0, faultsMax);

  /** A coordinator that read of a held revision in the store did not judge it itself. */
  function errorsNow(document: string): FieldError[] {
    const newest = records.newest(document);
    return newest === undefined ? [] : errorsOf(effective, { id: document, content: activeOf(newest)?.content });
  }
}
