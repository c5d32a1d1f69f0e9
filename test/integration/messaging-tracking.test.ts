import { expect } from "chai";
import { startEmbedded } from "../../config-db/embedded/server.ts";
import type { CommandDocument } from "../../config-db/generated/types.ts";
import { install } from "../../config-db/installer.ts";
import { Store } from "../../config-db/store.ts";
import type { Inbox } from "../../coordinator/messaging/inbox.ts";
import type { InboxMessage } from "../../coordinator/messaging/inbox-deliveries.ts";
import type { Member } from "../../coordinator/messaging/members.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { useVhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { type StoreFront, startStoreFront } from "../support/store-front.ts";
import { createMessaging, FakeMembers, foreignClient, unique, useMessaging } from "./messaging-fixture.ts";

describe("tracked commands", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, { retry: { attemptsMax: 2, firstMs: 20, maxMs: 20 } });
  let messaging: Messaging;
  before(() => {
    ({ messaging } = site);
  });

  const send = async (
    to: CommandDocument["to"],
    more: { deadlineMs?: number; name?: string; id?: string; body?: unknown } = {},
  ) => {
    const { name = "work", id = unique("command-number"), body = null, deadlineMs } = more;
    const content = Buffer.from(JSON.stringify(body));
    const fingerprint = JSON.stringify([to, name, body]);
    await messaging.commands.send({ id, to, name, content, contentType: "application/json", fingerprint, deadlineMs });
    return id;
  };
  const poll = (inbox: Inbox, waitMs = 5_000): Promise<InboxMessage[]> =>
    inbox.poll({ max: 100, waitMs, visibilityMs: 30_000, signal: new AbortController().signal });
  const one = async (member: Member): Promise<{ inbox: Inbox; message: InboxMessage }> => {
    const inbox = await messaging.inboxes.of(member);
    const [message] = await poll(inbox);
    if (message === undefined) throw new Error("nothing came");
    return { inbox, message };
  };
  const statesOf = async (id: string) =>
    Object.fromEntries(
      Object.entries((await messaging.tracking.read(id)).targets).map(([target, { state }]) => [target, state]),
    );
  const eventuallyIn = (id: string, states: Record<string, string>) =>
    eventually(async () => expect(await statesOf(id)).to.deep.equal(states));

  it("go from queued over delivered to done", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    expect(await statesOf(id)).to.deep.equal({ [member.id]: "queued" });
    const { inbox, message } = await one(member);
    await eventuallyIn(id, { [member.id]: "delivered" });
    await inbox.ack(message.delivery);
    await eventuallyIn(id, { [member.id]: "done" });
  });

  it("are told to who watches also when somebody has read before the feed tells", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const earlier = await messaging.tracking.read(id);
    const { inbox, message } = await one(member);
    await inbox.ack(message.delivery);
    await eventuallyIn(id, { [member.id]: "done" });
    const later = await messaging.tracking.read(id);

    // Not started: its feed tells what this test has it tell.
    const { tracking } = createMessaging(vhost, new FakeMembers(), site.store);
    const feed = (doc: typeof later) => tracking.apply([{ id: doc._id, seq: 1, deleted: false, doc: { ...doc } }]);
    const told: string[] = [];
    tracking.watch(id, ({ _rev }) => told.push(_rev));
    const reading = tracking.read(id);
    feed(earlier);
    expect((await reading)._rev).to.equal(later._rev);
    feed(later);
    expect(told).to.deep.equal([earlier._rev, later._rev]);
  });

  it("tell why they failed, after the last attempt", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const first = await one(member);
    await first.inbox.nack(first.message.delivery, { reason: "disk full" });
    const second = await one(member);
    expect(second.message.attempt).to.equal(2);
    await second.inbox.nack(second.message.delivery, { reason: "disk still full" });
    await eventuallyIn(id, { [member.id]: "failed" });
    expect((await messaging.tracking.read(id)).targets[member.id]?.reason).to.equal("disk still full");
  });

  it("know the n of m of a broadcast from the registry at its sending", async () => {
    const type = unique("t");
    const [a, b] = [site.members.add({ type }), site.members.add({ type })];
    const id = await send({ type });
    site.members.add({ type });
    expect(await statesOf(id)).to.deep.equal({ [a.id]: "queued", [b.id]: "queued" });
    const { inbox, message } = await one(a);
    await inbox.ack(message.delivery);
    await eventuallyIn(id, { [a.id]: "done", [b.id]: "queued" });
  });

  it("to any of a type end up with the one that has it", async () => {
    const type = unique("t");
    const member = site.members.add({ type });
    const id = await send({ any: type });
    expect(await statesOf(id)).to.deep.equal({ [`any:${type}`]: "queued" });
    const { inbox, message } = await one(member);
    await inbox.ack(message.delivery);
    await eventuallyIn(id, { [member.id]: "done" });
  });

  it("expire when nobody began them before their deadline", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id }, { deadlineMs: 50 });
    await eventuallyIn(id, { [member.id]: "expired" });
  });

  it("are dead-lettered with the reason when their component is removed", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    site.members.delete(member.id);
    await messaging.remove(member);
    await eventuallyIn(id, { [member.id]: "dead-lettered" });
    expect((await messaging.tracking.read(id)).targets[member.id]?.reason).to.match(/was removed/);
  });

  it("are not kept when they could not be sent", async () => {
    const id = unique("command-number");
    await expectError(() => send({ component: unique("nobody") }, { id }), "no-such-target");
    await expectError(() => messaging.tracking.read(id), "not-found");
  });

  it("refuse another command under the same id, and take the same one again", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    await send({ component: member.id }, { id });
    await expectError(() => send({ component: member.id }, { id, name: "other" }), "refused");
  });

  it("are handled once though they were sent twice", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const { inbox, message } = await one(member);
    await inbox.ack(message.delivery);
    await send({ component: member.id }, { id });
    expect(await poll(inbox, 300)).to.deep.equal([]);
  });

  it("do not go back when the store's answer comes after what another coordinator wrote", async () => {
    const front = await startStoreFront(site.store.url);
    const late = createMessaging(vhost, site.members, new Store(front.url));
    try {
      await late.start();
      await late.ready();
      const member = site.members.add();
      const id = unique("command-number");
      const held = front.holdNext(/^POST .*\/_bulk_docs$/);
      const content = Buffer.from("1");
      const sent = late.commands.send({
        ...{ id, to: { component: member.id }, name: "work", content, contentType: "application/json" },
        fingerprint: "one",
      });
      await eventually(() => expect(held.count).to.equal(1));
      await messaging.tracking.outcome({ id, component: member.id, state: "done", at: new Date().toISOString() });
      const stateAtLate = async () => (await late.tracking.read(id)).targets[member.id]?.state;
      await eventually(async () => expect(await stateAtLate()).to.equal("done"));
      held.release();
      await sent;
      expect(await stateAtLate()).to.equal("done");
    } finally {
      await late.close();
      await front.close();
    }
  });

  it("are what they were when their dead letter could not be sent again", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const { inbox, message } = await one(member);
    await inbox.nack(message.delivery, { reason: "broken", final: true });
    await eventuallyIn(id, { [member.id]: "failed" });
    const { deadLetters } = await messaging.deadLetters.list({ match: { to: member.id }, limit: 1 });
    site.members.add({ ...member, site: "not-linked" });
    await expectError(() => messaging.deadLetters.redrive(deadLetters[0]?.id ?? ""), "broker-unavailable");
    const target = (await messaging.tracking.read(id)).targets[member.id];
    expect(target).to.include({ state: "failed", reason: "broken" });
  });

  it("tell those who watch", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const seen: string[] = [];
    const end = messaging.tracking.watch(id, ({ targets }) => seen.push(targets[member.id]?.state ?? ""));
    const { inbox, message } = await one(member);
    await eventuallyIn(id, { [member.id]: "delivered" });
    await inbox.ack(message.delivery);
    await eventually(() => expect(seen).to.deep.equal(["delivered", "done"]));
    end();
  });

  it("keep the order of their sender", async () => {
    const member = site.members.add();
    const inbox = await messaging.inboxes.of(member);
    for (let n = 0; n < 50; n += 1) await send({ component: member.id }, { body: n });
    const got: unknown[] = [];
    while (got.length < 50) {
      const messages = await poll(inbox);
      if (messages.length === 0) throw new Error(`only ${got.length} came`);
      for (const { delivery, body } of messages) {
        got.push(body);
        await inbox.ack(delivery);
      }
    }
    expect(got).to.deep.equal([...Array(50).keys()]);
  });

  it("ignore an outcome that another component claims", async () => {
    const member = site.members.add();
    const id = await send({ component: member.id });
    const foreign = await foreignClient(vhost.url);
    const outcome = { id, component: member.id, state: "done", at: new Date().toISOString() };
    foreign.channel.publish("muster.reply", "commands:here", Buffer.from(JSON.stringify(outcome)), {
      messageId: unique("m"),
      headers: { "muster-kind": "outcome", "muster-from": "somebody-else" },
    });
    await eventually(() => expect(messaging.tracking.strays.malformed).to.be.greaterThan(0));
    expect(await statesOf(id)).to.deep.equal({ [member.id]: "queued" });
    await foreign.close();
  });
});

