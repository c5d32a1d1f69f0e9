/** Staged changes: settings that a part of the components gets before a layer has them for all. */
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import type { CandidateDocument, CandidateWrite } from "../../config-db/generated/types.ts";
import { documentId, type LayerName } from "../../config-db/names.ts";
import { generationOf } from "../../config-db/revision.ts";
import { sameJson } from "./etag.ts";
import type { WriteContext, WritesOptions } from "./guarded-write.ts";
import { exactly, guardedWrite, versionAfter } from "./guarded-write.ts";
import { layerOf } from "./history.ts";
import { refuseErrors } from "./judgement.ts";
import type { LayerWrites } from "./layer-writes.ts";
import type { StoredCandidate, StoredLayer } from "./records.ts";
import { checkSettings } from "./settings-rules.ts";

export class CandidateWrites {
  readonly #options: WritesOptions;
  readonly #layers: LayerWrites;
  /** When each layer's latest claim was first seen. */
  readonly #claims = new Map<string, { rev: string; sinceMs: number }>();

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
    return this.#write(layer, context, (stored) => {
      this.#refuseClaimed(layer, stored);
      const base = this.#options.records.layers.get(layer);
      const staged = { ...write, state: "staged" as const };
      return base === undefined ? staged : { ...staged, base: { rev: base._rev, version: base.version } };
    });
  }

  /** Takes a candidate away: the components have the layer's own settings again. @throws MusterError `not-found` */
  async delete(layer: LayerName, context: WriteContext): Promise<void> {
    await this.#write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no candidate`);
      this.#refuseClaimed(layer, stored);
      return { ...contentOf(stored), _deleted: true };
    });
  }

  /**
   * Makes a staged candidate the layer, for all. What ran before and died in between is finished.
   * @throws MusterError `precondition-failed` when the candidate is not the one expected; `not-found`; `conflict` when the
   * layer was changed after the candidate was staged, or another promotion is under way; `refused` when a component that
   * had not been selected would be broken.
   */
  async promote(layer: LayerName, { author, note, expected }: WriteContext): Promise<StoredLayer> {
    const { claimed, begun } = await this.#claim(layer, { author, ...(expected && { expected }) });
    const held = { author, expected: exactly(claimed._rev) };
    try {
      const made = begun ?? this.promotedLayer(claimed);
      const promoted = made ?? (await this.#replaceLayer(layer, claimed, { author, note }));
      await this.#write(layer, held, () => ({ ...contentOf(claimed), state: "promoted" }));
      return promoted;
    } catch (error) {
      // Nobody promotes it any more, unless somebody else has taken that over.
      await this.#release(layer, claimed, held).catch(() => undefined);
      throw error;
    }
  }

  /**
   * Ends a promotion of which `isAbandoned` says that who began it has died: it is finished where it had written the layer, or
   * still can, and else taken back.
   */
  async finish(candidate: StoredCandidate, author: string): Promise<void> {
    const layer = candidate.layer as LayerName;
    const context = { author, expected: exactly(candidate._rev) };
    try {
      await this.promote(layer, context);
    } catch (error) {
      if (!isMusterError(error, "conflict") && !isMusterError(error, "refused")) throw error;
      await this.#release(layer, candidate, context).catch((failed: unknown) => {
        // Another revision stands there: what was claimed anew is released, or somebody else's.
        if (!isMusterError(failed, "precondition-failed")) throw failed;
      });
    }
  }

  async #release(layer: LayerName, candidate: StoredCandidate, context: WriteContext): Promise<void> {
    await this.#write(layer, context, () => ({ ...contentOf(candidate), ...originOf(candidate) }));
  }

  /**
   * Says in the candidate that it is being promoted. The layer and its candidate are two documents: from here on nobody,
   * at any coordinator, takes it back or replaces it while the layer gets its settings.
   * @returns `begun`: the version of the layer that an earlier claim had made of it before who did that died
   */
  async #claim(
    layer: LayerName,
    context: WriteContext,
  ): Promise<{ claimed: StoredCandidate; begun: StoredLayer | undefined }> {
    let begun: StoredLayer | undefined;
    const claimed = await this.#write(layer, context, async (stored) => {
      if (stored?.state !== "staged") {
        const told = `layer ${layer} has no staged candidate${stored ? `: it was ${stored.state}` : ""}`;
        throw new MusterError("not-found", told);
      }
      if (this.#claimedWithin(stored, takeOverMs)) throw beingPromoted(layer);
      // A claim is a new revision, and none that was judged.
      const { records, effective } = this.#options;
      if (records.isHeld(stored)) refuseErrors(effective, `the candidate of layer ${layer}`, stored);
      const isOutdated = this.isStale(stored) && !this.#isAhead(stored);
      begun = isOutdated && stored.promotingSince !== undefined ? await this.#pastPromotion(stored) : undefined;
      if (isOutdated && begun === undefined && this.promotedLayer(stored) === undefined) throw madeFromAnother(stored);
      return { ...contentOf(stored), ...originOf(stored), promotingSince: this.#options.wallClock().toISOString() };
    });
    return { claimed, begun };
  }

  /** The version of the layer that a promotion of this candidate made, also where others have been written over it since. */
  async #pastPromotion(candidate: StoredCandidate): Promise<StoredLayer | undefined> {
    const layer = candidate.layer as LayerName;
    const { history } = this.#options;
    const since = history.revisions(layer).filter(({ version }) => version > (candidate.base?.version ?? 0));
    // The first version since is the one, but where sites wrote at once.
    const revs = since.map(({ rev }) => rev).reverse();
    for (let from = 0; from < revs.length; from += readAtOnce) {
      const versions = await history.readMany(layer, revs.slice(from, from + readAtOnce));
      const promoted = versions.map(layerOf).find((version) => isMadeOf(candidate, version));
      if (promoted !== undefined) return promoted;
    }
    return undefined;
  }

  /** Whether it is being promoted, for less than `ms` as far as was seen here: other machines have other clocks. */
  #claimedWithin({ layer, _rev, state, promotingSince }: StoredCandidate, ms: number): boolean {
    if (state !== "staged" || promotingSince === undefined) return false;
    const nowMs = this.#options.clock();
    const seen = this.#claims.get(layer);
    if (seen?.rev === _rev) return nowMs - seen.sinceMs < ms;
    this.#claims.set(layer, { rev: _rev, sinceMs: nowMs });
    return true;
  }

  /** Whether a promotion was begun and is not finished: who did it has died. */
  isAbandoned(candidate: StoredCandidate): boolean {
    return candidate.promotingSince !== undefined && !this.#claimedWithin(candidate, takeOverMs);
  }

  /** The layer, where it already is what this candidate would make of it. */
  promotedLayer(candidate: StoredCandidate): StoredLayer | undefined {
    const stored = this.#options.records.layer(candidate.layer as LayerName);
    return stored !== undefined && isMadeOf(candidate, stored) ? stored : undefined;
  }

  /** Whether the layer is not what it was when the candidate was staged, so that promoting would undo that change. */
  isStale({ layer, base }: StoredCandidate): boolean {
    return this.#options.records.layers.get(layer as LayerName)?._rev !== base?.rev;
  }

  /** Whether it was made from a layer that the changes feed has not given here yet: the write of the layer looks for it. */
  #isAhead({ layer, base }: StoredCandidate): boolean {
    return generation(base?.rev) > generation(this.#options.records.layers.get(layer as LayerName)?._rev);
  }

  /** Ends a staged candidate that was not promoted, and keeps why. */
  async withdraw(layer: LayerName, reason: string, context: WriteContext): Promise<void> {
    await this.#write(layer, context, (stored) => {
      if (stored === undefined) throw new MusterError("not-found", `layer ${layer} has no candidate`);
      this.#refuseClaimed(layer, stored);
      return { ...contentOf(stored), state: "withdrawn", reason };
    });
  }

  #refuseClaimed(layer: LayerName, stored: StoredCandidate | undefined): void {
    if (stored !== undefined && this.#claimedWithin(stored, claimMs)) throw beingPromoted(layer);
  }

  async #replaceLayer(layer: LayerName, candidate: StoredCandidate, context: WriteContext): Promise<StoredLayer> {
    const note = context.note ?? candidate.note ?? `promoted candidate ${candidate.version} of ${candidate.changedBy}`;
    const expected = { matches: () => !this.isStale(candidate), generation: generation(candidate.base?.rev) };
    try {
      return await this.#layers.write(layer, { author: context.author, note, expected }, (stored) => ({
        settings: candidate.settings,
        ...(stored?.content === undefined ? {} : { content: stored.content }),
      }));
    } catch (error) {
      if (!(error instanceof MusterError && error.code === "precondition-failed")) throw error;
      throw madeFromAnother(candidate, error);
    }
  }

  async #write(
    layer: LayerName,
    context: WriteContext,
    change: (stored: StoredCandidate | undefined) => Changed | Promise<Changed>,
  ): Promise<StoredCandidate> {
    const { records, effective, order } = this.#options;
    const id = documentId.candidate(layer);
    return order.run(layer, () =>
      guardedWrite<CandidateDocument>(this.#options, {
        id,
        newest: () => records.candidates.get(layer),
        expected: context.expected,
        make: async (newest) => {
          const changed = await change(newest?._deleted === true ? undefined : newest);
          const doc: CandidateDocument = {
            _id: id,
            kind: "candidate",
            schemaVersion: 1,
            layer,
            ...versionAfter(newest?.version ?? 0, context.author, this.#options),
            ...changed,
          };
          // What ends one gives its components what they have without it, which was judged with every write; one that goes
          // on being staged was judged when it was.
          if (doc.state === "staged" && doc._deleted !== true && changed.version === undefined) {
            refuseErrors(effective, `this candidate of layer ${layer}`, { ...doc, _rev: "tried" });
          }
          return doc;
        },
      }),
    );
  }
}

