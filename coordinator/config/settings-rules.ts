/** What settings may not contain. */
import { type FieldError, MusterError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import { idPattern } from "../../config-db/names.ts";
import { jsonErrors } from "../json-rules.ts";
import { isObject } from "./merge.ts";

/** `{"$secret": "name"}` stands for the secret of that name. */
export const secretKey = "$secret";

export interface RuleOptions {
  /** True for a merge patch: `{"$secret": null}` takes a reference away there. */
  patch?: boolean;
}

/**
 * What is wrong with `settings`, as they came from JSON; empty when nothing is. Besides what `jsonErrors` says:
 *
 * - at most `limits.bodyBytes` as JSON, nested at most `limits.settingsDepth` deep
 * - no key that starts with `_` at the top: CouchDB's own (`_id`, `_rev` …)
 * - none that starts with `$` anywhere but the whole object `{"$secret": "<name>"}` below the top: kept for Muster's own
 *   references
 */
export function settingsErrors(settings: unknown, { patch = false }: RuleOptions = {}): FieldError[] {
  if (!isObject(settings)) return [{ pointer: "", rule: "type", message: "must be a JSON object" }];
  return jsonErrors(settings, {
    depthMax: limits.settingsDepth,
    bytesMax: limits.bodyBytes,
    keyError: (key, value, object, depth) => {
      if (depth === 1 && key.startsWith("_")) return "starts with _, which CouchDB keeps for its own fields at the top";
      if (depth === 1 && key === secretKey) return "cannot stand for all settings: refer to a secret from one of them";
      return key.startsWith("$") ? referenceError(key, value, object, patch) : undefined;
    },
  });
}

/** @throws MusterError `invalid-request`, or `too-large`, that tells what `settingsErrors` found. */
export function checkSettings(settings: unknown, options: RuleOptions = {}): void {
  const errors = settingsErrors(settings, options);
  const [first] = errors;
  if (first === undefined) return;
  const prefixed = errors.map((error) => ({ ...error, pointer: `/settings${error.pointer}` }));
  const told = prefixed.slice(0, 3).map(({ pointer, message }) => `${pointer.slice(0, 200)} ${message}`);
  throw new MusterError(first.rule === "size" ? "too-large" : "invalid-request", told.join("; "), { errors: prefixed });
}

function referenceError(key: string, value: unknown, object: object, patch: boolean): string | undefined {
  if (key !== secretKey) return `starts with $, kept for references; the only one is {"${secretKey}": "<name>"}`;
  if (patch && value === null) return undefined;
  if (typeof value !== "string" || !idPattern.test(value)) return `must name a secret: ${idPattern.source}`;
  if (!patch && Object.keys(object).length > 1) return `must stand alone: {"${secretKey}": "${value}"}`;
  return undefined;
}
