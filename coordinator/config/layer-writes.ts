/** Writes of layers: guarded by revision, kept in history, in memory at once. */
import { MusterError } from "../../config-db/errors.ts";
import type { LayerDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import type { Database, Document, Stored } from "../../config-db/store.ts";
import type { History } from "./history.ts";
import { mergePatch, type Settings } from "./merge.ts";
import type { Records, StoredLayer } from "./records.ts";
import { checkSettings } from "./settings-rules.ts";
import { WriteOrder } from "./write-order.ts";

export interface WriteContext {
  author: string;
  note?: string | undefined;
  /** The caller's `If-Match`: whether the revision that stands (undefined: none) is one that it named. */
  expected?: ((rev: string | undefined) => boolean) | undefined;
}

export interface LayerWritesOptions {
  database: Database<Document>;
  records: Records;
  history: History;
  site: string;
  wallClock(): Date;
  /** Takes a layer that the store has into memory. */
  applied(stored: StoredLayer): void;
}

/** Other coordinators of the site write too: a write that names no revision is made anew on theirs, this often. */
const attemptsMax = 10;

type Change = Pick<LayerDocument, "settings" | "content"> & { deleted?: true };

export class LayerWrites {
  readonly #options: LayerWritesOptions;
  readonly #order = new WriteOrder();

  constructor(options: LayerWritesOptions) {
    this.#options = options;
  }

  /** Resolves when no write is under way. */
  async close(): Promise<void> {
    await this.#order.idle();
  }

  /** Replaces a layer's settings, or makes the layer. @throws MusterError as `#write` */
  async put(layer: LayerName, settings: Settings, context: WriteContext): Promise<StoredLayer> {
    checkSettings(settings);
    return this.#write(layer, context, (stored) => ({ ...kept(stored), settings }));
  }

  /** Merges a patch (RFC 7396) into a layer's own settings. @throws MusterError as `#write` */
  async patch(layer: LayerName, patch: Settings, context: WriteContext): Promise<StoredLayer> {
    checkSettings(patch, { patch: true });
    return this.#write(layer, context, (stored) => ({
      ...kept(stored),
      settings: mergePatch(stored?.settings ?? {}, patch) as Settings,
    }));
  }

  /** @throws MusterError `not-found` where no layer stands, else as `#write` */
  async delete(layer: LayerName, context: WriteContext): Promise<void> {
    await this.#write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no settings to delete`);
      return { settings: {}, deleted: true };
    });
  }

  /** Writes the settings of an earlier version as a new one. @throws MusterError `not-found`, else as `#write` */
  async rollback(layer: LayerName, version: number, context: WriteContext): Promise<StoredLayer> {
    const found = this.#options.history.revisions(layer).filter((revision) => revision.version === version);
    const [only] = found;
    if (only === undefined) {
      throw new MusterError("not-found", `layer ${layer} has no version ${version} in its history`);
    }
    const past = await this.#options.history.read(layer, only.rev);
    if (past === undefined || past.deleted === true) {
      throw new MusterError(
        "refused",
        `version ${version} of layer ${layer} is its deletion: DELETE the layer instead`,
      );
    }
    const note = context.note ?? `rollback to version ${version}`;
    const { settings, content } = past;
    return this.#write(layer, { ...context, note }, () =>
      content === undefined ? { settings } : { settings, content },
    );
  }

  /**
   * One write, from the layer as it stands. The revision that it replaces is kept in history before, its own after: a
   * process that dies between the two is made up for when the next one starts.
   *
   * @throws MusterError `precondition-failed` where another revision stands than the caller expects, `invalid-request`
   * for settings that break a rule, `conflict` when other coordinators wrote first each time. Nothing was written then.
   */
  async #write(
    layer: LayerName,
    context: WriteContext,
    change: (stored: StoredLayer | undefined) => Change,
  ): Promise<StoredLayer> {
    return this.#order.run(layer, async () => {
      const { records, database, history, applied } = this.#options;
      let fresh = false;
      for (let attempt = 1; ; attempt++) {
        const stored = records.layers.get(layer);
        const standing = stored?._deleted === true ? undefined : stored;
        if (context.expected !== undefined && !context.expected(standing?._rev)) {
          // Another coordinator's newer revision may be what the caller has.
          if (fresh) throw preconditionFailed(layer, standing);
          fresh = true;
          await this.#refresh(layer);
          continue;
        }
        const doc = this.#document(layer, stored, change(standing), context);
        checkSettings(doc.settings);
        if (stored !== undefined) await history.keep([stored]);
        try {
          const written = { ...doc, _rev: await database.put(doc) };
          applied(written);
          await history.keep([written]);
          return written;
        } catch (error) {
          if (!(error instanceof MusterError && error.code === "conflict") || attempt >= attemptsMax) throw error;
          await this.#refresh(layer);
        }
      }
    });
  }

  #document(
    layer: LayerName,
    stored: StoredLayer | undefined,
    { deleted, ...change }: Change,
    { author, note }: WriteContext,
  ): LayerDocument {
    const { site, wallClock } = this.#options;
    return {
      _id: documentId.layer(layer),
      kind: "layer",
      schemaVersion: 1,
      layer,
      ...change,
      version: (stored?.version ?? 0) + 1,
      changedBy: author,
      changedAt: wallClock().toISOString(),
      site,
      ...(note === undefined ? {} : { note }),
      ...(stored === undefined ? {} : { _rev: stored._rev, parent: { rev: stored._rev, version: stored.version } }),
      ...(deleted === undefined ? {} : { _deleted: deleted }),
    };
  }

  /** Takes the layer from the store into memory, its tombstone when it is deleted. */
  async #refresh(layer: LayerName): Promise<void> {
    const { database, applied } = this.#options;
    const id = documentId.layer(layer);
    const found = (await database.get<LayerDocument>(id)) ?? newest(await database.leaves(id));
    if (found !== undefined) applied(found as StoredLayer);
  }
}

/** What a write of settings leaves as it is. */
function kept(stored: StoredLayer | undefined): Pick<LayerDocument, "content"> {
  return stored?.content === undefined ? {} : { content: stored.content };
}

function newest(leaves: Stored<Document>[]): Stored<Document> | undefined {
  return leaves.sort((a, b) => Number.parseInt(b._rev, 10) - Number.parseInt(a._rev, 10))[0];
}

function preconditionFailed(layer: LayerName, standing: StoredLayer | undefined): MusterError {
  const stands =
    standing === undefined
      ? "nothing stands there"
      : `revision "${standing._rev}" (version ${standing.version}) stands there`;
  return new MusterError("precondition-failed", `layer ${layer}: ${stands}; GET it and write on what you find`);
}
