import { setImmediate as turn } from "node:timers/promises";
import { expect } from "chai";
import { AmqpSender } from "../../clients/typescript/src/amqp-sender.ts";
import type { PublishFailure } from "../../clients/typescript/src/amqp-session.ts";
import type { Outgoing } from "../../clients/typescript/src/message.ts";
import type { Sender, Sent } from "../../clients/typescript/src/transport.ts";
import { MusterError } from "../../config-db/errors.ts";

/** A sender whose broker and bridge answer when the test says so. `trace` tells what left, and by which way. */
function senderOf() {
  const trace: string[] = [];
  const published: ((failure?: PublishFailure) => void)[] = [];
  const bridged: ((sent: Sent) => void)[] = [];
  const state = { failsAtOnce: false };
  const session = {
    hasExchange: () => Promise.resolve(true),
    publish: (_: string, __: string, content: Buffer, ___: object, settled: (failure?: PublishFailure) => void) => {
      if (state.failsAtOnce) return settled("lost");
      trace.push(`amqp ${content}`);
      published.push(settled);
    },
  };
  const bridge: Sender = {
    name: "http",
    post: ({ content }, settled) => {
      trace.push(`bridge ${content}`);
      bridged.push(settled);
    },
  };
  const sender = new AmqpSender(session, { id: "me", type: "t" }, bridge);
  const ends: string[] = [];
  const post = (text: string, more: Partial<Outgoing> = {}, isWanted = () => true) => {
    const kind = "command" as const;
    const made = { id: text, kind, to: { component: "c" }, name: "x", contentType: "a/b", persistent: true };
    const outgoing: Outgoing = { ...made, content: Buffer.from(text), ...more };
    sender.post(outgoing, (sent) => ends.push("error" in sent ? `${text} ${sent.error.code}` : text), isWanted);
  };
  return { trace, published, bridged, state, ends, post };
}

describe("the client's sender over AMQP", () => {
  it("publishes one after the other once it is known that the target has a queue, and one alone before", () => {
    const { trace, published, post } = senderOf();
    for (const text of ["1", "2", "3"]) post(text);
    expect(trace).to.deep.equal(["amqp 1"]);
    published.shift()?.();
    expect(trace).to.deep.equal(["amqp 1", "amqp 2", "amqp 3"]);
    post("4");
    expect(trace.at(-1)).to.equal("amqp 4");
  });

  it("sends what came back by the bridge before anything that follows it", () => {
    const { trace, published, bridged, ends, post } = senderOf();
    for (const text of ["1", "2", "3"]) post(text);
    published.shift()?.("returned");
    post("4");
    expect(trace).to.deep.equal(["amqp 1", "bridge 1"]);
    bridged.shift()?.({});
    published.shift()?.();
    expect(trace).to.deep.equal(["amqp 1", "bridge 1", "amqp 2", "amqp 3", "amqp 4"]);
    expect(ends).to.deep.equal(["1", "2"]);
  });

  it("keeps tracked and untracked commands in their order, and does not hold up the tracked among themselves", () => {
    const { trace, published, bridged, post } = senderOf();
    post("1");
    post("2", { tracked: true });
    post("3", { tracked: true });
    post("4");
    expect(trace).to.deep.equal(["amqp 1"]);
    published.shift()?.();
    expect(trace.slice(1)).to.deep.equal(["bridge 2", "bridge 3"]);
    bridged.shift()?.({});
    expect(trace).to.have.length(3);
    bridged.shift()?.({ error: new MusterError("no-such-target", "gone"), isLost: false });
    expect(trace.at(-1)).to.equal("amqp 4");
  });

  it("lets other targets, and events, pass", async () => {
    const { trace, post } = senderOf();
    post("1", { tracked: true });
    post("2");
    post("3", { to: { component: "other" } });
    post("4", { to: { any: "c" } });
    post("5", { to: { type: "c" }, kind: "broadcast" });
    post("6", { to: { all: true }, kind: "broadcast" });
    const { to: _, ...event } = { to: undefined, kind: "event" as const };
    post("7", event);
    await turn();
    expect(trace.sort()).to.deep.equal(["amqp 3", "amqp 4", "amqp 5", "amqp 6", "amqp 7", "bridge 1"]);
  });

  it("begins anew with a target when all that was for it has been taken", () => {
    const { trace, published, post } = senderOf();
    post("1");
    published.shift()?.();
    for (const text of ["2", "3"]) post(text);
    expect(trace).to.deep.equal(["amqp 1", "amqp 2"]);
  });

  it("passes over what nobody waits for any more", () => {
    const { trace, published, ends, post } = senderOf();
    let isWanted = true;
    post("1");
    post("2", {}, () => isWanted);
    post("3");
    isWanted = false;
    published.shift()?.();
    expect(trace).to.deep.equal(["amqp 1", "amqp 3"]);
    expect(ends).to.deep.equal(["1", "2 unreachable"]);
  });

  it("tells thousands that wait when their session ends", () => {
    const { published, state, ends, post } = senderOf();
    for (let count = 0; count < 20_000; count += 1) post(String(count));
    state.failsAtOnce = true;
    published.shift()?.("lost");
    expect(ends).to.have.length(20_000);
    expect(ends.at(-1)).to.equal("19999 unreachable");
  });
});
