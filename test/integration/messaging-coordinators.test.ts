import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { type Component, connect } from "../../clients/typescript/src/index.ts";
import { type Embedded, startEmbedded } from "../../config-db/embedded/server.ts";
import { queues } from "../../config-db/names.ts";
import { tokenOf } from "../../coordinator/messaging/inboxes.ts";
import type { Member } from "../../coordinator/messaging/members.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { command, createMessaging, foreignClient, silent, unique, useMessaging } from "./messaging-fixture.ts";

describe("an inbox behind two coordinators of a site", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let store: Embedded;
  let one: RunningCoordinator;
  let other: RunningCoordinator;
  let id: string;

  before(async () => {
    store = await startEmbedded();
    const args = ["--amqp-management-url", vhost.managementUrl];
    const start = () => startCoordinator({ amqpUrl: vhost.url, couchdbUrl: store.url, args });
    one = await start();
    other = await start();
  });
  after(async () => {
    await Promise.all([one?.close(), other?.close()]);
    await store?.close();
  });
  beforeEach(async () => {
    id = unique("c");
    expect((await one.call("PUT", `/v1/components/${id}`, { type: unique("t") })).status).to.equal(201);
    // Each learns of it from the store.
    await eventually(async () => expect((await other.call("GET", `/v1/components/${id}`)).status).to.equal(200));
  });

  const send = async (to: RunningCoordinator) => {
    const sent = await to.call("POST", "/v1/commands", { to: { component: id }, name: "work" });
    expect(sent.status, JSON.stringify(sent.body)).to.equal(202);
    return sent.body.id as string;
  };
  type Polled = { id: string; delivery: string; attempt: number; kind: string };
  const poll = async (from: RunningCoordinator, query: string): Promise<Polled[]> => {
    const { status, body } = await from.call("GET", `/v1/components/${id}/inbox?${query}`);
    expect(status, JSON.stringify(body)).to.equal(200);
    const messages = body.messages as Polled[];
    // Who begins to lead signals what was written before.
    for (const { kind, delivery } of messages)
      if (kind === "signal") expect((await settle(from, delivery, "ack")).status).to.equal(204);
    const awaited = messages.filter(({ kind }) => kind !== "signal");
    return awaited.length === 0 && messages.length > 0 ? await poll(from, query) : awaited;
  };
  const take = async (from: RunningCoordinator, query = "") => {
    const messages = await poll(from, `waitMs=10000${query}`);
    expect(messages).to.have.length(1);
    return messages[0] as (typeof messages)[number];
  };
  const settle = (at: RunningCoordinator, delivery: string, verb: string, body?: unknown) =>
    at.call("POST", `/v1/components/${id}/inbox/${delivery}/${verb}`, body);
  const stateOf = async (command: string) =>
    (await one.call("GET", `/v1/commands/${command}`)).body.targets[id].state as string;

  it("takes an ack at either of them", async () => {
    const command = await send(one);
    const { delivery } = await take(one);
    expect((await settle(other, delivery, "ack")).status).to.equal(204);
    await eventually(async () => expect(await stateOf(command)).to.equal("done"));
    const again = await settle(other, delivery, "ack");
    expect([again.status, again.body.code]).to.deep.equal([404, "no-such-delivery"]);
  });

  it("takes a failure at either of them, and hands the message out again", async () => {
    await send(other);
    const first = await take(one);
    expect((await settle(other, first.delivery, "nack", { reason: "not yet", delayMs: 0 })).status).to.equal(204);
    expect((await take(other)).attempt).to.equal(2);
  });

  it("takes a reply at either of them, bytes unchanged, and refuses one to a command", async () => {
    const asked = one.call("POST", "/v1/requests", { to: { component: id }, name: "sum", timeoutMs: 10_000 });
    const { delivery } = await take(other);
    const body = { contentType: "application/octet-stream", bodyBase64: Buffer.from([0, 255, 128]).toString("base64") };
    expect((await settle(one, delivery, "reply", body)).status).to.equal(204);
    expect((await asked).body).to.deep.equal({ from: id, ...body });

    await send(one);
    const command = await take(one);
    const refused = await settle(other, command.delivery, "reply", { body: 1 });
    expect([refused.status, refused.body.code]).to.deep.equal([422, "refused"]);
  });

  it("is given back by both when either is told", async () => {
    const command = await send(one);
    expect((await take(one)).id).to.equal(command);
    expect((await other.call("DELETE", `/v1/components/${id}/inbox`)).status).to.equal(204);
    expect(await take(other)).to.include({ id: command, attempt: 1 });
    // Also by one that has come later, and by one that asks for itself.
    expect((await one.call("DELETE", `/v1/components/${id}/inbox`)).status).to.equal(204);
    expect(await take(one)).to.include({ id: command, attempt: 1 });
  });

  it("hands out again at either what an answer had that was lost, before what came after it", async () => {
    const lost = await send(one);
    const { delivery } = await take(one, "&max=1");
    const next = await send(one);
    const again = await take(other, "&max=1&again=true");
    expect(again).to.include({ id: lost, attempt: 1 });
    expect((await settle(one, delivery, "ack")).body.code).to.equal("no-such-delivery");
    expect((await settle(other, again.delivery, "ack")).status).to.equal(204);
    expect((await take(other, "&max=1")).id).to.equal(next);
  });

  it("hands out at either all that was taken to who polls for the last time, and takes no more", async () => {
    const commands = [await send(one), await send(one), await send(one), await send(one)];
    const first = await poll(one, "waitMs=10000&max=2");
    // What the one has read ahead is in no queue.
    await Promise.all(first.map(({ delivery }) => settle(one, delivery, "ack")));
    const foreign = await foreignClient(vhost.url);
    const inQueue = async () => (await foreign.channel.checkQueue(queues.commands(id))).messageCount;
    await eventually(async () => expect(await inQueue()).to.equal(0));
    const last = await poll(other, "max=1&last=true");
    expect([...first, ...last].map(({ id }) => id)).to.deep.equal(commands);
    await send(one);
    expect(await poll(other, "last=true")).to.deep.equal([]);
    await eventually(async () => expect(await inQueue()).to.equal(1));
    await foreign.close();
  });

  it("goes on with what comes after a failed message that waits for its retry, one at a time", async () => {
    await send(one);
    const next = await send(one);
    const failed = await take(one, "&max=1");
    expect((await settle(one, failed.delivery, "nack", { delayMs: 60_000 })).status).to.equal(204);
    expect((await take(one, "&max=1")).id).to.equal(next);
  });

  it("says 404 of what no coordinator has open, and of what one had that is gone", async () => {
    for (const delivery of ["nonsense", "00000000-1"]) {
      const answer = await settle(other, delivery, "ack");
      expect([answer.status, answer.body.code], delivery).to.deep.equal([404, "no-such-delivery"]);
    }
  });
});

