import { expect } from "chai";
import fc from "fast-check";
import { isMusterError } from "../../config-db/errors.ts";
import type { CommandDocument, OutcomeMessage } from "../../config-db/generated/types.ts";
import { queues } from "../../config-db/names.ts";
import { afterFailure, defaultRetryPolicy } from "../../coordinator/messaging/after-failure.ts";
import { backoffMs } from "../../coordinator/messaging/backoff.ts";
import {
  applyOutcome,
  expire,
  hasEnded,
  isSent,
  newCommandRecord,
  requeue,
} from "../../coordinator/messaging/command-record.ts";
import { judgeDead, redriveRoute } from "../../coordinator/messaging/dead-letter.ts";
import type { Member, Members } from "../../coordinator/messaging/members.ts";
import { planRoute } from "../../coordinator/messaging/send.ts";
import { planHints } from "../../coordinator/messaging/signals.ts";
import { bindableTopic, matchesTopic } from "../../coordinator/messaging/topic.ts";
import {
  componentPlan,
  defaultQueueLimits,
  policyAsArguments,
  policyPlans,
  sitePlan,
} from "../../coordinator/messaging/topology.ts";
import { toDrop } from "../../coordinator/messaging/tracking.ts";

const nowMs = Date.parse("2025-01-31T12:00:00.000Z");
const registry = (...given: Partial<Member>[]): Members => {
  const all = given.map(
    (member): Member => ({ id: "c", type: "t", site: "here", state: "up", ttlMs: 1000, ...member }),
  );
  return { get: (id) => all.find((member) => member.id === id), all: () => all };
};

describe("after a failure", () => {
  const options = { random: 0.5, nowMs };

  it("a request is answered, a command retried with growing delays, in the end a dead letter", () => {
    expect(afterFailure({ kind: "request", attempt: 1 }, defaultRetryPolicy, options)).to.deep.equal({
      action: "reply",
    });
    const delays = [1, 2, 3, 4].map((attempt) =>
      afterFailure({ kind: "command", attempt }, defaultRetryPolicy, options),
    );
    expect(delays).to.deep.equal(
      [1, 2, 4, 8].map((seconds, n) => ({ action: "retry", attempt: n + 2, delayMs: seconds * 1000 })),
    );
    expect(afterFailure({ kind: "command", attempt: 5 }, defaultRetryPolicy, options)).to.deep.equal({
      action: "dead-letter",
    });
  });

  it("there is no retry that would come after the deadline", () => {
    const late = { kind: "command", attempt: 1, deadlineAtMs: nowMs + 900 } as const;
    expect(afterFailure(late, defaultRetryPolicy, options)).to.deep.equal({ action: "dead-letter" });
  });

  it("no delay is over the limit, whatever the attempt", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 99 }), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, random) => {
        const after = afterFailure(
          { kind: "command", attempt },
          { attemptsMax: 100, firstMs: 1000, maxMs: 30_000 },
          { random, nowMs },
        );
        expect(after).to.have.property("delayMs").within(800, 36_000);
        expect(backoffMs({ firstMs: 100, maxMs: 3000 }, attempt, random)).to.be.within(50, 3000);
      }),
    );
  });
});

