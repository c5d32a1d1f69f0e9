/** Names the content of a JSON value, equally at every site and in every process. */
import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import { isObject } from "./merge.ts";

/** 22 characters of base64url are 132 bits: no two contents of one system will ever share them. */
const lengthCharacters = 22;

/** SHA-256 over the canonical form (RFC 8785), so that the order of members and the writing of numbers do not count. */
export function etagOf(value: unknown): string {
  return etagOfCanonical(canonicalJson(value));
}

export function etagOfCanonical(canonical: string): string {
  return createHash("sha256").update(canonical).digest("base64url").slice(0, lengthCharacters);
}

/** RFC 8785. @throws Error for what JSON cannot say; settings that passed `settingsErrors` never do. */
export function canonicalJson(value: unknown): string {
  return canonicalize(value) as string;
}

const membersKnown = new WeakMap<object, string>();

/**
 * The same, for settings that share members with those of other components and never change: what a thousand components
 * have from the same layers is written out once.
 */
export function canonicalShared(settings: Record<string, unknown>): string {
  const members = Object.keys(settings)
    .sort()
    .map((key) => `${canonicalJson(key)}:${canonicalMember(settings[key])}`);
  return `{${members.join(",")}}`;
}

function canonicalMember(value: unknown): string {
  if (!isObject(value) && !Array.isArray(value)) return canonicalJson(value);
  let canonical = membersKnown.get(value);
  if (canonical === undefined) {
    canonical = canonicalJson(value);
    membersKnown.set(value, canonical);
  }
  return canonical;
}

/** True when both values are the same JSON. */
export function sameJson(a: unknown, b: unknown): boolean {
  return a === b || canonicalJson(a) === canonicalJson(b);
}
