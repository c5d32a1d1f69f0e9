import { expect } from "chai";
import { Broker } from "../../coordinator/messaging/broker.ts";
import type { DeadLetter } from "../../coordinator/messaging/dead-letter-document.ts";
import { DeadLetters } from "../../coordinator/messaging/dead-letters.ts";
import type { Inbox } from "../../coordinator/messaging/inbox.ts";
import type { Member } from "../../coordinator/messaging/members.ts";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { useVhost } from "../support/broker.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import {
  command,
  createMessaging,
  type Foreign,
  foreignClient,
  silent,
  unique,
  useMessaging,
} from "./messaging-fixture.ts";

describe("dead letters", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, {
    retry: { attemptsMax: 1, firstMs: 10, maxMs: 10 },
    redriveClaimMs: 500,
    redriveManyMs: 60_000,
  });
  let messaging: Messaging;
  let foreign: Foreign;
  before(async () => {
    ({ messaging } = site);
    foreign = await foreignClient(vhost.url);
  });
  after(() => foreign.close());

  const poll = (inbox: Inbox, waitMs = 5_000) =>
    inbox.poll({ max: 10, waitMs, visibilityMs: 30_000, signal: new AbortController().signal });
  const of = async (to: string): Promise<DeadLetter> =>
    eventually(async () => {
      const { deadLetters } = await messaging.deadLetters.list({ match: { to }, limit: 10 });
      expect(deadLetters).to.have.length(1);
      return deadLetters[0] as DeadLetter;
    });
  const failOne = async (id: string, reason = "broken") => {
    const member = site.members.get(id) ?? site.members.add({ id });
    await messaging.sender.send(messaging.sender.plan({ component: id }, "command"), command("doomed", { n: 1 }));
    const inbox = await messaging.inboxes.of(member);
    const [message] = await poll(inbox);
    await inbox.nack(message?.delivery ?? "", { reason });
    return inbox;
  };

  interface Put {
    to: string;
    name?: string;
    from?: string;
    kind?: string;
    timestamp?: number;
  }
  /** Resolves when all are kept: they are taken in their order, and the last is discarded again. */
  const putDead = async (letters: Put[]) => {
    const last = { to: unique("c") };
    for (const { to, name = "x", from = "tester", kind = "command", timestamp } of [...letters, last] as Put[]) {
      const headers = { "muster-kind": kind, "muster-from": from, "muster-reason": "test", "muster-to": to };
      const dated = timestamp === undefined ? {} : { timestamp };
      const asking = kind === "request" ? { replyTo: from } : {};
      const options = { messageId: unique("m"), type: name, headers, ...asking, ...dated };
      foreign.channel.publish("muster.dead", to, Buffer.from("1"), options);
    }
    await messaging.deadLetters.discard((await of(last.to)).id);
  };

  it("have the handler's reason, and their body unchanged", async () => {
    const id = unique("c");
    await failOne(id, "no paper");
    const letter = await of(id);
    expect(letter).to.include({ state: "failed", reason: "no paper", name: "doomed", to: id, kind: "command" });
    expect((await messaging.deadLetters.get(letter.id)).content.toString()).to.equal('{"n":1}');
  });

  it("are sent again as a first attempt, and are gone then", async () => {
    const id = unique("c");
    const inbox = await failOne(id);
    const letter = await of(id);
    await messaging.deadLetters.redrive(letter.id);
    const [message] = await poll(inbox);
    expect(message).to.include({ name: "doomed", attempt: 1, redriven: 1, id: letter.messageId });
    expect(message?.body).to.deep.equal({ n: 1 });
    await expectError(() => messaging.deadLetters.get(letter.id), "not-found");
  });

  it("are sent again once, however many ask for it at the same time", async () => {
    const id = unique("c");
    const inbox = await failOne(id);
    const letter = await of(id);
    const asked = await Promise.allSettled([1, 2, 3, 4].map(() => messaging.deadLetters.redrive(letter.id)));
    expect(asked.map((one) => (one.status === "rejected" ? one.reason.code : "sent")).sort()).to.deep.equal([
      "not-found",
      "not-found",
      "not-found",
      "sent",
    ]);
    const [message] = await poll(inbox);
    await inbox.ack(message?.delivery ?? "");
    expect((await foreign.channel.checkQueue(`muster.${id}.commands`)).messageCount).to.equal(0);
    expect(await poll(inbox, 300)).to.deep.equal([]);
  });

  it("are counted by the one of two redrives of many that sends them", async () => {
    const ids = [unique("c"), unique("c"), unique("c")];
    const name = unique("n");
    for (const id of ids) {
      site.members.add({ id });
      const headers = { "muster-kind": "command", "muster-reason": "test", "muster-to": id };
      foreign.channel.publish("muster.dead", id, Buffer.from("1"), { messageId: unique("m"), type: name, headers });
      await of(id);
    }
    const counts = await Promise.all([1, 2].map(() => messaging.deadLetters.redriveMany({ name })));
    expect(counts.map(({ redriven }) => redriven).reduce((sum, count) => sum + count)).to.equal(3);
    expect(counts.map(({ refused }) => refused)).to.deep.equal([0, 0]);
  });

  it("are sent again though a coordinator died while it sent them", async () => {
    const id = unique("c");
    const inbox = await failOne(id);
    const letter = await of(id);
    const store = site.store.database(`muster-commands`);
    const doc = await store.get(`dead:${letter.id}`);
    await store.put({ ...doc, claim: "of one that died" } as never);
    await messaging.deadLetters.redrive(letter.id);
    expect((await poll(inbox))[0]?.body).to.deep.equal({ n: 1 });
    await expectError(() => messaging.deadLetters.get(letter.id), "not-found");
  });

  it("can be sent again after that failed", async () => {
    const id = unique("c");
    const inbox = await failOne(id);
    const letter = await of(id);
    const member = site.members.get(id);
    site.members.delete(id);
    await expectError(() => messaging.deadLetters.redrive(letter.id), "no-such-target");
    site.members.add(member);
    await messaging.deadLetters.redrive(letter.id);
    expect((await poll(inbox))[0]?.body).to.deep.equal({ n: 1 });
  });

  it("come back when they fail again", async () => {
    const id = unique("c");
    const inbox = await failOne(id);
    const first = await of(id);
    await messaging.deadLetters.redrive(first.id);
    const [message] = await poll(inbox);
    await inbox.nack(message?.delivery ?? "", { reason: "again" });
    expect((await of(id)).reason).to.equal("again");
  });

  it("are discarded", async () => {
    const id = unique("c");
    await failOne(id);
    const letter = await of(id);
    await messaging.deadLetters.discard(letter.id);
    await expectError(() => messaging.deadLetters.discard(letter.id), "not-found");
  });

  it("are redriven by what matches", async () => {
    const [a, b] = [unique("c"), unique("c")];
    for (const id of [a, b]) await failOne(id);
    await of(a);
    await of(b);
    expect(await messaging.deadLetters.redriveMany({ to: a })).to.deep.equal({
      redriven: 1,
      refused: 0,
      refusals: [],
      more: false,
    });
    expect((await messaging.deadLetters.list({ match: { to: b }, limit: 10 })).deadLetters).to.have.length(1);
  });

  it("are listed page by page", async () => {
    const name = unique("n");
    const id = unique("c");
    site.members.add({ id });
    for (let n = 0; n < 5; n += 1)
      foreign.channel.publish("muster.dead", id, Buffer.from(String(n)), {
        messageId: unique("m"),
        type: name,
        headers: { "muster-kind": "command", "muster-reason": "test", "muster-to": id },
      });
    await eventually(async () =>
      expect((await messaging.deadLetters.list({ match: { name }, limit: 10 })).deadLetters).to.have.length(5),
    );
    const first = await messaging.deadLetters.list({ match: { name }, limit: 3 });
    const { cursor = "" } = first;
    const second = await messaging.deadLetters.list({ match: { name }, limit: 3, cursor });
    expect(new Set([...first.deadLetters, ...second.deadLetters].map((letter) => letter.id)).size).to.equal(5);
  });

  it("are all listed, though each page is discarded before the next is asked for", async () => {
    const to = unique("c");
    await putDead(Array.from({ length: 7 }, () => ({ to })));
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await messaging.deadLetters.list({
        match: { to },
        limit: 2,
        ...(cursor === undefined ? {} : { cursor }),
      });
      for (const { id } of page.deadLetters) {
        seen.push(id);
        await messaging.deadLetters.discard(id);
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(seen).to.have.length(7);
  });

  it("are all sent again, and all discarded, however many pages they fill", async () => {
    const { id } = site.members.add();
    await putDead(Array.from({ length: 201 }, () => ({ to: id })));
    expect(await messaging.deadLetters.redriveMany({ to: id })).to.include({ redriven: 201, refused: 0, more: false });
    expect((await foreign.channel.checkQueue(`muster.${id}.commands`)).messageCount).to.equal(201);
    const to = unique("c");
    await putDead(Array.from({ length: 201 }, () => ({ to })));
    expect(await messaging.deadLetters.discardMany({ to })).to.deep.equal({ discarded: 201, more: false });
    expect((await messaging.deadLetters.list({ match: { to }, limit: 1 })).deadLetters).to.deep.equal([]);
  });

  it("are sent again from behind a thousand that cannot be, of which is said why", async () => {
    const { id } = site.members.add();
    const name = unique("n");
    const [gone, full] = [unique("c"), site.members.add().id];
    await messaging.provision(site.members.get(full) as Member);
    await vhost.api("PUT", "/policies/{vhost}/full", {
      pattern: `^muster\\.${full}\\.commands$`,
      "apply-to": "queues",
      priority: 100,
      definition: { "max-length": 0, overflow: "reject-publish" },
    });
    const fullAt = async () => {
      const sent = messaging.sender.send(messaging.sender.plan({ component: full }, "command"), command("probe"));
      await expectError(() => sent, "too-many");
    };
    await eventually(fullAt, { timeoutMs: 15_000 });
    await putDead([
      ...Array.from({ length: 1_001 }, () => ({ to: id, name, kind: "request" })),
      ...Array.from({ length: 3 }, () => ({ to: gone, name })),
      ...Array.from({ length: 4 }, () => ({ to: full, name })),
      ...Array.from({ length: 5 }, () => ({ to: id, name })),
    ]);
    const answer = await messaging.deadLetters.redriveMany({ name });
    expect(answer).to.include({ redriven: 5, refused: 1_008, more: false });
    expect(answer.refusals.map(({ code, count }) => [code, count])).to.deep.equal([
      ["refused", 1_001],
      ["no-such-target", 3],
      ["too-many", 4],
    ]);
    await messaging.deadLetters.discardMany({ name });
    await messaging.deadLetters.discardMany({ name });
  });

  it("are gone over by the thousand, from the cursor on, without what came meanwhile", async () => {
    const to = unique("c");
    // Of one second all: what comes meanwhile sorts behind the cursor.
    const timestamp = Math.floor(Date.now() / 1000);
    await putDead(Array.from({ length: 1_002 }, () => ({ to, timestamp })));
    const { cursor, ...first } = await messaging.deadLetters.discardMany({ to });
    expect(first).to.deep.equal({ discarded: 1_000, more: true });
    await putDead([{ to, timestamp, from: "later" }]);
    expect(await messaging.deadLetters.discardMany({ to }, cursor)).to.deep.equal({ discarded: 2, more: false });
    expect(await of(to)).to.include({ from: "later" });
  }).timeout(60_000);

  it("are gone over for so long, and from the cursor on by the next call", async () => {
    const { id } = site.members.add();
    await putDead(Array.from({ length: 3 }, () => ({ to: id })));
    const { sender, tracking } = messaging;
    const broker = new Broker({ url: vhost.url, site: "here", logger: silent });
    const ready = async () => undefined;
    const wallClock = () => new Date();
    const { store } = site;
    const options = { store, broker, sender, tracking, logger: silent, wallClock, max: 1, ready, manyMs: 0 };
    const impatient = new DeadLetters(options);
    const redriven: number[] = [];
    for (let cursor: string | undefined, more = true; more; ) {
      const answer = await impatient.redriveMany({ to: id }, cursor);
      redriven.push(answer.redriven);
      ({ cursor, more } = answer);
    }
    expect(redriven.filter((count) => count > 0)).to.deep.equal([1, 1, 1]);
    // Also where there is nothing to be sent, in letters that have to be read all the same.
    await putDead(Array.from({ length: 2 }, () => ({ to: id })));
    const none = await impatient.redriveMany({ to: "nobody" });
    expect(none).to.deep.include({ redriven: 0, refused: 0, more: true });
    expect(none.cursor).to.be.a("string");
  });

  for (const cursor of ["", "x", "zz.0", `${"9".repeat(12)}.0-${"0".repeat(20)}`])
    it(`are not sent again behind a cursor that is none: "${cursor}"`, async () => {
      await expectError(() => messaging.deadLetters.redriveMany(undefined, cursor), "invalid-request");
      await expectError(() => messaging.deadLetters.discardMany(undefined, cursor), "invalid-request");
    });

  it("are listed and sent again in their order, those of one second too", async () => {
    const { id } = site.members.add();
    const names = Array.from({ length: 20 }, (_, at) => `n${at}`);
    const timestamp = Math.floor(Date.now() / 1000);
    for (const type of names)
      foreign.channel.publish("muster.dead", id, Buffer.from("1"), {
        messageId: unique("m"),
        type,
        timestamp,
        headers: { "muster-kind": "command", "muster-reason": "test", "muster-to": id },
      });
    await eventually(async () => {
      const { deadLetters } = await messaging.deadLetters.list({ match: { to: id }, limit: 50 });
      expect(deadLetters.map(({ name }) => name)).to.deep.equal(names);
    });
    await messaging.deadLetters.redriveMany({ to: id });
    const inbox = await messaging.inboxes.of(site.members.get(id) as Member);
    const got: string[] = [];
    while (got.length < names.length)
      for (const { name, delivery } of await poll(inbox)) {
        got.push(name);
        await inbox.ack(delivery);
      }
    expect(got).to.deep.equal(names);
  });

  const malformed: [string, RegExp, object, string?][] = [
    ["has no messageId", /messageId/, { type: "x", headers: { "muster-kind": "command" } }],
    ["has no kind", /muster-kind/, { messageId: "m-1", type: "x" }],
    ["has an unknown kind", /muster-kind/, { messageId: "m-2", type: "x", headers: { "muster-kind": "wish" } }],
    ["has no name", /must name the command/, { messageId: "m-3", headers: { "muster-kind": "command" } }],
    [
      "is not JSON though it says so",
      /not JSON/,
      { messageId: "m-4", type: "x", headers: { "muster-kind": "command" } },
      "{",
    ],
    [
      "wants its reply in amq.*",
      /replyTo/,
      { messageId: "m-5", type: "x", replyTo: "amq.gen-Xa2a5pkeo", headers: { "muster-kind": "command" } },
    ],
    [
      "wants its reply sent to another",
      /replyTo/,
      { messageId: "m-6", type: "x", replyTo: "victim", headers: { "muster-kind": "command", "muster-from": "me" } },
    ],
    [
      "nests deeper than the stack",
      /deeper than 256 levels/,
      { messageId: "m-8", type: "x", headers: { "muster-kind": "command" } },
      "[".repeat(100_000) + "]".repeat(100_000),
    ],
    [
      "was sent in a year that no Date holds",
      /timestamp must be/,
      { messageId: "m-9", type: "x", timestamp: 9e12, headers: { "muster-kind": "command" } },
    ],
    [
      "has a deadline that no Date holds",
      /muster-deadline must be/,
      { messageId: "m-10", type: "x", headers: { "muster-kind": "command", "muster-deadline": 9e15 } },
    ],
    [
      "has numbers for names",
      /must name/,
      { messageId: "m-7", headers: { "muster-kind": "command", "muster-from": 7 } },
    ],
  ];
  for (const [what, reason, options, body = "{}"] of malformed) {
    it(`say what was wrong with a message that ${what}`, async () => {
      const member = site.members.add();
      const inbox = await messaging.inboxes.of(member);
      foreign.channel.publish("muster.unicast", member.id, Buffer.from(body), options);
      foreign.channel.publish("muster.unicast", member.id, Buffer.from("1"), {
        messageId: unique("m"),
        type: "good",
        headers: { "muster-kind": "command" },
      });
      const [message] = await poll(inbox);
      expect(message?.name).to.equal("good");
      const letter = await of(member.id);
      expect(letter).to.include({ state: "dead-lettered" });
      expect(letter.reason).to.match(reason);
      await expectError(() => messaging.deadLetters.redrive(letter.id), "refused");
    });
  }

  it("say of an oversized body how large it may be", async () => {
    const member = site.members.add();
    const inbox = await messaging.inboxes.of(member);
    foreign.channel.publish("muster.unicast", member.id, Buffer.alloc(1_048_577), {
      messageId: unique("m"),
      type: "big",
      contentType: "application/octet-stream",
      headers: { "muster-kind": "command" },
    });
    expect(await poll(inbox, 300)).to.deep.equal([]);
    expect((await of(member.id)).reason).to.match(/1048577 bytes, the limit is 1048576/);
  });

  it("are kept with the first MiB of a body that is larger, and keep no others from being taken", async () => {
    const name = unique("n");
    const put = (size: number) =>
      foreign.channel.publish("muster.dead", "", Buffer.alloc(size, 1), {
        messageId: unique("m"),
        type: name,
        contentType: "application/octet-stream",
        headers: { "muster-kind": "command", "muster-reason": "test", "muster-to": name },
      });
    put(9 * 2 ** 20);
    for (let n = 0; n < 8; n += 1) put(2 ** 20);
    const { deadLetters } = await eventually(async () => {
      const page = await messaging.deadLetters.list({ match: { to: name }, limit: 20 });
      expect(page.deadLetters).to.have.length(9);
      return page;
    });
    const cut = deadLetters.find(({ sizeBytes }) => sizeBytes === 9 * 2 ** 20);
    expect(cut?.reason).to.equal("test; of its 9437184 bytes the first 1048576 are kept");
    expect((await messaging.deadLetters.get(cut?.id ?? "")).content).to.have.length(2 ** 20);
  });

  it("that the store refuses are kept without their message, and keep no others from being taken", async () => {
    const store = site.store.database("muster-commands");
    const rule = 'function (doc) { if (doc.name === "hostile") throw { forbidden: "not this one" }; }';
    await store.put({ _id: "_design/refusing", validate_doc_update: rule } as never);
    const to = unique("c");
    const letters: [string, string][] = [
      ["hostile", "x"],
      ["harmless", `${"x".repeat(999)}😀`],
    ];
    for (const [type, reason] of letters)
      foreign.channel.publish("muster.dead", to, Buffer.from("1"), {
        messageId: unique("m"),
        type,
        headers: { "muster-kind": "command", "muster-reason": reason, "muster-to": to },
      });
    await of(to);
    const { deadLetters } = await messaging.deadLetters.list({ limit: 1_000 });
    const [refused] = deadLetters.filter(({ reason }) => /store refuses.*not this one/.test(reason));
    await expectError(() => messaging.deadLetters.redrive(refused?.id ?? ""), "refused");
  });

  for (const [how, nack] of [
    ["at once", { final: true }],
    ["when they are to be sent again", { delayMs: 0 }],
  ] as const)
    it(`are kept, ${how}, without foreign headers that leave no room for the reason`, async () => {
      const roomy = createMessaging(vhost, site.members, site.store, { retry: { attemptsMax: 3 } });
      await roomy.start();
      const member = site.members.add();
      const inbox = await roomy.inboxes.of(member);
      foreign.channel.publish("muster.unicast", member.id, Buffer.from("1"), {
        messageId: unique("m"),
        type: "long",
        headers: { "muster-kind": "command", "muster-from": "me", foreign: "x".repeat(65_460) },
      });
      const [message] = await poll(inbox);
      await inbox.nack(message?.delivery ?? "", { reason: "no paper", ...nack });
      expect(await of(member.id)).to.include({ state: "failed", reason: "no paper", name: "long", from: "me" });
      await roomy.close();
    });

  it("are kept again when somebody deleted the binding of their queue", async () => {
    const to = unique("c");
    const isBound = async () => {
      const found = await vhost.api("GET", "/bindings/{vhost}/e/muster.dead/q/muster.dead");
      expect(found).to.have.length(1);
    };
    await isBound();
    await vhost.api("DELETE", "/bindings/{vhost}/e/muster.dead/q/muster.dead/~");
    await eventually(isBound, { timeoutMs: 25_000, everyMs: 200 });
    const headers = { "muster-kind": "command", "muster-reason": "test", "muster-to": to };
    foreign.channel.publish("muster.dead", to, Buffer.from("1"), { messageId: unique("m"), type: "x", headers });
    await of(to);
  });

  it("are commands that came too late", async () => {
    const member = site.members.add();
    const inbox = await messaging.inboxes.of(member);
    foreign.channel.publish("muster.unicast", member.id, Buffer.from("1"), {
      messageId: unique("m"),
      type: "late",
      headers: { "muster-kind": "command", "muster-deadline": Date.now() - 1 },
    });
    expect(await poll(inbox, 200)).to.deep.equal([]);
    expect(await of(member.id)).to.include({ state: "expired", name: "late" });
  });

  it("are commands whose consumers die over and over", async () => {
    const member = site.members.add();
    await messaging.provision(member);
    foreign.channel.publish("muster.unicast", member.id, Buffer.from("1"), {
      messageId: unique("m"),
      type: "poison",
      headers: { "muster-kind": "command" },
    });
    for (let deaths = 0; deaths < 21; deaths += 1) {
      const dying = await foreignClient(vhost.url);
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`delivered ${deaths} times only`)), 5_000);
        dying
          .consume(`muster.${member.id}.commands`, () => {
            clearTimeout(timer);
            resolve();
          })
          .catch(reject);
      });
      await dying.close();
    }
    const letter = await of(member.id);
    expect(letter.reason).to.match(/over and over/);
  });
});

