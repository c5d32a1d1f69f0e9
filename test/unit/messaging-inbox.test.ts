import { setImmediate } from "node:timers/promises";
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { expect } from "chai";
import { pino } from "pino";
import { headers as names, queues } from "../../config-db/names.ts";
import type { Broker } from "../../coordinator/messaging/broker.ts";
import { Consumer, type Delivery } from "../../coordinator/messaging/consumer.ts";
import { publishOptions } from "../../coordinator/messaging/envelope.ts";
import { Inbox, type InboxOptions } from "../../coordinator/messaging/inbox.ts";
import type { InboxMessage } from "../../coordinator/messaging/inbox-deliveries.ts";
import { draftLetter } from "../../coordinator/messaging/send.ts";
import { eventually } from "../support/eventually.ts";

const forever = new AbortController().signal;

/** An inbox to which `arrive` brings messages as their reading made them, and which tells what it gave up. */
async function inboxOf(
  give: (message: InboxMessage) => void,
  fail: Consumer["fail"] = async () => true,
  elsewhere: InboxOptions["elsewhere"] = async () => [],
  isAlone = () => true,
  reached: () => unknown = () => undefined,
) {
  const givenUp: string[] = [];
  const acked: ConsumeMessage[] = [];
  const nacked: ConsumeMessage[] = [];
  const consumed: string[] = [];
  const prefetched: number[] = [];
  const cancelled: string[] = [];
  let closed = 0;
  const takers = new Map<string, (message: ConsumeMessage) => void>();
  const tags = new Map<string, string>();
  const channel = {
    prefetch: async (count: number) => void prefetched.push(count),
    ack: (message: ConsumeMessage) => void acked.push(message),
    nack: (message: ConsumeMessage) => void nacked.push(message),
    cancel: async (tag: string) => {
      cancelled.push([...tags].find(([, given]) => given === tag)?.[0] ?? tag);
    },
    consume: async (
      queue: string,
      onMessage: (message: ConsumeMessage) => void,
      { consumerTag }: { consumerTag: string },
    ) => {
      takers.set(queue, onMessage);
      tags.set(queue, consumerTag);
      consumed.push(queue);
      return { consumerTag };
    },
  } as unknown as ConfirmChannel;
  let lose = () => {};
  let restore = async () => {};
  const broker = {
    channel: ({ setup, onLost }: { setup: (opened: ConfirmChannel) => Promise<void>; onLost: () => void }) => {
      let current: ConfirmChannel | undefined;
      // Given out a moment after it is set up, as a lasting channel is.
      restore = async () => {
        const opened = { ...channel } as ConfirmChannel;
        await setup(opened);
        current = opened;
      };
      lose = () => {
        current = undefined;
        onLost();
      };
      void restore();
      return {
        channel: {
          get current() {
            return current;
          },
          opened: async () => channel,
        },
        close: async () => {
          closed += 1;
        },
      };
    },
  } as unknown as Broker;
  const consumer = {
    admit: async (from: Omit<Delivery, "letter">) => ({ ...from, ...from.message }) as unknown as Delivery,
    judge: (_delivery: Delivery, delayMs?: number) =>
      delayMs === undefined ? { action: "dead-letter" } : { action: "retry", attempt: 2, delayMs },
    fail,
    expired: () => false,
    began: async () => undefined,
    deadLetter: async ({ letter }: Delivery) => void givenUp.push(letter.envelope.messageId),
  } as unknown as Consumer;
  let count = 0;
  const deliveryId = () => `d-${++count}`;
  const logger = pino({ level: "silent" });
  const component = { id: "c", type: "t" };
  const inbox = new Inbox({ component, broker, consumer, logger, deliveryId, elsewhere, reached, isAlone });
  const end = await inbox.stream({ visibilityMs: 60_000, give });
  let deliveryTag = 0;
  const arrive = (messageId: string, more: Record<string, unknown> = {}, queue = queues.commands("c")) => {
    const envelope = { messageId, kind: "command", name: "x", contentType: "a/b", attempt: 1, ...more };
    const letter = { envelope, content: Buffer.alloc(0) };
    const headers = { [names.attempt]: envelope.attempt, [names.redriven]: more.redriven };
    const fields = { deliveryTag: ++deliveryTag, consumerTag: tags.get(queue) };
    takers.get(queue)?.({ fields, properties: { messageId, headers }, letter } as unknown as ConsumeMessage);
  };
  const connection = { lose: () => lose(), restore: () => restore() };
  const closedSoFar = () => closed;
  return { inbox, givenUp, acked, nacked, consumed, prefetched, cancelled, closedSoFar, arrive, end, connection };
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
      new Promise<boolean>((resolve) => {
        deadLettered = () => resolve(true);
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
    expect(await inbox.handOver(wanted, forever)).to.deep.equal([]);
    end();
    arrive("early");
    await setImmediate();
    const given = (await inbox.handOver(wanted, forever)) ?? [];
    expect(given.map(({ id, attempt }) => [id, attempt])).to.deep.equal([["early", 1]]);
    inbox.takeBack(given.map(({ delivery }) => delivery));
    expect((await inbox.handOver(wanted, forever))?.map(({ id, attempt }) => [id, attempt])).to.deep.equal([
      ["early", 1],
    ]);
    await inbox.close();
  });

  describe("polled again, since an answer was lost,", () => {
    const again = { max: 1, waitMs: 0, visibilityMs: 60_000, again: true };

    it("hands out all that it has ready before it consumes", async () => {
      const { inbox, consumed, arrive, end } = await inboxOf(() => undefined);
      await eventually(() => expect(consumed).to.have.length(4));
      end();
      arrive("one");
      arrive("two");
      const [one] = await inbox.poll({ ...again, signal: forever });
      const [two] = await inbox.poll({ ...again, again: false, signal: forever });
      expect([one?.id, two?.id]).to.deep.equal(["one", "two"]);
      expect(consumed).to.have.length(4);
      await inbox.close();
    });

    it("consumes nothing for who has gone before the others answered, and leaves what it has ready to them", async () => {
      let answer = () => {};
      const others = new Promise<InboxMessage[]>((resolve) => {
        answer = () => resolve([]);
      });
      const { inbox, consumed, arrive, end } = await inboxOf(
        () => undefined,
        undefined,
        () => others,
      );
      await eventually(() => expect(consumed).to.have.length(4));
      end();
      arrive("one");
      const gone = new AbortController();
      const polled = inbox.poll({ ...again, signal: gone.signal });
      gone.abort();
      answer();
      expect(await polled).to.deep.equal([]);
      expect(consumed).to.have.length(4);
      const handed = await inbox.handOver({ max: 1, visibilityMs: 60_000 }, forever);
      expect(handed?.map(({ id }) => id)).to.deep.equal(["one"]);
      await inbox.close();
    });
  });

  it("keeps for its next poll what it read ahead while something is in hand, and leaves to others what is for any of a type", async () => {
    const given: InboxMessage[] = [];
    const { inbox, nacked, cancelled, arrive, end } = await inboxOf((message) => given.push(message));
    arrive("in hand");
    await eventually(() => expect(given).to.have.length(1));
    end();
    arrive("own");
    arrive("any", {}, queues.any("t"));
    await eventually(() => expect(nacked.map(({ properties }) => properties.messageId)).to.deep.equal(["any"]));
    expect(cancelled).to.deep.equal([queues.any("t")]);
    arrive("later");
    await setImmediate();
    const handed = await inbox.handOver({ max: 10, visibilityMs: 60_000 }, forever);
    expect(handed?.map(({ id }) => id)).to.deep.equal(["own", "later"]);
    await inbox.close();
  });

  it("makes nothing when it is polled for the last time before it ever consumed", async () => {
    const { inbox, consumed, end, closedSoFar } = await inboxOf(() => undefined);
    end();
    await inbox.handOver({ max: 1, visibilityMs: 60_000 }, forever);
    expect([closedSoFar(), inbox.resting]).to.deep.equal([1, true]);
    const before = consumed.length;
    expect(await inbox.poll({ max: 1, waitMs: 0, visibilityMs: 60_000, last: true, signal: forever })).to.deep.equal(
      [],
    );
    expect([consumed.length, inbox.resting]).to.deep.equal([before, true]);
    await inbox.close();
  });

  describe("whose component polls another coordinator", () => {
    const wanted = { max: 10, visibilityMs: 60_000 };
    const idsOf = (messages: InboxMessage[] | undefined) => messages?.map(({ id }) => id);

    it("closes its channel when nothing is in hand, and cancels nothing before", async () => {
      const { inbox, consumed, cancelled, closedSoFar, end } = await inboxOf(() => undefined);
      await eventually(() => expect(consumed).to.have.length(4));
      end();
      expect(await inbox.handOver(wanted, forever)).to.deep.equal([]);
      expect([cancelled, closedSoFar()]).to.deep.equal([[], 1]);
      await inbox.close();
    });

    it("consumes on for it while anything is in hand, until nobody waits for that any more", async () => {
      const given: InboxMessage[] = [];
      const { inbox, cancelled, closedSoFar, arrive, end } = await inboxOf((message) => given.push(message));
      arrive("in hand");
      await eventually(() => expect(given).to.have.length(1));
      end();
      expect(await inbox.handOver({ ...wanted, waitMs: 0 }, forever)).to.equal(undefined);
      const next = inbox.handOver({ ...wanted, waitMs: 60_000 }, forever);
      await setImmediate();
      arrive("next");
      expect(idsOf(await next)).to.deep.equal(["next"]);

      const gone = new AbortController();
      const unheard = inbox.handOver({ ...wanted, waitMs: 60_000 }, gone.signal);
      gone.abort();
      expect(await unheard).to.equal(undefined);
      // What was answered to nobody, and who asked for it, are forgotten.
      const before = inbox.handOver({ ...wanted, waitMs: 60_000 }, forever);
      expect(await inbox.handOver({ ...wanted, again: true }, forever)).to.deep.equal([]);
      expect(await before).to.equal(undefined);
      expect(idsOf(await inbox.handOver(wanted, forever))).to.deep.equal(["in hand", "next"]);
      expect([cancelled, closedSoFar()]).to.deep.equal([[], 0]);
      await inbox.close();
    });
  });

  it("takes more than before only where it has all that it may have, whose consumer it replaces", async () => {
    const given: InboxMessage[] = [];
    const { inbox, consumed, prefetched, cancelled, arrive, end } = await inboxOf((message) => given.push(message));
    await eventually(() => expect(consumed).to.have.length(4));
    for (let n = 1; n <= 9; n += 1) arrive(`${n}`);
    await eventually(() => expect(given).to.have.length(9));
    end();
    const wanted = { max: 12, waitMs: 0, visibilityMs: 60_000, signal: forever };
    await inbox.poll(wanted);
    expect(cancelled).to.deep.equal([]);
    arrive("10");
    await setImmediate();
    expect(await inbox.poll(wanted)).to.have.length(1);
    expect(cancelled).to.deep.equal([queues.commands("c")]);
    expect([consumed.slice(4), prefetched.slice(4)]).to.deep.equal([[queues.commands("c")], [12]]);
    await inbox.close();
  });

  it("hands out what the others have before what it took after them", async () => {
    const elsewhere = [[{ id: "older" } as InboxMessage], []];
    const { inbox, consumed, arrive, end } = await inboxOf(
      () => undefined,
      undefined,
      async (_component, { again }) => (again === true ? [] : (elsewhere.shift() ?? [])),
      () => false,
    );
    await eventually(() => expect(consumed).to.have.length(4));
    end();
    arrive("newer");
    await setImmediate();
    const wanted = { max: 10, waitMs: 0, visibilityMs: 60_000, signal: forever };
    const [first] = await inbox.poll({ ...wanted, again: true });
    const [next] = await inbox.poll(wanted);
    expect([first?.id, next?.id]).to.deep.equal(["older", "newer"]);
    await inbox.close();
  });

  describe("whose connection is lost", () => {
    const wanted = { max: 10, visibilityMs: 60_000 };

    for (const [others, isAlone, prefetch] of [
      ["reads no more than is out when it is back and nobody polls", true, [1, 1, 1, 1]],
      ["reads nothing then where another coordinator may be polled", false, []],
    ] as const)
      it(others, async () => {
        const given: InboxMessage[] = [];
        const { inbox, arrive, prefetched, end, connection } = await inboxOf(
          (message) => given.push(message),
          undefined,
          undefined,
          () => isAlone,
        );
        arrive("in hand");
        await eventually(() => expect(given).to.have.length(1));
        end();
        prefetched.length = 0;
        connection.lose();
        await connection.restore();
        expect(prefetched).to.deep.equal(prefetch);
        await inbox.close();
      });

    it("retries nothing that comes again by itself", async () => {
      const given: InboxMessage[] = [];
      const failed: string[] = [];
      const { inbox, arrive, connection } = await inboxOf(
        (message) => given.push(message),
        async ({ letter }) => {
          failed.push(letter.envelope.messageId);
          return true;
        },
      );
      arrive("held");
      arrive("in hand");
      await eventually(() => expect(given).to.have.length(2));
      await inbox.nack(given[0]?.delivery ?? "", { delayMs: 10 });
      connection.lose();
      await inbox.nack(given[1]?.delivery ?? "", { delayMs: 0 });
      await connection.restore();
      arrive("next", {}, queues.commands("c"));
      await eventually(() => expect(given).to.have.length(3));
      await inbox.nack(given[2]?.delivery ?? "", { delayMs: 20 });
      await eventually(() => expect(failed).to.deep.equal(["next"]));
      await inbox.close();
    });

    it("asks the others again for a poll that waits, before it consumes", async () => {
      const elsewhere: InboxMessage[][] = [[], [{ id: "older" } as InboxMessage]];
      const asked: number[] = [];
      const { inbox, consumed, end, connection } = await inboxOf(
        () => undefined,
        undefined,
        async () => elsewhere[asked.push(consumed.length) - 1] ?? [],
        () => false,
      );
      end();
      connection.lose();
      await connection.restore();
      const before = consumed.length;
      const polled = inbox.poll({ ...wanted, waitMs: 10_000, signal: forever });
      await eventually(() => expect(consumed).to.have.length(before + 4));
      connection.lose();
      expect(await polled).to.deep.equal([{ id: "older" }]);
      expect(asked).to.deep.equal([before, before + 4]);
      await inbox.close();
    });

    it("asks the others again where it was lost before it consumed", async () => {
      let connections = 0;
      const asked: number[] = [];
      const { inbox, consumed, end, connection } = await inboxOf(
        () => undefined,
        undefined,
        async () => {
          asked.push(consumed.length);
          return [];
        },
        () => false,
        () => connections,
      );
      await eventually(() => expect(consumed).to.have.length(4));
      end();
      connection.lose();
      const before = consumed.length;
      const polled = inbox.poll({ ...wanted, waitMs: 200, signal: forever });
      await eventually(() => expect(asked).to.have.length(1));
      connections += 1;
      await connection.restore();
      await eventually(() => expect(consumed).to.have.length(before + 4));
      expect(asked).to.deep.equal([before, before]);
      expect(await polled).to.deep.equal([]);
      await inbox.close();
    });

    it("consumes for a poll that finds its new channel about to be given out", async () => {
      const given: InboxMessage[] = [];
      const { inbox, consumed, arrive, end, connection } = await inboxOf((message) => given.push(message));
      end();
      connection.lose();
      const restored = connection.restore();
      const polled = inbox.poll({ ...wanted, waitMs: 10_000, signal: forever });
      await restored;
      await eventually(() => expect(consumed).to.have.length(8));
      arrive("next");
      expect((await polled).map(({ id }) => id)).to.deep.equal(["next"]);
      await inbox.close();
    });
  });

  it("holds a failed message that no queue takes, and sends it again", async () => {
    const given: InboxMessage[] = [];
    const outcomes = [false, false, true];
    const failed: string[] = [];
    const { inbox, arrive } = await inboxOf(
      ({ id, ...message }) => given.push({ id, ...message }),
      async ({ letter }) => {
        failed.push(letter.envelope.messageId);
        return outcomes.shift() ?? true;
      },
    );
    arrive("one");
    await eventually(() => expect(given).to.have.length(1));
    await inbox.nack(given[0]?.delivery ?? "", { delayMs: 0 });
    await eventually(() => expect(failed).to.deep.equal(["one", "one", "one"]), { timeoutMs: 10_000 });
    expect(given).to.have.length(1);
    await inbox.close();
  });

  it("sends failed messages again at once when half of what it may have is held", async () => {
    const given: InboxMessage[] = [];
    const failed: string[] = [];
    const { inbox, arrive } = await inboxOf(
      (message) => given.push(message),
      async ({ letter }) => {
        failed.push(letter.envelope.messageId);
        return true;
      },
    );
    // A stream reads ten ahead.
    for (let n = 1; n <= 6; n += 1) arrive(`${n}`);
    await eventually(() => expect(given).to.have.length(6));
    for (const { delivery } of given) await inbox.nack(delivery, { delayMs: 60_000 });
    expect(failed).to.deep.equal(["6"]);
    await inbox.close();
  });
});

