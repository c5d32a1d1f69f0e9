import { expect } from "chai";
import fc from "fast-check";
import { LeaseJudge } from "../../coordinator/registry/lease-judge.ts";

const options = { stallAfterMs: 300, settleMaxMs: 5_000 };
const tickMs = 50;

function judgeAt(nowMs: number): LeaseJudge {
  const judge = new LeaseJudge(options);
  judge.observe(nowMs);
  return judge;
}

function tickTo(judge: LeaseJudge, fromMs: number, toMs: number): void {
  for (let at = fromMs + tickMs; at <= toMs; at += tickMs) judge.observe(at);
}

describe("the lease judge", () => {
  it("has no time left at the instant of expiry, and all of it before", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 950);
    expect(judge.due()).to.deep.equal([]);
    expect(judge.remainingMs("a", 950)).to.equal(50);
    judge.observe(1_000);
    expect(judge.due()).to.deep.equal(["a"]);
    expect(judge.remainingMs("a", 1_000)).to.equal(0);
  });

  it("counts a lease from the receipt of its last renewal, between ticks too", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 500);
    expect(judge.renew("a", 520)).to.equal(1_000);
    tickTo(judge, 500, 1_500);
    expect(judge.due()).to.deep.equal([]);
    judge.observe(1_520);
    expect(judge.due()).to.deep.equal(["a"]);
  });

  it("lets a renewal that comes before the decision count", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 1_000);
    expect(judge.due()).to.deep.equal(["a"]);
    judge.renew("a", 1_010);
    expect(judge.due()).to.deep.equal([]);
    tickTo(judge, 1_000, 2_050);
    expect(judge.due()).to.deep.equal(["a"]);
  });

  it("goes on saying that a lease is due until it is dropped", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 1_000);
    expect(judge.due()).to.deep.equal(["a"]);
    expect(judge.due()).to.deep.equal(["a"]);
    judge.drop("a");
    expect(judge.due()).to.deep.equal([]);
    expect(judge.renew("a", 1_000)).to.equal(undefined);
  });

  it("lists at most as many as it is asked for", () => {
    const judge = judgeAt(0);
    for (const id of ["a", "b", "c"]) judge.grant(id, 1_000, 0);
    tickTo(judge, 0, 1_000);
    expect(judge.due(2)).to.have.length(2);
    expect(judge.due()).to.have.members(["a", "b", "c"]);
  });

  it("judges a lease that is granted again by its new length, shorter or longer", () => {
    const judge = judgeAt(0);
    judge.grant("shorter", 60_000, 0);
    judge.grant("shorter", 1_000, 0);
    judge.grant("longer", 1_000, 0);
    judge.grant("longer", 2_000, 0);
    tickTo(judge, 0, 1_000);
    expect(judge.due()).to.deep.equal(["shorter"]);
    tickTo(judge, 1_000, 2_000);
    expect(judge.due()).to.have.members(["shorter", "longer"]);
  });

  it("takes nobody for dead when it has been away for an hour", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 900);
    expect(judge.observe(3_600_900)).to.equal(3_600_000);
    expect(judge.due()).to.deep.equal([]);
    tickTo(judge, 3_600_900, 3_605_850);
    judge.renew("a", 3_605_850);
    tickTo(judge, 3_605_850, 3_606_500);
    expect(judge.due()).to.deep.equal([]);
  });

  it("decides nothing that was due before a stall until the backlog is read", () => {
    const judge = judgeAt(0);
    judge.grant("a", 1_000, 0);
    tickTo(judge, 0, 1_000);
    judge.observe(2_000);
    expect(judge.due()).to.deep.equal([]);
    tickTo(judge, 2_000, 3_000);
    expect(judge.due()).to.deep.equal(["a"]);
  });

  it("keeps its calendar in proportion to the leases it holds, whatever comes and goes", () => {
    const judge = judgeAt(0);
    for (let round = 0; round < 20_000; round += 1) {
      judge.grant("a", round % 2 === 0 ? 3_600_000 : 1_000 + round / 100, 0);
      judge.grant(`b${round}`, 3_600_000, 0);
      judge.drop(`b${round}`);
    }
    expect(judge.size).to.equal(1);
    expect(judge.entered).to.be.below(2_000);
  });
});

