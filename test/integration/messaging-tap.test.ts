import { connect } from "amqplib";
import { expect } from "chai";
import { exchanges } from "../../config-db/names.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import type { Tapped } from "../../coordinator/messaging/tap.ts";
import { useVhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { command, createMessaging, FakeMembers, unique, useMessaging } from "./messaging-fixture.ts";

describe("a tap", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  const here = useMessaging(vhost);
  /** Another coordinator of the site, which hears late of what happens to components. */
  const members = new FakeMembers();
  let other: Messaging;
  const taps: (() => void)[] = [];
  const publishers: (() => Promise<unknown>)[] = [];

  before(async () => {
    other = createMessaging(vhost, members, here.store);
    await other.start();
    await other.ready();
  });
  afterEach(async () => {
    for (const stop of publishers.splice(0)) await stop();
    for (const close of taps.splice(0)) close();
    await eventually(async () => expect((await exchangeNames()).includes(exchanges.tap)).to.equal(false));
  });
  after(() => other?.close());

  const exchangeNames = async () =>
    ((await vhost.api("GET", "/exchanges/{vhost}")) as { name: string }[]).map(({ name }) => name);
  const component = async (type = unique("t")) => {
    const added = here.members.add({ type });
    members.add(added);
    for (const messaging of [here.messaging, other]) await messaging.provision(added);
    return added;
  };
  /** Opens a tap, which has all bindings when this resolves. */
  const tapped = async (at: Messaging, ids: string[], pattern = "#") => {
    const seen: Tapped[] = [];
    taps.push(at.tap.open({ pattern, body: false, give: (message) => seen.push(message) }));
    for (const id of ids) {
      const probe = unique("probe");
      await eventually(async () => {
        await send(here.messaging, { component: id }, probe);
        expect(seen.some(({ name }) => name === probe)).to.equal(true);
      });
    }
    return seen;
  };
  const send = (at: Messaging, to: { component: string } | { any: string }, name: string) => {
    const { envelope, content } = command(name);
    return at.sender.send(at.sender.plan(to, "command"), { envelope, content });
  };
  /** Publishes mandatory messages until told to stop: those that were confirmed and did not come back. */
  const publishing = async (exchange: string, key: string) => {
    const connection = await connect(vhost.url, { noDelay: true });
    const channel = await connection.createConfirmChannel();
    const returned = new Set<string>();
    const confirmed: string[] = [];
    channel.on("return", ({ properties }) => returned.add(properties.messageId as string));
    let stopped = false;
    const running = (async () => {
      while (!stopped) {
        const messageId = unique("m");
        const headers = { "muster-kind": "command" };
        const options = { messageId, type: "work", mandatory: true, persistent: true, headers };
        channel.publish(exchange, key, Buffer.from("1"), options);
        await channel.waitForConfirms();
        confirmed.push(messageId);
      }
    })().finally(() => connection.close());
    const stop = () => {
      stopped = true;
      return running;
    };
    publishers.push(stop);
    return { taken: () => confirmed.filter((id) => !returned.has(id)), returned, stop };
  };
  const deadLettersOf = async () => {
    const ids: string[] = [];
    for (let cursor: string | undefined; ; ) {
      const page = await here.messaging.deadLetters.list({ limit: 1_000, ...(cursor === undefined ? {} : { cursor }) });
      ids.push(...page.deadLetters.map(({ messageId }) => String(messageId)));
      if (page.cursor === undefined) return ids;
      cursor = page.cursor;
    }
  };

  for (const to of ["component", "any"] as const)
    it(`at another coordinator loses nothing that is confirmed while the target is purged (${to})`, async () => {
      const { id, type } = await component();
      await tapped(other, [id]);
      const [exchange, key] = to === "component" ? [exchanges.unicast, id] : [exchanges.any, type];
      const { stop, taken, returned } = await publishing(exchange, key);
      await eventually(() => expect(taken().length).to.be.greaterThan(20));
      here.members.delete(id);
      await here.messaging.remove({ id, type });
      // Nobody is there any more: that is told from here on, whether or not the other one knows of it.
      const before = returned.size;
      await eventually(() => expect(returned.size).to.be.greaterThan(before + 20));
      await stop();
      await eventually(async () => expect(await deadLettersOf()).to.include.members(taken()));
      members.delete(id);
      await other.dropped({ id, type });
    });

  it("shows what is for a component that was removed and registered again, and for its type", async () => {
    const type = unique("t");
    const [one, two] = [await component(type), await component(type)];
    const seen = await tapped(other, [one.id, two.id]);
    for (const [gone, known] of [[here.members, members]]) {
      gone?.delete(one.id);
      await here.messaging.remove(one);
      known?.delete(one.id);
      await other.dropped(one);
    }
    here.members.add(one);
    members.add(one);
    for (const messaging of [here.messaging, other]) await messaging.provision(one);
    const probes = [unique("again"), unique("any")];
    await eventually(async () => {
      await send(here.messaging, { component: one.id }, probes[0] as string);
      await send(here.messaging, { any: type }, probes[1] as string);
      expect(seen.map(({ name }) => name)).to.include.members(probes);
    });
  });

  it("shows replies to requests that were made at another coordinator of the site", async () => {
    const one = await component();
    const seen = await tapped(other, [one.id]);
    const { requester, sender, inboxes } = here.messaging;
    const inbox = await inboxes.of(one);
    const { signal } = new AbortController();
    const poll = { max: 1, waitMs: 10_000, visibilityMs: 30_000, signal };
    // The commands by which the tap was found to be open.
    for (let left = await inbox.poll({ ...poll, waitMs: 0 }); left.length > 0; ) {
      for (const { delivery } of left) await inbox.ack(delivery);
      left = await inbox.poll({ ...poll, waitMs: 0 });
    }
    const { envelope, content } = command(unique("asked"));
    const letter = { envelope: { ...envelope, kind: "request" as const }, content };
    const asked = requester.ask(sender.plan({ component: one.id }, "request"), letter, 10_000, signal);
    const [request] = await inbox.poll(poll);
    await inbox.reply(request?.delivery ?? "", { content: Buffer.from("1"), contentType: "application/json" });
    expect(await asked).to.deep.equal({ from: one.id, body: 1 });
    await eventually(() =>
      expect(seen.filter(({ name }) => name === envelope.name).map(({ kind }) => kind)).to.include("reply"),
    );
  });

  it("opens again at once, while the broker takes the former one away, and leaves nothing behind", async () => {
    const { id } = await component();
    for (let n = 0; n < 10; n += 1) {
      await tapped(n % 2 === 0 ? here.messaging : other, [id]);
      for (const close of taps.splice(0)) close();
    }
    await tapped(here.messaging, [id]);
  });

  it("goes on when somebody has deleted its exchange", async () => {
    const one = await component();
    const seen = await tapped(other, [one.id]);
    await vhost.api("DELETE", `/exchanges/{vhost}/${exchanges.tap}`);
    const probe = unique("probe");
    await eventually(async () => {
      await send(here.messaging, { component: one.id }, probe);
      expect(seen.map(({ name }) => name)).to.include(probe);
    });
  });

  it("goes on when somebody has deleted the exchange of commands, and another coordinator declares it again", async () => {
    const one = await component();
    const seen = await tapped(other, [one.id]);
    await vhost.api("DELETE", `/exchanges/{vhost}/${exchanges.unicast}`);
    // Of two that look after it the one that uses it notices first.
    await eventually(async () => {
      await send(here.messaging, { component: one.id }, "again");
    });
    const probe = unique("probe");
    await eventually(async () => {
      await send(here.messaging, { component: one.id }, probe);
      expect(seen.map(({ name }) => name)).to.include(probe);
    });
    expect(seen.filter(({ malformed }) => malformed !== undefined)).to.deep.equal([]);
  });

  it("binds nothing while nobody taps", async () => {
    const { id } = await component();
    await send(here.messaging, { component: id }, "untapped");
    expect(await exchangeNames()).not.to.include(exchanges.tap);
  });
});
