/** What a station remembers between runs, in its data directory: its name, ports and peers, and what it has told of. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { MusterError } from "../../../config-db/errors.ts";
import { idPattern } from "../../../config-db/names.ts";
import { jsonText } from "../style.ts";
import type { Look } from "./news.ts";

export interface StationPeer {
  /** The peer site's name. */
  name: string;
  /** As given by --site, so that the same --site is known again while the site cannot be reached. */
  siteUrl: string;
  /** With credentials, where it needs them: the file is the owner's alone. */
  couchdbUrl: string;
}

export interface Station {
  site: string;
  httpPort: number;
  couchdbPort: number;
  peers: StationPeer[];
}

/** Away from 8080 and 5984, so that a station and a site can share a machine. */
const ports = { http: 8090, couchdb: 5990 };

const stationFile = "station.json";
const seenFile = "seen.json";

/**
 * The station as it was, with what is given now in place of it; a new one where there was none.
 * @throws MusterError `invalid-request` for another name than it has: its records carry the old one.
 */
export async function readStation(
  dataDir: string,
  given: { name?: string; httpPort?: number; couchdbPort?: number },
): Promise<Station> {
  const kept = await readKept(dataDir);
  const { name = kept?.site ?? madeUpName(hostname()) } = given;
  if (!idPattern.test(name))
    throw new MusterError("invalid-request", `--name must match ${idPattern.source}, got "${name}"`);
  if (kept !== undefined && kept.site !== name) {
    const told = `the station in ${dataDir} is ${kept.site}, and what it wrote says so: give another --data-dir for ${name}`;
    throw new MusterError("invalid-request", told);
  }
  return {
    site: name,
    httpPort: given.httpPort ?? kept?.httpPort ?? ports.http,
    couchdbPort: given.couchdbPort ?? kept?.couchdbPort ?? ports.couchdb,
    peers: kept?.peers ?? [],
  };
}

async function readKept(dataDir: string): Promise<Station | undefined> {
  let text: string;
  try {
    text = await readFile(join(dataDir, stationFile), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new MusterError("invalid-request", `cannot read ${join(dataDir, stationFile)}: ${(error as Error).message}`);
  }
  try {
    return JSON.parse(text) as Station;
  } catch (error) {
    const told = `${join(dataDir, stationFile)} is broken (${(error as Error).message}): mend it, or move it away and give --site and --name`;
    throw new MusterError("invalid-request", told);
  }
}

/** Two stations of one name would fight over one record, and many laptops are called localhost: hence the random part. */
export function madeUpName(host: string, random = randomBytes(2).toString("hex")): string {
  const label = host
    .toLowerCase()
    .split(".")[0]
    ?.replaceAll(/[^a-z0-9-]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 40);
  return `station-${label || "local"}-${random}`;
}

export async function rememberStation(dataDir: string, station: Station): Promise<void> {
  await write(dataDir, stationFile, station);
}

/** The layers that were told of when the station last ran; undefined where that is not known. */
export async function readSeen(dataDir: string): Promise<Look["layers"] | undefined> {
  try {
    return JSON.parse(await readFile(join(dataDir, seenFile), "utf8")) as Look["layers"];
  } catch {
    // It only decides on what is told as new.
    return undefined;
  }
}

export async function rememberSeen(dataDir: string, layers: Look["layers"]): Promise<void> {
  await write(dataDir, seenFile, layers);
}

/** Whole or not at all, for its owner only. */
async function write(dataDir: string, file: string, content: unknown): Promise<void> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const path = join(dataDir, file);
  await writeFile(`${path}.next`, `${jsonText(content, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.next`, path);
}

/** A station has the peers that it ever had, the newest address of each. */
export function withPeer(station: Station, peer: StationPeer | undefined): Station {
  if (peer === undefined) return station;
  return { ...station, peers: [...station.peers.filter(({ name }) => name !== peer.name), peer] };
}