describe("the record of a command", () => {
  const record = (to: CommandDocument["to"], recipients: string[], deadlineAtMs?: number) =>
    newCommandRecord(
      { id: "x", to, name: "n", fingerprint: "f", recipients, ...(deadlineAtMs === undefined ? {} : { deadlineAtMs }) },
      nowMs,
    );
  const outcome = (component: string, state: OutcomeMessage["state"], attempt = 1): OutcomeMessage => ({
    id: "x",
    component,
    state,
    attempt,
    at: new Date(nowMs).toISOString(),
  });
  const states = ({ targets }: CommandDocument) =>
    Object.fromEntries(Object.entries(targets).map(([id, { state }]) => [id, state]));

  it("comes to the same end in whatever order outcomes arrive, and however often", () => {
    const heard = [outcome("a", "delivered"), outcome("a", "delivered", 2), outcome("a", "done", 2)];
    fc.assert(
      fc.property(fc.shuffledSubarray([...heard, ...heard, ...heard], { minLength: 9 }), (order) => {
        const end = order.reduce(applyOutcome, record({ component: "a" }, ["a"]));
        expect(states(end)).to.deep.equal({ a: "done" });
        expect(hasEnded(end)).to.equal(true);
      }),
    );
  });

  it("never leaves an end for a delivery", () => {
    for (const end of ["done", "failed", "expired", "dead-lettered"] as const) {
      const ended = applyOutcome(record({ component: "a" }, ["a"]), outcome("a", end));
      expect(states(applyOutcome(ended, outcome("a", "delivered", 9)))).to.deep.equal({ a: end });
    }
  });

  it("takes done for true even after it was given up", () => {
    const given = applyOutcome(record({ component: "a" }, ["a"]), outcome("a", "expired"));
    expect(states(applyOutcome(given, outcome("a", "done")))).to.deep.equal({ a: "done" });
  });

  it("ignores those that it was not sent to", () => {
    const sent = record({ component: "a" }, ["a"]);
    expect(applyOutcome(sent, outcome("b", "done"))).to.equal(sent);
  });

  it("of a command for any of a type is with one component, the last that had it", () => {
    const first = applyOutcome(record({ any: "t" }, ["a", "b"]), outcome("a", "delivered"));
    expect(states(first)).to.deep.equal({ a: "delivered" });
    const second = applyOutcome(first, outcome("b", "done"));
    expect(states(second)).to.deep.equal({ b: "done" });
  });

  it("expires what waits, not what began", () => {
    const sent = applyOutcome(record({ type: "t" }, ["a", "b"], nowMs + 10), outcome("a", "delivered"));
    expect(expire(sent, nowMs + 9)).to.equal(sent);
    expect(states(expire(sent, nowMs + 10))).to.deep.equal({ a: "delivered", b: "expired" });
  });

  it("takes no end of what was sent again since, before and after that is delivered", () => {
    const late = { ...outcome("a", "failed"), redriven: 0 };
    const again = requeue(applyOutcome(record({ component: "a" }, ["a"]), outcome("a", "delivered")), "a", 1, nowMs);
    expect(applyOutcome(again, late)).to.equal(again);
    const delivered = applyOutcome(again, outcome("a", "delivered"));
    expect(states(delivered)).to.deep.equal({ a: "delivered" });
    expect(applyOutcome(delivered, late)).to.equal(delivered);
    expect(states(applyOutcome(delivered, { ...late, redriven: 1 }))).to.deep.equal({ a: "failed" });
    expect(states(applyOutcome(again, outcome("a", "failed"))), "of who does not say").to.deep.equal({ a: "failed" });
  });

  it("waits again after a redrive, unless it was done after all", () => {
    const failed = applyOutcome(record({ component: "a" }, ["a"]), outcome("a", "failed"));
    expect(states(requeue(failed, "a", 1, nowMs))).to.deep.equal({ a: "queued" });
    const done = applyOutcome(failed, outcome("a", "done"));
    expect(requeue(done, "a", 1, nowMs)).to.equal(done);
    const late = requeue({ ...failed, deadlineAt: new Date(nowMs).toISOString() }, "a", 1, nowMs);
    expect(states(expire(late, nowMs + 1)), "sent again without its deadline").to.deep.equal({ a: "queued" });
    expect(isSent(late)).to.equal(true);
  });
});

describe("a dead letter", () => {
  const dead = (headers: Record<string, unknown>, properties: Record<string, unknown> = {}) =>
    judgeDead(
      {
        content: Buffer.from("{}"),
        properties: {
          messageId: "m",
          type: "x",
          ...properties,
          headers: { "muster-kind": "command", ...headers },
        } as never,
      },
      nowMs,
    );
  const died = (reason: string, queue = "muster.a.b.commands") => ({
    "x-death": [{ reason, queue, time: { "!": "timestamp", value: 1 } }],
  });

  it("names whose queue it died in, ids with dots too", () => {
    expect(dead(died("rejected")).to).to.equal("a.b");
    expect(dead(died("rejected", "muster.any.t")).to).to.equal("any:t");
  });

  it("has the consumer's reason before the broker's", () => {
    expect(dead({ ...died("rejected"), "muster-reason": "disk full", "muster-to": "c" })).to.include({
      to: "c",
      state: "failed",
      reason: "disk full",
    });
  });

  it("is expired when its deadline passed, whatever the broker says", () => {
    expect(dead({ ...died("rejected"), "muster-deadline": nowMs - 1 }).state).to.equal("expired");
    expect(dead(died("expired")).state).to.equal("expired");
  });

  it("is not kept when nobody will miss it", () => {
    expect(dead({ ...died("expired"), "muster-kind": "signal" }).keep).to.equal(false);
    expect(dead({ ...died("expired"), "muster-kind": "request" }, { replyTo: "commands:here" }).keep).to.equal(false);
    expect(dead({ "muster-kind": "signal", "muster-reason": "its component was removed" }).keep).to.equal(false);
    expect(dead(died("maxlen")).keep).to.equal(true);
    expect(dead({ "muster-kind": "command", "muster-reason": "its component was removed" }).keep).to.equal(true);
  });

  it("goes back to its component, for any of a type to the type, a request nowhere", () => {
    expect(redriveRoute("command", "a")).to.deep.equal({ exchange: "muster.unicast", key: "a" });
    expect(redriveRoute("command", "any:t")).to.deep.equal({ exchange: "muster.any", key: "t" });
    expect(redriveRoute("request", "a")).to.equal(undefined);
  });
});

