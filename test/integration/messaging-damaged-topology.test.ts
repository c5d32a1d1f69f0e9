/** What somebody does to the exchanges and queues of a site by hand, and how it heals. */
import { expect } from "chai";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { useVhost, type Vhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { command, type FakeMembers, useMessaging } from "./messaging-fixture.ts";

type Named = { id: string; type: string };

const declareQueue = (vhost: Vhost, name: string, type: string) =>
  vhost.api("PUT", `/queues/{vhost}/${name}`, { durable: true, arguments: { "x-queue-type": type } });
const declareExchange = (vhost: Vhost, name: string, type: string) =>
  vhost.api("PUT", `/exchanges/{vhost}/${name}`, { durable: true, type });
const send = (messaging: Messaging, target: { component: string } | { type: string } | Record<"all", true>) =>
  messaging.sender.send(messaging.sender.plan(target, "command"), command("x"));
const poll = async (messaging: Messaging, member: Named) => {
  const inbox = await messaging.inboxes.of(member);
  const { signal } = new AbortController();
  return inbox.poll({ max: 10, waitMs: 5_000, visibilityMs: 30_000, signal });
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
