/** Declares what a plan names. Idempotent: what stands is left as it is. */
import type { ConfirmChannel } from "amqplib";
import type { Logger } from "pino";
import { MusterError } from "../../config-db/errors.ts";
import { exchanges } from "../../config-db/names.ts";
import type { Entity } from "./link.ts";
import { type BindingPlan, type Plan, type PolicyPlan, policyAsArguments, type QueuePlan } from "./topology.ts";

export interface DeclarerOptions {
  /** Given as arguments to queues while no management API can set them as policies. */
  policies: PolicyPlan[];
  useArguments: () => boolean;
  logger: Logger;
}

/**
 * The channel to declare on. Each refusal of the broker costs one: what a plan wants besides goes on when there is another
 * to be had.
 */
type Channels = () => Promise<ConfirmChannel>;

/** The broker refuses to declare `what`, and will until somebody changes something there: `broker-unavailable`, and why. */
export class DeclarationError extends MusterError {
  readonly what: Entity;

  constructor(what: Entity, cause: Error) {
    const [, said = cause.message] = /with message "(.+)"$/s.exec(cause.message) ?? [];
    const remedy = isAnother(cause) ? "; delete it there, and it is declared as it must be" : "";
    const told = `the ${what.kind} "${what.name}" cannot be declared at the broker, which says: ${said}${remedy}`;
    super("broker-unavailable", told, { retryAfterMs: 10_000, cause });
    this.what = what;
  }
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

  /** Whether the exchange of a type was declared on this connection. */
  hasTypeExchange(type: string): boolean {
    return this.#typeExchanges.has(exchanges.type(type));
  }

  /**
   * All but the bindings that wait for a queue to settle.
   * @throws DeclarationError; or what the broker says: the next try goes on from what stands.
   */
  async declare(channels: Channels, plan: Plan): Promise<void> {
    for (const { name, type } of plan.exchanges) {
      if (this.#typeExchanges.has(name)) continue;
      await attempt({ kind: "exchange", name }, async () =>
        (await channels()).assertExchange(name, type, { durable: true }),
      );
      if (name.startsWith(exchanges.type(""))) this.#typeExchanges.add(name);
    }
    // Each is bound before the next is declared: who finds the last queue of a plan finds all others bound.
    for (const queue of plan.queues) {
      await this.#declareQueue(channels, queue);
      await bind(await channels(), plan, (binding) => binding.queue === queue.name && binding.settled !== true);
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

  async #declareQueue(channels: Channels, { name, type, singleActiveConsumer }: QueuePlan): Promise<void> {
    if (this.#foreign.has(name) && (await this.#stillStands(channels, name))) return;
    const { policies, useArguments, logger } = this.#options;
    const own = { "x-queue-type": type, ...(singleActiveConsumer ? { "x-single-active-consumer": true } : {}) };
    const limits = useArguments() ? policyAsArguments(name, policies) : {};
    try {
      await attempt({ kind: "queue", name }, async () =>
        (await channels()).assertQueue(name, { durable: true, arguments: { ...own, ...limits } }),
      );
    } catch (error) {
      if (!(error instanceof DeclarationError && isAnother(error.cause))) throw error;
      this.#foreign.add(name);
      logger.warn({ queue: name, error: String(error.cause) }, "a queue has other arguments; it is taken as it is");
      await (await channels()).checkQueue(name);
    }
  }

  async #stillStands(channels: Channels, name: string): Promise<boolean> {
    try {
      await (await channels()).checkQueue(name);
      return true;
    } catch (error) {
      if (codeOf(error) !== 404) throw error;
      this.#foreign.delete(name);
      return false;
    }
  }
}

async function bind(channel: ConfirmChannel, plan: Plan, which: (binding: BindingPlan) => boolean): Promise<void> {
  for (const { queue, exchange, key } of plan.bindings.filter(which))
    await attempt({ kind: "queue", name: queue }, () => channel.bindQueue(queue, exchange, key));
}

async function attempt(what: Entity, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    // Access refused, locked by another connection, a precondition failed. What is merely not there is declared again.
    if (error instanceof Error && [403, 405, 406].includes(codeOf(error) ?? 0)) throw new DeclarationError(what, error);
    throw error;
  }
}

/** Something else has the name, as against a limit of the broker's that is reached, which is a 406 as well. */
function isAnother(error: unknown): boolean {
  return codeOf(error) === 406 && error instanceof Error && error.message.includes("inequivalent arg");
}

function codeOf(error: unknown): number | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "number" ? error.code : undefined;
}