describe("a dead letter that comes again", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const site = useMessaging(vhost);

  it("is kept once: published twice, or given to the coordinator again", async () => {
    const foreign = await foreignClient(vhost.url);
    const headers = { "muster-kind": "command", "muster-reason": "test", "muster-to": "someone" };
    const publish = () => {
      const options = { messageId: "m-1", type: "x", timestamp: 1_700_000_000, headers };
      foreign.channel.publish("muster.dead", "someone", Buffer.from("1"), options);
    };
    for (let time = 0; time < 2; time += 1) publish();
    await eventually(async () => {
      const queue = await vhost.api("GET", "/queues/{vhost}/muster.dead");
      expect(queue).to.deep.include({ messages: 0 });
    });
    await eventually(() => expect(site.messaging.deadLetters.count).to.equal(1));
    await site.messaging.close();
    await new Promise<void>((resolve) => {
      void foreign.consume("muster.dead", (message) => {
        foreign.channel.nack(message, false, true);
        resolve();
      });
      publish();
    });
    await foreign.close();
    const next = createMessaging(vhost, site.members, site.store);
    await next.start();
    await eventually(
      async () => {
        expect(next.deadLetters.count).to.equal(1);
        expect(await vhost.api("GET", "/queues/{vhost}/muster.dead")).to.include({ messages: 0 });
      },
      { timeoutMs: 15_000 },
    );
    expect((await next.deadLetters.list({ limit: 10 })).deadLetters).to.have.length(1);
    await next.close();
  });
});
