import { createServer as createHttpServer, type Server as HttpServer, type ServerResponse } from "node:http";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { expect } from "chai";
import { pino } from "pino";
import type { Messaging } from "../../coordinator/messaging/messaging.ts";
import { useVhost } from "../support/broker.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { eventually } from "../support/eventually.ts";
import { type FaultProxy, startProxy } from "../support/proxy.ts";
import { command, createMessaging, type Foreign, foreignClient, unique, useMessaging } from "./messaging-fixture.ts";

/** Answers a connection's first request and ends it. */
const says =
  (head: string, body = "") =>
  (socket: Socket) =>
    void socket.end(`HTTP/1.1 200 OK\r\n${head}\r\n\r\n${body}`);

describe("a webhook that does not answer as it should", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, { webhookTimeoutMs: 1_500, retry: { attemptsMax: 1 } });
  let endpoint: Server;
  const sockets = new Set<Socket>();
  let misbehave: (socket: Socket) => void = () => undefined;

  before((done) => {
    endpoint = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => undefined).on("close", () => sockets.delete(socket));
      socket.once("data", () => misbehave(socket));
    });
    endpoint.listen(0, "127.0.0.1", done);
  });
  after((done) => {
    for (const socket of sockets) socket.destroy();
    endpoint.close(done);
  });

  const faults: [what: string, reason: RegExp, misbehave: (socket: Socket) => void][] = [
    // Waited for across a collection, which is when a time limit may get lost.
    ["stays silent", /no answer within 1500 ms/, collectGarbage],
    ["says what is no HTTP", /Parse Error/, (socket) => socket.end("what?\r\n\r\n")],
    [
      "zips what cannot be unzipped",
      /gzip data is broken/,
      says("content-encoding: gzip\r\ncontent-length: 4", "abcd"),
    ],
    ["zips in another way than asked", /must be gzip/, says("content-encoding: br\r\ncontent-length: 4", "abcd")],
    ["has a header that is too long", /Header overflow/, says(`x: ${"y".repeat(20_000)}\r\ncontent-length: 0`)],
    ["says two lengths", /Parse Error/, says("content-length: 4\r\ncontent-length: 5", "abcd")],
    ["ends within its head", /socket hang up/, (socket) => socket.end("HTTP/1.1 20")],
    ["ends within its body", /before the whole body/, says("content-length: 4", "ab")],
    [
      "changes to another protocol",
      /answered 101/,
      (socket) => socket.end("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    ],
    [
      "never ends its answer",
      /larger than 1048576 bytes/,
      (socket) => {
        socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        const chunk = `10000\r\n${"x".repeat(0x10000)}\r\n`;
        const more = () => {
          while (!socket.destroyed && socket.write(chunk));
        };
        socket.on("drain", more);
        more();
      },
    ],
  ];
  for (const [what, reason, misbehaviour] of faults) {
    it(`fails the message, and takes the next: it ${what}`, async () => {
      misbehave = misbehaviour;
      const { port } = endpoint.address() as { port: number };
      const webhook = { url: `http://127.0.0.1:${port}/`, secret: "0123456789abcdef" };
      const { id } = site.members.add({ webhook });
      const { sender, deadLetters } = site.messaging;
      for (const name of ["first", "second"])
        await sender.send(sender.plan({ component: id }, "command"), command(name));
      await eventually(
        async () => {
          const { deadLetters: items } = await deadLetters.list({ match: { to: id }, limit: 10 });
          expect(items.map((letter) => letter.name)).to.have.members(["first", "second"]);
          for (const letter of items) expect(letter.reason).to.match(reason);
        },
        { timeoutMs: 20_000 },
      );
    });
  }
});

