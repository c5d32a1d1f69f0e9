/** Writes of layers: guarded by revision, checked against every component they concern, kept in history. */
import { setImmediate as turn } from "node:timers/promises";
import { MusterError } from "../../config-db/errors.ts";
import type { LayerDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { guardedWrite, versionAfter, type WriteContext, type WritesOptions } from "./guarded-write.ts";
import { refuseErrors } from "./judgement.ts";
import { mergePatch, type Settings } from "./merge.ts";
import type { StoredLayer } from "./records.ts";
import { checkSettings } from "./settings-rules.ts";

/** What one write makes of a layer. */
type Change = Pick<LayerDocument, "settings" | "content"> & { deleted?: true };

export class LayerWrites {
  readonly #options: WritesOptions;

  constructor(options: WritesOptions) {
    this.#options = options;
  }

  /** Replaces a layer's settings, or makes the layer. @throws MusterError as `write` */
  async put(layer: LayerName, settings: Settings, context: WriteContext): Promise<StoredLayer> {
    checkSettings(settings);
    return this.write(layer, context, (stored) => ({ ...contentOf(stored), settings }));
  }

  /** Merges a patch (RFC 7396) into a layer's own settings. @throws MusterError as `write` */
  async patch(layer: LayerName, patch: Settings, context: WriteContext): Promise<StoredLayer> {
    checkSettings(patch, { patch: true });
    return this.write(layer, context, (stored) => {
      const settings = mergePatch(stored?.settings ?? {}, patch) as Settings;
      checkSettings(settings);
      return { ...contentOf(stored), settings };
    });
  }

  /** @throws MusterError `not-found` where no layer stands, else as `write` */
  async delete(layer: LayerName, context: WriteContext): Promise<void> {
    await this.write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no settings to delete`);
      return { settings: {}, deleted: true };
    });
  }

  /**
   * Writes what an earlier version was, its content files too, as a new version.
   * @param rev tells versions of one number apart, which sites that were cut off from each other make.
   * @throws MusterError `not-found`, `refused` where that version is a deletion or is two, else as `write`
   */
  async rollback(
    layer: LayerName,
    { version, rev }: { version: number; rev?: string | undefined },
    context: WriteContext,
  ): Promise<StoredLayer> {
    const { history, contents } = this.#options;
    const named = () =>
      history
        .revisions(layer)
        .filter((revision) => revision.version === version && (rev === undefined || revision.rev === rev));
    // Another coordinator may just have written it.
    if (named().length === 0) await history.refresh(layer);
    const [only, ...more] = named();
    if (more.length > 0) {
      const revs = [only, ...more].map((revision) => revision?.rev);
      throw new MusterError(
        "refused",
        `layer ${layer} has version ${version} ${revs.length} times: name its rev, one of ${revs.join(", ")}`,
      );
    }
    const past = only && (await history.read(layer, only.rev));
    if (past === undefined) {
      const kept = history.revisions(layer).map((revision) => revision.version);
      const range = kept.length === 0 ? "it has none" : `it has ${kept.at(-1)} to ${kept[0]}`;
      throw new MusterError("not-found", `layer ${layer} has no version ${version} in its history; ${range}`);
    }
    if (past.deleted === true) {
      throw new MusterError(
        "refused",
        `version ${version} of layer ${layer} is its deletion: DELETE the layer instead`,
      );
    }
    const note = context.note ?? `rollback to version ${version}`;
    const { settings, content } = past;
    const written = await this.write(layer, { ...context, note }, async () => {
      await contents.use(content);
      return content === undefined ? { settings } : { settings, content };
    });
    // Again, as with every file that a layer is given: see ContentWrites.
    await contents.use(content);
    return written;
  }

  /**
   * One write, from the layer as it stands. The revision that it replaces is in history before it, its own after it: a
   * process that dies between the two is made up for by the next one that starts or writes.
   *
   * @throws MusterError `refused` when it would break a component, with pointers; `precondition-failed` and `conflict`
   * as `guardedWrite`. Nothing was written then.
   */
  async write(
    layer: LayerName,
    context: WriteContext,
    change: (stored: StoredLayer | undefined) => Promise<Change> | Change,
  ): Promise<StoredLayer> {
    const { records, effective, history, order } = this.#options;
    const id = documentId.layer(layer);
    return order.run(layer, async () => {
      const written = await guardedWrite<LayerDocument>(this.#options, {
        id,
        newest: () => records.layers.get(layer),
        expected: context.expected,
        make: async (newest) => {
          const next = await change(newest?._deleted === true ? undefined : newest);
          const content = next.deleted === true ? undefined : next.settings;
          refuseErrors(effective, `this change of layer ${layer}`, { id, content });
          if (newest !== undefined) await history.keep([newest]);
          return this.#document(layer, newest, next, context);
        },
      });
      // What watchers were told leaves in this turn of the event loop; it need not wait for this.
      await turn();
      await history.keep([written]);
      return written;
    });
  }

  #document(
    layer: LayerName,
    newest: StoredLayer | undefined,
    { deleted, ...change }: Change,
    { author, note }: WriteContext,
  ): LayerDocument {
    const { history } = this.#options;
    // History too: a layer that was deleted straight in CouchDB left no version.
    const last = Math.max(newest?.version ?? 0, history.revisions(layer)[0]?.version ?? 0);
    return {
      _id: documentId.layer(layer),
      kind: "layer",
      schemaVersion: 1,
      layer,
      ...change,
      ...versionAfter(last, author, this.#options),
      ...(note === undefined ? {} : { note }),
      ...(newest === undefined ? {} : { parent: { rev: newest._rev, version: newest.version } }),
      ...(deleted === undefined ? {} : { _deleted: deleted }),
    };
  }
}

/** What a write of settings leaves as it is. */
function contentOf(stored: StoredLayer | undefined): Pick<LayerDocument, "content"> {
  return stored?.content === undefined ? {} : { content: stored.content };
}
