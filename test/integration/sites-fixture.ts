/** A site's replication without the rest of a coordinator: a store of its own, and `Sites` on it. */
import { randomBytes } from "node:crypto";
import { pino } from "pino";
import { Registry } from "prom-client";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { type EmbeddedOptions, startEmbedded } from "../../config-db/embedded/server.ts";
import { install } from "../../config-db/installer.ts";
import { databases } from "../../config-db/names.ts";
import { type Document, Store } from "../../config-db/store.ts";
import type { PeerSetting } from "../../coordinator/settings.ts";
import { Sites } from "../../coordinator/sites/sites.ts";

export interface JoinedSite {
  name: string;
  /** With credentials, where the store wants them. */
  storeUrl: string;
  store: Store;
  sites: Sites;
  metrics: Registry;
  /** Every line that it logged. */
  log: string[];
  /** Puts a document of the configuration database there, over what stands. */
  write(id: string, content: object): Promise<void>;
  read(id: string): Promise<(Document & Record<string, unknown>) | undefined>;
  close(): Promise<void>;
}

export interface JoinedSiteOptions {
  peers?: PeerSetting[];
  /** A store that is there already, also by a URL through a proxy. */
  storeUrl?: string;
  credentials?: EmbeddedOptions["credentials"];
}

export async function joinSite(name: string, options: JoinedSiteOptions = {}): Promise<JoinedSite> {
  const { peers = [], credentials } = options;
  const started =
    options.storeUrl === undefined ? await startEmbedded(credentials === undefined ? {} : { credentials }) : undefined;
  const storeUrl = options.storeUrl ?? withCredentials((started as { url: string }).url, credentials);
  const store = new Store(storeUrl);
  await install(store);
  const log: string[] = [];
  const metrics = new Registry();
  const sites = new Sites({
    store,
    storeUrl,
    site: name,
    coordinatorUrl: `http://${name}.invalid`,
    couchdbUrl: store.url,
    peers,
    leads: () => true,
    watch: { hears: () => true, ageMs: () => 0 },
    logger: pino({ level: "trace" }, { write: (line: string) => void log.push(line) }),
    metrics,
  });
  const feed = new ChangesFeed(store.database<Document>(databases.registry), {
    onChanges: (changes) => sites.apply(changes),
  });
  const configFeed = new ChangesFeed(store.database<Document>(databases.config), {
    onChanges: (changes) => sites.applyConfig(changes),
  });
  await Promise.all([feed.start(), configFeed.start()]);
  await sites.start();
  const config = store.database<Document & Record<string, unknown>>(databases.config);
  return {
    name,
    storeUrl,
    store,
    sites,
    metrics,
    log,
    write: async (id, content) => {
      const stored = await config.get(id);
      await config.put({ _id: id, ...content, ...(stored === undefined ? {} : { _rev: stored._rev }) });
    },
    read: (id) => config.get(id),
    close: async () => {
      await sites.close();
      await Promise.all([feed.close(), configFeed.close()]);
      await started?.close();
    },
  };
}

/** Gives `to` every revision of configuration that `from` has, once, but the bytes of content. */
export async function replicateOnce(from: Store, to: Store): Promise<void> {
  const source = from.database<Document>(databases.config);
  const { results } = await source.changes(0);
  const ids = results.map(({ id }) => id).filter((id) => !/^(_design\/|content:)/.test(id));
  const docs = (await Promise.all(ids.map((id) => source.branches(id)))).flat();
  await to.database<Document>(databases.config).bulk(docs, { newEdits: false });
}

export function withCredentials(url: string, credentials: EmbeddedOptions["credentials"]): string {
  if (credentials === undefined) return url;
  return url.replace("://", `://${credentials.user}:${credentials.password}@`);
}

/** A layer that no other test writes. */
export function layerDocument(settings: Record<string, unknown>, layer = `type:t${randomBytes(4).toString("hex")}`) {
  const made = { changedBy: "test", changedAt: "2026-01-01T00:00:00.000Z", site: "test" };
  return { _id: `layer:${layer}`, kind: "layer", schemaVersion: 1, layer, settings, version: 1, ...made };
}