describe("a webhook that fails on one message", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  const site = useMessaging(vhost, { retry: { attemptsMax: 1 } });
  /** Names of the messages, in the order in which their calls came and were answered. */
  const called: string[] = [];
  const answered: string[] = [];
  let answer: (name: string, socket: Socket) => void | Promise<void>;
  let endpoint: HttpServer;

  before(async () => {
    endpoint = createHttpServer(async (request, response) => {
      let text = "";
      for await (const chunk of request.setEncoding("utf8")) text += chunk;
      const { name } = JSON.parse(text);
      called.push(name);
      await answer(name, request.socket);
      if (request.socket.destroyed) return;
      answered.push(name);
      response.end();
    });
    await new Promise<void>((resolve) => endpoint.listen(0, "127.0.0.1", resolve));
  });
  after(() => {
    endpoint.close();
    endpoint.closeAllConnections();
  });
  beforeEach(() => {
    called.length = 0;
    answered.length = 0;
  });

  const hooked = () => {
    const { port } = endpoint.address() as AddressInfo;
    return site.members.add({ webhook: { url: `http://127.0.0.1:${port}/`, secret: "0123456789abcdef" } }).id;
  };
  const send = async (id: string, from: string, name: string) => {
    const { sender } = site.messaging;
    await sender.send(sender.plan({ component: id }, "command"), command(name, null, { from }));
  };
  const deadOf = async (id: string) => {
    const { deadLetters } = await site.messaging.deadLetters.list({ match: { to: id }, limit: 10 });
    return deadLetters.map(({ name, reason }) => `${name}: ${reason}`);
  };

  it("goes on with those of other senders, also with what comes later, and keeps the order of its own", async () => {
    let answerSlow = () => {};
    answer = (name) => (name === "slow" ? new Promise((resolve) => (answerSlow = resolve)) : undefined);
    const id = hooked();
    await send(id, "one", "slow");
    await send(id, "one", "behind");
    await send(id, "other", "first");
    await eventually(() => expect(answered).to.deep.equal(["first"]));
    await send(id, "other", "later");
    await eventually(() => expect(answered).to.deep.equal(["first", "later"]));
    expect(called).not.to.include("behind");
    answerSlow();
    await eventually(() => expect(answered).to.deep.equal(["first", "later", "slow", "behind"]));
  });

  it("fails the one that finds it away again and again while others are handled", async () => {
    answer = (name, socket) => void (name === "poison" && socket.destroy());
    const id = hooked();
    await send(id, "one", "poison");
    await send(id, "one", "behind");
    const calls = () => called.filter((name) => name === "poison").length;
    for (let number = 0; number < 6; number += 1) {
      await eventually(() => expect(calls()).to.be.above(number - 1), { timeoutMs: 20_000 });
      await send(id, "other", `good-${number}`);
      await eventually(() => expect(answered).to.include(`good-${number}`));
    }
    await eventually(() => expect(answered).to.include("behind"), { timeoutMs: 30_000 });
    const [dead] = await eventually(async () => {
      const letters = await deadOf(id);
      expect(letters).to.have.length(1);
      return letters;
    });
    expect(dead).to.match(/^poison: .*5 times while the webhook handled other messages/);
  });

  it("warns of no leak while many are called at once", async () => {
    const warnings: Error[] = [];
    const warn = (warning: Error) => warnings.push(warning);
    process.on("warning", warn);
    const release: (() => void)[] = [];
    answer = () => new Promise((resolve) => release.push(resolve));
    const id = hooked();
    for (let number = 0; number < 14; number += 1) await send(id, `sender-${number}`, `c${number}`);
    await eventually(() => expect(release).to.have.length(14));
    for (const end of release) end();
    await eventually(() => expect(answered).to.have.length(14));
    process.off("warning", warn);
    expect(warnings.map(({ name }) => name)).to.deep.equal([]);
  });
});

