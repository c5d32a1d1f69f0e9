import { CouchError } from "./couch-error.ts";

/** @throws CouchError 405 with the methods that are allowed. */
export function requireMethod(method: string, allowed: readonly string[]): void {
  if (allowed.includes(method)) return;
  const list = allowed.join(",");
  throw new CouchError(405, "method_not_allowed", `Only ${list} allowed`, { allow: list });
}
