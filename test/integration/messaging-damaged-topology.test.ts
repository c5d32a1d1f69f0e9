/** What somebody does to the exchanges and queues of a site by hand, and how it heals. */
import { expect } from "chai";
import { exchanges } from "../../config-db/names.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { useVhost, type Vhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { command, createMessaging, type FakeMembers, useMessaging } from "./messaging-fixture.ts";

type Named = { id: string; type: string };

const declareQueue = (vhost: Vhost, name: string, type: string) =>
  vhost.api("PUT", `/queues/{vhost}/${name}`, { durable: true, arguments: { "x-queue-type": type } });
const declareExchange = (vhost: Vhost, name: string, type: string) =>
  vhost.api("PUT", `/exchanges/{vhost}/${name}`, { durable: true, type });
const send = (messaging: Messaging, target: { component: string } | { type: string } | Record<"all", true>) =>
  messaging.sender.send(messaging.sender.plan(target, "command"), command("x"));
const poll = async (messaging: Messaging, member: Named, waitMs = 5_000) => {
  const inbox = await messaging.inboxes.of(member);
  const { signal } = new AbortController();
  return inbox.poll({ max: 10, waitMs, visibilityMs: 120_000, signal });
};

describe("a component whose queues the broker refuses", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, { queueSettleMs: 200 });
  /** A component whose type's exchange somebody declared otherwise. */
  const refused = async (members: FakeMembers) => {
    const member = members.add();
    await declareExchange(vhost, `muster.type.${member.type}`, "direct");
    return member;
  };

  it("keeps nobody else without messages", async () => {
    const { messaging, members } = site;
    const broken = await refused(members);
    messaging.want(broken);
    await expectError(() => send(messaging, { component: broken.id }), "broker-unavailable");
    const others = Array.from({ length: 5 }, () => members.add());
    // Once more while the others are on their way.
    messaging.want(broken);
    await Promise.all(others.map((member) => send(messaging, { component: member.id })));
    for (const member of others) expect((await poll(messaging, member)).map(({ name }) => name)).to.deep.equal(["x"]);
  });

  it("tells senders what is wrong at the broker and what to do, whomever of its type they send to", async () => {
    const { messaging, members } = site;
    const { id, type } = await refused(members);
    const said = new RegExp(
      `the exchange "muster.type.${type}" cannot be declared .*received 'fanout' but current is 'direct'.* delete it`,
    );
    for (const target of [{ component: id }, { type }])
      await expectError(() => send(messaging, target), "broker-unavailable", said);
    await expectError(() => messaging.inboxes.of({ id, type }), "broker-unavailable", said);
  });

  it("counts as one that waits to be declared", async () => {
    const { messaging, members } = site;
    const before = messaging.provisioningBacklog;
    const { id } = await refused(members);
    await expectError(() => send(messaging, { component: id }), "broker-unavailable");
    expect(messaging.provisioningBacklog).to.equal(before + 1);
  });

  it("gets messages when the operator has deleted what stood in the way", async () => {
    const { messaging, members } = site;
    const { id, type } = await refused(members);
    await expectError(() => send(messaging, { component: id }), "broker-unavailable");
    await vhost.api("DELETE", `/exchanges/{vhost}/muster.type.${type}`);
    await eventually(() => send(messaging, { component: id }));
    expect((await poll(messaging, { id, type })).map(({ name }) => name)).to.deep.equal(["x"]);
  });

  it("gets messages again when a queue that was taken as it is was deleted", async () => {
    const { messaging, members } = site;
    const { id, type } = members.add();
    const name = `muster.${id}.commands`;
    await declareQueue(vhost, name, "classic");
    await send(messaging, { component: id });
    await vhost.api("DELETE", `/queues/{vhost}/${name}`);
    await send(messaging, { component: id });
    expect((await poll(messaging, { id, type })).map((message) => message.name)).to.deep.equal(["x"]);
    expect(await vhost.api("GET", `/queues/{vhost}/${name}`)).to.include({ type: "quorum" });
  });
});

