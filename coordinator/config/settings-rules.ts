/** What settings may not contain, checked before anything walks over them by recursion or stores them. */
import type { FieldError } from "../../config-db/errors.ts";
import { MusterError } from "../../config-db/errors.ts";
import { limits } from "../../config-db/limits.ts";
import { isObject } from "./merge.ts";
import { childPointer } from "./pointer.ts";

/** A value that stands for a secret: `{"$secret": "name"}`. */
export const secretKey = "$secret";

/** More errors than anyone reads are not told. */
const errorsMax = 20;

export interface RuleOptions {
  /** True for a merge patch: `{"$secret": null}` takes a reference away there. */
  patch?: boolean;
}

/**
 * What is wrong with `settings`, as they came from JSON. Empty when nothing is.
 *
 * - at most `limits.bodyBytes` as JSON, nested at most `limits.settingsDepth` deep
 * - no key `__proto__` (it would be a prototype to careless readers)
 * - no key that starts with `_` at the top (CouchDB's own: `_id`, `_rev` …), none that starts with `$` anywhere but
 *   the whole object `{"$secret": "<name>"}` (kept for Muster's own references)
 * - no half of a surrogate pair and no number beyond a double: neither survives being stored
 */
export function settingsErrors(settings: unknown, options: RuleOptions = {}): FieldError[] {
  if (!isObject(settings)) return [{ pointer: "", rule: "type", message: "settings must be a JSON object" }];
  const errors: FieldError[] = [];
  const open: { value: unknown; pointer: string; depth: number }[] = [{ value: settings, pointer: "", depth: 1 }];
  for (let next = open.pop(); next !== undefined && errors.length < errorsMax; next = open.pop()) {
    const { value, pointer, depth } = next;
    if (typeof value !== "object" || value === null) {
      const message = scalarError(value);
      if (message !== undefined) errors.push({ pointer, rule: "json", message });
      continue;
    }
    if (depth > limits.settingsDepth) {
      const message = `is nested deeper than ${limits.settingsDepth} levels`;
      // The pointer itself grows with the depth: told in full it would be most of the answer.
      return [{ pointer: pointer.slice(0, 200), rule: "depth", message }];
    }
    for (const [key, child] of Object.entries(value)) {
      const at = childPointer(pointer, key);
      const message = keyError(key, child, value, depth, options);
      if (message !== undefined) errors.push({ pointer: at.toWellFormed().slice(0, 1000), rule: "key", message });
      else open.push({ value: child, pointer: at, depth: depth + 1 });
    }
  }
  if (errors.length === 0) {
    const sizeBytes = Buffer.byteLength(JSON.stringify(settings));
    if (sizeBytes > limits.bodyBytes) {
      errors.push({ pointer: "", rule: "size", message: `are ${sizeBytes} bytes; at most ${limits.bodyBytes}` });
    }
  }
  return errors;
}

/** @throws MusterError `invalid-request`, or `too-large`, that tells what `settingsErrors` found. */
export function checkSettings(settings: unknown, options: RuleOptions = {}): void {
  const errors = settingsErrors(settings, options);
  const [first] = errors;
  if (first === undefined) return;
  const told = `settings${first.pointer} ${first.message}`;
  const prefixed = errors.map((error) => ({ ...error, pointer: `/settings${error.pointer}` }));
  throw new MusterError(first.rule === "size" ? "too-large" : "invalid-request", told, { errors: prefixed });
}

function scalarError(value: unknown): string | undefined {
  if (typeof value === "string" && !value.isWellFormed()) return "has half of a surrogate pair";
  if (typeof value === "number" && !Number.isFinite(value)) return "is a number beyond what a double holds";
  return undefined;
}

function keyError(
  key: string,
  child: unknown,
  object: object,
  depth: number,
  { patch = false }: RuleOptions,
): string | undefined {
  if (Array.isArray(object)) return undefined;
  if (key === "__proto__") return "is no name for a setting: it would be a prototype to careless readers";
  if (depth === 1 && key.startsWith("_")) return "starts with _, which CouchDB keeps for its own fields at the top";
  if (!key.isWellFormed()) return "has half of a surrogate pair in its name";
  if (!key.startsWith("$")) return undefined;
  if (key !== secretKey)
    return `starts with $, which is kept for references; the one there is is {"${secretKey}": name}`;
  if (patch && child === null) return undefined;
  if (typeof child !== "string" || !secretNamePattern.test(child)) {
    return `must name a secret, matching ${secretNamePattern.source}`;
  }
  if (!patch && Object.keys(object).length > 1) return `must stand alone: {"${secretKey}": "${child}"}`;
  return undefined;
}

export const secretNamePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;