describe("tracked commands at two coordinators of a site", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let store: Embedded;
  let one: RunningCoordinator;
  let other: RunningCoordinator;
  const clients: Component[] = [];

  before(async () => {
    store = await startEmbedded();
    const args = ["--amqp-management-url", vhost.managementUrl];
    const start = () => startCoordinator({ amqpUrl: vhost.url, couchdbUrl: store.url, args });
    one = await start();
    other = await start();
  });
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.close()));
  });
  after(async () => {
    await Promise.all([one?.close(), other?.close()]);
    await store?.close();
  });

  /** A component whose handler of `work` keeps what it was given. */
  const join = async (given: unknown[], type = unique("t")) => {
    const client = await connect({ url: one.url, id: unique("c"), type, logger: silent });
    clients.push(client);
    client.handle("work", ({ body }) => void given.push(body));
    await eventually(async () => {
      for (const at of [one, other]) expect((await at.call("GET", `/v1/components/${client.id}`)).status).to.equal(200);
    });
    return { id: client.id, type };
  };
  const send = async (at: RunningCoordinator, to: object, body: unknown, key: string = randomUUID()) => {
    const { status, body: answer } = await at.call(
      "POST",
      "/v1/commands",
      { to, name: "work", body },
      { "idempotency-key": key },
    );
    return status === 202 ? (answer.id as string) : (answer.code as string);
  };
  const targetsOf = async (command: string) =>
    Object.values((await one.call("GET", `/v1/commands/${command}`)).body.targets as Record<string, { state: string }>);
  const areDone = (commands: string[]) =>
    eventually(
      async () => {
        const states = (await Promise.all(commands.map(targetsOf))).flat().map(({ state }) => state);
        expect(states.filter((state) => state !== "done")).to.deep.equal([]);
      },
      { timeoutMs: 20_000 },
    );
  const asleep = async (type = unique("t")) => {
    const id = unique("c");
    await one.call("PUT", `/v1/components/${id}`, { type });
    await eventually(async () => expect((await other.call("GET", `/v1/components/${id}`)).status).to.equal(200));
    return id;
  };
  const waitingFor = async (id: string) => {
    const foreign = await foreignClient(vhost.url);
    const { messageCount } = await foreign.channel.checkQueue(`muster.${id}.commands`);
    await foreign.close();
    return messageCount;
  };

  it("are done when they were handled, whichever takes in what their targets say", async () => {
    const given: unknown[] = [];
    const { id } = await join(given);
    const commands: string[] = [];
    for (let n = 0; n < 60; n += 1) for (const at of [one, other]) commands.push(await send(at, { component: id }, n));
    await areDone(commands);
    expect(given).to.have.length(120);
  });

  it("send nothing when the other had another one under the key", async () => {
    const [given, ofOther]: unknown[][] = [[], []];
    const [a, b] = [await join(given as unknown[]), await join(ofOther as unknown[])];
    const key = randomUUID();
    expect(await send(one, { component: a.id }, "first", key)).to.equal(key);
    expect(await send(other, { component: b.id }, "second", key)).to.equal("refused");
    const last = await send(other, { component: b.id }, "last");
    await areDone([key, last]);
    expect([given, ofOther]).to.deep.equal([["first"], ["last"]]);
  });

  it("are sent once, to a target that is away too, though asked for at both", async () => {
    const id = await asleep();
    const keys = Array.from({ length: 5 }, () => randomUUID());
    for (const at of [one, other])
      expect(await Promise.all(keys.map((key) => send(at, { component: id }, 1, key)))).to.deep.equal(keys);
    const at = keys.map(() => randomUUID());
    await Promise.all(
      at.flatMap((key) => [one, other].map((coordinator) => send(coordinator, { component: id }, 2, key))),
    );
    expect(await waitingFor(id)).to.equal(10);
  });

  it("to any one of a type are handled by one, though asked for again at the other", async () => {
    const given: unknown[] = [];
    const { type } = await join(given);
    await join(given, type);
    const keys = Array.from({ length: 11 }, () => randomUUID());
    for (const key of keys) await send(one, { any: type }, key, key);
    await areDone(keys);
    for (const key of keys) expect(await send(other, { any: type }, key, key)).to.equal(key);
    const last = await send(other, { any: type }, "last");
    await areDone([last]);
    expect(given.toSorted()).to.deep.equal([...keys, "last"].toSorted());
  });
});

