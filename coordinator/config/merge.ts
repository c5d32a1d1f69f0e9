/** Layers of settings become one: JSON Merge Patch (RFC 7396), the strongest layer last. Pure; never mutates. */
import type { LayerName } from "../../config-db/names.ts";

export type Settings = Record<string, unknown>;

/** One layer as the merge sees it. `version` is told by explain; it has no influence on the result. */
export interface LayerSettings {
  layer: LayerName | `schema:${string}`;
  version: number;
  settings: Settings;
  /** True where the settings are a staged candidate's, not the layer's own. */
  candidate?: boolean;
}

export function isObject(value: unknown): value is Settings {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * RFC 7396: members of `patch` replace those of `target`, `null` removes, objects merge, all else (arrays too) is
 * replaced whole. The result shares the parts of both that did not change.
 *
 * Made of entries, not by assignment, so that a member named `__proto__` is a member and no prototype.
 */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) merged.delete(key);
    else merged.set(key, mergePatch(merged.get(key), value));
  }
  return Object.fromEntries(merged);
}

/** The settings that layers give together, the weakest first. A `null` in a layer takes away what weaker ones set. */
export function mergeLayers(layers: Pick<LayerSettings, "settings">[]): Settings {
  return layers.reduce<Settings>((merged, { settings }) => mergePatch(merged, settings) as Settings, {});
}
