/** The effective settings of every component, in memory: who has which, who waits for them, whom a change concerns. */
import { LRUCache } from "lru-cache";
import type { FieldError } from "../../config-db/errors.ts";
import type { ComponentDocument } from "../../config-db/generated/types.ts";
import type { LayerName } from "../../config-db/names.ts";
import { computeEffective, type Effective, explainEffective, mentionsSecret, type SchemaInForce } from "./effective.ts";
import type { Origin } from "./explain.ts";
import { mergeLayers, mergePatch, type Settings } from "./merge.ts";
import { type ChainLink, type Records, scopeOf, type Tried } from "./records.ts";
import type { Traits } from "./selector.ts";

/** What configuration needs to read of components: the registry is this. */
export interface Components {
  get(id: string): ComponentDocument | undefined;
  all(): Iterable<ComponentDocument>;
}

/** What a change that is tried would do to one component. */
export interface Impact {
  id: string;
  before: Pick<Effective, "etag" | "errors">;
  after: Effective;
  /** The same without some of the staged candidates that the component has, for each choice: any may end at any time. */
  behind?: { before: Effective; after: Effective }[] | undefined;
}

/** What a component has, without the settings themselves: ten thousand of these are kept for good. */
interface Current extends Pick<Effective, "etag" | "errors" | "unopened" | "secrets"> {
  /** What the component was when this was computed. */
  traits: string;
  /** Under which its settings are found in the cache; components without a layer of their own share one. */
  key: string;
}

interface Cache<Value> {
  get(key: string): Value | undefined;
  set(key: string, value: Value): unknown;
}

/** What a component has of the layers that it shares with others, and its type's schema. */
interface Shared {
  links: ChainLink[];
  schema: SchemaInForce | undefined;
  /** Under which the links' settings, merged, are found. */
  baseKey: string;
  /** Under which is found what schema and links come to. */
  key: string;
}

/** Characters of JSON kept as computed settings: those in use at a time; others are computed again when asked for. */
const cacheCharactersMax = 32 * 1024 * 1024;
/** Combinations of type and sub-system whose merged layers are kept. */
const basesMax = 500;

