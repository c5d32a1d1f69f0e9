import { expect } from "chai";
import type { Delivery, Result } from "../../clients/typescript/src/delivery.ts";
import { Dispatcher, PermanentFailure } from "../../clients/typescript/src/dispatcher.ts";
import { silent } from "../../clients/typescript/src/logger.ts";
import type { Message } from "../../clients/typescript/src/message.ts";
import { traceparentInHand } from "../../clients/typescript/src/trace.ts";
import { eventually } from "../support/eventually.ts";

describe("the client's dispatcher", () => {
  let dispatcher: Dispatcher;
  beforeEach(() => {
    dispatcher = new Dispatcher(silent);
  });
  afterEach(async () => await dispatcher.drain(0));

  it("answers a request with what the handler returns", async () => {
    dispatcher.handle("sum", ({ body }) => (body as number[]).reduce((a, b) => a + b));
    const delivery = deliver(dispatcher, { kind: "request", name: "sum", body: [1, 2, 3] });
    const result = await delivery.result();
    expect(result.state === "done" && result.reply?.content.toString()).to.equal("6");
  });

  it("runs a handler once for a message that is delivered twice", async () => {
    let runs = 0;
    dispatcher.handle("count", () => {
      runs += 1;
    });
    await deliver(dispatcher, { id: "same", name: "count" }).result();
    expect((await deliver(dispatcher, { id: "same", name: "count" }).result()).state).to.equal("done");
    expect(runs).to.equal(1);
  });

  it("tells a message that comes again while its handler runs what that run gave", async () => {
    let finish = () => {};
    let runs = 0;
    dispatcher.handle("slow", async () => {
      runs += 1;
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return "once";
    });
    const first = deliver(dispatcher, { id: "same", kind: "request", name: "slow" });
    const second = deliver(dispatcher, { id: "same", kind: "request", name: "slow" });
    finish();
    expect(await first.result()).to.deep.equal(await second.result());
    expect(runs).to.equal(1);
  });

  it("tells a result again that could not be settled", async () => {
    let runs = 0;
    dispatcher.handle("count", () => {
      runs += 1;
    });
    const lost = new TestDelivery({ id: "same", name: "count" });
    lost.fails = true;
    dispatcher.deliver(lost);
    await lost.result();
    await deliver(dispatcher, { id: "same", name: "count" }).result();
    expect(runs).to.equal(1);
  });

  it("handles a failed message again when passing it on failed", async () => {
    let runs = 0;
    dispatcher.handle("fail", () => {
      runs += 1;
      throw new Error("no");
    });
    const lost = new TestDelivery({ id: "same", name: "fail" });
    lost.fails = true;
    dispatcher.deliver(lost);
    await lost.result();
    await deliver(dispatcher, { id: "same", name: "fail" }).result();
    expect(runs).to.equal(2);
  });

  it("drops an attempt that was passed on already, and handles the next", async () => {
    let runs = 0;
    dispatcher.handle("fail", () => {
      runs += 1;
      throw new Error("no");
    });
    await deliver(dispatcher, { id: "same", name: "fail", attempt: 1 }).result();
    const again = deliver(dispatcher, { id: "same", name: "fail", attempt: 1 });
    await eventually(() => expect(again.isDropped).to.equal(true));
    await deliver(dispatcher, { id: "same", name: "fail", attempt: 2 }).result();
    expect(runs).to.equal(2);
  });

  describe("a dead letter that was sent again", () => {
    /** Gives each run of the message the next of `ends`; the last one is done. */
    const runOf = (...ends: (() => unknown)[]): { attempts: string[] } => {
      const attempts: string[] = [];
      dispatcher.handle("redriven", ({ redriven, attempt }) => {
        attempts.push(`${redriven}/${attempt}`);
        return ends.shift()?.();
      });
      return { attempts };
    };
    const given = { id: "same", name: "redriven" };
    const throws = (error: Error) => () => {
      throw error;
    };

    it("is handled, as often as it is sent again, until it is done", async () => {
      const { attempts } = runOf(throws(new PermanentFailure("one")), throws(new PermanentFailure("two")));
      const results: Result[] = [];
      for (const redriven of [0, 1, 2, 3]) results.push(await deliver(dispatcher, { ...given, redriven }).result());
      expect(results.map(({ state }) => state)).to.deep.equal(["failed", "failed", "done", "done"]);
      expect(attempts).to.deep.equal(["0/1", "1/1", "2/1"]);
    });

    it("is told its failure again when only this redrive comes again", async () => {
      const { attempts } = runOf(throws(new PermanentFailure("one")));
      const first = await deliver(dispatcher, { ...given, redriven: 1 }).result();
      expect(await deliver(dispatcher, { ...given, redriven: 1 }).result()).to.deep.equal(first);
      expect(attempts).to.deep.equal(["1/1"]);
    });

    it("is handled after it was too late", async () => {
      const { attempts } = runOf();
      expect((await deliver(dispatcher, { ...given, deadlineAtMs: Date.now() - 1 }).result()).state).to.equal("late");
      expect((await deliver(dispatcher, { ...given, redriven: 1 }).result()).state).to.equal("done");
      expect(attempts).to.deep.equal(["1/1"]);
    });

    it("counts its attempts anew, when it had been retried before", async () => {
      const { attempts } = runOf(throws(new Error("one")), throws(new Error("two")));
      await deliver(dispatcher, given).result();
      await deliver(dispatcher, { ...given, redriven: 1 }).result();
      const again = deliver(dispatcher, { ...given, redriven: 1 });
      await eventually(() => expect(again.isDropped).to.equal(true));
      expect((await deliver(dispatcher, { ...given, redriven: 1, attempt: 2 }).result()).state).to.equal("done");
      expect(attempts).to.deep.equal(["0/1", "1/1", "1/2"]);
    });

    it("makes what comes late of the time before superfluous", async () => {
      const { attempts } = runOf(throws(new Error("one")));
      await deliver(dispatcher, { ...given, redriven: 1 }).result();
      const before = deliver(dispatcher, { ...given, attempt: 3 });
      await eventually(() => expect(before.isDropped).to.equal(true));
      expect(attempts).to.deep.equal(["1/1"]);
    });

    it("waits for what came before it, and is handled then", async () => {
      let fail = () => {};
      const failing = () =>
        new Promise((_, reject) => {
          fail = () => reject(new PermanentFailure("one"));
        });
      const { attempts } = runOf(failing);
      const first = deliver(dispatcher, given);
      const second = deliver(dispatcher, { ...given, redriven: 1 });
      expect(attempts).to.deep.equal(["0/1"]);
      fail();
      expect((await first.result()).state).to.equal("failed");
      expect((await second.result()).state).to.equal("done");
      expect(attempts).to.deep.equal(["0/1", "1/1"]);
    });
  });

  describe("a handler that returns a thenable", () => {
    it("is done when that is, which begins in the trace of the message", async () => {
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
      const query = thenable(() => (resolve: (value: unknown) => void) => resolve({ rows: traceparentInHand() }));
      dispatcher.handle("query", () => query);
      const result = await deliver(dispatcher, { kind: "request", name: "query", traceparent }).result();
      expect(result.state === "done" && result.reply?.content.toString()).to.equal(`{"rows":"${traceparent}"}`);
    });

    const fail = () => {
      throw new Error("no table");
    };
    const reject = (_: unknown, rejected: (error: Error) => void) => rejected(new Error("no table"));
    const failing: [string, unknown][] = [
      ["that rejects", thenable(() => reject)],
      [
        "that is a function, and rejects",
        thenable(
          () => reject,
          () => undefined,
        ),
      ],
      ["whose `then` throws", thenable(() => fail)],
      ["whose `then` cannot be read", thenable(fail)],
    ];
    for (const [what, answer] of failing) {
      it(`has failed with one ${what}`, async () => {
        dispatcher.handle("query", () => answer);
        const result = await deliver(dispatcher, { name: "query" }).result();
        expect(result).to.include({ state: "failed", code: "handler-failed", reason: "no table" });
      });
    }

    it("has failed at its time-out with one that never ends", async () => {
      dispatcher.handle("query", () => thenable(() => () => undefined), { timeoutMs: 20 });
      const result = await deliver(dispatcher, { name: "query" }).result();
      expect(result).to.include({ state: "failed", code: "deadline-exceeded" });
    });
  });

  it("keeps the order of one sender over all names, and lets others pass", async () => {
    const order: string[] = [];
    let release = () => {};
    dispatcher.handle("slow", async ({ id }) => {
      await new Promise<void>((resolve) => {
        release = resolve;
      });
      order.push(id);
    });
    dispatcher.handle("fast", ({ id }) => void order.push(id));
    deliver(dispatcher, { id: "a1", from: "a", name: "slow" });
    const last = deliver(dispatcher, { id: "a2", from: "a", name: "fast" });
    await deliver(dispatcher, { id: "b1", from: "b", name: "fast" }).result();
    expect(order).to.deep.equal(["b1"]);
    release();
    await last.result();
    expect(order).to.deep.equal(["b1", "a1", "a2"]);
  });

  it("does not make requests of one sender wait for each other", async () => {
    let release = () => {};
    dispatcher.handle("ask", async ({ body }) => {
      if (body === "slow") {
        await new Promise<void>((resolve) => {
          release = resolve;
        });
      }
    });
    const slow = deliver(dispatcher, { kind: "request", from: "a", name: "ask", body: "slow" });
    await deliver(dispatcher, { kind: "request", from: "a", name: "ask", body: "fast" }).result();
    release();
    await slow.result();
  });

  it("runs no more at once than a handler's concurrency", async () => {
    let running = 0;
    let most = 0;
    const releases: (() => void)[] = [];
    const handler = async () => {
      running += 1;
      most = Math.max(most, running);
      await new Promise<void>((resolve) => releases.push(resolve));
      running -= 1;
    };
    dispatcher.handle("work", handler, { concurrency: 2 });
    const deliveries = ["a", "b", "c", "d", "e"].map((from) => deliver(dispatcher, { from, name: "work" }));
    await eventually(() => {
      for (const release of releases.splice(0)) release();
      expect(deliveries.every((delivery) => delivery.results.length === 1)).to.equal(true);
    });
    expect(most).to.equal(2);
  });

  describe("gives a place that a handler leaves to who waits for it", () => {
    const release: (() => void)[] = [];
    const blocking = () => new Promise<void>((resolve) => release.push(resolve));
    afterEach(() => release.splice(0));

    it("although the first who waited has become too late meanwhile", async () => {
      dispatcher.handle("work", blocking, { concurrency: 1 });
      const [running, late, waiting] = ["a", "b", "c"].map((from) => new TestDelivery({ from }));
      for (const delivery of [running, late, waiting]) dispatcher.deliver(delivery as TestDelivery);
      (late as TestDelivery).message.deadlineAtMs = Date.now() - 1;
      release.shift()?.();
      expect((await late?.result())?.state).to.equal("late");
      await eventually(() => expect(release).to.have.length(1));
      release.shift()?.();
      expect((await waiting?.result())?.state).to.equal("done");
    });

    it("before what else that sender has sent", async () => {
      const handled: (string | undefined)[] = [];
      dispatcher.handle("work", async ({ from }) => void handled.push(from), { concurrency: 1 });
      const deliveries = ["a", "a", "a", "a", "b"].map((from) => deliver(dispatcher, { from }));
      const request = deliver(dispatcher, { kind: "request", from: "c" });
      for (const delivery of [...deliveries, request]) await delivery.result();
      expect(handled.slice(0, 3)).to.deep.equal(["a", "b", "c"]);
    });

    it("also where that is another handler by now, or none", async () => {
      for (const replace of [true, false]) {
        dispatcher.start(0);
        const remove = dispatcher.handle("work", blocking, { concurrency: 1 });
        const deliveries = ["a", "b", "c", "d"].map((from) => deliver(dispatcher, { from }));
        remove();
        const removeOther = replace ? dispatcher.handle("work", () => undefined) : () => undefined;
        release.shift()?.();
        const states: string[] = [];
        for (const delivery of deliveries) states.push((await delivery.result()).state);
        const others = replace ? "done" : "failed";
        expect(states).to.deep.equal(["done", others, others, others]);
        removeOther();
      }
    });
  });

  it("settles whatever one sender sent that came too late, however much that is", async () => {
    let release = () => {};
    dispatcher.handle("work", () => new Promise<void>((resolve) => (release = resolve)));
    deliver(dispatcher, { from: "a" });
    const late = Array.from({ length: 5_000 }, () => new TestDelivery({ from: "a" }));
    for (const delivery of late) dispatcher.deliver(delivery);
    for (const { message } of late) message.deadlineAtMs = Date.now() - 1;
    release();
    for (const delivery of late.toReversed()) expect((await delivery.result()).state).to.equal("late");
  });

  it("fails a handler at its time-out and aborts its signal", async () => {
    let aborted = false;
    const handler = async (_message: Message, context: { signal: AbortSignal }) => {
      await new Promise<void>((resolve) => context.signal.addEventListener("abort", () => resolve()));
      aborted = true;
    };
    dispatcher.handle("hang", handler, { timeoutMs: 20, retries: 0 });
    const result = await deliver(dispatcher, { name: "hang" }).result();
    expect(result).to.include({ state: "failed", code: "deadline-exceeded" });
    await eventually(() => expect(aborted).to.equal(true));
  });

  it("asks for retries with growing waits, and for none after the last", async () => {
    dispatcher.handle(
      "fail",
      () => {
        throw new Error("no ink");
      },
      { retries: 2, retryFirstMs: 100 },
    );
    const waits: (number | undefined)[] = [];
    for (const attempt of [1, 2, 3]) {
      const result = await deliver(dispatcher, { id: "x", name: "fail", attempt }).result();
      if (result.state === "failed") waits.push(result.retryInMs);
    }
    expect(waits[0]).to.be.within(80, 120);
    expect(waits[1]).to.be.within(160, 240);
    expect(waits[2]).to.equal(undefined);
  });

  it("asks for no retry of a request, nor where the handler says that none can help", async () => {
    dispatcher.handle("ask", () => {
      throw new Error("no");
    });
    dispatcher.handle("never", () => {
      throw new PermanentFailure("the disk is gone");
    });
    const asked = await deliver(dispatcher, { kind: "request", name: "ask" }).result();
    const never = await deliver(dispatcher, { name: "never" }).result();
    expect(asked).to.include({ state: "failed", retryInMs: undefined });
    expect(never).to.include({ state: "failed", retryInMs: undefined, reason: "the disk is gone" });
  });

  describe("a handler that throws what cannot be told", () => {
    const revoked = Proxy.revocable({}, {});
    revoked.revoke();
    const odd: [string, unknown, string][] = [
      ["an error whose message is an object", Object.assign(new Error("q"), { message: { code: 1 } }), "{ code: 1 }"],
      ["an object without a prototype", Object.create(null), "[Object: null prototype] {}"],
      ["nothing", undefined, "undefined"],
      ["a symbol", Symbol("why"), "Symbol(why)"],
      ["half of a surrogate pair", new Error("\ud800"), "\ufffd"],
      [
        "an error whose message throws",
        Object.defineProperty(new Error(), "message", {
          get: () => {
            throw new Error("no");
          },
        }),
        "what was thrown cannot be told",
      ],
      ["a proxy that was revoked", revoked.proxy, "what was thrown cannot be told"],
    ];
    for (const [what, thrown, reason] of odd) {
      it(`has failed like any other: ${what}`, async () => {
        dispatcher.handle("odd", () => {
          throw thrown;
        });
        const result = await deliver(dispatcher, { name: "odd" }).result();
        expect(result).to.include({ state: "failed", code: "handler-failed", reason });
        expect(result.state === "failed" && result.retryInMs).to.be.within(800, 1_200);
      });
    }

    const circular: Record<string, unknown> = {};
    circular.self = circular;
    const throwing = {
      toJSON: () => {
        throw null;
      },
    };
    for (const [what, reply] of Object.entries({ "a BigInt": 1n, "a circle": circular, "a toJSON": throwing })) {
      it(`has failed when its reply cannot be said in JSON: ${what}`, async () => {
        dispatcher.handle("odd", () => reply);
        const result = await deliver(dispatcher, { kind: "request", name: "odd" }).result();
        expect(result.state === "failed" && result.reason).to.contain("the body cannot be said in JSON");
      });
    }
  });

  it("does not start what is past its deadline", async () => {
    let runs = 0;
    dispatcher.handle("count", () => {
      runs += 1;
    });
    const result = await deliver(dispatcher, { name: "count", deadlineAtMs: Date.now() - 1 }).result();
    expect(result.state).to.equal("late");
    expect(runs).to.equal(0);
  });

  it("holds messages of a name without handler until one is added", async () => {
    dispatcher.start();
    const delivery = deliver(dispatcher, { name: "soon" });
    dispatcher.handle("soon", () => undefined);
    expect((await delivery.result()).state).to.equal("done");
  });

  it("fails a reply that is over the limit of a body", async () => {
    dispatcher.handle("big", () => "x".repeat(1024 * 1024));
    const result = await deliver(dispatcher, { kind: "request", name: "big" }).result();
    expect(result.state === "failed" && result.reason).to.contain("1048576 bytes");
  });

  it("refuses a second handler of a name, and options beyond their limits", () => {
    dispatcher.handle("one", () => undefined);
    expect(() => dispatcher.handle("one", () => undefined)).to.throw(/has a handler already/);
    expect(() => dispatcher.handle("two", () => undefined, { concurrency: 0 })).to.throw(
      /concurrency .* 1\.\.1000, got 0/,
    );
    expect(() => dispatcher.handle("a b", () => undefined)).to.throw(/must match/);
  });

  it("does not wait at its drain for what has no handler, however many one sender sent", async () => {
    let release = () => {};
    dispatcher.handle("slow", () => new Promise<void>((resolve) => (release = resolve)));
    const early = ["a", "a", "a"].map((from) => new TestDelivery({ name: "unknown", from }));
    const running = new TestDelivery({ name: "slow", from: "b" });
    for (const delivery of [...early, running]) dispatcher.deliver(delivery);
    dispatcher.deliver(new TestDelivery({ name: "unknown", from: "b" }));
    dispatcher.deliver(new TestDelivery({ name: "slow", from: "b" }));
    let isDrained = false;
    const drained = dispatcher.drain(60_000).then(() => {
      isDrained = true;
    });
    expect(isDrained).to.equal(false);
    release();
    await drained;
    expect(running.results.map(({ state }) => state)).to.deep.equal(["done"]);
    expect(early.flatMap(({ results }) => results)).to.deep.equal([]);
  });

  it("waits at its drain for what runs", async () => {
    let finished = false;
    let release = () => {};
    dispatcher.handle("slow", async () => {
      await new Promise<void>((resolve) => {
        release = resolve;
      });
      finished = true;
    });
    deliver(dispatcher, { name: "slow" });
    const drained = dispatcher.drain(5_000);
    release();
    await drained;
    expect(finished).to.equal(true);
  });
});

