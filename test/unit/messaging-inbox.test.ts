import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { expect } from "chai";
import { pino } from "pino";
import type { Broker } from "../../coordinator/messaging/broker.ts";
import type { Consumer, Delivery } from "../../coordinator/messaging/consumer.ts";
import { Inbox, type InboxMessage } from "../../coordinator/messaging/inbox.ts";
import { eventually } from "../support/eventually.ts";

/** An inbox to which `arrive` brings messages as their reading made them, and which tells what it gave up. */
async function inboxOf(give: (message: InboxMessage) => void) {
  const givenUp: string[] = [];
  let take: (message: ConsumeMessage) => void = () => undefined;
  const channel = {
    prefetch: async () => undefined,
    consume: async (_queue: string, onMessage: typeof take) => {
      take = onMessage;
      return { consumerTag: "tag" };
    },
  } as unknown as ConfirmChannel;
  const broker = {
    channel: ({ setup }: { setup: (opened: ConfirmChannel) => Promise<void> }) => {
      void setup(channel);
      return { channel: { current: channel }, close: async () => undefined };
    },
  } as unknown as Broker;
  const consumer = {
    admit: async ({ message }: { message: ConsumeMessage }) => ({ component: "c", ...message }) as unknown as Delivery,
    expired: () => false,
    began: async () => undefined,
    deadLetter: async ({ letter }: Delivery) => void givenUp.push(letter.envelope.messageId),
  } as unknown as Consumer;
  let count = 0;
  const deliveryId = () => `d-${++count}`;
  const logger = pino({ level: "silent" });
  const inbox = new Inbox({ component: { id: "c", type: "t" }, broker, consumer, logger, deliveryId });
  await inbox.stream({ visibilityMs: 60_000, give });
  const arrive = (messageId: string, more: Record<string, unknown> = {}) => {
    const envelope = { messageId, kind: "command", name: "x", contentType: "a/b", attempt: 1, ...more };
    const letter = { envelope, content: Buffer.alloc(0) };
    take({ properties: { messageId }, letter } as unknown as ConsumeMessage);
  };
  return { inbox, givenUp, arrive };
}

describe("an inbox", () => {
  it("gives up a message that cannot be handed out, and goes on with the next", async () => {
    const given: string[] = [];
    const { inbox, givenUp, arrive } = await inboxOf(({ id }) => {
      if (id === "unwritable") throw new RangeError("Maximum call stack size exceeded");
      given.push(id);
    });
    arrive("unreadable", { sentAtMs: 1e300 });
    arrive("unwritable");
    arrive("good");
    await eventually(() => expect(given).to.deep.equal(["good"]));
    expect(givenUp).to.deep.equal(["unreadable", "unwritable"]);
    await inbox.close();
  });
});