export class EffectiveSettings {
  readonly #records: Records;
  readonly #components: Components;
  readonly #changed: (ids: string[]) => void;
  readonly #current = new Map<string, Current>();
  readonly #computed = new LRUCache<string, Effective>({
    maxSize: cacheCharactersMax,
    // What is no JSON about it counts, too: most settings are small.
    sizeCalculation: ({ sizeCharacters }) => sizeCharacters + 1_000,
  });
  /** Merged layers without the component's own: what is one object in many is written out once for their etags. */
  readonly #bases = new LRUCache<string, Settings>({ max: basesMax });
  readonly #watchers = new Map<string, Set<() => void>>();
  #changes = 0;
  /** While one change is looked at for many components: what they share, by type and sub-system. */
  #shared: Map<string, Shared> | undefined;

  /** @param changed told of the components whose effective settings became others, after the watchers. */
  constructor(records: Records, components: Components, changed: (ids: string[]) => void) {
    this.#records = records;
    this.#components = components;
    this.#changed = changed;
  }

  /** Of a component that never registered: what its layers would give it. */
  get(id: string): Effective {
    const known = this.#current.get(id);
    return (known && this.#computed.get(known.key)) ?? this.#find(id);
  }

  /** @param known the traits that the component is known to have still, as `traitsKey` gives them */
  #find(id: string, known?: string): Effective {
    const traits = this.#traits(id);
    const { key, effective } = this.#compute(traits, this.#computed, this.#bases);
    if (this.#isKept(id)) {
      const { etag, errors, unopened, secrets } = effective;
      this.#current.set(id, { traits: known ?? traitsKey(traits), key, etag, errors, unopened, secrets });
    } else this.#current.delete(id);
    return effective;
  }

  /** The etag alone: of a component that is known it needs no settings in memory. */
  etag(id: string): string {
    return this.#summary(id).etag;
  }

  /** What is wrong with a component's settings. */
  errors(id: string): FieldError[] {
    const { errors, unopened } = this.#summary(id);
    return [...errors, ...unopened];
  }

  /** Those whose settings refer to a secret, or will when candidates end. */
  usersOfSecret(name: string): string[] {
    const ids = this.all();
    const users = new Set(ids.filter((id) => this.#summary(id).secrets.includes(name)));
    this.#behindCandidates(ids, (selected) => {
      for (const [index, { secrets }] of this.#computeAll(selected).entries()) {
        if (secrets.includes(name)) users.add(selected[index] as string);
      }
    });
    return [...users];
  }

  explain(id: string): Record<string, Origin> {
    const traits = this.#traits(id);
    return explainEffective(this.get(id), this.#records.chain(traits), this.#records.schemaInForce(traits.type));
  }

  /**
   * `changed` is called after the effective settings of `id`, or where they come from, may have become others.
   * @returns what ends the subscription.
   */
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

  /** Every component that is registered or has a layer of its own: the same ones at every coordinator. */
  known(): string[] {
    return this.all().filter(
      (id) => this.#components.get(id) !== undefined || this.#records.layer(`component:${id}`) !== undefined,
    );
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

  /** How many were made to records and registrations: what was judged at one count is judged anew at another. */
  get changes(): number {
    return this.#changes;
  }

  /** Makes a change to the records and tells of those of `ids` whose effective settings it really changed. */
  change(ids: string[], make: () => void): void {
    const before = ids.map((id) => ({ id, etag: this.etag(id), traits: this.#current.get(id)?.traits }));
    make();
    this.#changes++;
    const changed = this.#together(() => before.filter(({ id, etag, traits }) => this.#find(id, traits).etag !== etag));
    this.#tell(
      ids,
      changed.map(({ id }) => id),
    );
  }

  /** The same for a change that is not to be seen in the revisions of layers and schema: of a secret. */
  changeSecret(name: string, make: () => void): void {
    this.change(this.usersOfSecret(name), () => {
      make();
      this.#computed.clear();
    });
  }

  /** Computes anew for all. */
  reset(): void {
    this.#current.clear();
    this.#computed.clear();
    this.#bases.clear();
  }

  /** What `tried` (see `Records.trial`) would do to these, in their order; stays without effect. */
  impact(ids: string[], tried: Tried): Impact[] {
    const before = this.#records.isSupposing ? this.#computeAll(ids) : ids.map((id) => this.#summary(id));
    const after = this.#records.trial(tried, () => this.#computeAll(ids));
    const behind = this.#impactBehindCandidates(ids, tried);
    return ids.map((id, index) => {
      const impact = { id, before: before[index] as Impact["before"], after: after[index] as Effective };
      return behind.size === 0 ? impact : { ...impact, behind: behind.get(id) };
    });
  }

  #impactBehindCandidates(ids: string[], tried: Tried): Map<string, NonNullable<Impact["behind"]>> {
    const behind = new Map<string, NonNullable<Impact["behind"]>>();
    this.#behindCandidates(ids, (selected) => {
      const before = this.#computeAll(selected);
      const after = this.#records.trial(tried, () => this.#computeAll(selected));
      for (const [index, id] of selected.entries()) {
        const pair = { before: before[index] as Effective, after: after[index] as Effective };
        behind.set(id, [...(behind.get(id) ?? []), pair]);
      }
    });
    return behind;
  }

  /**
   * For each choice of staged candidates that some of `ids` have: `look` at these, as if those candidates were not there.
   * A component has one candidate in each scope at most, so that there are 15 choices at most.
   */
  #behindCandidates(ids: string[], look: (selected: string[]) => void): void {
    const scopes = this.#records.stagedScopes();
    if (scopes.length === 0) return;
    const staged = ids.map((id) => {
      const links = this.#records.chain(this.#traits(id)).filter(({ candidate }) => candidate);
      return { id, scopes: links.map(({ layer }) => scopeOf(layer)) };
    });
    let choices: string[][] = [[]];
    for (const scope of scopes) choices = choices.concat(choices.map((some) => [...some, scope]));
    for (const choice of choices.slice(1)) {
      const selected = staged.filter((one) => choice.every((scope) => one.scopes.includes(scope))).map(({ id }) => id);
      if (selected.length > 0) this.#records.withoutCandidates(choice, () => look(selected));
    }
  }

  /** As the records are now, keeping nothing. */
  #computeAll(ids: string[]): Effective[] {
    const [computed, bases] = [new Map<string, Effective>(), new Map<string, Settings>()];
    return this.#together(() => ids.map((id) => this.#compute(this.#traits(id), computed, bases).effective));
  }

  /** Runs `work`, which changes no records, and finds what components share once. */
  #together<Result>(work: () => Result): Result {
    this.#shared = new Map();
    try {
      return work();
    } finally {
      this.#shared = undefined;
    }
  }

  /** To be called when the registration of `id` changed. */
  componentChanged(id: string): void {
    const known = this.#current.get(id);
    if (known?.traits === traitsKey(this.#traits(id))) return;
    this.#changes++;
    if (known === undefined) return;
    this.#tell([id], this.#find(id).etag === known.etag ? [] : [id]);
  }

  /** @param concerned whose watchers look again: the same settings may come from other layers now */
  #tell(concerned: string[], changed: string[]): void {
    for (const id of concerned) for (const look of [...(this.#watchers.get(id) ?? [])]) look();
    if (changed.length > 0) this.#changed(changed);
  }

  #summary(id: string): Pick<Effective, "etag" | "errors" | "unopened" | "secrets"> {
    return this.#current.get(id) ?? this.get(id);
  }

  #traits(id: string): Traits {
    return this.#components.get(id) ?? { id };
  }

  /**
   * @param computed what is known by key, and gets what is computed
   * @param bases merged layers without the component's own, by key, likewise
   */
  #compute(traits: Traits, computed: Cache<Effective>, bases: Cache<Settings>): { key: string; effective: Effective } {
    const shared = this.#sharedBy(traits);
    const own = this.#records.ownLink(traits);
    const key = own === undefined ? shared.key : `${shared.key} ${own.layer}@${own.rev}`;
    const known = computed.get(key);
    if (known !== undefined) return { key, effective: known };
    let base = bases.get(shared.baseKey);
    if (base === undefined) {
      base = mergeLayers(shared.links);
      bases.set(shared.baseKey, base);
    }
    const merged = own === undefined ? base : (mergePatch(base, own.settings) as Settings);
    const mayRefer = [...shared.links, ...(own === undefined ? [] : [own])].some(({ settings }) =>
      mentionsSecret(settings),
    );
    const effective = computeEffective(merged, mayRefer, shared.schema, (name) => this.#records.secret(name));
    computed.set(key, effective);
    return { key, effective };
  }

  #sharedBy(traits: Traits): Shared {
    const { type, subsystem } = traits;
    const name = `${type ?? ""} ${subsystem ?? ""}`;
    const found = this.#shared?.get(name);
    if (found !== undefined) return found;
    const links = this.#records.sharedLinks(traits);
    const schema = this.#records.schemaInForce(type);
    const baseKey = links.map(({ layer, rev }) => `${layer}@${rev}`).join(" ");
    const shared = { key: `${baseKey} ${schema?.type}@${schema?.rev}`, baseKey, links, schema };
    if (this.#records.areLinksShared(traits)) this.#shared?.set(name, shared);
    return shared;
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
export function newErrors({ id, before, after, behind = [] }: Impact): FieldError[] {
  const errors = without(after.errors, before.errors);
  for (const hidden of behind) errors.push(...without(hidden.after.errors, [...hidden.before.errors, ...errors]));
  return errors.map((error) => ({ ...error, component: id }));
}

function without(errors: FieldError[], others: FieldError[]): FieldError[] {
  if (errors.length === 0) return [];
  const known = new Set(others.map(errorKey));
  return errors.filter((error) => !known.has(errorKey(error)));
}

function errorKey({ pointer, rule, message }: FieldError): string {
  return `${pointer} ${rule} ${message}`;
}
