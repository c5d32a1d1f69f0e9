import { expect } from "chai";
import type { Embedded } from "../../config-db/embedded/server.ts";
import { queues } from "../../config-db/names.ts";
import { Store } from "../../config-db/store.ts";
import { Broker } from "../../coordinator/messaging/broker.ts";
import { closeQuietly, LastingChannel } from "../../coordinator/messaging/lasting-channel.ts";
import { Link } from "../../coordinator/messaging/link.ts";
import type { Messaging, MessagingOptions } from "../../coordinator/messaging/messaging.ts";
import { QueueRemoval } from "../../coordinator/messaging/removal.ts";
import { freshVhost, useVhost, type Vhost } from "../support/broker.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { startSiteStore } from "../support/site-store.ts";
import {
  command,
  createMessaging,
  FakeMembers,
  site as here,
  silent,
  unique,
  useMessaging,
} from "./messaging-fixture.ts";

interface QueueInfo {
  name: string;
  arguments: Record<string, unknown>;
  policy?: string;
}

const queuesOf = async (vhost: Vhost) => (await vhost.api("GET", "/queues/{vhost}")) as QueueInfo[];
const poll = (messaging: Messaging, member: { id: string; type: string }, waitMs = 5_000) =>
  messaging.inboxes
    .of(member)
    .then((inbox) => inbox.poll({ max: 10, waitMs, visibilityMs: 30_000, signal: new AbortController().signal }));

describe("messaging over a broken connection", function () {
  this.timeout(40_000);
  const vhost = useVhost();
  let proxy: FaultProxy;
  let messaging: Messaging;
  const members = new FakeMembers();
  const site = useMessaging(vhost);

  let url: URL;

  before(async () => {
    url = new URL(vhost.url);
    proxy = await startProxy({ host: url.hostname, port: Number(url.port) });
    url.hostname = "127.0.0.1";
    url.port = String(proxy.port);
    const addresses = { url: url.href, managementUrl: vhost.managementUrl };
    // A site of its own on the same broker, so that the fixture's does not take its outcomes.
    messaging = createMessaging(addresses, members, site.store, { site: "cut" });
    await messaging.start();
    await messaging.ready();
  });
  afterEach(() => proxy.heal());
  after(async () => {
    await messaging.close();
    await proxy.close();
  });

  const send = (to: string, letter = command("x")) =>
    messaging.sender.send(messaging.sender.plan({ component: to }, "command"), letter);
  const cutOnce = async () => {
    proxy.cut();
    await eventually(() => expect(messaging.state).to.equal("disconnected"));
    proxy.heal();
    await eventually(() => expect(messaging.state).to.equal("connected"));
  };

  it("lets a poller ack what it took before, and gives it to nobody again", async () => {
    const member = members.add({ site: "cut" });
    await send(member.id);
    const [message] = await poll(messaging, member);
    await cutOnce();
    const inbox = await messaging.inboxes.of(member);
    await inbox.ack(message?.delivery ?? "");
    expect(await poll(messaging, member, 500)).to.deep.equal([]);
  });

  it("sends what was asked for meanwhile when it is back, once", async () => {
    const member = members.add({ site: "cut" });
    await messaging.provision(member);
    proxy.cut();
    await eventually(() => expect(messaging.state).to.equal("disconnected"));
    const sent = Promise.all(Array.from({ length: 20 }, (_, n) => send(member.id, command(`n${n}`))));
    proxy.heal();
    await sent;
    const inbox = await messaging.inboxes.of(member);
    const names: string[] = [];
    await eventually(async () => {
      for (const { name, delivery } of await poll(messaging, member, 100)) {
        names.push(name);
        await inbox.ack(delivery);
      }
      expect(names).to.have.length(20);
    });
    expect(new Set(names).size).to.equal(20);
  });

  it("says 503 when the broker stays away, and that the message may still arrive", async () => {
    const member = members.add({ site: "cut" });
    await messaging.provision(member);
    proxy.cut();
    await expectError(() => send(member.id), "broker-unavailable", /may still arrive/);
  });

  it("says 503 when queues are to be removed while the broker stays away, and removes them when it is back", async () => {
    const member = members.add({ site: "cut" });
    await messaging.provision(member);
    proxy.cut();
    await eventually(() => expect(messaging.state).to.equal("disconnected"));
    members.delete(member.id);
    const removal = messaging.remove(member);
    // Its time limit must live through a collection.
    setTimeout(collectGarbage, 100);
    const { retryAfterMs } = await expectError(() => removal, "broker-unavailable", /try again/);
    expect(retryAfterMs).to.be.above(0);
    proxy.heal();
    await messaging.remove(member);
    expect((await queuesOf(vhost)).map(({ name }) => name)).not.to.include(`muster.${member.id}.commands`);
  });

  it("goes on removing queues when the connection is back that was lost over it", async () => {
    const member = members.add({ site: "cut" });
    await send(member.id);
    members.delete(member.id);
    const rescued: string[] = [];
    const broker = new Broker({ url: url.href, site: "cut", logger: silent });
    broker.start();
    const removal = new QueueRemoval(broker).remove(member, true, async (queue, { properties }) => {
      rescued.push(queue);
      if (!properties.headers?.["x-delivery-count"]) proxy.reset();
    });
    await removal.finally(() => broker.close());
    expect(rescued).to.include(queues.commands(member.id));
    expect((await queuesOf(vhost)).filter(({ name }) => name.includes(member.id))).to.deep.equal([]);
  });

  it("gives a role up, and takes it again", async () => {
    const told: string[] = [];
    const leave = messaging.contest(`muster.leader.${unique("s")}`, {
      gained: () => told.push("gained"),
      lost: () => told.push("lost"),
    });
    await eventually(() => expect(told).to.deep.equal(["gained"]));
    await cutOnce();
    await eventually(() => expect(told).to.deep.equal(["gained", "lost", "gained"]));
    await leave();
  });
});

