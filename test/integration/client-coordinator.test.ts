import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { expect } from "chai";
import {
  type Component,
  type ConnectOptions,
  connect,
  type Event,
  type Message,
  Payload,
  PermanentFailure,
} from "../../clients/typescript/src/index.ts";
import { useVhost } from "../support/broker.ts";
import { type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";

describe("the client with a coordinator", function () {
  this.timeout(30_000);
  const vhost = useVhost();
  const open: Component[] = [];
  let dataDir: string;
  let coordinator: RunningCoordinator;

  before(async function () {
    this.timeout(60_000);
    dataDir = await mkdtemp(joinPath(tmpdir(), "muster-client-"));
    coordinator = await start();
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((component) => component.close()));
  });
  after(async () => {
    await coordinator?.close();
    await rm(dataDir, { recursive: true });
  });

  const start = (...args: string[]) =>
    startCoordinator({ amqpUrl: vhost.url, dataDir, args: ["--amqp-management-url", vhost.managementUrl, ...args] });

  const unique = (name: string) => `${name}-${randomUUID().slice(0, 8)}`;

  async function join(options: Partial<ConnectOptions> = {}): Promise<Component> {
    const component = await connect({
      url: coordinator.url,
      id: unique("c"),
      type: "worker",
      cacheDirectory: false,
      ...options,
    });
    open.push(component);
    return component;
  }

  for (const [sender, target] of [
    ["amqp", "amqp"],
    ["amqp", "http"],
    ["http", "amqp"],
    ["http", "http"],
  ] as const) {
    describe(`from ${sender} to ${target}`, () => {
      it("carries requests, commands, broadcasts and events alike", async () => {
        const type = unique("t");
        const [from, to] = await Promise.all([join({ transport: sender }), join({ transport: target, type })]);
        const heard: unknown[] = [];
        const events: Event[] = [];
        to.handle("echo", ({ body }) => body);
        to.handle("note", ({ body, kind, from: by }) => void heard.push([kind, by, body]));
        from.subscribe(`${type}.#`, (event) => void events.push(event));

        expect(await from.request({ component: to.id }, "echo", { a: [1, null, "ü"] })).to.deep.equal({
          a: [1, null, "ü"],
        });
        const bytes = Buffer.from([0, 255, 10]);
        const echoed = await from.request({ any: type }, "echo", new Payload("application/octet-stream", bytes));
        // The handler got bytes and returned them: as JSON, since a Buffer is no Payload.
        expect(echoed).to.deep.equal(JSON.parse(JSON.stringify(bytes)));
        await from.command({ component: to.id }, "note", 1);
        await from.command({ any: type }, "note", 2);
        await from.broadcast({ type }, "note", 3);
        await eventually(() =>
          expect(heard).to.have.deep.members([
            ["command", from.id, 1],
            ["command", from.id, 2],
            ["broadcast", from.id, 3],
          ]),
        );
        await eventually(async () => {
          await to.event("tick", { n: 1 });
          expect(events[0]).to.include({ name: "tick", from: to.id });
        });
      });

      it("tells the sender of failures in one way", async () => {
        const [from, to] = await Promise.all([join({ transport: sender }), join({ transport: target })]);
        to.handle("fail", () => {
          throw new Error("no ink");
        });
        to.handle("hang", (_message, { signal }) => once(signal, "abort"), { timeoutMs: 1_000 });
        const told = async (asked: Promise<unknown>) => {
          const error = await asked.catch((thrown: unknown) => thrown);
          return error as { code: string; message: string };
        };
        const failed = await told(from.request({ component: to.id }, "fail"));
        expect(failed.code).to.equal("handler-failed");
        expect(failed.message).to.contain("no ink");
        expect((await told(from.request({ component: to.id }, "hang", 1, { timeoutMs: 300 }))).code).to.equal(
          "deadline-exceeded",
        );
        expect((await told(from.request({ component: "nobody" }, "x"))).code).to.equal("no-such-target");
        expect((await told(from.command({ component: "nobody" }, "x"))).code).to.equal("no-such-target");
        expect((await told(from.broadcast({ type: "no-such-type" }, "x"))).code).to.equal("no-such-target");
      });

      it("tracks a command to its end, good or bad", async () => {
        const [from, to] = await Promise.all([join({ transport: sender }), join({ transport: target })]);
        to.handle("work", () => undefined);
        to.handle(
          "fail",
          () => {
            throw new Error("no ink");
          },
          { retries: 0 },
        );
        const done = await from.command({ component: to.id }, "work", 1, { tracked: true });
        expect((await done.finished()).targets[to.id]?.state).to.equal("done");
        const failed = await from.command({ component: to.id }, "fail", 1, { tracked: true });
        const state = (await failed.finished()).targets[to.id];
        expect(state?.state).to.be.oneOf(["failed", "dead-lettered"]);
        expect(state?.reason).to.contain("no ink");
      });

      it("keeps the order of a sender", async () => {
        const [from, to] = await Promise.all([join({ transport: sender }), join({ transport: target })]);
        const seen: unknown[] = [];
        to.handle("set", ({ body }) => void seen.push(body));
        const sent = Array.from({ length: 50 }, (_, n) => n);
        await Promise.all(sent.map((n) => from.command({ component: to.id }, "set", n)));
        await eventually(() => expect(seen).to.have.lengthOf(50));
        expect(seen).to.deep.equal(sent);
      });
    });
  }

  for (const transport of ["amqp", "http"] as const) {
    it(`handles a dead letter that is sent again to the same process, by ${transport}`, async () => {
      const [sender, target] = await Promise.all([join(), join({ transport })]);
      let isReady = false;
      const attempts: Record<string, number[]> = { failing: [], retried: [] };
      const runOf =
        (error: Error) =>
        ({ name, attempt }: Message) => {
          attempts[name]?.push(attempt);
          if (!isReady) throw error;
        };
      target.handle("failing", runOf(new PermanentFailure("not yet")));
      // Its next attempt would begin after its deadline.
      target.handle("retried", runOf(new Error("not yet")), { retryFirstMs: 2_000 });
      const to = { component: target.id };
      const commands = await Promise.all([
        sender.command(to, "failing", 1, { tracked: true }),
        sender.command(to, "retried", 2, { tracked: true, deadlineMs: 1_000 }),
      ]);
      const states = () =>
        Promise.all(commands.map(async (command) => (await command.state()).targets[target.id]?.state));
      await eventually(async () => {
        for (const state of await states()) expect(state).to.be.oneOf(["failed", "expired"]);
      });
      isReady = true;
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify({ match: { to: target.id } });
      await eventually(async () => {
        await fetch(`${coordinator.url}/v1/dead-letters/redrive`, { method: "POST", headers, body });
        expect(await states()).to.deep.equal(["done", "done"]);
      });
      expect(attempts).to.deep.equal({ failing: [1, 1], retried: [1, 1] });
    });
  }

  it("keeps the order of tracked and untracked commands", async () => {
    const [sender, target] = await Promise.all([join({ transport: "amqp" }), join()]);
    const seen: unknown[] = [];
    target.handle("set", ({ body }) => void seen.push(body));
    const numbers = Array.from({ length: 200 }, (_, n) => n);
    const to = { component: target.id };
    await Promise.all(
      numbers.map((n) =>
        n % 2 === 0 ? sender.command(to, "set", n, { tracked: true }) : sender.command(to, "set", n),
      ),
    );
    await eventually(() => expect(seen).to.have.length(200));
    expect(seen).to.deep.equal(numbers);
  });

  it("gathers from all of a type, with the list of who is missing", async () => {
    const type = unique("t");
    const [asker, one, two, silent] = await Promise.all([
      join(),
      join({ type }),
      join({ type, transport: "http" }),
      join({ type }),
    ]);
    one.handle("figure", () => 1);
    two.handle("figure", () => 2);
    let release = (_value: unknown) => {};
    silent.handle("figure", () => {
      return new Promise((resolve) => {
        release = resolve;
      });
    });
    const { replies, missing } = await asker.gather({ type }, "figure", undefined, { timeoutMs: 2_000 });
    expect(replies).to.have.deep.members([
      { from: one.id, body: 1 },
      { from: two.id, body: 2 },
    ]);
    expect(missing).to.deep.equal([silent.id]);
    release("too late");
  });

  it("gives each its configuration when a layer changes, by signal and by stream", async () => {
    const type = unique("t");
    const components = await Promise.all([join({ type }), join({ type, transport: "http" })]);
    const layer = (settings: object) => coordinator.call("PUT", `/v1/config/layers/type:${type}`, { settings });
    await layer({ n: 1 });
    for (const component of components) {
      await eventually(() => expect(component.config.current).to.deep.equal({ n: 1 }));
    }
    await eventually(async () => {
      const { body } = await coordinator.call("GET", `/v1/config/status?type=${type}`);
      expect(body).to.include({ total: 2, applied: 2, rejected: 0, pending: 0 });
    });
  });

  it("reports what a component rejects, with its reason", async () => {
    const type = unique("t");
    const component = await join({ type });
    await component.config.onChange((settings) => {
      if ("bad" in settings) throw new Error("I cannot do that");
    });
    await coordinator.call("PUT", `/v1/config/layers/type:${type}`, { settings: { bad: true } });
    await eventually(async () => {
      const { body } = await coordinator.call("GET", `/v1/config/status?type=${type}`);
      expect(body.components[0]).to.include({ status: "rejected", reason: "I cannot do that" });
    });
    expect(component.config.current).to.deep.equal({});
  });

  it("knows who is there, and who went", async () => {
    const type = unique("t");
    const [observer, one] = await Promise.all([join(), join({ type, tags: ["a"] }), join({ type, tags: ["b"] })]);
    const ids = async (query: object) => (await observer.discover(query)).map(({ id }) => id);
    expect(await ids({ type })).to.have.lengthOf(2);
    expect(await ids({ type, tags: ["a"] })).to.deep.equal([one.id]);
    await one.close();
    await eventually(async () => expect(await ids({ type })).to.have.lengthOf(1));
    await eventually(async () => expect(await ids({ type, tags: ["a"] })).to.deep.equal([]));
  });

  it("tells the older of two processes under one id, which ends", async () => {
    const id = unique("c");
    const older = await join({ id, ttlMs: 1_000 });
    const states: string[] = [];
    older.onState((state) => void states.push(state));
    const newer = await join({ id, ttlMs: 1_000 });
    newer.handle("who", () => "newer");
    await eventually(() => expect(states).to.deep.equal(["superseded", "closed"]));
    const asker = await join();
    expect(await asker.request({ component: id }, "who")).to.equal("newer");
    expect(newer.state).to.equal("online");
  });

  it("stays a member as long as it lives, by messages", async () => {
    const component = await join({ ttlMs: 1_000 });
    const changes: unknown[] = [];
    const observer = await join();
    observer.watch({ type: "worker" }, ({ kind, component: changed }) => {
      if (changed?.id === component.id) changes.push(kind);
    });
    const startedMs = performance.now();
    await eventually(() => expect(performance.now() - startedMs).to.be.above(3_000), { everyMs: 500 });
    expect(changes).to.deep.equal([]);
  });

  it("gets a queue of its own back that somebody deleted", async () => {
    const type = unique("t");
    const [one, other] = await Promise.all([
      join({ type, transport: "amqp" }),
      join({ type, transport: "amqp", id: unique("c") }),
    ]);
    const heard = new Set<string>();
    for (const member of [one, other]) member.handle("hail", () => void heard.add(member.id));
    await vhost.api("DELETE", `/queues/{vhost}/muster.${one.id}.broadcasts`);
    await eventually(
      async () => {
        await other.command({ type }, "hail");
        expect([...heard]).to.have.members([one.id, other.id]);
      },
      { everyMs: 250, timeoutMs: 10_000 },
    );
  });

  it("retries a command whose queue somebody unbound meanwhile", async () => {
    const [sender, target] = await Promise.all([join(), join({ transport: "amqp" })]);
    const attempts: number[] = [];
    const unbind = `/bindings/{vhost}/e/muster.unicast/q/muster.${target.id}.commands/${target.id}`;
    const handler = async ({ attempt }: Message) => {
      attempts.push(attempt);
      if (attempt > 1) return;
      await vhost.api("DELETE", unbind);
      throw new Error("once");
    };
    target.handle("set", handler, { retryFirstMs: 0 });
    await sender.command({ component: target.id }, "set");
    await eventually(() => expect(attempts).to.deep.equal([1, 2]));
  });

  it("goes on when the coordinator is killed and started again", async function () {
    this.timeout(60_000);
    const [one, two] = await Promise.all([join(), join({ transport: "http" })]);
    one.handle("echo", ({ body }) => body);
    two.handle("echo", ({ body }) => body);
    await eventually(() => expect(one.way).to.equal("amqp"));
    expect(await one.request({ component: one.id }, "echo", 0)).to.equal(0);
    await coordinator.process.kill("SIGKILL");
    // The broker carries what it can meanwhile.
    expect(await one.request({ component: one.id }, "echo", 1)).to.equal(1);
    const port = new URL(coordinator.url).port;
    coordinator = await start("--http-port", port);
    expect(await one.request({ component: two.id }, "echo", 2, { timeoutMs: 20_000 })).to.equal(2);
    expect(await two.request({ component: one.id }, "echo", 3, { timeoutMs: 20_000 })).to.equal(3);
    await eventually(() => expect([one.state, two.state]).to.deep.equal(["online", "online"]));
  });
});