describe("the queues of a component that is purged", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let store: Embedded;
  const coordinators: RunningCoordinator[] = [];

  before(async () => {
    store = await startEmbedded();
    const options = { amqpUrl: vhost.url, couchdbUrl: store.url, queueSettleMs: 1_100 };
    for (let n = 0; n < 3; n += 1)
      coordinators.push(await startCoordinator({ ...options, args: ["--amqp-management-url", vhost.managementUrl] }));
  });
  after(async () => {
    await Promise.all(coordinators.map((coordinator) => coordinator.close()));
    await store?.close();
  });

  it("are gone, although other coordinators were declaring them", async () => {
    const purged: string[] = [];
    for (const [n, at] of coordinators.entries()) {
      for (const afterMs of [0, 300, 1_000]) {
        const id = unique(`p${n}`);
        expect((await at.call("PUT", `/v1/components/${id}`, { type: "t", ttlMs: 600_000 })).status).to.equal(201);
        await new Promise((resolve) => setTimeout(resolve, afterMs));
        const gone = await at.call("DELETE", `/v1/components/${id}?purge=true`);
        expect(gone.status, JSON.stringify(gone.body)).to.equal(204);
        purged.push(id);
      }
    }
    // One that stays is declared by each of them, after all that waited before.
    const last = unique("last");
    await coordinators[0]?.call("PUT", `/v1/components/${last}`, { type: "t", ttlMs: 600_000 });
    for (const at of coordinators)
      await eventually(
        async () => {
          const { status } = await at.call("POST", "/v1/commands", {
            to: { component: last },
            name: "x",
            track: false,
          });
          expect(status).to.equal(202);
        },
        { timeoutMs: 20_000 },
      );
    const left = async () => {
      const queues = (await vhost.api("GET", "/queues/{vhost}")) as { name: string }[];
      return queues.map(({ name }) => name).filter((name) => purged.some((id) => name.includes(id)));
    };
    await eventually(async () => expect(await left()).to.deep.equal([]), { timeoutMs: 20_000 });
  });
});