describe("a tracked command that is sent again before its end is told", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const members = new FakeMembers();
  const opened: { close(): Promise<unknown> }[] = [];
  let front: StoreFront;
  let redriving: Messaging;

  before(async () => {
    const server = await startEmbedded({ port: 0 });
    front = await startStoreFront(server.url);
    const store = new Store(server.url);
    await install(store);
    // The first to start is the one that takes dead letters and outcomes.
    const taking = createMessaging(vhost, members, new Store(front.url));
    redriving = createMessaging(vhost, members, store);
    opened.push(redriving, taking, front, server);
    for (const messaging of [taking, redriving]) {
      await messaging.start();
      await messaging.ready();
    }
  });
  after(async () => {
    for (const each of opened) await each.close();
  });

  it("goes on as what it is then", async () => {
    const { id: component, ...rest } = members.add();
    const id = unique("command-number");
    const draft = { id, to: { component }, name: "work", fingerprint: "one" };
    await redriving.commands.send({ ...draft, content: Buffer.from("1"), contentType: "application/json" });
    const inbox = await redriving.inboxes.of({ id: component, ...rest });
    const poll = { max: 1, waitMs: 10_000, visibilityMs: 30_000, signal: new AbortController().signal };
    const isDelivered = async () =>
      expect((await redriving.tracking.read(id)).targets[component]?.state).to.equal("delivered");
    const kept = (to: string) =>
      eventually(async () => {
        const { deadLetters } = await redriving.deadLetters.list({ match: { to }, limit: 2 });
        expect(deadLetters).to.have.length(1);
        return deadLetters[0]?.id ?? "";
      });
    const [message] = await inbox.poll(poll);
    await eventually(isDelivered);

    const held = front.holdNext(/^POST .*\/_bulk_docs$/);
    await inbox.nack(message?.delivery ?? "", { reason: "broken", final: true });
    await eventually(() => expect(held.count).to.equal(1));
    await redriving.deadLetters.redrive(await kept(component));
    held.release();
    const foreign = await foreignClient(vhost.url);
    const headers = { "muster-kind": "command", "muster-reason": "test", "muster-to": "another" };
    foreign.channel.publish("muster.dead", "", Buffer.from("1"), { messageId: unique("m"), type: "x", headers });
    // They are taken one after the other: the end of the first is told by now.
    await kept("another");
    await foreign.close();

    expect((await inbox.poll(poll))[0]).to.include({ id, redriven: 1 });
    await eventually(isDelivered);
  });
});
