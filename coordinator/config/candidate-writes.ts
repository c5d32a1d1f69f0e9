/** Staged changes: settings that a part of the components gets before a layer has them for all. */
import { MusterError } from "../../config-db/errors.ts";
import type { CandidateDocument, CandidateWrite } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { sameJson } from "./etag.ts";
import { exactly, guardedWrite, preconditionFailed } from "./guarded-write.ts";
import { refuseErrors } from "./judgement.ts";
import type { LayerWrites, WriteContext, WritesOptions } from "./layer-writes.ts";
import type { StoredCandidate, StoredLayer } from "./records.ts";
import { checkSettings } from "./settings-rules.ts";

export class CandidateWrites {
  readonly #options: WritesOptions;
  readonly #layers: LayerWrites;

  constructor(options: WritesOptions, layers: LayerWrites) {
    this.#options = options;
    this.#layers = layers;
  }

  /**
   * Stages settings for the components that the selector names, in place of the layer's own; of an earlier candidate too.
   * @throws MusterError `refused` when one of them would be broken, with pointers, else as `guardedWrite`
   */
  async put(layer: LayerName, write: CandidateWrite, context: WriteContext): Promise<StoredCandidate> {
    checkSettings(write.settings);
    return this.#write(layer, context, () => {
      const base = this.#options.records.layers.get(layer);
      const staged = { ...write, state: "staged" as const };
      return base === undefined ? staged : { ...staged, base: { rev: base._rev, version: base.version } };
    });
  }

  /** Takes a candidate away: the components have the layer's own settings again. @throws MusterError `not-found` */
  async delete(layer: LayerName, context: WriteContext): Promise<void> {
    await this.#write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no candidate`);
      return { ...contentOf(stored), _deleted: true };
    });
  }

  /**
   * Makes a staged candidate the layer, for all. What ran before and died in between is finished.
   * @throws MusterError `precondition-failed` when the candidate is not the one expected; `not-found`; `conflict` when the
   * layer was changed after the candidate was staged; `refused` when
   * a component that had not been selected would be broken.
   */
  async promote(layer: LayerName, { author, note, expected }: WriteContext): Promise<StoredLayer> {
    const { records } = this.#options;
    const candidate = records.candidate(layer);
    if (expected !== undefined && !expected.matches(candidate?._rev)) {
      throw preconditionFailed(documentId.candidate(layer), candidate?._rev);
    }
    if (candidate?.state !== "staged") {
      throw new MusterError(
        "not-found",
        `layer ${layer} has no staged candidate${candidate ? `: it was ${candidate.state}` : ""}`,
      );
    }
    const { settings, base } = candidate;
    const promoted = this.promotedLayer(candidate) ?? (await this.#replaceLayer(layer, candidate, { author, note }));
    await this.#write(layer, { author, expected: exactly(candidate._rev) }, () => ({
      ...contentOf(candidate),
      settings,
      ...(base === undefined ? {} : { base }),
      state: "promoted",
    }));
    return promoted;
  }

  /** The layer, where it already is what this candidate would make of it. */
  promotedLayer({ layer, base, settings }: StoredCandidate): StoredLayer | undefined {
    const stored = this.#options.records.layer(layer as LayerName);
    return stored !== undefined && stored.parent?.rev === base?.rev && sameJson(stored.settings, settings)
      ? stored
      : undefined;
  }

  /** Whether the layer is not what it was when the candidate was staged, so that promoting would undo that change. */
  isStale({ layer, base }: StoredCandidate): boolean {
    return this.#options.records.layers.get(layer as LayerName)?._rev !== base?.rev;
  }

  /** Ends a staged candidate that was not promoted, and keeps why. */
  async withdraw(layer: LayerName, reason: string, context: WriteContext): Promise<void> {
    await this.#write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no candidate`);
      return { ...contentOf(stored), state: "withdrawn", reason };
    });
  }

  async #replaceLayer(layer: LayerName, candidate: StoredCandidate, context: WriteContext): Promise<StoredLayer> {
    const note = context.note ?? candidate.note ?? `promoted candidate ${candidate.version} of ${candidate.changedBy}`;
    try {
      return await this.#layers.write(
        layer,
        { author: context.author, note, expected: { matches: () => !this.isStale(candidate), generation: 0 } },
        (stored) => ({
          settings: candidate.settings,
          ...(stored?.content === undefined ? {} : { content: stored.content }),
        }),
      );
    } catch (error) {
      if (!(error instanceof MusterError && error.code === "precondition-failed")) throw error;
      const told = `layer ${layer} was changed after its candidate was staged on version ${candidate.base?.version ?? 0}`;
      throw new MusterError("conflict", `${told}: PUT the candidate again, made from the layer as it is`, {
        cause: error,
      });
    }
  }

  async #write(
    layer: LayerName,
    context: WriteContext,
    change: (stored: StoredCandidate | undefined) => Content,
  ): Promise<StoredCandidate> {
    const { database, records, effective, order, applied, found, site, wallClock } = this.#options;
    const id = documentId.candidate(layer);
    return order.run(layer, () =>
      guardedWrite<CandidateDocument>(database, {
        id,
        newest: () => records.candidates.get(layer),
        unusable: () => records.unusable.get(id)?.rev,
        expected: context.expected,
        make: (newest) => {
          const doc: CandidateDocument = {
            _id: id,
            kind: "candidate",
            schemaVersion: 1,
            layer,
            ...change(newest?._deleted === true ? undefined : newest),
            version: (newest?.version ?? 0) + 1,
            changedBy: context.author,
            changedAt: wallClock().toISOString(),
            site,
          };
          // What ends one gives its components what the layers have for all, which was judged by itself.
          if (doc.state === "staged" && doc._deleted !== true) {
            refuseErrors(effective, `this candidate of layer ${layer}`, { ...doc, _rev: "tried" });
          }
          return doc;
        },
        applied,
        found,
      }),
    );
  }
}

type Content = Pick<
  CandidateDocument,
  "settings" | "note" | "selector" | "promoteWhen" | "withdrawOnReject" | "base" | "state" | "reason" | "_deleted"
>;

function contentOf(stored: StoredCandidate): Content {
  const { _id, _rev, kind, schemaVersion, layer, version, changedBy, changedAt, site, ...content } = stored;
  return content;
}
