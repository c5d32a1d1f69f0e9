import { expect } from "chai";
import type { Inbox } from "../../coordinator/messaging/inbox.ts";
import type { Member } from "../../coordinator/messaging/members.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import type { GatheredReply } from "../../coordinator/messaging/request.ts";
import { draftLetter } from "../../coordinator/messaging/send.ts";
import { useVhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { command, type Foreign, foreignClient, unique, useMessaging } from "./messaging-fixture.ts";

describe("messages between components", function () {
  this.timeout(20_000);
  const vhost = useVhost();
  const site = useMessaging(vhost);
  const { members } = site;
  let messaging: Messaging;
  before(() => {
    ({ messaging } = site);
  });

  const take = async (inbox: Inbox, waitMs = 5_000, visibilityMs = 30_000) =>
    inbox.poll({ max: 10, waitMs, visibilityMs, signal: new AbortController().signal });
  const sendCommand = (to: Parameters<Messaging["sender"]["plan"]>[0], letter = command("ping")) =>
    messaging.sender.send(messaging.sender.plan(to, "command"), letter);
  const queuesOf = async ({ id, type }: Member) => {
    const queues = (await vhost.api("GET", "/queues/{vhost}")) as { name: string }[];
    return queues.map(({ name }) => name).filter((name) => name.includes(id) || name.includes(type));
  };
  const ask = (to: Parameters<Messaging["sender"]["plan"]>[0], timeoutMs = 5_000, body: unknown = null) => {
    const draft = {
      messageId: unique("m"),
      kind: "request",
      name: "ask",
      deadlineAtMs: Date.now() + timeoutMs,
    } as const;
    const letter = draftLetter(draft, Buffer.from(JSON.stringify(body)), Date.now());
    const { signal } = new AbortController();
    return { plan: messaging.sender.plan(to, "request"), letter, timeoutMs, signal };
  };
  const answerer = async (member: Member, body: unknown) => {
    const inbox = await messaging.inboxes.of(member);
    return (async () => {
      for (;;) {
        const [message] = await take(inbox);
        if (message === undefined) throw new Error("no request came");
        await inbox.reply(message.delivery, {
          content: Buffer.from(JSON.stringify({ from: member.id, said: body, got: message.body })),
          contentType: "application/json",
        });
        return message;
      }
    })();
  };

  it("sets its policies", async () => {
    const policies = (await vhost.api("GET", "/policies/{vhost}")) as { name: string }[];
    expect(policies.map(({ name }) => name)).to.include.members(["muster-commands", "muster-broadcasts", "muster-own"]);
  });

  it("carries a command to one component", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    const letter = command("reload", { deep: [1, 2] }, { from: "tester" });
    await sendCommand({ component: member.id }, letter);
    const [message] = await take(inbox);
    expect(message).to.include({
      kind: "command",
      name: "reload",
      from: "tester",
      id: letter.envelope.messageId,
      attempt: 1,
    });
    expect(message?.body).to.deep.equal({ deep: [1, 2] });
    await inbox.ack(message?.delivery ?? "");
    expect(await take(inbox, 0)).to.deep.equal([]);
  });

  it("gives who polls everything while an older process of the component still consumes by AMQP", async () => {
    const member = members.add({ incarnation: 2 });
    const inbox = await messaging.inboxes.of(member);
    const older = await foreignClient(vhost.url);
    const ofOlder: unknown[] = [];
    const queue = `muster.${member.id}.commands`;
    await older.channel.consume(queue, (message) => void ofOlder.push(message), { priority: 1 });
    const polled = take(inbox);
    await eventually(async () => expect((await older.channel.checkQueue(queue)).consumerCount).to.equal(2));
    for (let n = 0; n < 10; n += 1) await sendCommand({ component: member.id });
    const ids = new Set((await polled).map(({ id }) => id));
    while (ids.size < 10) for (const { id } of await take(inbox)) ids.add(id);
    expect(ofOlder).to.deep.equal([]);
    await older.close();
    await messaging.inboxes.drop(member.id);
  });

  it("keeps a command until its component polls", async () => {
    const member = members.add({ state: "gone" });
    await sendCommand({ component: member.id }, command("later"));
    const [message] = await take(await messaging.inboxes.of(member));
    expect(message?.name).to.equal("later");
  });

  it("refuses a command to nobody", async () => {
    await expectError(async () => sendCommand({ component: unique("nobody") }), "no-such-target");
    await expectError(async () => sendCommand({ type: unique("nobody") }), "no-such-target");
    await expectError(async () => sendCommand({ any: unique("nobody") }), "no-such-target");
  });

  it("gives a command for any one of a type to one of them", async () => {
    const type = unique("t");
    const inboxes = await Promise.all(
      [members.add({ type }), members.add({ type })].map((m) => messaging.inboxes.of(m)),
    );
    await sendCommand({ any: type });
    const got = (await Promise.all(inboxes.map((inbox) => take(inbox, 500)))).flat();
    expect(got).to.have.length(1);
  });

  it("gives a broadcast to all of a type", async () => {
    const type = unique("t");
    const inboxes = await Promise.all(
      [members.add({ type }), members.add({ type })].map((m) => messaging.inboxes.of(m)),
    );
    const letter = command("all");
    letter.envelope.kind = "broadcast";
    await sendCommand({ type }, letter);
    const got = await Promise.all(inboxes.map((inbox) => take(inbox)));
    expect(got.map(([message]) => message?.kind)).to.deep.equal(["broadcast", "broadcast"]);
  });

  it("brings the reply to a request", async () => {
    const member = members.add();
    const served = answerer(member, "pong");
    const { plan, letter, timeoutMs, signal } = ask({ component: member.id }, 5_000, "ping");
    const reply = await messaging.requester.ask(plan, letter, timeoutMs, signal);
    await served;
    expect(reply).to.deep.equal({ from: member.id, body: { from: member.id, said: "pong", got: "ping" } });
  });

  it("tells a requester that nobody answered in time", async () => {
    const { plan, letter, signal } = ask({ component: members.add().id }, 100);
    await expectError(() => messaging.requester.ask(plan, letter, 100, signal), "deadline-exceeded");
  });

  it("tells a requester why the handler failed", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    const { plan, letter, timeoutMs, signal } = ask({ component: member.id });
    const asked = expectError(
      () => messaging.requester.ask(plan, letter, timeoutMs, signal),
      "handler-failed",
      /no paper/,
    );
    const [message] = await take(inbox);
    await inbox.nack(message?.delivery ?? "", { reason: "no paper" });
    await asked;
  });

  it("gathers the replies of a type and says who is missing", async () => {
    const type = unique("t");
    const [here, away] = [members.add({ type }), members.add({ type })];
    const served = answerer(here, "here");
    const { plan, letter, signal } = ask({ type });
    const gathered = await messaging.requester.gather(plan, letter, 700, signal);
    await served;
    expect(gathered.replies.map(({ from }) => from)).to.deep.equal([here.id]);
    expect(gathered.missing).to.deep.equal([away.id]);
  });

  describe("a foreign reply", () => {
    let foreign: Foreign;
    before(async () => {
      foreign = await foreignClient(vhost.url);
    });
    after(() => foreign.close());

    const broken: [string, Buffer, RegExp][] = [
      [
        "is too large",
        Buffer.alloc(2 ** 20 + 1, "1"),
        /cannot be read: the body has 1048577 bytes, the limit is 1048576/,
      ],
      ["is not the JSON that it says", Buffer.from("{"), /cannot be read: the body is not JSON/],
    ];
    /** Replies to the next request that `queue` gets. */
    const replyOnce = async (queue: string, replies: { from?: string; content: Buffer }[]) =>
      await foreign.consume(queue, ({ properties }) => {
        for (const { from, content } of replies)
          foreign.channel.publish("muster.reply", properties.replyTo, content, {
            messageId: unique("m"),
            correlationId: properties.messageId,
            headers: { "muster-kind": "reply", ...(from === undefined ? {} : { "muster-from": from }) },
          });
      });

    for (const [what, content, reason] of broken)
      it(`that ${what} is told to the requester as the failure of its handler`, async () => {
        const { id } = members.add();
        await messaging.provision(members.get(id) as Member);
        await replyOnce(`muster.${id}.requests`, [{ from: id, content }]);
        const { plan, letter, timeoutMs, signal } = ask({ component: id });
        await expectError(() => messaging.requester.ask(plan, letter, timeoutMs, signal), "handler-failed", reason);
      });

    it("that cannot be read is told among the others, one of nobody who was asked is not", async () => {
      const type = unique("t");
      const [good, large, odd, silent] = [1, 2, 3, 4].map(() => members.add({ type }));
      const ids = [good, large, odd, silent].map((member) => member?.id ?? "");
      for (const id of ids) await messaging.provision(members.get(id) as Member);
      const one = Buffer.from("1");
      // What comes last ends it: the others are there by then.
      await replyOnce(`muster.${ids[0]}.broadcasts`, [
        { from: "stranger", content: one },
        { from: members.add().id, content: one },
        { content: one },
        ...broken.map(([, content], at) => ({ from: ids[at + 1] ?? "", content })),
        { from: ids[0] ?? "", content: one },
        { from: ids[3] ?? "", content: one },
      ]);
      const { plan, letter, timeoutMs, signal } = ask({ type });
      const { replies, missing } = await messaging.requester.gather(plan, letter, timeoutMs, signal);
      expect(missing).to.deep.equal([]);
      expect(replies.map(({ from }) => from)).to.deep.equal([ids[1], ids[2], ids[0], ids[3]]);
      for (const [at, [, , reason]] of broken.entries()) {
        const reply = replies[at] as GatheredReply;
        expect("error" in reply && reply.error.code).to.equal("handler-failed");
        expect("error" in reply && reply.error.detail).to.match(reason);
      }
    });

    it("of a component that registered just after the sending is listed", async () => {
      const type = unique("t");
      const early = members.add({ type });
      await messaging.provision(early);
      await foreign.consume(`muster.${early.id}.broadcasts`, ({ properties }) => {
        for (const id of [members.add({ type }).id, early.id])
          foreign.channel.publish("muster.reply", properties.replyTo, Buffer.from("1"), {
            messageId: unique("m"),
            correlationId: properties.messageId,
            headers: { "muster-kind": "reply", "muster-from": id },
          });
      });
      const { plan, letter, timeoutMs, signal } = ask({ type });
      const { replies, missing } = await messaging.requester.gather(plan, letter, timeoutMs, signal);
      expect([replies.length, missing]).to.deep.equal([2, []]);
    });
  });

  it("gives a message back that is not settled in time, as the next attempt", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    await sendCommand({ component: member.id });
    const [first] = await take(inbox, 5_000, 100);
    const [second] = await take(inbox, 5_000);
    expect(second?.id).to.equal(first?.id);
    expect(second?.attempt).to.equal(2);
    await expectError(() => inbox.ack(first?.delivery ?? ""), "no-such-delivery");
    await inbox.ack(second?.delivery ?? "");
  });

  it("refuses a second ack of a delivery", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    await sendCommand({ component: member.id });
    const [message] = await take(inbox);
    await inbox.ack(message?.delivery ?? "");
    await expectError(() => inbox.ack(message?.delivery ?? ""), "no-such-delivery");
  });

  it("hands out once what was published twice, and acks both", async () => {
    const member = members.add();
    await messaging.provision(member);
    const inbox = await messaging.inboxes.of(member);
    const foreign = await foreignClient(vhost.url);
    const publishTwice = (messageId: string) => {
      const options = { messageId, type: "ring", headers: { "muster-kind": "command" } };
      for (let time = 0; time < 2; time += 1)
        foreign.channel.publish("muster.unicast", member.id, Buffer.from("1"), options);
    };
    const queued = async () => (await foreign.channel.checkQueue(`muster.${member.id}.commands`)).messageCount;
    publishTwice("first");
    await eventually(async () => expect(await queued()).to.equal(2));
    const [message, ...rest] = await take(inbox);
    expect(rest).to.deep.equal([]);
    // While one is open, waits for its retry, and is settled by being sent again.
    const waiting = take(inbox, 5_000);
    publishTwice("first");
    await inbox.nack(message?.delivery ?? "", { delayMs: 300 });
    publishTwice("first");
    const [again, ...others] = await waiting;
    expect(others).to.deep.equal([]);
    expect(again).to.include({ id: "first", attempt: 2 });
    const ending = take(inbox, 1_000);
    publishTwice("first");
    await inbox.ack(again?.delivery ?? "");
    publishTwice("first");
    expect(await ending).to.deep.equal([]);
    await messaging.inboxes.drop(member.id);
    expect(await queued()).to.equal(0);
    await foreign.close();
  });

  it("does not hand out what became late before it was polled for", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    await sendCommand({ component: member.id }, command("first"));
    // Of two asked for one is taken ahead of the next poll.
    const waiting = inbox.poll({ max: 2, waitMs: 5_000, visibilityMs: 30_000, signal: new AbortController().signal });
    expect((await waiting).map(({ name }) => name)).to.deep.equal(["first"]);
    const deadlineAtMs = Date.now() + 400;
    await sendCommand({ component: member.id }, command("late", null, { deadlineAtMs }));
    await eventually(() => expect(Date.now()).to.be.above(deadlineAtMs));
    const next = take(inbox, 5_000);
    await sendCommand({ component: member.id }, command("last"));
    expect((await next).map(({ name }) => name)).to.deep.equal(["last"]);
    await eventually(async () => {
      const { deadLetters } = await messaging.deadLetters.list({ match: { to: member.id }, limit: 10 });
      expect(deadLetters.map(({ name, state }) => [name, state])).to.deep.equal([["late", "expired"]]);
    });
  });

  it("streams the inbox", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    const names: string[] = [];
    const end = await inbox.stream({ visibilityMs: 30_000, give: ({ name }) => names.push(name) });
    for (const name of ["one", "two", "three"]) await sendCommand({ component: member.id }, command(name));
    await eventually(() => expect(names).to.deep.equal(["one", "two", "three"]));
    end();
  });

  it("streams events by pattern", async () => {
    const got: string[] = [];
    const end = await messaging.events.subscribe("sensor.*.heat", (event) => got.push(event.topic));
    for (const name of ["heat", "cold"]) {
      const letter = draftLetter({ messageId: unique("m"), kind: "event", name }, Buffer.from("1"), Date.now());
      await messaging.events.publish(letter, { type: "sensor", id: "s1" });
    }
    await eventually(() => expect(got).to.deep.equal(["sensor.s1.heat"]));
    end();
  });

  it("signals a component", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    await messaging.signal([member.id], { kind: "config", revisionOf: () => "etag-1" });
    const [message] = await take(inbox);
    expect(message).to.include({ kind: "signal", name: "config" });
    expect(message?.body).to.deep.equal({ kind: "config", id: member.id, revision: "etag-1" });
  });

  it("gives renewals to who listens, and counts what is none", async () => {
    const renewed: string[] = [];
    const end = messaging.onRenewal(({ id }) => {
      renewed.push(id);
      return undefined;
    });
    const foreign = await foreignClient(vhost.url);
    foreign.channel.publish("muster.renewals", "", Buffer.from("{nonsense"));
    await messaging.publishRenewal({ id: "abc", incarnation: 1 });
    await eventually(() => expect(renewed).to.deep.equal(["abc"]));
    await foreign.close();
    await end();
  });

  it("tells who listens on its channel that its renewal is void, and writes to no queue that it names", async () => {
    const end = messaging.onRenewal(({ incarnation }) => (incarnation === 1 ? "superseded" : undefined));
    const { channel, consume, close } = await foreignClient(vhost.url);
    const told: unknown[] = [];
    await channel.consume("amq.rabbitmq.reply-to", (message) => told.push(JSON.parse(`${message?.content}`)), {
      noAck: true,
    });
    const { queue } = await channel.assertQueue("", { exclusive: true });
    await consume(queue, () => told.push("in a queue"));
    const renew = (incarnation: number, replyTo: string) =>
      channel.publish("muster.renewals", "", Buffer.from(JSON.stringify({ id: "abc", incarnation })), { replyTo });
    renew(1, queue);
    renew(2, "amq.rabbitmq.reply-to");
    renew(1, "amq.rabbitmq.reply-to");
    await eventually(() => expect(told).to.deep.equal([{ code: "superseded" }]));
    expect(await channel.checkQueue(queue)).to.include({ messageCount: 0 });
    await close();
    await end();
  });

  it("lets one contestant at a time have the role", async () => {
    const queue = `muster.leader.${unique("s")}`;
    const told: string[] = [];
    const enter = (name: string) =>
      messaging.contest(queue, { gained: () => told.push(`${name} gained`), lost: () => told.push(`${name} lost`) });
    const leaveFirst = enter("first");
    await eventually(() => expect(told).to.deep.equal(["first gained"]));
    const leaveSecond = enter("second");
    await leaveFirst();
    await eventually(() => expect(told).to.deep.equal(["first gained", "first lost", "second gained"]));
    await leaveSecond();
    expect(told.at(-1)).to.equal("second lost");
  });

  it("dead-letters what a removed component's queues hold, and deletes them", async () => {
    const member = members.add();
    await sendCommand({ component: member.id }, command("orphan"));
    members.delete(member.id);
    await messaging.remove(member);
    expect(await queuesOf(member)).to.deep.equal([]);
    await expectError(async () => sendCommand({ component: member.id }), "no-such-target");
  });

  it("keeps its connection when the queue that removed components of one type share is taken away", async () => {
    const shared = unique("t");
    const removed = Array.from({ length: 20 }, () => members.add({ type: shared }));
    await Promise.all(removed.map((member) => messaging.provision(member)));
    for (let n = 0; n < 20; n += 1) await sendCommand({ any: shared }, command("orphan"));
    for (const { id } of removed) members.delete(id);
    const states: string[] = [];
    const end = messaging.onStateChange((state) => states.push(state));
    const kept = messaging.deadLetters.count ?? 0;
    await Promise.all(removed.map((member) => messaging.remove(member)));
    end();
    expect(await queuesOf(removed[0] as Member)).to.deep.equal([]);
    expect(states, "losses of the connection").to.deep.equal([]);
    await eventually(() => expect(messaging.deadLetters.count).to.equal(kept + 20));
  });

  it("gives a component that registers while its queues are taken away new ones", async () => {
    const member = members.add();
    await messaging.provision(member);
    const stood = await queuesOf(member);
    members.delete(member.id);
    const removal = messaging.remove(member);
    members.add(member);
    messaging.want(member);
    await Promise.all([removal, messaging.provision(member)]);
    expect(await queuesOf(member)).to.have.members(stood);
  });

  it("provides queues again that somebody deleted", async () => {
    const member = members.add();
    await messaging.provision(member);
    await vhost.api("DELETE", `/queues/{vhost}/muster.${member.id}.commands`);
    await sendCommand({ component: member.id }, command("found"));
    const [message] = await take(await messaging.inboxes.of(member));
    expect(message?.name).to.equal("found");
  });

  for (const exchange of ["muster.unicast", "muster.any", "muster.requests"])
    it(`provides ${exchange} again that somebody deleted, with its bindings`, async () => {
      const member = members.add();
      await messaging.provision(member);
      await vhost.api("DELETE", `/exchanges/{vhost}/${exchange}`);
      if (exchange === "muster.requests") {
        const answered = answerer(member, "hello");
        const { plan, letter, timeoutMs, signal } = ask({ component: member.id });
        expect((await messaging.requester.ask(plan, letter, timeoutMs, signal)).from).to.equal(member.id);
        await answered;
        return;
      }
      await sendCommand(exchange === "muster.any" ? { any: member.type } : { component: member.id }, command("found"));
      const [message] = await take(await messaging.inboxes.of(member));
      expect(message?.name).to.equal("found");
    });

  it("provides the exchange of a type again that somebody deleted", async () => {
    const member = members.add();
    await messaging.provision(member);
    await sendCommand({ type: member.type }, command("before"));
    await vhost.api("DELETE", `/exchanges/{vhost}/muster.type.${member.type}`);
    await sendCommand({ type: member.type }, command("after"));
    const inbox = await messaging.inboxes.of(member);
    const names: string[] = [];
    while (names.length < 2) for (const { name } of await take(inbox)) names.push(name);
    expect(names).to.deep.equal(["before", "after"]);
  });

  it("provides a polled queue again that somebody deleted", async () => {
    const member = members.add();
    const inbox = await messaging.inboxes.of(member);
    const taken = take(inbox, 15_000);
    const path = `/queues/{vhost}/muster.${member.id}.broadcasts`;
    await eventually(
      async () => expect(((await vhost.api("GET", path)) as { consumers?: number }).consumers).to.equal(1),
      { timeoutMs: 10_000 },
    );
    await vhost.api("DELETE", path);
    await eventually(async () => expect(await vhost.api("GET", path)).to.include({ name: path.split("/").at(-1) }));
    await sendCommand({ type: member.type }, command("found"));
    expect((await taken)[0]?.name).to.equal("found");
  });

  it("provides the queue of the dead letters again that somebody deleted", async () => {
    const member = members.add();
    await messaging.provision(member);
    await vhost.api("DELETE", "/queues/{vhost}/muster.dead");
    const inbox = await messaging.inboxes.of(member);
    await sendCommand({ component: member.id }, command("doomed"));
    const [message] = await take(inbox);
    // The binding to the default exchange is there with the queue.
    await eventually(async () =>
      expect(await vhost.api("GET", "/queues/{vhost}/muster.dead/bindings")).to.have.length.above(1),
    );
    await inbox.nack(message?.delivery ?? "", { final: true });
    await eventually(async () => {
      const { deadLetters } = await messaging.deadLetters.list({ match: { to: member.id }, limit: 10 });
      expect(deadLetters).to.have.length(1);
    });
  });
});
