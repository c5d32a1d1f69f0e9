/** A walk over JSON that came from outside, before anything recurses over it or stores it. */
import type { FieldError } from "../config-db/errors.ts";
import { childPointer } from "./pointer.ts";

export interface JsonRules {
  /** What is wrong with a member's name, where it stands; undefined when nothing is. */
  keyError(key: string, value: unknown, object: object, depth: number): string | undefined;
  depthMax: number;
  bytesMax: number;
}

/** More errors than anyone reads are not told. */
const errorsMax = 20;
/** A pointer grows with the depth: told in full, that of a deep fault would be most of the answer. */
const pointerCharactersMax = 1_000;

/** Something of the document that is still to be looked at; its pointer is made for who is told. */
interface Place {
  value: unknown;
  key: string;
  parent?: Place;
  depth: number;
}

/**
 * What is wrong with `root`, as `JSON.parse` made it: too deep, too large, names that the rules refuse, halves of
 * surrogate pairs and numbers beyond a double (neither survives being stored), and `__proto__`, which would be a
 * prototype to careless readers. Does not recurse: what is too deep for the stack is refused like all else.
 */
export function jsonErrors(root: object, rules: JsonRules): FieldError[] {
  const errors: FieldError[] = [];
  const open: Place[] = [{ value: root, key: "", depth: 1 }];
  for (let place = open.pop(); place !== undefined && errors.length < errorsMax; place = open.pop()) {
    const { value, depth } = place;
    if (typeof value !== "object" || value === null) {
      const message = scalarError(value);
      if (message !== undefined) errors.push({ pointer: pointerOf(place), rule: "json", message });
      continue;
    }
    if (depth > rules.depthMax) {
      const message = `is nested deeper than ${rules.depthMax} levels`;
      return [{ pointer: pointerOf(place).slice(0, pointerCharactersMax), rule: "depth", message }];
    }
    for (const [key, child] of Object.entries(value)) {
      const at: Place = { value: child, key, parent: place, depth: depth + 1 };
      const message = Array.isArray(value) ? undefined : (nameError(key) ?? rules.keyError(key, child, value, depth));
      if (message === undefined) open.push(at);
      else errors.push({ pointer: pointerOf(at).toWellFormed().slice(0, pointerCharactersMax), rule: "key", message });
    }
  }
  if (errors.length > 0) return errors;
  const sizeBytes = Buffer.byteLength(JSON.stringify(root));
  if (sizeBytes <= rules.bytesMax) return [];
  return [{ pointer: "", rule: "size", message: `is ${sizeBytes} bytes long; at most ${rules.bytesMax}` }];
}

function pointerOf(place: Place): string {
  const keys: string[] = [];
  for (let at = place; at.parent !== undefined; at = at.parent) keys.unshift(at.key);
  return keys.reduce(childPointer, "");
}

function scalarError(value: unknown): string | undefined {
  if (typeof value === "string" && !value.isWellFormed()) return "has half of a surrogate pair";
  if (typeof value === "number" && !Number.isFinite(value)) return "is a number beyond what a double holds";
  return undefined;
}

function nameError(key: string): string | undefined {
  if (key === "__proto__") return "is no name to use: it would be a prototype to careless readers";
  if (!key.isWellFormed()) return "has half of a surrogate pair in its name";
  return undefined;
}