/**
 * A world of components and one judge, stepped by the tick. Renewals go through a FIFO inbox that is read when the
 * judge's process runs: at once, or, after a stall, slowly enough to take as long as the stall took.
 */
class World {
  nowMs = 0;
  clockOffsetMs = 0;
  judge = judgeAt(0);
  /** Time that the judge is allowed to have lost: absences, settling, and what a jump back hides of one tick. */
  awayMs = 0;
  readonly up = new Map<string, { ttlMs: number; alive: boolean; nextMs: number; heardMs: number; awayThen: number }>();
  readonly inbox: { id: string; readableMs: number }[] = [];
  readonly early: string[] = [];
  readonly late: string[] = [];
  readonly expired: string[] = [];
  /** Until then the backlog of a stall is read. */
  #slowUntilMs = 0;
  /** Until then the judge may stand still. */
  #stillUntilMs = 0;

  get clockMs(): number {
    return this.nowMs + this.clockOffsetMs;
  }

  register(id: string, ttlMs: number): void {
    this.up.set(id, { ttlMs, alive: true, nextMs: this.nowMs + ttlMs / 3, ...this.#heard() });
    this.judge.grant(id, ttlMs, this.clockMs);
  }

  kill(id: string): void {
    const component = this.up.get(id);
    if (component) component.alive = false;
  }

  /** The coordinator starts anew: all who are up get a full TTL. */
  restart(): void {
    this.judge = judgeAt(this.clockMs);
    this.inbox.length = 0;
    this.#slowUntilMs = this.nowMs;
    for (const [id, component] of this.up) {
      this.judge.grant(id, component.ttlMs, this.clockMs);
      Object.assign(component, this.#heard());
    }
  }

  /** The judge's process does not run; the components do, unless the whole machine sleeps. */
  pause(forMs: number, wholeMachine: boolean): void {
    const until = this.nowMs + forMs;
    if (!wholeMachine) for (; this.nowMs < until; this.nowMs += tickMs) this.#componentsSend();
    this.nowMs = until;
    this.#componentsSend();
    const isStall = forMs > options.stallAfterMs;
    if (isStall) {
      this.#slowUntilMs = this.nowMs + Math.min(forMs, options.settleMaxMs) - tickMs;
      for (const message of this.inbox) message.readableMs = this.#slowUntilMs;
      this.#lose(forMs);
    }
    this.#tick();
  }

  jump(byMs: number): void {
    this.clockOffsetMs += byMs;
    // A jump ahead looks like an absence; one of less is time that passes faster; one back may hide an absence.
    if (byMs > options.stallAfterMs - tickMs) this.#lose(byMs);
    else if (byMs < -tickMs) this.#lose(options.settleMaxMs);
    else this.awayMs += tickMs;
    // One clock cannot tell a jump from an absence that it hides: the judge sees the one before the other happens.
    this.run(tickMs);
  }

  #lose(forMs: number): void {
    const settleMs = Math.min(forMs + tickMs, options.settleMaxMs);
    this.awayMs += forMs + settleMs + 2 * tickMs;
    this.#stillUntilMs = Math.max(this.#stillUntilMs + forMs, this.nowMs + settleMs + tickMs);
  }

  /** What is heard while the judge still stands has the rest of that time on top. */
  #heard(): { heardMs: number; awayThen: number } {
    return { heardMs: this.nowMs, awayThen: this.awayMs - Math.max(0, this.#stillUntilMs - this.nowMs) };
  }

  run(forMs: number): void {
    const until = this.nowMs + forMs;
    while (this.nowMs < until) {
      this.nowMs += tickMs;
      this.#componentsSend();
      this.#tick();
    }
  }

  #componentsSend(): void {
    for (const [id, component] of this.up) {
      if (!component.alive || component.nextMs > this.nowMs) continue;
      component.nextMs = this.nowMs + component.ttlMs / 3;
      this.inbox.push({ id, readableMs: Math.max(this.nowMs, this.#slowUntilMs) });
    }
  }

  #tick(): void {
    this.judge.observe(this.clockMs);
    // What is in the sockets is read between the two looks, exactly as judgement.ts does it.
    if (this.judge.due(1).length > 0) this.#read();
    for (const id of this.judge.due()) {
      const component = this.up.get(id);
      if (component?.alive) this.early.push(id);
      else this.expired.push(id);
      this.up.delete(id);
      this.judge.drop(id);
    }
    this.#read();
    for (const [id, { ttlMs, heardMs, awayThen, alive }] of this.up) {
      const allowedMs = ttlMs + 2 * tickMs + (this.awayMs - awayThen);
      if (!alive && this.nowMs - heardMs > allowedMs) this.late.push(`${id}: ${this.nowMs - heardMs} of ${allowedMs}`);
    }
  }

  #read(): void {
    while ((this.inbox[0]?.readableMs ?? Number.POSITIVE_INFINITY) <= this.nowMs) {
      const { id } = this.inbox.shift() as { id: string };
      const component = this.up.get(id);
      if (component === undefined) continue;
      this.judge.renew(id, this.clockMs);
      Object.assign(component, this.#heard());
    }
  }
}

type Step =
  | { do: "run" | "jump"; ms: number }
  | { do: "pause"; ms: number; machine: boolean }
  | { do: "register"; id: string; ttlMs: number }
  | { do: "kill"; id: string }
  | { do: "restart" };

const id = fc.integer({ min: 0, max: 5 }).map((number) => `c${number}`);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant("run" as const), ms: fc.integer({ min: 50, max: 3_000 }) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("register" as const),
      id,
      ttlMs: fc.integer({ min: 1_000, max: 8_000 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("kill" as const), id }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("pause" as const),
      ms: fc.integer({ min: 60, max: 20_000 }),
      machine: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: "restart" as const }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("jump" as const), ms: fc.integer({ min: -86_400_000, max: 86_400_000 }) }),
  },
);

