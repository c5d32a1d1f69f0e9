import { expect } from "chai";
import { deal, needsBroker, planTests, steps, UnknownChoiceError } from "../../scripts/test-plan.ts";

const namesOf = (argv: string[]) => planTests(argv).steps.map(({ name }) => name);

describe("the plan of a test run", () => {
  it("is everything, the quickest to fail first, when nothing is chosen", () => {
    expect(namesOf([])).to.deep.equal(["lint", "types", "generated", "unit", "integration", "faults"]);
  });

  it("is the chosen steps in their usual order", () => {
    expect(namesOf(["faults", "unit"])).to.deep.equal(["unit", "faults"]);
  });

  it("is single files, given as they are", () => {
    const plan = planTests(["test/unit/a.test.ts", "test/faults/b.test.ts"]);
    expect(plan.steps.map(({ tests }) => tests)).to.deep.equal([["test/unit/a.test.ts", "test/faults/b.test.ts"]]);
  });

  it("is all tests, and no tools, when only their titles are chosen", () => {
    expect(namesOf(["--grep", "a lease"])).to.deep.equal(["unit", "integration", "faults"]);
    expect(planTests(["unit", "-g", "a lease"]).grep).to.equal("a lease");
  });

  it("needs a broker unless it is unit tests and tools alone", () => {
    expect(steps.filter(needsBroker).map(({ name }) => name)).to.deep.equal(["integration", "faults"]);
  });

  it("deals files out to the processes of a step, all of them once", () => {
    expect(deal([1, 2, 3, 4, 5], 2)).to.deep.equal([
      [1, 3, 5],
      [2, 4],
    ]);
    expect(deal([1], 2)).to.deep.equal([[1]]);
  });

  for (const argv of [["untit"], ["--grep"], ["--watch"], ["test/unit"]]) {
    it(`refuses ${argv.join(" ")}`, () => {
      expect(() => planTests(argv)).to.throw(UnknownChoiceError);
    });
  }
});
