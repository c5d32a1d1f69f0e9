/** What changed between two JSON values, as JSON Patch (RFC 6902). */
import jsonpatch, { type Operation } from "fast-json-patch";

export type JsonPatch = Operation[];

/**
 * Compares lists place by place, in linear time. A diff that finds the fewest edits (rfc6902) takes time and memory
 * beyond bounds for lists of a thousand entries that differ.
 */
export function jsonPatch(before: object, after: object): JsonPatch {
  return jsonpatch.compare(before, after);
}
