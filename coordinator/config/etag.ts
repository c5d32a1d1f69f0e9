/** Names the content of a JSON value, equally at every site and in every process. */
import { createHash } from "node:crypto";
import canonicalize from "canonicalize";

/** 22 characters of base64url are 132 bits: no two contents of one system will ever share them. */
const lengthCharacters = 22;

/** SHA-256 over the canonical form (RFC 8785), so that the order of members and the writing of numbers do not count. */
export function etagOf(value: unknown): string {
  return createHash("sha256").update(canonicalJson(value)).digest("base64url").slice(0, lengthCharacters);
}

/** RFC 8785. @throws Error for what JSON cannot say; settings that passed `settingsErrors` never do. */
export function canonicalJson(value: unknown): string {
  return canonicalize(value) as string;
}

/** True when both values are the same JSON. */
export function sameJson(a: unknown, b: unknown): boolean {
  return a === b || canonicalJson(a) === canonicalJson(b);
}