describe("a webhook that is called no more, or at another place", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  let leads = true;
  const site = useMessaging(vhost, { leads: () => leads });
  const secret = "0123456789abcdef";
  /** What was posted: `path name attempt`. */
  const posted: string[] = [];
  let answer: { status: number; afterMs?: number };
  let endpoint: HttpServer;
  let foreign: Foreign;

  before(async () => {
    endpoint = createHttpServer(async (request, response) => {
      let body = "";
      for await (const chunk of request.setEncoding("utf8")) body += chunk;
      const { name, attempt } = JSON.parse(body);
      posted.push(`${request.url} ${name} ${attempt}`);
      const { status, afterMs = 0 } = answer;
      setTimeout(() => response.writeHead(status).end(), afterMs).unref();
    });
    await new Promise<void>((resolve) => endpoint.listen(0, "127.0.0.1", resolve));
    foreign = await foreignClient(vhost.url);
  });
  after(async () => {
    await foreign.close();
    endpoint.close();
    endpoint.closeAllConnections();
  });
  beforeEach(() => {
    posted.length = 0;
  });

  const hook = (path: string) => ({
    url: `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}${path}`,
    secret,
  });
  const sendMany = async (id: string, count: number) => {
    const { sender } = site.messaging;
    for (let number = 0; number < count; number += 1)
      await sender.send(sender.plan({ component: id }, "command"), command(`c${number}`, null, { from: "tester" }));
  };
  const inOrder = (path: string, count: number) => Array.from({ length: count }, (_, at) => `${path} c${at} 1`);
  const waiting = async (id: string) => (await foreign.channel.checkQueue(`muster.${id}.commands`)).messageCount;

  it("gives what was not handled back to its place, at no attempt, when its lease expires", async () => {
    answer = { status: 503 };
    const member = site.members.add({ webhook: hook("/away") });
    await sendMany(member.id, 12);
    await eventually(() => expect(posted).to.have.length.above(1));
    site.members.add({ ...member, state: "expired" });
    await eventually(async () => expect(await waiting(member.id)).to.equal(12), { timeoutMs: 10_000 });
    answer = { status: 204 };
    site.members.add({ ...member, webhook: hook("/back") });
    await eventually(() => expect(posted.filter((post) => post.startsWith("/back"))).to.have.length(12));
    expect(posted.filter((post) => post.startsWith("/back"))).to.deep.equal(inOrder("/back", 12));
  });

  it("keeps order and attempts over many registrations", async () => {
    answer = { status: 503 };
    const member = site.members.add({ webhook: hook("/first") });
    await sendMany(member.id, 20);
    for (const path of ["/2", "/3", "/4", "/5", "/6"]) {
      site.members.add({ ...member, webhook: hook(path) });
      await eventually(() => expect(posted).to.include(`${path} c0 1`));
    }
    site.members.add({ ...member, webhook: hook("/last") });
    await eventually(() => expect(posted).to.include("/last c0 1"));
    answer = { status: 204 };
    await eventually(() => expect(posted).to.include("/last c19 1"));
    expect([...new Set(posted)].filter((post) => post.startsWith("/last"))).to.deep.equal(inOrder("/last", 20));
  });

  it("is not called with what became late behind another of its sender", async () => {
    answer = { status: 204, afterMs: 700 };
    const member = site.members.add({ webhook: hook("/slow") });
    const { sender, deadLetters } = site.messaging;
    const plan = sender.plan({ component: member.id }, "command");
    await sender.send(plan, command("first", null, { from: "tester" }));
    await eventually(() => expect(posted).to.have.length(1));
    await sender.send(plan, command("late", null, { from: "tester", deadlineAtMs: Date.now() + 400 }));
    await sender.send(plan, command("last", null, { from: "tester" }));
    await eventually(() => expect(posted).to.deep.equal(["/slow first 1", "/slow last 1"]));
    await eventually(async () => {
      const { deadLetters: items } = await deadLetters.list({ match: { to: member.id }, limit: 10 });
      expect(items.map(({ name, state }) => [name, state])).to.deep.equal([["late", "expired"]]);
    });
  });

  it("lets a call end that is under way, and only then is called at another place", async () => {
    answer = { status: 204, afterMs: 2_500 };
    const member = site.members.add({ webhook: hook("/old") });
    await sendMany(member.id, 2);
    await eventually(() => expect(posted).to.have.length(1));
    answer = { status: 204 };
    site.members.add({ ...member, webhook: hook("/new") });
    await eventually(() => expect(posted).to.have.length(2), { timeoutMs: 10_000 });
    expect(posted).to.deep.equal(["/old c0 1", "/new c1 1"]);
    await eventually(async () => expect(await waiting(member.id)).to.equal(0));
  });

  const endings: [what: string, afterMs: number, left: string[]][] = [
    ["waits for a call that is under way", 1_000, ["c1 1"]],
    ["waits no longer than a while", 60_000, ["c0 1", "c1 1"]],
  ];
  for (const [what, afterMs, left] of endings)
    it(`gives back what was not handled when its coordinator ends, which ${what}`, async () => {
      answer = { status: 204, afterMs };
      leads = false;
      const member = site.members.add({ webhook: hook("/ending") });
      await sendMany(member.id, 2);
      const ending = createMessaging(vhost, site.members, site.store);
      await ending.start();
      await eventually(() => expect(posted).to.have.length(1), { timeoutMs: 10_000 });
      await ending.close();
      const inbox = await site.messaging.inboxes.of(member);
      const poll = { max: 10, waitMs: 1_000, visibilityMs: 30_000, signal: new AbortController().signal };
      const messages = await inbox.poll(poll);
      expect(messages.map(({ name, attempt }) => `${name} ${attempt}`)).to.deep.equal(left);
    });
});

