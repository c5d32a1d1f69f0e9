/** HTTP Basic authentication against one pair of credentials, or none. */
import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { CouchError } from "./couch-error.ts";
import type { UserContext } from "./exchange.ts";

export interface Credentials {
  user: string;
  password: string;
}

/**
 * Who sends this request. Without credentials to check everybody is an administrator, as in CouchDB before 3.0: the
 * database then has to listen on loopback only.
 * @throws CouchError 401
 */
export function authenticate(request: IncomingMessage, credentials: Credentials | undefined): UserContext {
  if (credentials === undefined) return { name: null, roles: ["_admin"] };
  const header = request.headers.authorization;
  if (header === undefined) throw unauthorized("You are not authorized to access this db.");
  const given = /^Basic\s+([A-Za-z0-9+/=]+)$/i.exec(header)?.[1] ?? "";
  const expected = Buffer.from(`${credentials.user}:${credentials.password}`);
  if (!isSame(Buffer.from(given, "base64"), expected)) throw unauthorized("Name or password is incorrect.");
  return { name: credentials.user, roles: ["_admin"] };
}

function unauthorized(reason: string): CouchError {
  return new CouchError(401, "unauthorized", reason, { "www-authenticate": 'Basic realm="administrator"' });
}

/** Takes the same time wherever the two differ. */
function isSame(given: Buffer, expected: Buffer): boolean {
  const padded = Buffer.alloc(expected.length);
  given.copy(padded);
  return timingSafeEqual(padded, expected) && given.length === expected.length;
}
