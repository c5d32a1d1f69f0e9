import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { expect } from "chai";
import { pino } from "pino";
import { headers as names } from "../../config-db/names.ts";
import type { Broker } from "../../coordinator/messaging/broker.ts";
import type { Consumer, Delivery } from "../../coordinator/messaging/consumer.ts";
import { Inbox, type InboxMessage } from "../../coordinator/messaging/inbox.ts";
import { eventually } from "../support/eventually.ts";

/** An inbox to which `arrive` brings messages as their reading made them, and which tells what it gave up. */
async function inboxOf(give: (message: InboxMessage) => void, fail: Consumer["fail"] = async () => undefined) {
  const givenUp: string[] = [];
  const acked: ConsumeMessage[] = [];
  let take: (message: ConsumeMessage) => void = () => undefined;
  const channel = {
    prefetch: async () => undefined,
    ack: (message: ConsumeMessage) => void acked.push(message),
    cancel: async () => undefined,
    consume: async (_queue: string, onMessage: typeof take) => {
      take = onMessage;
      return { consumerTag: "tag" };
    },
  } as unknown as ConfirmChannel;
  const broker = {
    channel: ({ setup }: { setup: (opened: ConfirmChannel) => Promise<void> }) => {
      void setup(channel);
      return { channel: { current: channel, opened: async () => channel }, close: async () => undefined };
    },
  } as unknown as Broker;
  const consumer = {
    admit: async (from: Omit<Delivery, "letter">) => ({ ...from, ...from.message }) as unknown as Delivery,
    judge: () => ({ action: "dead-letter" }),
    fail,
    expired: () => false,
    began: async () => undefined,
    deadLetter: async ({ letter }: Delivery) => void givenUp.push(letter.envelope.messageId),
  } as unknown as Consumer;
  let count = 0;
  const elsewhere = async () => [];
  const deliveryId = () => `d-${++count}`;
  const logger = pino({ level: "silent" });
  const inbox = new Inbox({ component: { id: "c", type: "t" }, broker, consumer, logger, deliveryId, elsewhere });
  const end = await inbox.stream({ visibilityMs: 60_000, give });
  const arrive = (messageId: string, more: Record<string, unknown> = {}) => {
    const envelope = { messageId, kind: "command", name: "x", contentType: "a/b", attempt: 1, ...more };
    const letter = { envelope, content: Buffer.alloc(0) };
    const headers = { [names.attempt]: envelope.attempt, [names.redriven]: more.redriven };
    take({ properties: { messageId, headers }, letter } as unknown as ConsumeMessage);
  };
  return { inbox, givenUp, acked, arrive, end };
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

  it("takes the copy of what it is settling for settled, but hands out the dead letter that was redriven", async () => {
    const given: InboxMessage[] = [];
    let deadLettered = () => {};
    const fail = () =>
      new Promise<void>((resolve) => {
        deadLettered = resolve;
      });
    const { inbox, acked, arrive } = await inboxOf((message) => given.push(message), fail);
    arrive("one");
    await eventually(() => expect(given).to.have.length(1));
    const settled = inbox.nack(given[0]?.delivery ?? "", { final: true });
    arrive("one");
    arrive("one", { redriven: 1 });
    await eventually(() => expect(given).to.have.length(2));
    expect(given[1]).to.include({ id: "one", attempt: 1, redriven: 1 });
    expect(acked).to.have.length(1);
    deadLettered();
    await settled;
    await inbox.close();
  });

  it("hands over what it has ready when nobody waits, and has it again when that came too late", async () => {
    const wanted = { max: 10, visibilityMs: 60_000 };
    const { inbox, arrive, end } = await inboxOf(() => undefined);
    expect(await inbox.handOver(wanted)).to.deep.equal([]);
    end();
    arrive("early");
    const given = await eventually(async () => {
      const messages = (await inbox.handOver(wanted)) ?? [];
      expect(messages.map(({ id, attempt }) => [id, attempt])).to.deep.equal([["early", 1]]);
      return messages;
    });
    inbox.takeBack(given.map(({ delivery }) => delivery));
    expect((await inbox.handOver(wanted))?.map(({ id, attempt }) => [id, attempt])).to.deep.equal([["early", 1]]);
    await inbox.close();
  });
});
