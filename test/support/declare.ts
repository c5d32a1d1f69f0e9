import { connect } from "amqplib";
import type { Plan } from "../../coordinator/messaging/topology.ts";

/** Declares exchanges, queues and bindings as the coordinator plans them, for tests of a client without a coordinator. */
export async function declare(url: string, ...plans: Plan[]): Promise<void> {
  const connection = await connect(url);
  const channel = await connection.createChannel();
  for (const plan of plans) {
    for (const { name, type } of plan.exchanges) await channel.assertExchange(name, type);
    for (const { name, type } of plan.queues) {
      const options = type === "quorum" ? { arguments: { "x-queue-type": "quorum" } } : {};
      await channel.assertQueue(name, { durable: true, ...options });
    }
    for (const { queue, exchange, key } of plan.bindings) await channel.bindQueue(queue, exchange, key);
  }
  await connection.close();
}
