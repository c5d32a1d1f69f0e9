import type { Message } from "amqplib";
import { expect } from "chai";
import fc from "fast-check";
import {
  type Envelope,
  isJson,
  type Letter,
  publishOptions,
  readLetter,
  toHttpBody,
} from "../../coordinator/messaging/envelope.ts";

const nowMs = 1_700_000_000_000;
const given = (properties: Record<string, unknown>, content = "{}") =>
  ({ content: Buffer.from(content), properties }) as unknown as Message;
const good = { messageId: "m-1", type: "reload", headers: { "muster-kind": "command" } };
const faultOf = (properties: Record<string, unknown>, content?: string) => {
  const letter = readLetter(given(properties, content));
  return "fault" in letter ? letter.fault : undefined;
};
const read = (properties: Record<string, unknown>, content?: string) => {
  const letter = readLetter(given(properties, content));
  if ("fault" in letter) throw new Error(letter.fault);
  return letter;
};

describe("an envelope", () => {
  it("needs an id, a kind and a name, and nothing else", () => {
    expect(read(good).envelope).to.deep.equal({
      messageId: "m-1",
      kind: "command",
      name: "reload",
      contentType: "application/json",
      attempt: 1,
    });
  });

  it("survives being written and read again", () => {
    const id = fc.stringMatching(/^[a-z0-9][a-z0-9._-]{0,20}$/);
    const envelope = fc.record(
      {
        messageId: fc.stringMatching(/^[A-Za-z0-9_-]{1,128}$/),
        kind: fc.constantFrom("command", "broadcast", "event", "signal"),
        name: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:/-]{0,50}$/),
        from: id,
        correlationId: fc.stringMatching(/^[a-z]{1,20}$/),
        contentType: fc.constantFrom("application/json", "text/plain", "application/octet-stream"),
        contentEncoding: fc.constant("gzip"),
        sentAtMs: fc.integer({ min: 1, max: 2e9 }).map((seconds) => seconds * 1000),
        deadlineAtMs: fc.integer({ min: nowMs + 1, max: nowMs + 1e9 }),
        attempt: fc.integer({ min: 1, max: 100 }),
        redriven: fc.integer({ min: 1, max: 100 }),
        originSite: id,
        traceparent: fc.constant("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        extra: fc.dictionary(
          fc.stringMatching(/^[a-w][a-z]{0,9}$/).filter((name) => name !== "traceparent"),
          fc.oneof(fc.string(), fc.integer(), fc.boolean()),
          { minKeys: 1 },
        ),
      },
      { requiredKeys: ["messageId", "kind", "name", "contentType", "attempt", "sentAtMs"], noNullPrototype: true },
    );
    fc.assert(
      fc.property(envelope, (written) => {
        const options = publishOptions(written as Envelope, nowMs, { persistent: true });
        const { type, ...rest } = options;
        expect(read({ ...rest, type }, "null").envelope).to.deep.equal(written);
      }),
    );
  });

  it("says what is wrong with it, whatever a foreign publisher sends", () => {
    const anything = fc.dictionary(
      fc.constantFrom("messageId", "type", "replyTo", "correlationId", "timestamp", "contentType", "headers"),
      fc.oneof(
        fc.string(),
        fc.integer(),
        fc.constant(null),
        fc.dictionary(
          fc.constantFrom("muster-kind", "muster-from", "muster-deadline", "muster-attempt", "muster-redriven"),
          fc.anything(),
        ),
      ),
    );
    fc.assert(
      fc.property(anything, fc.string(), (properties, content) => {
        const letter = readLetter(given(properties, content));
        expect("fault" in letter ? letter.fault : letter.envelope.messageId)
          .to.be.a("string")
          .and.not.equal("");
      }),
    );
  });

  it("lets a reply go to its own sender or to a coordinator only", () => {
    const from = { "muster-kind": "command", "muster-from": "me" };
    const replyTo = (key: string) => faultOf({ ...good, headers: from, replyTo: key });
    for (const key of ["me", "commands:here", "coordinator:here:ab12"]) expect(replyTo(key), key).to.equal(undefined);
    for (const key of ["you", "amq.gen-1", "muster.you.replies", "coordinator:", "commands:", ""])
      expect(replyTo(key), key).to.match(/replyTo/);
  });

  it("of a request needs a replyTo", () => {
    expect(faultOf({ ...good, headers: { "muster-kind": "request" } })).to.match(/needs replyTo/);
  });

  it("refuses a body that is not JSON though it says so, and takes an empty one", () => {
    expect(faultOf(good, "{")).to.match(/not JSON/);
    expect(faultOf(good, "")).to.equal(undefined);
    expect(faultOf({ ...good, contentType: "text/plain" }, "{")).to.equal(undefined);
  });

  it("refuses a body that nests deeper than JSON.stringify can follow", () => {
    const nested = (levels: number) => "[".repeat(levels) + "]".repeat(levels);
    expect(faultOf(good, nested(256))).to.equal(undefined);
    expect(faultOf(good, nested(257))).to.match(/deeper than 256 levels/);
    expect(faultOf(good, nested(400_000))).to.match(/deeper than 256 levels/);
    let table: Record<string, unknown> = {};
    for (let depth = 0; depth < 20_000; depth += 1) table = { table };
    expect(faultOf({ ...good, headers: { "muster-kind": table } })).to.match(/got a table/);
  });

  it("refuses times that no Date can hold", () => {
    const deadline = (ms: number) => ({ ...good, headers: { ...good.headers, "muster-deadline": ms } });
    expect(faultOf({ ...good, timestamp: 8.64e12 })).to.equal(undefined);
    expect(faultOf(deadline(8.64e15))).to.equal(undefined);
    for (const seconds of [8.64e12 + 1, -1, Number.NaN, Number.POSITIVE_INFINITY])
      expect(faultOf({ ...good, timestamp: seconds }), String(seconds)).to.match(/timestamp must be seconds/);
    for (const ms of [8.64e15 + 1, -1, Number.NaN])
      expect(faultOf(deadline(ms)), String(ms)).to.match(/muster-deadline must be milliseconds/);
  });

  it("carries on only what is a trace", () => {
    const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const traceOf = (traceparent: string) =>
      read({ ...good, headers: { ...good.headers, traceparent } }).envelope.traceparent;
    expect(traceOf(trace)).to.equal(trace);
    for (const other of ["x", `${trace}\r\nx: y`, `${trace}-\u{1F600}`, `${trace}-\n`])
      expect(traceOf(other), JSON.stringify(other)).to.equal(undefined);
  });

  it("has the expiration that is left, and never none for a deadline that has passed", () => {
    const envelope: Envelope = { messageId: "m", kind: "command", name: "x", contentType: "a/b", attempt: 1 };
    const expiration = (deadlineAtMs: number) =>
      publishOptions({ ...envelope, deadlineAtMs }, nowMs, { persistent: true }).expiration;
    expect(expiration(nowMs + 1_500)).to.equal("1500");
    expect(expiration(nowMs)).to.equal("1");
    expect(expiration(nowMs - 5)).to.equal("1");
    // RabbitMQ closes the channel over a longer one.
    expect(expiration(nowMs + 2 ** 32)).to.equal(undefined);
  });
});

describe("a body over HTTP", () => {
  const letter = (contentType: string, content: Buffer): Letter => ({
    envelope: { messageId: "m", kind: "command", name: "x", attempt: 1, contentType },
    content,
  });

  it("is inline when it is JSON, base64 otherwise, and absent when it is empty", () => {
    expect(toHttpBody(letter("application/json", Buffer.from("[1]")))).to.deep.equal({ body: [1] });
    expect(toHttpBody(letter("application/json", Buffer.alloc(0)))).to.deep.equal({});
    expect(toHttpBody(letter("text/plain", Buffer.from("hi")))).to.deep.equal({
      contentType: "text/plain",
      bodyBase64: "aGk=",
    });
  });

  it("is JSON for everything built on it", () => {
    for (const type of [
      "application/json",
      "application/json; charset=utf-8",
      "application/problem+json",
      "APPLICATION/JSON",
    ])
      expect(isJson(type), type).to.equal(true);
    for (const type of ["text/json", "application/jsonl", "application/xml"])
      expect(isJson(type), type).to.equal(false);
  });
});
