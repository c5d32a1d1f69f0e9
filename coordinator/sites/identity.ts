/**
 * Who a store belongs to: `_local/muster-site` in its muster-registry, which is not replicated. A peer's is read before
 * anything is replicated with it, so that a wrong URL, a name given twice or a newer Muster does no harm.
 */
import { randomBytes } from "node:crypto";
import { isMusterError } from "../../config-db/errors.ts";
import { databases } from "../../config-db/names.ts";
import { withoutCredentials } from "../../config-db/replication/replication.ts";
import type { Document, Store } from "../../config-db/store.ts";

/** The version of the records that this Muster writes and understands: their `schemaVersion`. */
export const recordsVersion = 1;

export interface SiteIdentity extends Document {
  site: string;
  /** Made when the store was set up: two stores that say the same site are not the same site. */
  storeId: string;
  schemaVersion: number;
  /** The sites that this one reads from at the moment: who is read need not write as well. */
  reads: string[];
}

const path = `${databases.registry}/_local/muster-site`;

/** Long enough for a slow link, short enough that a dead one is told within seconds. */
const timeoutMs = 5_000;

/** Takes the store for `site`, or finds it taken. */
export async function installIdentity(store: Store, site: string): Promise<SiteIdentity> {
  const known = await readIdentity(store);
  if (known?.site === site && known.schemaVersion === recordsVersion) return known;
  const storeId = known?.storeId ?? randomBytes(8).toString("hex");
  return await writeIdentity(store, {
    ...(known ?? { _id: "_local/muster-site", reads: [] }),
    site,
    storeId,
    schemaVersion: recordsVersion,
  });
}

export async function writeIdentity(store: Store, identity: SiteIdentity): Promise<SiteIdentity> {
  const { rev } = await store.request<{ rev: string }>({ method: "PUT", path, body: identity });
  return { ...identity, _rev: rev };
}

async function readIdentity(store: Store): Promise<SiteIdentity | undefined> {
  try {
    return await store.request<SiteIdentity>({ path, timeoutMs });
  } catch (error) {
    if (isMusterError(error, "not-found")) return undefined;
    throw error;
  }
}

/** What was found at a peer's URL. `unreachable`: nobody answers, it may come back. `error`: someone must change something. */
export type Probe =
  | { found: "site"; identity: SiteIdentity }
  | { found: "unreachable"; reason: string }
  | { found: "error"; reason: string };

/** Asks who answers at a peer's URL. Never throws. */
export async function probe(store: Store, peer: string, own: SiteIdentity): Promise<Probe> {
  try {
    const identity = await readIdentity(store);
    if (typeof identity?.site !== "string") {
      const welcome = await store.request<unknown>({ path: "", timeoutMs });
      const couchdb = (welcome as { couchdb?: unknown } | null)?.couchdb;
      if (couchdb === undefined) {
        return { found: "error", reason: `${store.url} is not a CouchDB: its answer does not say "couchdb"` };
      }
    }
    return judgeIdentity(identity, peer, own, store.url);
  } catch (error) {
    return judgeFault(error, store.url);
  }
}

/** Whether to replicate with who answered. Pure. */
export function judgeIdentity(
  identity: Partial<SiteIdentity> | undefined,
  peer: string,
  own: SiteIdentity,
  url: string,
): Probe {
  const wrong = (reason: string): Probe => ({ found: "error", reason });
  if (identity === undefined) {
    return wrong(`${url} is a CouchDB without a Muster site: no coordinator has run on it yet`);
  }
  const { site, storeId, schemaVersion = 0 } = identity;
  if (typeof site !== "string" || typeof storeId !== "string") {
    return wrong(`${url} has a ${path} that names no site`);
  }
  if (storeId === own.storeId) return wrong(`${url} is this site's own store`);
  if (site === own.site) {
    return wrong(`two sites are called ${site}: this one and that of ${url}; give one another MUSTER_SITE`);
  }
  if (site !== peer) return wrong(`${url} is the site ${site}, not ${peer}; correct the peer's name or URL`);
  if (schemaVersion > recordsVersion) {
    return wrong(
      `${peer} keeps records of version ${schemaVersion}, this site knows ${recordsVersion}: upgrade Muster here first`,
    );
  }
  return { found: "site", identity: { ...identity, reads: identity.reads ?? [] } as SiteIdentity };
}

/** What a failed request says of a peer. */
function judgeFault(error: unknown, url: string): Probe {
  const { cause, message } = error as Error & { cause?: { statusCode?: number; code?: string; message?: string } };
  const status = cause?.statusCode;
  if (status === 401 || status === 403) {
    return {
      found: "error",
      reason: `${url} refuses the credentials (HTTP ${status}); correct those in the peer's URL`,
    };
  }
  if (status !== undefined && status < 500) {
    return { found: "error", reason: `${url} is not a CouchDB of Muster's: HTTP ${status}` };
  }
  const what = status === undefined ? (cause?.code ?? cause?.message ?? message) : `HTTP ${status}`;
  return { found: "unreachable", reason: `${url} cannot be reached: ${withoutCredentials(what)}` };
}