describe("a component that polls whichever of two coordinators it reaches", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  const site = useMessaging(vhost);
  let proxy: FaultProxy;
  let other: ReturnType<typeof createMessaging>;

  before(async () => {
    const url = new URL(vhost.url);
    proxy = await startProxy({ host: url.hostname, port: Number(url.port) });
    url.port = String(proxy.port);
    other = createMessaging({ ...vhost, url: url.href }, site.members, site.store);
    await other.start();
    await other.ready();
  });
  after(async () => {
    await other?.close();
    await proxy?.close();
  });

  const poll = async (
    at: ReturnType<typeof createMessaging>,
    member: Member,
    wanted: { max: number; waitMs: number },
  ) => {
    const inbox = await at.inboxes.of(member);
    return await inbox.poll({ ...wanted, visibilityMs: 30_000, signal: new AbortController().signal });
  };

  it("gets what the one has read ahead before what comes after it, although that one takes its time", async () => {
    const member = site.members.add();
    await Promise.all([site.messaging, other].map((at) => at.provision(member)));
    const { sender } = site.messaging;
    for (const name of ["1", "2", "3"])
      await sender.send(sender.plan({ component: member.id }, "command"), command(name, null, { from: "s" }));
    const [first] = await poll(other, member, { max: 1, waitMs: 10_000 });
    await other.settling.settle(member.id, first?.delivery ?? "", { how: "ack" });
    const foreign = await foreignClient(vhost.url);
    await eventually(async () =>
      expect((await foreign.channel.checkQueue(queues.commands(member.id))).messageCount).to.equal(1),
    );
    await foreign.close();
    proxy.slow(400);
    const next = await poll(site.messaging, member, { max: 1, waitMs: 10_000 });
    proxy.heal();
    expect([first, ...next].map((message) => message?.name)).to.deep.equal(["1", "2"]);
  });

  it("gets what comes next from where it got something lately, whichever it polls, until nothing comes for a while", async () => {
    const member = site.members.add();
    await Promise.all([site.messaging, other].map((at) => at.provision(member)));
    const { sender } = site.messaging;
    const tokens: (string | undefined)[] = [];
    const take = async (at: typeof other, name: string) => {
      // By then the queue is consumed where it is to be.
      expect(await poll(at, member, { max: 3, waitMs: 0 })).to.deep.equal([]);
      const polled = poll(at, member, { max: 3, waitMs: 10_000 });
      await sender.send(sender.plan({ component: member.id }, "command"), command(name, null, { from: "s" }));
      const [message] = await polled;
      expect(message?.name).to.equal(name);
      tokens.push(tokenOf(message?.delivery ?? ""));
      return () => at.settling.settle(member.id, message?.delivery ?? "", { how: "ack" });
    };
    const inHand = [await take(other, "1"), await take(site.messaging, "2")];
    for (const ack of inHand) await ack();
    await (await take(site.messaging, "3"))();
    expect(await poll(site.messaging, member, { max: 3, waitMs: 3_000 })).to.deep.equal([]);
    await take(site.messaging, "4");
    const { token } = other.inboxes;
    expect(tokens).to.deep.equal([token, token, token, site.messaging.inboxes.token]);
  });

  for (const [max, heldMs] of [
    [1, 0],
    [10, 0],
    [4, 30],
  ] as const)
    it(`gets one sender's commands in the order in which they were sent, ${max} at a time, each ${heldMs} ms in hand`, async () => {
      const count = heldMs > 0 ? 150 : 300;
      const member = site.members.add();
      await site.messaging.provision(member);
      const { sender } = site.messaging;
      const sendAll = async () => {
        for (let number = 0; number < count; number += 1)
          await sender.send(
            sender.plan({ component: member.id }, "command"),
            command(`${number}`, null, { from: "s" }),
          );
      };
      const sending = sendAll();
      const seed = Math.floor(Math.random() * 1_000);
      const got: string[] = [];
      const acks: Promise<void>[] = [];
      for (let polls = 0; got.length < count; polls += 1) {
        // Now the one and now the other, in a pattern that does not repeat.
        const at = Math.sin(polls * 12.9898 + seed) > 0 ? site.messaging : other;
        for (const { name, delivery } of await poll(at, member, { max, waitMs: 200 })) {
          got.push(name);
          const acked = delay(heldMs).then(() => at.settling.settle(member.id, delivery, { how: "ack" }));
          if (heldMs === 0) await acked;
          else acks.push(acked);
        }
      }
      await Promise.all([sending, ...acks]);
      const sent = Array.from({ length: count }, (_, number) => `${number}`);
      expect(got, `seed ${seed}`).to.deep.equal(sent);
    });
});
