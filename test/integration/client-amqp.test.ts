import { randomUUID } from "node:crypto";
import { type Channel, type ChannelModel, type ConsumeMessage, connect as connectBroker, type Options } from "amqplib";
import { expect } from "chai";
import { AmqpSession } from "../../clients/typescript/src/amqp-session.ts";
import {
  type Component,
  type ConnectOptions,
  connect,
  type Message,
  Payload,
  PermanentFailure,
} from "../../clients/typescript/src/index.ts";
import { exchanges, headers, queues } from "../../config-db/names.ts";
import { componentPlan, sitePlan } from "../../coordinator/messaging/topology.ts";
import { useVhost } from "../support/broker.ts";
import { declare } from "../support/declare.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { FakeCoordinator, problem } from "../support/fake-coordinator.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";

describe("the client over AMQP", function () {
  this.timeout(20_000);
  const vhost = useVhost();
  const coordinator = new FakeCoordinator();
  const open: Component[] = [];
  /** For a session without a messenger. */
  const alone = {
    onReached: () => Promise.resolve(),
    onMissing: () => undefined,
    onReturned: () => undefined,
    onVoidRenewal: () => undefined,
    incarnation: () => undefined,
  };
  let proxy: FaultProxy;
  let directUrl: string;
  let raw: ChannelModel;
  let channel: Channel;

  before(async () => {
    directUrl = vhost.url;
    const broker = new URL(directUrl);
    proxy = await startProxy({ host: broker.hostname, port: Number(broker.port) });
    broker.port = String(proxy.port);
    await coordinator.start();
    coordinator.amqpUrl = broker.href;
    await declare(directUrl, sitePlan("test"));
    raw = await connectBroker(directUrl);
    channel = await raw.createChannel();
  });
  afterEach(async () => {
    proxy.heal();
    coordinator.override = undefined;
    coordinator.renewEveryMs = 10_000;
    coordinator.ttlMs = 30_000;
    await Promise.all(open.splice(0).map((component) => component.close()));
  });
  after(async () => {
    // The vhost has been deleted by now, and its connections with it.
    await raw.close().catch(() => undefined);
    await proxy.close();
    await coordinator.stop();
  });

  async function join(options: Partial<ConnectOptions> = {}): Promise<Component> {
    const id = options.id ?? `c-${randomUUID().slice(0, 8)}`;
    const type = options.type ?? "worker";
    await declare(directUrl, componentPlan({ id, type }));
    const component = await connect({ url: coordinator.url, id, type, cacheDirectory: false, ...options });
    open.push(component);
    return component;
  }

  /** As a foreign publisher would send to `component`. */
  function publish(component: Component, content: Buffer, given: Options.Publish, told: Record<string, unknown> = {}) {
    const messageId = randomUUID();
    const options = { messageId, type: "set", ...given, headers: { [headers.kind]: "command", ...told } };
    channel.publish(exchanges.unicast, component.id, content, options);
    return messageId;
  }

  /** It asks the coordinator for messages; for the last time it does whenever it begins to consume. */
  const untilPolled = ({ id }: Component) =>
    eventually(() => {
      const polls = coordinator.seen("GET", `${id}/inbox`).filter(({ query }) => query.get("last") === null);
      expect(polls).to.have.lengthOf(1);
    });

  /** What ends as a dead letter of `id`, found by whatever fits. */
  async function deadLetter(fits: (message: ConsumeMessage) => boolean): Promise<ConsumeMessage> {
    return await eventually(async () => {
      for (;;) {
        const message = await channel.get(queues.dead, { noAck: true });
        if (message === false) throw new Error("no such dead letter");
        if (fits(message as unknown as ConsumeMessage)) return message as unknown as ConsumeMessage;
      }
    });
  }

  it("carries a request and its reply, JSON and bytes alike", async () => {
    const [asker, answerer] = await Promise.all([join(), join()]);
    answerer.handle<{ a: number }>("double", ({ body }) => ({ b: body.a * 2 }));
    answerer.handle<Buffer>("reverse", ({ body }) => new Payload("image/png", Buffer.from(body).reverse()));
    expect(asker.way).to.equal("amqp");
    expect(await asker.request({ component: answerer.id }, "double", { a: 4 })).to.deep.equal({ b: 8 });
    const bytes = await asker.request(
      { component: answerer.id },
      "reverse",
      new Payload("image/png", Buffer.from([1, 2])),
    );
    expect(bytes).to.deep.equal(Buffer.from([2, 1]));
  });

  it("carries what is absent, and bodies up to a mebibyte", async () => {
    const [asker, answerer] = await Promise.all([join(), join()]);
    answerer.handle("echo", ({ body }) => body);
    expect(await asker.request({ component: answerer.id }, "echo")).to.equal(undefined);
    const large = "x".repeat(1024 * 1024 - 2);
    expect(await asker.request({ component: answerer.id }, "echo", large)).to.equal(large);
    const error = await asker
      .request({ component: answerer.id }, "echo", `${large}x`)
      .catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "too-large" });
  });

  it("tells the requester of a handler's failure, its lateness, and its absence", async () => {
    const [asker, answerer] = await Promise.all([join(), join()]);
    answerer.handle("fail", () => {
      throw new Error("no ink");
    });
    answerer.handle("hang", () => new Promise(() => undefined), { timeoutMs: 50 });
    const told = async (name: string, timeoutMs = 5_000) => {
      const error = await asker
        .request({ component: answerer.id }, name, 1, { timeoutMs })
        .catch((thrown: unknown) => thrown);
      return error as { code: string; message: string };
    };
    expect(await told("fail")).to.include({ code: "handler-failed", message: `${answerer.id}: no ink` });
    expect(await told("hang")).to.include({ code: "deadline-exceeded" });
    expect((await told("unknown", 50)).message).to.contain("no reply");
  });

  describe("a newer process under its id", () => {
    it("gets all that is for them, though the older one has not heard of it", async () => {
      const answerer = await join();
      answerer.handle("echo", ({ body }) => body);
      const older = await join();
      const handled: unknown[] = [];
      older.handle("set", () => void handled.push("older"));
      older.handle("ask", () => "older");
      const id = { component: older.id };
      await answerer.command(id, "set");
      await eventually(() => expect(handled.splice(0)).to.deep.equal(["older"]));

      const newer = await join({ id: older.id });
      newer.handle("set", ({ body }) => void handled.push(body));
      newer.handle("ask", () => "newer");
      const bodies = Array.from({ length: 20 }, (_, n) => n);
      const target = { component: answerer.id };
      const asked = bodies.map((body) => newer.request(target, "echo", body, { timeoutMs: 5_000 }));
      expect(await Promise.all(asked)).to.deep.equal(bodies);
      for (const body of bodies) {
        await answerer.command(id, "set", body);
        expect(await answerer.request(id, "ask")).to.equal("newer");
      }
      await eventually(() => expect(handled).to.deep.equal(bodies));
      expect(older.state).to.equal("online");
    });

    it("gets the replies of the older one, too, while that one still ends", async () => {
      const sender = await join();
      // Asks for its lease soon and again, which alone tells it.
      coordinator.renewEveryMs = 20;
      coordinator.ttlMs = 50;
      const older = await join();
      let end = () => {};
      const isEnding = new Promise<void>((resolve) => {
        end = resolve;
      });
      const begun = new Promise<void>((resolve) => {
        older.handle("long", () => {
          resolve();
          return isEnding;
        });
      });
      await sender.command({ component: older.id }, "long");
      await begun;
      coordinator.override = ({ path }) =>
        path === `/v1/components/${older.id}/lease` ? problem(409, "superseded") : undefined;
      await eventually(() => expect(older.state).to.equal("superseded"));
      const consumers = async () => (await channel.checkQueue(queues.replies(older.id))).consumerCount;
      await eventually(async () => expect(await consumers()).to.equal(0), { timeoutMs: 5_000 });
      end();
    });
  });

  it("delivers a command that was sent while its target was down", async () => {
    const id = `c-${randomUUID().slice(0, 8)}`;
    await declare(directUrl, componentPlan({ id, type: "worker" }));
    const sender = await join();
    await sender.command({ component: id }, "greet", { n: 1 });
    const seen: unknown[] = [];
    const target = await join({ id });
    target.handle("greet", ({ body, from, kind }) => void seen.push({ body, from, kind }));
    await eventually(() => expect(seen).to.deep.equal([{ body: { n: 1 }, from: sender.id, kind: "command" }]));
  });

  it("asks the bridge about a target that the broker does not know, commands and requests alike", async () => {
    const sender = await join();
    coordinator.override = ({ path }) => (path === "/v1/commands" ? problem(404, "no-such-target") : undefined);
    const error = await sender.command({ component: "nobody" }, "greet").catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "no-such-target" });
    expect(await sender.request({ component: "elsewhere" }, "greet", 3)).to.deep.equal({ got: 3 });
  });

  it("shares what is for any one of a type, and gives all what is for all", async () => {
    const type = `t-${randomUUID().slice(0, 8)}`;
    const [one, two] = await Promise.all([join({ type }), join({ type })]);
    const seen: string[] = [];
    for (const component of [one, two]) {
      component.handle("any", () => void seen.push("any"));
      component.handle("all", () => void seen.push(`all ${component.id}`));
    }
    await one.command({ any: type }, "any");
    await one.broadcast({ type }, "all");
    await eventually(() => expect(seen).to.have.members(["any", `all ${one.id}`, `all ${two.id}`]));
    await one.broadcast({ all: true }, "all", undefined, { hint: true });
    await eventually(() => expect(seen).to.have.lengthOf(5));
  });

  it("asks the bridge about a type that nobody registered, and goes on sending", async () => {
    const sender = await join();
    coordinator.override = ({ path }) => (path === "/v1/commands" ? problem(404, "no-such-target") : undefined);
    const error = await sender.broadcast({ type: "nothing" }, "greet").catch((thrown: unknown) => thrown);
    expect(error).to.include({ code: "no-such-target" });
    await sender.command({ component: sender.id }, "x");
  });

  it("asks the bridge about a type whose last component was removed, which leaves its exchange", async () => {
    const sender = await join();
    const type = `t-${randomUUID().slice(0, 8)}`;
    const { exchanges: left } = componentPlan({ id: "removed", type });
    await declare(directUrl, { exchanges: left, queues: [], bindings: [] });
    await sender.broadcast({ type }, "taken");
    expect(coordinator.seen("POST", "/v1/commands").at(-1)?.body).to.include({ name: "taken" });
    coordinator.override = ({ path }) => (path === "/v1/commands" ? problem(404, "no-such-target") : undefined);
    await expectError(() => sender.broadcast({ type }, "greet"), "no-such-target");
    await expectError(() => sender.broadcast({ type }, "greet", undefined, { hint: true }), "no-such-target");
    await expectError(() => sender.command({ type }, "greet"), "no-such-target");
  });

  it("asks the bridge when a type's exchange was deleted after it was found, and goes on sending", async () => {
    const type = `t-${randomUUID().slice(0, 8)}`;
    const [sender, target] = await Promise.all([join({ transport: "amqp" }), join({ transport: "amqp", type })]);
    const seen: unknown[] = [];
    target.handle("set", ({ body }) => void seen.push(body));
    await sender.broadcast({ type }, "set", "before");
    await channel.deleteExchange(exchanges.type(type));
    const numbers = Array.from({ length: 20 }, (_, n) => n);
    await Promise.all([
      sender.broadcast({ type }, "set", "after"),
      ...numbers.map((n) => sender.command({ component: target.id }, "set", n)),
    ]);
    expect(coordinator.seen("POST", "/v1/commands").at(-1)?.body).to.include({ body: "after" });
    await eventually(() => expect(seen).to.have.deep.members(["before", ...numbers]));
  });

  it("keeps the order of a sender", async () => {
    const [sender, target] = await Promise.all([join(), join()]);
    const seen: unknown[] = [];
    target.handle("set", async ({ body }) => {
      await new Promise((resolve) => setImmediate(resolve));
      seen.push(body);
    });
    const sent = Array.from({ length: 200 }, (_, n) => n);
    await Promise.all(sent.map((n) => sender.command({ component: target.id }, "set", n)));
    await eventually(() => expect(seen).to.deep.equal(sent));
  });

  it("keeps the order to a new target, whose queue appears while 1,000 commands are sent", async () => {
    const [sender, target] = await Promise.all([join({ transport: "amqp" }), join({ transport: "amqp" })]);
    const seen: unknown[] = [];
    target.handle("set", ({ body }) => void seen.push(body));
    const queue = queues.commands(target.id);
    await channel.unbindQueue(queue, exchanges.unicast, target.id);
    const bridge = await raw.createConfirmChannel();
    let posts = 0;
    coordinator.override = async ({ body, headers: given }) => {
      const told = { [headers.kind]: "command", [headers.from]: body.from };
      const options = { messageId: String(given["idempotency-key"]), type: body.name, headers: told };
      bridge.sendToQueue(queue, Buffer.from(JSON.stringify(body.body)), options);
      await bridge.waitForConfirms();
      posts += 1;
      if (posts === 50) await channel.bindQueue(queue, exchanges.unicast, target.id);
      return { status: 202 };
    };
    const sent = Array.from({ length: 1_000 }, (_, n) => n);
    const send = (n: number) => sender.command({ component: target.id }, "set", n);
    const first = sent.slice(0, 500).map(send);
    await eventually(() => expect(posts).to.be.at.least(50));
    await Promise.all([...first, ...sent.slice(500).map(send)]);
    await eventually(() => expect(seen).to.have.length(1_000));
    expect(seen).to.deep.equal(sent);
    expect(posts).to.be.below(1_000);
  });

  it("leaves to the next process what comes while it ends, in the order of its sender", async () => {
    const target = await join({ transport: "amqp" });
    const { id } = target;
    const seen: unknown[] = [];
    let mayEnd = false;
    target.handle("set", async ({ body }) => {
      seen.push(body);
      await eventually(() => expect(mayEnd).to.equal(true));
    });
    publish(target, Buffer.from("0"), {}, { [headers.from]: "sender" });
    await eventually(() => expect(seen).to.deep.equal([0]));
    const closing = target.close({ deregister: false });
    const consumers = async (queue: string) => (await channel.checkQueue(queue)).consumerCount;
    await eventually(async () => expect(await consumers(queues.any("worker"))).to.equal(0));
    // Cancelled, it would put what is under way back in any order.
    expect(await consumers(queues.commands(id))).to.equal(1);
    for (let body = 1; body < 50; body += 1) publish(target, Buffer.from(`${body}`), {}, { [headers.from]: "sender" });
    await eventually(async () => expect((await channel.checkQueue(queues.commands(id))).messageCount).to.equal(0));
    mayEnd = true;
    await closing;
    expect(seen).to.deep.equal([0]);
    const next = await join({ transport: "amqp", id });
    next.handle("set", ({ body }) => void seen.push(body));
    await eventually(() => expect(seen).to.deep.equal(Array.from({ length: 50 }, (_, body) => body)));
  });

  it("sends its renewals as messages, and asks the coordinator once a TTL", async () => {
    coordinator.renewEveryMs = 20;
    const component = await join();
    const asked = coordinator.seen("PUT", `${component.id}/lease`).length;
    await eventually(async () => {
      const message = await channel.get(queues.renewals, { noAck: true });
      expect(message !== false && JSON.parse(message.content.toString())).to.deep.equal({
        id: component.id,
        incarnation: 1,
      });
    });
    expect(coordinator.seen("PUT", `${component.id}/lease`).length - asked).to.be.at.most(1);
  });

  it("asks the coordinator at once when the leader says that a renewal is void", async () => {
    coordinator.renewEveryMs = 20;
    const component = await join();
    const lead = (message: ConsumeMessage | null) => {
      if (message === null || JSON.parse(message.content.toString()).id !== component.id) return;
      // It has asked a moment ago, or it would not have renewed by a message.
      coordinator.override = ({ path }) =>
        path === `/v1/components/${component.id}/lease` ? problem(409, "superseded") : undefined;
      channel.publish("", message.properties.replyTo, Buffer.from(JSON.stringify({ code: "superseded" })));
    };
    const { consumerTag } = await channel.consume(queues.renewals, lead, { noAck: true });
    await eventually(() => expect(component.state).to.be.oneOf(["superseded", "closed"]));
    await channel.cancel(consumerTag);
  });

  it("reads its configuration at a signal, but not at one of a leader that was replaced", async () => {
    const component = await join();
    const signal = (revision: string, epoch: number) => {
      const content = Buffer.from(JSON.stringify({ kind: "config", id: component.id, revision }));
      const told = { [headers.kind]: "signal", [headers.epoch]: epoch };
      channel.publish(exchanges.signals, component.id, content, {
        messageId: randomUUID(),
        type: "config",
        headers: told,
      });
    };
    coordinator.etag = "e7";
    coordinator.settings = { samplingIntervalMs: 7 };
    signal("e7", 5);
    await eventually(() => expect(component.config.current).to.deep.equal({ samplingIntervalMs: 7 }));
    const reads = () => coordinator.seen("GET", `${component.id}/config`).length;
    const before = reads();
    signal("e8", 4);
    signal("e9", 5);
    await eventually(() => expect(reads()).to.equal(before + 1));
    coordinator.etag = "e1";
  });

  describe("a failing command", () => {
    it("is tried again with a rising attempt, then dead-lettered with the reason", async () => {
      const target = await join();
      const attempts: number[] = [];
      const handler = ({ attempt }: Message) => {
        attempts.push(attempt);
        throw new Error("no ink");
      };
      target.handle("set", handler, { retries: 2, retryFirstMs: 10 });
      const id = publish(target, Buffer.from("1"), {}, { [headers.from]: "me" });
      const dead = await deadLetter(({ properties }) => properties.messageId === id);
      expect(attempts).to.deep.equal([1, 2, 3]);
      expect(dead.properties.headers).to.include({
        [headers.reason]: "no ink",
        [headers.to]: target.id,
        [headers.attempt]: 3,
        [headers.from]: "me",
      });
      expect(dead.fields.routingKey).to.equal(target.id);
      expect(dead.properties.type).to.equal("set");
    });

    it("is not tried again when its failure is permanent, nor when nobody handles it", async () => {
      const target = await join();
      target.handle("set", () => {
        throw new PermanentFailure("never");
      });
      const id = publish(target, Buffer.from("1"), {});
      const dead = await deadLetter(({ properties }) => properties.messageId === id);
      expect(dead.properties.headers).to.include({ [headers.reason]: "never" });
    });

    it("is a dead letter as soon as these take it, when they are full at first", async () => {
      const target = await join();
      let runs = 0;
      target.handle("set", () => {
        runs += 1;
        throw new PermanentFailure("never");
      });
      const full = { pattern: "^muster\\.dead$", "apply-to": "queues", priority: 99 };
      const limit = (length: number) => {
        const definition = { "max-length": length, overflow: "reject-publish" };
        return vhost.api("PUT", "/policies/{vhost}/full", { ...full, definition });
      };
      await limit(0);
      const probing = await raw.createConfirmChannel();
      await eventually(async () => {
        probing.publish(exchanges.dead, "probe", Buffer.from("x"));
        const isRefused = await probing.waitForConfirms().then(
          () => false,
          () => true,
        );
        expect(isRefused).to.equal(true);
      });
      const id = publish(target, Buffer.from("1"), {});
      await eventually(() => expect(runs).to.equal(1));
      await limit(1_000);
      await deadLetter(({ properties }) => properties.messageId === id);
      expect(runs).to.equal(1);
      // What was not acked would be back by then.
      await target.close();
      expect((await channel.checkQueue(queues.commands(target.id))).messageCount).to.equal(0);
    });

    it("is tried again when its queue is bound again, of which a coordinator is asked", async () => {
      const target = await join({ transport: "amqp" });
      const attempts: number[] = [];
      const handler = async ({ attempt }: Message) => {
        attempts.push(attempt);
        if (attempt > 1) return;
        await channel.unbindQueue(queues.commands(target.id), exchanges.unicast, target.id);
        throw new Error("once");
      };
      target.handle("set", handler, { retryFirstMs: 0 });
      const asked = coordinator.seen("DELETE", `/${target.id}/inbox`).length;
      publish(target, Buffer.from("1"), {});
      await eventually(() => expect(coordinator.seen("DELETE", `/${target.id}/inbox`)).to.have.length(asked + 1));
      await channel.bindQueue(queues.commands(target.id), exchanges.unicast, target.id);
      await eventually(() => expect(attempts).to.deep.equal([1, 2]));
    });

    it("is a dead letter as soon as their queue is bound again, of which a coordinator is asked", async () => {
      const target = await join({ transport: "amqp" });
      target.handle("set", async () => {
        await channel.unbindQueue(queues.dead, exchanges.dead, "");
        throw new PermanentFailure("never");
      });
      const asked = coordinator.seen("DELETE", `/${target.id}/inbox`).length;
      const id = publish(target, Buffer.from("1"), {});
      await eventually(() => expect(coordinator.seen("DELETE", `/${target.id}/inbox`)).to.have.length(asked + 1));
      await channel.bindQueue(queues.dead, exchanges.dead, "");
      await deadLetter(({ properties }) => properties.messageId === id);
    });

    it("leaves foreign headers behind that leave no room for Muster's own", async () => {
      const target = await join({ transport: "amqp" });
      const attempts: number[] = [];
      const handler = ({ attempt }: Message) => {
        attempts.push(attempt);
        throw new Error("no ink".padEnd(900));
      };
      target.handle("set", handler, { retries: 1, retryFirstMs: 10 });
      const foreign = { note: "x".repeat(65_000), [headers.from]: "me" };
      const id = publish(target, Buffer.from("1"), {}, foreign);
      const dead = await deadLetter(({ properties }) => properties.messageId === id);
      expect(dead.properties.headers).to.include({ [headers.to]: target.id, [headers.from]: "me" });
      expect(dead.properties.headers).not.to.have.property("note");
      expect(attempts).to.deep.equal([1, 2]);
    });

    it("is tried again whoever published it, and however far its deadline is", async () => {
      const target = await join({ transport: "amqp" });
      const attempts: number[] = [];
      const handler = ({ attempt }: Message) => {
        attempts.push(attempt);
        if (attempt === 1) throw new Error("once");
      };
      target.handle("set", handler, { retryFirstMs: 10 });
      const user = `foreign-${randomUUID()}`;
      await vhost.api("PUT", `/users/${user}`, { password: user, tags: "" });
      try {
        const rights = { configure: "", write: ".*", read: "" };
        await vhost.api("PUT", `/permissions/{vhost}/${user}`, rights);
        const url = Object.assign(new URL(directUrl), { username: user, password: user });
        const foreign = await connectBroker(url.href);
        const told = { [headers.kind]: "command", [headers.deadline]: 8.64e15 };
        const options = { messageId: randomUUID(), type: "set", userId: user, headers: told };
        (await foreign.createChannel()).publish(exchanges.unicast, target.id, Buffer.from("1"), options);
        await eventually(() => expect(attempts).to.deep.equal([1, 2]));
        await foreign.close();
      } finally {
        await vhost.api("DELETE", `/users/${user}`);
      }
    });

    for (const prefetch of [1, 2, 3, 4]) {
      it(`does not hold up those behind it with a prefetch of ${prefetch}`, async () => {
        const target = await join({ prefetch });
        const seen: unknown[] = [];
        target.handle(
          "fail",
          () => {
            throw new Error("no");
          },
          { retries: 1, retryFirstMs: 30_000 },
        );
        target.handle("set", ({ body }) => void seen.push(body));
        for (let count = 0; count < 20; count += 1) publish(target, Buffer.from("0"), { type: "fail" });
        publish(target, Buffer.from("1"), {});
        await eventually(() => expect(seen).to.deep.equal([1]));
      });
    }

    it("waits for its retry beside the one message that a prefetch of 1 allows", async () => {
      const target = await join({ transport: "amqp", prefetch: 1 });
      const seen: unknown[] = [];
      let isReady = false;
      const fail = () => {
        seen.push("fail");
        throw new Error("no");
      };
      target.handle("fail", fail, { retryFirstMs: 30_000 });
      target.handle("slow", async ({ body }) => {
        seen.push(body);
        await eventually(() => expect(isReady).to.equal(true));
      });
      publish(target, Buffer.from("0"), { type: "fail" });
      for (const body of ["1", "2", "3"]) publish(target, Buffer.from(body), { type: "slow" });
      const waiting = async () => (await channel.checkQueue(queues.commands(target.id))).messageCount;
      await eventually(async () => {
        expect(seen).to.deep.equal(["fail", 1]);
        expect(await waiting()).to.equal(2);
      });
      isReady = true;
      await eventually(() => expect(seen).to.deep.equal(["fail", 1, 2, 3]));
      await target.close();
      await eventually(async () => expect(await waiting()).to.equal(1));
    });

    it("of a type's shared queue goes back there", async () => {
      const type = `t-${randomUUID().slice(0, 8)}`;
      const target = await join({ type });
      const attempts: number[] = [];
      const handler = ({ attempt }: Message) => {
        attempts.push(attempt);
        if (attempt === 1) throw new Error("once");
      };
      target.handle("set", handler, { retryFirstMs: 10 });
      await target.command({ any: type }, "set");
      await eventually(() => expect(attempts).to.deep.equal([1, 2]));
    });
  });

  describe("outcomes", () => {
    it("tell a sender that asks: delivered, then done", async () => {
      const target = await join();
      target.handle("set", () => undefined);
      const replyTo = `sender-${randomUUID().slice(0, 8)}`;
      const { queue } = await channel.assertQueue("", { exclusive: true });
      await channel.bindQueue(queue, exchanges.reply, replyTo);
      const id = publish(target, Buffer.from("1"), { replyTo }, { [headers.from]: replyTo });
      const states: unknown[] = [];
      await eventually(async () => {
        const message = await channel.get(queue, { noAck: true });
        if (message !== false) {
          const { at, ...outcome } = JSON.parse(message.content.toString()) as Record<string, unknown>;
          expect(Date.parse(String(at))).to.be.a("number");
          expect(message.properties.correlationId).to.equal(id);
          expect(message.properties.headers?.[headers.kind]).to.equal("outcome");
          states.push(outcome);
        }
        expect(states).to.deep.equal([
          { id, component: target.id, state: "delivered", attempt: 1 },
          { id, component: target.id, state: "done", attempt: 1 },
        ]);
      });
    });

    it("go by way of the site that the message came from", async () => {
      const target = await join();
      target.handle("set", () => undefined);
      const { queue } = await channel.assertQueue("", { exclusive: true });
      await channel.bindQueue(queue, exchanges.remote, "elsewhere");
      publish(target, Buffer.from("1"), { replyTo: "commands:elsewhere" }, { [headers.site]: "elsewhere" });
      await eventually(async () => {
        const message = await channel.get(queue, { noAck: true });
        expect(message !== false && message.properties.headers).to.include({
          [headers.exchange]: exchanges.reply,
          [headers.key]: "commands:elsewhere",
        });
      });
    });
  });

  describe("what anyone may have published", () => {
    const malformed: [string, Options.Publish, Record<string, unknown>, string][] = [
      ["without a messageId", { messageId: "" }, {}, "1"],
      ["of an unknown kind", {}, { [headers.kind]: "wish" }, "1"],
      ["without a name", { type: "" }, {}, "1"],
      ["whose JSON is none", {}, {}, "{"],
      ["that wants its reply elsewhere", { replyTo: "amq.gen-another" }, {}, "1"],
      ["that wants another's reply", { replyTo: "other" }, { [headers.from]: "me" }, "1"],
    ];
    for (const [what, options, told, content] of malformed) {
      it(`is rejected ${what}, and nothing stops`, async () => {
        const target = await join();
        const seen: unknown[] = [];
        target.handle("set", ({ body }) => void seen.push(body));
        publish(target, Buffer.from(content), options, told);
        publish(target, Buffer.from("2"), {});
        await eventually(() => expect(seen).to.deep.equal([2]));
        const queue = await channel.checkQueue(queues.commands(target.id));
        expect(queue.messageCount).to.equal(0);
      });
    }

    for (const [what, content] of [
      ["too large", Buffer.alloc(2 ** 20 + 1, "1")],
      ["no JSON, though it says so", Buffer.from("{")],
    ] as const)
      it(`is a reply that is ${what}: its requester is told at once`, async () => {
        await declare(directUrl, componentPlan({ id: "odd", type: "odd" }));
        const asker = await join();
        const { consumerTag } = await channel.consume(queues.requests("odd"), (message) => {
          const { replyTo, messageId } = message?.properties ?? {};
          const options = { messageId: randomUUID(), correlationId: messageId, headers: { [headers.kind]: "reply" } };
          channel.publish(exchanges.reply, replyTo, content, options);
        });
        const error = await asker.request({ component: "odd" }, "ask").catch((thrown: unknown) => thrown);
        await channel.cancel(consumerTag);
        expect(error).to.include({ code: "handler-failed" });
        expect((error as Error).message).to.match(/the reply cannot be read/);
      });

    it("is not handled after its deadline", async () => {
      const target = await join();
      const seen: unknown[] = [];
      target.handle("set", ({ body }) => void seen.push(body));
      publish(target, Buffer.from("1"), {}, { [headers.deadline]: Date.now() - 1 });
      publish(target, Buffer.from("2"), {});
      await eventually(() => expect(seen).to.deep.equal([2]));
    });
  });

  it("fails alone what does not fit into AMQP, and sends all else", async () => {
    const sender = await join({ id: `c-${randomUUID()}`.padEnd(60, "x"), transport: "amqp" });
    const sent = [
      expectError(() => sender.event("x".repeat(200), 1, { sendTimeoutMs: 2_000 }), "invalid-request"),
      ...Array.from({ length: 20 }, (_, n) => sender.command({ component: sender.id }, "x", n)),
    ];
    await Promise.all(sent);
    expect(sender.way).to.equal("amqp");
  });

  it("answers nobody at an address that does not fit into AMQP, once", async () => {
    const target = await join({ transport: "amqp" });
    const seen: unknown[] = [];
    target.handle("set", ({ kind, body }) => void seen.push([kind, body]));
    const told = { [headers.from]: "me", [headers.site]: "s".repeat(300) };
    publish(target, Buffer.from("1"), { replyTo: "me" }, told);
    const options = { messageId: randomUUID(), type: "set", replyTo: "me" };
    const asked = { ...options, headers: { ...told, [headers.kind]: "request" } };
    channel.publish(exchanges.requests, target.id, Buffer.from("2"), asked);
    await eventually(() => expect(seen).to.have.lengthOf(2));
    await target.close();
    expect((await channel.checkQueue(queues.commands(target.id))).messageCount).to.equal(0);
    expect((await channel.checkQueue(queues.requests(target.id))).messageCount).to.equal(0);
  });

  /**
   * A session that lacks a queue: the broker closes its channel when it asks for that, just after the first of `requests`
   * has arrived on it, again and again until `use` calls `open`. In the end no request may be left.
   */
  async function withLateSession(
    requests: string[],
    onMessage: (message: ConsumeMessage, from: AmqpSession) => void,
    use: (session: AmqpSession, open: () => Promise<void>, id: string) => Promise<void>,
  ): Promise<void> {
    const id = `c-${randomUUID().slice(0, 8)}`;
    const plan = componentPlan({ id, type: "worker" });
    await declare(directUrl, plan);
    await channel.deleteQueue(queues.replies(id));
    for (const request of requests) channel.publish(exchanges.requests, id, Buffer.from(request));
    const session = new AmqpSession({ ...alone, url: directUrl, id, type: "worker", prefetch: 1, onMessage });
    try {
      const opening = session.open();
      const open = async () => {
        await declare(directUrl, plan);
        await opening;
      };
      await use(session, open, id);
    } finally {
      await session.close();
    }
    expect((await channel.checkQueue(queues.requests(id))).messageCount).to.equal(0);
  }

  it("lives on when the broker closes a channel on which acknowledgements are due", async () => {
    const count = 20;
    let deliveries = 0;
    const seen = new Set<string>();
    const onMessage = (message: ConsumeMessage, from: AmqpSession) => {
      deliveries += 1;
      seen.add(message.content.toString());
      from.ackSoon(message);
    };
    const requests = Array.from({ length: count }, (_, n) => String(n));
    await withLateSession(requests, onMessage, async (session, open) => {
      await eventually(() => expect(deliveries).to.be.at.least(3));
      await open();
      await eventually(() => expect(seen.size).to.equal(count));
      expect(session.isOpen).to.equal(true);
    });
  });

  it("acknowledges on the channel that a message came on, not on one opened after it", async () => {
    const held: ConsumeMessage[] = [];
    const onMessage = (message: ConsumeMessage) => void held.push(message);
    await withLateSession(["held"], onMessage, async (session, open, id) => {
      await eventually(() => expect(held.length).to.be.at.least(2));
      await open();
      // Once on each channel, and the last time on the one that lives.
      const deliveries = held.length + Number(held.length < 3);
      await eventually(() => expect(held.length).to.be.at.least(deliveries));
      const [first] = held as [ConsumeMessage];
      expect(() => session.ack(first)).to.throw(/closed/i);
      session.ack(held.at(-1) as ConsumeMessage);
      await channel.checkQueue(queues.requests(id));
      expect(session.isOpen).to.equal(true);
    });
  });

  it("has sent its acknowledgements when it is closed", async () => {
    const id = `c-${randomUUID().slice(0, 8)}`;
    await declare(directUrl, componentPlan({ id, type: "worker" }));
    for (const queue of [queues.requests(id), queues.commands(id)]) {
      channel.sendToQueue(queue, Buffer.from("1"));
      const closed = new Promise<void>((resolve, reject) => {
        const onMessage = (message: ConsumeMessage, session: AmqpSession) => {
          session.ack(message);
          session.close().then(resolve, reject);
        };
        new AmqpSession({ ...alone, url: directUrl, id, type: "worker", prefetch: 1, onMessage }).open().catch(reject);
      });
      await closed;
      expect((await channel.checkQueue(queue)).messageCount, queue).to.equal(0);
    }
  });

  describe("when the link breaks", () => {
    it("sends again what was not confirmed, and handles each once", async () => {
      const [sender, target] = await Promise.all([join({ transport: "amqp" }), join({ transport: "amqp" })]);
      const seen = new Map<unknown, number>();
      target.handle("set", ({ body }) => void seen.set(body, (seen.get(body) ?? 0) + 1));
      const sent: Promise<unknown>[] = [];
      for (let n = 0; n < 300; n += 1) {
        sent.push(sender.command({ component: target.id }, "set", n));
        if (n % 100 === 50) proxy.reset();
        if (n % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      await Promise.all(sent);
      await eventually(() => expect(seen.size).to.equal(300));
      expect(new Set(seen.values())).to.deep.equal(new Set([1]));
    });

    it("asks again for a reply that the break took", async () => {
      const [asker, answerer] = await Promise.all([join(), join()]);
      let runs = 0;
      let answer = (_value: unknown) => {};
      answerer.handle("slow", () => {
        runs += 1;
        return new Promise((resolve) => {
          answer = resolve;
        });
      });
      const asked = asker.request({ component: answerer.id }, "slow", 1, { timeoutMs: 15_000 });
      await eventually(() => expect(runs).to.equal(1));
      proxy.reset();
      answer("late but there");
      expect(await asked).to.equal("late but there");
      expect(runs).to.equal(1);
    });

    it("goes by HTTP while the broker cannot be reached, and back", async () => {
      const component = await join();
      const seen: unknown[] = [];
      component.handle("set", ({ body }) => void seen.push(body));
      proxy.cut();
      await eventually(() => expect(component.way).to.equal("http"));
      await component.command({ component: "two" }, "over-http");
      expect(coordinator.seen("POST", "/v1/commands").at(-1)?.body.name).to.equal("over-http");
      coordinator.deliver({ name: "set", body: "from the inbox" });
      await eventually(() => expect(seen).to.deep.equal(["from the inbox"]));
      proxy.heal();
      await eventually(() => expect(component.way).to.equal("amqp"));
      publish(component, Buffer.from('"from the broker"'), {});
      await eventually(() => expect(seen).to.have.lengthOf(2));
    });

    it("gives the inbox back before it consumes, and takes it again when it cannot", async function () {
      this.timeout(40_000);
      const component = await join();
      const seen: unknown[] = [];
      component.handle("set", ({ body }) => void seen.push(body));
      proxy.cut();
      await eventually(() => expect(component.way).to.equal("http"));
      const plan = componentPlan({ id: component.id, type: "worker" });
      await channel.deleteQueue(queues.commands(component.id));
      const given = () => coordinator.seen("DELETE", `${component.id}/inbox`).length;
      proxy.heal();
      // Given back for the session, and once more by it when it has found no queue.
      await eventually(() => expect(given()).to.be.at.least(2), { timeoutMs: 15_000 });
      coordinator.deliver({ name: "set", body: 1 });
      await eventually(() => expect(seen).to.deep.equal([1]));

      let handledBefore: number | undefined;
      coordinator.override = ({ method, path }) => {
        if (method === "DELETE" && path.endsWith(`${component.id}/inbox`)) handledBefore = seen.length;
        return undefined;
      };
      proxy.cut();
      await declare(directUrl, plan);
      publish(component, Buffer.from("2"), {});
      await channel.checkQueue(queues.commands(component.id));
      handledBefore = undefined;
      proxy.heal();
      await eventually(() => expect(seen).to.deep.equal([1, 2]));
      expect(handledBefore).to.equal(1);
    });

    it("handles what a coordinator has taken before what the broker has, also that of an answer that was lost", async () => {
      const component = await join();
      const seen: unknown[] = [];
      component.handle("set", ({ body }) => void seen.push(body));
      proxy.cut();
      await untilPolled(component);
      const asked: [string | null, string | null][] = [];
      coordinator.override = ({ method, path, query }) => {
        if (method !== "GET" || !path.endsWith(`${component.id}/inbox`) || query.get("last") === null) return undefined;
        asked.push([query.get("again"), query.get("last")]);
        const taken = { delivery: "d-1", id: randomUUID(), kind: "command", name: "set", body: "older", attempt: 1 };
        return { status: 200, body: { messages: asked.length === 1 ? [taken] : [] } };
      };
      publish(component, Buffer.from('"younger"'), {});
      proxy.heal();
      await eventually(() => expect(seen).to.deep.equal(["older", "younger"]));
      // The poll that was under way was called off: what it was answered is asked for again.
      expect(asked).to.deep.equal([
        ["true", "true"],
        [null, "true"],
      ]);
    });

    it("handles what a coordinator has taken for a process before it before what the broker has", async () => {
      const id = `c-${randomUUID().slice(0, 8)}`;
      await declare(directUrl, componentPlan({ id, type: "worker" }));
      const asked: string[] = [];
      coordinator.override = ({ method, path, query }) => {
        if (!path.endsWith(`${id}/inbox`)) return undefined;
        asked.push(`${method} ${query}`);
        const taken = { delivery: "d-1", id: randomUUID(), kind: "command", name: "set", body: "older", attempt: 1 };
        return method === "GET" ? { status: 200, body: { messages: asked.length === 1 ? [taken] : [] } } : undefined;
      };
      publish({ id } as Component, Buffer.from('"younger"'), {});
      const component = await join({ id, transport: "amqp" });
      const seen: unknown[] = [];
      component.handle("set", ({ body }) => void seen.push(body));
      await eventually(() => expect(seen).to.deep.equal(["older", "younger"]));
      const [first, second, third] = asked;
      expect([first, second].map((query) => query?.match(/(again|last)=true/g))).to.deep.equal([
        ["last=true", "again=true"],
        ["last=true"],
      ]);
      expect(third).to.match(/^DELETE/);
      // Its messages are its own from then on.
      const count = asked.length;
      proxy.reset();
      await eventually(() => expect(component.way).to.equal("none"));
      await eventually(() => expect(component.way).to.equal("amqp"));
      expect(asked.slice(count).filter((ask) => ask.startsWith("GET"))).to.deep.equal([]);
    });

    it("keeps what is sent until the broker is back where only AMQP is wanted", async () => {
      const [sender, target] = await Promise.all([join({ transport: "amqp" }), join({ transport: "amqp" })]);
      const seen: unknown[] = [];
      target.handle("set", ({ body }) => void seen.push(body));
      proxy.cut();
      await eventually(() => expect(sender.way).to.equal("none"));
      const sent = Promise.all([1, 2, 3].map((n) => sender.command({ component: target.id }, "set", n)));
      proxy.heal();
      await sent;
      await eventually(() => expect(seen).to.deep.equal([1, 2, 3]));
    });

    it("has the inbox given back while it consumes already, as soon as a coordinator can", async () => {
      const component = await join();
      component.handle("set", () => undefined);
      proxy.cut();
      await untilPolled(component);
      let failed = 0;
      let given = 0;
      let isAway = true;
      coordinator.override = ({ method, path }) => {
        if (method !== "DELETE" || !path.endsWith(`${component.id}/inbox`)) return undefined;
        if (isAway) failed += 1;
        else given += 1;
        return isAway ? problem(503, "broker-unavailable") : undefined;
      };
      proxy.heal();
      await eventually(() => expect(component.way).to.equal("amqp"));
      const before = failed;
      await eventually(() => expect(failed).to.be.above(before));
      isAway = false;
      await eventually(() => expect(given).to.equal(1));
      await component.close();
      expect(given).to.equal(1);
    });

    for (const fails of [1, Number.POSITIVE_INFINITY])
      it(`waits for the inbox to be given back, which fails ${fails === 1 ? "once" : "always"}`, async () => {
        const component = await join();
        let handledAtMs: number | undefined;
        component.handle("set", () => {
          handledAtMs = performance.now();
        });
        proxy.cut();
        await eventually(() => expect(component.way).to.equal("http"));
        await untilPolled(component);
        const askedAtMs: number[] = [];
        coordinator.override = ({ method, path }) => {
          if (method !== "DELETE" || !path.endsWith(`${component.id}/inbox`)) return undefined;
          askedAtMs.push(performance.now());
          return askedAtMs.length <= fails ? problem(503, "broker-unavailable") : undefined;
        };
        publish(component, Buffer.from("1"), {});
        proxy.heal();
        await eventually(() => expect(handledAtMs).to.be.a("number"));
        const before = askedAtMs.filter((atMs) => atMs < Number(handledAtMs));
        expect(before.length).to.be.at.least(2);
        if (fails === 1) expect(askedAtMs).to.deep.equal(before);
        // A coordinator leaves the queues a second after the last poll, which ended before it was asked.
        else expect(Number(handledAtMs) - Number(askedAtMs[0])).to.be.at.least(1_000);
      });

    it("notices a broker that says nothing any more", async () => {
      const usual = coordinator.amqpUrl;
      coordinator.amqpUrl = `${usual}?heartbeat=1`;
      const component = await join();
      coordinator.amqpUrl = usual;
      proxy.swallow("up", "down");
      await eventually(() => expect(component.way).not.to.equal("amqp"));
      proxy.heal();
      await eventually(() => expect(component.way).to.equal("amqp"));
    });
  });
});
