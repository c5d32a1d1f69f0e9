/** Which components have all that their plan names, as the broker's own list of bindings tells. */
import { exchanges, queues, typeSignalKey } from "../../config-db/names.ts";
import type { Binding, Management } from "./management.ts";
import type { Provisioned } from "./provisioning.ts";
import { componentPlan, versionMarker } from "./topology.ts";

/** With more types than these, asking for the bindings of each costs more than declaring again. */
const typesAskedMax = 500;

export interface Standing {
  /** Those that need no declaring. A queue that somebody deleted has lost its bindings, so its component is not among them. */
  standing: Provisioned[];
  /** Types that components are bound to and have no more: they changed while nobody could leave these. */
  former: Provisioned[];
}

/** How the broker has `components`. @throws what the management API says */
export async function findStanding(management: Management, components: Provisioned[]): Promise<Standing> {
  const types = new Set(components.map(({ type }) => type));
  const isAsked = types.size <= typesAskedMax && (await management.exchangeExists(versionMarker));
  if (!isAsked) return { standing: [], former: [] };
  const { unicast, requests, signals, any, all, reply } = exchanges;
  const found = new Set<string>();
  for (const source of [unicast, requests, any, all, reply, ...[...types].map(exchanges.type)])
    for (const binding of await management.bindingsFrom(source)) found.add(wordOf(binding));
  const byQueue = new Map(components.map((component) => [queues.broadcasts(component.id), component]));
  const former: Provisioned[] = [];
  for (const binding of await management.bindingsFrom(signals)) {
    found.add(wordOf(binding));
    const component = byQueue.get(binding.queue);
    if (component === undefined || !binding.key.startsWith(typeKeys)) continue;
    const type = binding.key.slice(typeKeys.length);
    if (type !== component.type) former.push({ ...component, type });
  }
  const standing = components.filter((component) =>
    componentPlan(component).bindings.every((binding) => found.has(wordOf(binding))),
  );
  return { standing, former };
}

/** How the keys begin that signals to a type have. */
const typeKeys = typeSignalKey("");

function wordOf({ exchange, key, queue }: Binding): string {
  return `${exchange} ${key} ${queue}`;
}
