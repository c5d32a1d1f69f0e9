/** What the configuration database holds, in memory: fed by the changes feed and by this coordinator's own writes. */
import { type FieldError, isMusterError } from "../../config-db/errors.ts";
import type {
  CandidateDocument,
  LayerDocument,
  SchemaDocument,
  SecretDocument,
} from "../../config-db/generated/types.ts";
import { documentId, type LayerName, layersOf } from "../../config-db/names.ts";
import type { Stored } from "../../config-db/store.ts";
import type { KnownSecret, SchemaInForce } from "./effective.ts";
import type { LayerSettings, Settings } from "./merge.ts";
import { compileSchema } from "./schema.ts";
import { open, sealedDigest } from "./sealing.ts";
import { isSelected, type Traits } from "./selector.ts";

export type StoredLayer = Stored<LayerDocument>;
export type StoredSchema = Stored<SchemaDocument>;
export type StoredCandidate = Stored<CandidateDocument>;
export type StoredSecret = Stored<SecretDocument>;
/** What breaks components when it is wrong, and is held out of force then. */
export type Holdable = StoredLayer | StoredSchema | StoredCandidate;

/** One layer that takes part in a component's effective settings. */
export interface ChainLink extends LayerSettings {
  layer: LayerName;
  rev: string;
}

/** A revision of a layer's settings or of a schema that is, or could be, in force. */
export interface Active {
  content: Settings;
  version: number;
  rev: string;
}

/** A revision that is not in force, since it breaks components, and what is in force instead. */
export interface Held {
  rev: string;
  active: Active | undefined;
  errors: FieldError[];
}

interface TriedSecret {
  secret: string;
  value: string;
}

/** What may be tried: the content of a layer or a schema by document id, a candidate, a secret's value. */
export type Tried = { id: string; content: Settings | undefined } | StoredCandidate | TriedSecret;

export class Records {
  /** The newest revision of each; tombstones too: they know the version to count on from. */
  readonly layers = new Map<LayerName, StoredLayer>();
  readonly schemas = new Map<string, StoredSchema>();
  readonly candidates = new Map<LayerName, StoredCandidate>();
  readonly secrets = new Map<string, StoredSecret>();
  /** By document id: revisions that are kept out of force. */
  readonly held = new Map<string, Held>();
  /** By document id: what stands in the database but is nothing that could be used. */
  readonly unusable = new Map<string, { rev: string; errors: FieldError[] }>();

  readonly #secretKey: Buffer | undefined;
  readonly #compiled = new Map<string, SchemaInForce | undefined>();
  readonly #opened = new Map<string, KnownSecret>();
  /** Settings or schemas that are tried: in force before all else, for as long as `trial` runs. */
  readonly #tried = new Map<string, Active | undefined>();
  #triedCandidate: StoredCandidate | undefined;
  #triedSecret: TriedSecret | undefined;
  #hiddenScopes: readonly string[] = [];
  #isSupposing = false;

  constructor(secretKey: Buffer | undefined) {
    this.#secretKey = secretKey;
  }

  /** The layer as it stands, or undefined where it was never written or is deleted. */
  layer(name: LayerName): StoredLayer | undefined {
    return standing(this.layers.get(name));
  }

  schema(type: string): StoredSchema | undefined {
    return standing(this.schemas.get(type));
  }

  candidate(layer: LayerName): StoredCandidate | undefined {
    return standing(this.candidates.get(layer));
  }

  /** Runs `work` as if a document had this content, or as if it were gone. Nothing of it stays. */
  trial<Result>(tried: Tried, work: () => Result): Result {
    if ("kind" in tried) this.#triedCandidate = tried;
    else if ("secret" in tried) this.#triedSecret = tried;
    else this.#tried.set(tried.id, tried.content && { content: tried.content, version: 0, rev: "tried" });
    try {
      return work();
    } finally {
      this.#triedCandidate = undefined;
      this.#triedSecret = undefined;
      this.#tried.clear();
      this.#compiled.delete("tried");
    }
  }

  /** Runs `work` as if this revision were held. Nothing of it stays. */
  supposing<Result>(id: string, supposed: Held, work: () => Result): Result {
    const held = this.held.get(id);
    this.held.set(id, supposed);
    this.#isSupposing = true;
    try {
      return work();
    } finally {
      this.#isSupposing = false;
      if (held === undefined) this.held.delete(id);
      else this.held.set(id, held);
    }
  }

  /** True within `supposing`: then what is in force is not what components have. */
  get isSupposing(): boolean {
    return this.#isSupposing;
  }