describe("an exchange that somebody deletes", function () {
  this.timeout(60_000);
  /** What is missing is looked for every 10 s. */
  const patient = { timeoutMs: 30_000, everyMs: 100 };
  const vhost = useVhost();
  const site = useMessaging(vhost);
  let other: Messaging;
  before(async () => {
    other = createMessaging(vhost, site.members, site.store);
    await other.start();
    await other.ready();
  });
  after(() => other?.close());

  const both = () => [site.messaging, other];
  const remove = (exchange: string) => vhost.api("DELETE", `/exchanges/{vhost}/${exchange}`);

  it("is declared anew, and coordinators settle for each other again", async () => {
    const member = site.members.add();
    await send(site.messaging, { component: member.id });
    const [taken] = await poll(site.messaging, member);
    await remove(exchanges.requests);
    await eventually(() => other.settling.settle(member.id, taken?.delivery ?? "", { how: "ack" }), patient);
  });

  it("keeps coordinators from hearing of each other only until it stands again", async () => {
    const member = site.members.add();
    await send(site.messaging, { component: member.id });
    const [taken] = await poll(site.messaging, member);
    await remove(exchanges.requests);
    const later = createMessaging(vhost, site.members, site.store);
    try {
      await later.start();
      await later.ready();
      await eventually(async () => {
        await later.release(member.id);
        expect((await poll(later, member, 500)).map(({ id }) => id)).to.deep.equal([taken?.id]);
      }, patient);
    } finally {
      await later.close();
    }
  });

  it("is declared anew, and replies reach the coordinators and the components again", async () => {
    const member = site.members.add();
    await site.messaging.provision(member);
    const asked = async (messaging: Messaging) => {
      const { sender, requester } = messaging;
      const letter = command("q", 1, { kind: "request" });
      const { signal } = new AbortController();
      const reply = requester.ask(sender.plan({ component: member.id }, "request"), letter, 2_000, signal);
      reply.catch(() => undefined);
      const inbox = await site.messaging.inboxes.of(member);
      for (const { delivery } of await inbox.poll({ max: 10, waitMs: 2_000, visibilityMs: 30_000, signal }))
        await inbox.reply(delivery, { content: Buffer.from("2"), contentType: "application/json" });
      return (await reply).body;
    };
    for (const messaging of both()) expect(await asked(messaging)).to.equal(2);
    await remove(exchanges.reply);
    for (const messaging of both()) await eventually(async () => expect(await asked(messaging)).to.equal(2), patient);
    await eventually(async () => {
      const bound = await vhost.api("GET", `/bindings/{vhost}/e/${exchanges.reply}/q/muster.${member.id}.replies`);
      expect(bound).to.have.length(1);
    }, patient);
  });

  it("is declared anew, and open streams get events again", async () => {
    const member = site.members.add();
    const got = both().map(() => new Set<string>());
    const ends = await Promise.all(
      both().map(({ events }, n) => events.subscribe(`${member.type}.#`, ({ name }) => got[n]?.add(name))),
    );
    const publish = (name: string) => site.messaging.events.publish(command(name, 1, { kind: "event" }), member);
    await publish("before");
    await eventually(() => expect(got.map((names) => [...names])).to.deep.equal([["before"], ["before"]]));
    await remove(exchanges.events);
    await eventually(async () => {
      await publish("after");
      for (const names of got) expect([...names]).to.include("after");
    }, patient);
    for (const end of ends) end();
  });

  it("is no other than one of which somebody deletes a single binding: it is made again", async () => {
    const member = site.members.add();
    await site.messaging.provision(member);
    const path = `/bindings/{vhost}/e/${exchanges.reply}/q/muster.${member.id}.replies`;
    await vhost.api("DELETE", `${path}/${member.id}`);
    expect(await vhost.api("GET", path)).to.deep.equal([]);
    await eventually(async () => expect(await vhost.api("GET", path)).to.have.length(1), patient);
  });
});

describe("an exchange of the site that is of another type", function () {
  this.timeout(60_000);
  const patient = { timeoutMs: 30_000, everyMs: 100 };
  const vhost = useVhost();
  const site = useMessaging(vhost);
  const said = (name: string, type: string) =>
    new RegExp(`the exchange "${name}" cannot be declared .*received '${type}' but current is 'direct'.* delete it`);
  const replace = async (name: string) => {
    await vhost.api("DELETE", `/exchanges/{vhost}/${name}`);
    await declareExchange(vhost, name, "direct");
  };

  it("holds up only what is for it, says so, and heals when it is deleted", async () => {
    const { messaging, members } = site;
    const member = members.add();
    await messaging.provision(member);
    const publish = () => messaging.events.publish(command("e", 1, { kind: "event" }), member);
    await replace(exchanges.events);
    await replace(exchanges.all);
    await eventually(() => {
      expect(messaging.fault).to.match(said(exchanges.events, "topic"));
      expect(messaging.fault).to.match(said(exchanges.all, "fanout"));
    }, patient);
    await expectError(publish, "broker-unavailable", said(exchanges.events, "topic"));
    await expectError(() => send(messaging, { all: true }), "broker-unavailable", said(exchanges.all, "fanout"));
    const fresh = members.add();
    for (const { id } of [member, fresh]) await send(messaging, { component: id });
    await vhost.api("DELETE", `/exchanges/{vhost}/${exchanges.events}`);
    await vhost.api("DELETE", `/exchanges/{vhost}/${exchanges.all}`);
    await eventually(() => expect(messaging.fault).to.equal(undefined), patient);
    await publish();
    await send(messaging, { all: true });
    const bound = () => vhost.api("GET", `/exchanges/{vhost}/${exchanges.all}/bindings/source`);
    await eventually(async () => expect(await bound()).to.have.length(2), patient);
  });

  it("does so when it was there before the coordinator", async () => {
    const { members, store } = site;
    await replace(exchanges.all);
    const later = createMessaging(vhost, members, store);
    try {
      await later.start();
      await later.ready();
      expect(later.fault).to.match(said(exchanges.all, "fanout"));
      await send(later, { component: members.add().id });
    } finally {
      await later.close();
      await vhost.api("DELETE", `/exchanges/{vhost}/${exchanges.all}`);
    }
  });
});
