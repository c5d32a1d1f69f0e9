/** Sets the broker's policies and keeps them as they should be. Without a management API queues get them as arguments. */
import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { Broker } from "./broker.ts";
import type { Management } from "./management.ts";
import type { PolicyPlan } from "./topology.ts";

export interface PolicyKeeperOptions {
  broker: Broker;
  /** Undefined: there is none. */
  management: Management | undefined;
  policies: PolicyPlan[];
  logger: Logger;
  /** How long to wait for the management API at the first start before going on without it. */
  graceMs: number;
}

const firstRetryMs = 1_000;
const keepEveryMs = 30_000;

export class PolicyKeeper {
  readonly #options: PolicyKeeperOptions;
  /** True while queues get their limits as arguments instead (docs/adr/0303). */
  asArguments: boolean;

  constructor(options: PolicyKeeperOptions) {
    this.#options = options;
    this.asArguments = options.management === undefined;
  }

  /** Resolves when the policies stand, or when it is clear that they cannot be set. A management API may come up late. */
  async set(signal: AbortSignal): Promise<void> {
    const { management, policies, logger, graceMs } = this.#options;
    if (management === undefined || this.asArguments) return;
    for (let waitedMs = 0; ; waitedMs += firstRetryMs) {
      try {
        const changed = await management.applyPolicies(policies);
        if (changed.length > 0) logger.info({ policies: changed }, "set policies of the broker");
        return;
      } catch (error) {
        if (waitedMs >= graceMs) {
          this.asArguments = true;
          logger.warn(
            { management: management.url, error: String(error) },
            "the broker's management API cannot be had: queues get their limits as arguments, which stay until a queue " +
              "is deleted; set MUSTER_AMQP_MANAGEMENT_URL with a user who has the tag policymaker",
          );
          return;
        }
        await delay(firstRetryMs, undefined, { signal });
      }
    }
  }

  /** Policies that somebody changes or deletes come back. Resolves when `signal` aborts. */
  async keep(signal: AbortSignal): Promise<void> {
    const { broker, management, policies, logger } = this.#options;
    if (management === undefined) return;
    while (!signal.aborted) {
      await delay(keepEveryMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted || broker.state !== "connected") continue;
      try {
        const changed = await management.applyPolicies(policies);
        if (changed.length > 0) logger.warn({ policies: changed }, "repaired policies of the broker");
        this.asArguments = false;
      } catch {
        // Told once at the start; the next round asks again.
      }
    }
  }
}
