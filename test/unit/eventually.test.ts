import { expect } from "chai";
import { eventually } from "../support/eventually.ts";

describe("eventually", () => {
  it("resolves with what the check returns once it stops throwing", async () => {
    let calls = 0;
    const result = await eventually(
      () => {
        calls += 1;
        expect(calls).to.be.at.least(3);
        return calls;
      },
      { everyMs: 1 },
    );
    expect(result).to.equal(3);
  });

  it("throws the last assertion error when time is up", async () => {
    let calls = 0;
    const failing = eventually(
      () => {
        calls += 1;
        throw new Error(`call ${calls}`);
      },
      { timeoutMs: 30, everyMs: 5 },
    );
    const error = await failing.catch((error: unknown) => error as Error);
    expect(error).to.be.an("error").with.property("message", `call ${calls}`);
    expect(calls).to.be.greaterThan(1);
  });
});