describe("the consumer", () => {
  it("leaves unacked a failed message whose retry no queue takes", async () => {
    for (const outcome of ["unroutable", "full"] as const) {
      const settled: string[] = [];
      const settle = (how: string) => () => void settled.push(how);
      const channel = {
        ack: settle("ack"),
        reject: settle("reject"),
        nack: settle("nack"),
      } as unknown as ConfirmChannel;
      const broker = { publish: async () => outcome } as unknown as Broker;
      const retry = { attemptsMax: 5, firstMs: 1, maxMs: 1 };
      const logger = pino({ level: "silent" });
      const consumer = new Consumer({ broker, retry, logger, wallClock: () => new Date() });
      const letter = draftLetter({ messageId: "m", kind: "command", name: "x" }, Buffer.alloc(0), Date.now());
      const message = { fields: {}, properties: {}, content: letter.content } as unknown as ConsumeMessage;
      const verdict = { action: "retry", attempt: 2, delayMs: 0 } as const;
      const failure = { code: "handler-failed", reason: "no" };
      expect(await consumer.fail({ component: "c", channel, message, letter }, verdict, failure)).to.equal(false);
      expect(settled).to.deep.equal([]);
    }
  });

  it("knows a command as handled, however large the replies are that were given since", async () => {
    const acked: unknown[] = [];
    const channel = { ack: (message: unknown) => void acked.push(message) } as unknown as ConfirmChannel;
    const broker = { publish: async () => "routed" } as unknown as Broker;
    const retry = { attemptsMax: 5, firstMs: 1, maxMs: 1 };
    const logger = pino({ level: "silent" });
    const consumer = new Consumer({ broker, retry, logger, wallClock: () => new Date() });
    const arrived = (messageId: string, kind: "command" | "request") => {
      const asking = kind === "request" ? { from: "a", replyTo: "a" } : {};
      const letter = draftLetter({ messageId, kind, name: "x", ...asking }, Buffer.alloc(0), Date.now());
      const { headers } = publishOptions(letter.envelope, Date.now(), { persistent: true });
      const properties = { messageId, type: "x", replyTo: letter.envelope.replyTo, headers };
      const message = { fields: {}, properties, content: letter.content } as unknown as ConsumeMessage;
      return { component: "c", channel, message, letter };
    };
    await consumer.done(arrived("command", "command"));
    const reply = { content: Buffer.alloc(1024 * 1024), contentType: "application/octet-stream" };
    for (let n = 0; n < 40; n += 1) await consumer.done(arrived(`request ${n}`, "request"), reply);
    const [again, kept, forgotten] = [
      arrived("command", "command"),
      arrived("request 39", "request"),
      arrived("request 0", "request"),
    ];
    expect(await consumer.admit(again)).to.equal(undefined);
    expect(await consumer.admit(kept)).to.equal(undefined);
    expect(acked.slice(-2)).to.deep.equal([again.message, kept.message]);
    expect((await consumer.admit(forgotten))?.letter.envelope.messageId).to.equal("request 0");
  });
});