/** `target`, with what `get` gives as its `then`. */
function thenable(get: () => unknown, target: object = {}): object {
  // biome-ignore lint/suspicious/noThenProperty: what handlers return may have one.
  return Object.defineProperty(target, "then", { get });
}

let count = 0;

class TestDelivery implements Delivery {
  readonly message: Message;
  readonly results: Result[] = [];
  isDropped = false;
  fails = false;

  constructor(given: Partial<Message>) {
    count += 1;
    this.message = {
      id: `message-${count}`,
      kind: "command",
      name: "work",
      from: undefined,
      contentType: "application/json",
      body: undefined,
      sentAtMs: undefined,
      deadlineAtMs: undefined,
      attempt: 1,
      redriven: 0,
      traceparent: undefined,
      ...given,
    };
  }

  started(): void {}

  drop(): void {
    this.isDropped = true;
  }

  async settle(result: Result): Promise<void> {
    this.results.push(result);
    if (this.fails) throw new Error("the connection is lost");
  }

  async result(): Promise<Result> {
    return await eventually(() => {
      const [first] = this.results;
      if (first === undefined) throw new Error(`${this.message.name} is not settled`);
      return first;
    });
  }
}

function deliver(dispatcher: Dispatcher, given: Partial<Message>): TestDelivery {
  const delivery = new TestDelivery(given);
  dispatcher.deliver(delivery);
  return delivery;
}
