import { createHmac } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "chai";
import { useVhost } from "../support/broker.ts";
import { type CallAnswer, type RunningCoordinator, startCoordinator } from "../support/coordinator.ts";
import { eventually } from "../support/eventually.ts";
import { openStream } from "../support/open-stream.ts";
import { foreignClient, unique } from "./messaging-fixture.ts";

describe("messages over HTTP", function () {
  this.timeout(60_000);
  const vhost = useVhost();
  let bridge: RunningCoordinator;

  before(async () => {
    bridge = await startCoordinator({ amqpUrl: vhost.url, args: ["--amqp-management-url", vhost.managementUrl] });
    await eventually(async () => expect((await post("/v1/events", { name: "hello" })).status).to.equal(202), {
      timeoutMs: 20_000,
    });
  });
  after(() => bridge.close());

  const post = (path: string, body: unknown, headers?: Record<string, string>) =>
    bridge.call("POST", path, body, headers);
  const get = (path: string, headers?: Record<string, string>) => bridge.call("GET", path, undefined, headers);
  const register = async (more: Record<string, unknown> = {}): Promise<{ id: string; type: string }> => {
    const component = { id: unique("c"), type: unique("t") };
    const answer = await bridge.call("PUT", `/v1/components/${component.id}`, { type: component.type, ...more });
    expect(answer.status, JSON.stringify(answer.body)).to.equal(201);
    return component;
  };
  const poll = async (id: string, waitMs = 5_000) =>
    (await get(`/v1/components/${id}/inbox?waitMs=${waitMs}`)).body.messages as Record<string, unknown>[];
  const settle = (id: string, delivery: unknown, verb: string, body?: unknown) =>
    post(`/v1/components/${id}/inbox/${delivery}/${verb}`, body);
  const problem = (answer: CallAnswer) => `${answer.status} ${answer.body?.code}`;

  it("says of every route what a success answers, in JSON or else", async () => {
    type Operation = { responses: Record<string, { content?: object }> };
    const { body } = await bridge.call("GET", "/openapi.json");
    const paths: Record<string, Record<string, Operation>> = body.paths;
    const told = Object.entries(paths).flatMap(([path, operations]) =>
      Object.entries(operations).flatMap(([method, { responses }]) =>
        Object.entries(responses)
          .filter(([status]) => /^20[0123]$/.test(status))
          .map(([, { content = {} }]): [string, string] => [`${method} ${path}`, Object.keys(content).join()]),
      ),
    );
    expect(told.filter(([, media]) => media === "")).to.deep.equal([]);
    expect(Object.fromEntries(told)).to.include({
      "get /v1/dead-letters": "application/json",
      "get /v1/components/{id}/inbox": "application/json,text/event-stream",
      "get /v1/events": "text/event-stream",
      "get /v1/tap": "text/event-stream",
      "get /v1/config/layers/{layer}/content/{file}": "*/*",
      "get /metrics": "text/plain",
    });
  });

  it("carries a command, and shows what became of it to who waits", async () => {
    const { id } = await register();
    const sent = await post("/v1/commands", { to: { component: id }, name: "reload", body: { n: 1 } });
    expect(sent.status).to.equal(202);
    const path = `/v1/commands/${sent.body.id}`;
    const queued = await get(path);
    expect(queued.body.targets[id].state).to.equal("queued");
    const waiting = get(`${path}?waitMs=10000`, { "if-none-match": queued.headers.get("etag") ?? "" });
    const [message] = await poll(id);
    expect(message).to.deep.include({ kind: "command", name: "reload", body: { n: 1 }, attempt: 1 });
    expect((await waiting).body.targets[id].state).to.equal("delivered");
    expect((await settle(id, message?.delivery, "ack")).status).to.equal(204);
    await eventually(async () => expect((await get(path)).body.targets[id].state).to.equal("done"));
  });

  it("tells the sender of a broadcast who does not handle it, and makes no dead letter of it", async () => {
    const { id, type } = await register();
    const sent = await post("/v1/commands", { to: { type }, name: "greet" });
    const [message] = await poll(id);
    const nack = { unhandled: true, reason: 'no handler for "greet"' };
    expect((await settle(id, message?.delivery, "nack", nack)).status).to.equal(204);
    await eventually(async () =>
      expect((await get(`/v1/commands/${sent.body.id}`)).body.targets[id]).to.include({
        state: "failed",
        reason: nack.reason,
      }),
    );
    const { deadLetters } = (await get("/v1/dead-letters")).body;
    expect(deadLetters.filter((letter: { name: string }) => letter.name === "greet")).to.deep.equal([]);
    expect(await poll(id, 0)).to.deep.equal([]);
  });

  it("keeps no record of a command that is not to be tracked", async () => {
    const { id } = await register();
    const sent = await post("/v1/commands", { to: { component: id }, name: "x", track: false });
    expect((await poll(id))[0]?.name).to.equal("x");
    expect(problem(await get(`/v1/commands/${sent.body.id}`))).to.equal("404 not-found");
  });

  it("brings bytes of any type unchanged", async () => {
    const { id } = await register();
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
    const body = { contentType: "application/octet-stream", bodyBase64: bytes.toString("base64") };
    await post("/v1/commands", { to: { component: id }, name: "bytes", ...body });
    const [message] = await poll(id);
    expect(message).to.deep.include(body);
  });

  it("takes a MiB of bytes wherever a body may stand, and no byte more", async () => {
    const { id } = await register();
    const binary = (size: number) => ({
      contentType: "application/octet-stream",
      bodyBase64: Buffer.alloc(size, 255).toString("base64"),
    });
    const full = 2 ** 20;
    const request = { to: { component: id }, name: "big", timeoutMs: 10_000 };
    expect((await post("/v1/commands", { to: { component: id }, name: "big", ...binary(full) })).status).to.equal(202);
    const [command] = await poll(id);
    expect(command).to.include(binary(full));
    await settle(id, command?.delivery, "ack");
    const asked = post("/v1/requests", { ...request, ...binary(full) });
    const [message] = await poll(id);
    expect((await settle(id, message?.delivery, "reply", binary(full))).status).to.equal(204);
    expect((await asked).body).to.include(binary(full));
    const over = await post("/v1/requests", { ...request, ...binary(full + 1) });
    expect(problem(over)).to.equal("413 too-large");
    expect(over.body.detail).to.match(/the body has 1048577 bytes, the limit is 1048576/);
  });

  it("takes an empty body for none, whatever its content type", async () => {
    const { id } = await register();
    const empty = { contentType: "application/json", bodyBase64: "" };
    expect((await post("/v1/commands", { to: { component: id }, name: "x", ...empty })).status).to.equal(202);
    const [command] = await poll(id);
    expect(command).to.include({ name: "x" }).and.not.to.have.any.keys("body", "bodyBase64");
    await settle(id, command?.delivery, "ack");
  });

  it("refuses a content type that is not ASCII wherever one may stand", async () => {
    const { id } = await register();
    const body = { contentType: `text/${"é".repeat(130)}`, bodyBase64: "" };
    const to = { component: id };
    const asked = post("/v1/requests", { to, name: "ask", timeoutMs: 5_000 });
    const [message] = await poll(id);
    for (const refused of [
      await post("/v1/commands", { to, name: "ask", ...body }),
      await post("/v1/requests", { to, name: "ask", timeoutMs: 5_000, ...body }),
      await settle(id, message?.delivery, "reply", body),
    ]) {
      expect(problem(refused)).to.equal("400 invalid-request");
      expect(refused.body.errors[0].pointer).to.equal("/contentType");
    }
    await settle(id, message?.delivery, "ack");
    expect((await asked).status).to.equal(200);
  });

  it("answers a request with its reply", async () => {
    const { id } = await register();
    const asked = post("/v1/requests", { to: { component: id }, name: "sum", body: [1, 2], timeoutMs: 5_000 });
    const [message] = await poll(id);
    expect(message).to.deep.include({ kind: "request", body: [1, 2] });
    await settle(id, message?.delivery, "reply", { body: 3 });
    const answer = await asked;
    expect(answer.status).to.equal(200);
    expect(answer.body).to.deep.equal({ from: id, body: 3 });
  });

  it("says 502 with the reason when the handler failed, 504 when nobody answered", async () => {
    const { id } = await register();
    const asked = post("/v1/requests", { to: { component: id }, name: "sum", timeoutMs: 5_000 });
    const [message] = await poll(id);
    await settle(id, message?.delivery, "nack", { reason: "no numbers" });
    const failed = await asked;
    expect(problem(failed)).to.equal("502 handler-failed");
    expect(failed.body.detail).to.match(/no numbers/);
    const overdue = post("/v1/requests", { to: { component: id }, name: "sum", timeoutMs: 5_000 });
    const [next] = await poll(id);
    const tooLong = { code: "deadline-exceeded", reason: "no answer within 1000 ms" };
    expect((await settle(id, next?.delivery, "nack", tooLong)).status).to.equal(204);
    expect(problem(await overdue)).to.equal("504 deadline-exceeded");
    expect((await overdue).body.detail).to.match(/no answer within 1000 ms/);
    const late = await post("/v1/requests", { to: { component: id }, name: "sum", timeoutMs: 50 });
    expect(problem(late)).to.equal("504 deadline-exceeded");
  });

  it("gathers replies and says who is missing", async () => {
    const one = await register();
    const other = await register({ type: one.type });
    const asked = post("/v1/requests", { to: { type: one.type }, name: "who", timeoutMs: 2_000 });
    const [message] = await poll(one.id);
    await settle(one.id, message?.delivery, "reply", { body: "me" });
    expect((await asked).body).to.deep.equal({ replies: [{ from: one.id, body: "me" }], missing: [other.id] });
  });

  it("streams what becomes of a command, and resumes by Last-Event-ID", async () => {
    const { id } = await register();
    const { body } = await post("/v1/commands", { to: { component: id }, name: "work" });
    const url = `${bridge.url}/v1/commands/${body.id}`;
    const states = (stream: { data(): { targets: Record<string, { state: string }> }[] }) =>
      stream.data().map(({ targets }) => targets[id]?.state);
    const first = await openStream(url);
    const [message] = await poll(id);
    await eventually(() => expect(states(first)).to.deep.equal(["queued", "delivered"]));
    const [last] = [...first.text().matchAll(/^id: (.*)$/gm)].slice(-1).map(([, etag]) => etag ?? "");
    await first.close();
    const resumed = await openStream(url, { "last-event-id": last ?? "" });
    await settle(id, message?.delivery, "ack");
    await eventually(() => expect(states(resumed)).to.include("done"));
    expect(states(resumed)).to.deep.equal(["done"]);
    await resumed.close();
  });

  it("answers a repeated POST as it did the first, and refuses its key for another", async () => {
    const { id } = await register();
    const key = { "idempotency-key": unique("key") };
    const body = { to: { component: id }, name: "once" };
    const first = await post("/v1/commands", body, key);
    const second = await post("/v1/commands", { ...body, deadlineMs: 60_000 }, key);
    expect(second.body, "who repeats it counts its deadline from then").to.deep.equal(first.body);
    expect(await poll(id)).to.have.length(1);
    expect(problem(await post("/v1/commands", { ...body, name: "twice" }, key))).to.equal("422 refused");
  });

  it("has the answer for who repeats a request after its connection broke", async () => {
    const one = await register();
    const other = await register({ type: one.type });
    const key = { "idempotency-key": unique("key") };
    const body = { to: { type: one.type }, name: "who" };
    const broken = new AbortController();
    const first = fetch(`${bridge.url}/v1/requests`, {
      method: "POST",
      headers: { "content-type": "application/json", ...key },
      body: JSON.stringify({ ...body, timeoutMs: 20_000 }),
      signal: broken.signal,
    }).catch((error: Error) => error.name);
    const [asked] = await poll(one.id);
    broken.abort();
    expect(await first).to.equal("AbortError");
    const again = post("/v1/requests", { ...body, timeoutMs: 19_000 }, key);
    await settle(one.id, asked?.delivery, "reply", { body: 1 });
    await settle(other.id, (await poll(other.id))[0]?.delivery, "reply", { body: 2 });
    expect((await again).body.missing).to.deep.equal([]);
  });

  it("takes a long key for the message's id", async () => {
    const { id } = await register();
    const key = "AbCdEfGhIjKlMnOp-1z";
    const sent = await post("/v1/commands", { to: { component: id }, name: "x" }, { "idempotency-key": key });
    expect(sent.body).to.deep.equal({ id: key });
    expect((await get(`/v1/commands/${key}`)).status).to.equal(200);
  });

  it("carries the trace context", async () => {
    const { id } = await register();
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    await post("/v1/commands", { to: { component: id }, name: "x" }, { traceparent });
    expect((await poll(id))[0]?.traceparent).to.equal(traceparent);
  });

  it("matches events and taps messages exactly by any name, and tells the trace of an event", async () => {
    const { id, type } = await register();
    const name = `alarm:1/high.${"x".repeat(110)}`;
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const exactly = (prefix: string) => encodeURIComponent(`${prefix}.${id}.${name}`);
    const events = await openStream(`${bridge.url}/v1/events?match=${exactly(type)}`);
    const tap = await openStream(`${bridge.url}/v1/tap?match=${exactly("command")}`);
    await eventually(async () => {
      expect((await post("/v1/events", { name, from: id, body: 1 }, { traceparent })).status).to.equal(202);
      expect(events.data()[0]).to.deep.include({ topic: `${type}.${id}.${name}`, name, traceparent });
    });
    await eventually(async () => {
      await post("/v1/commands", { to: { component: id }, name });
      expect(tap.data()[0]).to.deep.include({ kind: "command", name });
    });
    await events.close();
    await tap.close();
  });

  it("streams events for a pattern of many # at once, or refuses it where the broker would be held up", async () => {
    const { id } = await register();
    const match = encodeURIComponent(Array(24).fill("#").join("."));
    const events = await openStream(`${bridge.url}/v1/events?match=${match}`);
    const name = Array(40).fill("a").join(".");
    await eventually(async () => {
      expect((await post("/v1/events", { name, from: id })).status).to.equal(202);
      expect(events.data().map((event) => (event as { name: string }).name)).to.include(name);
    });
    await events.close();
    const apart = encodeURIComponent(Array(24).fill("#").join(".a."));
    const answer = await get(`/v1/events?match=${apart}`, { accept: "text/event-stream" });
    expect([answer.status, answer.body.code]).to.deep.equal([400, "invalid-request"]);
    expect(answer.body.detail).to.match(/has 24 "#" .* at most 2/);
  });

  it("streams events and taps messages", async () => {
    const { id, type } = await register();
    const events = await openStream(`${bridge.url}/v1/events?match=${type}.%23`);
    const tap = await openStream(`${bridge.url}/v1/tap?match=command.${id}.%23&body=true`);
    await eventually(async () => {
      await post("/v1/events", { name: "heat", from: id, body: 21 });
      expect(events.text()).to.match(/event: event\n/);
    });
    expect(events.data()[0]).to.deep.include({ topic: `${type}.${id}.heat`, from: id, body: 21 });
    const image = { contentType: "image/png", bodyBase64: "iVBORw0=" };
    expect(await post("/v1/events", { name: "seen", from: id, ...image })).to.include({ status: 202 });
    await eventually(() => expect(events.data().at(-1)).to.deep.include({ topic: `${type}.${id}.seen`, ...image }));
    await eventually(async () => {
      await post("/v1/commands", { to: { component: id }, name: "seen", body: "it" });
      expect(tap.data().length).to.be.greaterThan(0);
    });
    expect(tap.data()[0]).to.deep.include({ kind: "command", name: "seen", body: "it", routingKey: id });
    expect((await poll(id))[0]).to.deep.include({ name: "seen", body: "it" });
    await events.close();
    await tap.close();
  });

  it("refuses what is wrong, each with what would be right", async () => {
    const { id } = await register();
    const big = "x".repeat(1_048_576);
    const nested = Buffer.from("[".repeat(100_000) + "]".repeat(100_000)).toString("base64");
    const cases: [string, unknown, string][] = [
      ["/v1/commands", { to: { component: "nobody" }, name: "x" }, "404 no-such-target"],
      ["/v1/commands", { to: { type: "nobody" }, name: "x" }, "404 no-such-target"],
      ["/v1/commands", { to: { any: "nobody" }, name: "x" }, "404 no-such-target"],
      ["/v1/commands", { to: {}, name: "x" }, "400 invalid-request"],
      ["/v1/commands", { to: { component: id, type: "t" }, name: "x" }, "400 invalid-request"],
      ["/v1/commands", { to: { component: id }, name: "bad name" }, "400 invalid-request"],
      ["/v1/commands", { to: { component: id }, name: "x", deadlineMs: 0 }, "400 invalid-request"],
      ["/v1/commands", { to: { component: id }, name: "x", bodyBase64: "a" }, "400 invalid-request"],
      [
        "/v1/commands",
        { to: { component: id }, name: "x", contentType: "a/b", bodyBase64: "%%%%" },
        "400 invalid-request",
      ],
      ["/v1/commands", { to: { component: id }, name: "x", body: big }, "413 too-large"],
      [
        "/v1/commands",
        { to: { component: id }, name: "x", contentType: "application/json", bodyBase64: nested },
        "400 malformed-json",
      ],
      ["/v1/commands", "{", "400 malformed-json"],
      ["/v1/requests", { to: { component: "nobody" }, name: "x", timeoutMs: 100 }, "404 no-such-target"],
      ["/v1/requests", { to: { component: id }, name: "x", timeoutMs: 99_999_999 }, "400 invalid-request"],
      ["/v1/events", { name: "x", from: "nobody" }, "404 not-registered"],
      ["/v1/events", { name: "no name", from: id }, "400 invalid-request"],
      ["/v1/components/nobody/inbox/d/ack", undefined, "404 no-such-delivery"],
      [`/v1/components/${id}/inbox/d/ack`, undefined, "404 no-such-delivery"],
      ["/v1/dead-letters/none/redrive", undefined, "404 not-found"],
      ["/v1/dead-letters/redrive", { match: { color: "red" } }, "400 invalid-request"],
    ];
    for (const [path, body, expected] of cases)
      expect(problem(await post(path, body)), `POST ${path} ${JSON.stringify(body)?.slice(0, 80)}`).to.equal(expected);
    for (const reserved of ["any", "any.x", "leader.a"])
      expect(problem(await bridge.call("PUT", `/v1/components/${reserved}`, { type: "t" }))).to.equal(
        "400 invalid-request",
      );
    const gets: [string, string][] = [
      ["/v1/components/nobody/inbox", "404 not-registered"],
      [`/v1/components/${id}/inbox?max=0`, "400 invalid-request"],
      [`/v1/components/${id}/inbox?wait=1`, "400 unknown-parameter"],
      ["/v1/commands/none", "404 not-found"],
      ["/v1/commands/%00", "404 not-found"],
      [`/v1/commands/${"x".repeat(5_000)}`, "404 not-found"],
      ["/v1/dead-letters/%00", "404 not-found"],
      [`/v1/dead-letters/${"x".repeat(5_000)}`, "404 not-found"],
      ["/v1/dead-letters?cursor=%EF%BF%BF", "400 invalid-request"],
      ["/v1/events", "400 invalid-request"],
      ["/v1/tap", "400 invalid-request"],
      ["/v1/dead-letters?limit=0", "400 invalid-request"],
    ];
    for (const [path, expected] of gets) expect(problem(await get(path)), `GET ${path}`).to.equal(expected);
    expect((await get("/livez")).status).to.equal(200);
  });

  describe("to a webhook", () => {
    let receiver: Server;
    const received: { body: string; headers: Record<string, unknown> }[] = [];
    let answer: { status: number; body?: string } = { status: 204 };
    before((done) => {
      receiver = createServer((request, response) => {
        let body = "";
        request.on("data", (chunk) => {
          body += chunk;
        });
        request.on("end", () => {
          received.push({ body, headers: request.headers });
          response.writeHead(answer.status, { "content-type": "application/json" }).end(answer.body);
        });
      });
      receiver.listen(0, "127.0.0.1", done);
    });
    after((done) => {
      receiver.close(done);
    });
    beforeEach(() => {
      received.length = 0;
    });
    const secret = "0123456789abcdef";
    const hooked = (port = (receiver.address() as AddressInfo).port) =>
      register({ webhook: { url: `http://127.0.0.1:${port}/hook`, secret } });

    it("posts a command, signed, and takes 2xx for an ack", async () => {
      answer = { status: 204 };
      const { id } = await hooked();
      const sent = await post("/v1/commands", { to: { component: id }, name: "ring", body: 1 });
      await eventually(async () =>
        expect((await get(`/v1/commands/${sent.body.id}`)).body.targets[id].state).to.equal("done"),
      );
      const [{ body, headers } = { body: "", headers: {} }] = received;
      expect(JSON.parse(body)).to.deep.include({ name: "ring", body: 1 });
      const [, seconds, signature] = /^t=(\d+),v1=([0-9a-f]+)$/.exec(String(headers["muster-signature"])) ?? [];
      expect(signature).to.equal(createHmac("sha256", secret).update(`${seconds}.${body}`).digest("hex"));
    });

    it("takes its answer for the reply to a request", async () => {
      answer = { status: 200, body: '{"pong":true}' };
      const { id } = await hooked();
      const reply = await post("/v1/requests", { to: { component: id }, name: "ping", timeoutMs: 10_000 });
      expect(reply.body).to.deep.equal({ from: id, body: { pong: true } });
    });

    it("takes no reply with half of a surrogate pair", async () => {
      answer = { status: 200, body: '{"pong":"\\ud800"}' };
      const { id } = await hooked();
      const reply = await post("/v1/requests", { to: { component: id }, name: "ping", timeoutMs: 10_000 });
      expect([reply.status, reply.body.code]).to.deep.equal([502, "handler-failed"]);
      expect(reply.body.detail).to.match(/surrogate pair/);
    });

    it("is not held up by a trace that is none", async () => {
      answer = { status: 204 };
      const { id } = await hooked();
      const foreign = await foreignClient(vhost.url);
      await post("/v1/commands", { to: { component: id }, name: "first" });
      const headers = { "muster-kind": "command", traceparent: "x\r\ny: z" };
      foreign.channel.publish("muster.unicast", id, Buffer.from("1"), {
        messageId: unique("m"),
        type: "ring",
        headers,
      });
      await eventually(() => expect(received.map(({ body }) => JSON.parse(body).name)).to.include("ring"));
      await foreign.close();
    });

    it("fails a message that cannot be posted, and does not take the endpoint for away", async () => {
      // A URL by its schema, and no port.
      const { id } = await hooked(99_999);
      const reply = await post("/v1/requests", { to: { component: id }, name: "ping", timeoutMs: 10_000 });
      expect(problem(reply)).to.equal("502 handler-failed");
      expect(reply.body.detail).to.match(/Invalid URL/);
    });

    it("fails a request whose answer is no reply", async () => {
      answer = { status: 200, body: "[".repeat(100_000) + "]".repeat(100_000) };
      const { id } = await hooked();
      const reply = await post("/v1/requests", { to: { component: id }, name: "ping", timeoutMs: 10_000 });
      expect(problem(reply)).to.equal("502 handler-failed");
      expect(reply.body.detail).to.match(/deeper than 256/);
    });

    it("tries again while it is away, at no cost to the message", async () => {
      answer = { status: 503 };
      const { id } = await hooked();
      const sent = await post("/v1/commands", { to: { component: id }, name: "ring" });
      await eventually(() => expect(received.length).to.be.greaterThan(1));
      answer = { status: 204 };
      await eventually(async () => {
        const target = (await get(`/v1/commands/${sent.body.id}`)).body.targets[id];
        expect(target).to.include({ state: "done", attempt: 1 });
      });
    });
  });
});
