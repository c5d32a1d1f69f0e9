/** Taking the queues of a removed component away. */
import { setTimeout as delay } from "node:timers/promises";
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { isMusterError, MusterError } from "../../config-db/errors.ts";
import { exchanges } from "../../config-db/names.ts";
import type { Broker } from "./broker.ts";
import { Lanes } from "./lanes.ts";
import { closeQuietly, consume } from "./lasting-channel.ts";
import type { Provisioned } from "./provisioning.ts";
import { componentPlan, sourcesOfItsOwn } from "./topology.ts";

const openTimeoutMs = 10_000;
/** Messages of a doomed queue that are rescued at once. */
const prefetch = 200;
/** At most, by chance: two who remove the same queues must not meet again in step. */
const retryMs = 300;

export class QueueRemoval {
  readonly #broker: Broker;
  /**
   * One for each queue. Components that are removed at once are each the last of their type: one takes the shared queue away, then
   * the others find it gone. RabbitMQ 3.10 crashes over a consumer of a quorum queue that is just being deleted, and ends the
   * connection.
   */
  readonly #lanes = new Lanes();

  constructor(broker: Broker) {
    this.#broker = broker;
  }

  /**
   * Deletes a component's queues after `rescue` was given every message that they hold; the type's shared queue too when
   * `isLast` of its type. Unbound first, so that a sender learns at once that nobody is there; before that the tap, whichever
   * coordinator has it: what only the tap gets is confirmed and then nowhere.
   * @throws MusterError `broker-unavailable`: some may stand still; call again.
   */
  async remove(
    { id, type }: Provisioned,
    isLast: boolean,
    rescue: (queue: string, message: ConsumeMessage) => Promise<void>,
  ): Promise<void> {
    const broker = this.#broker;
    const plan = componentPlan({ id, type });
    const shared = plan.bindings.filter(({ exchange }) => exchange === exchanges.any).map(({ queue }) => queue);
    const doomed = plan.queues.map(({ name }) => name).filter((name) => isLast || !shared.includes(name));
    const opened = broker.channel({ name: `remove ${id}` });
    try {
      for (const giveUpAtMs = performance.now() + openTimeoutMs; ; ) {
        const leftMs = Math.max(0, giveUpAtMs - performance.now());
        const channel = await opened.channel.opened(AbortSignal.timeout(Math.ceil(leftMs)));
        try {
          // The broker minds neither that nobody taps nor that this was not tapped.
          for (const { exchange, key } of sourcesOfItsOwn({ id, type }, isLast))
            await channel.unbindExchange(exchanges.tap, exchange, key);
          for (const { queue, exchange, key } of plan.bindings)
            if (doomed.includes(queue)) await channel.unbindQueue(queue, exchange, key);
          for (const queue of doomed) {
            await this.#lanes.run(queue, async () => {
              if (!(await exists(broker, queue))) return;
              await drain(channel, queue, (message) => rescue(queue, message));
              await channel.deleteQueue(queue);
            });
          }
          return;
        } catch (error) {
          // Another coordinator took away what we were emptying: the broker ends the channel over it, RabbitMQ 3.10 the connection.
          if (isMusterError(error) || performance.now() > giveUpAtMs) throw error;
          await closeQuietly(channel);
          await delay(retryMs * Math.random());
        }
      }
    } catch (error) {
      if (isMusterError(error)) throw error;
      const told = `the queues of "${id}" could not be removed: ${(error as Error).message}; try again`;
      throw new MusterError("broker-unavailable", told, { retryAfterMs: 2_000, cause: error });
    } finally {
      await opened.close();
    }
  }
}

/** A failed passive declare closes its channel, and tells the broker's listeners what is missing. */
export async function exists(broker: Broker, queue: string): Promise<boolean> {
  const opened = broker.channel({ name: `look for ${queue}` });
  try {
    const channel = await opened.channel.opened(AbortSignal.timeout(openTimeoutMs));
    await channel.checkQueue(queue);
    return true;
  } catch (error) {
    if ((error as { code?: number }).code === 404) return false;
    throw error;
  } finally {
    await opened.close();
  }
}

/**
 * Gives `take` every message of a queue, acking each that it took. Ends when the queue is empty.
 * @throws what `take` first threw: what was not taken is still in the queue, which must not be deleted.
 */
async function drain(
  channel: ConfirmChannel,
  queue: string,
  take: (message: ConsumeMessage) => Promise<void>,
): Promise<void> {
  const taking = new Set<Promise<void>>();
  const failures: unknown[] = [];
  const tag = await consume(channel, queue, { prefetch }, (message) => {
    const taken = take(message)
      .then(() => channel.ack(message))
      .catch((error: unknown) => void failures.push(error))
      .finally(() => taking.delete(taken));
    taking.add(taken);
  });
  for (;;) {
    const { messageCount } = await channel.checkQueue(queue);
    await Promise.all(taking);
    if (failures.length > 0) throw failures[0];
    if (messageCount === 0 && taking.size === 0) break;
  }
  await channel.cancel(tag);
  await Promise.all(taking);
  if (failures.length > 0) throw failures[0];
}