describe("the route of a message", () => {
  const codeOf = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      return isMusterError(error) ? error.code : error;
    }
    return undefined;
  };

  it("is the target's, with all whom it reaches", () => {
    const members = registry({ id: "a" }, { id: "b", state: "gone" }, { id: "c", type: "u" });
    expect(planRoute({ component: "a" }, "command", members, "here")).to.include({
      exchange: "muster.unicast",
      key: "a",
    });
    expect(planRoute({ component: "a" }, "request", members, "here")).to.include({ exchange: "muster.requests" });
    expect(planRoute({ type: "t" }, "command", members, "here").recipients.map(({ id }) => id)).to.deep.equal([
      "a",
      "b",
    ]);
    expect(planRoute({ all: true }, "command", members, "here").recipients).to.have.length(3);
  });

  it("goes to the site where the target is at home", () => {
    const members = registry({ id: "a", site: "there" }, { id: "b", site: "there", state: "expired" });
    expect(planRoute({ component: "a" }, "command", members, "here").remote).to.equal("there");
    expect(planRoute({ any: "t" }, "command", members, "here")).to.include({ remote: "there", key: "t" });
  });

  it("is none for those that nobody registered", () => {
    for (const to of [{ component: "x" }, { type: "x" }, { any: "x" }, { all: true }] as const)
      expect(
        codeOf(() => planRoute(to, "command", registry(), "here")),
        JSON.stringify(to),
      ).to.equal("no-such-target");
  });
});

describe("hints", () => {
  const many = registry(...Array.from({ length: 6 }, (_, n) => ({ id: `c${n}` })), { id: "other", type: "u" });
  const ids = ["c0", "c1", "c2", "c3", "c4", "c5"];

  it("go once to a type of which all get the same revision", () => {
    expect(planHints([...ids, "other"], () => "r", many, "here")).to.deep.equal([
      { key: "type:t", id: "t", revision: "r" },
      { key: "other", id: "other", revision: "r" },
    ]);
  });

  it("go to each when revisions differ or one of the type is left out", () => {
    expect(planHints(ids, (id) => id, many, "here").map(({ key }) => key)).to.deep.equal(ids);
    expect(planHints(ids.slice(1), () => "r", many, "here").map(({ key }) => key)).to.deep.equal(ids.slice(1));
  });
});

