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
 * replaced whole. The result shares the parts of both that did not change. A member named `__proto__` is a
 * member like any other and never a prototype.
 */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Settings = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else setMember(merged, key, mergePatch(Object.hasOwn(merged, key) ? merged[key] : undefined, value));
  }
  return merged;
}

function setMember(object: Settings, key: string, value: unknown): void {
  if (key !== "__proto__") object[key] = value;
  else Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
}

/** The settings that layers give together, the weakest first. A `null` in a layer takes away what weaker ones set. */
export function mergeLayers(layers: Pick<LayerSettings, "settings">[]): Settings {
  return layers.reduce<Settings>((merged, { settings }) => mergePatch(merged, settings) as Settings, {});
}
