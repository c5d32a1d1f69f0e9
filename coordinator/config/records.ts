/** What the configuration database holds, in memory: fed by the changes feed and by this coordinator's own writes. */
import type { HistoryDocument, LayerDocument } from "../../config-db/generated/types.ts";
import { documentId, type LayerName, layersOf } from "../../config-db/names.ts";
import type { Stored } from "../../config-db/store.ts";
import type { LayerSettings, Settings } from "./merge.ts";

export type StoredLayer = Stored<LayerDocument>;

/** What a component's layers depend on. A component that never registered has its id alone. */
export interface Traits {
  id: string;
  type?: string;
  subsystem?: string;
  site?: string;
  tags?: readonly string[];
}

/** One layer that takes part in a component's effective settings. */
export interface ChainLink extends LayerSettings {
  layer: LayerName;
  rev: string;
}

/** The settings of a layer that are in force. Usually those of the newest revision. */
export interface ActiveLayer {
  settings: Settings;
  version: number;
  rev: string;
}

export class Records {
  /** The newest revision of each layer; tombstones too: they know the version to count on from. */
  readonly layers = new Map<LayerName, StoredLayer>();
  readonly #active = new Map<LayerName, ActiveLayer>();

  /** The layer as it stands, or undefined where it was never written or is deleted. */
  layer(name: LayerName): StoredLayer | undefined {
    const stored = this.layers.get(name);
    return stored?._deleted === true ? undefined : stored;
  }

  active(name: LayerName): ActiveLayer | undefined {
    return this.#active.get(name);
  }

  /** Puts settings in force, or takes a layer out of force with undefined. */
  activate(name: LayerName, active: ActiveLayer | undefined): void {
    if (active === undefined) this.#active.delete(name);
    else this.#active.set(name, active);
  }

  /** The layers in force for a component, the weakest first. */
  chain(traits: Traits): ChainLink[] {
    const links: ChainLink[] = [];
    for (const layer of layersOf(traits)) {
      const active = this.#active.get(layer);
      if (active !== undefined) links.push({ layer, ...active });
    }
    return links;
  }
}

export function activeOf(stored: StoredLayer): ActiveLayer | undefined {
  if (stored._deleted === true) return undefined;
  return { settings: stored.settings, version: stored.version, rev: stored._rev };
}

/**
 * The history document of one revision of a layer. It follows from that revision alone: whoever writes it, at whatever
 * site, writes the same.
 */
export function historyOf(stored: StoredLayer): HistoryDocument {
  const { _id, _rev, _deleted, kind, ...kept } = stored;
  const layer = stored.layer as LayerName;
  return {
    _id: documentId.history(layer, _rev),
    kind: "history",
    rev: _rev,
    ...kept,
    ...(_deleted === true ? { deleted: true } : {}),
  };
}
