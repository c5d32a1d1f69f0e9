/** What JSON from outside may be, beyond its grammar. */
import { MusterError } from "./errors.ts";

/** Nesting of any JSON body: JSON.stringify and every walk over it recurse. */
const depthMax = 256;

/**
 * Walks without recursion: what is too deep for the stack must be refused, not die.
 * @throws MusterError `malformed-json` for what nests too deep, and with `surrogates` for half of a surrogate pair.
 */
export function checkTree(root: unknown, surrogates: boolean): void {
  const open: [unknown, number][] = [[root, 1]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [value, depth] = next;
    if (surrogates && typeof value === "string" && !value.isWellFormed()) {
      throw new MusterError("malformed-json", "a string has half of a surrogate pair: it cannot be stored as UTF-8");
    }
    if (typeof value !== "object" || value === null) continue;
    if (depth > depthMax) throw new MusterError("malformed-json", `the body nests deeper than ${depthMax} levels`);
    for (const [key, child] of Object.entries(value)) {
      if (surrogates && !key.isWellFormed()) {
        throw new MusterError("malformed-json", "a key has half of a surrogate pair: it cannot be stored as UTF-8");
      }
      if (typeof child === "object" || surrogates) open.push([child, depth + 1]);
    }
  }
}
