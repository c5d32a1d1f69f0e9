/** The effective settings of every component, in memory: who has which, who waits for them, whom a change concerns. */
import type { FieldError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { LayerName } from "../../config-db/names.ts";
import { computeEffective, type Effective, explainEffective } from "./effective.ts";
import type { Origin } from "./explain.ts";
import type { Records } from "./records.ts";
import type { Traits } from "./selector.ts";

/** What configuration needs to read of components: the registry is this. */
export interface Components {
  get(id: string): ComponentDocument | undefined;
  all(): Iterable<ComponentDocument>;
}

/** What a change that is tried would do to one component. */
export interface Impact {
  id: string;
  before: Effective;
  after: Effective;
}

interface Current {
  /** What the component was when this was computed. */
  traits: string;
  effective: Effective;
}

/** Components without a layer of their own share what they have; at most this many different ones are kept. */
const sharedMax = 1_000;

export class EffectiveSettings {
  readonly #records: Records;
  readonly #components: Components;
  readonly #changed: (ids: string[]) => void;
  readonly #current = new Map<string, Current>();
  readonly #shared = new Map<string, Effective>();
  readonly #watchers = new Map<string, Set<() => void>>();

  /** @param changed told of the components whose effective settings became others, after their watchers. */
  constructor(records: Records, components: Components, changed: (ids: string[]) => void) {
    this.#records = records;
    this.#components = components;
    this.#changed = changed;
  }

  /** Of a component that never registered: what its layers would give it. */
  get(id: string): Effective {
    const known = this.#current.get(id);
    if (known !== undefined) return known.effective;
    const traits = this.#traits(id);
    const effective = this.#compute(traits, this.#shared);
    if (this.#isKept(id)) this.#current.set(id, { traits: traitsKey(traits), effective });
    return effective;
  }

  explain(id: string): Record<string, Origin> {
    const traits = this.#traits(id);
    return explainEffective(this.get(id), this.#records.chain(traits), this.#records.schemaInForce(traits.type));
  }

  /** `changed` is called after the effective settings of `id` became others. @returns what ends the subscription. */
  subscribe(id: string, changed: () => void): () => void {
    const watchers = this.#watchers.get(id) ?? new Set();
    this.#watchers.set(id, watchers.add(changed));
    this.get(id);
    return () => {
      watchers.delete(changed);
      if (watchers.size > 0 || this.#watchers.get(id) !== watchers) return;
      this.#watchers.delete(id);
      if (!this.#isKept(id)) this.#current.delete(id);
    };
  }

  /** The components whose effective settings this layer can influence. */
  concernedByLayer(layer: LayerName): string[] {
    const [scope, name] = layer.split(":") as [string, string];
    if (scope === "component") return [name];
    if (scope === "type") return this.#registered((component) => component.type === name);
    if (scope === "subsystem") return this.#registered((component) => component.subsystem === name);
    return this.all();
  }

  concernedByType(type: string): string[] {
    return this.#registered((component) => component.type === type);
  }

  /** Every component that is registered, has a layer of its own, or is watched. */
  all(): string[] {
    const ids = new Set(this.#watchers.keys());
    for (const { id } of this.#components.all()) ids.add(id);
    for (const layer of this.#records.layers.keys()) {
      if (layer.startsWith("component:")) ids.add(layer.slice("component:".length));
    }
    return [...ids];
  }

  #registered(matches: (component: ComponentDocument) => boolean): string[] {
    const ids: string[] = [];
    for (const component of this.#components.all()) if (matches(component)) ids.push(component.id);
    return ids;
  }

  /** Makes a change to the records and tells of those of `ids` whose effective settings it really changed. */
  change(ids: string[], make: () => void): void {
    const before = ids.map((id) => this.get(id).etag);
    make();
    this.forget(ids);
    this.#tell(ids.filter((id, index) => this.get(id).etag !== before[index]));
  }

  /** Makes what was computed for these be computed anew when it is asked for. */
  forget(ids: Iterable<string>): void {
    this.#shared.clear();
    for (const id of ids) this.#current.delete(id);
  }

  /** What `tried` (see `Records.trial`) would do to these, in their order; stays without effect. */
  impact(ids: string[], tried: Parameters<Records["trial"]>[0]): Impact[] {
    const before = ids.map((id) => this.get(id));
    return this.#records.trial(tried, () => {
      const shared = new Map<string, Effective>();
      return ids.map((id, index) => {
        return { id, before: before[index] as Effective, after: this.#compute(this.#traits(id), shared) };
      });
    });
  }

  /** To be called when the registration of `id` changed. */
  componentChanged(id: string): void {
    const known = this.#current.get(id);
    if (known === undefined || known.traits === traitsKey(this.#traits(id))) return;
    this.#current.delete(id);
    if (this.get(id).etag !== known.effective.etag) this.#tell([id]);
  }

  #tell(ids: string[]): void {
    for (const id of ids) for (const changed of [...(this.#watchers.get(id) ?? [])]) changed();
    if (ids.length > 0) this.#changed(ids);
  }

  #traits(id: string): Traits {
    return this.#components.get(id) ?? { id };
  }

  #compute(traits: Traits, shared: Map<string, Effective>): Effective {
    const chain = this.#records.chain(traits);
    const schema = this.#records.schemaInForce(traits.type);
    const secretOf = (name: string) => this.#records.secret(name);
    if (chain.at(-1)?.layer === `component:${traits.id}`) return computeEffective(chain, schema, secretOf);
    const key = `${schema?.type} ${schema?.rev} ${chain.map(({ layer, rev }) => `${layer}@${rev}`).join(" ")}`;
    const known = shared.get(key);
    if (known !== undefined) return known;
    const effective = computeEffective(chain, schema, secretOf);
    if (shared.size >= sharedMax) shared.clear();
    shared.set(key, effective);
    return effective;
  }

  /** Anyone may ask for the settings of any id: those of ids that mean nothing are not kept. */
  #isKept(id: string): boolean {
    return (
      this.#components.get(id) !== undefined || this.#watchers.has(id) || this.#records.layers.has(`component:${id}`)
    );
  }
}

function traitsKey({ type, subsystem, site, tags }: Traits): string {
  return JSON.stringify([type, subsystem, site, tags]);
}

/** The errors that a change brings in: those that a component has after it and had not before. */
export function newErrors({ id, before, after }: Impact): FieldError[] {
  if (after === before || after.errors.length === 0) return [];
  const known = new Set(before.errors.map(errorKey));
  return after.errors.filter((error) => !known.has(errorKey(error))).map((error) => ({ ...error, component: id }));
}

function errorKey({ pointer, rule, message }: FieldError): string {
  return `${pointer} ${rule} ${message}`;
}
