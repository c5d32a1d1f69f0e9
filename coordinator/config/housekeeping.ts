/** What the leader of a site does now and then, so that history is complete and does not grow without end. */
import type { Logger } from "pino";
import { isMusterError } from "../../config-db/errors.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import type { Database, Document } from "../../config-db/store.ts";
import type { History } from "./history.ts";
import type { Records, StoredLayer } from "./records.ts";

export interface HousekeepingOptions {
  database: Database<Document>;
  records: Records;
  history: History;
  logger: Logger;
  /** Versions kept of each layer. */
  historyVersions: number;
  leads(): boolean;
  /** What else is to be looked at each time, by whoever does not lead, too. */
  also(): void;
  clock(): number;
}

/** Writes that come in by replication or straight to the store are in history after at most that. */
const everyMs = 2_000;
/** Content is written before the layer that names it: what nobody names is left alone for that long. */
const contentGraceMs = 10 * 60_000;
/** Versions over the limit that are let go at once; until then they stay, so that not every write is two. */
const slack = 10;

export class Housekeeping {
  readonly #options: HousekeepingOptions;
  /** Content documents, and when this process first saw the newest revision of each: its latest use. */
  readonly #content = new Map<string, { rev: string; seenMs: number }>();
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#running ??= this.#round().finally(() => {
        this.#running = undefined;
      });
    }, everyMs);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }

  /** Takes a change of a content document into memory. */
  applyContent(sha256: string, rev: string, deleted: boolean): void {
    if (deleted) this.#content.delete(sha256);
    else if (this.#content.get(sha256)?.rev !== rev) this.#content.set(sha256, { rev, seenMs: this.#options.clock() });
  }

  async #round(): Promise<void> {
    try {
      this.#options.also();
      if (!this.#options.leads()) return;
      await this.keepAll();
      for (const layer of this.#options.history.layers()) await this.prune(layer);
      await this.#dropContent();
    } catch (error) {
      this.#options.logger.warn(
        { reason: (error as Error).message },
        "housekeeping of the configuration failed; it goes on",
      );
    }
  }

  /**
   * Keeps every revision of a layer that is in the store and not in history. What cannot be kept just now is told in the log,
   * holds up no other, and is tried again at the next round.
   */
  async keepAll(): Promise<void> {
    const { records, history, logger } = this.#options;
    const missing = [...records.layers.values()].filter(
      (stored) => !isBookkeeping(stored) && !history.has(stored.layer, stored._rev),
    );
    for (const stored of missing) {
      try {
        await history.keep([...(await this.#ancestors(stored)), stored]);
      } catch (error) {
        const { _id: id, _rev: rev } = stored;
        logger.warn({ id, rev, reason: (error as Error).message }, "a version cannot be kept in history yet");
        if (isMusterError(error, "store-unavailable")) return;
      }
    }
  }

  /** Earlier revisions that are not in history and that the store has not compacted away: quick edits straight there. */
  async #ancestors(stored: StoredLayer): Promise<StoredLayer[]> {
    const { database, history } = this.#options;
    const { parent, layer, _rev } = stored;
    if (parent !== undefined ? history.has(layer, parent.rev) : _rev.startsWith("1-")) return [];
    const branch = (await database.branches(stored._id)).find((leaf) => leaf._rev === _rev);
    const found: StoredLayer[] = [];
    if (branch === undefined) return [];
    const { start, ids } = branch._revisions;
    for (const [index, hash] of ids.entries()) {
      const rev = `${start - index}-${hash}`;
      if (index === 0) continue;
      if (index > slack || history.has(layer, rev)) break;
      const ancestor = await database.get(stored._id, { rev });
      if (ancestor === undefined) break;
      const past = ancestor as unknown as StoredLayer;
      if (past.kind === "layer" && !isBookkeeping(past)) found.unshift(past);
    }
    return found;
  }

  /** Lets the oldest versions go when there are too many. The one that stands, and the base of a candidate, stay. */
  async prune(layer: LayerName): Promise<void> {
    const { history, historyVersions, records } = this.#options;
    const revisions = history.revisions(layer);
    if (revisions.length <= historyVersions + slack) return;
    const needed = new Set([records.layers.get(layer)?._rev, records.candidate(layer)?.base?.rev]);
    await history.forget(
      layer,
      revisions.slice(historyVersions).filter(({ rev }) => !needed.has(rev)),
    );
  }

  /** Deletes bytes that no layer and no version in history names any more, unless they are used at this moment. */
  async #dropContent(): Promise<void> {
    const { records, history, database, clock } = this.#options;
    const old = [...this.#content].filter(([, { seenMs }]) => clock() - seenMs > contentGraceMs);
    if (old.length === 0) return;
    const named = new Set<string>();
    const name = (content: StoredLayer["content"]) => {
      for (const { sha256 } of Object.values(content ?? {})) named.add(sha256);
    };
    for (const { content } of records.layers.values()) name(content);
    for (const layer of history.layers()) for (const { content } of history.revisions(layer)) name(content);
    const unused = old.filter(([sha256]) => !named.has(sha256));
    await database.bulk(
      unused.map(([sha256, { rev }]) => {
        return {
          _id: documentId.content(sha256),
          _rev: rev,
          _deleted: true,
          kind: "content",
          schemaVersion: 1,
          sha256,
        };
      }),
    );
  }
}

/** A tombstone that says where a merged branch went is no version of the layer. */
function isBookkeeping(stored: StoredLayer): boolean {
  return stored.mergedInto !== undefined;
}
