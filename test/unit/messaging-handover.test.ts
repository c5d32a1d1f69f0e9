import { setTimeout as delay } from "node:timers/promises";
import type { ConfirmChannel, ConsumeMessage } from "amqplib";
import { expect } from "chai";
import { pino } from "pino";
import type { Broker } from "../../coordinator/messaging/broker.ts";
import { Handover } from "../../coordinator/messaging/handover.ts";
import type { InboxMessage } from "../../coordinator/messaging/inbox-deliveries.ts";
import type { Inboxes } from "../../coordinator/messaging/inboxes.ts";
import type { Publication, PublishOutcome } from "../../coordinator/messaging/publisher.ts";
import { codeOf } from "../support/codes.ts";
import { eventually } from "../support/eventually.ts";

const [own, other] = ["00000001", "00000002"];
const plain = { max: 10, visibilityMs: 60_000 };
const asking = { waitMs: 5_000, signal: new AbortController().signal };
const older = [{ id: "older", delivery: `${other}-1` } as InboxMessage];

describe("a coordinator that asks another for what it has ready", () => {
  let handover: Handover;
  let published: Publication[];
  let outcome: PublishOutcome;
  /** How long the broker takes to say it. */
  let outcomeMs: number;
  let takenBack: string[];
  let ready: InboxMessage[];
  let serve: (signal: AbortSignal) => Promise<InboxMessage[]>;
  let tell: (told: object, properties?: object) => void;
  let lose: () => () => void;

  beforeEach(async () => {
    published = [];
    outcome = "routed";
    outcomeMs = 0;
    takenBack = [];
    ready = [];
    serve = async () => ready;
    let current: ConfirmChannel | undefined;
    const broker = {
      publish: async (publication: Publication) => {
        published.push(publication);
        if (outcomeMs > 0) await delay(outcomeMs);
        return outcome;
      },
      channel: ({ setup, onLost }: { setup: (opened: ConfirmChannel) => Promise<void>; onLost: () => void }) => {
        const channel = {
          assertQueue: async () => ({ queue: "q" }),
          bindQueue: async () => undefined,
          prefetch: async () => undefined,
          ack: () => undefined,
          consume: async (_queue: string, take: (message: ConsumeMessage) => void) => {
            tell = (told, properties = {}) =>
              take({ content: Buffer.from(JSON.stringify(told)), properties } as unknown as ConsumeMessage);
            return { consumerTag: "t" };
          },
        } as unknown as ConfirmChannel;
        let opened = () => {};
        lose = () => {
          current = undefined;
          onLost();
          return () => {
            current = channel;
            opened();
          };
        };
        void setup(channel).then(() => {
          current = channel;
        });
        const untilOpened = (signal: AbortSignal) =>
          new Promise<void>((resolve, reject) => {
            opened = resolve;
            signal.addEventListener("abort", () => reject(signal.reason));
          });
        return {
          channel: {
            get current() {
              return current;
            },
            opened: untilOpened,
          },
          close: async () => undefined,
        };
      },
    } as unknown as Broker;
    const inbox = {
      handOver: async (_wanted: object, signal: AbortSignal) => await serve(signal),
      takeBack: (deliveries: string[]) => void takenBack.push(...deliveries),
    };
    const inboxes = { token: own, existing: () => inbox } as unknown as Inboxes;
    const logger = pino({ level: "silent" });
    handover = new Handover({ broker, inboxes, logger, ready: async () => undefined });
    handover.start();
    await eventually(() => expect(current).not.to.equal(undefined));
    tell({ present: other, greets: false });
    await eventually(() => expect([...handover.others]).to.deep.equal([other]));
    published.length = 0;
  });
  afterEach(() => handover.close());

  const answer = (messages: InboxMessage[]) =>
    tell({ component: "c", messages }, { correlationId: published.at(-1)?.options.messageId });

  it("asks it again after its queue was away: it has lost its connection, and comes back", async () => {
    outcome = "unroutable";
    expect(await handover.ask("c", plain, asking)).to.deep.equal([]);
    outcome = "routed";
    const asked = handover.ask("c", plain, asking);
    await eventually(() => expect(published).to.have.length(2));
    answer(older);
    expect(await asked).to.deep.equal(older);
  });

  it("owes nothing to a short poll, with again, when the other one's queue is away", async () => {
    outcome = "unroutable";
    outcomeMs = 20;
    expect(await handover.ask("c", { ...plain, again: true }, { ...asking, waitMs: 0 })).to.deep.equal([]);
  });

  it("refuses whoever polls when its own queue was lost, in which the answer may have been", async () => {
    const asked = codeOf(handover.ask("c", plain, asking));
    await eventually(() => expect(published).to.have.length(1));
    lose();
    expect(await asked).to.equal("broker-unavailable");
    // The other one waits for what comes next no more.
    await eventually(() => expect(published).to.have.length(2));
    const told = JSON.parse(published[1]?.content.toString() ?? "");
    expect(told).to.deep.equal({ component: "c", withdrawn: published[0]?.options.messageId });
  });

  it("refuses whoever polls while its own queue is away, and asks nobody", async () => {
    lose();
    expect(await codeOf(handover.ask("c", plain, asking))).to.equal("broker-unavailable");
    expect(published).to.deep.equal([]);
  });

  it("asks nothing for who went while its own queue was away", async () => {
    const back = lose();
    const gone = new AbortController();
    const asked = handover.ask("c", plain, { waitMs: 5_000, signal: gone.signal });
    gone.abort();
    back();
    expect(await asked).to.deep.equal([]);
    expect(published).to.deep.equal([]);
  });

  it("asks no more for who has gone, though the broker takes the question only then", async () => {
    const gone = new AbortController();
    const asked = handover.ask("c", plain, { waitMs: 5_000, signal: gone.signal });
    await eventually(() => expect(published).to.have.length(1));
    gone.abort();
    expect(await asked).to.deep.equal([]);
    expect(published[0]?.once?.aborted).to.equal(true);
  });

  it("tells it who has gone, and gives back what came for him", async () => {
    const gone = new AbortController();
    const asked = handover.ask("c", plain, { waitMs: 5_000, signal: gone.signal });
    await eventually(() => expect(published).to.have.length(1));
    const [question] = published;
    gone.abort();
    expect(await asked).to.deep.equal([]);
    const told = () => published.slice(1).map(({ content }) => JSON.parse(content.toString()));
    await eventually(() => expect(told()).to.deep.equal([{ component: "c", withdrawn: question?.options.messageId }]));
    tell({ component: "c", messages: older }, { correlationId: question?.options.messageId });
    await eventually(() => expect(told()[1]).to.deep.equal({ component: "c", back: [`${other}-1`] }));
  });

  it("hears that it consumes on and had nothing", async () => {
    const asked = handover.ask("c", plain, asking);
    await eventually(() => expect(published).to.have.length(1));
    tell({ component: "c", messages: [], consumes: true }, { correlationId: published[0]?.options.messageId });
    expect(await asked).to.equal(undefined);
  });

  it("gives the broker time to put back what one had that has just lost its connection", async () => {
    outcome = "unroutable";
    const startMs = performance.now();
    expect(await handover.ask("c", plain, asking)).to.deep.equal([]);
    expect(performance.now() - startMs).to.be.at.least(400);
  });

  it("waits for nobody any more who has withdrawn his question", async () => {
    let polled: AbortSignal | undefined;
    serve = (signal) => {
      polled = signal;
      return new Promise(() => undefined);
    };
    tell({ component: "c", token: other, ...plain }, { messageId: "question" });
    await eventually(() => expect(polled?.aborted).to.equal(false));
    tell({ component: "c", withdrawn: "question" });
    await eventually(() => expect(polled?.aborted).to.equal(true));
  });

  it("has ready again what it answered to a question that was withdrawn", async () => {
    ready = [{ id: "mine", delivery: `${own}-1` } as InboxMessage];
    tell({ component: "c", token: other, ...plain }, { messageId: "question" });
    await eventually(() => expect(published).to.have.length(1));
    expect(takenBack).to.deep.equal([]);
    tell({ component: "c", withdrawn: "question" });
    await eventually(() => expect(takenBack).to.deep.equal([`${own}-1`]));
  });

  it("answers the next question with what a withdrawn one was given, though all three come at once", async () => {
    const mine = { id: "mine", delivery: `${own}-1` } as InboxMessage;
    let given = 0;
    serve = async () => {
      if (given > takenBack.length) return [];
      given += 1;
      return [mine];
    };
    const question = { component: "c", token: other, ...plain };
    tell(question, { messageId: "first" });
    tell({ component: "c", withdrawn: "first" });
    tell(question, { messageId: "second" });
    const answers = () => published.filter(({ options }) => options.correlationId === "second");
    await eventually(() => expect(answers()).to.have.length(1));
    expect(JSON.parse(answers()[0]?.content.toString() ?? "").messages).to.deep.equal([mine]);
  });

  it("has ready again what it answered to one whose queue is away", async () => {
    ready = [{ id: "mine", delivery: `${own}-1` } as InboxMessage];
    outcome = "unroutable";
    tell({ component: "c", token: other, ...plain }, { messageId: "question" });
    await eventually(() => expect(takenBack).to.deep.equal([`${own}-1`]));
  });
});
