/**
 * The configuration of a site in memory: which effective settings every component has, who waits for them, and what a
 * change of a layer changes for whom. Reads touch no store.
 */
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import type {
  ComponentDocument,
  ConfigStatus,
  ConfigStatusReport,
  HistoryDocument,
} from "../../config-db/generated/types.ts";
import { databases, type LayerName } from "../../config-db/names.ts";
import type { Change, Database, Document, Store } from "../../config-db/store.ts";
import { check } from "../../config-db/validate.ts";
import { computeEffective, type Effective } from "./effective.ts";
import { etagOf } from "./etag.ts";
import { explain, type Origin } from "./explain.ts";
import { History } from "./history.ts";
import { LayerWrites } from "./layer-writes.ts";
import { activeOf, Records, type StoredLayer, type Traits } from "./records.ts";
import { settingsErrors } from "./settings-rules.ts";
import { componentStatus, type StatusSummary, summarize } from "./status.ts";

/** What configuration needs to know of components: the registry is this. */
export interface KnownComponents {
  get(id: string): ComponentDocument | undefined;
  all(): Iterable<ComponentDocument>;
  subscribe(listener: (event: { kind: string; component: ComponentDocument }) => void): () => void;
  setConfigStatus(id: string, status: Omit<ConfigStatus, "at">): Promise<void>;
}

export interface ConfigurationOptions {
  store: Store;
  /** This site's name: who wrote a layer. */
  site: string;
  components: KnownComponents;
  logger: Logger;
  /** Told once per change: the registered components whose effective settings are others now. */
  onEffectiveChange?(ids: string[], etagOf: (id: string) => string): void;
  /** Whether this coordinator leads its site: only then does it act by itself. Default: always. */
  leads?(): boolean;
  wallClock?(): Date;
}

/** A component's effective settings and what they depended on. */
interface Current {
  traits: string;
  effective: Effective;
}

/** Components without a layer of their own share their effective settings; this many different ones are kept. */
const sharedMax = 1_000;

/** A thousand components that report at once must not make a thousand summaries. */
const statusQuietMs = 50;

export class Configuration {
  readonly records = new Records();
  readonly history: History;
  readonly layers: LayerWrites;
  readonly #options: ConfigurationOptions;
  readonly #database: Database<Document>;
  readonly #current = new Map<string, Current>();
  readonly #shared = new Map<string, Effective>();
  readonly #watchers = new Map<string, Set<() => void>>();
  readonly #statusWatchers = new Set<() => void>();
  #statusTimer: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;
  #started = false;

