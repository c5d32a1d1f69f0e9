import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { expect } from "chai";
import { type Component, type ConnectOptions, connect, Payload } from "../../clients/typescript/src/index.ts";
import { type Logger, silent } from "../../clients/typescript/src/logger.ts";
import type { Health } from "../../config-db/generated/types.ts";
import { eventually } from "../support/eventually.ts";
import { expectError } from "../support/expect-error.ts";
import { FakeCoordinator, type FakeRequest, problem } from "../support/fake-coordinator.ts";

describe("the client over HTTP", () => {
  let coordinator: FakeCoordinator;
  let directory: string;
  const open: Component[] = [];

  beforeEach(async () => {
    coordinator = new FakeCoordinator();
    await coordinator.start();
    directory = await mkdtemp(join(tmpdir(), "muster-client-"));
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((component) => component.close()));
    await coordinator.stop();
    await rm(directory, { recursive: true });
  });

  async function join1(options: Partial<ConnectOptions> = {}): Promise<Component> {
    const component = await connect({
      url: coordinator.url,
      id: "one",
      type: "worker",
      cacheDirectory: directory,
      ...options,
    });
    open.push(component);
    return component;
  }

  it("has as much under way at once as one likes, without a warning of a leak", async () => {
    const warnings: Error[] = [];
    const warned = (warning: Error) => warnings.push(warning);
    process.on("warning", warned);
    try {
      const component = await join1();
      const times = Array.from({ length: 20 }, (_, n) => n);
      const isAsked = () => coordinator.seen("POST", "/v1/requests").length === times.length;
      coordinator.override = async ({ path }) => {
        if (path !== "/v1/requests") return undefined;
        await eventually(() => expect(isAsked()).to.equal(true));
        return { status: 200, body: { replies: [], missing: [] } };
      };
      for (const n of times) component.subscribe(`t${n}.#`, () => undefined);
      let begun = 0;
      const handler = async () => {
        begun += 1;
        await eventually(() => expect(begun).to.equal(times.length));
      };
      await Promise.all([
        ...times.map(() => component.config.onChange(handler)),
        ...times.map(() => component.gather({ type: "worker" }, "q")),
      ]);
      expect(warnings).to.deep.equal([]);
    } finally {
      process.off("warning", warned);
    }
  });

  describe("a component's membership", () => {
    it("begins with a registration that tells all that it was given", async () => {
      const component = await join1({ tags: ["x"], endpoints: { api: "http://a" }, version: "1.2", ttlMs: 5_000 });
      const { instance, ...told } = coordinator.seen("PUT", "/one")[0]?.body ?? {};
      expect(told).to.deep.equal({
        type: "worker",
        tags: ["x"],
        endpoints: { api: "http://a" },
        version: "1.2",
        ttlMs: 5_000,
      });
      expect(instance).to.be.a("string");
      expect(component.state).to.equal("online");
      expect(component.way).to.equal("http");
    });

    it("is renewed with its health, for as long as it lasts", async () => {
      coordinator.renewEveryMs = 20;
      await join1({ health: () => ({ status: "warning", reason: "disk" }) });
      await eventually(() => expect(coordinator.seen("PUT", "/lease").length).to.be.at.least(3));
      expect(coordinator.seen("PUT", "/lease")[0]?.body).to.deep.equal({
        incarnation: 1,
        health: { status: "warning", reason: "disk" },
      });
    });

    it("ends when it closes, although a handler of its configuration hangs", async () => {
      const component = await join1();
      let isHung = false;
      const hang = () => {
        isHung = true;
        return new Promise<void>(() => undefined);
      };
      await component.config.onChange((_settings, { etag }) => (etag === "e2" ? hang() : undefined), {
        timeoutMs: 500,
      });
      coordinator.configure("e2", { samplingIntervalMs: 5 });
      await eventually(() => expect(isHung).to.equal(true));
      await component.close();
      expect(component.state).to.equal("closed");
      expect(coordinator.seen("DELETE", "/one")).to.have.lengthOf(1);
    });

    it("is failing, and lasts, when its health cannot be had", async () => {
      coordinator.renewEveryMs = 20;
      const answers: unknown[] = [{}, null, { status: "warning", reason: "x".repeat(2_000) }];
      const health = () => {
        if (answers.length === 0) throw Object.assign(new Error(), { message: { disk: "gone" } });
        return answers.shift() as Health;
      };
      await join1({ health });
      await eventually(() => expect(coordinator.seen("PUT", "/lease").length).to.be.at.least(4));
      const told = coordinator.seen("PUT", "/lease").map(({ body }) => body.health);
      expect(told[0]).to.deep.equal({
        status: "failing",
        reason: "health() must give a status of passing, warning, failing",
      });
      expect(told[1]).to.include({ status: "failing" });
      expect(told[2]).to.deep.equal({ status: "warning", reason: "x".repeat(1_000) });
      expect(told[3]).to.deep.equal({ status: "failing", reason: "{ disk: 'gone' }" });
    });

    it("outlives listeners to its state that throw or reject", async () => {
      coordinator.renewEveryMs = 20;
      const errors: unknown[] = [];
      const logger: Logger = { ...silent, error: (details) => void errors.push((details as { error: unknown }).error) };
      const component = await join1({ logger });
      component.onState(() => {
        throw "thrown";
      });
      component.onState((() => Promise.reject("rejected")) as () => void);
      await coordinator.stop();
      await eventually(() => expect(component.state).to.equal("offline"));
      await coordinator.start();
      await eventually(() => expect(component.state).to.equal("online"));
      expect(errors).to.deep.equal(["thrown", "rejected", "thrown", "rejected"]);
    });

    it("begins again by itself when the lease was lost", async () => {
      coordinator.renewEveryMs = 20;
      const component = await join1();
      coordinator.registered.clear();
      await eventually(() => expect(coordinator.registered.has("one")).to.equal(true));
      expect(component.state).to.equal("online");
    });

    it("is offline while no coordinator answers, and back when one does", async () => {
      coordinator.renewEveryMs = 20;
      const component = await join1();
      const states: string[] = [];
      component.onState((state) => void states.push(state));
      await coordinator.stop();
      await eventually(() => expect(component.state).to.equal("offline"));
      coordinator.registered.clear();
      await coordinator.start();
      await eventually(() => expect(component.state).to.equal("online"));
      expect(states).to.deep.equal(["offline", "online"]);
      expect(coordinator.registered.has("one")).to.equal(true);
    });

    it("ends when a newer process has the id, which it leaves alone", async () => {
      coordinator.renewEveryMs = 20;
      const component = await join1();
      const states: string[] = [];
      component.onState((state) => void states.push(state));
      coordinator.override = ({ path }) => (path.endsWith("/lease") ? problem(409, "superseded") : undefined);
      await eventually(() => expect(states).to.deep.equal(["superseded", "closed"]));
      expect(coordinator.seen("DELETE", "/one")).to.deep.equal([]);
    });

    it("ends with its close, which may be called twice", async () => {
      const component = await join1();
      await Promise.all([component.close(), component.close()]);
      expect(coordinator.registered.has("one")).to.equal(false);
      expect(coordinator.seen("DELETE", "/one")).to.have.lengthOf(1);
      const error = await component.command({ component: "two" }, "x").catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: "unreachable" });
    });

    it("finds another coordinator of its site when the first is away", async () => {
      const second = new FakeCoordinator();
      await second.start();
      try {
        coordinator.renewEveryMs = 20;
        second.renewEveryMs = 20;
        second.registered.set("one", { incarnation: 1 });
        await join1({ url: [coordinator.url, second.url] });
        await coordinator.stop();
        await eventually(() => expect(second.seen("PUT", "/lease").length).to.be.at.least(2));
      } finally {
        await open.splice(0)[0]?.close();
        await second.stop();
      }
    });
  });

  describe("connect", () => {
    it("tells why it is refused", async () => {
      coordinator.override = () => problem(401, "unauthorized");
      const error = await join1().catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: "unauthorized" });
    });

    it("sends its token", async () => {
      await join1({ token: "secret" });
      expect(coordinator.requests.every(({ headers }) => headers.authorization === "Bearer secret")).to.equal(true);
    });

    it("waits for a coordinator that starts later than it", async () => {
      await coordinator.stop();
      const connecting = join1();
      await coordinator.start();
      expect((await connecting).state).to.equal("online");
    });

    it("gives up when none comes and nothing is known", async () => {
      await coordinator.stop();
      const error = await join1({ connectTimeoutMs: 100 }).catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: "unreachable" });
      expect((error as Error).message).to.contain("ECONNREFUSED");
    });

    it("starts from what is on disk when nothing else is up, and joins when something is", async () => {
      await (await join1()).close();
      await coordinator.stop();
      const component = await join1();
      expect(component.state).to.equal("offline");
      expect(component.config.current).to.deep.equal({ samplingIntervalMs: 1000 });
      coordinator.etag = "e2";
      coordinator.settings = { samplingIntervalMs: 50 };
      await coordinator.start();
      await eventually(() => expect(component.config.current).to.deep.equal({ samplingIntervalMs: 50 }));
      await eventually(() => expect(component.state).to.equal("online"));
    });
  });

  describe("sending", () => {
    const posted = (path: string) => coordinator.seen("POST", path);

    it("posts a command under its id, and repeats it under the same when the answer was lost", async () => {
      const component = await join1();
      let failures = 0;
      coordinator.override = ({ path }) => {
        if (path !== "/v1/commands" || failures === 2) return undefined;
        failures += 1;
        return problem(503, "broker-unavailable");
      };
      const { id } = await component.command({ component: "two" }, "set", { a: 1 }, { deadlineMs: 5_000 });
      expect(posted("/commands").map(({ headers }) => headers["idempotency-key"])).to.deep.equal([id, id, id]);
      const { deadlineMs, ...body } = posted("/commands")[2]?.body ?? {};
      expect(body).to.deep.equal({ to: { component: "two" }, name: "set", from: "one", body: { a: 1 }, track: false });
      expect(deadlineMs).to.be.within(1, 5_000);
    });

    it("keeps the order to one target, and lets others pass", async () => {
      const component = await join1();
      let refusals = 3;
      coordinator.override = ({ path, body }: FakeRequest) => {
        if (path !== "/v1/commands" || body.to.component !== "slow" || refusals === 0) return undefined;
        refusals -= 1;
        return problem(503, "broker-unavailable");
      };
      const order: string[] = [];
      const send = async (to: string, name: string) => {
        await component.command({ component: to }, name);
        order.push(name);
      };
      await Promise.all([send("slow", "s1"), send("slow", "s2"), send("fast", "f1")]);
      expect(order).to.deep.equal(["f1", "s1", "s2"]);
    });

    it("carries bytes as they are", async () => {
      const component = await join1();
      await component.command({ any: "worker" }, "load", new Payload("application/xml", "<a/>"));
      expect(posted("/commands")[0]?.body).to.include({ contentType: "application/xml", bodyBase64: "PGEvPg==" });
    });

    it("sends no body where a payload that says it is JSON is empty", async () => {
      const component = await join1();
      await component.command({ component: "two" }, "load", new Payload("application/x+json", ""));
      expect(posted("/commands")[0]?.body).not.to.have.any.keys("body", "contentType", "bodyBase64");
    });

    it("refuses what is too large before sending it", async () => {
      const component = await join1();
      const error = await component
        .command({ component: "two" }, "load", new Payload("application/octet-stream", Buffer.alloc(1024 * 1024 + 1)))
        .catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: "too-large" });
      expect(posted("/commands")).to.deep.equal([]);
    });

    it("refuses what is no target, and a name that is none, before sending anything", async () => {
      const component = await join1();
      const wrong: unknown[] = [{}, { all: false }, { typ: "x" }, { component: "two", type: "x" }, { component: 5 }];
      wrong.push({ component: "Two" }, { any: undefined }, null, undefined, "two");
      const isRefused = async (sent: Promise<unknown>, got: unknown) => {
        const { message } = await expectError(() => sent, "invalid-request");
        expect(message).to.contain(`got ${inspect(got)}`);
      };
      for (const to of wrong as never[]) {
        await isRefused(component.command(to, "set"), to);
        await isRefused(component.broadcast(to, "set"), to);
        await isRefused(component.request(to, "ask"), to);
        await isRefused(component.gather(to, "ask"), to);
      }
      for (const to of [{ component: "two" }, { any: "worker" }] as never[]) {
        await isRefused(component.broadcast(to, "set"), to);
        await isRefused(component.gather(to, "ask"), to);
      }
      for (const to of [{ type: "worker" }, { all: true }] as never[])
        await isRefused(component.request(to, "ask"), to);
      await isRefused(component.command({ component: "two" }, undefined as never), undefined);
      await isRefused(component.event(undefined as never), undefined);
      expect([...posted("/commands"), ...posted("/requests"), ...posted("/events")]).to.deep.equal([]);
    });

    it("resolves a request with its reply, or with what the bridge says", async () => {
      const component = await join1();
      expect(await component.request({ component: "two" }, "ask", 7)).to.deep.equal({ got: 7 });
      coordinator.override = ({ path }) =>
        path === "/v1/requests" ? problem(502, "handler-failed", "no ink") : undefined;
      const error = await component.request({ component: "two" }, "ask").catch((thrown: unknown) => thrown);
      expect(error).to.include({ code: "handler-failed", message: "no ink" });
    });

    it("gathers replies and the missing", async () => {
      const component = await join1();
      coordinator.override = ({ path }) =>
        path === "/v1/requests"
          ? {
              status: 200,
              body: {
                replies: [
                  { from: "a", body: 1 },
                  { from: "b", error: { code: "handler-failed", detail: "no ink" } },
                ],
                missing: ["c"],
              },
            }
          : undefined;
      expect(await component.gather({ type: "worker" }, "ask", undefined, { timeoutMs: 100 })).to.deep.equal({
        replies: [
          { from: "a", body: 1 },
          { from: "b", error: { code: "handler-failed", detail: "no ink" } },
        ],
        missing: ["c"],
      });
    });

    it("tracks a command to its end", async () => {
      const component = await join1();
      let state = "delivered";
      coordinator.override = ({ method, path, headers }) => {
        if (method !== "GET" || !path.startsWith("/v1/commands/")) return undefined;
        const etag = `"${state}"`;
        if (headers["if-none-match"] === etag) {
          state = "done";
          return { status: 304 };
        }
        return { status: 200, headers: { etag }, body: { targets: { two: { state, at: "now" } } } };
      };
      const command = await component.command({ component: "two" }, "set", 1, { tracked: true });
      expect((await command.state()).targets.two?.state).to.equal("delivered");
      expect((await command.finished()).targets.two?.state).to.equal("done");
    });

    it("subscribes to events by a pattern", async () => {
      const component = await join1();
      const seen: unknown[] = [];
      const stop = component.subscribe("worker.#", ({ name, from, body }) => void seen.push([name, from, body]));
      await eventually(() => expect(coordinator.streamsOf("/events")).to.equal(1));
      coordinator.send("/events", "event", { name: "tick", from: "two", body: 1 });
      await eventually(() => expect(seen).to.deep.equal([["tick", "two", 1]]));
      stop();
      await eventually(() => expect(coordinator.streamsOf("/events")).to.equal(0));
    });

    it("carries the trace of an event on", async () => {
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
      const component = await join1();
      component.subscribe("worker.#", () => component.command({ component: "two" }, "set"));
      await eventually(() => expect(coordinator.streamsOf("/events")).to.equal(1));
      coordinator.send("/events", "event", { name: "tick", from: "two", body: 1, traceparent });
      await eventually(() => expect(posted("/commands")[0]?.headers.traceparent).to.equal(traceparent));
    });

    it("warns of nothing when many posts are under way", async () => {
      const component = await join1();
      const warnings: Error[] = [];
      const onWarning = (warning: Error) => void warnings.push(warning);
      process.on("warning", onWarning);
      let answer = () => {};
      const allUnderWay = new Promise<void>((resolve) => {
        answer = resolve;
      });
      coordinator.override = ({ path }) => {
        if (path !== "/v1/requests") return undefined;
        if (posted("/requests").length === 20) answer();
        return allUnderWay.then(() => ({ status: 200, body: { from: "two" } }));
      };
      await Promise.all(Array.from({ length: 20 }, () => component.request({ component: "two" }, "ask")));
      // Warnings are told in a later turn of the loop.
      await new Promise(setImmediate);
      process.off("warning", onWarning);
      expect(warnings).to.deep.equal([]);
    });

    it("carries the trace of the message in hand on, unless told another", async () => {
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
      const own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
      const component = await join1();
      component.handle("relay", async () => {
        await component.command({ component: "two" }, "set");
        await component.event("relayed", undefined, { traceparent: own });
      });
      coordinator.deliver({ name: "relay", from: "three", traceparent });
      await eventually(() => expect(posted("/ack")).to.have.lengthOf(1));
      expect(posted("/commands")[0]?.headers.traceparent).to.equal(traceparent);
      expect(posted("/events")[0]?.headers.traceparent).to.equal(own);
    });
  });

  describe("a traceparent that is none", () => {
    const wrong = ["own", "", "00-a-b-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y", 5];

    it("is refused where it is given", async () => {
      const component = await join1();
      for (const traceparent of wrong as string[]) {
        for (const send of [
          () => component.command({ component: "two" }, "set", 1, { traceparent }),
          () => component.broadcast({ all: true }, "set", 1, { traceparent }),
          () => component.request({ component: "two" }, "ask", 1, { traceparent }),
          () => component.gather({ all: true }, "ask", 1, { traceparent }),
          () => component.event("told", 1, { traceparent }),
        ]) {
          const { message } = await expectError(send, "invalid-request", /^traceparent must match/);
          expect(message).to.contain(`got ${inspect(traceparent)}`);
        }
      }
      expect(coordinator.requests.filter(({ method }) => method === "POST")).to.deep.equal([]);
    });

    it("is dropped where it arrives", async () => {
      const component = await join1();
      const seen: unknown[] = [];
      component.handle("set", ({ traceparent }) => void seen.push(traceparent));
      for (const traceparent of wrong) coordinator.deliver({ name: "set", traceparent });
      await eventually(() => expect(seen).to.deep.equal(wrong.map(() => undefined)));
    });
  });

  describe("receiving", () => {
    const settled = () =>
      coordinator.requests
        .filter(({ path }) => /\/(ack|nack|reply)$/.test(path))
        .map(({ path, body }) => [path.split("/").at(-1), body]);

    it("acks what a handler has done", async () => {
      const component = await join1();
      const seen: unknown[] = [];
      component.handle("set", ({ body, from }) => void seen.push([from, body]));
      coordinator.deliver({ name: "set", from: "two", body: { a: 1 } });
      await eventually(() => expect(settled()).to.deep.equal([["ack", undefined]]));
      expect(seen).to.deep.equal([["two", { a: 1 }]]);
    });

    it("answers requests, with bytes where the handler gives bytes", async () => {
      const component = await join1();
      component.handle("json", () => ({ ok: true }));
      component.handle("bytes", () => new Payload("image/png", Buffer.from([1, 2])));
      coordinator.deliver({ kind: "request", name: "json" });
      coordinator.deliver({ kind: "request", name: "bytes" });
      await eventually(() =>
        expect(settled()).to.have.deep.members([
          ["reply", { body: { ok: true } }],
          ["reply", { contentType: "image/png", bodyBase64: "AQI=" }],
        ]),
      );
    });

    it("nacks with the reason and the wait before the next attempt", async () => {
      const component = await join1();
      component.handle("fail", () => {
        throw new Error("no ink");
      });
      coordinator.deliver({ name: "fail" });
      await eventually(() => expect(settled()).to.have.lengthOf(1));
      const [[verb, body]] = settled() as [[string, { reason: string; delayMs: number }]];
      expect([verb, body.reason]).to.deep.equal(["nack", "no ink"]);
      expect(body.delayMs).to.be.within(800, 1_200);
    });

    it("says of a request whose handler took too long that it did, and of no other failure", async () => {
      const component = await join1();
      component.handle("hang", () => new Promise(() => undefined), { timeoutMs: 20, retries: 0 });
      component.handle("fail", () => Promise.reject(new Error("no ink")));
      for (const [kind, name] of [
        ["request", "hang"],
        ["request", "fail"],
        ["command", "hang"],
      ] as const) {
        coordinator.deliver({ delivery: `${kind}-${name}`, kind, name });
      }
      const codeOf = (delivery: string) => {
        const [nack] = coordinator.seen("POST", `${delivery}/nack`);
        if (nack === undefined) throw new Error(`${delivery} is not settled`);
        return nack.body.code;
      };
      await eventually(() => {
        expect(codeOf("request-hang")).to.equal("deadline-exceeded");
        expect(codeOf("request-fail")).to.equal(undefined);
        expect(codeOf("command-hang")).to.equal(undefined);
      });
    });

    it("handles a message that comes again once, and acks it again", async () => {
      const component = await join1();
      let runs = 0;
      component.handle("count", () => {
        runs += 1;
      });
      const id = randomUUID();
      coordinator.deliver({ id, name: "count" });
      await eventually(() => expect(settled()).to.have.lengthOf(1));
      coordinator.deliver({ id, name: "count", attempt: 2 });
      await eventually(() => expect(settled()).to.have.lengthOf(2));
      expect(runs).to.equal(1);
    });

    it("takes no more than it can hold, and says how long it may take", async () => {
      const component = await join1({ prefetch: 2 });
      let release = () => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      component.handle("slow", () => released, { timeoutMs: 60_000 });
      for (const n of [1, 2, 3]) coordinator.deliver({ name: "slow", from: `f${n}` });
      await eventually(() => expect(coordinator.inbox).to.have.lengthOf(1));
      release();
      await eventually(() => expect(settled()).to.have.lengthOf(3));
      const polls = coordinator.seen("GET", "/inbox");
      expect(polls[0]?.query.get("max")).to.equal("2");
      expect(Number(polls.at(-1)?.query.get("visibilityMs"))).to.be.above(60_000);
    });

    it("leaves no listener behind when it had no room for a while, and can be stopped then", async () => {
      const warnings: string[] = [];
      const onWarning = ({ name }: Error) => void warnings.push(name);
      process.on("warning", onWarning);
      try {
        const component = await join1({ prefetch: 1 });
        let handled = 0;
        let release = () => {};
        component.handle("set", async ({ body }) => {
          if (body === "last") await new Promise<void>((resolve) => (release = resolve));
          handled += 1;
        });
        for (let count = 0; count < 20; count += 1) coordinator.deliver({ name: "set" });
        coordinator.deliver({ name: "set", body: "last" });
        await eventually(() => expect(handled).to.equal(20));
        await eventually(() => expect(coordinator.inbox).to.deep.equal([]));
        const closed = component.close();
        release();
        await closed;
      } finally {
        process.off("warning", onWarning);
      }
      expect(warnings).to.deep.equal([]);
    });

    it("goes on after the coordinator was away", async () => {
      const component = await join1();
      const seen: string[] = [];
      component.handle("set", ({ id }) => void seen.push(id));
      await coordinator.stop();
      await coordinator.start();
      coordinator.deliver({ id: "after", name: "set" });
      await eventually(() => expect(seen).to.deep.equal(["after"]));
    });

    it("asks another coordinator again for what an answer may have had that did not arrive", async () => {
      const other = new FakeCoordinator();
      await other.start();
      const component = await join1({ url: [coordinator.url, other.url] });
      const seen: unknown[] = [];
      component.handle("set", ({ body }) => void seen.push(body));
      const asked = (at: FakeCoordinator) => at.seen("GET", "/one/inbox").map(({ query }) => query.get("again"));
      coordinator.deliver({ name: "set", body: 1 });
      // The first of a process asks for what one before it had.
      await eventually(() => expect(asked(coordinator)).to.deep.equal(["true", null]));
      await coordinator.stop();
      await eventually(() => expect(asked(other)).to.deep.equal(["true"]));
      other.deliver({ name: "set", body: 2 });
      await eventually(() => expect(asked(other)).to.deep.equal(["true", null]));
      await eventually(() => expect(seen).to.deep.equal([1, 2]));
      await component.close();
      await other.stop();
    });

    it("lets a handler end at its close, and settles it", async () => {
      const component = await join1();
      let release = () => {};
      component.handle(
        "slow",
        () =>
          new Promise<void>((resolve) => {
            release = resolve;
          }),
      );
      coordinator.deliver({ name: "slow" });
      await eventually(() => expect(coordinator.inbox).to.have.lengthOf(0));
      await eventually(() => expect(release.length).to.equal(1));
      const closed = component.close();
      release();
      await closed;
      expect(settled()).to.deep.equal([["ack", undefined]]);
    });
  });
});
