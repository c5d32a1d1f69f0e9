/** Runs the cases that every client library is held to: clients/conformance. */
import { readFileSync } from "node:fs";
import type { ConsumeMessage, Options } from "amqplib";
import { expect } from "chai";
import { AmqpDelivery } from "../../clients/typescript/src/amqp-delivery.ts";
import { draftOf, readArrived, routeOf } from "../../clients/typescript/src/amqp-message.ts";
import { publishOptions } from "../../clients/typescript/src/amqp-options.ts";
import type { AmqpSession, PublishFailure } from "../../clients/typescript/src/amqp-session.ts";
import { Dispatcher, type HandlerOptions, PermanentFailure } from "../../clients/typescript/src/dispatcher.ts";
import { silent } from "../../clients/typescript/src/logger.ts";
import { encodeBody, type Message, type Outgoing, Payload } from "../../clients/typescript/src/message.ts";
import { type ConnectOptions, resolveOptions } from "../../clients/typescript/src/options.ts";
import { MusterError } from "../../config-db/errors.ts";
import { eventually } from "../support/eventually.ts";

interface Content {
  body?: unknown;
  text?: string;
  base64?: string;
  /** So many bytes of anything. */
  repeat?: number;
}

interface Published extends Content {
  exchange: string;
  key: string;
  mandatory?: boolean;
  persistent: boolean;
  properties: Record<string, unknown>;
  headers: Record<string, unknown>;
}

interface Delivered extends Content {
  exchange?: string;
  key?: string;
  properties: Record<string, unknown>;
  headers: Record<string, unknown>;
}

const me = { id: "me", type: "mine" };
const nowMs = 1_738_324_800_000;

function cases<Case>(file: string): (Case & { name: string })[] {
  return JSON.parse(readFileSync(new URL(`../../clients/conformance/${file}.json`, import.meta.url), "utf8"));
}

describe("conformance of the client", () => {
  describe("in sending", () => {
    interface Case {
      send: {
        kind: Outgoing["kind"];
        to?: Outgoing["to"];
        name: string;
        deadlineMs?: number;
        hint?: boolean;
      } & Content & {
          contentType?: string;
          traceparent?: string;
        };
      publish: Published;
    }
    for (const { name, send, publish } of cases<Case>("sending")) {
      it(name, () => {
        const { kind, to, deadlineMs, hint, traceparent, contentType, base64, body } = send;
        const given = contentType === undefined ? body : new Payload(contentType, Buffer.from(base64 ?? "", "base64"));
        const isPersistent =
          kind !== "event" && hint !== true && (kind !== "request" || (to !== undefined && "any" in to));
        const outgoing: Outgoing = {
          id: "id-1",
          kind,
          name: send.name,
          ...encodeBody(given),
          persistent: isPersistent,
          ...(to !== undefined && { to }),
          ...(deadlineMs !== undefined && { deadlineAtMs: nowMs + deadlineMs }),
          ...(traceparent !== undefined && { traceparent }),
        };
        const { exchange, key, mandatory } = routeOf(outgoing, me);
        const options = publishOptions(draftOf(outgoing, me.id, mandatory), nowMs);
        expectPublished(record(exchange, key, outgoing.content, options), publish);
      });
    }
  });

  describe("in receiving", () => {
    interface Case {
      message: Delivered;
      taken?: Record<string, unknown> & { base64?: string };
      rejected?: true;
    }
    for (const { name, message, taken, rejected } of cases<Case>("receiving")) {
      it(name, () => {
        const arrived = readArrived(delivered(message));
        if (rejected === true) {
          expect(arrived).to.be.a("string");
          return;
        }
        if (typeof arrived === "string" || taken === undefined) throw new Error(`rejected: ${arrived}`);
        const { base64, ...fields } = taken;
        for (const [field, value] of Object.entries(fields)) {
          expect(arrived.message[field as keyof Message] ?? null, field).to.deep.equal(value);
        }
        if (base64 !== undefined) expect(arrived.message.body).to.deep.equal(Buffer.from(base64, "base64"));
      });
    }
  });

  describe("in answering", () => {
    interface Case {
      message: Delivered;
      handler: { returns?: unknown; throws?: string; hangs?: true; absent?: true };
      publish: Published[];
      settle: "ack" | "reject" | "none";
    }
    for (const { name, message, handler, publish, settle } of cases<Case>("answering")) {
      it(name, async () => {
        const session = new RecordingSession();
        const arrived = readArrived(delivered(message));
        if (typeof arrived === "string") throw new Error(arrived);
        const dispatcher = new Dispatcher(silent);
        // Where nobody handles it that is known after the time of grace, which is not waited for here.
        if (handler.absent === true) dispatcher.start(0);
        else dispatcher.handle(arrived.message.name, act(handler), optionsOf(handler));
        dispatcher.deliver(new AmqpDelivery(session as unknown as AmqpSession, delivered(message), arrived, me));
        await eventually(() => expect(session.settled).to.deep.equal([settle]));
        const published = session.published.filter(({ headers }, index) => isExpected(headers, publish[index]));
        expect(published).to.have.lengthOf(publish.length);
        for (const [index, expected] of publish.entries()) {
          expectPublished(published[index] as Recorded, expected);
        }
        await dispatcher.drain(0);
      });
    }

    function act({ returns, throws, hangs }: Case["handler"]): () => unknown {
      return () => {
        if (throws !== undefined) throw new Error(throws);
        return hangs === true ? new Promise(() => undefined) : returns;
      };
    }

    function optionsOf({ hangs }: Case["handler"]): HandlerOptions {
      return hangs === true ? { timeoutMs: 10 } : {};
    }

    /** A case that is about the end leaves out that its sender hears of the beginning. */
    function isExpected(told: Record<string, unknown>, expected: Published | undefined): boolean {
      return told["muster-kind"] !== "outcome" || expected?.headers["muster-kind"] === "outcome";
    }
  });

  describe("in retrying", () => {
    interface Case {
      kind: Message["kind"];
      attempt: number;
      permanent?: true;
      waitMs: [number, number] | null;
    }
    for (const { name, kind, attempt, permanent, waitMs } of cases<Case>("retrying")) {
      it(name, async () => {
        const dispatcher = new Dispatcher(silent);
        dispatcher.handle("set", () => {
          throw permanent === true ? new PermanentFailure("never") : new Error("now");
        });
        const properties = { messageId: "id-1", type: "set", replyTo: "coordinator:a:b" };
        const headers = { "muster-kind": kind, "muster-attempt": attempt };
        const arrived = readArrived(delivered({ properties, headers, text: "1" }));
        if (typeof arrived === "string") throw new Error(arrived);
        const waits: (number | undefined)[] = [];
        dispatcher.deliver({
          message: arrived.message,
          started: () => undefined,
          drop: () => undefined,
          settle: async (result) => void waits.push(result.state === "failed" ? result.retryInMs : -1),
        });
        await eventually(() => expect(waits).to.have.lengthOf(1));
        if (waitMs === null) expect(waits[0]).to.equal(undefined);
        else expect(waits[0]).to.be.within(...waitMs);
        await dispatcher.drain(0);
      });
    }
  });

  describe("in registering", () => {
    interface Case {
      options: ConnectOptions;
      registration?: object;
      error?: string;
    }
    for (const { name, options, registration, error } of cases<Case>("registering")) {
      it(name, () => {
        const resolve = () => resolveOptions(options, {}).registration;
        if (error === undefined) expect(resolve()).to.deep.equal(registration);
        else expect(resolve).to.throw(MusterError).with.property("code", error);
      });
    }
  });
});

