/** Watches the heartbeats of all sites: the changes feed and a timer around `Beats`. */
import type { SiteDocument } from "../../config-db/generated/types.ts";
import type { Change } from "../../config-db/store.ts";
import { JudgedTime } from "../judged-time.ts";
import { Beats } from "./beat.ts";

export interface SiteWatchOptions {
  /** Our own site: always heard. */
  site: string;
  /** Monotonic, milliseconds. */
  clock?(): number;
}

const lookEveryMs = 1_000;
/** An observer that was away, suspended or stopped, has heard nobody and must not say that they are silent. */
const judged = { stallAfterMs: 3 * lookEveryMs, settleMaxMs: 30_000 };

export class SiteWatch {
  readonly #site: string;
  readonly #clock: () => number;
  readonly #beats = new Beats();
  readonly #time = new JudgedTime(judged);
  readonly #heard = new Map<string, boolean>();
  readonly #listeners = new Set<(site: string, heard: boolean) => void>();
  #timer: NodeJS.Timeout | undefined;

  constructor({ site, clock = () => performance.now() }: SiteWatchOptions) {
    this.#site = site;
    this.#clock = clock;
  }

  async start(): Promise<void> {
    this.look();
    this.#timer = setInterval(() => this.look(), lookEveryMs);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
  }

  /** Takes in changes of `muster-registry`. */
  apply(changes: Change[]): void {
    for (const { id, deleted, doc } of changes) {
      if (!id.startsWith("site:")) continue;
      const site = id.slice("site:".length);
      if (deleted) this.#beats.forget(site);
      else this.#beats.observe(site, doc as unknown as SiteDocument, this.#time.at(this.#clock()));
      this.#judge(site);
    }
  }

  /** Whether a site's heartbeat advances. A site that nobody leads is not heard: nobody judges its leases. */
  hears(site: string): boolean {
    return site === this.#site || this.#heard.get(site) === true;
  }

  /** Milliseconds since the site's beat last advanced here. */
  ageMs(site: string): number | undefined {
    return this.#beats.ageMs(site, this.#time.at(this.#clock()));
  }

  /** Tells when a site falls silent or is heard again. @returns what ends it. */
  subscribe(changed: (site: string, heard: boolean) => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /** One look at the clock. Called by a timer; tests with a clock of their own call it. */
  look(): void {
    this.#time.observe(this.#clock());
    for (const site of this.#beats.sites()) this.#judge(site);
  }

  #judge(site: string): void {
    const hears = this.#beats.hears(site, this.#time.judgedMs);
    if (site === this.#site || hears === (this.#heard.get(site) ?? false)) return;
    this.#heard.set(site, hears);
    for (const listener of [...this.#listeners]) listener(site, hears);
  }
}
