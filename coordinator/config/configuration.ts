/**
 * The configuration of a site: layers, schemas, candidates and secrets as the store has them, and what they make of the
 * settings of each component. Reads are answered from memory.
 */
import type { Logger } from "pino";
import { Gauge, type Registry as Metrics } from "prom-client";
import type { ComponentDocument, ConfigStatusReport } from "../../config-db/generated/types.ts";
import { databases } from "../../config-db/names.ts";
import type { Change, Document, Store } from "../../config-db/store.ts";
import { Background } from "./background.ts";
import type { Effective } from "./effective.ts";
import { type Components, EffectiveSettings } from "./effective-settings.ts";
import type { Origin } from "./explain.ts";
import { History } from "./history.ts";
import { Intake } from "./intake.ts";
import { LayerWrites, type WritesOptions } from "./layer-writes.ts";
import { Records } from "./records.ts";
import { SchemaWrites } from "./schema-writes.ts";
import { SecretWrites } from "./secret-writes.ts";
import { StatusBoard } from "./status-board.ts";
import { WriteOrder } from "./write-order.ts";

/** What configuration needs of components: the registry is this. */
export interface KnownComponents extends Components {
  subscribe(listener: (event: { kind: string; component: ComponentDocument }) => void): () => void;
  /** @throws MusterError `not-registered` */
  setConfigStatus(id: string, status: ConfigStatusReport): Promise<void>;
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
  /** 32 bytes; without them secrets are neither written nor resolved here. */
  secretKey?: Buffer;
  metrics?: Metrics;
  wallClock?(): Date;
}

export class Configuration {
  readonly layers: LayerWrites;
  readonly schemas: SchemaWrites;
  readonly secrets: SecretWrites;
  readonly status: StatusBoard;
  readonly records: Records;
  readonly history: History;
  readonly #options: ConfigurationOptions;
  readonly #effective: EffectiveSettings;
  readonly #intake: Intake;
  readonly #background: Background;
  readonly #order = new WriteOrder();
  #unsubscribe = () => {};

  constructor(options: ConfigurationOptions) {
    const { store, site, components, logger, secretKey } = options;
    const database = store.database<Document>(databases.config);
    const wallClock = options.wallClock ?? (() => new Date());
    this.#options = options;
    this.records = new Records(secretKey);
    this.history = new History(database);
    this.#background = new Background(logger);
    this.#effective = new EffectiveSettings(this.records, components, (ids) => this.#changed(ids));
    this.status = new StatusBoard(components, (id) => this.#effective.get(id).etag);
    this.#intake = new Intake({
      database,
      records: this.records,
      effective: this.#effective,
      history: this.history,
      background: this.#background,
      logger,
      leads: options.leads ?? (() => true),
    });
    const writes: WritesOptions = {
      database,
      records: this.records,
      effective: this.#effective,
      history: this.history,
      order: this.#order,
      site,
      wallClock,
      applied: (doc) => this.#intake.written(doc),
    };
    this.layers = new LayerWrites(writes);
    this.schemas = new SchemaWrites(writes);
    this.secrets = new SecretWrites(writes, secretKey);
    if (options.metrics !== undefined) this.#measure(options.metrics);
  }

  /**
   * To be called when the feed of the configuration database has given all that is there. Keeps in history what an
   * earlier process wrote and did not come to keep.
   */
  async start(): Promise<void> {
    this.#intake.loaded();
    this.#unsubscribe = this.#options.components.subscribe(({ component }) => {
      this.#effective.componentChanged(component.id);
      this.status.changed();
    });
    await this.history.keep([...this.records.layers.values()]);
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    this.status.close();
    await this.#order.idle();
    await this.#background.idle();
  }

  /** Takes changes of the configuration database into memory and tells those whom they concern. Echoes are harmless. */
  apply(changes: Change[]): void {
    this.#intake.apply(changes);
  }

  /** The effective settings of a component; of one that never registered, what its layers would give it. */
  effective(id: string): Effective {
    return this.#effective.get(id);
  }

  /** For each value of the effective settings the layer that it came from. */
  explain(id: string): Record<string, Origin> {
    return this.#effective.explain(id);
  }

  /** `changed` is called after the effective settings of `id` became others. @returns what ends the subscription. */
  subscribe(id: string, changed: () => void): () => void {
    return this.#effective.subscribe(id, changed);
  }

  /** A component's report on settings that it got. @throws MusterError `not-registered` */
  async report(id: string, report: ConfigStatusReport): Promise<void> {
    await this.#options.components.setConfigStatus(id, report);
  }

  #changed(ids: string[]): void {
    this.status.changed();
    const registered = ids.filter((id) => this.#options.components.get(id) !== undefined);
    if (registered.length > 0) this.#options.onEffectiveChange?.(registered, (id) => this.#effective.get(id).etag);
  }

  #measure(metrics: Metrics): void {
    const { status } = this;
    new Gauge({
      name: "muster_config_components",
      help: "Components that are up, by what they made of their settings.",
      labelNames: ["status"],
      registers: [metrics],
      collect() {
        const { applied, rejected, pending } = status.summary();
        this.set({ status: "applied" }, applied);
        this.set({ status: "rejected" }, rejected);
        this.set({ status: "pending" }, pending);
      },
    });
  }
}