interface Recorded {
  exchange: string;
  key: string;
  content: Buffer;
  options: Record<string, unknown>;
  headers: Record<string, unknown>;
}

/** A copy: the options are the same object for every message. */
function record(
  exchange: string,
  key: string,
  content: Buffer,
  { headers = {}, ...options }: Options.Publish,
): Recorded {
  return { exchange, key, content, options: { ...options }, headers: { ...(headers as Record<string, unknown>) } };
}

function expectPublished(published: Recorded, expected: Published): void {
  const { exchange, key, content, options, headers } = published;
  expect([exchange, key]).to.deep.equal([expected.exchange, expected.key]);
  expect(options.deliveryMode).to.equal(expected.persistent ? 2 : 1);
  if (expected.mandatory !== undefined) expect(options.mandatory ?? false, "mandatory").to.equal(expected.mandatory);
  expectFields(options, expected.properties);
  expectFields(headers, expected.headers);
  if (expected.text !== undefined) expect(content.toString()).to.equal(expected.text);
  if (expected.base64 !== undefined) expect(content.toString("base64")).to.equal(expected.base64);
  if (expected.body !== undefined)
    expectFields(JSON.parse(content.toString()), expected.body as Record<string, unknown>);
}

function expectFields(actual: Record<string, unknown>, expected: Record<string, unknown>): void {
  if (typeof expected !== "object" || expected === null) {
    expect(actual).to.deep.equal(expected);
    return;
  }
  for (const [name, value] of Object.entries(expected)) {
    if (value === null) expect(actual[name] ?? null, name).to.equal(null);
    else if ((value as { any?: true }).any === true) expect(actual[name], name).not.to.equal(undefined);
    else expect(actual[name], name).to.deep.equal(value);
  }
}

function delivered({
  exchange = "muster.unicast",
  key = "me",
  properties,
  headers,
  ...content
}: Delivered): ConsumeMessage {
  return {
    content: bytesOf(content),
    fields: { exchange, routingKey: key, consumerTag: "muster.me.commands", deliveryTag: 1, redelivered: false },
    properties: { ...properties, headers },
  } as unknown as ConsumeMessage;
}

function bytesOf({ body, text, base64, repeat }: Content): Buffer {
  if (repeat !== undefined) return Buffer.alloc(repeat, "x");
  if (base64 !== undefined) return Buffer.from(base64, "base64");
  return Buffer.from(text ?? JSON.stringify(body));
}

/** The session of a broker that takes everything at once. */
class RecordingSession {
  readonly published: Recorded[] = [];
  readonly settled: string[] = [];

  publish(
    exchange: string,
    key: string,
    content: Buffer,
    options: Options.Publish,
    settled: (f?: PublishFailure) => void,
  ) {
    this.published.push(record(exchange, key, content, options));
    settled();
  }

  publishUnconfirmed(exchange: string, key: string, content: Buffer, options: Options.Publish): undefined {
    this.published.push(record(exchange, key, content, options));
  }

  async confirmed(exchange: string, key: string, content: Buffer, options: Options.Publish): Promise<void> {
    this.published.push(record(exchange, key, content, options));
  }

  ack(): void {
    this.settled.push("ack");
  }

  ackSoon(): void {
    this.settled.push("ack");
  }

  reject(): void {
    this.settled.push("reject");
  }

  async hold(): Promise<void> {}
}
