/** A coordinator's configuration in this process: on a store, with a real registry, served by a real bridge. */
import { pino } from "pino";
import { Registry as Metrics } from "prom-client";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { databases } from "../../config-db/names.ts";
import type { Change } from "../../config-db/store.ts";
import { configRoutes } from "../../coordinator/bridge/config-routes.ts";
import { Bridge } from "../../coordinator/bridge/server.ts";
import { Configuration, type ConfigurationOptions } from "../../coordinator/config/configuration.ts";
import type { CallAnswer } from "./coordinator.ts";
import { type Member, startMember } from "./site-member.ts";

export interface ConfigSite {
  configuration: Configuration;
  member: Member;
  metrics: Metrics;
  url: string;
  /** Asks the bridge. A string or Buffer is sent as it is, all else as JSON. */
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<CallAnswer>;
  register(id: string, fields?: Record<string, unknown>): Promise<void>;
  /** Resolves when the feed has given all that the store has now. */
  close(): Promise<void>;
}

export interface ConfigSiteOptions extends Partial<ConfigurationOptions> {
  storeUrl: string;
  /**
   * Whether it is told of changes. "late": when it waits for them, as by a changes feed that is behind. False: never, not
   * afterwards either.
   */
  hears?(): boolean | "late";
}

/** Resolves when the store has been read. */
export async function startConfigSite({
  storeUrl,
  site = "here",
  hears = () => true,
  ...rest
}: ConfigSiteOptions): Promise<ConfigSite> {
  const logger = pino({ level: process.env.MUSTER_TEST_LOG ?? "silent" });
  const metrics = new Metrics();
  const member = await startMember({ storeUrl, site });
  const { store, registry } = member;
  const heardLate: Change[] = [];
  const configuration = new Configuration({
    store,
    site,
    logger,
    components: registry,
    metrics,
    upToDate: async () => {
      await feed.upToDate();
      configuration.apply(heardLate.splice(0));
    },
    ...rest,
  });
  const feed = new ChangesFeed(store.database(databases.config), {
    onChanges: (changes) => {
      if (hears() === true) configuration.apply(changes);
      else if (hears() === "late") heardLate.push(...changes);
    },
  });
  await feed.start();
  await configuration.start();
  const bridge = new Bridge({ host: "127.0.0.1", port: 0, logger, metrics });
  const { url } = await bridge.start();
  bridge.serve(configRoutes({ configuration, signs: { touch: () => {}, ttlMsOf: () => 30_000 } }));
  return {
    configuration,
    member,
    metrics,
    url,
    call: (method, path, body, headers) => call(url + path, method, body, headers),
    register: async (id, fields = {}) => {
      await registry.register(id, { type: "worker", instance: "p1", ttlMs: 60_000, ...fields });
    },
    close: async () => {
      await bridge.close(0);
      await feed.close();
      await configuration.close();
      await member.close();
    },
  };
}

async function call(
  url: string,
  method: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<CallAnswer> {
  const raw = typeof body === "string" || Buffer.isBuffer(body);
  const answer = await fetch(url, {
    method,
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    ...(body === undefined ? {} : { body: (raw ? body : JSON.stringify(body)) as string }),
  });
  const bytes = Buffer.from(await answer.arrayBuffer());
  const isJson = (answer.headers.get("content-type") ?? "").includes("json") && bytes.length > 0;
  return { status: answer.status, headers: answer.headers, body: isJson ? JSON.parse(bytes.toString()) : bytes };
}