  /** The scopes in which any layer has a staged candidate. */
  stagedScopes(): string[] {
    const staged = [...this.candidates.keys()].filter((layer) => this.#staged(layer) !== undefined);
    return [...new Set(staged.map(scopeOf))];
  }

  /** Runs `work` as if no candidate were staged in these scopes. */
  withoutCandidates<Result>(scopes: readonly string[], work: () => Result): Result {
    this.#hiddenScopes = scopes;
    try {
      return work();
    } finally {
      this.#hiddenScopes = [];
    }
  }

  /** The newest revision of what may be held, by document id; perhaps a tombstone. */
  newest(id: string): Holdable | undefined {
    if (id.startsWith("schema:")) return this.schemas.get(id.slice("schema:".length));
    if (id.startsWith("candidate:")) return this.candidates.get(id.slice("candidate:".length) as LayerName);
    return this.layers.get(id.slice("layer:".length) as LayerName);
  }

  /** The newest revision here of a document that is written by revision; of one that is none of its kind too. */
  revOf(id: string): string | undefined {
    const unusable = this.unusable.get(id)?.rev;
    if (unusable !== undefined) return unusable;
    return id.startsWith("secret:") ? this.secrets.get(id.slice("secret:".length))?._rev : this.newest(id)?._rev;
  }

  /** Whether this revision is kept out of force. */
  isHeld({ _id, _rev }: Holdable): boolean {
    return this.held.get(_id)?.rev === _rev;
  }

  /** What is in force of a layer or schema, by document id. */
  active(id: string): Active | undefined {
    if (this.#tried.has(id)) return this.#tried.get(id);
    const stored = this.newest(id);
    if (stored === undefined) return undefined;
    return this.isHeld(stored) ? this.held.get(id)?.active : activeOf(stored);
  }

  /** The layers in force for a component, the weakest first; a staged candidate's settings where it is selected. */
  chain(traits: Traits): ChainLink[] {
    const own = this.ownLink(traits);
    return own === undefined ? this.sharedLinks(traits) : [...this.sharedLinks(traits), own];
  }

  /** The chain without the component's own layer. */
  sharedLinks(traits: Traits): ChainLink[] {
    const links = sharedLayersOf(traits).map((layer) => this.#link(layer, traits));
    return links.filter((link) => link !== undefined);
  }

  /** The last of the chain, if it is the component's own. */
  ownLink(traits: Traits): ChainLink | undefined {
    return this.#link(`component:${traits.id}`, traits);
  }

  /** True while those links are the same for all of a type and sub-system: no candidate picks some of them. */
  areLinksShared(traits: Traits): boolean {
    return sharedLayersOf(traits).every((layer) => this.#staged(layer) === undefined);
  }

  #link(layer: LayerName, traits: Traits): ChainLink | undefined {
    const candidate = this.#staged(layer);
    const active = this.active(documentId.layer(layer));
    if (candidate !== undefined && isSelected(layer, candidate.selector, traits)) {
      const { settings, _rev: rev } = candidate;
      return { layer, settings, version: (active?.version ?? 0) + 1, rev: `candidate ${rev}`, candidate: true };
    }
    return active && { layer, settings: active.content, version: active.version, rev: active.rev };
  }

  #staged(layer: LayerName): StoredCandidate | undefined {
    const tried = this.#triedCandidate?.layer === layer ? this.#triedCandidate : undefined;
    const candidate = tried ?? this.candidate(layer);
    if (candidate?.state !== "staged" || this.#hiddenScopes.includes(scopeOf(layer))) return undefined;
    return candidate === tried || !this.isHeld(candidate) ? candidate : undefined;
  }

  /** The compiled schema of a type, or undefined where there is none or it is no schema. */
  schemaInForce(type: string | undefined): SchemaInForce | undefined {
    if (type === undefined) return undefined;
    const active = this.active(documentId.schema(type));
    if (active === undefined) return undefined;
    const key = active.rev === "tried" ? "tried" : type;
    const known = this.#compiled.get(key);
    if (known?.rev === active.rev) return known;
    const compiled = this.#compile(type, active);
    this.#compiled.set(key, compiled);
    return compiled;
  }

  #compile(type: string, { content, version, rev }: Active): SchemaInForce {
    try {
      return { type, version, rev, compiled: compileSchema(content) };
    } catch (error) {
      if (!isMusterError(error)) throw error;
      if (rev !== "tried") this.unusable.set(documentId.schema(type), { rev, errors: error.errors ?? [] });
      return { type, version, rev, compiled: { check: () => [] } };
    }
  }

  /** A secret, opened once per revision. */
  secret(name: string): KnownSecret | undefined {
    if (this.#triedSecret?.secret === name) return { value: this.#triedSecret.value, digest: "tried" };
    const stored = standing(this.secrets.get(name));
    if (stored?.sealed === undefined) return undefined;
    const known = this.#opened.get(name);
    const digest = sealedDigest(stored.sealed);
    if (known?.digest === digest) return known;
    const value = this.#secretKey === undefined ? undefined : open(this.#secretKey, name, stored.sealed);
    const opened = { value, digest };
    this.#opened.set(name, opened);
    return opened;
  }
}

/** `platform`, `subsystem`, `type` or `component`: of each a component has one layer at most. */
export function scopeOf(layer: string): string {
  return layer.split(":", 1)[0] as string;
}

/** All but the last, which is the component's own. */
function sharedLayersOf(traits: Traits): LayerName[] {
  return layersOf(traits).slice(0, -1);
}

function standing<Doc extends { _deleted?: boolean }>(stored: Doc | undefined): Doc | undefined {
  return stored?._deleted === true ? undefined : stored;
}

/** Of a candidate nothing: it is in force for those that it selects, or the layer's own is. */
export function activeOf(stored: Holdable): Active | undefined {
  if (stored._deleted === true || stored.kind === "candidate") return undefined;
  const content = stored.kind === "layer" ? stored.settings : (stored.schema as Settings);
  return { content, version: stored.version, rev: stored._rev };
}
