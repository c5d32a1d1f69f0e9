/** A layer's history as operators read it: the newest version first, each with what it changed. */
import { MusterError } from "../../config-db/errors.ts";
import type { LayerName } from "../../config-db/names.ts";
import { type History, type KeptRevision, newestFirst, type StoredHistory } from "./history.ts";
import { type JsonPatch, jsonPatch } from "./json-patch.ts";
import type { Settings } from "./merge.ts";

export interface HistoryVersion {
  version: number;
  rev: string;
  changedAt: string;
  changedBy: string;
  site: string;
  note?: string;
  settings: Settings;
  /** From the version that it was made from; absent where that one is no longer kept. */
  diff?: JsonPatch;
  deleted?: true;
  content?: StoredHistory["content"];
}

export interface HistoryPage {
  versions: HistoryVersion[];
  cursor?: string;
}

/** A page ends early at this size: a hundred versions of a mebibyte are not one answer. */
const pageCharactersMax = 4 * 1024 * 1024;
const readAtOnce = 20;

/** @throws MusterError `not-found` for a layer that never was, `invalid-request` for a cursor that is none. */
export async function historyPage(
  history: History,
  layer: LayerName,
  { limit, cursor }: { limit: number; cursor?: string | undefined },
): Promise<HistoryPage> {
  const all = history.revisions(layer);
  if (all.length === 0) throw new MusterError("not-found", `layer ${layer} has no history: it was never written`);
  const rest = cursor === undefined ? all : after(all, cursor);
  const versions: HistoryVersion[] = [];
  const known = new Map<string, StoredHistory>();
  let characters = 0;
  for (const [index, revision] of rest.entries()) {
    if (versions.length === limit || characters > pageCharactersMax) {
      return { versions, cursor: cursorOf(rest[index - 1] as KeptRevision) };
    }
    if (!known.has(revision.rev)) await read(history, layer, rest.slice(index, index + readAtOnce), known);
    const doc = known.get(revision.rev);
    if (doc === undefined) continue;
    const told = await describe(history, layer, doc, known);
    characters += JSON.stringify(told).length;
    versions.push(told);
  }
  return { versions };
}

async function describe(
  history: History,
  layer: LayerName,
  doc: StoredHistory,
  known: Map<string, StoredHistory>,
): Promise<HistoryVersion> {
  const { version, rev, changedAt, changedBy, site, note, settings, parent, deleted, content } = doc;
  if (parent !== undefined && !known.has(parent.rev) && history.has(layer, parent.rev)) {
    await read(history, layer, [parent], known);
  }
  const before = parent === undefined ? {} : known.get(parent.rev)?.settings;
  return {
    version,
    rev,
    changedAt,
    changedBy,
    site,
    ...(note === undefined ? {} : { note }),
    settings,
    ...(before === undefined ? {} : { diff: jsonPatch(before, settings) }),
    ...(deleted === undefined ? {} : { deleted }),
    ...(content === undefined ? {} : { content }),
  };
}

async function read(
  history: History,
  layer: LayerName,
  revisions: { rev: string }[],
  known: Map<string, StoredHistory>,
): Promise<void> {
  const missing = revisions.map(({ rev }) => rev).filter((rev) => !known.has(rev));
  for (const doc of await history.readMany(layer, missing)) known.set(doc.rev, doc);
}

function cursorOf({ version, rev }: KeptRevision): string {
  return `${version}.${rev}`;
}

/** What comes after a cursor, even where that revision itself is no longer kept. */
function after(revisions: KeptRevision[], cursor: string): KeptRevision[] {
  const [, version, rev] = /^(\d+)\.([\w-]+)$/.exec(cursor) ?? [];
  if (version === undefined || rev === undefined) {
    throw new MusterError("invalid-request", `"${cursor.slice(0, 100)}" is no cursor: use the one of the page before`);
  }
  return revisions.filter((one) => newestFirst({ version: Number(version), rev }, one) < 0);
}