  constructor(options: ConfigurationOptions) {
    this.#options = options;
    this.#database = options.store.database<Document>(databases.config);
    this.history = new History(this.#database);
    this.layers = new LayerWrites({
      database: this.#database,
      records: this.records,
      history: this.history,
      site: options.site,
      wallClock: options.wallClock ?? (() => new Date()),
      applied: (stored) => this.#applyLayer(stored),
    });
  }

  /**
   * To be called when the feed of the configuration database has given everything that is there. Keeps the revisions
   * that an earlier process wrote without having come to keep them.
   */
  async start(): Promise<void> {
    this.#started = true;
    this.#unsubscribe = this.#options.components.subscribe(({ component }) => this.#componentChanged(component.id));
    await this.history.keep([...this.records.layers.values()]);
  }

  async close(): Promise<void> {
    this.#unsubscribe?.();
    this.#unsubscribe = undefined;
    clearTimeout(this.#statusTimer);
    this.#statusWatchers.clear();
    await this.layers.close();
  }

  /** Takes changes of the configuration database into memory and tells those whom they concern. Echoes are harmless. */
  apply(changes: Change[]): void {
    for (const { id, doc } of changes) {
      if (id.startsWith("layer:")) this.#applyStored(doc);
      else if (id.startsWith("history:")) this.history.apply(doc as unknown as Required<HistoryDocument>);
    }
  }

  /** The effective settings of a component; of one that nobody knows, what its layers would give it. */
  effective(id: string): Effective {
    return (this.#current.get(id) ?? this.#compute(id)).effective;
  }

  /** For each value of the effective settings the layer that it came from. */
  explain(id: string): Record<string, Origin> {
    return explain(this.records.chain(this.#traits(id)));
  }

  /** `changed` is called after the effective settings of `id` became others. @returns what ends the subscription. */
  subscribe(id: string, changed: () => void): () => void {
    const watchers = this.#watchers.get(id) ?? new Set();
    this.#watchers.set(id, watchers.add(changed));
    this.effective(id);
    return () => {
      watchers.delete(changed);
      if (watchers.size > 0 || this.#watchers.get(id) !== watchers) return;
      this.#watchers.delete(id);
      if (!this.#isKnown(id)) this.#current.delete(id);
    };
  }

  /** A component's report on settings that it got. @throws MusterError `not-registered` */
  async report(id: string, { etag, status, reason }: ConfigStatusReport): Promise<void> {
    await this.#options.components.setConfigStatus(id, { etag, status, ...(reason === undefined ? {} : { reason }) });
  }

  /** What the components that are up made of their settings. */
  status({ type }: { type?: string } = {}): { etag: string; body: StatusSummary } {
    const statuses = [];
    for (const component of this.#options.components.all()) {
      if (component.state !== "up" || (type !== undefined && component.type !== type)) continue;
      statuses.push(componentStatus(component, this.effective(component.id).etag));
    }
    const body = summarize(statuses);
    return { etag: etagOf(body), body };
  }

  /** `changed` is called, at most every `statusQuietMs`, after a report, a registration or a change of settings. */
  subscribeStatus(changed: () => void): () => void {
    this.#statusWatchers.add(changed);
    return () => this.#statusWatchers.delete(changed);
  }

  #statusChanged(): void {
    if (this.#statusWatchers.size === 0 || this.#statusTimer !== undefined) return;
    this.#statusTimer = setTimeout(() => {
      this.#statusTimer = undefined;
      for (const changed of [...this.#statusWatchers]) changed();
    }, statusQuietMs);
  }

  #traits(id: string): Traits {
    return this.#options.components.get(id) ?? { id };
  }

  #compute(id: string): Current {
    const traits = this.#traits(id);
    const chain = this.records.chain(traits);
    const key = chain.map(({ layer, rev }) => `${layer}@${rev}`).join(" ");
    const own = chain.at(-1)?.layer === `component:${id}`;
    let effective = own ? undefined : this.#shared.get(key);
    if (effective === undefined) {
      effective = computeEffective(chain);
      if (!own) {
        if (this.#shared.size >= sharedMax) this.#shared.clear();
        this.#shared.set(key, effective);
      }
    }
    const current = { traits: traitsKey(traits), effective };
    if (this.#isKnown(id)) this.#current.set(id, current);
    return current;
  }

  /** Only these are kept in memory: anyone may ask for the settings of any id. */
  #isKnown(id: string): boolean {
    return (
      this.#options.components.get(id) !== undefined ||
      this.#watchers.has(id) ||
      this.records.layers.has(`component:${id}`)
    );
  }

  #applyStored(doc: Change["doc"]): void {
    const errors = check("layer-document", doc);
    if (errors.length > 0 || settingsErrors(doc.settings).length > 0) {
      this.#options.logger.warn({ id: doc._id, errors }, "a layer came in that is none; it stays without effect");
      return;
    }
    this.#applyLayer(doc as unknown as StoredLayer);
  }

  #applyLayer(stored: StoredLayer): void {
    const layer = stored.layer as LayerName;
    if (this.records.layers.get(layer)?._rev === stored._rev) return;
    this.#change(this.#concerned(layer), () => {
      this.records.layers.set(layer, stored);
      this.records.activate(layer, activeOf(stored));
    });
  }

  /** The components whose effective settings a layer can influence. */
  #concerned(layer: LayerName): string[] {
    const [scope, name] = layer.split(":") as [string, string];
    if (scope === "component") return [name];
    const concerned: string[] = [];
    for (const component of this.#options.components.all()) {
      const has = scope === "platform" || (scope === "type" ? component.type : component.subsystem) === name;
      if (has) concerned.push(component.id);
    }
    if (scope === "platform") {
      // Those that never registered have a platform layer and their own.
      for (const id of this.#current.keys()) if (this.#options.components.get(id) === undefined) concerned.push(id);
    }
    return concerned;
  }

  /** Makes a change and tells those of `ids` whose effective settings it really changed. */
  #change(ids: string[], make: () => void): void {
    if (!this.#started) {
      make();
      for (const id of ids) this.#current.delete(id);
      return;
    }
    const before = ids.map((id) => this.effective(id).etag);
    make();
    for (const id of ids) this.#current.delete(id);
    this.#tell(ids.filter((id, index) => this.effective(id).etag !== before[index]));
  }

  #tell(ids: string[]): void {
    if (ids.length > 0) this.#statusChanged();
    for (const id of ids) for (const changed of [...(this.#watchers.get(id) ?? [])]) changed();
    const registered = ids.filter((id) => this.#options.components.get(id) !== undefined);
    if (registered.length > 0) this.#options.onEffectiveChange?.(registered, (id) => this.effective(id).etag);
  }

  #componentChanged(id: string): void {
    this.#statusChanged();
    const known = this.#current.get(id);
    if (known === undefined || known.traits === traitsKey(this.#traits(id))) return;
    this.#current.delete(id);
    if (this.effective(id).etag !== known.effective.etag) this.#tell([id]);
  }

  /** @throws MusterError `not-found` */
  requireLayer(name: LayerName): StoredLayer {
    const stored = this.records.layer(name);
    if (stored === undefined) throw new MusterError("not-found", `layer ${name} has no settings; PUT some to make it`);
    return stored;
  }
}

function traitsKey({ type, subsystem, site, tags }: Traits): string {
  return JSON.stringify([type, subsystem, site, tags]);
}