describe("a channel whose closing the broker does not answer", function () {
  this.timeout(20_000);
  const vhost = useVhost();
  let proxy: FaultProxy;
  let link: Link;
  before(async () => {
    const url = new URL(vhost.url);
    proxy = await startProxy({ host: url.hostname, port: Number(url.port) });
    url.hostname = "127.0.0.1";
    url.port = String(proxy.port);
    link = new Link({ url: url.href, name: "test", logger: silent });
    link.start();
  });
  after(async () => {
    proxy.heal();
    await link.close();
    await proxy.close();
  });
  const unanswered = async () => {
    const lasting = new LastingChannel({ link, name: "test", logger: silent });
    lasting.start();
    const channel = await lasting.opened(AbortSignal.timeout(10_000));
    proxy.swallow("down");
    return { lasting, channel };
  };

  it("is closed when its connection ends", async () => {
    const { lasting, channel } = await unanswered();
    const closing = closeQuietly(channel, 60_000);
    proxy.heal();
    await closing;
    await lasting.close();
  });

  it("counts as lost after a while, so that it is opened again", async () => {
    const { lasting, channel } = await unanswered();
    await closeQuietly(channel, 50);
    expect(lasting.current).to.equal(undefined);
    proxy.heal();
    expect(await lasting.opened(AbortSignal.timeout(10_000))).not.to.equal(channel);
    await lasting.close();
  });
});

