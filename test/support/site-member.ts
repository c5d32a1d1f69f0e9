/** A coordinator's registry in this process: leadership, heartbeats and records on a store, without bridge and broker. */
import { pino } from "pino";
import { ChangesFeed } from "../../config-db/changes-feed.ts";
import { databases } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { Registry, type RegistryOptions } from "../../coordinator/registry/registry.ts";
import { Leadership, type LeadershipOptions } from "../../coordinator/sites/leadership.ts";
import { compareStanding } from "../../coordinator/sites/registry-resolve.ts";
import { SiteWatch } from "../../coordinator/sites/site-watch.ts";

export interface MemberOptions extends Partial<RegistryOptions>, Pick<LeadershipOptions, "contest"> {
  storeUrl: string;
  site?: string;
  instance?: string;
  beatEveryMs?: number;
  deafMs?: number;
}

export interface Member {
  registry: Registry;
  leadership: Leadership;
  sites: SiteWatch;
  store: Store;
  /** Ends it in order. */
  close(): Promise<void>;
}

/** Resolves when it has read the store and is a candidate for the lead; without a contest it leads. */
export async function startMember(options: MemberOptions): Promise<Member> {
  const { storeUrl, site = "here", instance = "test", contest, beatEveryMs = 200, deafMs, ...rest } = options;
  const logger = pino({ level: process.env.MUSTER_TEST_LOG ?? "silent" });
  const store = new Store(storeUrl);
  const clock = rest.clock ?? (() => performance.now());
  const leadership = new Leadership({
    store,
    site,
    instance,
    coordinatorUrl: "http://127.0.0.1:1",
    logger,
    beatEveryMs,
    ...(contest === undefined ? {} : { contest }),
    ...(deafMs === undefined ? {} : { deafMs }),
  });
  const sites = new SiteWatch({ site, clock });
  const registry = new Registry({ store, site, logger, leadership, sites, compareBranches: compareStanding, ...rest });
  const feed = new ChangesFeed(store.database(databases.registry), {
    onChanges: (changes) => {
      sites.apply(changes);
      leadership.apply(changes);
      registry.apply(changes);
    },
  });
  await feed.start();
  await sites.start();
  await registry.start();
  await leadership.start();
  let closing: Promise<void> | undefined;
  const end = async () => {
    await feed.close();
    await leadership.close();
    await registry.close();
    await sites.close();
  };
  const close = () => {
    closing ??= end();
    return closing;
  };
  return { registry, leadership, sites, store, close };
}

/** The broker's part of a contest, played by the test. */
export class PlayedContest {
  isConnected = true;
  #chosen: { gained(): void; lost(): void } | undefined;

  async enter(chosen: { gained(): void; lost(): void }): Promise<void> {
    this.#chosen = chosen;
  }

  connected(): boolean {
    return this.isConnected;
  }

  choose(): void {
    this.#chosen?.gained();
  }

  drop(): void {
    this.#chosen?.lost();
  }
}
