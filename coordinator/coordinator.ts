/**
 * A site's coordinator: where the capabilities meet. They do not know each other; each is given what it needs of the
 * others here. Data flows one way: feeds → capabilities' memory → routes, and requests → capabilities → store.
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { Logger } from "pino";
import { collectDefaultMetrics, Registry as Metrics } from "prom-client";
import { ChangesFeed } from "../config-db/changes-feed.ts";
import { MusterError } from "../config-db/errors.ts";
import { install } from "../config-db/installer.ts";
import { limits } from "../config-db/limits.ts";
import { databases, documentId, queues } from "../config-db/names.ts";
import type { Document, Store } from "../config-db/store.ts";
import { componentRoutes } from "./bridge/component-routes.ts";
import { configRoutes } from "./bridge/config-routes.ts";
import { healthRoutes, type Readiness } from "./bridge/health-routes.ts";
import { messageRoutes } from "./bridge/message-routes.ts";
import type { Route } from "./bridge/route.ts";
import { Bridge } from "./bridge/server.ts";
import type { SignsOfLife } from "./bridge/sign-of-life.ts";
import { siteRoutes } from "./bridge/site-routes.ts";
import { isUsable } from "./config/arrival.ts";
import { Configuration } from "./config/configuration.ts";
import type { StoredLayer } from "./config/records.ts";
import type { Members } from "./messaging/members.ts";
import { Messaging } from "./messaging/messaging.ts";
import { Registry } from "./registry/registry.ts";
import type { Settings } from "./settings.ts";
import { openSiteStore, waitForStore } from "./site-store.ts";
import { adoptSiteRecord } from "./sites/adopt.ts";
import { Conflicts } from "./sites/conflicts.ts";
import { type Contest, Leadership } from "./sites/leadership.ts";
import { compareStanding } from "./sites/registry-resolve.ts";
import type { VersionedDocument } from "./sites/resolve.ts";
import { SiteWatch } from "./sites/site-watch.ts";
import { Sites } from "./sites/sites.ts";

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
  /** By the name of the database. */
  readonly #feeds = new Map<string, ChangesFeed>();
  /** Why, by the name of the database, while a feed has lost it. */
  readonly #lost = new Map<string, string>();
  #bridge: Bridge | undefined;
  /** What `/readyz` asks. */
  readonly #readiness: Readiness = { store: "starting" };

  constructor(settings: Settings, { logger }: CoordinatorOptions) {
    this.#settings = settings;
    this.#logger = logger;
  }

  /**
   * Resolves when the site is served: the store is read in, the bridge is bound. A CouchDB or broker that is not up yet,
   * or is lost meanwhile, is waited for. @throws MusterError when it cannot ever work as set: a taken port, a store that
   * refuses us.
   */
  async start(): Promise<{ url: string }> {
    collectDefaultMetrics({ register: this.#metrics });
    const { httpHost: host, httpPort: port, operatorToken } = this.#settings;
    const guard = operatorToken === undefined ? {} : { operatorToken };
    this.#bridge = new Bridge({ host, port, logger: this.#logger, metrics: this.#metrics, ...guard });
    const { url } = await this.#bridge.start();

    const { store, close } = await openSiteStore(this.#settings, this.#logger);
    this.#open.push({ close });
    const waiting = { logger: this.#logger, signal: this.#abort.signal };
    const withStore = (part: () => Promise<unknown>) => waitForStore(store, part, waiting);
    await withStore(() => store.ping());
    await withStore(() => install(store));
    await withStore(() => adoptSiteRecord(store, this.#settings.site, this.#settings.peers));

    const capabilities = this.#compose(store, this.#settings.publicUrl ?? reachable(url));
    for (const database of [databases.config, databases.registry]) {
      const feed = this.#feed(store, database, (changes) => capabilities.apply[database](changes));
      await withStore(() => feed.start(feed.since));
    }
    this.#readiness.store = "ok";
    for (const capability of capabilities.started) {
      this.#open.push(capability);
      await withStore(() => capability.start());
    }
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

  /** One feed a database, for all who read it. */
  #feed(store: Store, name: string, give: (changes: Parameters<Configuration["apply"]>[0]) => void): ChangesFeed {
    const feed = new ChangesFeed(store.database<Document>(name), {
      onChanges: give,
      onState: (lost) => this.#tellStore(name, lost),
    });
    this.#open.push(feed);
    this.#feeds.set(name, feed);
    return feed;
  }

  /** Told once for all databases: they are lost and found together. */
  #tellStore(database: string, lost: Error | undefined): void {
    const wasLost = this.#lost.size > 0;
    if (lost === undefined) this.#lost.delete(database);
    else this.#lost.set(database, lost.message);
    const [reason] = this.#lost.values();
    this.#readiness.store = reason ?? "ok";
    if (!wasLost && reason !== undefined)
      this.#logger.error({ database, reason }, "the store is lost; serving from memory");
    if (wasLost && reason === undefined) this.#logger.info({ recovered: true }, "the store is back");
  }

  #messaging(store: Store, members: Members, leads: () => boolean): Messaging | undefined {
    const { amqpUrl, amqpManagementUrl, queueSettleMs, site } = this.#settings;
    if (amqpUrl === undefined) return undefined;
    const management = amqpManagementUrl === undefined ? {} : { managementUrl: amqpManagementUrl };
    const metrics = this.#metrics;
    const logger = this.#logger;
    return new Messaging({ amqpUrl, queueSettleMs, site, store, members, leads, metrics, logger, ...management });
  }

  #compose(store: Store, publicUrl: string) {
    const { site, secretKey } = this.#settings;
    const logger = this.#logger;
    const metrics = this.#metrics;
    const documentBase = this.#settings.couchdbPublicUrl ?? store.url;

    const members: Members = { get: (id) => registry.get(id), all: () => registry.all() };
    const messaging = this.#messaging(store, members, () => leadership.leading);
    const leadership = new Leadership({
      store,
      site,
      instance: this.#instance,
      coordinatorUrl: publicUrl,
      logger,
      ...(messaging === undefined ? {} : { contest: contestOf(messaging, site) }),
    });
    const sites = new SiteWatch({ site });
    const { operatorToken } = this.#settings;
    const registry = new Registry({
      store,
      site,
      logger,
      ...(operatorToken === undefined ? {} : { operatorToken }),
      leadership,
      sites,
      compareBranches: compareStanding,
      metrics,
      ...(messaging === undefined
        ? {}
        : {
            publishRenewal: (renewal) => messaging.publishRenewal(renewal),
            onRenewal: (listener) => messaging.onRenewal(listener),
            renewalsHeard: (signal) => messaging.renewalsHeard(signal),
            remove: (component) => messaging.remove(component),
          }),
    });
    registry.subscribe(({ kind, component }) => {
      if (component.site !== site) return;
      if (kind === "up") messaging?.want(component);
      if (kind !== "removed") return;
      messaging
        ?.dropped(component)
        .catch((error: unknown) => logger.warn({ component: component.id, error }, "some of its queues may be left"));
    });
    const configuration = new Configuration({
      store,
      site,
      logger,
      components: registry,
      metrics,
      ...(secretKey === undefined ? {} : { secretKey }),
      leads: () => leadership.leading,
      upToDate: async () => {
        await Promise.all([...this.#feeds.values()].map((feed) => feed.upToDate()));
      },
      isCaughtUp: () => peers.isCaughtUp,
      replacing: (id, rev, inForce) => conflicts.listReplaced(id, rev, inForce as VersionedDocument | undefined),
      onEffectiveChange: (ids, etagOf) => {
        // A hint that is lost costs latency: components poll. So nobody waits for it.
        if (messaging === undefined || !leadership.leading) return;
        const own = ids.filter((id) => registry.get(id)?.site === site);
        messaging
          .signal(own, { kind: "config", revisionOf: etagOf, epoch: leadership.epoch })
          .catch((error: unknown) =>
            logger.warn({ error }, "components were not told that their configuration changed"),
          );
      },
    });

    const peers = new Sites({
      store,
      storeUrl: this.#settings.couchdbUrl ?? store.url,
      site,
      coordinatorUrl: publicUrl,
      couchdbUrl: documentBase,
      peers: this.#settings.peers,
      leads: () => leadership.leading,
      watch: sites,
      onPeers: (known) =>
        messaging?.linkWith(known.flatMap(({ name, amqpUrl }) => (amqpUrl === undefined ? [] : [{ name, amqpUrl }]))),
      logger,
      metrics,
    });
    const conflicts = new Conflicts({
      store,
      site,
      leads: () => leadership.leading,
      keepHistory: (layers) => configuration.history.keep(layers as unknown as StoredLayer[]),
      isUsable,
      admit: (doc) => configuration.admission.check(doc),
      written: (id) => configuration.refresh(id),
      logger,
      metrics,
    });

    const signs: SignsOfLife = {
      touch: ({ id, incarnation }) => registry.touch(id, incarnation),
      ttlMsOf: (id) => registry.get(id)?.ttlMs ?? limits.ttlMs.default,
    };
    return {
      routes: [
        ...componentRoutes({
          registry,
          config: {
            etagOf: (id) => configuration.effective(id).etag,
            documentUrl: (id) =>
              `${documentBase}/${databases.config}/${encodeURIComponent(documentId.layer(`component:${id}`))}`,
          },
          messaging: {
            addresses: (id) => ({ ...messaging?.addresses(id), inbox: `${publicUrl}/v1/components/${id}/inbox` }),
          },
          publicUrl: () => publicUrl,
        }),
        ...configRoutes({ configuration, signs }),
        ...siteRoutes({ sites: peers, conflicts }),
        ...(messaging === undefined ? withoutBroker() : messageRoutes({ messaging, members, site, signs })),
        ...healthRoutes({
          readiness: () => ({
            ...this.#readiness,
            ...(messaging === undefined ? {} : { broker: messaging.fault ?? "ok" }),
          }),
          metrics,
        }),
      ],
      started: [
        ...(messaging === undefined ? [] : [messaging]),
        leadership,
        sites,
        registry,
        configuration,
        conflicts,
        peers,
      ],
      apply: {
        [databases.config]: (changes: Parameters<Configuration["apply"]>[0]) => {
          configuration.apply(changes);
          conflicts.apply(changes);
          peers.applyConfig(changes);
        },
        [databases.registry]: (changes: Parameters<Configuration["apply"]>[0]) => {
          leadership.apply(changes);
          sites.apply(changes);
          registry.apply(changes);
          peers.apply(changes);
        },
      },
    };
  }
}

/** The broker proposes who leads; see coordinator/sites/leadership.ts. */
function contestOf(messaging: Messaging, site: string): Contest {
  return {
    enter: async (chosen) => {
      messaging.contest(queues.leader(site), chosen);
    },
    connected: () => messaging.state === "connected",
  };
}

/** The routes of messages at a site without a broker: they are known, and say what is missing. */
function withoutBroker(): Route[] {
  const none = () => {
    throw new MusterError(
      "broker-unavailable",
      "this site has no broker, so it carries no messages; set MUSTER_AMQP_URL",
    );
  };
  return messageRoutes({ messaging: {} as Messaging, members: {} as Members, site: "", signs: {} as SignsOfLife }).map(
    (route) => ({
      ...route,
      handle: none,
    }),
  );
}

/** The bound address as others can use it: a wildcard is no address. */
function reachable(url: string): string {
  return url.replace(/\/\/(0\.0\.0\.0|\[::\])/, `//${hostname()}`);
}
