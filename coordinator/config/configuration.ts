/**
 * The configuration of a site: layers, schemas, candidates and secrets as the store has them, and what they make of the
 * settings of each component. Reads are answered from memory.
 */
import type { Logger } from "pino";
import { Gauge, type Registry as Metrics } from "prom-client";
import { isMusterError } from "../../config-db/errors.ts";
import type { ComponentDocument, ConfigStatusReport, ValidateRequest } from "../../config-db/generated/types.ts";
import { revisionLimits } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import type { Change, Document, Store, Stored } from "../../config-db/store.ts";
import { Admission } from "./admission.ts";
import { Background } from "./background.ts";
import { CandidateWrites } from "./candidate-writes.ts";
import { ContentWrites } from "./content-writes.ts";
import { Contents } from "./contents.ts";
import { type DryRun, dryRun } from "./dry-run.ts";
import type { Effective } from "./effective.ts";
import { type Components, EffectiveSettings } from "./effective-settings.ts";
import type { Origin } from "./explain.ts";
import { type Fault, listFaults } from "./faults.ts";
import type { WritesOptions } from "./guarded-write.ts";
import { History } from "./history.ts";
import { Housekeeping } from "./housekeeping.ts";
import { Intake } from "./intake.ts";
import { LayerWrites } from "./layer-writes.ts";
import { Records } from "./records.ts";
import { SchemaWrites } from "./schema-writes.ts";
import { SecretWrites } from "./secret-writes.ts";
import { Staging } from "./staging.ts";
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
  /**
   * Told once per change: the registered components whose effective settings are others now. When this coordinator begins to
   * lead, those that have not said what they made of theirs: what changed while nobody led they may not have been told.
   */
  onEffectiveChange?(ids: string[], etagOf: (id: string) => string): void;
  /** Told of a revision that is none of its kind and is about to be replaced; see `WritesOptions`. Default: nobody is. */
  replacing?(id: string, rev: string, inForce: Stored<Document> | undefined): Promise<void>;
  /** Resolves when the feeds have given what the store had at the call, of settings and of components. Default: they have. */
  upToDate?(): Promise<void>;
  /** Whether what other sites wrote is here, as far as they can be reached. Default: always. */
  isCaughtUp?(): boolean;
  /** Whether this coordinator leads its site: only then does it act by itself. Default: always. */
  leads?(): boolean;
  /** 32 bytes; without them secrets are neither written nor resolved here. */
  secretKey?: Buffer;
  metrics?: Metrics;
  /** Versions kept of each layer; as many as the store knows of the ancestry when absent (docs/sites.md, "Long absences"). */
  historyVersions?: number;
  wallClock?(): Date;
  /** Monotonic, in milliseconds. */
  clock?(): number;
}

export class Configuration {
  readonly layers: LayerWrites;
  readonly schemas: SchemaWrites;
  readonly candidates: CandidateWrites;
  readonly content: ContentWrites;
  readonly secrets: SecretWrites;
  readonly admission: Admission;
  readonly staging: Staging;
  readonly status: StatusBoard;
  readonly records: Records;
  readonly history: History;
  readonly #options: ConfigurationOptions;
  readonly #effective: EffectiveSettings;
  readonly #intake: Intake;
  readonly #background: Background;
  readonly #housekeeping: Housekeeping;
  readonly #order = new WriteOrder();
  #unsubscribe = () => {};
  /** Whether something changed while this coordinator did not lead: who led then may have told nobody. */
  #untold = true;

