import { expect } from "chai";
import type { Outgoing } from "../../clients/typescript/src/message.ts";
import { Outbox } from "../../clients/typescript/src/outbox.ts";
import type { Sender, Sent } from "../../clients/typescript/src/transport.ts";
import { MusterError } from "../../config-db/errors.ts";

describe("the client's outbox", () => {
  let outbox: Outbox;
  beforeEach(() => {
    outbox = new Outbox({ messagesMax: 3, bytesMax: 100 });
  });
  afterEach(async () => await outbox.close(0));

  it("keeps what nothing can send and hands it on in order", async () => {
    const sent = [1, 2, 3].map((n) => outbox.send(message(n), 5_000));
    const sender = new RecordingSender({});
    outbox.use(sender);
    await Promise.all(sent);
    expect(sender.ids).to.deep.equal(["m1", "m2", "m3"]);
  });

  it("refuses what is over its count, having sent nothing", async () => {
    const waiting = [1, 2, 3].map((n) => outbox.send(message(n), 5_000).catch(() => undefined));
    const error = await failure(outbox.send(message(4), 5_000));
    expect(error.code).to.equal("too-many");
    expect(error.message).to.contain("3 of 3 messages");
    await outbox.close(0);
    await Promise.all(waiting);
  });

  it("refuses what is over its bytes", async () => {
    const waiting = outbox.send(message(1, 60), 5_000).catch(() => undefined);
    expect((await failure(outbox.send(message(2, 60), 5_000))).code).to.equal("too-many");
    await outbox.close(0);
    await waiting;
  });

  it("has room again once a message is taken over", async () => {
    outbox.use(new RecordingSender({}));
    for (const n of [1, 2, 3, 4, 5]) await outbox.send(message(n, 60), 5_000);
    expect(outbox.size).to.equal(0);
  });

  it("sends what was lost again, by the same id", async () => {
    const flaky = new RecordingSender(lost, {});
    outbox.use(flaky);
    await outbox.send(message(1), 5_000);
    expect(flaky.ids).to.deep.equal(["m1", "m1"]);
  });

  it("gives what an earlier sender has in hand to the next, and hears the earlier no more", async () => {
    const silent = new RecordingSender();
    outbox.use(silent);
    const sent = outbox.send(message(1), 5_000);
    const next = new RecordingSender();
    outbox.use(next);
    silent.settle(0, { error: new MusterError("no-such-target", "too late"), isLost: false });
    next.settle(0, {});
    await sent;
    expect(next.ids).to.deep.equal(["m1"]);
  });

  it("tells a refusal as it is", async () => {
    outbox.use(new RecordingSender({ error: new MusterError("no-such-target", "nobody"), isLost: false }));
    expect((await failure(outbox.send(message(1), 5_000))).code).to.equal("no-such-target");
  });

  it("gives a message up at its time, and says that it was never sent", async () => {
    const error = await failure(outbox.send(message(1), 50));
    expect(error.code).to.equal("deadline-exceeded");
    expect(error.message).to.contain("never sent");
  });

  it("says of one that a sender had in hand that its arrival is unknown", async () => {
    outbox.use(new RecordingSender());
    expect((await failure(outbox.send(message(1), 50))).message).to.contain("unknown");
  });

  it("waits at its close for what is under way, and rejects what is not taken by then", async () => {
    const sender = new RecordingSender();
    outbox.use(sender);
    const [first, second] = [outbox.send(message(1), 5_000), failure(outbox.send(message(2), 5_000))];
    const closed = outbox.close(100);
    sender.settle(0, {});
    await first;
    await closed;
    expect((await second).code).to.equal("unreachable");
  });
});

const lost: Sent = { error: new MusterError("unreachable", "lost"), isLost: true };

class RecordingSender implements Sender {
  readonly name = "amqp";
  readonly ids: string[] = [];
  readonly #answers: Sent[];
  readonly #settled: ((sent: Sent) => void)[] = [];

  /** The last answer is given to all further messages; without any, the test settles. */
  constructor(...answers: Sent[]) {
    this.#answers = answers;
  }

  post({ id }: Outgoing, settled: (sent: Sent) => void): void {
    this.ids.push(id);
    this.#settled.push(settled);
    const answer = this.#answers.length > 1 ? this.#answers.shift() : this.#answers[0];
    if (answer !== undefined) settled(answer);
  }

  settle(index: number, sent: Sent): void {
    this.#settled[index]?.(sent);
  }
}

function message(n: number, bytes = 10): Outgoing {
  return {
    id: `m${n}`,
    kind: "command",
    to: { component: "a" },
    name: "set",
    contentType: "application/json",
    content: Buffer.alloc(bytes),
    persistent: true,
  };
}

async function failure(promise: Promise<unknown>): Promise<MusterError> {
  try {
    await promise;
  } catch (error) {
    return error as MusterError;
  }
  throw new Error("it was taken");
}
