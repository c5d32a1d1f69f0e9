/** Three-way merge of JSON values, member by member. Pure; never mutates. `undefined` stands for "not there". */
import canonicalize from "canonicalize";

/** One place that both sides changed, each in its own way. */
export interface FieldConflict {
  /** JSON Pointer (RFC 6901) from the values that were merged. */
  pointer: string;
  base: unknown;
  kept: unknown;
  lost: unknown;
}

export interface Merge {
  merged: unknown;
  conflicts: FieldConflict[];
}

/** The `base` of two sides of which nobody knows what they were made from: whatever they differ in is a conflict. */
export const unknownBase = Symbol("unknown");

/** A value that is an object here but one thing to its reader: merging its members would make what neither side said. */
const referenceKey = "$secret";

/**
 * What both sides made of `base`. A change of one side stands; where both changed the same place differently, or the base is
 * `unknownBase`, `kept`'s value stands and the place is told. Objects merge by member; arrays and scalars are one value: nothing in a list says
 * which element is which.
 * @param levels of members that merge; below these each value is one. Default: all.
 */
export function mergeThreeWay(
  base: unknown,
  kept: unknown,
  other: unknown,
  levels: number = Number.POSITIVE_INFINITY,
): Merge {
  const conflicts: FieldConflict[] = [];
  return { merged: merge({ base, kept, other, pointer: "" }, levels, conflicts), conflicts };
}

interface Place {
  pointer: string;
  base: unknown;
  kept: unknown;
  other: unknown;
}

function merge({ base, kept, other, pointer }: Place, levels: number, conflicts: FieldConflict[]): unknown {
  const isKnown = base !== unknownBase;
  if (isSame(kept, other) || (isKnown && isSame(base, other))) return kept;
  if (isKnown && isSame(base, kept)) return other;
  if (levels === 0 || !hasMembers(kept) || !hasMembers(other)) {
    conflicts.push({ pointer, base: isKnown ? base : undefined, kept, lost: other });
    return kept;
  }
  const origin = hasMembers(base) ? base : {};
  // Entries, not assignment: a member called `__proto__` is a member. Sorted, so that every site writes the same bytes.
  const members = [...new Set([...Object.keys(kept), ...Object.keys(other)])].sort().map((key): [string, unknown] => {
    const at = `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    const [was, ours, theirs] = [origin, kept, other].map((object) => memberOf(object, key));
    const place = { pointer: at, base: isKnown ? was : unknownBase, kept: ours, other: theirs };
    return [key, merge(place, levels - 1, conflicts)];
  });
  return Object.fromEntries(members.filter(([, value]) => value !== undefined));
}

/** The value that a pointer names, undefined where there is none. */
export function valueAt(value: unknown, pointer: string): unknown {
  return pointerKeys(pointer).reduce((at, key) => (isObject(at) ? memberOf(at, key) : undefined), value);
}

/**
 * `value` with `member` at the pointer, or without it for undefined. Objects on the way are made where they are missing,
 * and replace what is no object.
 */
export function withValueAt(value: unknown, pointer: string, member: unknown): unknown {
  const [key, ...rest] = pointerKeys(pointer);
  if (key === undefined) return member;
  const below = rest.map((part) => `/${part.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
  const members = new Map(isObject(value) ? Object.entries(value) : []);
  if (member === undefined && !members.has(key)) return value;
  const child = withValueAt(members.get(key), below, member);
  if (child === undefined) members.delete(key);
  else members.set(key, child);
  return Object.fromEntries(members);
}

export function isSame(a: unknown, b: unknown): boolean {
  return a === b || (a !== undefined && b !== undefined && canonicalize(a) === canonicalize(b));
}

function pointerKeys(pointer: string): string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function memberOf(object: object, key: string): unknown {
  return Object.hasOwn(object, key) ? (object as Record<string, unknown>)[key] : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function hasMembers(value: unknown): value is Record<string, unknown> {
  return isObject(value) && !Object.hasOwn(value, referenceKey);
}
