/**
 * Links the broker with those of other sites (docs/sites.md, "Messages"): RabbitMQ's federation, set up through the
 * management API. Each site fetches from the others, so both have to know each other's broker.
 */
import type { Logger } from "pino";
import { federationPlan, type LinkedSite, ownedPrefix, peerUrlWithoutCredentials } from "./federation-plan.ts";
import type { Management } from "./management.ts";

export interface FederationOptions {
  management: Management;
  /** Resolves when the broker can be asked. */
  ready(): Promise<void>;
  logger: Logger;
}

/** What somebody changed comes back, and what failed is tried again. */
const repairEveryMs = 30_000;
const retryMs = 2_000;

export class Federation {
  readonly #options: FederationOptions;
  #links: LinkedSite[] | undefined;
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();
  #fault = "";
  #closed = false;

  constructor(options: FederationOptions) {
    this.#options = options;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#working;
  }

  /** Links with these and no others from now on, in the background. */
  setLinks(links: LinkedSite[]): void {
    this.#links = links;
    clearTimeout(this.#timer);
    this.#working = this.#working.then(() => this.#apply());
  }

  async #apply(): Promise<void> {
    const links = this.#links;
    if (this.#closed || links === undefined) return;
    const { logger, ready } = this.#options;
    let next = repairEveryMs;
    try {
      await ready();
      const changed = await this.#set(links);
      if (changed.length > 0) {
        const sites = links.map(({ name, amqpUrl }) => `${name} (${peerUrlWithoutCredentials(amqpUrl)})`);
        logger.info({ changed, sites }, "linked the broker with those of other sites");
      }
      this.#fault = "";
    } catch (error) {
      next = retryMs;
      const fault = String(error);
      const hint = /federation-upstream/.test(fault) ? "; the broker needs its plugin rabbitmq_federation" : "";
      if (fault !== this.#fault && !this.#closed) {
        logger.warn({ error: fault }, `the broker cannot be linked with those of other sites${hint}`);
      }
      this.#fault = fault;
    }
    if (!this.#closed) this.#timer = setTimeout(() => this.setLinks(this.#links ?? []), next);
  }

  /** @returns the names of what it set or took away. */
  async #set(links: LinkedSite[]): Promise<string[]> {
    const { management } = this.#options;
    const { upstreams, set, policies } = federationPlan(links);
    const changed: string[] = [];
    for (const [name, value] of Object.entries(upstreams)) {
      if (await management.setParameter("federation-upstream", name, value)) changed.push(name);
    }
    if (links.length > 0) {
      if (await management.setParameter("federation-upstream-set", ownedPrefix, set)) changed.push("the set");
      changed.push(...(await management.applyPolicies(policies)));
    } else {
      for (const { name } of policies) if (await management.deletePolicy(name)) changed.push(name);
      await management.deleteParameter("federation-upstream-set", ownedPrefix);
    }
    for (const name of await management.parameterNames("federation-upstream")) {
      if (!name.startsWith(`${ownedPrefix}-`) || Object.hasOwn(upstreams, name)) continue;
      await management.deleteParameter("federation-upstream", name);
      changed.push(name);
    }
    return changed;
  }
}
