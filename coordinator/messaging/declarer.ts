/** Declares what a plan names. Idempotent: what stands is left as it is. */
import type { ConfirmChannel } from "amqplib";
import type { Logger } from "pino";
import { exchanges } from "../../config-db/names.ts";
import { type BindingPlan, type Plan, type PolicyPlan, policyAsArguments } from "./topology.ts";

export interface DeclarerOptions {
  /** Given as arguments to queues while no management API can set them as policies. */
  policies: PolicyPlan[];
  useArguments: () => boolean;
  logger: Logger;
}

export class Declarer {
  readonly #options: DeclarerOptions;
  /** Exchanges of types that were declared on this connection. */
  readonly #typeExchanges = new Set<string>();
  /** Queues that stand there with other arguments than ours: taken as they are. */
  readonly #foreign = new Set<string>();

  constructor(options: DeclarerOptions) {
    this.#options = options;
  }

  /** The broker was away, and may have lost what it had. */
  forget(): void {
    this.#typeExchanges.clear();
  }

  /**
   * All but the bindings that wait for a queue to settle.
   * @throws what the broker says; the channel is lost then, and the next try goes on from what stands.
   */
  async declare(channel: ConfirmChannel, plan: Plan): Promise<void> {
    for (const { name, type } of plan.exchanges) {
      if (this.#typeExchanges.has(name)) continue;
      await channel.assertExchange(name, type, { durable: true });
      if (name.startsWith(exchanges.type(""))) this.#typeExchanges.add(name);
    }
    // Each is bound before the next is declared: who finds the last queue of a plan finds all others bound.
    for (const queue of plan.queues) {
      await this.#declareQueue(channel, queue);
      await bind(channel, plan, (binding) => binding.queue === queue.name && binding.settled !== true);
    }
  }

  /** The bindings that `declare` left out. @throws as `declare` */
  async open(channel: ConfirmChannel, plan: Plan): Promise<void> {
    await bind(channel, plan, (binding) => binding.settled === true);
  }

  /** All bindings, of queues that stand. @throws as `declare`, with 404 for a queue that does not. */
  async rebind(channel: ConfirmChannel, plan: Plan): Promise<void> {
    await bind(channel, plan, () => true);
  }

  async #declareQueue(
    channel: ConfirmChannel,
    { name, type, singleActiveConsumer }: Plan["queues"][number],
  ): Promise<void> {
    if (this.#foreign.has(name)) {
      await channel.checkQueue(name);
      return;
    }
    const { policies, useArguments, logger } = this.#options;
    const own = { "x-queue-type": type, ...(singleActiveConsumer ? { "x-single-active-consumer": true } : {}) };
    const limits = useArguments() ? policyAsArguments(name, policies) : {};
    try {
      await channel.assertQueue(name, { durable: true, arguments: { ...own, ...limits } });
    } catch (error) {
      if ((error as { code?: number }).code === 406) {
        this.#foreign.add(name);
        logger.warn({ queue: name, error: String(error) }, "a queue has other arguments; it is taken as it is");
      }
      throw error;
    }
  }
}

async function bind(channel: ConfirmChannel, plan: Plan, which: (binding: BindingPlan) => boolean): Promise<void> {
  for (const { queue, exchange, key } of plan.bindings.filter(which)) await channel.bindQueue(queue, exchange, key);
}
