/** Finds the site that a station is for: by its bridge, by its CouchDB, or, when neither answers, from before. */
import { isMusterError, MusterError } from "../../../config-db/errors.ts";
import { databases, idPattern } from "../../../config-db/names.ts";
import { shown } from "../bridge.ts";
import type { Site } from "../commands/sites.ts";
import type { Session } from "../session.ts";
import type { Station, StationPeer } from "./record.ts";

interface PeerOptions {
  site?: string;
  couchdbUrl?: string;
}

/**
 * The peer as it answers now; undefined where what the station knows has to do.
 * @throws MusterError `unreachable` where the site does not answer and was never known, `invalid-request` where what it
 *   answers is not enough to replicate with it.
 */
export async function findPeer(
  session: Session,
  station: Station,
  options: PeerOptions,
): Promise<StationPeer | undefined> {
  const { site } = options;
  if (site === undefined) {
    if (station.peers.length > 0) return undefined;
    throw new MusterError(
      "invalid-request",
      "this station has no site yet: give --site <url of its bridge or CouchDB> the first time",
    );
  }
  if (!URL.canParse(site) || !/^https?:$/.test(new URL(site).protocol)) {
    throw new MusterError("invalid-request", `--site must be an http:// or https:// URL, got "${site}"`);
  }
  try {
    return await askSite(session, site, options);
  } catch (error) {
    if (!isMusterError(error, "unreachable") && !isMusterError(error, "deadline-exceeded")) throw error;
    const known = station.peers.find((peer) => peer.siteUrl === site || peer.couchdbUrl === site);
    if (known === undefined) throw error;
    await session.note(
      `${error.message}\nWorking offline with what the station has of ${known.name}; it catches up by itself.`,
    );
    return undefined;
  }
}

async function askSite(session: Session, siteUrl: string, { couchdbUrl }: PeerOptions): Promise<StationPeer> {
  const client = session.at(siteUrl).bridge;
  const { body: root } = await client.ask<{ couchdb?: unknown } | undefined>({ path: "/" }).catch(noneThere);
  if (root?.couchdb !== undefined) {
    return { name: await siteOf(session, siteUrl), siteUrl, couchdbUrl: couchdbUrl ?? siteUrl };
  }
  const { body } = await client.ask<{ sites?: Site[] }>({ path: "/v1/sites" });
  if (!Array.isArray(body?.sites)) {
    throw new MusterError("invalid-request", `${shown(siteUrl)} answers, but is no Muster bridge and no CouchDB`);
  }
  const self = body.sites.find((site) => site.self);
  const found = couchdbUrl ?? self?.couchdbUrl;
  if (self === undefined || found === undefined) {
    throw new MusterError("invalid-request", `${shown(siteUrl)} does not say where its CouchDB is: give --couchdb-url`);
  }
  checkReach(siteUrl, found);
  return { name: self.name, siteUrl, couchdbUrl: found };
}

/** A bridge serves nothing at its root: that tells it from a CouchDB. */
function noneThere(error: unknown): { body: undefined } {
  if (isMusterError(error) && error.status < 500) return { body: undefined };
  throw error;
}

/** The site that a CouchDB belongs to, as its coordinator wrote it there. */
async function siteOf(session: Session, couchdbUrl: string): Promise<string> {
  const request = { path: `/${databases.registry}/_local/muster-site` };
  const { body } = await session.at(couchdbUrl).bridge.ask<{ site?: unknown }>(request).catch(noneThere);
  const name = (body as { site?: unknown } | undefined)?.site;
  if (typeof name === "string" && idPattern.test(name)) return name;
  const told = `${shown(couchdbUrl)} is a CouchDB without a Muster site, or it wants credentials: put them in the URL`;
  throw new MusterError("invalid-request", told);
}

const loopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** A CouchDB that is bound to its own machine's loopback is told as such, and is another machine's here. */
function checkReach(siteUrl: string, couchdbUrl: string): void {
  const [site, couchdb] = [new URL(siteUrl), new URL(couchdbUrl)];
  if (!loopback.test(couchdb.hostname) || loopback.test(site.hostname)) return;
  throw new MusterError(
    "invalid-request",
    `the CouchDB of ${site.host} can be reached from its own machine only (${shown(couchdbUrl)}): ` +
      "set MUSTER_COUCHDB_HOST and MUSTER_COUCHDB_PUBLIC_URL there, or give --couchdb-url",
  );
}
