/** Promotes and withdraws staged candidates by what the components report of them. */
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { LayerName } from "../../config-db/names.ts";
import type { Background } from "./background.ts";
import type { CandidateWrites } from "./candidate-writes.ts";
import type { EffectiveSettings } from "./effective-settings.ts";
import { exactly } from "./guarded-write.ts";
import type { Records, StoredCandidate } from "./records.ts";
import { isSelected } from "./selector.ts";
import { type ComponentStatus, componentStatus } from "./status.ts";

export type Verdict = { do: "promote" } | { do: "withdraw"; reason: string } | undefined;

/** What to do with a staged candidate, given what its components made of it. Pure. */
export function judgeCandidate(
  { promoteWhen, withdrawOnReject }: Pick<StoredCandidate, "promoteWhen" | "withdrawOnReject">,
  statuses: ComponentStatus[],
): Verdict {
  const rejected = statuses.find(({ status }) => status === "rejected");
  if (rejected !== undefined) {
    if (withdrawOnReject !== true) return undefined;
    return { do: "withdraw", reason: `${rejected.id} rejected it: ${rejected.reason || "no reason given"}` };
  }
  const applied = statuses.filter(({ status }) => status === "applied").length;
  return promoteWhen !== undefined && applied >= promoteWhen.applied ? { do: "promote" } : undefined;
}

export interface StagingOptions {
  records: Records;
  effective: EffectiveSettings;
  components: { get(id: string): ComponentDocument | undefined };
  writes: CandidateWrites;
  background: Background;
  site: string;
  /** Only the leader of the site where a candidate was staged decides on it: two would write the layer twice. */
  leads(): boolean;
}

/** `changedBy` of what nobody asked for at that moment. */
const author = "muster";

export class Staging {
  readonly #options: StagingOptions;
  readonly #deciding = new Set<LayerName>();

  constructor(options: StagingOptions) {
    this.#options = options;
  }

  /** What the components that are up and have this candidate made of it. */
  statuses(candidate: StoredCandidate): ComponentStatus[] {
    const { records, effective, components } = this.#options;
    const { layer, selector } = candidate;
    const statuses: ComponentStatus[] = [];
    if (records.isHeld(candidate)) return statuses;
    for (const id of effective.concernedByLayer(layer as LayerName)) {
      const component = components.get(id);
      if (component?.state !== "up" || !isSelected(layer as LayerName, selector, component)) continue;
      statuses.push(componentStatus(component, effective.etag(id)));
    }
    return statuses;
  }

  /** To be called when a component reported or came, and now and then. */
  review(): void {
    const { records, site, leads } = this.#options;
    if (records.candidates.size === 0 || !leads()) return;
    for (const [layer, candidate] of records.candidates) {
      const { promoteWhen, withdrawOnReject, promotingSince } = candidate;
      const waits = promoteWhen !== undefined || withdrawOnReject === true || promotingSince !== undefined;
      const open = candidate.state === "staged" && candidate._deleted !== true;
      if (open && waits && candidate.site === site) this.#decide(layer, candidate);
    }
  }

  #decide(layer: LayerName, candidate: StoredCandidate): void {
    const { writes, records } = this.#options;
    if (this.#deciding.has(layer)) return;
    if (candidate.promotingSince !== undefined) {
      if (!writes.isAbandoned(candidate)) return;
      this.#run("end a promotion of", layer, () => writes.finish(candidate, author));
      return;
    }
    const verdict = records.isHeld(candidate) ? undefined : judgeCandidate(candidate, this.statuses(candidate));
    if (verdict === undefined) return;
    const expected = exactly(candidate._rev);
    if (verdict.do === "withdraw") {
      this.#run("withdraw", layer, () => writes.withdraw(layer, verdict.reason, { author, expected }));
      return;
    }
    // One made from a layer that changed since waits for its author.
    if (writes.isStale(candidate) && writes.promotedLayer(candidate) === undefined) return;
    this.#run("promote", layer, async () => {
      await writes.promote(layer, { author, expected });
    });
  }

  #run(what: string, layer: LayerName, work: () => Promise<void>): void {
    this.#deciding.add(layer);
    this.#options.background.run(`${what} the candidate of ${layer}`, () =>
      work().finally(() => this.#deciding.delete(layer)),
    );
  }
}