describe("the answer of a webhook that the broker does not take", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  // Another one: what the test itself needs passes by the fault.
  const site = useMessaging(vhost, { leads: () => false });
  let proxy: FaultProxy;
  let calling: Messaging;
  const log: string[] = [];
  let called: string[];
  let answer: (response: ServerResponse) => void;
  let endpoint: HttpServer;

  before(async () => {
    endpoint = createHttpServer(async (request, response) => {
      let text = "";
      for await (const chunk of request.setEncoding("utf8")) text += chunk;
      const { name, attempt } = JSON.parse(text);
      called.push(`${name} ${attempt}`);
      answer(response);
    });
    await new Promise<void>((resolve) => endpoint.listen(0, "127.0.0.1", resolve));
    const url = new URL(vhost.url);
    proxy = await startProxy({ port: Number(url.port) });
    url.port = String(proxy.port);
    const logger = pino({ level: "warn" }, { write: (line) => void log.push(line) });
    calling = createMessaging({ url: url.href, managementUrl: vhost.managementUrl }, site.members, site.store, {
      logger,
      retry: { attemptsMax: 1 },
    });
    await calling.start();
    await calling.ready();
  });
  after(async () => {
    await calling.close();
    await proxy.close();
    endpoint.close();
    endpoint.closeAllConnections();
  });
  beforeEach(() => {
    log.length = 0;
    called = [];
  });

  for (const [status, state] of [
    [204, "done"],
    [500, "failed"],
  ] as const)
    it(`is told when it does, without another call: ${status}`, async () => {
      answer = (response) => {
        if (called.length === 1) proxy.cut();
        response.writeHead(status).end();
      };
      const { port } = endpoint.address() as AddressInfo;
      const { id } = site.members.add({ webhook: { url: `http://127.0.0.1:${port}/`, secret: "0123456789abcdef" } });
      const draft = { id: unique("command-number"), to: { component: id }, name: "once", fingerprint: "f" };
      const content = Buffer.from("1");
      await site.messaging.commands.send({ ...draft, content, contentType: "application/json" });
      await eventually(() => expect(log.join("")).to.contain("a webhook"), { timeoutMs: 20_000 });
      proxy.heal();
      await eventually(
        async () => expect((await site.messaging.tracking.read(draft.id)).targets[id]?.state).to.equal(state),
        { timeoutMs: 20_000 },
      );
      expect(called).to.deep.equal(["once 1"]);
    });
});
