/**
 * A site's coordinator: where the capabilities meet. They do not know each other; each is given what it needs of the
 * others here. Data flows one way: feeds → capabilities' memory → routes, and requests → capabilities → store.
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { Logger } from "pino";
import { collectDefaultMetrics, Registry as Metrics } from "prom-client";
import { ChangesFeed } from "../config-db/changes-feed.ts";
import { install } from "../config-db/installer.ts";
import { databases, documentId } from "../config-db/names.ts";
import type { Document, Store } from "../config-db/store.ts";
import { componentRoutes } from "./bridge/component-routes.ts";
import { configRoutes } from "./bridge/config-routes.ts";
import { healthRoutes, type Readiness } from "./bridge/health-routes.ts";
import { Bridge } from "./bridge/server.ts";
import { Configuration } from "./config/configuration.ts";
import { Registry } from "./registry/registry.ts";
import type { Settings } from "./settings.ts";
import { openSiteStore } from "./site-store.ts";
import { Leadership } from "./sites/leadership.ts";
import { SiteWatch } from "./sites/site-watch.ts";

export interface CoordinatorOptions {
  logger: Logger;
}

export class Coordinator {
  readonly #settings: Settings;
  readonly #logger: Logger;
  readonly #metrics = new Metrics();
  readonly #instance = randomBytes(6).toString("hex");
  readonly #abort = new AbortController();
  /** What is open, in the order of opening: closed from the last to the first. */
  readonly #open: { close(): Promise<void> }[] = [];
  #bridge: Bridge | undefined;
  /** What `/readyz` asks. */
  readonly #readiness: Readiness = { store: "starting" };

  constructor(settings: Settings, { logger }: CoordinatorOptions) {
    this.#settings = settings;
    this.#logger = logger;
  }

  /**
   * Resolves when the site is served: the store is read in, the bridge is bound. A CouchDB or broker that is not up yet
   * is waited for. @throws MusterError when it cannot ever work as set: a taken port, a store that refuses us.
   */
  async start(): Promise<{ url: string }> {
    collectDefaultMetrics({ register: this.#metrics });
    const { httpHost: host, httpPort: port, operatorToken } = this.#settings;
    const guard = operatorToken === undefined ? {} : { operatorToken };
    this.#bridge = new Bridge({ host, port, logger: this.#logger, metrics: this.#metrics, ...guard });
    const { url } = await this.#bridge.start();

    const { store, close } = await openSiteStore(this.#settings, this.#logger, this.#abort.signal);
    this.#open.push({ close });
    await install(store);

    const capabilities = this.#compose(store, this.#settings.publicUrl ?? reachable(url));
    for (const database of [databases.config, databases.registry]) {
      await this.#follow(store, database, (changes) => capabilities.apply[database](changes));
    }
    this.#readiness.store = "ok";
    for (const capability of capabilities.started) await this.#start(capability);
    this.#bridge.serve(capabilities.routes);
    return { url };
  }

  /** Takes no more work, ends what is under way, and leaves everything as the next start expects it. May be called again. */
  async close(): Promise<void> {
    this.#abort.abort();
    await this.#bridge?.close();
    for (let part = this.#open.pop(); part !== undefined; part = this.#open.pop()) {
      // One part that cannot close must not keep the others open.
      await part.close().catch((error: unknown) => this.#logger.error({ error }, "a part failed to close"));
    }
  }

  async #start(capability: { start(): Promise<unknown>; close(): Promise<void> }): Promise<void> {
    this.#open.push(capability);
    await capability.start();
  }

  /** One feed a database, for all who read it. */
  async #follow(
    store: Store,
    name: string,
    give: (changes: Parameters<Configuration["apply"]>[0]) => void,
  ): Promise<void> {
    const feed = new ChangesFeed(store.database<Document>(name), {
      onChanges: give,
      onState: (lost) => {
        this.#readiness.store = lost === undefined ? "ok" : lost.message;
        if (lost === undefined) this.#logger.info({ database: name }, "the store is back");
        else this.#logger.error({ database: name, reason: lost.message }, "the store is lost; serving from memory");
      },
    });
    this.#open.push(feed);
    await feed.start();
  }

  #compose(store: Store, publicUrl: string) {
    const { site } = this.#settings;
    const logger = this.#logger;
    const metrics = this.#metrics;
    const documentBase = this.#settings.couchdbPublicUrl ?? store.url;

    const leadership = new Leadership({ store, site, instance: this.#instance, coordinatorUrl: publicUrl, logger });
    const sites = new SiteWatch({ site });
    const registry = new Registry({ store, site, logger, leadership, sites, metrics });
    const configuration = new Configuration({
      store,
      site,
      logger,
      components: registry,
      leads: () => leadership.leading,
    });

    return {
      routes: [
        ...componentRoutes({
          registry,
          config: {
            etagOf: (id) => configuration.effective(id).etag,
            documentUrl: (id) =>
              `${documentBase}/${databases.config}/${encodeURIComponent(documentId.layer(`component:${id}`))}`,
          },
          messaging: { addresses: (id) => ({ inbox: `${publicUrl}/v1/components/${id}/inbox` }) },
          publicUrl: () => publicUrl,
        }),
        ...configRoutes({ configuration }),
        ...healthRoutes({ readiness: () => this.#readiness, metrics }),
      ],
      started: [leadership, sites, registry, configuration],
      apply: {
        [databases.config]: (changes: Parameters<Configuration["apply"]>[0]) => configuration.apply(changes),
        [databases.registry]: (changes: Parameters<Configuration["apply"]>[0]) => {
          leadership.apply(changes);
          sites.apply(changes);
          registry.apply(changes);
        },
      },
    };
  }
}

/** The bound address as others can use it: a wildcard is no address. */
function reachable(url: string): string {
  return url.replace(/\/\/(0\.0\.0\.0|\[::\])/, `//${hostname()}`);
}