describe("the topology of a broker", function () {
  this.timeout(40_000);
  const used: { close(): Promise<void> }[] = [];
  let embedded: Embedded;
  before(async () => {
    embedded = await startSiteStore();
  });
  after(() => embedded?.close());
  afterEach(async () => {
    for (const part of used.splice(0).reverse()) await part.close();
  });
  const vhostOfOwn = async () => {
    const vhost = await freshVhost();
    used.push(vhost);
    return vhost;
  };
  const open = async (
    vhost: Vhost,
    members: FakeMembers,
    managementUrl = vhost.managementUrl,
    options: Partial<MessagingOptions> = {},
  ) => {
    const messaging = createMessaging({ url: vhost.url, managementUrl }, members, new Store(embedded.url), options);
    used.push(messaging);
    await messaging.start();
    await messaging.ready();
    return messaging;
  };

  it("is declared once: the next start finds what stands", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const first = await open(vhost, members);
    const added = Array.from({ length: 5 }, () => members.add());
    await Promise.all(added.map((member) => first.provision(member)));
    await eventually(async () =>
      expect(await vhost.api("GET", "/exchanges/{vhost}/muster.topology.v1")).to.include({ type: "fanout" }),
    );
    await first.close();
    const second = await open(vhost, members);
    expect(second.provisioningBacklog).to.equal(0);
    await second.close();
    await vhost.api("DELETE", `/queues/{vhost}/muster.${added[0]?.id}.replies`);
    const third = await open(vhost, members);
    expect(third.provisioningBacklog, "one has lost a queue").to.equal(1);
    await eventually(() => expect(third.provisioningBacklog).to.equal(0));
    const names = (await queuesOf(vhost)).map(({ name }) => name);
    expect(names).to.include(`muster.${added[0]?.id}.replies`);
  });

  it("gets its limits from policies, and none from arguments", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const member = members.add();
    await (await open(vhost, members)).provision(member);
    await eventually(async () => {
      const queue = (await queuesOf(vhost)).find(({ name }) => name === `muster.${member.id}.commands`);
      expect(queue?.policy).to.equal("muster-commands");
      expect(queue?.arguments).to.deep.equal({ "x-queue-type": "quorum" });
    });
  });

  it("gets its limits from arguments where there is no management API, and is taken as it is later", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const member = members.add();
    const without = await open(vhost, members, "off");
    await without.provision(member);
    const queue = (await queuesOf(vhost)).find(({ name }) => name === `muster.${member.id}.commands`);
    expect(queue?.arguments).to.include({ "x-dead-letter-exchange": "muster.dead", "x-delivery-limit": 20 });
    await without.close();
    const withIt = await open(vhost, members);
    await withIt.provision(member);
    await withIt.sender.send(withIt.sender.plan({ component: member.id }, "command"), command("x"));
    expect((await poll(withIt, member)).map(({ name }) => name)).to.deep.equal(["x"]);
  });

  const boundTo = async (vhost: Vhost, type: string) => {
    const bindings = await vhost.api("GET", `/exchanges/{vhost}/muster.type.${type}/bindings/source`);
    return (bindings as { destination: string }[]).map(({ destination }) => destination);
  };

  it("follows a component that changes its type", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const messaging = await open(vhost, members);
    const before = members.add();
    await messaging.provision(before);
    const after = members.add({ id: before.id, type: unique("t") });
    await messaging.provision(after);
    expect(await boundTo(vhost, before.type)).to.deep.equal([]);
    expect(await boundTo(vhost, after.type)).to.deep.equal([`muster.${after.id}.broadcasts`]);
  });

  it("follows a component that changed its type when no coordinator was there", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const first = await open(vhost, members);
    const before = members.add();
    await first.provision(before);
    await eventually(() => expect(first.provisioningBacklog).to.equal(0));
    await first.close();
    const after = members.add({ id: before.id, type: unique("t") });
    await (await open(vhost, members)).provision(after);
    expect(await boundTo(vhost, before.type)).to.deep.equal([]);
    expect(await boundTo(vhost, after.type)).to.deep.equal([`muster.${after.id}.broadcasts`]);
  });

  for (const [what, isAnother] of [
    ["to a third", true],
    ["back", false],
  ] as const) {
    it(`follows a component that changes its type ${what} while its queues settle for another`, async () => {
      const vhost = await vhostOfOwn();
      const members = new FakeMembers();
      const messaging = await open(vhost, members, vhost.managementUrl, { queueSettleMs: 500 });
      const first = members.add();
      const { id } = first;
      await messaging.provision(first);
      const second = members.add({ id, type: unique("t") });
      messaging.want(second);
      await eventually(async () => expect(await boundTo(vhost, second.type)).to.have.length(1));
      const last = members.add({ id, type: isAnother ? unique("t") : first.type });
      await messaging.provision(last);
      expect(await boundTo(vhost, second.type)).to.deep.equal([]);
      expect(await boundTo(vhost, last.type)).to.deep.equal([`muster.${id}.broadcasts`]);
      if (isAnother) expect(await boundTo(vhost, first.type)).to.deep.equal([]);
    });
  }

  it("follows a component that another coordinator removed while its queues settle, and that has another type now", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const messaging = await open(vhost, members, vhost.managementUrl, { queueSettleMs: 500 });
    const before = members.add();
    messaging.want(before);
    await eventually(async () => expect(await boundTo(vhost, before.type)).to.have.length(1));
    members.delete(before.id);
    const dropped = messaging.dropped(before);
    const after = members.add({ id: before.id, type: unique("t") });
    await messaging.provision(after);
    await dropped;
    expect(await boundTo(vhost, before.type)).to.deep.equal([]);
    expect(await boundTo(vhost, after.type)).to.deep.equal([`muster.${after.id}.broadcasts`]);
  });

  it("refuses an id whose queues would have the names of others", async () => {
    const vhost = await vhostOfOwn();
    const members = new FakeMembers();
    const messaging = await open(vhost, members);
    for (const id of ["any", "any.x", "site", "leader.a", "outcomes"])
      await expectError(() => messaging.provision(members.add({ id, site: here })), "invalid-request");
  });
});