/**
 * A promotion takes as many milliseconds as two writes. After this who began it is taken for dead, and the leader of its site
 * ends it.
 */
const takeOverMs = 5_000;
/** After this nobody is left at its site to end it. */
const claimMs = 60_000;
/** Versions of a layer, a mebibyte of settings each at most. */
const readAtOnce = 20;

type Content = Pick<
  CandidateDocument,
  | "settings"
  | "note"
  | "selector"
  | "promoteWhen"
  | "withdrawOnReject"
  | "base"
  | "state"
  | "promotingSince"
  | "reason"
  | "_deleted"
>;
type Origin = Pick<CandidateDocument, "version" | "changedBy" | "changedAt">;
type Changed = Content & Partial<Origin>;

function contentOf(stored: StoredCandidate): Content {
  const { _id, _rev, kind, schemaVersion, layer, version, changedBy, changedAt, site, promotingSince, ...content } =
    stored;
  return content;
}

/** Of a write that changes nothing about what was staged. */
function originOf({ version, changedBy, changedAt }: StoredCandidate): Origin {
  return { version, changedBy, changedAt };
}

/** Whether a version of the layer is what this candidate makes of it. */
function isMadeOf({ base, settings }: StoredCandidate, version: StoredLayer): boolean {
  return version._deleted !== true && version.parent?.rev === base?.rev && sameJson(version.settings, settings);
}

/** Of nothing it is 0. */
function generation(rev: string | undefined): number {
  return rev === undefined ? 0 : generationOf(rev);
}

function beingPromoted(layer: LayerName): MusterError {
  const told = `the candidate of layer ${layer} is being promoted; look again in a moment`;
  return new MusterError("conflict", told, { retryAfterMs: 1_000 });
}

function madeFromAnother({ layer, base }: StoredCandidate, cause?: unknown): MusterError {
  const told = `layer ${layer} was changed after its candidate was staged on version ${base?.version ?? 0}`;
  return new MusterError("conflict", `${told}: PUT the candidate again, made from the layer as it is`, { cause });
}
