/** Which components have all that their plan names, as the broker's own list of bindings tells. */
import { exchanges } from "../../config-db/names.ts";
import type { Binding, Management } from "./management.ts";
import type { Provisioned } from "./provisioning.ts";
import { componentPlan, versionMarker } from "./topology.ts";

/** With more types than these, asking for the bindings of each costs more than declaring again. */
const typesAskedMax = 500;

/**
 * @returns those of `components` that need no declaring. A queue that somebody deleted has lost its bindings, so its
 * component is not among them.
 * @throws what the management API says
 */
export async function findStanding(management: Management, components: Provisioned[]): Promise<Provisioned[]> {
  const types = new Set(components.map(({ type }) => type));
  if (types.size > typesAskedMax || !(await management.exchangeExists(versionMarker))) return [];
  const { unicast, requests, signals, any, all, reply } = exchanges;
  const sources = [unicast, requests, signals, any, all, reply, ...[...types].map(exchanges.type)];
  const found = new Set<string>();
  for (const source of sources) for (const binding of await management.bindingsFrom(source)) found.add(wordOf(binding));
  return components.filter((component) =>
    componentPlan(component).bindings.every((binding) => found.has(wordOf(binding))),
  );
}

function wordOf({ exchange, key, queue }: Binding): string {
  return `${exchange} ${key} ${queue}`;
}