describe("a topic pattern", () => {
  const cases: [string, string, boolean][] = [
    ["#", "a.b.c", true],
    ["#", "", true],
    ["a.*.c", "a.b.c", true],
    ["a.*.c", "a.b.b.c", false],
    ["a.#.c", "a.c", true],
    ["a.#.c", "a.b.b.c", true],
    ["a.#", "b.a", false],
    ["*", "a.b", false],
    ["#.#.#.x", "a.b.c.x", true],
  ];
  for (const [pattern, topic, expected] of cases)
    it(`${pattern} ${expected ? "matches" : "does not match"} "${topic}"`, () => {
      expect(matchesTopic(pattern, topic)).to.equal(expected);
    });

  const bindable: [string, string][] = [
    ["a.*.b.#", "a.*.b.#"],
    ["#.#.#", "#"],
    ["#.*.#.*", "*.*.#"],
    ["a.#.*.b.#.#", "a.*.#.b.#"],
    ["a..#", "a..#"],
  ];
  for (const [pattern, expected] of bindable)
    it(`${pattern} is bound as ${expected}`, () => {
      expect(bindableTopic(pattern)).to.equal(expected);
    });

  it("matches the same as what is bound for it", () => {
    const words = (word: string[]) =>
      fc.array(fc.constantFrom(...word), { minLength: 1, maxLength: 6 }).map((some) => some.join("."));
    fc.assert(
      fc.property(words(["a", "b"]), words(["a", "*", "#"]), words(["a", "b", ""]), (start, middle, topic) => {
        for (const pattern of [middle, `${start}.${middle}`].filter((one) => one.split("#").length <= 3))
          expect(matchesTopic(bindableTopic(pattern), topic)).to.equal(matchesTopic(pattern, topic));
      }),
    );
  });

  it("with more # than the broker can be asked for is refused, with their number and the limit", () => {
    expect(() => bindableTopic("#.a.#.b.*.#.#")).to.throw(/"#.a.#.b.\*.#.#" has 3 .* at most 2/);
  });

  it("of many # takes no time that grows without end", () => {
    const startMs = performance.now();
    matchesTopic(Array(40).fill("#.a").join("."), `${Array(80).fill("a").join(".")}.b`);
    expect(performance.now() - startMs).to.be.below(1_000);
  });
});

describe("of commands that are kept", () => {
  const limits = { retentionMs: 1_000, openRetentionMs: 10_000, commandsMax: 3 };
  const kept = (given: [id: string, ageMs: number, ended: boolean][]) =>
    new Map(given.map(([id, ageMs, ended]) => [id, { sentAtMs: nowMs - ageMs, deadlineAtMs: undefined, ended }]));

  it("those go whose time is over", () => {
    const commands = kept([
      ["ended", 1_000, true],
      ["open", 9_999, false],
      ["old", 10_000, false],
      ["new", 999, true],
    ]);
    expect(toDrop(commands, limits, nowMs)).to.deep.equal(["ended", "old"]);
  });

  it("the oldest ended ones go beyond the limit, in whatever order they were heard of", () => {
    const commands = kept([
      ["b", 2, true],
      ["d", 9, false],
      ["a", 1, true],
      ["e", 5, true],
      ["c", 3, true],
    ]);
    expect(toDrop(commands, limits, nowMs)).to.deep.equal(["e", "c"]);
  });
});

describe("the topology", () => {
  const policies = policyPlans(defaultQueueLimits);
  const policyOf = (queue: string) =>
    policies.filter(({ pattern }) => new RegExp(pattern).test(queue)).map(({ name }) => name);

  it("has exactly one policy for every queue", () => {
    const names = componentPlan({ id: "a.b", type: "t" }).queues.map(({ name }) => name);
    for (const queue of [...names, "muster.dead", "muster.outcomes.here", "muster.leader.here", "muster.renewals"])
      expect(policyOf(queue), queue).to.have.length(1);
  });

  it("gives the queues of types and sites their own policies, whatever they are called", () => {
    for (const name of ["a.commands", "a.requests", "a.replies", "a.broadcasts", "eu.west", "commands"]) {
      expect(policyOf(queues.any(name)), name).to.deep.equal(["muster-commands"]);
      for (const queue of [queues.site(name), queues.leader(name), queues.outcomes(name)])
        expect(policyOf(queue), queue).to.deep.equal(["muster-own"]);
    }
  });

  it("limits the deliveries of every quorum queue itself: RabbitMQ 4 drops a message after 20 else", () => {
    const plans = [sitePlan("here"), componentPlan({ id: "a", type: "t" })];
    for (const { name } of plans.flatMap((plan) => plan.queues).filter(({ type }) => type === "quorum"))
      expect(policyAsArguments(name, policies), name).to.have.property("x-delivery-limit");
  });

  it("binds what commands arrive by last, so that a reachable component is complete", () => {
    expect(componentPlan({ id: "a", type: "t" }).bindings.at(-1)?.exchange).to.equal("muster.unicast");
  });

  it("gives a queue its policy as arguments where policies cannot be had", () => {
    expect(policyAsArguments("muster.a.commands", policies)).to.include({
      "x-dead-letter-exchange": "muster.dead",
      "x-overflow": "reject-publish",
      "x-delivery-limit": 20,
    });
  });
});
