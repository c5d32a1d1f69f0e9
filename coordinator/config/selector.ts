/** Which components a staged candidate is for. Pure. */
import { createHash } from "node:crypto";
import type { Selector } from "../../config-db/generated/types.ts";
import type { LayerName } from "../../config-db/names.ts";

/** What a component's layers depend on. One that never registered has its id alone. */
export interface Traits {
  id: string;
  type?: string;
  subsystem?: string;
  site?: string;
  tags?: readonly string[];
}

/** Steps of `percent`: a hundredth of a percent. */
const steps = 10_000;

/** True when the component meets every condition of the selector; a list is met by any of its entries. */
export function isSelected(layer: LayerName, selector: Selector, component: Traits): boolean {
  const { tags, sites, components, percent } = selector;
  if (components !== undefined && !components.includes(component.id)) return false;
  if (sites !== undefined && (component.site === undefined || !sites.includes(component.site))) return false;
  if (tags !== undefined && !tags.some((tag) => component.tags?.includes(tag))) return false;
  return percent === undefined || place(layer, component.id) < (percent * steps) / 100;
}

/**
 * Where a component stands in the order in which growing percentages take components in: fixed by the names of layer
 * and component, so that every coordinator agrees, and 20 percent hold the components of 10 percent and as many more.
 */
function place(layer: LayerName, component: string): number {
  const hash = createHash("sha256").update(`${layer}/${component}`).digest();
  return hash.readUInt32BE(0) % steps;
}
