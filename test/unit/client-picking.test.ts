import { expect } from "chai";
import type { ComponentRecord } from "../../clients/typescript/src/directory.ts";
import {
  afterFailure,
  afterSuccess,
  choose,
  type Experience,
  inexperienced,
} from "../../clients/typescript/src/picking.ts";

describe("picking a component", () => {
  const three = ["c", "a", "b"].map((id) => component(id));

  it("takes turns in an order that does not depend on the list's", () => {
    const picked = [0, 1, 2, 3].map((turn) => pick(three, { turn }));
    expect(picked).to.deep.equal(["a", "b", "c", "a"]);
  });

  it("takes the one with the fewest outstanding", () => {
    const experiences = { a: busy(3), b: busy(1), c: busy(2) };
    expect(pick(three, { strategy: "least-outstanding", experiences })).to.equal("b");
  });

  it("takes turns among those with equally few outstanding", () => {
    const experiences = { a: busy(3) };
    const picked = [1, 2].map((turn) => pick(three, { strategy: "least-outstanding", experiences, turn }));
    expect(picked).to.have.members(["b", "c"]);
  });

  it("skips one that failed, until its time is over", () => {
    const experiences = { a: afterFailure(inexperienced, 1_000) };
    const at = (nowMs: number) => [0, 1, 2].map((turn) => pick(three, { turn, nowMs, experiences }));
    expect(at(1_999)).not.to.include("a");
    expect(at(2_000)).to.include("a");
  });

  it("skips for longer with each failure in a row, up to half a minute", () => {
    let experience: Readonly<Experience> = inexperienced;
    const skips: number[] = [];
    for (let count = 0; count < 7; count += 1) {
      experience = afterFailure(experience, 0);
      skips.push(experience.skipUntilMs);
    }
    expect(skips).to.deep.equal([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    expect(afterSuccess(experience).failuresInARow).to.equal(0);
  });

  it("prefers passing to warning, and never takes a failing one", () => {
    const mixed = [component("a", "warning"), component("b", "failing"), component("c", "passing"), component("d")];
    expect([0, 1, 2, 3].map((turn) => pick(mixed, { turn }))).to.deep.equal(["c", "d", "c", "d"]);
    expect(pick([component("a", "warning")], {})).to.equal("a");
    expect(pick([component("b", "failing")], {})).to.equal(undefined);
  });

  it("takes the one that failed longest ago when all are skipped", () => {
    const experiences = {
      a: afterFailure(inexperienced, 500),
      b: afterFailure(inexperienced, 100),
      c: afterFailure(inexperienced, 300),
    };
    expect(pick(three, { experiences, nowMs: 600 })).to.equal("b");
  });
});

function component(id: string, status?: "passing" | "warning" | "failing"): ComponentRecord {
  const health = status === undefined ? {} : { health: { status } };
  return {
    id,
    type: "t",
    site: "s",
    ttlMs: 1_000,
    state: "up",
    incarnation: 1,
    registeredAt: "",
    changedAt: "",
    ...health,
  };
}

function busy(outstanding: number): Experience {
  return { ...inexperienced, outstanding };
}

function pick(
  candidates: ComponentRecord[],
  {
    strategy = "round-robin" as "round-robin" | "least-outstanding",
    turn = 0,
    nowMs = 0,
    experiences = {} as Record<string, Experience>,
  },
): string | undefined {
  return choose(candidates, (id) => experiences[id] ?? inexperienced, { strategy, turn, nowMs })?.id;
}