function take(world: World, step: Step): void {
  if (step.do === "run") world.run(step.ms);
  else if (step.do === "jump") world.jump(step.ms);
  else if (step.do === "pause") world.pause(step.ms, step.machine);
  else if (step.do === "register") world.register(step.id, step.ttlMs);
  else if (step.do === "kill") world.kill(step.id);
  else world.restart();
}

describe("the lease judge over random schedules of registrations, deaths, pauses, restarts and clock jumps", () => {
  const schedules = fc.array(step, { minLength: 1, maxLength: 40 });

  it("takes nobody for dead who renews within its TTL", () => {
    fc.assert(
      fc.property(schedules, (steps) => {
        const world = new World();
        for (const step of steps) take(world, step);
        world.run(20_000);
        expect(world.early).to.deep.equal([]);
      }),
      { numRuns: 300 },
    );
  }).timeout(60_000);

  it("takes everybody for dead who is silent for its TTL and the time that the judge was away", () => {
    fc.assert(
      fc.property(schedules, (steps) => {
        const world = new World();
        world.register("silent", 1_000);
        world.kill("silent");
        for (const step of steps) take(world, step);
        world.run(20_000);
        expect(world.late).to.deep.equal([]);
        expect([...world.up.values()].filter(({ alive }) => !alive)).to.deep.equal([]);
        expect(world.expired).to.include("silent");
      }),
      { numRuns: 300 },
    );
  }).timeout(60_000);
});