  constructor(options: ConfigurationOptions) {
    const { store, site, components, logger, secretKey, historyVersions = revisionLimits[databases.config] } = options;
    const { wallClock = () => new Date(), clock = () => performance.now(), leads = () => true } = options;
    const database = store.database<Document>(databases.config);
    this.#options = options;
    const records = new Records(secretKey);
    const history = new History(database);
    const background = new Background(logger);
    const effective = new EffectiveSettings(records, components, (ids) => this.#changed(ids));
    this.records = records;
    this.history = history;
    this.#background = background;
    this.#effective = effective;
    this.status = new StatusBoard(components, (id) => effective.etag(id));
    this.#housekeeping = new Housekeeping({
      database,
      records,
      history,
      logger,
      historyVersions,
      leads,
      clock,
      also: () => {
        this.#intake.review();
        this.staging.review();
        this.#tellPending();
      },
    });
    this.#intake = new Intake({
      database,
      records,
      effective,
      history,
      background,
      logger,
      site,
      leads,
      clock,
      judgesFor: (id) => id === undefined || (components.get(id)?.site ?? site) === site,
      ...(options.isCaughtUp === undefined ? {} : { isCaughtUp: options.isCaughtUp }),
      content: (sha256, rev, deleted) => this.#housekeeping.applyContent(sha256, rev, deleted),
    });
    const writes: WritesOptions = {
      records,
      effective,
      history,
      contents: new Contents({ database, site, wallClock }),
      order: this.#order,
      site,
      wallClock,
      clock,
      put: (doc, judgedAt) => this.#intake.put(doc, judgedAt),
      refresh: (id) => this.#intake.refresh(id),
      upToDate: async () => options.upToDate?.(),
      replacing: async (id, rev, inForce) => options.replacing?.(id, rev, inForce),
    };
    this.admission = new Admission(writes, secretKey);
    this.layers = new LayerWrites(writes);
    this.schemas = new SchemaWrites(writes);
    this.candidates = new CandidateWrites(writes, this.layers);
    this.content = new ContentWrites(writes, this.layers);
    this.secrets = new SecretWrites(writes, secretKey);
    this.staging = new Staging({ records, effective, components, writes: this.candidates, background, site, leads });
    if (options.metrics !== undefined) this.#measure(options.metrics);
  }

  /**
   * To be called when the feed of the configuration database has given all that is there. Keeps in history what an
   * earlier process wrote and did not come to keep.
   * @throws MusterError `store-unavailable`: nothing has begun; call it again.
   */
  async start(): Promise<void> {
    this.#intake.loaded(await this.#intake.lastJudged());
    this.#unsubscribe = this.#options.components.subscribe(({ component }) => {
      this.#effective.componentChanged(component.id);
      this.status.changed();
    });
    this.status.subscribe(() => this.staging.review());
    this.#tellPending();
    await this.#housekeeping.keepAll().catch((error: unknown) => {
      // The leader's next round does it.
      if (!isMusterError(error, "store-unavailable")) throw error;
    });
    this.#housekeeping.start();
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    this.status.close();
    await this.#housekeeping.close();
    await this.#order.idle();
    await this.#background.idle();
  }

  /** Takes changes of the configuration database into memory and tells those whom they concern. Echoes are harmless. */
  apply(changes: Change[]): void {
    this.#intake.apply(changes);
  }

  /** Resolves when memory has of a document what the store had at the call. @throws MusterError `store-unavailable` */
  async refresh(id: string): Promise<void> {
    await this.#intake.refresh(id);
  }

  /** The effective settings of a component; of one that never registered, what its layers would give it. */
  effective(id: string): Effective {
    return this.#effective.get(id);
  }

  /**
   * Resolves when nothing older than what a reader has can be read here: it may come from another coordinator that this one
   * is behind. Takes two seconds at most, and no time where the reader has what is here. That this was here before proves
   * nothing: settings come back, by every rollback.
   * @param has whether the reader has the settings of this etag
   */
  async catchUp(id: string, has: (etag: string) => boolean): Promise<void> {
    if (!has(this.#effective.etag(id))) await this.#options.upToDate?.();
  }

  /** For each value of the effective settings the layer that it came from. */
  explain(id: string): Record<string, Origin> {
    return this.#effective.explain(id);
  }

  /**
   * `changed` is called after the effective settings of `id`, or where they come from, may have become others.
   * @returns what ends the subscription.
   */
  subscribe(id: string, changed: () => void): () => void {
    return this.#effective.subscribe(id, changed);
  }

  /** A component's report on settings that it got. @throws MusterError `not-registered` */
  async report(id: string, report: ConfigStatusReport): Promise<void> {
    await this.#options.components.setConfigStatus(id, report);
  }

  /** What a write of a layer or a schema would change, and break, on what the store has now. Nothing is written. */
  async validate(request: ValidateRequest): Promise<DryRun> {
    await this.#options.upToDate?.();
    return dryRun(this.#effective, request);
  }

  /** What stands in the store and cannot be in force, and components whose settings are not valid. */
  faults(): Fault[] {
    return listFaults(this.records, this.#effective);
  }

  #changed(ids: string[]): void {
    this.status.changed();
    const { leads = () => true } = this.#options;
    if (!leads()) this.#untold = true;
    this.#tell(ids.filter((id) => this.#options.components.get(id) !== undefined));
  }

  #tellPending(): void {
    const { leads = () => true } = this.#options;
    if (!this.#untold || !leads()) return;
    this.#untold = false;
    const pending = this.status.summary().components.filter(({ status }) => status === "pending");
    this.#tell(pending.map(({ id }) => id));
  }

  #tell(ids: string[]): void {
    if (ids.length > 0) this.#options.onEffectiveChange?.(ids, (id) => this.#effective.etag(id));
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
