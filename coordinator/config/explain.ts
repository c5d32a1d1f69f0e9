/** Which layer each value of merged settings came from. Pure. */

import { childPointer } from "../pointer.ts";
import { isObject, type LayerSettings } from "./merge.ts";

export interface Origin {
  layer: LayerSettings["layer"];
  version: number;
  candidate?: true;
}

/** A value of the merged settings. `members` for an object: its `origin` is the layer that made it one. */
interface Explained {
  origin: Origin;
  members?: Map<string, Explained>;
}

/**
 * For every leaf of the merged settings (what is no object, or an empty one) its JSON Pointer and the layer whose
 * value stands there. The same rules as `mergeLayers`, so that the two agree on every input.
 */
export function explain(layers: LayerSettings[]): Record<string, Origin> {
  let root: Explained | undefined;
  for (const { layer, version, settings, candidate } of layers) {
    root = overlay(root, settings, candidate === true ? { layer, version, candidate } : { layer, version });
  }
  const leaves: [string, Origin][] = [];
  if (root !== undefined) collect(root, "", leaves);
  return Object.fromEntries(leaves);
}

function overlay(below: Explained | undefined, patch: unknown, origin: Origin): Explained {
  if (!isObject(patch)) return { origin };
  const object = below?.members === undefined ? { origin, members: new Map<string, Explained>() } : below;
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) object.members?.delete(key);
    else object.members?.set(key, overlay(object.members.get(key), value, origin));
  }
  return object;
}

function collect({ origin, members }: Explained, pointer: string, leaves: [string, Origin][]): void {
  if (members === undefined || members.size === 0) {
    // Settings that are empty as a whole came from nowhere.
    if (pointer !== "") leaves.push([pointer, origin]);
    return;
  }
  for (const [key, child] of members) collect(child, childPointer(pointer, key), leaves);
}
