/**
 * A contest for a role that one process at a time may have: the active consumer of a quorum queue with
 * `x-single-active-consumer` has it. AMQP does not tell a consumer that it is active; a message that it gets does. So
 * every contestant puts a token in, and whoever is given one holds it, unacked, for as long as it has the role. When its
 * channel ends the broker gives the token to the next. A holder that was frozen does not know that it lost: what it then
 * writes and sends must carry an epoch that others refuse (docs/adr/0304).
 */
import { setInterval } from "node:timers";
import type { ConsumeMessage } from "amqplib";
import type { Broker } from "./broker.ts";
import { consume } from "./lasting-channel.ts";

export interface Contestant {
  gained(): void;
  lost(): void;
}

/**
 * How often each contestant puts a token in: heals a queue that lost its tokens, and lets the holder swap its own long before
 * the broker closes a channel over a message that was not acked for 30 minutes.
 */
const tokenEveryMs = 10_000;
/** Tokens left over from contestants that are gone end by themselves. */
const tokenTtlMs = 60_000;

/** Enters a contest until the returned function is called (which gives the role up). */
export function contest(broker: Broker, queue: string, contestant: Contestant): () => Promise<void> {
  let held: ConsumeMessage | undefined;
  let putting: NodeJS.Timeout | undefined;

  const lose = () => {
    clearInterval(putting);
    if (held === undefined) return;
    held = undefined;
    contestant.lost();
  };

  const opened = broker.channel({
    name: `contest ${queue}`,
    setup: async (channel) => {
      await channel.assertQueue(queue, {
        durable: true,
        arguments: { "x-queue-type": "quorum", "x-single-active-consumer": true },
      });
      await consume(channel, queue, {}, (message) => {
        const before = held;
        held = message;
        if (before === undefined) contestant.gained();
        else channel.ack(before);
      });
      // Not awaited: a broker that takes no messages still gives out the token that is there.
      void putToken(broker, queue);
      clearInterval(putting);
      putting = setInterval(() => void putToken(broker, queue), tokenEveryMs);
      putting.unref();
    },
    onLost: lose,
  });

  return async () => {
    await opened.close();
    lose();
  };
}

async function putToken(broker: Broker, queue: string): Promise<void> {
  const options = { persistent: true, expiration: tokenTtlMs };
  // The only use of the default exchange: the queue is the coordinators' own. One that is not taken is followed by another.
  await broker.publish({ exchange: "", key: queue, content: Buffer.alloc(0), options }).catch(() => undefined);
}
